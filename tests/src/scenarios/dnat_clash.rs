//! One socket sends A and AAAA at the same moment and the service sends them to two DNS pods. The
//! clash is resolved, but the loser's entry lives one second and the answer is slower: it arrives
//! from the backend's own address and meets no socket.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    command::run,
    counters,
    dns::{
        A, AAAA,
        client::{self, Outcome},
        lookup::{self, Lookup},
        message,
        server::{self, Behaviour},
    },
    kube_proxy::{self, Mode, Service},
    lab::Lab,
    netns::Pod,
    nfqueue::{self, Held},
    process::{Process, udp_bound},
    race::Race,
    services::{self, Choice},
    wait::SOON,
};

/// Longer than the loser's entry lives (1 s, `nf_ct_resolve_clash_harder`).
pub const SLOW: Duration = Duration::from_millis(1400);

/// A DNS pod with a real dnsmasq that asks `upstream` and keeps nothing.
pub fn dnsmasq(pod: &Pod, upstream: &Pod) -> Result<Process> {
    let (server, listen) = (format!("--server={}", upstream.v4), format!("-a{}", pod.v4));
    let args = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--cache-size=0",
        "--bind-interfaces",
        "--user=root",
        "--pid-file",
        &listen,
        &server,
    ];
    Process::daemon(pod, "dnsmasq", &args, || udp_bound(pod, 53))
}

/// Kernels on which a packet that waited in a queue goes on as it was translated, so that holding
/// the first of two makes a clash. Older ones translate it anew (`nf_conntrack_update`).
pub const CERTAIN: &[&str] = &["6.12", "6.18", "7.2"];
pub const UNCERTAIN: &[&str] = &["5.10", "6.1"];

/// Everything around a clash; programs live as long as this.
pub struct World {
    pub client: Pod,
    pub backends: [Pod; 2],
    pub service: SocketAddr,
    _programs: [Process; 3],
    held: Arc<Held>,
}

impl World {
    /// A client pod whose resolver asks the DNS service, and new queries held until there are two.
    pub fn certain(lab: &Lab) -> Result<Self> {
        let client = lab.pod("client")?;
        let mut world = Self::new(lab, client, [lab.pod("dns-a")?, lab.pod("dns-b")?])?;
        world.hold()?;
        Ok(world)
    }

    /// Two dnsmasq behind the DNS service in turn, and a slow upstream.
    pub fn new(lab: &Lab, client: Pod, backends: [Pod; 2]) -> Result<Self> {
        let upstream = lab.outside("upstream")?;
        let behaviour = Behaviour { delay: SLOW, ..Behaviour::default() };
        let programs = [
            server::start(&upstream, "slow-upstream", behaviour)?,
            dnsmasq(&backends[0], &upstream)?,
            dnsmasq(&backends[1], &upstream)?,
        ];
        let service = services::dns(&backends, Choice::InTurn)?;
        lab.resolv_conf(&client, &format!("nameserver {}\n", service.ip()))?;
        Ok(Self { client, backends, service, _programs: programs, held: Arc::default() })
    }

    /// Holds new queries of the client until there are two.
    pub fn hold(&mut self) -> Result<()> {
        self.held = nfqueue::hold_first()?;
        let (from, queue) = (self.client.v4.to_string(), nfqueue::QUEUE.to_string());
        let mut rule = vec!["-A", "FORWARD", "-s", &from, "-m", "conntrack", "--ctstate", "NEW"];
        rule.extend(["-p", "udp", "--dport", "53", "-j", "NFQUEUE", "--queue-num", &queue]);
        run("iptables", &rule).map(drop)
    }

    /// Pairs of first queries that were let go together.
    pub fn pairs(&self) -> u64 {
        self.held.pairs.load(Ordering::SeqCst)
    }

    /// Whether a query was held for so long since the last call that this was a stall in itself: on
    /// a machine too busy to send two packets one after the other.
    fn held_long(&self) -> bool {
        self.held.longest_ms.swap(0, Ordering::SeqCst) > 300
    }
}

