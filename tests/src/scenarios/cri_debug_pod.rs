//! The image that is given to people, run by containerd: as `kubectl debug node --profile=sysadmin` has it
//! run (the node's processes and network, all rights, the node's root at `/host`), and as the DaemonSet
//! in `deploy/` does (nothing of the node but its files, five capabilities, the runtime's seccomp profile).

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    accept_queue::refuse_syn,
    cri_pods::{PORT, listener},
};
use crate::{
    containerd::{self, STALLPROBE},
    cri::{Container, Kind, Pod, Program},
    in_pod,
    lab::Lab,
    wait::until,
};

/// stallprobe attaches under emulation.
const START: Duration = Duration::from_secs(120);
const STALL: Duration = Duration::from_secs(30);

/// As kubectl names the container and mounts the node's root (`pkg/cmd/debug/profiles.go`).
const DEBUGGER: Program<'_> = Program {
    name: "debugger",
    attempt: 0,
    image: STALLPROBE,
    command: &["/stallprobe", "watch", "-o", "json"],
    mounts: &[("/", "/host")],
};

/// With all rights.
pub fn privileged(lab: &Lab) -> Result<()> {
    names_another_pod(lab, Kind::Debug, |pod| pod.start(&DEBUGGER))
}

/// With the rights of the DaemonSet.
pub fn restricted(lab: &Lab) -> Result<()> {
    let rights = in_pod::capabilities(in_pod::DAEMONSET)?;
    names_another_pod(lab, Kind::Plain, |pod| pod.start_restricted(&DEBUGGER, &rights))
}

fn names_another_pod(
    lab: &Lab,
    kind: Kind,
    start: impl FnOnce(&Pod) -> Result<Container>,
) -> Result<()> {
    lab.needs_stallprobe()?;
    containerd::provide()?;
    let api = Pod::run("shop", "api-7d4f9c-x2x5k", 11, Kind::Plain)?;
    listener(&api, "api", 0, "1")?;
    let debug = Pod::run("default", "node-debugger-node-x1", 13, kind)?;
    let container = start(&debug)?;
    let log = debug.log(&DEBUGGER);
    told(&log, "that it watches", START, |line| line["state"] == "watching")?;

    // It comes after the debug pod, which does not see what is mounted later at /host.
    let web = Pod::run("shop", "web-0", 12, Kind::Plain)?;
    let (client, server) = (web.netns()?, api.netns()?);
    let _connects = refuse_syn(&client, &server, (server.v4, PORT).into())?;

    let finding = told(&log, "an accept-queue overflow of shop/web-0", STALL, |line| {
        line["type"] == "finding" && line["victim"]["pod"] == "shop/web-0"
    })?;
    for (at, wanted) in [
        ("/cause", "accept-queue-overflow"),
        ("/confidence", "certain"),
        ("/culprit/pod", "shop/api-7d4f9c-x2x5k"),
        ("/culprit/process", "api"),
    ] {
        let found = finding.pointer(at);
        ensure!(found.is_some_and(|found| found == wanted), "{at} is not {wanted}: {finding}");
    }
    container.stop()?;
    let summary = told(&log, "its summary", STALL, |line| line["type"] == "summary")?;
    let causes = summary["by_cause"].as_object().context("no causes")?;
    ensure!(causes.keys().eq(["accept-queue-overflow"]), "other causes: {summary}");
    Ok(())
}

/// Waits for a line in a container's log.
fn told(log: &str, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let found = until(&format!("stallprobe tells {what}"), limit, || {
        Ok(lines(log)?.into_iter().find(|line| wanted(line)))
    });
    found.with_context(|| {
        let text = fs::read_to_string(log).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(10).collect();
        format!("its log ends with, last first:\n{}", last.join("\n"))
    })
}

/// What the program wrote to its standard output so far.
fn lines(log: &str) -> Result<Vec<Value>> {
    let text = fs::read_to_string(log).with_context(|| format!("cannot read {log}"))?;
    Ok(written(&text).lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// The output in a log of the CRI: each line with time, stream, and `F`, or `P` when it goes on in the
/// next one (`pkg/kubelet/kuberuntime/logs/logs.go`).
fn written(log: &str) -> String {
    let mut text = String::new();
    for line in log.lines() {
        let mut words = line.splitn(4, ' ').skip(1);
        if let (Some("stdout"), Some(tag), Some(part)) = (words.next(), words.next(), words.next())
        {
            text.push_str(part);
            text.push_str(if tag == "P" { "" } else { "\n" });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_put_together() {
        let log = "2026-11-21T19:00:00Z stdout F {\"a\": 1}\n2026-11-21T19:00:00Z stderr F no\n\
            2026-11-21T19:00:01Z stdout P {\"b\"\n2026-11-21T19:00:01Z stdout F : 2}\n";
        assert_eq!(written(log), "{\"a\": 1}\n{\"b\": 2}\n");
    }
}
