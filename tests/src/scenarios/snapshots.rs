//! The lowest rungs of the ladder: no programs at all (asked for, or because the kernel is locked
//! down), or tracepoints only. Listen queues, counters and IPVS's table are read from `/proc` at the
//! moment of the stall.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    accept_queue::{self, LISTENER, PORT},
    ipvs_stale, syn_queue, table_full,
};
use crate::{
    command::run,
    counters,
    dns::server::{self, Behaviour},
    finding::Finding,
    lab::Lab,
    netns::Pod,
    probe::Probe,
    services,
    tcp::{self, Attempt},
    wait::{SOON, until},
};

/// A stall is judged when its SYN was sent again, and again.
const STALL: Duration = Duration::from_secs(20);
const OTHER_PORT: u16 = 443;

/// What is left out of the ladder.
#[derive(Clone, Copy)]
enum Left {
    /// Everything but snapshots: by argument, or by a kernel that is locked down.
    Snapshot,
    /// Everything but tracepoints and snapshots.
    Tracepoint,
}

/// Whether this kernel refuses programs that read its memory.
pub fn locked_down() -> bool {
    let text = std::fs::read_to_string("/sys/kernel/security/lockdown");
    text.is_ok_and(|text| text.contains("[confidentiality]"))
}

fn on(lab: &Lab, left: Left, scenario: impl Fn(&Lab) -> Result<()>) -> Result<()> {
    match left {
        Left::Snapshot if locked_down() => {}
        Left::Snapshot => lab.with_arguments(&["--rungs", "snapshot"]),
        Left::Tracepoint => lab.with_arguments(&["--rungs", "tracepoint"]),
    }
    scenario(lab)?;
    lab.started().map_or(Ok(()), |probe| check(&probe, left))
}

/// No hook stands on a rung that was left out, and the header says what stands in.
fn check(probe: &Probe, left: Left) -> Result<()> {
    let header = probe.wait_line("the list of hooks", SOON, |line| line["hooks"].is_array())?;
    let hooks = header["hooks"].as_array().context("hooks")?;
    let on = |rung: &str| hooks.iter().filter(|hook| hook["detail"] == rung).count();
    ensure!(on("snapshot") > 0, "no snapshot stands in for a hook\n  {header}");
    ensure!(on("fentry") + on("kprobe") == 0, "a hook stands on a better rung\n  {header}");
    let no_ebpf = header["no_ebpf"].as_str();
    match left {
        Left::Tracepoint => {
            ensure!(no_ebpf.is_none() && on("tracepoint") > 0, "no tracepoint\n  {header}");
        }
        Left::Snapshot => {
            let wanted = if locked_down() { "lockdown" } else { "--rungs" };
            ensure!(no_ebpf.is_some_and(|why| why.contains(wanted)), "no reason\n  {header}");
            ensure!(on("tracepoint") == 0, "a program is attached\n  {header}");
        }
    }
    Ok(())
}

/// Waits until the cause is named, at once or after the stall was told without a name: where only
/// `/proc` is read, a look may come late.
fn named(probe: &Probe, cause: &str, victim: &str) -> Result<Finding> {
    probe.told(&format!("{cause} with victim {victim}"), STALL, |line| {
        line["cause"] == cause && line["victim"]["pod"] == victim
    })
}

pub fn accept_queue(lab: &Lab) -> Result<()> {
    on(lab, Left::Snapshot, |lab| full_queue(lab, false))
}

pub fn accept_queue_v6(lab: &Lab) -> Result<()> {
    on(lab, Left::Snapshot, |lab| full_queue(lab, true))
}

pub fn accept_queue_tracepoint(lab: &Lab) -> Result<()> {
    on(lab, Left::Tracepoint, |lab| full_queue(lab, false))
}

fn full_queue(lab: &Lab, v6: bool) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let to = SocketAddr::new(server.address(v6), PORT);
    let listener = tcp::listen(&server, LISTENER, any(v6), 1, false)?;
    let probe = lab.probe(&[])?;

    let _connects = accept_queue::refuse_syn(&client, &server, to)?;

    named(&probe, "accept-queue-overflow", "client")?
        .is("/symptom", "connect-stall")?
        .is("/confidence", "likely")?
        .is("/culprit/pod", "shop")?
        .is("/details/process", LISTENER)?
        .is("/details/pid", listener.pid())?
        .is("/details/stage", "syn")?
        .is("/details/port", PORT)?
        .is("/details/address", to.ip().to_string())?
        .is("/details/ack_backlog", 2)?
        .is("/details/max_ack_backlog", serde_json::Value::Null)?
        .is("/flow/dst", to.ip().to_string())?
        .filled("/fix")?;
    probe.stop()?;
    probe.only(&["accept-queue-overflow", "unknown"])
}

pub fn table_full(lab: &Lab) -> Result<()> {
    on(lab, Left::Snapshot, full_table)
}

