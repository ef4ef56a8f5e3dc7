//! SYN cookies are sent because the queue of half-open connections is full, and every client gets
//! its connection: no stall.

use std::net::SocketAddr;

use anyhow::{Result, bail, ensure};

use crate::{
    counters,
    lab::Lab,
    netns::Pod,
    process::half_open,
    sysctl,
    tcp::{self, Attempt, State},
    wait::{SOON, until},
};

/// The queue of half-open connections is full with 8 of them, or above 8, as the kernel's release
/// has it (`inet_csk_reqsk_queue_is_full`). Nine established ones fit, accepted or not.
const BACKLOG: u32 = 8;
/// From the far client's SYN to its arrival, and from there to its final ACK's; less than a stall.
const DELAY: &str = "450ms";

pub fn run_case(lab: &Lab) -> Result<()> {
    let (near, far, server) = (lab.pod("near")?, lab.pod("far")?, lab.pod("shop")?);
    sysctl::set_in(&server, "net.ipv4.tcp_syncookies", "1")?;
    // The neighbour is found before packets are delayed; finding it would take a DELAY too.
    Attempt::start(&far, (server.v4, 9).into())?.wait(SOON)?;
    far.run("tc", &["qdisc", "add", "dev", "eth0", "root", "netem", "delay", DELAY])?;
    for port in 8080..8084 {
        let _listener = tcp::listen(&server, "shop-api", ([0u8; 4], port).into(), BACKLOG, true)?;
        let probe = lab.probe(&[])?;
        let overflows = counters::net(&server, "ListenOverflows")?;
        send_cookie(&near, &far, &server, port)?;
        probe.stop()?;
        // A machine that stood still for half a second did not accept in time: a real overflow.
        if counters::net(&server, "ListenOverflows")? == overflows {
            return probe.only(&[]);
        }
    }
    bail!("the accept queue was full too, each time")
}

/// Nine connections of a far client are half open when a near one connects by a cookie, and is
/// accepted before the far one's final ACKs arrive.
fn send_cookie(near: &Pod, far: &Pod, server: &Pod, port: u16) -> Result<()> {
    let to = SocketAddr::new(server.v4.into(), port);
    let cookies = counters::net(server, "SyncookiesSent")?;
    let mut attempts = far.inside(|| {
        let bind = |_| Attempt::bind(false, 0);
        let attempts = (0..=BACKLOG).map(bind).collect::<Result<Vec<_>>>()?;
        attempts.iter().try_for_each(|attempt| attempt.fire(to))?;
        Ok(attempts)
    })?;
    until("the far client's SYNs arrive", SOON, || {
        Ok((half_open(server, port)? > BACKLOG as usize).then_some(()))
    })?;
    attempts.push(Attempt::start(near, to)?);
    for attempt in &attempts {
        let state = attempt.wait(SOON)?;
        ensure!(state == State::Connected, "a connect was {state:?}");
    }
    ensure!(counters::net(server, "SyncookiesSent")? > cookies, "no cookie was sent");
    Ok(())
}
