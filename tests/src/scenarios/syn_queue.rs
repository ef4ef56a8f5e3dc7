//! No room for another half-open connection and no SYN cookies: the SYN is refused before the
//! accept queue is looked at.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use super::accept_queue::{LISTENER, PORT};
use crate::{
    counters,
    lab::Lab,
    netns::Pod,
    sysctl,
    tcp::{self, Attempt, State},
    wait::{SOON, until},
};

/// One of the two limits, and how many half-open connections reach it.
struct Limit {
    name: &'static str,
    backlog: u32,
    max_syn_backlog: u32,
    half_open: usize,
    /// The kernel has a counter for the first limit only.
    counted: bool,
}

/// Full with 4, or above 4, as the kernel's release has it.
const BACKLOG: Limit =
    Limit { name: "backlog", backlog: 4, max_syn_backlog: 1024, half_open: 5, counted: true };
/// 8 - 7 is less than a quarter of 8.
const LAST_QUARTER: Limit =
    Limit { name: "last-quarter", backlog: 16, max_syn_backlog: 8, half_open: 7, counted: false };

pub fn backlog(lab: &Lab) -> Result<()> {
    refused(lab, &BACKLOG, false)
}

pub fn backlog_v6(lab: &Lab) -> Result<()> {
    refused(lab, &BACKLOG, true)
}

pub fn last_quarter(lab: &Lab) -> Result<()> {
    refused(lab, &LAST_QUARTER, false)
}

pub fn last_quarter_v6(lab: &Lab) -> Result<()> {
    refused(lab, &LAST_QUARTER, true)
}

fn refused(lab: &Lab, limit: &Limit, v6: bool) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let crawler = lab.pod("crawler")?;
    let (to, listener) = listener(&server, limit, v6)?;
    let probe = lab.probe(&[])?;

    leave_half_open(&crawler, limit.half_open, to)?;
    let full = counters::net(&server, "TCPReqQFullDrop")?;
    let drops = counters::net(&server, "ListenDrops")?;
    let attempt = Attempt::start(&client, to)?;
    until("the listener refuses the SYN twice", SOON, || {
        Ok((counters::net(&server, "ListenDrops")? >= drops + 2).then_some(()))
    })?;
    ensure!(attempt.wait(std::time::Duration::ZERO)? == State::Pending, "the SYN got through");
    let full = counters::net(&server, "TCPReqQFullDrop")? - full;
    ensure!((full > 0) == limit.counted, "TCPReqQFullDrop +{full}");
    ensure!(counters::net(&server, "ListenOverflows")? == 0, "the accept queue was full too");

    probe
        .cause("syn-queue-overflow", "client", SOON)?
        .is("/symptom", "connect-stall")?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "shop")?
        .is("/culprit/process", LISTENER)?
        .is("/details/limit", limit.name)?
        .is("/details/port", PORT)?
        .is("/details/pid", listener.pid())?
        .is("/details/max_ack_backlog", limit.backlog)?
        .is("/details/max_syn_backlog", limit.max_syn_backlog)?
        .is("/details/syncookies", 0)?
        .at_least("/details/half_open", 4)?
        .is("/flow/dst", to.ip().to_string())?
        .filled("/fix")?;
    probe.stop()?;
    probe.only(&["syn-queue-overflow"])
}

/// Look-alike: half-open connections within the limits, and a rule that drops the SYN.
pub fn room_left(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let crawler = lab.pod("crawler")?;
    let (to, _listener) = listener(&server, &BACKLOG, false)?;
    server.run("iptables", &["-A", "INPUT", "-s", &client.v4.to_string(), "-j", "DROP"])?;
    let probe = lab.probe(&[])?;

    leave_half_open(&crawler, 3, to)?;
    let _attempt = Attempt::start(&client, to)?;
    until("the SYN is sent again", SOON, || {
        Ok((counters::net(&client, "TCPSynRetrans")? > 0).then_some(()))
    })?;
    ensure!(counters::net(&server, "ListenDrops")? == 0, "the listener refused something");

    probe.unknown("connect-stall", "client")?;
    probe.stop()?;
    probe.only(&["unknown"])
}

/// Look-alike: SYN cookies are off and the half-open connections stay few, but the accept queue is
/// full.
pub fn accept_queue_full(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let to = SocketAddr::new(server.v4.into(), PORT);
    sysctl::set_in(&server, "net.ipv4.tcp_syncookies", "0")?;
    let _listener = tcp::listen(&server, LISTENER, any(false), 1, false)?;
    let probe = lab.probe(&[])?;
    let _connects = super::accept_queue::refuse_syn(&client, &server, to)?;
    probe
        .cause("accept-queue-overflow", "client", SOON)?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "shop")?;
    probe.stop()?;
    probe.only(&["accept-queue-overflow"])
}

fn listener(
    server: &Pod,
    limit: &Limit,
    v6: bool,
) -> Result<(SocketAddr, crate::process::Process)> {
    sysctl::set_in(server, "net.ipv4.tcp_syncookies", "0")?;
    let max = limit.max_syn_backlog.to_string();
    sysctl::set_in(server, "net.ipv4.tcp_max_syn_backlog", &max)?;
    let listener = tcp::listen(server, LISTENER, any(v6), limit.backlog, false)?;
    Ok((SocketAddr::new(server.address(v6), PORT), listener))
}

/// Handshakes begun by a pod that never sees the SYN-ACK, and whose programs give up at once.
fn leave_half_open(pod: &Pod, count: usize, to: SocketAddr) -> Result<()> {
    let tool = if to.is_ipv6() { "ip6tables" } else { "iptables" };
    let port = PORT.to_string();
    pod.run(tool, &["-A", "INPUT", "-p", "tcp", "--sport", &port, "-j", "DROP"])?;
    for _ in 0..count {
        drop(Attempt::start(pod, to)?);
    }
    Ok(())
}

fn any(v6: bool) -> SocketAddr {
    if v6 { ([0u16; 8], PORT).into() } else { ([0u8; 4], PORT).into() }
}
