//! The query reached the server and the server answered late. Behind a service, as for a clash, so
//! that only the clash is missing.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::dnat_clash::dnsmasq;
use crate::{
    counters,
    dns::{
        A,
        client::{self, Outcome},
        server::{self, Behaviour},
    },
    lab::Lab,
    netns::Pod,
    services::{self, Choice},
    wait::SOON,
};

const NAME: &str = "db.example.com";
const DELAY: Duration = Duration::from_millis(1500);
const LATE: Behaviour = Behaviour { delay: DELAY, drop_first: false, silent: false };

/// One server that takes its time.
pub fn direct(lab: &Lab) -> Result<()> {
    let (client, dns) = (lab.pod("client")?, lab.pod("dns")?);
    let _server = server::start(&dns, "slow-dns", LATE)?;
    let service = services::dns(std::slice::from_ref(&dns), Choice::Random)?;
    let probe = lab.probe(&[])?;

    let clashes = counters::conntrack("clashres")?;
    ask(&client, service)?;
    ensure!(counters::conntrack("clashres")? == clashes, "there was a clash");

    probe
        .cause("server-slow", "client", SOON)?
        .is("/symptom", "dns-stall")?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "dns")?
        .is("/details/name", NAME)?
        .is("/details/server_pod", "dns")?
        .is("/details/process", "slow-dns")?
        .at_least("/details/took_ms", 1400)?
        .at_least("/waited_ms", 1400)?
        .filled("/fix")?;
    probe.stop()?;
    probe.only(&["server-slow"])
}

/// A dnsmasq that itself waits for an upstream beyond the node.
pub fn chain(lab: &Lab) -> Result<()> {
    let (client, dns) = (lab.pod("client")?, lab.pod("dns")?);
    let upstream = lab.outside("upstream")?;
    let _servers = [server::start(&upstream, "slow-upstream", LATE)?, dnsmasq(&dns, &upstream)?];
    let service = services::dns(std::slice::from_ref(&dns), Choice::Random)?;
    let probe = lab.probe(&[])?;

    ask(&client, service)?;

    let upstream_address = upstream.v4.to_string();
    probe
        .cause("server-slow", "client", SOON)?
        .is("/symptom", "dns-stall")?
        .is("/confidence", "certain")?
        .is("/culprit/address", upstream_address.as_str())?
        .is("/details/server_pod", "dns")?
        .is("/details/process", "dnsmasq")?
        .check("/details/waited_for", "the upstream's address", |waited| {
            waited.to_string().contains(&upstream_address)
        })?
        .filled("/fix")?;
    probe.stop()?;
    probe.only(&["server-slow"])
}

fn ask(client: &Pod, service: SocketAddr) -> Result<()> {
    let start = Instant::now();
    let outcome = client::ask(client, service, NAME, A, &[SOON])?;
    ensure!(outcome == Outcome::Answered, "the query was {outcome:?}");
    ensure!(start.elapsed() >= DELAY, "the answer was not late");
    Ok(())
}
