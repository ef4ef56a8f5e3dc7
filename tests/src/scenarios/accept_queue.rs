//! A listener that does not accept: its queue is full for the next SYN, or for the final ACK of a
//! handshake that began when there was still room.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, bail, ensure};

use crate::{
    counters,
    kube_proxy::{self, Mode, Service},
    lab::Lab,
    netns::Pod,
    tcp::{self, Attempt, State, sent_again},
    wait::{SOON, until},
};

pub const PORT: u16 = 8080;
pub const LISTENER: &str = "shop-api";
/// A refused client learns of it only when its retransmit is due: 1 s, then 2 s more.
const STALL: Duration = Duration::from_secs(20);

/// By a service with kube-proxy's own rules.
pub fn syn(lab: &Lab) -> Result<()> {
    syn_stage(lab, false, true)
}

pub fn syn_v6(lab: &Lab) -> Result<()> {
    syn_stage(lab, true, false)
}

pub fn ack(lab: &Lab) -> Result<()> {
    ack_stage(lab, false)
}

pub fn ack_v6(lab: &Lab) -> Result<()> {
    ack_stage(lab, true)
}

/// Backlog 1 holds two connections (the kernel compares with `>`); the third SYN is refused.
fn syn_stage(lab: &Lab, v6: bool, by_service: bool) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let mut to = SocketAddr::new(server.address(v6), PORT);
    let mut kube_proxy = None;
    if by_service {
        let shop = Service::shop(v6, vec![to]);
        to = shop.address;
        kube_proxy = Some(kube_proxy::start(Mode::IptablesNft, &[shop])?);
    }
    let listener = tcp::listen(&server, LISTENER, any(v6), 1, false)?;
    let probe = lab.probe(&[])?;

    let _connects = refuse_syn(&client, &server, to)?;

    let finding = probe.cause("accept-queue-overflow", "client", STALL)?;
    finding
        .is("/symptom", "connect-stall")?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "shop")?
        .is("/culprit/process", LISTENER)?
        .is("/culprit/pid", listener.pid())?
        .is("/details/stage", "syn")?
        .is("/details/port", PORT)?
        .is("/details/process", LISTENER)?
        .is("/details/pid", listener.pid())?
        .is("/details/ack_backlog", 2)?
        .is("/details/max_ack_backlog", 1)?
        .is("/flow/dport", to.port())?
        .is("/flow/dst", to.ip().to_string())?
        .filled("/fix")?;
    probe.stop()?;
    drop(kube_proxy);
    probe.only(&["accept-queue-overflow"])
}

/// Two connections fill a backlog of 1; a third SYN is refused, and its retransmit too. Gives the
/// connects.
pub fn refuse_syn(client: &Pod, server: &Pod, to: SocketAddr) -> Result<Vec<Attempt>> {
    let mut connects = queued(client, to, 2)?;
    let before = counters::net(server, "ListenOverflows")?;
    let refused = Attempt::start(client, to)?;
    until("the listener refuses a SYN twice", SOON, || {
        Ok((counters::net(server, "ListenOverflows")? >= before + 2).then_some(()))
    })?;
    if refused.wait(Duration::ZERO)? != State::Pending {
        bail!("a connect into a full queue should hang");
    }
    connects.push(refused);
    Ok(connects)
}

/// Backlog 4 holds five connections; three are there when four SYNs pass at once, and their ACKs,
/// delayed on the way, find room for two.
fn ack_stage(lab: &Lab, v6: bool) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let to = SocketAddr::new(server.address(v6), PORT);
    let listener = tcp::listen(&server, LISTENER, any(v6), 4, false)?;
    let probe = lab.probe(&[])?;

    let mut attempts = queued(&client, to, 3)?;
    // Long enough for all four SYNs to be answered before the first ACK arrives.
    client.run("tc", &["qdisc", "add", "dev", "eth0", "root", "netem", "delay", "300ms"])?;
    let before = counters::net(&server, "ListenOverflows")?;
    for _ in 0..4 {
        attempts.push(Attempt::start(&client, to)?);
    }
    until("the listener drops a final ACK", SOON, || {
        Ok((counters::net(&server, "ListenOverflows")? > before).then_some(()))
    })?;
    // A refused SYN would leave its connect pending: here the clients believe they are connected.
    for attempt in &attempts {
        ensure!(attempt.wait(SOON)? == State::Connected, "the SYN was refused, not the ACK");
    }

    let finding = probe.finding("accept-queue-overflow of the ACK", STALL, |f| {
        f["cause"] == "accept-queue-overflow"
    })?;
    finding
        .is("/confidence", "certain")?
        .is("/victim/pod", "client")?
        .is("/culprit/pod", "shop")?
        .is("/details/stage", "ack")?
        .is("/details/port", PORT)?
        .is("/details/process", LISTENER)?
        .is("/details/pid", listener.pid())?
        .is("/details/ack_backlog", 5)?
        .is("/details/max_ack_backlog", 4)?
        .filled("/fix")?;
    probe.stop()?;
    probe.only(&["accept-queue-overflow"])
}

