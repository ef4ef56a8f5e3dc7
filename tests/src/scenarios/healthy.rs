//! Nothing is wrong: thousands of queries, most of them answered NXDOMAIN as search lists make it,
//! and thousands of connects. No finding.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{
    dns::{
        A, AAAA,
        client::{self, Outcome},
        lookup,
        server::{self, Behaviour},
    },
    lab::Lab,
    services::{self, Choice},
    tcp::{self, Attempt, State},
    wait::SOON,
};

const SEARCH: [&str; 3] = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"];
const GETENTS: usize = 30;
/// Each lookup walks three search domains and then the name itself, A and AAAA each.
const PER_LOOKUP: usize = (SEARCH.len() + 1) * 2;
const LOOKUPS: usize = 2000 / PER_LOOKUP + 1;
const CONNECTS: usize = 2000;

pub fn run_case(lab: &Lab) -> Result<()> {
    let clients = [lab.pod("client-a")?, lab.pod("client-b")?];
    let backends = [lab.pod("dns-a")?, lab.pod("dns-b")?];
    let shop = lab.outside("shop")?;
    let at_once = Behaviour::default();
    let _servers = [
        server::start(&backends[0], "dns", at_once)?,
        server::start(&backends[1], "dns", at_once)?,
    ];
    let _shop = tcp::listen(&shop, "shop-api", ([0u8; 4], 443).into(), 128, true)?;
    let service = services::dns(&backends, Choice::Random)?;
    services::masquerade(None)?;
    let resolv =
        format!("search {}\nnameserver {}\noptions ndots:5\n", SEARCH.join(" "), service.ip());
    let probe = lab.probe(&[])?;

    for client in &clients {
        lab.resolv_conf(client, &resolv)?;
    }
    for i in 0..GETENTS {
        let lookup = lookup::glibc(&clients[0], &format!("db{i}.example.com"))?;
        ensure!(lookup.found, "db{i}.example.com was not found");
    }
    clients[1]
        .inside(|| (0..LOOKUPS).try_for_each(|i| walk(service, &format!("web{i}.example.com"))))?;
    let to = SocketAddr::new(shop.v4.into(), 443);
    clients[1].inside(|| {
        for i in 0..CONNECTS {
            let attempt = Attempt::bind(false, 0)?;
            attempt.fire(to)?;
            let state = attempt.wait(SOON)?;
            ensure!(state == State::Connected, "connect {i} was {state:?}");
            // Until it was accepted: a queue that fills would be no healthy node.
            attempt.wait_closed(SOON)?;
        }
        Ok(())
    })?;

    let summary = probe.stop()?;
    probe.only(&[])?;
    if lab.faults_only() {
        return Ok(());
    }
    for (key, least) in
        [("dns_queries", (GETENTS + LOOKUPS) * PER_LOOKUP), ("connects", CONNECTS), ("stalls", 0)]
    {
        let told = find(&summary, key);
        ensure!(
            told.is_some_and(|n| n >= least as u64),
            "the summary has {key} {told:?}, expected at least {least}\n  {summary}"
        );
    }
    ensure!(find(&summary, "stalls") == Some(0), "the summary tells of stalls\n  {summary}");
    Ok(())
}

/// One name through the search list as a resolver walks it.
fn walk(service: SocketAddr, name: &str) -> Result<()> {
    let searched = SEARCH.iter().map(|domain| format!("{name}.{domain}"));
    for name in searched.chain([name.to_owned()]) {
        let socket = client::connect(service, 0)?;
        for qtype in [A, AAAA] {
            let id = client::id_of(&name, qtype);
            client::send(&socket, id, &name, qtype)?;
            let outcome = client::wait(&socket, id, SOON)?;
            ensure!(outcome == Outcome::Answered, "{name} was {outcome:?}");
        }
    }
    Ok(())
}

/// A number anywhere in an object of objects.
fn find(value: &Value, key: &str) -> Option<u64> {
    let object = value.as_object()?;
    match object.get(key).and_then(Value::as_u64) {
        Some(number) => Some(number),
        None => object.values().find_map(|inner| find(inner, key)),
    }
}
