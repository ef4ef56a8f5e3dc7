//! `stallprobe watch`: live findings.

use std::{future::pending, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    filter,
    printer::Printer,
    recording,
    screen::{Screen, reader_gone},
    session::Session,
};
use crate::{
    cli::{Format, Source, Watch},
    correlate,
    live::{self, Live},
    output::filter::Filter,
    pipeline::Pipeline,
    pods,
    recording::recorder::Recorder,
};

/// How often events are fetched.
const TICK: Duration = Duration::from_millis(100);

/// A little more than the watermark stays behind.
const SETTLE: Duration = Duration::from_millis(15);

/// A run: what is watched, what is shown of it, and what is written.
pub struct Plan<'a> {
    pub source: &'a Source,
    pub filter: Filter,
    pub format: Format,
    pub events: bool,
    pub recorder: Option<Recorder>,
    /// Bytes of each packet that are asked of the kernel; 0: no packets.
    pub snaplen: u32,
    /// Without a recording there is nothing to run for.
    pub only_records: bool,
    pub screen: Screen,
}

/// Watches until the duration is over, SIGINT or SIGTERM comes, or nobody reads any more.
///
/// # Errors
/// [`live::NoRung`] when nothing can be watched; else what failed.
pub fn run(args: &Watch) -> Result<()> {
    let root = pods::root(args.source.host_root.as_deref());
    let target = args.record.as_deref();
    follow(Plan {
        source: &args.source,
        filter: filter::of_findings(&args.filter, &root)?,
        format: args.output,
        events: args.events,
        recorder: recording::begin(target, &args.recording)?,
        snaplen: recording::snaplen(target, &args.recording),
        only_records: false,
        screen: recording::screen(target),
    })
}

/// Runs it to its end.
///
/// # Errors
/// As [`run`].
pub fn follow(plan: Plan<'_>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    match runtime.block_on(watch(plan)) {
        Err(err) if reader_gone(&err) => Ok(()),
        result => result,
    }
}

async fn watch(plan: Plan<'_>) -> Result<()> {
    // Before anything is attached: a signal must never find us without a handler.
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let source = plan.source;
    let options = live::Options {
        root: pods::root(source.host_root.as_deref()),
        root_is_given: source.host_root.is_some(),
        min_stall: u64::try_from(source.min_stall.as_nanos()).unwrap_or(u64::MAX),
        rungs: source.rungs.iter().map(|&rung| rung.into()).collect(),
        snaplen: plan.snaplen,
    };
    let (mut live, events) = live::start(&options)?;
    let pipeline = Pipeline::new(correlate::Options {
        min_stall: options.min_stall,
        dns_ports: live::DNS_PORTS.to_vec(),
    });
    let printer = Printer::new(plan.format, plan.events, plan.filter, plan.screen);
    let mut session = Session::new(pipeline, printer, plan.recorder);
    let over = async {
        match source.duration {
            Some(duration) => sleep(duration).await,
            None => pending().await,
        }
    };
    let told = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let run = async {
        for event in events {
            session.push(event)?;
        }
        // The stream's beginning comes out of the order once the watermark has passed it.
        while !session.has_begun() {
            sleep(SETTLE).await;
            pull(&mut live, &mut session)?;
        }
        if let Some(path) = &source.ready_file {
            std::fs::write(path, "").with_context(|| format!("cannot write {}", path.display()))?;
        }
        let mut ticks = interval(TICK);
        // After a pause (a stopped machine) one fetch is enough.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(over, told);
        loop {
            tokio::select! {
                _ = ticks.tick() => pull(&mut live, &mut session)?,
                () = &mut told => break,
                () = &mut over => break,
            }
            if plan.only_records && session.recording_is_over() {
                break;
            }
        }
        for event in live.finish()? {
            session.push(event)?;
        }
        anyhow::Ok(())
    };
    let ran = run.await;
    let ended = session.end(if ran.is_ok() { "the run ended" } else { "the run failed" });
    ran.and(ended)
}

fn pull(live: &mut Live, session: &mut Session) -> Result<()> {
    for event in live.pull()? {
        session.push(event)?;
    }
    live.arm(session.wishes());
    Ok(())
}
