//! connect() finds no local port, and other ways to get the same error.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
};

use anyhow::{Result, bail, ensure};

use super::accept_queue::PORT;
use crate::{
    lab::Lab,
    netns::Pod,
    sysctl,
    tcp::{self, Attempt, State, sent_again},
    wait::SOON,
};

const PORTS: usize = 4;
const FIRST: u16 = 40000;

pub fn v4(lab: &Lab) -> Result<()> {
    exhausted(lab, false)
}

pub fn v6(lab: &Lab) -> Result<()> {
    exhausted(lab, true)
}

fn exhausted(lab: &Lab, v6: bool) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let any = if v6 { ([0u16; 8], PORT).into() } else { ([0u8; 4], PORT).into() };
    let _listener = tcp::listen(&server, "shop-api", any, 128, false)?;
    narrow(&client)?;
    let to = SocketAddr::new(server.address(v6), PORT);
    let probe = lab.probe(&[])?;

    let _held = hold_ports(&client, to, PORTS)?;
    let error = failure(&client, to, 0)?;
    ensure!(error == Some(libc::EADDRNOTAVAIL), "the fifth connect: {error:?}");

    probe
        .cause("client-ports-exhausted", "client", SOON)?
        .is("/symptom", "connect-stall")?
        .is("/confidence", "certain")?
        .is("/victim/pid", std::process::id())?
        .is("/culprit/pod", "client")?
        .is("/culprit/pid", std::process::id())?
        .is("/culprit/address", client.address(v6).to_string())?
        .is("/details/pid", std::process::id())?
        .is("/details/source", client.address(v6).to_string())?
        .is("/details/destination", to.to_string())?
        .is("/details/port_range/0", FIRST)?
        .is("/details/port_range/1", FIRST + 3)?
        .is("/flow/dport", PORT)?
        .filled("/fix")?;
    probe.stop()?;
    probe.only(&["client-ports-exhausted"])
}

/// The same error for another reason: the one port asked for is in use, or the address is not this
/// pod's. And with ports to spare, a closed port refuses.
pub fn lookalikes(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let _listener = tcp::listen(&server, "shop-api", ([0u8; 4], PORT).into(), 128, false)?;
    narrow(&client)?;
    let to = SocketAddr::new(server.v4.into(), PORT);
    let probe = lab.probe(&[])?;

    let _held = hold_ports(&client, to, PORTS)?;
    // Two sockets may be bound to one port, but not connected to one destination.
    let own = FIRST + 1000;
    let first = client.inside(|| Attempt::bind(false, own))?;
    first.fire(to)?;
    ensure!(first.wait(SOON)? == State::Connected, "a port of its own did not do");
    let error = failure(&client, to, own)?;
    ensure!(error == Some(libc::EADDRNOTAVAIL), "a port in use: {error:?}");
    let foreign = client.inside(|| Ok(UdpSocket::bind((Ipv4Addr::new(192, 0, 2, 1), 0))))?;
    let error = foreign.err().and_then(|e| e.raw_os_error());
    ensure!(error == Some(libc::EADDRNOTAVAIL), "an address of nobody: {error:?}");
    // Ports run out for each destination on its own.
    let closed = SocketAddr::new(server.v4.into(), PORT + 1);
    let state = Attempt::start(&client, closed)?.wait(SOON)?;
    ensure!(state == State::Failed(libc::ECONNREFUSED), "a closed port: {state:?}");

    probe.cause("no-listener", "client", SOON)?.is("/confidence", "certain")?;
    probe.stop()?;
    probe.only(&["no-listener"])
}

/// Look-alike: one port is left, and a rule drops the SYN from it.
pub fn one_left(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let _listener = tcp::listen(&server, "shop-api", ([0u8; 4], PORT).into(), 128, false)?;
    narrow(&client)?;
    let to = SocketAddr::new(server.v4.into(), PORT);
    let probe = lab.probe(&[])?;

    let _held = hold_ports(&client, to, PORTS - 1)?;
    server.run("iptables", &["-A", "INPUT", "-p", "tcp", "--syn", "-j", "DROP"])?;
    let _attempt = Attempt::start(&client, to)?;
    sent_again(&client)?;

    probe.unknown("connect-stall", "client")?;
    probe.stop()?;
    probe.only(&["unknown"])
}

fn narrow(pod: &Pod) -> Result<()> {
    let range = format!("{FIRST} {}", usize::from(FIRST) + PORTS - 1);
    sysctl::set_in(pod, "net.ipv4.ip_local_port_range", &range)
}

fn hold_ports(client: &Pod, to: SocketAddr, count: usize) -> Result<Vec<Attempt>> {
    let mut held = Vec::new();
    for i in 0..count {
        let attempt = Attempt::start(client, to)?;
        let state = attempt.wait(SOON)?;
        ensure!(state == State::Connected, "connect {i} had a port, yet it was {state:?}");
        held.push(attempt);
    }
    Ok(held)
}

/// The error of one more connect(), from a port of its own choice unless that is 0.
fn failure(client: &Pod, to: SocketAddr, port: u16) -> Result<Option<i32>> {
    client.inside(|| {
        let Err(error) = Attempt::bind(to.is_ipv6(), port)?.fire(to) else {
            bail!("there was a port for a connection more");
        };
        Ok(error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error))
    })
}
