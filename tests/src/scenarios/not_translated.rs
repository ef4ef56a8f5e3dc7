//! Client and server on one bridge whose packets iptables does not see: the query is translated by
//! the node, the answer goes straight back, by the server's own address.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};

use crate::{
    again::{Asker, armed},
    command::run,
    counters,
    dns::{
        A, client, message,
        server::{self, Behaviour},
    },
    lab::Lab,
    netns::Pod,
    services::{self, Choice},
    sysctl,
    tcp::{self, Attempt, State},
    wait::{SOON, until},
};

const V6: &str = "[fd00:96::10]:53";

/// Two pods on the bridge.
fn pods(lab: &Lab) -> Result<(Pod, Pod)> {
    let pods = (lab.bridged("client")?, lab.bridged("dns")?);
    run("modprobe", &["br_netfilter"])?;
    for tool in ["iptables", "ip6tables"] {
        sysctl::set(&format!("net.bridge.bridge-nf-call-{tool}"), "0")?;
    }
    Ok(pods)
}

pub fn dns(lab: &Lab) -> Result<()> {
    answer_past(lab, false)
}

pub fn dns_v6(lab: &Lab) -> Result<()> {
    answer_past(lab, true)
}

fn answer_past(lab: &Lab, v6: bool) -> Result<()> {
    let (client, dns) = pods(lab)?;
    let _server = server::start(&dns, "dns", Behaviour::default())?;
    let service = if v6 { V6.parse()? } else { (services::DNS_V4, 53).into() };
    services::udp(service, &[SocketAddr::new(dns.address(v6), 53)], Choice::Random)?;
    let probe = lab.probe(&["--events"])?;

    let clashes = counters::conntrack("clashres")?;
    Asker::new(&client, service)?.stalled(lab, &probe, "db.example.com")?;
    ensure!(counters::conntrack("clashres")? == clashes, "there was a clash");

    probe
        .cause("reply-not-translated", "client", SOON)?
        .is("/symptom", "dns-stall")?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "dns")?
        .is("/details/service", service.to_string())?
        .is("/details/backend", services::shown(&dns, v6))?
        .is("/details/backend_pod", "dns")?
        .is("/details/br_netfilter_loaded", true)?
        .filled("/fix")?;
    probe.stop()?;
    probe.only(&["reply-not-translated"])
}

pub fn tcp(lab: &Lab) -> Result<()> {
    syn_ack_past(lab, false)
}

pub fn tcp_v6(lab: &Lab) -> Result<()> {
    syn_ack_past(lab, true)
}

fn syn_ack_past(lab: &Lab, v6: bool) -> Result<()> {
    let (client, shop) = pods(lab)?;
    let backend = SocketAddr::new(shop.address(v6), 8080);
    let _server = tcp::listen(&shop, "shop", backend, 128, true)?;
    let service: SocketAddr = if v6 { "[fd00:96::20]:80" } else { "10.96.0.20:80" }.parse()?;
    let (tool, to) = (if v6 { "ip6tables" } else { "iptables" }, service.ip().to_string());
    let (port, backend_end) = (service.port().to_string(), backend.to_string());
    let rule = ["-t", "nat", "-A", "PREROUTING", "-d", &to, "-p", "tcp", "--dport", &port];
    run(tool, &[&rule[..], &["-j", "DNAT", "--to-destination", &backend_end]].concat())?;
    let probe = lab.probe(&["--events"])?;

    let attempt = Attempt::start(&client, service)?;
    armed(lab, &probe)?;
    probe
        .cause("reply-not-translated", "client", SOON)?
        .is("/symptom", "connect-stall")?
        .is("/confidence", "certain")?
        .is("/culprit/pod", shop.name.as_str())?
        .is("/details/service", service.to_string())?
        .is("/details/backend", backend.to_string())?;
    let state = attempt.wait(std::time::Duration::ZERO)?;
    ensure!(state == State::Pending, "the connect was {state:?}");
    probe.stop()?;
    probe.only(&["reply-not-translated"])
}

/// A look-alike: an answer would go past the translation, but none comes: the server got both
/// queries and keeps silent.
pub fn silent(lab: &Lab) -> Result<()> {
    let (client, dns) = pods(lab)?;
    let behaviour = Behaviour { silent: true, ..Behaviour::default() };
    let _server = server::start(&dns, "dns", behaviour)?;
    let service = services::dns(std::slice::from_ref(&dns), Choice::Random)?;
    let probe = lab.probe(&[])?;

    let got = counters::net(&dns, "Udp:InDatagrams")?;
    let (asker, name) = (Asker::new(&client, service)?, "db.example.com");
    // Nothing is armed for it: the server is seen to have the query.
    for _ in 0..2 {
        asker.send(name)?;
        let outcome = asker.wait(name)?;
        ensure!(outcome == client::Outcome::Silent, "the query was {outcome:?}");
    }
    ensure!(counters::net(&dns, "Udp:InDatagrams")? >= got + 2, "the server was not asked twice");

    probe
        .cause("server-slow", "client", SOON)?
        .is("/symptom", "dns-stall")?
        .is("/confidence", "likely")?
        .is("/culprit/pod", "dns")?;
    probe.stop()?;
    probe.only(&["server-slow"])
}

pub fn stranger(lab: &Lab) -> Result<()> {
    stranger_over(lab, false)
}

pub fn stranger_v6(lab: &Lab) -> Result<()> {
    stranger_over(lab, true)
}

/// A look-alike: a rule drops the query, and a host that has nothing to do with it sends something
/// to the client's port that looks like an answer.
fn stranger_over(lab: &Lab, v6: bool) -> Result<()> {
    let (client, dns) = (lab.pod("client")?, lab.pod("dns")?);
    let stranger = lab.pod("stranger")?;
    let _server = server::start(&dns, "dns", Behaviour::default())?;
    let service = services::dns_over(std::slice::from_ref(&dns), Choice::Random, v6)?;
    let (tool, to) = (if v6 { "ip6tables" } else { "iptables" }, dns.address(v6).to_string());
    run(tool, &["-A", "FORWARD", "-d", &to, "-j", "DROP"])?;
    let probe = lab.probe(&["--events"])?;

    let asker = Asker::new(&client, service)?;
    let to = SocketAddr::new(client.address(v6), asker.port()?);
    let socket = stranger.inside(|| {
        let from = SocketAddr::new(stranger.address(v6), 53);
        UdpSocket::bind(from).with_context(|| format!("cannot bind {from}"))
    })?;
    let name = "db.example.com";
    let query = message::query(client::id_of(name, A), name, A);
    let question = message::question(&query).context("a query")?;
    let counter = if v6 { "Udp6NoPorts" } else { "Udp:NoPorts" };
    let unmet = counters::net(&client, counter)?;
    asker.send(name)?;
    armed(lab, &probe)?;
    asker.send(name)?;
    socket.send_to(&message::nxdomain(&query, &question), to).context("cannot send")?;
    until("the stranger's packet met no socket", SOON, || {
        Ok((counters::net(&client, counter)? > unmet).then_some(()))
    })?;

    probe.unknown("dns-stall", "client")?;
    probe.stop()?;
    probe.only(&["unknown"])
}
