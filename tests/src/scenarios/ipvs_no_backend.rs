//! A service without a server that takes connections.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use crate::{
    command::run,
    ipvs,
    lab::Lab,
    tcp::{Attempt, State},
    wait::SOON,
};

pub fn none(lab: &Lab) -> Result<()> {
    without_server(lab, false, 0)
}

pub fn none_v6(lab: &Lab) -> Result<()> {
    without_server(lab, true, 0)
}

/// All its pods are drained.
pub fn all_drained(lab: &Lab) -> Result<()> {
    without_server(lab, false, 1)
}

pub fn all_drained_v6(lab: &Lab) -> Result<()> {
    without_server(lab, true, 1)
}

fn without_server(lab: &Lab, v6: bool, drained: u8) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let _kube_proxy = ipvs::setup(1, 1)?;
    let service = ipvs::address(v6);
    ipvs::service(service, true)?;
    if drained > 0 {
        ipvs::add(service, SocketAddr::new(server.address(v6), 8080), 0)?;
    }
    let probe = lab.probe(&[])?;

    let state = Attempt::start(&client, service)?.wait(SOON)?;
    ensure!(state == State::Failed(libc::ECONNREFUSED), "the connect was {state:?}");

    probe
        .cause("service-no-backend", "client", SOON)?
        .is("/symptom", "connect-refused")?
        .is("/confidence", "certain")?
        .is("/details/service", service.to_string())?
        .is("/details/servers", drained)?
        .is("/details/proxy", "ipvs")?
        .is("/culprit/address", service.ip().to_string())?
        .is("/culprit/port", service.port())?
        .filled("/fix")?;
    probe.kube_proxy_is("ipvs")?;
    probe.stop()?;
    probe.only(&["service-no-backend"])
}

/// A look-alike: the service has a pod, and nobody listens there.
pub fn closed_port(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let _kube_proxy = ipvs::setup(1, 1)?;
    let service = ipvs::address(false);
    ipvs::service(service, true)?;
    ipvs::add(service, SocketAddr::new(server.v4.into(), 8080), 1)?;
    let probe = lab.probe(&[])?;

    let state = Attempt::start(&client, service)?.wait(SOON)?;
    ensure!(state == State::Failed(libc::ECONNREFUSED), "the connect was {state:?}");

    probe
        .cause("no-listener", "client", SOON)?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "shop")?
        .is("/details/pod", "shop")?
        .is("/details/port", 8080)?;
    probe.stop()?;
    probe.only(&["no-listener"])
}

/// A look-alike: the service has a pod, and a rule refuses the connection in the same way.
pub fn rule_rejects(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let _kube_proxy = ipvs::setup(1, 1)?;
    let service = ipvs::address(false);
    ipvs::service(service, true)?;
    ipvs::add(service, SocketAddr::new(server.v4.into(), 8080), 1)?;
    run("iptables", &["-A", "INPUT", "-p", "tcp", "--dport", "80", "-j", "REJECT"])?;
    let probe = lab.probe(&[])?;

    let state = Attempt::start(&client, service)?.wait(SOON)?;
    ensure!(state == State::Failed(libc::ECONNREFUSED), "the connect was {state:?}");

    probe.unknown("connect-refused", "client")?;
    probe.stop()?;
    probe.only(&["unknown"])
}
