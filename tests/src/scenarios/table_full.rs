//! The connection table is full: new flows are dropped, whichever pod they come from.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Error, Result, ensure};

use crate::{
    command::run,
    counters,
    dns::{
        A,
        client::{self, Outcome},
        server::{self, Behaviour},
    },
    lab::Lab,
    netns::Pod,
    services, sysctl,
    tcp::{self, Attempt},
    wait::{SOON, until},
};

pub const LIMIT: u64 = 40;
const QUERIES: usize = 60;

pub fn run_case(lab: &Lab) -> Result<()> {
    let (asking, connecting) = (lab.pod("client-a")?, lab.pod("client-b")?);
    let server = lab.outside("server")?;
    let _dns = server::start(&server, "resolver", Behaviour::default())?;
    let _tcp = tcp::listen(&server, "shop-api", ([0u8; 4], 443).into(), 128, true)?;
    services::masquerade(None)?;
    let probe = lab.probe(&[])?;

    let _connects = fill(&asking, &connecting, &server)?;

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

/// Lowers the limit and fills the table from one pod with DNS queries, more than fit; connects
/// from another pod come after that. Queries that were not answered are sent again, as resolvers
/// do. Gives the connects, whose SYNs the kernel sends again.
pub fn fill(asking: &Pod, connecting: &Pod, server: &Pod) -> Result<Vec<Attempt>> {
    run("conntrack", &["-F"])?;
    sysctl::set("net.netfilter.nf_conntrack_max", &LIMIT.to_string())?;
    let dropped =
        || Ok::<_, Error>(counters::conntrack("drop")? + counters::conntrack("early_drop")?);
    let before = dropped()?;

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
        (0..5).map(|_| Attempt::start(connecting, web)).collect::<Result<_>>()?;
    let least = QUERIES as u64 - LIMIT;
    until("the full table drops packets", SOON, || {
        Ok((dropped()? >= before + least).then_some(()))
    })?;

    let mut silent = Vec::new();
    for (socket, name) in &asked {
        // Answers came before the first wait ended, so a look is enough for the others.
        let limit = if silent.is_empty() { 1500 } else { 5 };
        let id = client::id_of(name, A);
        if client::wait(socket, id, Duration::from_millis(limit))? == Outcome::Silent {
            silent.push((socket, name));
        }
    }
    ensure!(!silent.is_empty(), "every query got through a full table");
    for (socket, name) in &silent {
        client::send(socket, client::id_of(name, A), name, A)?;
    }
    until("a SYN is sent again", SOON, || {
        Ok((counters::net(connecting, "TCPSynRetrans")? > 0).then_some(()))
    })?;
    Ok(connects)
}
