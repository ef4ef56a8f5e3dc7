//! A source port of the node's own equals a NodePort: IPVS takes the SYN-ACK.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    command::run,
    counters, ipvs,
    lab::Lab,
    netns::Pod,
    sysctl,
    tcp::{self, Attempt, State},
    wait::{SOON, until},
};

const NODE_PORT: u16 = 31055;

pub fn hijack(lab: &Lab) -> Result<()> {
    collision(lab, false)
}

pub fn hijack_v6(lab: &Lab) -> Result<()> {
    collision(lab, true)
}

/// The node's address towards a pod, from which its own connections to it come.
fn node(pod: &Pod, v6: bool) -> SocketAddr {
    let mut bytes = pod.v6.octets();
    bytes[15] = 1;
    let [a, b, c, _] = pod.v4.octets();
    match v6 {
        true => (bytes, NODE_PORT).into(),
        false => ([a, b, c, 1], NODE_PORT).into(),
    }
}

fn collision(lab: &Lab, v6: bool) -> Result<()> {
    let (shop, other) = (lab.pod("shop")?, lab.pod("other")?);
    let to = SocketAddr::new(shop.address(v6), 8080);
    let _shop = tcp::listen(&shop, "shop-api", to, 128, true)?;
    let _kube_proxy = ipvs::setup(1, 1)?;
    sysctl::set("net.ipv4.ip_local_port_range", "1024 60999")?;
    sysctl::set("net.ipv4.ip_local_reserved_ports", "8080,9148")?;
    let service = node(&shop, v6);
    ipvs::service(service, false)?;
    let backend = SocketAddr::new(other.address(v6), 8080);
    ipvs::add(service, backend, 1)?;
    let probe = lab.probe(&[])?;

    let attempt = Attempt::bind(v6, NODE_PORT)?;
    attempt.fire(to)?;

    probe
        .cause("ipvs-nodeport-collision", "host", SOON)?
        .is("/symptom", "connect-stall")?
        .is("/confidence", "certain")?
        .is("/culprit/address", service.ip().to_string())?
        .is("/culprit/port", NODE_PORT)?
        .is("/details/service", service.to_string())?
        .is("/details/port", NODE_PORT)?
        .is("/details/server", to.to_string())?
        .is("/details/server_pod", "shop")?
        .is("/details/sent_to", backend.to_string())?
        .is("/details/sent_to_pod", "other")?
        .is("/details/range_overlaps_node_ports", true)?
        .is("/details/reserved_ports", "8080,9148")?
        .is("/details/port_is_reserved", false)?
        .is("/details/reserve", "8080,9148,30000-32767")?
        .filled("/fix")?;
    ensure!(attempt.wait(Duration::ZERO)? == State::Pending, "the connect got through");
    probe.stop()?;
    // The other pod's resets may show as stalls of the shop's; the cause is the same.
    probe.only(&["ipvs-nodeport-collision"])
}

/// A look-alike: a rule drops the SYN-ACK on its way back; the port is no NodePort.
pub fn rule_drops(lab: &Lab) -> Result<()> {
    let (shop, other) = (lab.pod("shop")?, lab.pod("other")?);
    let to = SocketAddr::new(shop.v4.into(), 8080);
    let _shop = tcp::listen(&shop, "shop-api", to, 128, true)?;
    let _kube_proxy = ipvs::setup(1, 1)?;
    let service = node(&shop, false);
    ipvs::service(service, false)?;
    ipvs::add(service, SocketAddr::new(other.v4.into(), 8080), 1)?;
    run("nft", &["add", "table", "inet", "firewall"])?;
    let chain = "{ type filter hook input priority 0 ; }";
    run("nft", &["add", "chain", "inet", "firewall", "input", chain])?;
    let rule = "tcp sport 8080 tcp flags & (syn|ack) == (syn|ack) drop";
    run("nft", &["add", "rule", "inet", "firewall", "input", rule])?;
    let probe = lab.probe(&[])?;

    let attempt = Attempt::bind(false, NODE_PORT + 1)?;
    attempt.fire(to)?;

    probe.unknown("connect-stall", "host")?;
    ensure!(attempt.wait(Duration::ZERO)? == State::Pending, "the connect got through");
    probe.stop()?;
    probe.only(&["unknown"])
}

/// A look-alike: the NodePort is used as it should be, and its pod's accept queue is full.
pub fn full_queue(lab: &Lab) -> Result<()> {
    let (client, other) = (lab.pod("client")?, lab.pod("other")?);
    let backend = SocketAddr::new(other.v4.into(), 8080);
    let _other = tcp::listen(&other, "shop-api", backend, 0, false)?;
    let _kube_proxy = ipvs::setup(1, 1)?;
    let service = node(&client, false);
    ipvs::service(service, false)?;
    ipvs::add(service, backend, 1)?;
    let probe = lab.probe(&[])?;

    let _attempts = (0..4).map(|_| Attempt::start(&client, service)).collect::<Result<Vec<_>>>()?;
    until("a SYN is refused", SOON, || {
        Ok((counters::net(&other, "ListenOverflows")? > 0).then_some(()))
    })?;

    probe
        .cause("accept-queue-overflow", "client", SOON)?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "other")?;
    probe.stop()?;
    probe.only(&["accept-queue-overflow"])
}
