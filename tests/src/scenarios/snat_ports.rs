//! No free port is left for the masquerade: dropped in the same place as a race for a port, against
//! entries that were there long before.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    command::run,
    counters,
    dns::{
        A,
        client::{self, Outcome},
        server::{self, Behaviour},
    },
    finding::Finding,
    ipvs,
    kube_proxy::{self, Mode, Service},
    lab::Lab,
    netns::Pod,
    probe::Probe,
    process::Process,
    services, sysctl,
    tcp::{self, Attempt, State, sent_again},
    wait::{SOON, until},
};

/// The ports that the cases with a range of their own leave to the masquerade.
const PORTS: RangeInclusive<u16> = 40000..=40003;
/// Seconds that make the entries old: a race is over in far less.
const AGE: u64 = 3;

pub fn udp(lab: &Lab) -> Result<()> {
    udp_over(lab, false)
}

pub fn udp_v6(lab: &Lab) -> Result<()> {
    udp_over(lab, true)
}

fn udp_over(lab: &Lab, v6: bool) -> Result<()> {
    let client = lab.pod("client")?;
    let resolver = lab.outside("resolver")?;
    let _server = server::start(&resolver, "resolver", Behaviour::default())?;
    services::masquerade(Some("40000-40003"))?;
    let to = SocketAddr::new(resolver.address(v6), 53);
    let probe = lab.probe(&[])?;

    for i in 0..PORTS.len() {
        let outcome = client::ask(&client, to, &format!("first{i}.example.com"), A, &[SOON])?;
        ensure!(outcome == Outcome::Answered, "query {i} had a port, yet it was {outcome:?}");
    }
    grown_old("udp", to, PORTS.len())?;
    let failed = counters::conntrack("insert_failed")?;
    let patience = [Duration::from_millis(1500); 2];
    let outcome = client::ask(&client, to, "late.example.com", A, &patience)?;
    ensure!(outcome == Outcome::Silent, "there was a fifth port: {outcome:?}");
    let dropped = counters::conntrack("insert_failed")?.checked_sub(failed);
    ensure!(dropped.context("a counter fell")? >= 2, "nothing was dropped at insertion");

    check(&probe, &client, to, to, PORTS)?.is("/symptom", "dns-stall")?.check(
        "/details/holder_age_jiffies",
        "more than 250",
        |v| v.as_i64().is_some_and(|age| age > 250),
    )?;
    probe.stop()?;
    probe.only(&["snat-ports-exhausted"])
}

pub fn tcp(lab: &Lab) -> Result<()> {
    tcp_over(lab, false)
}

pub fn tcp_v6(lab: &Lab) -> Result<()> {
    tcp_over(lab, true)
}

/// Another pod holds all ports by connections that stay open.
fn tcp_over(lab: &Lab, v6: bool) -> Result<()> {
    let (holder, client) = (lab.pod("holder")?, lab.pod("client")?);
    let shop = lab.outside("shop")?;
    let any = if v6 { ([0u16; 8], 443).into() } else { ([0u8; 4], 443).into() };
    // Not accepted, so that nobody closes them.
    let _server = tcp::listen(&shop, "shop-api", any, 128, false)?;
    services::masquerade(Some("40000-40003"))?;
    let to = SocketAddr::new(shop.address(v6), 443);
    let probe = lab.probe(&[])?;

    let _held = hold_ports(&holder, to)?;
    grown_old("tcp", to, PORTS.len())?;
    let failed = counters::conntrack("insert_failed")?;
    let attempt = Attempt::start(&client, to)?;
    let state = attempt.wait(Duration::from_millis(2500))?;
    ensure!(state == State::Pending, "there was a fifth port: {state:?}");
    let dropped = counters::conntrack("insert_failed")?.checked_sub(failed);
    ensure!(dropped.context("a counter fell")? >= 2, "nothing was dropped at insertion");

    check(&probe, &client, to, to, PORTS)?
        .is("/symptom", "connect-stall")?
        .is("/details/holder_pod", "holder")?
        .at_least("/details/holder_age_ms", 1000)?;
    probe.stop()?;
    probe.only(&["snat-ports-exhausted"])
}

