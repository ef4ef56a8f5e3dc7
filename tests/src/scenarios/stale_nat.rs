//! A conntrack entry that is older than the state of things, kept alive by a client that asks from
//! one port for ever; and what looks like one.

use std::net::SocketAddr;

use anyhow::Result;

use crate::{
    again::{Asker, gone},
    command::run,
    dns::server::{self, Behaviour},
    lab::Lab,
    netns::Pod,
    process::Process,
    services::{self, Choice},
    wait::SOON,
};

const V6: &str = "[fd00:96::10]:53";

/// A client, and a DNS service whose only pod has answered it once.
struct Stage {
    client: Pod,
    old: Pod,
    server: Option<Process>,
    service: SocketAddr,
    asker: Asker,
}

impl Stage {
    fn new(lab: &Lab, v6: bool, behaviour: Behaviour) -> Result<Self> {
        let (client, old) = (lab.pod("client")?, lab.pod("dns-old")?);
        let server = server::start(&old, "dns", behaviour)?;
        let service = if v6 { V6.parse()? } else { (services::DNS_V4, 53).into() };
        lead_to(service, &old)?;
        let asker = Asker::new(&client, service)?;
        asker.answered("first.example.com")?;
        Ok(Self { client, old, server: Some(server), service, asker })
    }

    /// Deletes the pod, as the kubelet does: its processes, then its namespace.
    fn delete_pod(&mut self) -> Result<()> {
        self.server = None;
        run("ip", &["netns", "del", &self.old.name]).map(drop)
    }
}

/// Writes the service's rules anew, and leaves the connection tracking table as it is.
fn lead_to(service: SocketAddr, pod: &Pod) -> Result<()> {
    let backend = SocketAddr::new(pod.address(service.is_ipv6()), 53);
    services::udp(service, &[backend], Choice::Random)
}

pub fn pod_gone(lab: &Lab) -> Result<()> {
    leads_to_gone_pod(lab, false)
}

pub fn pod_gone_v6(lab: &Lab) -> Result<()> {
    leads_to_gone_pod(lab, true)
}

/// The pod is replaced and the rules are renewed, the entry is not.
fn leads_to_gone_pod(lab: &Lab, v6: bool) -> Result<()> {
    let mut stage = Stage::new(lab, v6, Behaviour::default())?;
    let probe = lab.probe(&["--events"])?;
    let old_end = services::shown(&stage.old, v6);
    let new = lab.pod("dns-new")?;
    let _server = server::start(&new, "dns", Behaviour::default())?;
    lead_to(stage.service, &new)?;
    stage.delete_pod()?;
    gone(lab, &probe)?;

    stage.asker.stalled(lab, &probe, "db.example.com")?;
    // A new socket is well.
    Asker::new(&stage.client, stage.service)?.answered("other.example.com")?;

    probe
        .cause("conntrack-stale-nat", "client", SOON)?
        .is("/symptom", "dns-stall")?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "dns-old")?
        .is("/details/service", stage.service.to_string())?
        .is("/details/target", old_end)?
        .is("/details/target_pod", "dns-old")?
        .is("/details/is", "gone")?
        .filled("/fix")?;
    probe.stop()?;
    probe.only(&["conntrack-stale-nat"])
}

pub fn before_the_rules(lab: &Lab) -> Result<()> {
    older_than_rules(lab, false)
}

pub fn before_the_rules_v6(lab: &Lab) -> Result<()> {
    older_than_rules(lab, true)
}

/// The client asked before the service's rules were there: its entry translates nothing.
fn older_than_rules(lab: &Lab, v6: bool) -> Result<()> {
    let probe = lab.probe(&["--events"])?;
    let (client, new) = (lab.pod("client")?, lab.pod("dns-new")?);
    let uplink = lab.outside("uplink")?;
    let _server = server::start(&new, "dns", Behaviour::default())?;
    // What has no rule of its own leaves the node, as on a node with a default route.
    let (family, services) = if v6 { ("-6", "fd00:96::/112") } else { ("-4", "10.96.0.0/16") };
    let via = uplink.address(v6).to_string();
    run("ip", &[family, "route", "add", services, "via", &via])?;
    services::masquerade(None)?;
    let service: SocketAddr = if v6 { V6.parse()? } else { (services::DNS_V4, 53).into() };
    let asker = Asker::new(&client, service)?;
    asker.send("early.example.com")?;
    lead_to(service, &new)?;

    asker.send("db.example.com")?;
    asker.wait("db.example.com")?;
    crate::again::armed(lab, &probe)?;
    // A younger flow of the same client is translated.
    Asker::new(&client, service)?.answered("other.example.com")?;
    asker.send("db.example.com")?;
    asker.wait("db.example.com")?;

    probe
        .finding("conntrack-stale-nat", SOON, |f| f["cause"] == "conntrack-stale-nat")?
        .is("/confidence", "certain")?
        .is("/victim/pod", "client")?
        .is("/details/is", "untranslated")?
        .is("/details/service", service.to_string())?
        .is("/details/others_go_to", services::shown(&new, v6))?;
    probe.stop()?;
    probe.only(&["conntrack-stale-nat"])
}

/// A look-alike: the entry is as old, its pod lives, and a rule drops the query.
pub fn rule_drops(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, false, Behaviour::default())?;
    let probe = lab.probe(&["--events"])?;
    run("iptables", &["-A", "FORWARD", "-p", "udp", "--dport", "53", "-j", "DROP"])?;

    stage.asker.stalled(lab, &probe, "db.example.com")?;

    probe.unknown("dns-stall", "client")?;
    probe.stop()?;
    probe.only(&["unknown"])
}

/// A look-alike: the pod is gone, but the rules still lead there. A new entry is no better.
pub fn rules_not_renewed(lab: &Lab) -> Result<()> {
    let mut stage = Stage::new(lab, false, Behaviour::default())?;
    let probe = lab.probe(&["--events"])?;
    stage.delete_pod()?;
    gone(lab, &probe)?;

    let asker = Asker::new(&stage.client, stage.service)?;
    asker.stalled(lab, &probe, "db.example.com")?;

    probe.unknown("dns-stall", "client")?;
    probe.stop()?;
    probe.only(&["unknown"])
}

/// A look-alike: the pod is gone, and the client asks by a new port.
pub fn new_port(lab: &Lab) -> Result<()> {
    let mut stage = Stage::new(lab, false, Behaviour::default())?;
    let probe = lab.probe(&["--events"])?;
    let new = lab.pod("dns-new")?;
    let _server = server::start(&new, "dns", Behaviour::default())?;
    lead_to(stage.service, &new)?;
    stage.delete_pod()?;
    gone(lab, &probe)?;

    Asker::new(&stage.client, stage.service)?.answered("db.example.com")?;

    probe.stop()?;
    probe.only(&[])
}
