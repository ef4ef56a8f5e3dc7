//! The connection table is full: new flows are dropped, whichever pod they come from.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Error, Result, ensure};

use crate::{
    command::run,
    counters,
    dns::{
        A,
        client::{self, Outcome},
        server::{self, Behaviour},
    },
    kube_proxy::{self, Mode, Service},
    lab::Lab,
    netns::Pod,
    services, sysctl,
    tcp::{self, Attempt, State, sent_again},
    wait::{SOON, until},
};

pub const LIMIT: u64 = 40;
const QUERIES: usize = 60;

pub fn v4(lab: &Lab) -> Result<()> {
    full(lab, Mode::IptablesNft, false)
}

pub fn v6(lab: &Lab) -> Result<()> {
    full(lab, Mode::IptablesLegacy, true)
}

/// On a node with kube-proxy's rules.
fn full(lab: &Lab, mode: Mode, v6: bool) -> Result<()> {
    let (asking, connecting) = (lab.pod("client-a")?, lab.pod("client-b")?);
    let server = lab.outside("server")?;
    let _dns = server::start(&server, "resolver", Behaviour::default())?;
    let any = if v6 { ([0u16; 8], 443).into() } else { ([0u8; 4], 443).into() };
    let _tcp = tcp::listen(&server, "shop-api", any, 128, true)?;
    let shop = Service::shop(v6, vec![SocketAddr::new(server.address(v6), 443)]);
    let _kube_proxy = kube_proxy::start(mode, &[shop])?;
    let probe = lab.probe(&[])?;

    let _connects = fill(&asking, &connecting, server.address(v6))?;

    let stalls = [("client-a", "dns-stall"), ("client-b", "connect-stall")];
    for (pod, symptom) in stalls.into_iter().filter(|(_, symptom)| lab.tells_of(symptom)) {
        let finding = probe.cause("conntrack-table-full", pod, SOON)?;
        finding
            .is("/symptom", symptom)?
            .is("/confidence", "certain")?
            .is("/culprit/pod", "host")?
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
pub fn fill(asking: &Pod, connecting: &Pod, server: IpAddr) -> Result<Vec<Attempt>> {
    run("conntrack", &["-F"])?;
    sysctl::set("net.netfilter.nf_conntrack_max", &LIMIT.to_string())?;
    let dropped =
        || Ok::<_, Error>(counters::conntrack("drop")? + counters::conntrack("early_drop")?);
    let before = dropped()?;

    let dns = SocketAddr::new(server, 53);
    let mut asked = Vec::new();
    for i in 0..QUERIES {
        let name = format!("n{i}.example.com");
        let socket = asking.inside(|| client::connect(dns, 0))?;
        client::send(&socket, client::id_of(&name, A), &name, A)?;
        asked.push((socket, name));
    }
    let web = SocketAddr::new(server, 443);
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

/// Look-alike: the table has little room left but room enough, and a rule drops the SYN.
pub fn room_left(lab: &Lab) -> Result<()> {
    let (asking, client) = (lab.pod("client-a")?, lab.pod("client-b")?);
    let server = lab.outside("server")?;
    let _dns = server::start(&server, "resolver", Behaviour::default())?;
    services::masquerade(None)?;
    let from = client.v4.to_string();
    run("iptables", &["-A", "FORWARD", "-s", &from, "-j", "DROP"])?;
    let probe = lab.probe(&[])?;

    run("conntrack", &["-F"])?;
    sysctl::set("net.netfilter.nf_conntrack_max", &LIMIT.to_string())?;
    let before = counters::conntrack("drop")?;
    ask(&asking, &server, LIMIT - 5)?;
    let _attempt = Attempt::start(&client, SocketAddr::new(server.v4.into(), 443))?;
    sent_again(&client)?;
    ensure!(counters::conntrack("drop")? == before, "the table was full");

    probe.unknown("connect-stall", "client-b")?;
    probe.stop()?;
    probe.only(&["unknown"])
}

/// Look-alike: the table is full of flows without an answer, which give way to new ones: nobody
/// waits, but for one whose SYN a rule drops.
pub fn evicts(lab: &Lab) -> Result<()> {
    /// Each a flow of its own: the kernel's choice would take some twice.
    const PORTS: std::ops::Range<u16> = 20_000..21_000;
    let (asking, client) = (lab.pod("client-a")?, lab.pod("client-b")?);
    let stopped = lab.pod("client-c")?;
    let server = lab.outside("server")?;
    let _tcp = tcp::listen(&server, "shop-api", ([0u8; 4], 443).into(), 128, true)?;
    // Port 9 discards: no answer, and no ICMP either.
    let _discard = server.inside(|| {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9)).context("cannot bind the discard port")
    })?;
    services::masquerade(None)?;
    let from = stopped.v4.to_string();
    run("iptables", &["-A", "FORWARD", "-s", &from, "-j", "DROP"])?;
    let probe = lab.probe(&[])?;

    run("conntrack", &["-F"])?;
    // Few chains, so that a flow to give way is always found near (early_drop looks at eight).
    sysctl::set("net.netfilter.nf_conntrack_buckets", "512")?;
    sysctl::set("net.netfilter.nf_conntrack_max", &PORTS.len().to_string())?;
    let discard = SocketAddr::new(server.v4.into(), 9);
    asking.inside(|| {
        for port in PORTS {
            client::connect(discard, port)?.send(b"x").context("cannot send")?;
        }
        Ok(())
    })?;
    let (evicted, dropped) = (counters::conntrack("early_drop")?, counters::conntrack("drop")?);
    let to = SocketAddr::new(server.v4.into(), 443);
    for i in 0..20 {
        let state = Attempt::start(&client, to)?.wait(SOON)?;
        ensure!(state == State::Connected, "connect {i} was {state:?}");
    }
    let _attempt = Attempt::start(&stopped, to)?;
    sent_again(&stopped)?;
    ensure!(counters::conntrack("early_drop")? > evicted, "the table was not full");
    ensure!(counters::conntrack("drop")? == dropped, "a full table dropped something");

    probe.unknown("connect-stall", "client-c")?;
    probe.stop()?;
    probe.only(&["unknown"])
}

/// Queries that are answered, each a flow of its own.
fn ask(pod: &Pod, server: &Pod, count: u64) -> Result<()> {
    let dns = SocketAddr::new(server.v4.into(), 53);
    for i in 0..count {
        let outcome = client::ask(pod, dns, &format!("n{i}.example.com"), A, &[SOON])?;
        ensure!(outcome == Outcome::Answered, "query {i} was {outcome:?}");
    }
    Ok(())
}