pub fn table_full_tracepoint(lab: &Lab) -> Result<()> {
    on(lab, Left::Tracepoint, full_table)
}

fn full_table(lab: &Lab) -> Result<()> {
    let (asking, connecting) = (lab.pod("client-a")?, lab.pod("client-b")?);
    let server = lab.outside("server")?;
    let _dns = server::start(&server, "resolver", Behaviour::default())?;
    let _tcp = tcp::listen(&server, "shop-api", ([0u8; 4], 443).into(), 128, true)?;
    services::masquerade(None)?;
    let probe = lab.probe(&[])?;

    let _connects = table_full::fill(&asking, &connecting, server.v4.into())?;

    named(&probe, "conntrack-table-full", "client-b")?
        .is("/symptom", "connect-stall")?
        .is("/confidence", "likely")?
        .is("/culprit/pod", "host")?
        .is("/details/limit", table_full::LIMIT)?
        .filled("/fix")?;
    probe.stop()?;
    probe.only(&["conntrack-table-full", "unknown"])
}

pub fn ipvs_stale(lab: &Lab) -> Result<()> {
    on(lab, Left::Snapshot, |lab| ipvs_stale::taken_out(lab, false, "likely"))
}

pub fn ipvs_stale_v6(lab: &Lab) -> Result<()> {
    on(lab, Left::Snapshot, |lab| ipvs_stale::taken_out(lab, true, "likely"))
}

pub fn ipvs_stale_tracepoint(lab: &Lab) -> Result<()> {
    on(lab, Left::Tracepoint, |lab| ipvs_stale::taken_out(lab, false, "likely"))
}

/// A look-alike: the old connection's server is well, a rule drops the SYN.
pub fn ipvs_rule_drops(lab: &Lab) -> Result<()> {
    on(lab, Left::Snapshot, ipvs_stale::rule_drops)
}

/// A look-alike: the listener has no room for half-open connections, but in its accept queue.
pub fn half_open_full(lab: &Lab) -> Result<()> {
    on(lab, Left::Snapshot, syn_queue::unnamed)
}

/// A look-alike: a rule drops the SYN to one pod while another pod's accept queue is full.
pub fn other_queue(lab: &Lab) -> Result<()> {
    on(lab, Left::Snapshot, two_clients)
}

pub fn other_queue_tracepoint(lab: &Lab) -> Result<()> {
    on(lab, Left::Tracepoint, two_clients)
}

fn two_clients(lab: &Lab) -> Result<()> {
    let (unlucky, busy) = (lab.pod("client-a")?, lab.pod("client-b")?);
    let (filtered, full) = (lab.pod("shop-a")?, lab.pod("shop-b")?);
    let _well = tcp::listen(&filtered, LISTENER, (any(false).ip(), OTHER_PORT).into(), 128, true)?;
    let _slow = tcp::listen(&full, LISTENER, any(false), 1, false)?;
    filtered.run("iptables", &["-A", "INPUT", "-p", "tcp", "--dport", "443", "-j", "DROP"])?;
    let probe = lab.probe(&[])?;

    let _dropped = Attempt::start(&unlucky, SocketAddr::new(filtered.v4.into(), OTHER_PORT))?;
    let _connects = accept_queue::refuse_syn(&busy, &full, SocketAddr::new(full.v4.into(), PORT))?;
    sent_again(&unlucky)?;

    named(&probe, "accept-queue-overflow", "client-b")?
        .is("/confidence", "likely")?
        .is("/culprit/pod", "shop-b")?;
    probe.unknown("connect-stall", "client-a")?;
    probe.stop()?;
    probe.only(&["accept-queue-overflow", "unknown"])
}

/// A look-alike: the table has room, a rule drops the SYN.
pub fn rule_drops(lab: &Lab) -> Result<()> {
    on(lab, Left::Snapshot, |lab| {
        let client = lab.pod("client")?;
        let server = lab.outside("server")?;
        let _tcp = tcp::listen(&server, LISTENER, ([0u8; 4], 443).into(), 128, true)?;
        services::masquerade(None)?;
        run("iptables", &["-A", "FORWARD", "-p", "tcp", "--dport", "443", "-j", "DROP"])?;
        let probe = lab.probe(&[])?;
        let _dropped = Attempt::start(&client, SocketAddr::new(server.v4.into(), 443))?;
        sent_again(&client)?;
        probe.unknown("connect-stall", "client")?;
        probe.stop()?;
        probe.only(&["unknown"])
    })
}

fn sent_again(client: &Pod) -> Result<()> {
    until("the SYN is sent again", SOON, || {
        Ok((counters::net(client, "TCPSynRetrans")? > 0).then_some(()))
    })
}

fn any(v6: bool) -> SocketAddr {
    if v6 { ([0u16; 8], PORT).into() } else { ([0u8; 4], PORT).into() }
}
