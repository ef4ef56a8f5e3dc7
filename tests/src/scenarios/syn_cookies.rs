//! SYN cookies are sent because the queue of half-open connections is full, and every client gets
//! its connection: no stall.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    counters,
    lab::Lab,
    sysctl,
    tcp::{self, Attempt, State},
    wait::SOON,
};

pub fn run_case(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    sysctl::set_in(&server, "net.ipv4.tcp_syncookies", "1")?;
    let _listener = tcp::listen(&server, "shop-api", ([0u8; 4], 8080).into(), 32, true)?;
    // With final ACKs 500 ms away and a SYN every 5 ms, far more than 32 connections are half open,
    // while the listener has 32 places and 5 ms a connection to accept them.
    client.run("tc", &["qdisc", "add", "dev", "eth0", "root", "netem", "delay", "500ms"])?;
    let probe = lab.probe(&[])?;

    let to = SocketAddr::new(server.v4.into(), 8080);
    let mut attempts = Vec::new();
    for _ in 0..80 {
        attempts.push(Attempt::start(&client, to)?);
        // The pace is the fault: all at once would fill the accept queue as well.
        thread::sleep(Duration::from_millis(5));
    }
    for attempt in &attempts {
        let state = attempt.wait(SOON)?;
        ensure!(state == State::Connected, "a connect was {state:?}");
    }
    ensure!(counters::net(&server, "SyncookiesSent")? > 0, "no cookie was sent");
    ensure!(counters::net(&server, "ListenOverflows")? == 0, "the accept queue was full too");

    probe.stop()?;
    probe.only(&[])
}
