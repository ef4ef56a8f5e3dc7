//! Every stream of the tests, redacted: the same findings, and none of the old names.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod parts;

use std::{collections::BTreeSet, net::IpAddr};

use super::Redactor;
use crate::{
    correlate::{Options, flow::address},
    event::{Body, Container, Event, PodChange, decode::encode},
    finding::{Cause, Change, Confidence, Evidence, Output, SymptomKind},
    output::{event, json::Json, sanitize, text::Text},
    pipeline::Pipeline,
};

const SECRET: &[u8] = b"a key of the tests";

/// What must not change of one output.
#[derive(Debug, PartialEq)]
struct Gist {
    id: String,
    change: Option<Change>,
    symptom: SymptomKind,
    cause: Cause,
    confidence: Confidence,
    ports: (u8, u16, u16),
    count: u64,
    open: bool,
    times: [u64; 4],
    has_pod: (bool, Option<bool>),
    evidence: Vec<(u64, &'static str)>,
    ruled_out: Vec<Cause>,
    not_seen: Vec<Cause>,
}

fn gist(output: &Output) -> Gist {
    let (change, f) = match output {
        Output::Finding(f) => (None, f),
        Output::Update(change, f) => (Some(*change), f),
    };
    let causes = |all: &[crate::finding::NotNamed]| all.iter().map(|n| n.cause).collect();
    Gist {
        id: f.id.clone(),
        change,
        symptom: f.symptom,
        cause: f.cause,
        confidence: f.confidence,
        ports: (f.flow.proto, f.flow.src.port(), f.flow.dst.port()),
        count: f.count,
        open: f.open,
        times: [f.ts, f.first, f.last, f.waited],
        has_pod: (f.victim.pod.is_some(), f.culprit.as_ref().map(|c| c.pod.is_some())),
        evidence: f.evidence.iter().map(|Evidence { ts, kind, .. }| (*ts, *kind)).collect(),
        ruled_out: causes(&f.ruled_out),
        not_seen: causes(&f.not_seen),
    }
}

/// What comes of a stream: the gist of its outputs, and all that a person may be shown.
fn play(events: Vec<Event>, shows: bool) -> (Vec<Gist>, String) {
    let mut pipeline = Pipeline::new(Options::default());
    let (mut out, mut shown) = (Vec::new(), String::new());
    let json = |pipeline: &Pipeline| Json { node: pipeline.header().node.name };
    for event in events {
        for event in pipeline.order(event) {
            if shows && !matches!(event.body, Body::Tick) {
                shown.extend(event::text(&event, &pipeline));
                shown.push('\n');
                shown.extend(event::json(&event, &pipeline, &json(&pipeline)));
                shown.push('\n');
            }
            out.extend(pipeline.take(&event));
        }
    }
    out.extend(pipeline.finish());
    let clock = pipeline.clock();
    for output in &out {
        shown.push_str(&Text::new(10_000, false).output(output, clock));
        shown.push_str(&json(&pipeline).output(output, clock));
        shown.push('\n');
    }
    shown.push_str(&json(&pipeline).header(&pipeline.header(), clock, 0));
    (out.iter().map(gist).collect(), shown)
}

/// Every stream that a test plays comes here when it ends.
pub fn check(events: &[Event]) {
    let mut redactor = Redactor::new(SECRET);
    let redacted: Vec<Event> = events.iter().map(|e| redactor.event(e.clone())).collect();
    let (was, _) = play(events.to_vec(), false);
    let (is, shown) = play(redacted.clone(), true);
    assert_eq!(was, is, "the same findings");
    let pointers = pointers(events);
    let mut old = old_words(events);
    old.1.extend(pointers.iter().map(|address| address.to_le_bytes().to_vec()));
    for address in &pointers {
        assert!(!shown.contains(&format!("{address:x}")), "{address:x} is still there:\n{shown}");
    }
    for word in &old.0 {
        assert!(!has_word(&shown, word), "{word} is still there:\n{shown}");
    }
    for event in &redacted {
        let Some(bytes) = encode(event) else { continue };
        let text: String = bytes.iter().copied().map(char::from).collect();
        for word in &old.0 {
            assert!(!stands_alone(&text, word), "{word} is still in {event:?}");
        }
        for address in &old.1 {
            let is_there = bytes.windows(address.len()).any(|part| part == address);
            assert!(!is_there, "{address:?} is still in {event:?}");
        }
    }
}

/// Whether text has a word by itself. One that is a word of the language only where a name would be.
fn has_word(text: &str, word: &str) -> bool {
    if word.bytes().all(|b| b.is_ascii_lowercase()) {
        let places = [("\"", "\""), ("pod ", ""), ("[", "]"), ("(", " ")];
        return places.into_iter().any(|(before, after)| {
            let place = format!("{before}{word}{after}");
            text.match_indices(&place).any(|(at, _)| {
                !text[at + place.len()..].starts_with(|c: char| c.is_ascii_alphanumeric())
                    // A key of JSON.
                    && !text[at + place.len()..].starts_with(':')
                    // Words of ours.
                    && !["event", "where", "named_by"]
                        .iter()
                        .any(|key| text[..at].ends_with(&format!("\"{key}\":")))
            })
        });
    }
    stands_alone(text, word)
}

fn stands_alone(text: &str, word: &str) -> bool {
    let is_more = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.match_indices(word).any(|(at, _)| {
        !is_more(text[..at].chars().next_back()) && !is_more(text[at + word.len()..].chars().next())
    })
}

/// Addresses in the kernel's memory; those of hand-made streams are small.
fn pointers(events: &[Event]) -> BTreeSet<u64> {
    let of = |event: &Event| match &event.body {
        Body::Listen(e) => [e.sk, 0],
        Body::Connect(e) => [e.sk, 0],
        Body::SynAck(e) => [e.sk, 0],
        Body::Clash(e) => [e.skb, 0],
        Body::Drop(e) => [e.skb, e.location],
        Body::Packet(e) => [e.skb, 0],
        Body::Dns(e) => [e.sk, 0],
        Body::CtEntry(e) => [e.skb, 0],
        Body::Reject(e) => [e.skb, 0],
        Body::Probe(e) => [e.sk, 0],
        Body::ProbeServer(e) => [e.sk, 0],
        Body::ProbeSteps(e) => [e.sk, 0],
        Body::Departure(e) => [e.skb, 0],
        Body::Symbol(symbol) => [symbol.address, 0],
        _ => [0, 0],
    };
    events.iter().flat_map(of).filter(|address| *address >> 47 == (1 << 17) - 1).collect()
}

/// Names and addresses of a stream, as text and as bytes.
fn old_words(events: &[Event]) -> (BTreeSet<String>, BTreeSet<Vec<u8>>) {
    let mut words = BTreeSet::new();
    let mut bytes = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    let mut names: Vec<String> = Vec::new();
    let container = |c: &Container| std::iter::once(c.id.clone()).chain(c.name.clone());
    for event in events {
        let mut tuple = |t: &probe_common::net::Tuple| {
            addresses.extend([address(&t.src, t.family), address(&t.dst, t.family)]);
        };
        match &event.body {
            Body::Listen(e) => tuple(&e.tuple),
            Body::Connect(e) => {
                tuple(&e.tuple);
                names.push(sanitize::c_string(&e.comm));
            }
            Body::SynAck(e) => tuple(&e.tuple),
            Body::Clash(e) => {
                [e.loser.orig, e.loser.reply, e.winner.orig, e.winner.reply].iter().for_each(tuple);
            }
            Body::Drop(e) => [e.tuple, e.ct.orig, e.ct.reply].iter().for_each(tuple),
            Body::Packet(e) => [e.tuple, e.ct.orig, e.ct.reply].iter().for_each(tuple),
            Body::Dns(e) => {
                tuple(&e.tuple);
                addresses.extend(e.server.iter().map(|s| address(s, e.tuple.family)));
                names.push(sanitize::c_string(&e.comm));
                let name = sanitize::dns_name(
                    &e.question.name[..usize::from(e.question.name_len).min(127)],
                );
                names.extend(name.split('.').filter(|l| l.len() > 3).map(str::to_owned));
            }
            Body::Ipvs(e) => {
                tuple(&e.tuple);
                addresses.extend([e.service, e.server].map(|a| address(&a, e.tuple.family)));
            }
            Body::CtEntry(e) => [e.tuple, e.ct.orig, e.ct.reply].iter().for_each(tuple),
            Body::Reject(e) => [e.tuple, e.ct.orig, e.ct.reply].iter().for_each(tuple),
            Body::Departure(e) => tuple(&e.tuple),
            Body::Probe(e) => {
                tuple(&e.tuple);
                names.push(sanitize::c_string(&e.comm));
            }
            Body::ProbeServer(e) => tuple(&e.tuple),
            Body::Node(node) => names.push(node.name.clone()),
            Body::Pod(PodChange::Up(pod)) => {
                names.push(pod.name.clone());
                names.extend(pod.name.split('/').map(str::to_owned));
                names.extend(pod.containers.iter().flat_map(container));
                addresses.extend(&pod.addresses);
            }
            Body::Process(p) => {
                names.extend(p.pod.clone());
                names.extend(p.container.iter().flat_map(container));
            }
            Body::Listener(l) => names.push(l.comm.clone()),
            Body::IpvsEntry(e) => addresses.extend([e.client.ip(), e.service.ip(), e.server.ip()]),
            Body::Service(s) => {
                names.extend(s.name.clone());
                addresses.insert(s.address.ip());
            }
            Body::SynSent(s) => addresses.extend([s.client.ip(), s.server.ip()]),
            Body::ListenQueues(q) => addresses.extend(q.queues.iter().map(|q| q.address.ip())),
            Body::ServerQueue(q) => addresses.extend([q.client.ip(), q.server.ip()]),
            Body::Armed(a) => addresses.extend([a.src.ip(), a.dst.ip()]),
            _ => {}
        }
    }
    let stays = |name: &str| {
        matches!(name.to_ascii_lowercase().as_str(), "host" | "netns:host" | "cluster" | "local")
            || super::name::process(&super::Key::new(SECRET), name) == name
            || name.strip_prefix("netns:").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
    };
    words.extend(names.into_iter().filter(|name| name.len() > 1 && !stays(name)));
    for address in addresses {
        let is_special =
            address.is_loopback() || address.is_unspecified() || address.is_multicast();
        if is_special || matches!(address, IpAddr::V4(v4) if v4.is_link_local()) {
            continue;
        }
        words.insert(address.to_string());
        bytes.insert(match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        });
    }
    (words, bytes)
}

