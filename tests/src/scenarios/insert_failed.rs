//! Too many connections in too few hash buckets: a new one that falls into a full chain is dropped.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::accept_queue::queued;
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
    probe::Probe,
    process::Process,
    sysctl,
    tcp::{self, Attempt, sent_again},
    wait::{SOON, until},
};

const PORT: u16 = 8080;
/// The fewest that the kernel makes: a page of 8-byte heads.
const BUCKETS: u16 = 512;
/// `st->chaintoolong` stands in this column (`ct_cpu_seq_show`).
const TOO_LONG: &str = "chainlength";

/// Kernels that have a limit.
pub const LIMITED: &[&str] = &["6.1", "6.12", "6.18", "7.2"];

pub fn tcp(lab: &Lab) -> Result<()> {
    connect(lab, false)
}

pub fn tcp_v6(lab: &Lab) -> Result<()> {
    connect(lab, true)
}

fn connect(lab: &Lab, v6: bool) -> Result<()> {
    let world = World::new(lab, v6)?;
    let to = SocketAddr::new(world.server.address(v6), PORT);
    let any: IpAddr = if v6 { [0u16; 8].into() } else { [0u8; 4].into() };
    let _shop = tcp::listen(&world.server, "shop-api", (any, PORT).into(), 128, true)?;
    let probe = lab.probe(&[])?;

    // A SYN that was dropped is sent again after a second, and may be dropped again.
    let _attempt = hit(|| {
        let attempt = Attempt::start(&world.client, to)?;
        attempt.wait(Duration::from_millis(500))?;
        Ok(attempt)
    })?;

    named(&probe, "connect-stall")
}

pub fn dns(lab: &Lab) -> Result<()> {
    ask(lab, false)
}

pub fn dns_v6(lab: &Lab) -> Result<()> {
    ask(lab, true)
}

fn ask(lab: &Lab, v6: bool) -> Result<()> {
    let world = World::new(lab, v6)?;
    let to = SocketAddr::new(world.server.address(v6), 53);
    let _dns = server::start(&world.server, "resolver", Behaviour::default())?;
    let probe = lab.probe(&[])?;

    let mut number = 0;
    let socket = hit(|| {
        number += 1;
        let (socket, id) = (world.client.inside(|| client::connect(to, 0))?, number);
        client::send(&socket, id, "db.example.com", A)?;
        Ok((client::wait(&socket, id, Duration::from_millis(500))?, socket, id))
    })?;
    let (Outcome::Silent, socket, id) = socket else { bail!("the query was answered") };
    // What a resolver does when its patience ends.
    client::send(&socket, id, "db.example.com", A)?;

    named(&probe, "dns-stall")
}

fn named(probe: &Probe, symptom: &str) -> Result<()> {
    probe
        .cause("conntrack-insert-failed", "client", SOON)?
        .is("/symptom", symptom)?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "host")?
        .is("/details/exit", "chain-too-long")?
        .is("/details/buckets", BUCKETS)?
        .at_least("/details/entries", 10_000)?
        .at_least("/details/chain_too_long", 1)?
        .filled("/fix")?;
    probe.stop()?;
    probe.only(&["conntrack-insert-failed"])
}

/// A look-alike: chains are long, but a rule drops the SYN before it gets an entry in one.
pub fn rule_drops(lab: &Lab) -> Result<()> {
    let world = World::new(lab, false)?;
    let to = SocketAddr::new(world.server.v4.into(), PORT);
    let _shop = tcp::listen(&world.server, "shop-api", ([0u8; 4], PORT).into(), 128, true)?;
    let from = world.client.v4.to_string();
    run("iptables-nft", &["-I", "FORWARD", "-s", &from, "-j", "DROP"])?;
    let probe = lab.probe(&[])?;

    let before = counters::conntrack(TOO_LONG)?;
    let _attempt = Attempt::start(&world.client, to)?;
    sent_again(&world.client)?;
    ensure!(counters::conntrack(TOO_LONG)? == before, "a chain was too long for something");

    probe.unknown("connect-stall", "client")?;
    probe.stop()?;
    probe.only(&["unknown"])
}

