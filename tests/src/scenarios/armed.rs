//! Armed hooks: told with what they saw and cost, one set at a time, and nothing of them stays.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::ipvs_stale::Stage;
use crate::{
    bpf, ipvs,
    lab::Lab,
    netns::Pod,
    probe::Probe,
    tcp::{Attempt, sent_again},
    wait::{SOON, until},
};

/// Old connections of two ports, both of a server that is not listed any more.
const PORTS: [u16; 2] = [40000, 40001];
/// The programs of the set for IPVS.
const ARMED: [&str; 4] = ["ipvs_find_kp", "ipvs_find_krp", "ipvs_hook_kp", "ipvs_hook_krp"];
/// Packets that have nothing to do with them.
const UNRELATED: usize = 100;

/// Two symptoms ask for the same set: it is armed for one, then for the other.
pub fn one_at_a_time(lab: &Lab) -> Result<()> {
    lab.needs_stallprobe()?;
    let stage = Stage::with_ports(lab, false, 0, &PORTS)?;
    let probe = lab.probe(&["--events"])?;
    let before = attached()?;
    ipvs::remove(stage.service, stage.old_end)?;

    let attempts = PORTS.map(|port| stage.connect_from(port));
    probe.event("armed", SOON)?;
    let while_armed = attached()?;
    ensure!(while_armed.0 > before.0, "nothing is loaded while armed: {while_armed:?}");
    // To the node itself: kube-proxy's rules refuse other ports of a service's address.
    let [a, b, c, _] = stage.client.v4.octets();
    unrelated(&stage.client, ([a, b, c, 1], 9).into())?;
    sent_again(&stage.client)?;
    until("both sets are let go", SOON, || Ok((steps(&probe, "let-go").len() >= 2).then_some(())))?;
    drop(attempts);

    let order: Vec<String> = all(&probe).iter().filter_map(|e| text(e, "event")).collect();
    ensure!(order == ["armed", "let-go", "armed", "let-go"], "not one after the other: {order:?}");
    for step in steps(&probe, "armed") {
        let (places, took) = (&step["places"], &step["took"]);
        ensure!(places.as_u64() >= Some(4), "odd number of places: {step}");
        crate::cli::say(&format!("armed: {places} places in {took} ns"))?;
    }
    for step in steps(&probe, "let-go") {
        let is = |field: &str, wanted: &str| step[field] == wanted;
        ensure!(is("outcome", "seen") && is("set", "ipvs-verdict"), "odd outcome: {step}");
        let number = |field| number(&step, field);
        let (runs, matched, spent) = (number("runs")?, number("matched")?, number("spent")?);
        ensure!(matched >= 4 && runs >= matched && spent > 0, "odd costs: {step}");
        crate::cli::say(&format!("armed: {runs} runs, {matched} matched, {spent} ns"))?;
    }
    let runs: u64 = steps(&probe, "let-go").iter().filter_map(|s| s["runs"].as_u64()).sum();
    ensure!(runs >= UNRELATED as u64, "{runs} runs, but {UNRELATED} packets went by");
    until("nothing armed is loaded", SOON, || Ok((attached()? == before).then_some(())))
        .with_context(|| format!("before {before:?}, now {:?}", attached()))?;

    probe.cause("ipvs-stale-connection", "client", SOON)?.is("/confidence", "certain")?;
    let summary = probe.stop()?;
    ensure!(summary["seen"]["armed"] == 2, "the summary does not count them: {summary}");
    probe.only(&["ipvs-stale-connection"])
}

/// The module goes while its functions are watched.
pub fn module_unloaded(lab: &Lab) -> Result<()> {
    lab.needs_stallprobe()?;
    let client = lab.pod("client")?;
    let service = ipvs::address(false);
    let _kube_proxy = ipvs::setup(0, 0)?;
    ipvs::service(service, true)?;
    // Without a service the module can go at once.
    crate::command::run("ipvsadm", &["-C"])?;
    let probe = lab.probe(&["--events"])?;
    // Nothing comes to IPVS, so it stays armed.
    crate::command::run(
        "iptables-legacy",
        &["-A", "INPUT", "-p", "tcp", "--dport", "80", "-j", "DROP"],
    )?;
    let attempt = Attempt::start(&client, service)?;
    // The event of it may come late, on a busy machine only after it was let go.
    until("IPVS's set is armed", SOON, || {
        let names = bpf::program_names()?;
        Ok(ARMED.iter().all(|armed| names.iter().any(|name| name == armed)).then_some(()))
    })?;
    // Another dropped SYN would show that it does not come to IPVS.
    drop(attempt);
    crate::command::run("modprobe", &["-r", "ip_vs_rr", "ip_vs"])?;
    probe.event("let-go", SOON)?.is("/outcome", "module-gone")?;
    until("nothing armed is loaded", SOON, || {
        let names = bpf::program_names()?;
        Ok((!names.iter().any(|n| ARMED.contains(&n.as_str()))).then_some(()))
    })?;
    probe.stop()?;
    probe.only(&["unknown"])
}

/// Sends datagrams to a port where nobody listens.
fn unrelated(client: &Pod, to: SocketAddr) -> Result<()> {
    client.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").context("cannot make a UDP socket")?;
        for _ in 0..UNRELATED {
            socket.send_to(b"x", to).with_context(|| format!("cannot send to {to}"))?;
        }
        Ok(())
    })
}

/// How many programs and links there are.
pub fn attached() -> Result<(usize, usize)> {
    Ok((bpf::programs()?.len(), bpf::links()?.len()))
}

/// What was told of armed sets so far.
pub fn all(probe: &Probe) -> Vec<Value> {
    let lines = probe.lines("event").into_iter();
    lines.filter(|e| e["set"].is_string()).collect()
}

pub fn steps(probe: &Probe, name: &str) -> Vec<Value> {
    all(probe).into_iter().filter(|e| e["event"] == name).collect()
}

pub fn text(event: &Value, field: &str) -> Option<String> {
    event[field].as_str().map(str::to_owned)
}

pub fn number(event: &Value, field: &str) -> Result<u64> {
    event[field].as_u64().with_context(|| format!("no {field}: {event}"))
}
