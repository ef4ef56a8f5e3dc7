//! Nobody listens on the port.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    dns::{
        A,
        client::{self, Outcome},
    },
    lab::Lab,
    tcp::{Attempt, State},
    wait::SOON,
};

const PORT: u16 = 8080;

pub fn tcp(lab: &Lab) -> Result<()> {
    refused(lab, false)
}

pub fn tcp_v6(lab: &Lab) -> Result<()> {
    refused(lab, true)
}

fn refused(lab: &Lab, v6: bool) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let to = SocketAddr::new(server.address(v6), PORT);
    let probe = lab.probe(&[])?;

    let state = Attempt::start(&client, to)?.wait(SOON)?;
    ensure!(state == State::Failed(libc::ECONNREFUSED), "the connect was {state:?}");

    probe
        .cause("no-listener", "client", SOON)?
        .is("/symptom", "connect-refused")?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "shop")?
        .is("/details/address", to.ip().to_string())?
        .is("/details/port", PORT)?
        .is("/details/pod", "shop")?
        .is("/flow/dport", PORT)?
        .filled("/fix")?;
    probe.stop()?;
    probe.only(&["no-listener"])
}

/// The DNS pod is there, its server is not.
pub fn dns(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("dns")?);
    let to = SocketAddr::new(server.v4.into(), 53);
    let probe = lab.probe(&[])?;

    let patience = [Duration::from_secs(5); 2];
    let outcome = client::ask(&client, to, "db.example.com", A, &patience)?;
    ensure!(outcome == Outcome::Refused, "the query was {outcome:?}");

    probe
        .cause("no-listener", "client", SOON)?
        .is("/symptom", "dns-stall")?
        .is("/culprit/pod", "dns")?
        .is("/details/port", 53)?
        .is("/details/pod", "dns")?
        .filled("/fix")?;
    probe.stop()?;
    probe.only(&["no-listener"])
}
