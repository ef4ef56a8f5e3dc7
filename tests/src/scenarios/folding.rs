//! One cause in one pod, for longer than it takes to say it again twice: clients come all the time
//! while the listener's queue is full.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::accept_queue::{LISTENER, PORT, queued};
use crate::{
    counters,
    lab::Lab,
    netns::Pod,
    tcp::{self, Attempt},
    time,
    wait::{SOON, until},
};

const CAUSE: &str = "accept-queue-overflow";
/// The least time between two lines about the same finding, but for the one at the end of the run.
const PAUSE: Duration = Duration::from_secs(10);
/// How often the finding is to be said again while clients still come, and what is too many of them.
const UPDATES: usize = 2;
const MOST: u64 = 200;

pub fn run_case(lab: &Lab) -> Result<()> {
    lab.needs_stallprobe()?;
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let to = SocketAddr::new(server.v4.into(), PORT);
    let _listener = tcp::listen(&server, LISTENER, ([0u8; 4], PORT).into(), 1, false)?;
    // Events tell what time it was between the updates.
    let probe = lab.probe(&["--events"])?;

    let _queued = queued(&client, to, 2)?;
    let mut stalls = 0;
    while probe.lines("update").len() < UPDATES {
        ensure!(stalls < MOST, "{stalls} stalls, and fewer than {UPDATES} updates");
        stall(&client, to)?;
        stalls += 1;
    }
    let summary = probe.stop()?;
    probe.only(&[CAUSE])?;

    let said = probe.said();
    let told: Vec<(usize, &Value)> = said
        .iter()
        .enumerate()
        .filter(|(_, l)| l["type"] == "finding" || l["type"] == "update")
        .collect();
    let ids: Vec<&Value> = told.iter().map(|(_, line)| &line["id"]).collect();
    ensure!(ids.iter().all(|id| *id == ids[0]), "more than one finding: {ids:?}");
    let kinds: Vec<&Value> = told.iter().map(|(_, line)| &line["type"]).collect();
    ensure!(kinds.iter().filter(|kind| **kind == "finding").count() == 1, "odd lines: {kinds:?}");
    ensure!(kinds[0] == "finding", "updates before the finding: {kinds:?}");

    let counts: Vec<u64> = told.iter().filter_map(|(_, line)| line["count"].as_u64()).collect();
    ensure!(counts.len() == told.len(), "a line without a count: {counts:?}");
    ensure!(counts[0] == 1 && counts.is_sorted_by(|a, b| a < b), "odd counts: {counts:?}");
    ensure!(counts.last() == Some(&stalls), "{stalls} stalls, told {counts:?}");
    let by_cause = &summary["by_cause"][CAUSE];
    ensure!(*by_cause == stalls, "{stalls} stalls, the summary has {by_cause}");

    let mut gaps = Vec::new();
    for pair in told.windows(2) {
        if let Some(gap) = longest_gap(&said, pair[0].0, pair[1].0)? {
            ensure!(gap >= PAUSE, "said again after {gap:?} at most: {}", pair[1].1);
            gaps.push(gap);
        }
    }
    ensure!(gaps.len() >= UPDATES, "only {} updates before the end of the run", gaps.len());
    crate::cli::say(&format!("folded {stalls} stalls, counts {counts:?}, gaps {gaps:?}"))
}

/// A connect whose SYN is refused and sent again, and that is given up then.
fn stall(client: &Pod, to: SocketAddr) -> Result<()> {
    let before = counters::net(client, "TCPSynRetrans")?;
    let _attempt = Attempt::start(client, to)?;
    until("the SYN is sent again", SOON, || {
        Ok((counters::net(client, "TCPSynRetrans")? > before).then_some(()))
    })
}

/// The most time that may be between two lines without a time of their own: from the event before
/// the first to the event after the second. `None` when no event came after: it is of the end of
/// the run.
fn longest_gap(said: &[Value], first: usize, second: usize) -> Result<Option<Duration>> {
    let is_event = |line: &&Value| line["type"] == "event";
    let before = said[..first].iter().rfind(is_event).context("no event before the finding")?;
    let after = said[second..].iter().find(is_event);
    after.map(|after| time::between(before, after)).transpose()
}
