//! SYN cookies are sent because the queue of half-open connections is full, and every client gets
//! its connection: no stall.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use crate::{
    counters,
    lab::Lab,
    sysctl,
    tcp::{self, Attempt, State},
    wait::SOON,
};

/// A queue of 8 half-open connections is full for the ninth SYN, which gets a cookie; nine
/// established ones fit, accepted or not (the kernel compares the accept queue with `>`).
const BACKLOG: u32 = 8;

pub fn run_case(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    sysctl::set_in(&server, "net.ipv4.tcp_syncookies", "1")?;
    let _listener = tcp::listen(&server, "shop-api", ([0u8; 4], 8080).into(), BACKLOG, true)?;
    // All SYNs arrive together, and the final ACKs only this much later.
    client.run("tc", &["qdisc", "add", "dev", "eth0", "root", "netem", "delay", "200ms"])?;
    let probe = lab.probe(&[])?;

    let to = SocketAddr::new(server.v4.into(), 8080);
    for _ in 0..5 {
        let attempts = client.inside(|| {
            let bind = |_| Attempt::bind(false, 0);
            let attempts = (0..=BACKLOG).map(bind).collect::<Result<Vec<_>>>()?;
            attempts.iter().try_for_each(|attempt| attempt.fire(to))?;
            Ok(attempts)
        })?;
        for attempt in &attempts {
            let state = attempt.wait(SOON)?;
            ensure!(state == State::Connected, "a connect was {state:?}");
            attempt.wait_closed(SOON)?;
        }
    }
    ensure!(counters::net(&server, "SyncookiesSent")? > 0, "no cookie was sent");
    ensure!(counters::net(&server, "ListenOverflows")? == 0, "the accept queue was full too");

    probe.stop()?;
    probe.only(&[])
}
