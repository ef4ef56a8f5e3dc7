//! Look-alikes: kube-proxy's own rules for a load balancer with source ranges drop a SYN before
//! IPVS gets it, or after IPVS has sent it on.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    command::run,
    ipvs,
    kube_proxy::ipvs::Balancer,
    lab::Lab,
    netns::Pod,
    process::Process,
    tcp::{self, Attempt, State, sent_again},
    wait::{SOON, until},
};

/// A load balancer that one pod may use, and the pod behind it.
struct World {
    client: Pod,
    address: SocketAddr,
    _programs: [Process; 2],
}

impl World {
    fn new(lab: &Lab, v6: bool) -> Result<Self> {
        let (client, shop) = (lab.pod("client")?, lab.pod("shop")?);
        let backend = SocketAddr::new(shop.address(v6), 8080);
        let programs = [tcp::listen(&shop, "shop-api", backend, 128, true)?, ipvs::setup(1, 1)?];
        let address = ipvs::address(v6);
        let range = format!("{}/{}", client.address(v6), if v6 { 128 } else { 32 });
        ipvs::balancer(&Balancer { address, ranges: vec![range] })?;
        ipvs::add(address, backend, 1)?;
        Ok(Self { client, address, _programs: programs })
    }

    /// The pod of the source range is served.
    fn serves(&self) -> Result<()> {
        let state = Attempt::start(&self.client, self.address)?.wait(SOON)?;
        ensure!(state == State::Connected, "the client that may connect was {state:?}");
        Ok(())
    }
}

/// A client of no range: KUBE-SOURCE-RANGES-FIREWALL drops its SYN before IPVS gets it.
pub fn other_range_v6(lab: &Lab) -> Result<()> {
    let world = World::new(lab, true)?;
    let stranger = lab.pod("stranger")?;
    let probe = lab.probe(&[])?;
    world.serves()?;

    let attempt = Attempt::start(&stranger, world.address)?;
    sent_again(&stranger)?;
    ensure!(attempt.wait(Duration::ZERO)? == State::Pending, "the SYN got through");

    probe.unknown("connect-stall", "stranger")?;
    probe.stop()?;
    probe.only(&["unknown"])
}

/// The node itself: IPVS sends its SYN on, and the rule with `-m ipvs` drops it.
pub fn from_node(lab: &Lab) -> Result<()> {
    let world = World::new(lab, false)?;
    let probe = lab.probe(&[])?;
    world.serves()?;
    ensure!(dropped_by_match()? == 0, "the rule dropped what the pod sent");

    let attempt = Attempt::bind(false, 0)?;
    attempt.fire(world.address)?;
    until("the rule drops the SYN twice", SOON, || Ok((dropped_by_match()? >= 2).then_some(())))?;
    ensure!(attempt.wait(Duration::ZERO)? == State::Pending, "the SYN got through");

    probe.unknown("connect-stall", "host")?;
    probe.stop()?;
    probe.only(&["unknown"])
}

/// Packets that the rule with `-m ipvs` has dropped: `[packets:bytes] -A KUBE-IPVS-OUT-FILTER …`.
fn dropped_by_match() -> Result<u64> {
    let rules = run("iptables-save", &["-c", "-t", "filter"])?;
    let rule = rules.lines().find(|line| line.contains("-m ipvs"));
    let rule = rule.context("no rule has the match ipvs")?;
    let packets = rule.strip_prefix('[').and_then(|rest| rest.split(':').next()?.parse().ok());
    packets.with_context(|| format!("no counter: {rule}"))
}
