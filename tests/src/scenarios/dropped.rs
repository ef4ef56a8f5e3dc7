//! Look-alikes: a firewall rule drops the packets that a clash or a full queue would have cost.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    command::run,
    counters,
    dns::{
        A,
        client::{self, Outcome},
        server::{self, Behaviour},
    },
    lab::Lab,
    services,
    tcp::{self, Attempt, State},
    wait::{SOON, until},
};

pub fn nft(lab: &Lab) -> Result<()> {
    dropped(lab, || {
        run("nft", &["add", "table", "inet", "firewall"])?;
        let chain = "{ type filter hook forward priority 0 ; }";
        run("nft", &["add", "chain", "inet", "firewall", "forward", chain])?;
        for what in ["udp dport 53", "tcp dport 443"] {
            run("nft", &["add", "rule", "inet", "firewall", "forward", what, "drop"])?;
        }
        Ok(())
    })
}

pub fn iptables_nft(lab: &Lab) -> Result<()> {
    dropped(lab, || iptables("iptables"))
}

pub fn iptables_legacy(lab: &Lab) -> Result<()> {
    dropped(lab, || iptables("iptables-legacy"))
}

fn iptables(tool: &str) -> Result<()> {
    for (proto, port) in [("udp", "53"), ("tcp", "443")] {
        run(tool, &["-A", "FORWARD", "-p", proto, "--dport", port, "-j", "DROP"])?;
    }
    Ok(())
}

/// A query and a SYN are dropped, through the same masquerade that clashes happen in.
fn dropped(lab: &Lab, policy: impl Fn() -> Result<()>) -> Result<()> {
    let client = lab.pod("client")?;
    let server = lab.outside("server")?;
    let _dns = server::start(&server, "resolver", Behaviour::default())?;
    let _tcp = tcp::listen(&server, "shop-api", ([0u8; 4], 443).into(), 128, true)?;
    services::masquerade(None)?;
    policy()?;
    let probe = lab.probe(&[])?;

    let attempt = Attempt::start(&client, SocketAddr::new(server.v4.into(), 443))?;
    let to = SocketAddr::new(server.v4.into(), 53);
    let patience = [Duration::from_millis(1500); 2];
    let outcome = client::ask(&client, to, "db.example.com", A, &patience)?;
    ensure!(outcome == Outcome::Silent, "the query was {outcome:?}");
    until("the SYN is sent again", SOON, || {
        Ok((counters::net(&client, "TCPSynRetrans")? > 0).then_some(()))
    })?;
    ensure!(attempt.wait(Duration::ZERO)? == State::Pending, "the SYN got through");

    for symptom in ["dns-stall", "connect-stall"].into_iter().filter(|s| lab.tells_of(s)) {
        probe.unknown(symptom, "client")?;
    }
    probe.stop()?;
    probe.only(&["unknown"])
}
