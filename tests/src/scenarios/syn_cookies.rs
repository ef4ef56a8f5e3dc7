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

/// The queue of half-open connections is full with 8 of them, or above 8, as the kernel's release
/// has it (`inet_csk_reqsk_queue_is_full`): the tenth SYN gets a cookie in any case. Nine
/// established connections fit, accepted or not.
const BACKLOG: u32 = 8;
/// From a SYN to its arrival, and from there to the final ACK's.
const DELAY: Duration = Duration::from_millis(400);

pub fn run_case(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    sysctl::set_in(&server, "net.ipv4.tcp_syncookies", "1")?;
    let _listener = tcp::listen(&server, "shop-api", ([0u8; 4], 8080).into(), BACKLOG, true)?;
    let delay = format!("{}ms", DELAY.as_millis());
    client.run("tc", &["qdisc", "add", "dev", "eth0", "root", "netem", "delay", &delay])?;
    let probe = lab.probe(&[])?;

    let to = SocketAddr::new(server.v4.into(), 8080);
    for _ in 0..3 {
        let attempts = client.inside(|| {
            let bind = |_| Attempt::bind(false, 0);
            let attempts = (0..BACKLOG + 2).map(bind).collect::<Result<Vec<_>>>()?;
            let Some((tenth, nine)) = attempts.split_last() else { return Ok(attempts) };
            nine.iter().try_for_each(|attempt| attempt.fire(to))?;
            // Half-way, so that it arrives after the other SYNs and before their final ACKs, and
            // its own final ACK when the others were accepted.
            thread::sleep(DELAY / 2);
            tenth.fire(to)?;
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
