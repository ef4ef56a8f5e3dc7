//! No free port is left for the masquerade: dropped in the same place as a race for a port, against
//! entries that were there long before.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};

use super::accept_queue::sent_again;
use crate::{
    command::run,
    counters,
    dns::{
        A,
        client::{self, Outcome},
        server::{self, Behaviour},
    },
    finding::Finding,
    lab::Lab,
    netns::Pod,
    probe::Probe,
    services,
    tcp::{self, Attempt, State},
    wait::SOON,
};

const PORTS: usize = 4;
/// What makes the entries old: a race is over in far less.
const AGE: Duration = Duration::from_secs(2);

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

    for i in 0..PORTS {
        let outcome = client::ask(&client, to, &format!("first{i}.example.com"), A, &[SOON])?;
        ensure!(outcome == Outcome::Answered, "query {i} had a port, yet it was {outcome:?}");
    }
    thread::sleep(AGE);
    let failed = counters::conntrack("insert_failed")?;
    let patience = [Duration::from_millis(1500); 2];
    let outcome = client::ask(&client, to, "late.example.com", A, &patience)?;
    ensure!(outcome == Outcome::Silent, "there was a fifth port: {outcome:?}");
    let dropped = counters::conntrack("insert_failed")?.checked_sub(failed);
    ensure!(dropped.context("a counter fell")? >= 2, "nothing was dropped at insertion");

    check(&probe, &client, to)?.is("/symptom", "dns-stall")?.check(
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
    thread::sleep(AGE);
    let failed = counters::conntrack("insert_failed")?;
    let attempt = Attempt::start(&client, to)?;
    let state = attempt.wait(Duration::from_millis(2500))?;
    ensure!(state == State::Pending, "there was a fifth port: {state:?}");
    let dropped = counters::conntrack("insert_failed")?.checked_sub(failed);
    ensure!(dropped.context("a counter fell")? >= 2, "nothing was dropped at insertion");

    check(&probe, &client, to)?
        .is("/symptom", "connect-stall")?
        .is("/details/holder_pod", "holder")?
        .at_least("/details/holder_age_ms", 1000)?;
    probe.stop()?;
    probe.only(&["snat-ports-exhausted"])
}

/// Look-alike: all ports are held, but a rule drops the client's SYN before one is looked for.
pub fn rule_drops(lab: &Lab) -> Result<()> {
    let (holder, client) = (lab.pod("holder")?, lab.pod("client")?);
    let shop = lab.outside("shop")?;
    let _server = tcp::listen(&shop, "shop-api", ([0u8; 4], 443).into(), 128, false)?;
    services::masquerade(Some("40000-40003"))?;
    let from = client.v4.to_string();
    run("iptables", &["-A", "FORWARD", "-s", &from, "-j", "DROP"])?;
    let to = SocketAddr::new(shop.v4.into(), 443);
    let probe = lab.probe(&[])?;

    let _held = hold_ports(&holder, to)?;
    thread::sleep(AGE);
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
    for i in 0..PORTS {
        let attempt = Attempt::start(holder, to)?;
        let state = attempt.wait(SOON)?;
        ensure!(state == State::Connected, "connect {i} had a port, yet it was {state:?}");
        held.push(attempt);
    }
    Ok(held)
}

fn check(probe: &Probe, client: &Pod, to: SocketAddr) -> Result<Finding> {
    let finding = probe.cause("snat-ports-exhausted", &client.name, SOON)?;
    let address = client.address(to.is_ipv6()).to_string();
    finding
        .is("/confidence", "certain")?
        .is("/victim/address", address.as_str())?
        .is("/flow/src", address.as_str())?
        .is("/flow/dst", to.ip().to_string())?
        .is("/details/destination", to.to_string())?
        .check("/details/snat_to", "a port of the range", |v| {
            let port = v.as_str().and_then(|v| v.rsplit(':').next()?.parse::<u16>().ok());
            port.is_some_and(|port| (40000..40004).contains(&port))
        })?
        .filled("/details/holder")?
        .filled("/fix")?;
    Ok(finding)
}
