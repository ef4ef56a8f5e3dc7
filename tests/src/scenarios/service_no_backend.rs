//! A service without endpoints where kube-proxy's rules refuse it: iptables mode, by both programs
//! that write such rules, and nftables mode.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    command::run,
    dns::{
        A,
        client::{self, Outcome},
    },
    kube_proxy::{self, Mode, Service},
    lab::Lab,
    netns::Pod,
    process::Process,
    tcp::{Attempt, State},
    wait::SOON,
};

pub fn iptables_nft(lab: &Lab) -> Result<()> {
    without_endpoints(lab, Mode::IptablesNft, false)
}

pub fn iptables_legacy(lab: &Lab) -> Result<()> {
    without_endpoints(lab, Mode::IptablesLegacy, false)
}

pub fn iptables_legacy_v6(lab: &Lab) -> Result<()> {
    without_endpoints(lab, Mode::IptablesLegacy, true)
}

pub fn iptables_v6(lab: &Lab) -> Result<()> {
    without_endpoints(lab, Mode::IptablesNft, true)
}

pub fn nftables(lab: &Lab) -> Result<()> {
    without_endpoints(lab, Mode::Nftables, false)
}

pub fn nftables_v6(lab: &Lab) -> Result<()> {
    without_endpoints(lab, Mode::Nftables, true)
}

/// Kernels that kube-proxy's nftables mode works on.
pub const NFTABLES: &[&str] = &["6.1", "6.12", "6.18", "7.2"];

/// A client pod with a container, on a node with kube-proxy and a way out.
struct World {
    client: Pod,
    outside: Pod,
    _programs: [Process; 2],
}

impl World {
    /// `told`: what the container's environment tells of.
    fn new(lab: &Lab, mode: Mode, services: &[Service], told: &[Service]) -> Result<Self> {
        let (client, outside) = (lab.pod("client")?, lab.outside("outside")?);
        let v6 = services.iter().any(|s| s.address.is_ipv6());
        way_out(&outside, v6)?;
        let programs = [
            kube_proxy::start(mode, services)?,
            Process::container(&client, kube_proxy::environment(told))?,
        ];
        Ok(Self { client, outside, _programs: programs })
    }

    /// A connect that must fail with this error.
    fn fails(&self, to: SocketAddr, error: i32) -> Result<()> {
        let state = Attempt::start(&self.client, to)?.wait(SOON)?;
        ensure!(state == State::Failed(error), "the connect was {state:?}");
        Ok(())
    }
}

/// Nobody owns a service's address: such a packet would leave by the default route.
fn way_out(outside: &Pod, v6: bool) -> Result<()> {
    let (family, via) = (if v6 { "-6" } else { "-4" }, outside.address(v6).to_string());
    run("ip", &[family, "route", "add", "default", "via", &via]).map(drop)
}

fn without_endpoints(lab: &Lab, mode: Mode, v6: bool) -> Result<()> {
    let shop = Service::shop(v6, Vec::new());
    let (address, all) = (shop.address, [shop]);
    let world = World::new(lab, mode, &all, &all)?;
    let probe = lab.probe(&[])?;

    world.fails(address, libc::ECONNREFUSED)?;

    // In nftables mode a port that the service does not have any more is refused as well.
    let confidence = if matches!(mode, Mode::Nftables) { "likely" } else { "certain" };
    probe
        .cause("service-no-backend", "client", SOON)?
        .is("/symptom", "connect-refused")?
        .is("/confidence", confidence)?
        .is("/details/service", address.to_string())?
        .is("/details/proxy", mode.name())?
        .is("/details/name", "shop")?
        .is("/culprit/address", address.ip().to_string())?
        .is("/culprit/port", address.port())?
        .filled("/fix")?;
    probe.kube_proxy_is(mode.name())?;
    probe.stop()?;
    probe.only(&["service-no-backend"])
}

/// A service that the pods' environment does not tell of, such as one of another namespace.
pub fn unlisted(lab: &Lab) -> Result<()> {
    let shop = Service::shop(false, Vec::new());
    let kubernetes = Service {
        name: "kubernetes",
        port_name: "https",
        address: ([10, 96, 0, 1], 443).into(),
        ..shop.clone()
    };
    let address = shop.address;
    let world = World::new(lab, Mode::IptablesNft, &[shop], &[kubernetes])?;
    let probe = lab.probe(&[])?;

    world.fails(address, libc::ECONNREFUSED)?;

    probe
        .cause("service-no-backend", "client", SOON)?
        .is("/confidence", "likely")?
        .is("/culprit/address", address.ip().to_string())?
        .is("/details/service", address.to_string())?;
    probe.stop()?;
    probe.only(&["service-no-backend"])
}

pub fn dns(lab: &Lab) -> Result<()> {
    dns_over(lab, false)
}

pub fn dns_v6(lab: &Lab) -> Result<()> {
    dns_over(lab, true)
}