/// Look-alike: the queue is as full as it may be and takes this one still, but a rule drops its SYN.
pub fn nearly_full(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let crawler = lab.pod("crawler")?;
    let to = SocketAddr::new(server.v4.into(), PORT);
    let _listener = tcp::listen(&server, LISTENER, any(false), 2, false)?;
    drop_syns(&client, &server, false)?;
    let probe = lab.probe(&[])?;

    let _queued = queued(&crawler, to, 2)?;
    let _attempt = Attempt::start(&client, to)?;
    sent_again(&client)?;
    ensure!(counters::net(&server, "ListenDrops")? == 0, "the listener refused something");

    probe.unknown("connect-stall", "client")?;
    probe.stop()?;
    probe.only(&["unknown"])
}

pub fn other_port(lab: &Lab) -> Result<()> {
    other_port_over(lab, false)
}

pub fn other_port_v6(lab: &Lab) -> Result<()> {
    other_port_over(lab, true)
}

/// Look-alike: one listener's queue is full, and the SYN that a rule drops was for another port of
/// the same pod.
fn other_port_over(lab: &Lab, v6: bool) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let crawler = lab.pod("crawler")?;
    let to = SocketAddr::new(server.address(v6), PORT);
    let well = SocketAddr::new(server.address(v6), PORT + 1);
    let _full = tcp::listen(&server, LISTENER, any(v6), 1, false)?;
    let _well = tcp::listen(&server, "shop-web", well, 128, true)?;
    drop_syns(&client, &server, v6)?;
    let probe = lab.probe(&[])?;

    let _refused = refuse_syn(&crawler, &server, to)?;
    let _attempt = Attempt::start(&client, well)?;
    sent_again(&client)?;

    probe
        .cause("accept-queue-overflow", "crawler", STALL)?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "shop")?;
    probe.unknown("connect-stall", "client")?;
    probe.stop()?;
    // Another listener's queue is not blamed.
    probe.unnamed("client")?;
    probe.only(&["accept-queue-overflow", "unknown"])
}

/// Look-alike: a rule drops the SYN to one pod while another pod's queue is full.
pub fn other_pod(lab: &Lab) -> Result<()> {
    let (unlucky, busy) = (lab.pod("client-a")?, lab.pod("client-b")?);
    let (filtered, full) = (lab.pod("shop-a")?, lab.pod("shop-b")?);
    let _well = tcp::listen(&filtered, LISTENER, any(false), 128, true)?;
    let _slow = tcp::listen(&full, LISTENER, any(false), 1, false)?;
    drop_syns(&unlucky, &filtered, false)?;
    let probe = lab.probe(&[])?;

    let _dropped = Attempt::start(&unlucky, SocketAddr::new(filtered.v4.into(), PORT))?;
    let _connects = refuse_syn(&busy, &full, SocketAddr::new(full.v4.into(), PORT))?;
    sent_again(&unlucky)?;

    probe
        .cause("accept-queue-overflow", "client-b", STALL)?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "shop-b")?;
    probe.unknown("connect-stall", "client-a")?;
    probe.stop()?;
    // Another pod's queue is not blamed.
    probe.unnamed("client-a")?;
    probe.only(&["accept-queue-overflow", "unknown"])
}

/// Connections that nobody accepts.
pub fn queued(client: &Pod, to: SocketAddr, count: usize) -> Result<Vec<Attempt>> {
    let mut connects = Vec::new();
    for i in 0..count {
        let attempt = Attempt::start(client, to)?;
        let state = attempt.wait(SOON)?;
        ensure!(state == State::Connected, "the queue had room, yet connect {i} was {state:?}");
        connects.push(attempt);
    }
    Ok(connects)
}

/// A rule in the server's pod against all that comes from this client.
fn drop_syns(client: &Pod, server: &Pod, v6: bool) -> Result<()> {
    let (tool, from) = (if v6 { "ip6tables" } else { "iptables" }, client.address(v6).to_string());
    server.run(tool, &["-A", "INPUT", "-s", &from, "-j", "DROP"]).map(drop)
}

/// The listener's port on every address.
pub fn any(v6: bool) -> SocketAddr {
    if v6 { ([0u16; 8], PORT).into() } else { ([0u8; 4], PORT).into() }
}