#[test]
fn the_check_finds_what_is_left() {
    assert!(has_word("pod 10.0.0.1:53", "10.0.0.1") && !has_word("110.0.0.10", "10.0.0.1"));
    assert!(has_word("{\"pod\":\"web\"}", "web") && has_word("pod web waited", "web"));
    assert!(!has_word("a webhook, the web", "web"));
    let mut run = crate::testing::Run::new();
    run.until(100);
    let (words, _) = old_words(run.played());
    assert!(words.contains("ip-10-0-3-17") && words.contains("10.244.1.2"), "{words:?}");
}

/// Real ones: packets with their checksums, names by the kernel's hand.
#[test]
fn recordings_of_the_lab() {
    use crate::recording::{
        chain::{Chain, Next},
        open::open,
    };
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (mut seen, mut addresses) = (0, 0);
    for path in paths.filter(|path| path.extension().is_some_and(|end| end == "zst")) {
        let input = open(&path, None).unwrap();
        let mut chains = Chain::all(vec![(path, input)]).unwrap();
        let mut events = Vec::new();
        while let Some(next) = chains[0].next().unwrap() {
            if let Next::Event(event) = next {
                events.push(event);
            }
        }
        check(&events);
        seen += 1;
        addresses += pointers(&events).len();
    }
    assert_ne!(seen, 0);
    assert!(addresses > seen, "{addresses} addresses in the kernel in {seen} recordings");
}
