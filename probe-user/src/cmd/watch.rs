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
    screen::{Screen, reader_gone},
};
use crate::{
    cli::Watch,
    correlate,
    live::{self, Live},
    output::filter::Filter,
    pipeline::Pipeline,
    pods,
};

/// How often events are fetched.
const TICK: Duration = Duration::from_millis(100);

/// A little more than the watermark stays behind.
const SETTLE: Duration = Duration::from_millis(15);

/// Watches until the duration is over, SIGINT or SIGTERM comes, or nobody reads any more.
///
/// # Errors
/// [`live::NoRung`] when nothing can be watched; else what failed.
pub fn run(args: &Watch) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    match runtime.block_on(watch(args)) {
        Err(err) if reader_gone(&err) => Ok(()),
        result => result,
    }
}

async fn watch(args: &Watch) -> Result<()> {
    // Before anything is attached: a signal must never find us without a handler.
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let root = pods::root(args.host_root.as_deref());
    let causes = args.causes.clone();
    let filter = Filter { causes, ..filter::of_pods(&args.filter, &root)? };
    let options = live::Options {
        root: root.clone(),
        root_is_given: args.host_root.is_some(),
        min_stall: u64::try_from(args.min_stall.as_nanos()).unwrap_or(u64::MAX),
        rungs: args.rungs.iter().map(|&rung| rung.into()).collect(),
        snaplen: args.snaplen,
    };
    let (mut live, events) = live::start(&options)?;
    let mut pipeline = Pipeline::new(correlate::Options {
        min_stall: options.min_stall,
        dns_ports: live::DNS_PORTS.to_vec(),
    });
    let mut printer = Printer::new(args, filter, Screen::new());
    for event in events {
        printer.take(&mut pipeline, event)?;
    }
    // The stream's beginning comes out of the order once the watermark has passed it.
    while pipeline.header().hooks.is_empty() {
        sleep(SETTLE).await;
        pull(&mut live, &mut pipeline, &mut printer)?;
    }
    printer.header(&pipeline)?;
    if let Some(path) = &args.ready_file {
        std::fs::write(path, "").with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut ticks = interval(TICK);
    // After a pause (a stopped machine) one fetch is enough.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = async {
        match args.duration {
            Some(duration) => sleep(duration).await,
            None => pending().await,
        }
    };
    tokio::pin!(end);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                pull(&mut live, &mut pipeline, &mut printer)?;
                printer.status(&pipeline)?;
            }
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = &mut end => break,
        }
    }
    for event in live.finish()? {
        printer.take(&mut pipeline, event)?;
    }
    printer.end(&mut pipeline)
}

fn pull(live: &mut Live, pipeline: &mut Pipeline, printer: &mut Printer) -> Result<()> {
    for event in live.pull()? {
        printer.take(pipeline, event)?;
    }
    live.arm(pipeline.wishes());
    Ok(())
}