pub fn getaddrinfo(lab: &Lab) -> Result<()> {
    let world = World::certain(lab)?;
    for name in ["db.example.com", "db2.example.com", "db3.example.com"] {
        if clash_once(lab, &world, name)? {
            return Ok(());
        }
    }
    bail!("the machine is too busy: queries were held too long, each time")
}

/// One lookup and its finding; false when the lab itself stalled it.
fn clash_once(lab: &Lab, world: &World, name: &str) -> Result<bool> {
    let probe = lab.probe(&[])?;
    let resolved = counters::conntrack("clashres")?;
    let unmet = counters::net(&world.client, "Udp:NoPorts")?;

    // A real `getaddrinfo`, with the default options of glibc.
    let Lookup { found, took } = lookup::glibc(&world.client, name)?;
    if world.held_long() {
        return Ok(false);
    }
    ensure!(found, "{name} was not found");
    ensure!(world.pairs() > 0, "no pair was held");
    ensure!(counters::conntrack("clashres")? > resolved, "no clash was resolved");
    ensure!(counters::net(&world.client, "Udp:NoPorts")? > unmet, "no answer was lost");
    ensure!(took > Duration::from_secs(5), "the lookup took only {took:?}");

    probe
        .cause("conntrack-dnat-clash", "client", SOON)?
        .is("/symptom", "dns-stall")?
        .is("/confidence", "certain")?
        .is("/victim/process", "getent")?
        .is("/victim/address", world.client.v4.to_string())?
        .is("/details/name", name)?
        .is("/details/resolved", true)?
        .is_set("/details/backends", &backends(&world.backends, false))?
        .is_set("/details/backend_pods", &names(&world.backends))?
        .check("/culprit", "one of the backends", |culprit| is_backend(culprit, &world.backends))?
        .check("/details/service", "the service's address", |service| {
            service.as_str().is_some_and(|s| s.starts_with("10.96.0.10"))
        })?
        .filled("/fix")?;
    probe.stop()?;
    ensure!(
        lab.faults_only() || probe.stalls(|f| f["cause"] == "conntrack-dnat-clash") == 1,
        "one lookup is one stall"
    );
    probe.only(&["conntrack-dnat-clash", "server-slow"])?;
    Ok(true)
}

pub fn two_threads(lab: &Lab) -> Result<()> {
    two_threads_over(lab, Mode::IptablesNft, false)
}

pub fn two_threads_v6(lab: &Lab) -> Result<()> {
    two_threads_over(lab, Mode::IptablesNft, true)
}

pub fn two_threads_legacy(lab: &Lab) -> Result<()> {
    two_threads_over(lab, Mode::IptablesLegacy, false)
}

pub fn two_threads_nftables(lab: &Lab) -> Result<()> {
    two_threads_over(lab, Mode::Nftables, false)
}

/// Two threads on one socket, as a resolver that sends from two threads: no rule helps the race.
/// With kube-proxy's own rules. Not in IPVS mode: there an answer is translated by IPVS's own table,
/// where a connection lives for minutes (`ip_vs_out`), and not by the loser's entry.
fn two_threads_over(lab: &Lab, mode: Mode, v6: bool) -> Result<()> {
    let client = lab.pod("client")?;
    let backends = [lab.pod("dns-a")?, lab.pod("dns-b")?];
    let slow = Behaviour { delay: SLOW, ..Behaviour::default() };
    let _servers =
        [server::start(&backends[0], "dns", slow)?, server::start(&backends[1], "dns", slow)?];
    let dns = Service::dns(v6, &backends);
    let service = dns.address;
    let _kube_proxy = kube_proxy::start(mode, &[dns])?;
    let probe = lab.probe(&[])?;
    let counter = if v6 { "Udp6NoPorts" } else { "Udp:NoPorts" };
    let unmet = counters::net(&client, counter)?;

    let lost = lose_answers(&Race::new()?, &client, service)?;
    ensure!(
        counters::net(&client, counter)? > unmet,
        "an answer is missing, yet none met a closed port"
    );

    let finding = probe.finding("the clash of a lost answer", SOON, |f| {
        f["cause"] == "conntrack-dnat-clash"
            && f["details"]["name"].as_str().is_some_and(|name| lost.iter().any(|l| l == name))
    })?;
    finding
        .is("/symptom", "dns-stall")?
        .is("/confidence", "certain")?
        .is("/victim/pod", "client")?
        .is_set("/details/backends", &self::backends(&backends, v6))?
        .is("/details/resolved", true)?
        .check("/culprit", "one of the backends", |culprit| is_backend(culprit, &backends))?
        .filled("/fix")?;
    probe.stop()?;
    // Every answer is late here. On a machine that stands still for a part of that time, nobody is
    // to blame for it alone; of the answers that never came the cause is known.
    let blind = probe.stalls(|f| {
        let about = f["headline"].as_str().unwrap_or_default();
        let evidence = f["evidence"].as_array();
        let came = evidence.is_some_and(|all| all.iter().any(|e| e["kind"] == "answer"));
        let lost = lost.iter().any(|name| about.contains(&format!(" {name} ")));
        f["cause"] == "unknown" && lost && !came
    });
    ensure!(blind == 0, "a lost answer has no cause");
    probe.only(&["conntrack-dnat-clash", "server-slow", "unknown"])
}