/// A look-alike: chains are long, the SYN found room in one, and the listener's queue is full.
pub fn full_queue(lab: &Lab) -> Result<()> {
    let world = World::empty(lab, false)?;
    let to = SocketAddr::new(world.server.v4.into(), PORT);
    let _shop = tcp::listen(&world.server, "shop-api", ([0u8; 4], PORT).into(), 1, false)?;
    let _queued = queued(&world.client, to, 2)?;
    world.fill()?;
    let probe = lab.probe(&[])?;

    let refused = || counters::net(&world.server, "ListenOverflows");
    let long = counters::conntrack(TOO_LONG)?;
    let _attempt = missed(|| Attempt::start(&world.client, to), refused)?;
    let (before, long) = (refused()?, counters::conntrack(TOO_LONG)? - long);
    until("the listener refuses the SYN again", SOON, || Ok((refused()? > before).then_some(())))?;

    probe
        .cause("accept-queue-overflow", "client", SOON)?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "shop")?;
    probe.stop()?;
    // Those that found no room before are told for what they are, and no more.
    let named = probe.stalls(|f| f["cause"] == "conntrack-insert-failed");
    ensure!(
        lab.faults_only() || named == long,
        "{named} were told to find too long a chain, {long} did"
    );
    probe.only(&["accept-queue-overflow", "conntrack-insert-failed"])
}

/// Does it again until its chain was short enough, so that this other counter grows. One that was
/// dropped is given up at once.
fn missed<T>(mut attempt: impl FnMut() -> Result<T>, other: impl Fn() -> Result<u64>) -> Result<T> {
    for _ in 0..200 {
        let (long, before) = (counters::conntrack(TOO_LONG)?, other()?);
        let done = attempt()?;
        let passed = until("the packet is dropped, or gets through", SOON, || {
            let passed = other()? > before;
            Ok((passed || counters::conntrack(TOO_LONG)? > long).then_some(passed))
        })?;
        if passed {
            return Ok(done);
        }
    }
    bail!("every new connection found its chain too long")
}

/// Does it again until the chain was too long for it.
fn hit<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..50 {
        let before = counters::conntrack(TOO_LONG)?;
        let done = attempt()?;
        if counters::conntrack(TOO_LONG)? > before {
            return Ok(done);
        }
    }
    bail!("every new connection found a chain that was short enough")
}

/// A table with long chains; nothing else is wrong.
struct World {
    client: Pod,
    server: Pod,
    filler: Pod,
    _kube_proxy: Process,
}

impl World {
    fn new(lab: &Lab, v6: bool) -> Result<Self> {
        let world = Self::empty(lab, v6)?;
        world.fill()?;
        Ok(world)
    }

    /// Few buckets, with next to nothing in them yet.
    fn empty(lab: &Lab, v6: bool) -> Result<Self> {
        let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
        let (filler, sink) = (lab.pod("filler")?, lab.outside("sink")?);
        let rules = |v6| {
            let shop = Service::shop(v6, vec![SocketAddr::new(server.address(v6), PORT)]);
            kube_proxy::start(Mode::IptablesNft, &[shop])
        };
        // The filler speaks IPv4 in any case.
        if v6 {
            rules(true)?;
        }
        let kube_proxy = rules(false)?;
        run("ip", &["route", "add", "default", "via", &sink.v4.to_string()])?;
        sysctl::set("net.netfilter.nf_conntrack_max", "262144")?;
        sysctl::set("net.netfilter.nf_conntrack_udp_timeout", "600")?;
        sysctl::set("net.netfilter.nf_conntrack_buckets", &BUCKETS.to_string())?;
        Ok(Self { client, server, filler, _kube_proxy: kube_proxy })
    }

    fn fill(&self) -> Result<()> {
        self.filler.inside(fill)
    }
}

/// Opens flows to an address where nobody answers, until most new ones find their chain too long:
/// the kernel takes 50 to 80 in one, which it draws anew for each (`__nf_conntrack_confirm`).
fn fill() -> Result<()> {
    const BATCH: u16 = 500;
    let socket = UdpSocket::bind("0.0.0.0:0").context("cannot bind a UDP socket")?;
    for host in 1..=20u8 {
        for batch in 0..100 {
            let before = counters::conntrack(TOO_LONG)?;
            for i in 0..BATCH {
                let to = SocketAddr::from(([203, 0, 113, host], 1 + batch * BATCH + i));
                socket.send_to(b"x", to).with_context(|| format!("cannot send to {to}"))?;
            }
            if counters::conntrack(TOO_LONG)? >= before + u64::from(BATCH) * 3 / 4 {
                return Ok(());
            }
        }
    }
    bail!("a million flows fit into {BUCKETS} buckets")
}
