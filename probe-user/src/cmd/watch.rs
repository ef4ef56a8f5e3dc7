//! `stallprobe watch`: live findings.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::{cli::Watch, live};

/// How often events are fetched.
const TICK: Duration = Duration::from_millis(100);

pub fn run(args: &Watch) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(watch(args))
}

async fn watch(args: &Watch) -> Result<()> {
    let options = live::Options {
        root: args.host_root.clone(),
        min_stall: u64::try_from(args.min_stall.as_nanos()).unwrap_or(u64::MAX),
    };
    let (mut live, events) = live::start(&options)?;
    for e in events {
        println!("{e:?}");
    }
    if let Some(path) = &args.ready_file {
        std::fs::write(path, "").with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut ticks = tokio::time::interval(TICK);
    let end = tokio::time::sleep(args.duration.unwrap_or(Duration::MAX));
    tokio::pin!(end);
    loop {
        tokio::select! {
            _ = ticks.tick() => for e in live.pull()? { if !matches!(e.body, crate::event::Body::Tick) {println!("{e:?}")} },
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = &mut end => break,
        }
    }
    Ok(())
}
