//! The connection table is full: new flows are dropped, whichever pod they come from.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    command::run,
    counters,
    dns::{
        A,
        client::{self, Outcome},
        server::{self, Behaviour},
    },
    lab::Lab,
    services, sysctl,
    tcp::{self, Attempt, State},
    wait::{SOON, until},
};

const LIMIT: u64 = 40;
const QUERIES: usize = 60;

pub fn run_case(lab: &Lab) -> Result<()> {
    let (asking, connecting) = (lab.pod("client-a")?, lab.pod("client-b")?);
    let server = lab.outside("server")?;
    let _dns = server::start(&server, "resolver", Behaviour::default())?;
    let _tcp = tcp::listen(&server, "shop-api", ([0u8; 4], 443).into(), 128, true)?;
    services::masquerade(None)?;
    let probe = lab.probe(&[])?;
    run("conntrack", &["-F"])?;
    sysctl::set("net.netfilter.nf_conntrack_max", &LIMIT.to_string())?;

    let before = counters::conntrack("drop")? + counters::conntrack("early_drop")?;
    let dns = SocketAddr::new(server.v4.into(), 53);
    let mut asked = Vec::new();
    for i in 0..QUERIES {
        let name = format!("n{i}.example.com");
        let socket = asking.inside(|| client::connect(dns, 0))?;
        client::send(&socket, client::id_of(&name, A), &name, A)?;
        asked.push((socket, name));
    }
    let web = SocketAddr::new(server.v4.into(), 443);
    let connects: Vec<Attempt> =
        (0..5).map(|_| Attempt::start(&connecting, web)).collect::<Result<_>>()?;
    let least = QUERIES as u64 - LIMIT;
    until("the full table drops packets", SOON, || {
        let now = counters::conntrack("drop")? + counters::conntrack("early_drop")?;
        Ok((now >= before + least).then_some(()))
    })?;
    let pending =
        |attempt: &&Attempt| attempt.wait(Duration::ZERO).is_ok_and(|s| s == State::Pending);
    ensure!(connects.iter().any(|a| pending(&a)), "every connect got through a full table");

    // Resolvers ask again after their time is over; the table is still full.
    let mut silent = Vec::new();
    for (socket, name) in &asked {
        let limit = if silent.is_empty() { Duration::from_millis(1500) } else { Duration::ZERO };
        // Answers came before the first wait ended, so a look is enough for the others.
        let limit = limit.max(Duration::from_millis(5));
        if client::wait(socket, client::id_of(name, A), limit)? == Outcome::Silent {
            silent.push((socket, name));
        }
    }
    ensure!(!silent.is_empty(), "every query got through a full table");
    for (socket, name) in &silent {
        client::send(socket, client::id_of(name, A), name, A)?;
    }

    for (pod, symptom) in [("client-a", "dns-stall"), ("client-b", "connect-stall")] {
        let finding = probe.cause("conntrack-table-full", pod, SOON)?;
        finding
            .is("/symptom", symptom)?
            .is("/confidence", "certain")?
            .is("/details/limit", LIMIT)?
            .check("/details/count", "about the limit", |count| {
                // The kernel counts an entry before it refuses it; expired ones leave late.
                count.as_u64().is_some_and(|n| (LIMIT - 2..=LIMIT + 2).contains(&n))
            })?
            .check("/details/pods", "both pods with what they lost", |pods| {
                ["client-a", "client-b"].iter().all(|name| {
                    pods.as_array().into_iter().flatten().any(|pod| {
                        pod["pod"] == *name && pod["dropped"].as_u64().is_some_and(|n| n > 0)
                    })
                })
            })?
            .filled("/fix")?;
    }
    probe.stop()?;
    probe.only(&["conntrack-table-full"])
}
