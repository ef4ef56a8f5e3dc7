//! The packets that a recording will hold are those on the wire, and only those that something went
//! wrong with.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::accept_queue::{LISTENER, PORT, refuse_syn};
use crate::{
    dns::{
        A,
        client::{self, Outcome},
        server::{self, Behaviour},
    },
    lab::Lab,
    tcp,
    wait::SOON,
    wire::Tap,
};

const LATE: Behaviour =
    Behaviour { delay: Duration::from_millis(1500), drop_first: false, silent: false };
const PROMPT: Behaviour = Behaviour { delay: Duration::ZERO, ..LATE };
/// The client asks again while the answer is on its way.
const PATIENCE: [Duration; 2] = [Duration::from_millis(500), SOON];

/// A SYN that a full accept queue refuses, a question asked again and its late answer, beside connects
/// and a question that are fine.
pub fn as_on_the_wire(lab: &Lab) -> Result<()> {
    let (client, shop) = (lab.pod("client")?, lab.pod("shop")?);
    let (slow, dns) = (lab.pod("slow-dns")?, lab.pod("dns")?);
    let taps = [Tap::open(&client)?, Tap::open(&shop)?, Tap::open(&slow)?, Tap::open(&dns)?];
    let _listener = tcp::listen(&shop, LISTENER, SocketAddr::from(([0; 4], PORT)), 1, false)?;
    let _servers = [server::start(&slow, "slow-dns", LATE)?, server::start(&dns, "dns", PROMPT)?];
    let probe = lab.probe(&["--events"])?;
    let header = probe.header()?;
    let hooks = header["hooks"].as_array().context("a header without hooks")?;
    let rejected = |hook: &&Value| hook["why"].as_str().is_some_and(|why| why.contains("load "));
    ensure!(!hooks.iter().any(|hook| rejected(&hook)), "a program was rejected: {hooks:?}");

    let _connects = refuse_syn(&client, &shop, SocketAddr::new(shop.v4.into(), PORT))?;
    for server in [&dns, &slow] {
        let to = SocketAddr::new(server.v4.into(), 53);
        let outcome = client::ask(&client, to, "db.example.com", A, &PATIENCE)?;
        ensure!(outcome == Outcome::Answered, "{}: the query was {outcome:?}", server.name);
    }
    probe.wait_line("the late answer's packet", SOON, |l| with(l) == Some("dns-answer"))?;
    probe.stop()?;

    let events = probe.lines("event");
    let told = |with_: &str| events.iter().filter(|l| with(l) == Some(with_)).count();
    let refused = events.iter().filter(|l| l["event"] == "listen-drop").count();
    let syns = told("listen-drop");
    ensure!(refused >= 2 && syns == refused, "{syns} packets of {refused} refused SYNs");
    let (again, late) = (told("dns-retry"), told("dns-answer"));
    ensure!(again == 1 && late == 1, "{again} packets of a question, {late} of its answer");

    let mut seen = BTreeSet::new();
    for tap in taps {
        seen.extend(tap.packets()?.iter().map(|bytes| hex(bytes)));
    }
    let fine = dns.v4.to_string();
    for packet in events.iter().filter(|l| l["event"] == "packet") {
        // All of them are shorter than what is kept.
        let bytes = packet["text"].as_str().and_then(|text| text.rsplit(' ').next());
        ensure!(bytes.is_some_and(|b| seen.contains(b)), "no such packet passed: {packet}");
        ensure!(packet["src"] != fine && packet["dst"] != fine, "nothing was wrong: {packet}");
    }
    Ok(())
}

/// The event that a packet is told beside.
fn with(line: &Value) -> Option<&str> {
    if line["event"] != "packet" {
        return None;
    }
    line["text"].as_str()?.split(' ').find_map(|word| word.strip_prefix("with="))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