pub fn kube_proxy_iptables(lab: &Lab) -> Result<()> {
    kube_proxy_masquerades(lab, |dns| kube_proxy::start(Mode::IptablesNft, &[dns]))
}

pub fn kube_proxy_nftables(lab: &Lab) -> Result<()> {
    kube_proxy_masquerades(lab, |dns| kube_proxy::start(Mode::Nftables, &[dns]))
}

pub fn kube_proxy_ipvs(lab: &Lab) -> Result<()> {
    kube_proxy_masquerades(lab, |dns| {
        let kube_proxy = ipvs::setup(1, 1)?;
        for backend in &dns.backends {
            ipvs::udp(dns.address, *backend)?;
        }
        Ok(kube_proxy)
    })
}

/// kube-proxy's own masquerade with fully random ports, for clients that are not of its
/// `--cluster-cidr`. From a port below 1024 the kernel looks for one among these alone
/// (`nf_nat_l4proto_unique_tuple`), few enough to use them up.
fn kube_proxy_masquerades(lab: &Lab, start: impl Fn(Service) -> Result<Process>) -> Result<()> {
    const LOW: RangeInclusive<u16> = 600..=1023;
    let (holder, client) = (lab.bridged("holder")?, lab.bridged("client")?);
    let dns = lab.pod("dns")?;
    let _server = server::start(&dns, "dns", Behaviour::default())?;
    let service = Service::dns(false, std::slice::from_ref(&dns));
    let to = service.address;
    let _kube_proxy = start(service)?;
    // They are to live until all has been told: so many take a while.
    sysctl::set("net.netfilter.nf_conntrack_udp_timeout", "600")?;

    for port in LOW {
        let (socket, name) = (holder.inside(|| client::connect(to, port))?, "first.example.com");
        // A part of the ports is tried each time, so the last free ones are not found at once.
        until(&format!("query {port} has a port"), SOON, || {
            client::send(&socket, port, name, A)?;
            let outcome = client::wait(&socket, port, Duration::from_millis(100))?;
            Ok((outcome == Outcome::Answered).then_some(()))
        })?;
    }
    grown_old("udp", to, LOW.len())?;
    let probe = lab.probe(&[])?;
    let failed = counters::conntrack("insert_failed")?;
    let socket = client.inside(|| client::connect(to, *LOW.end()))?;
    for _ in 0..2 {
        client::send(&socket, 1, "late.example.com", A)?;
        let outcome = client::wait(&socket, 1, Duration::from_millis(1500))?;
        ensure!(outcome == Outcome::Silent, "there was one more port: {outcome:?}");
    }
    let dropped = counters::conntrack("insert_failed")?.checked_sub(failed);
    ensure!(dropped.context("a counter fell")? >= 2, "nothing was dropped at insertion");

    let backend = SocketAddr::new(dns.v4.into(), 53);
    check(&probe, &client, to, backend, LOW)?
        .is("/symptom", "dns-stall")?
        .is("/details/holder_pod", "holder")?;
    probe.stop()?;
    probe.only(&["snat-ports-exhausted"])
}

pub fn rule_drops(lab: &Lab) -> Result<()> {
    rule_drops_over(lab, false)
}

pub fn rule_drops_v6(lab: &Lab) -> Result<()> {
    rule_drops_over(lab, true)
}

