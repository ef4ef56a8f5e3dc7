//! `stallprobe replay`: what the live run said, from its recording.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, bail};

use super::{filter, printer::Printer, recording, screen::reader_gone, session::Session, several};
use crate::{
    cli::Replay,
    correlate,
    pipeline::Pipeline,
    recording::{
        chain::{Chain, Next},
        open::open,
    },
};

/// Replays to the end of the files.
///
/// # Errors
/// When a file cannot be read, is no recording, or is damaged.
pub fn run(args: &Replay) -> Result<()> {
    match replay(args) {
        Err(err) if reader_gone(&err) => Ok(()),
        result => result,
    }
}

fn replay(args: &Replay) -> Result<()> {
    let target = args.record.as_deref();
    let filter = filter::of_recorded_findings(&args.filter);
    let stop = args.follow.then(stop_by_signal).transpose()?;
    let inputs = args.files.iter().map(|path| Ok((path.clone(), open(path, stop.as_ref())?)));
    let mut chains = Chain::all(inputs.collect::<Result<_>>()?)?;
    let recorder = recording::begin(target, &args.recording)?;
    let mut printer = Printer::new(args.output, args.events, filter, recording::screen(target));
    let [chain] = chains.as_mut_slice() else {
        if recorder.is_some() {
            bail!("--record writes the recording of one node; these are {}", chains.len());
        }
        return several::replay(chains, &mut printer);
    };
    let pipeline = Pipeline::new(correlate::Options::default());
    let mut session = Session::new(pipeline, printer, recorder);
    let played = play(chain, &mut session, args.follow);
    let ended = session.end("the replay ended");
    played.and(ended)
}

fn play(chain: &mut Chain, session: &mut Session, follow: bool) -> Result<()> {
    while let Some(next) = chain.next()? {
        match next {
            Next::Event(event) => session.take(&event)?,
            Next::Notice(text) => session.note(&text),
            Next::End(end) => {
                session.was_ordered(end.late, end.early);
                if follow {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// What becomes true with SIGINT or SIGTERM, instead of the end of the process: the summary is still to
/// come.
fn stop_by_signal() -> Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};

    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let signals = runtime.block_on(async {
        anyhow::Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    });
    let (mut interrupt, mut terminate) = signals.context("cannot wait for SIGINT and SIGTERM")?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        told.store(true, Ordering::Relaxed);
    });
    Ok(stop)
}