/// The cluster's DNS service, which pods know as their nameserver.
fn dns_over(lab: &Lab, v6: bool) -> Result<()> {
    let dns = Service::dns(v6, &[]);
    let address = dns.address;
    let conf = format!(
        "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver {}\n\
         options ndots:5\n",
        address.ip()
    );
    let client = lab.pod("client")?;
    lab.resolv_conf(&client, &conf)?;
    way_out(&lab.outside("outside")?, v6)?;
    let _programs =
        [kube_proxy::start(Mode::IptablesNft, &[dns])?, Process::container(&client, Vec::new())?];
    let probe = lab.probe(&[])?;

    let patience = [Duration::from_secs(5); 2];
    let outcome = client::ask(&client, address, "db.example.com", A, &patience)?;
    ensure!(outcome == Outcome::Refused, "the query was {outcome:?}");

    probe
        .cause("service-no-backend", "client", SOON)?
        .is("/symptom", "dns-stall")?
        .is("/confidence", "certain")?
        .is("/culprit/address", address.ip().to_string())?
        .is("/culprit/port", address.port())?
        .is("/details/service", address.to_string())?;
    probe.stop()?;
    probe.only(&["service-no-backend"])
}

pub fn closed_port(lab: &Lab) -> Result<()> {
    closed_port_over(lab, false)
}

pub fn closed_port_v6(lab: &Lab) -> Result<()> {
    closed_port_over(lab, true)
}

/// A look-alike: the service has a pod, and nobody listens there.
fn closed_port_over(lab: &Lab, v6: bool) -> Result<()> {
    let server = lab.pod("shop")?;
    let shop = Service::shop(v6, vec![SocketAddr::new(server.address(v6), 8080)]);
    let (address, all) = (shop.address, [shop]);
    let world = World::new(lab, Mode::IptablesNft, &all, &all)?;
    let probe = lab.probe(&[])?;

    world.fails(address, libc::ECONNREFUSED)?;

    probe
        .cause("no-listener", "client", SOON)?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "shop")?
        .is("/details/pod", "shop")?
        .is("/details/port", 8080)?;
    probe.stop()?;
    probe.only(&["no-listener"])
}

/// A look-alike: a firewall that refuses the service's address in its own way.
pub fn host_prohibited(lab: &Lab) -> Result<()> {
    let shop = Service::shop(false, Vec::new());
    let (address, all) = (shop.address, [shop]);
    let world = World::new(lab, Mode::IptablesNft, &all, &all)?;
    let to = address.ip().to_string();
    let mut rule = vec!["-I", "FORWARD", "-d", &to, "-j", "REJECT"];
    rule.extend(["--reject-with", "icmp-host-prohibited"]);
    run("iptables-nft", &rule)?;
    let probe = lab.probe(&[])?;

    world.fails(address, libc::EHOSTUNREACH)?;

    unknown(&probe, "connect-stall")
}

/// A look-alike: a rule that refuses in the way kube-proxy does, to an address that is no service.
pub fn other_address(lab: &Lab) -> Result<()> {
    let shop = Service::shop(false, Vec::new());
    let all = [shop];
    let world = World::new(lab, Mode::IptablesNft, &all, &all)?;
    let to = world.outside.v4.to_string();
    run("iptables-nft", &["-I", "FORWARD", "-d", &to, "-p", "tcp", "-j", "REJECT"])?;
    let probe = lab.probe(&[])?;
    // Services are known by then.
    world.fails(all[0].address, libc::ECONNREFUSED)?;
    probe.cause("service-no-backend", "client", SOON)?;

    world.fails((world.outside.v4, 443).into(), libc::ECONNREFUSED)?;

    probe.unknown("connect-refused", "client")?.is("/flow/dport", 443)?;
    probe.stop()?;
    probe.only(&["service-no-backend", "unknown"])?;
    let named = |f: &serde_json::Value| f["cause"] == "service-no-backend";
    ensure!(lab.faults_only() || probe.stalls(named) == 1, "the other address was named so, too");
    Ok(())
}

/// A look-alike: nftables mode refuses a port that the service does not have in the same way.
pub fn wrong_port(lab: &Lab) -> Result<()> {
    let server = lab.pod("shop")?;
    let shop = Service::shop(false, vec![(server.v4, 8080).into()]);
    let (mut address, all) = (shop.address, [shop]);
    let world = World::new(lab, Mode::Nftables, &all, &all)?;
    address.set_port(81);
    let probe = lab.probe(&[])?;

    world.fails(address, libc::ECONNREFUSED)?;

    unknown(&probe, "connect-refused")
}

fn unknown(probe: &crate::probe::Probe, symptom: &str) -> Result<()> {
    probe.unknown(symptom, "client")?.check("/evidence", "the reject", |lines| {
        lines.as_array().into_iter().flatten().any(|line| line["kind"] == "packet-rejected")
    })?;
    probe.stop()?;
    probe.only(&["unknown"])
}