/// Look-alike: all ports are held, but a rule drops the client's SYN before one is looked for.
fn rule_drops_over(lab: &Lab, v6: bool) -> Result<()> {
    let (holder, client) = (lab.pod("holder")?, lab.pod("client")?);
    let shop = lab.outside("shop")?;
    let to = SocketAddr::new(shop.address(v6), 443);
    let _server = tcp::listen(&shop, "shop-api", to, 128, false)?;
    services::masquerade(Some("40000-40003"))?;
    let (tool, from) = (if v6 { "ip6tables" } else { "iptables" }, client.address(v6).to_string());
    run(tool, &["-A", "FORWARD", "-s", &from, "-j", "DROP"])?;
    let probe = lab.probe(&[])?;

    let _held = hold_ports(&holder, to)?;
    grown_old("tcp", to, PORTS.len())?;
    let failed = counters::conntrack("insert_failed")?;
    let _attempt = Attempt::start(&client, to)?;
    sent_again(&client)?;
    ensure!(counters::conntrack("insert_failed")? == failed, "something else was dropped");

    probe.unknown("connect-stall", "client")?;
    probe.stop()?;
    probe.only(&["unknown"])
}

/// Connections of a pod that hold every port of the range.
fn hold_ports(holder: &Pod, to: SocketAddr) -> Result<Vec<Attempt>> {
    let mut held = Vec::new();
    for i in 0..PORTS.len() {
        let attempt = Attempt::start(holder, to)?;
        let state = attempt.wait(SOON)?;
        ensure!(state == State::Connected, "connect {i} had a port, yet it was {state:?}");
        held.push(attempt);
    }
    Ok(held)
}

/// Waits until the entries towards a server, which see no packets, are nearer to their end by
/// [`AGE`].
fn grown_old(proto: &str, to: SocketAddr, ports: usize) -> Result<()> {
    let all = remaining(proto, to)?;
    ensure!(all.len() == ports, "{} entries hold {ports} ports", all.len());
    let longest = all.into_iter().max().unwrap_or_default();
    until("the entries are old", SOON, || {
        let all = remaining(proto, to)?;
        ensure!(all.len() == ports, "an entry is gone, or there is one more");
        Ok(all.into_iter().all(|left| left + AGE <= longest).then_some(()))
    })
}

/// Seconds that each entry towards a server has left, as `conntrack -L` shows it after the names
/// and number of the protocol.
fn remaining(proto: &str, to: SocketAddr) -> Result<Vec<u64>> {
    let family = if to.is_ipv6() { "ipv6" } else { "ipv4" };
    let (address, port) = (to.ip().to_string(), to.port().to_string());
    let list = ["-L", "-f", family, "-p", proto, "-d", &address, "--dport", &port];
    let text = run("conntrack", &list)?;
    let left = |line: &str| line.split_whitespace().nth(2)?.parse().ok();
    Ok(text.lines().filter_map(left).collect())
}

/// What is told of a client that asked `to`, behind which this server is reached by these ports.
fn check(
    probe: &Probe,
    client: &Pod,
    to: SocketAddr,
    server: SocketAddr,
    ports: RangeInclusive<u16>,
) -> Result<Finding> {
    let finding = probe.cause("snat-ports-exhausted", &client.name, SOON)?;
    let address = client.address(to.is_ipv6()).to_string();
    finding
        .is("/confidence", "certain")?
        .is("/victim/address", address.as_str())?
        .is("/flow/src", address.as_str())?
        .is("/flow/dst", to.ip().to_string())?
        .is("/details/destination", server.to_string())?
        .check("/details/snat_to", "a port of the range", |v| {
            let port = v.as_str().and_then(|v| v.rsplit(':').next()?.parse::<u16>().ok());
            port.is_some_and(|port| ports.contains(&port))
        })?
        // Its ports they are.
        .is("/culprit/address", node(server.ip()).to_string())?
        .filled("/details/holder")?
        .filled("/fix")?;
    Ok(finding)
}

/// The node's address towards a host beyond it, or a pod.
fn node(server: IpAddr) -> IpAddr {
    match server {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            [a, b, c, 1].into()
        }
        IpAddr::V6(v6) => {
            let mut bytes = v6.octets();
            bytes[15] = 1;
            bytes.into()
        }
    }
}