/// Sends pairs of queries from one socket each until answers are lost, asks for the first of those
/// again as a resolver does, and gives the names.
pub fn lose_answers(race: &Race, client: &Pod, service: SocketAddr) -> Result<Vec<String>> {
    const BATCH: usize = 20;
    for batch in 0..10 {
        let mut sent = Vec::new();
        for round in 0..BATCH {
            let name = format!("r{}.example.com", batch * BATCH + round);
            sent.push((fire_pair(race, client, service, &name)?, name));
        }
        let mut lost = Vec::new();
        for (socket, name) in &sent {
            lost.extend(missing(socket, name)?);
        }
        let Some((socket, name, qtype)) = lost.first() else { continue };
        // What a resolver does when its patience ends: the same question, socket and id.
        let id = client::id_of(name, *qtype);
        client::send(socket, id, name, *qtype)?;
        let outcome = client::wait(socket, id, SOON)?;
        ensure!(outcome == Outcome::Answered, "the second try of {name} was {outcome:?}");
        return Ok(lost.iter().map(|(_, name, _)| (*name).to_owned()).collect());
    }
    bail!("no answer was lost in 200 rounds; {} clashes", counters::conntrack("clashres")?)
}

/// Sends A and AAAA for a name at the same moment from one socket.
pub fn fire_pair(race: &Race, client: &Pod, service: SocketAddr, name: &str) -> Result<UdpSocket> {
    let socket = client.inside(|| client::connect(service, 0))?;
    let shot = |qtype| {
        let socket = socket.try_clone().context("cannot clone a socket")?;
        let query = message::query(client::id_of(name, qtype), name, qtype);
        Ok::<_, anyhow::Error>(move || {
            socket.send(&query).context("cannot send a query")?;
            Ok(())
        })
    };
    race.fire(shot(A)?, shot(AAAA)?)?;
    Ok(socket)
}

/// Reads the answers to both questions of a socket; gives the question whose answer did not come.
fn missing<'a>(
    socket: &'a UdpSocket,
    name: &'a str,
) -> Result<Option<(&'a UdpSocket, &'a str, u16)>> {
    let (a, aaaa) = (client::id_of(name, A), client::id_of(name, AAAA));
    let got = client::wait_all(socket, &[a, aaaa], SLOW + Duration::from_secs(2))?;
    Ok(match (got.contains(&a), got.contains(&aaaa)) {
        (true, true) => None,
        (false, _) => Some((socket, name, A)),
        (true, false) => Some((socket, name, AAAA)),
    })
}

fn backends(pods: &[Pod], v6: bool) -> Vec<String> {
    pods.iter().map(|pod| services::shown(pod, v6)).collect()
}

/// Whether a culprit is the DNS server of one of these pods.
fn is_backend(culprit: &serde_json::Value, pods: &[Pod]) -> bool {
    culprit["port"] == 53 && pods.iter().any(|pod| culprit["pod"] == pod.name.as_str())
}

fn names(pods: &[Pod]) -> Vec<String> {
    pods.iter().map(|pod| pod.name.clone()).collect()
}
