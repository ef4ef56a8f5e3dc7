//! A recording of each schema version that was released. They are never written anew.

use std::{fs, path::PathBuf};

use probe_common::{
    event::{CAPTURE_BYTES, OUTCOME_ESTABLISHED, OUTCOME_FAILED, Packet, kind},
    net::Conntrack,
};

use super::*;
use crate::{
    correlate::Options,
    event::{
        Body, Clock, ConntrackCounters, Counters, HookState, Listener, Rung, Symbol, Sysctls,
        armed::Outcome,
    },
    output::{json::Json, text::Text},
    pipeline::Pipeline,
    testing::*,
};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/recording/tests/files").join(name)
}

/// What happens on a small node: the facts, then a full accept queue, a closed port, a DNS query whose
/// answer came too late, a full conntrack table, and one event of each kind besides.
fn stream() -> Vec<Event> {
    let mut events = Vec::new();
    let mut at = |ms: u64, body: Body| events.push(Event { ts: START + ms * MS, body });
    let table = ConntrackCounters { entries: 99, max: 99, ..ConntrackCounters::default() };
    let overflows = |n| Counters { netns: WEB, listen_overflows: Some(n), ..Counters::default() };
    at(0, Body::Clock(Clock { wall: 1_763_726_400_000 * MS }));
    at(0, Body::Node(Box::new(node())));
    at(0, Body::Hooks(hooks(|_| HookState::Watched { rung: Rung::Kprobe })));
    for (netns, name, address) in
        [(HOST, "host", "10.0.3.17"), (CLIENT, "client", "10.244.1.2"), (WEB, "web", "10.244.4.2")]
    {
        at(0, up(netns, name, address));
    }
    at(0, up(DNS_A, "dns-a", "10.244.2.2"));
    at(0, up(DNS_B, "dns-b", "10.244.3.2"));
    at(0, Body::Totals(Box::new(totals())));
    at(0, Body::Symbol(Symbol { address: 0x300, name: "__udp4_lib_rcv+0x12".to_owned() }));
    at(0, Body::Counters(overflows(0)));
    at(1, Body::Listener(Listener { ino: 5, pid: 6, comm: "gr\u{fc}n \\u{1b}".to_owned() }));
    at(1, service(6, "10.96.0.20:80", Some("shop")));
    at(1, kubelet(4000));
    at(1, local_ports(32_768, 60_999, &[(30_000, 32_767)]));
    at(500, refused(CLIENT_END, ISN));
    at(600, Body::Counters(overflows(1)));
    at(1520, syn_again(WEB_END, 500, 1));
    at(1521, connect_end(WEB_END, 500, 1, OUTCOME_ESTABLISHED, 0));
    at(5000, syn_drop(WEB, "10.244.4.2:81", NO_SOCKET, 0x400));
    at(5001, connect_end("10.244.4.2:81", 5000, 0, OUTCOME_FAILED, 111));
    at(10_501, clashed(clash()));
    at(10_501, served(kind::DNS_SERVER_PENDING, 0x2222, DNS_B, DNS_B_END, 10_501, 0));
    at(11_500, unanswered(0x2222, AAAA, 10_500));
    at(11_901, served(kind::DNS_SERVER_ANSWER, 0x2222, DNS_B, DNS_B_END, 10_501, 11_901));
    let lost = dns_drop(CLIENT, udp(DNS_B_END, CLIENT_END), 0x2222, true, NO_SOCKET, 0x300);
    at(11_902, drop_event(lost));
    at(15_500, retry(0x2222, AAAA, 10_500, 15_500));
    at(15_510, answer(0x2222, AAAA, 10_500, 15_510, 2));
    at(16_000, Body::Counters(Counters { netns: HOST, conntrack: Some(table), ..overflows(0) }));
    at(20_000, table_full_drop(HOST, tcp(CLIENT_END, WEB_END), 7));
    at(20_001, synack_again(ISN, CLIENT_END, 127));
    at(20_002, rejected(reject(tcp(CLIENT_END, "10.96.0.20:80"), 8, 3)));
    at(20_003, decided(hijack()));
    at(20_004, armed_now());
    at(20_005, let_go(Outcome::NothingSeen, MS));
    at(20_006, ipvs_entry(Some(0)));
    at(20_007, listen_queues(WEB, &[("10.244.4.2:8080", 3)]));
    at(20_008, syn_sent(19_000, WEB_END, 1, crate::event::Outcome::Trying));
    at(20_009, server_queue(2));
    at(20_010, probed(probe(1, 100, 0)));
    at(20_011, serving(probe_server(kind::PROBE_SERVER, b"GET /healthz HTTP/1.1\r\n", 23, 0)));
    at(20_012, beside());
    let values = vec![("net.core.somaxconn".to_owned(), "4096".to_owned())];
    at(20_013, Body::Sysctls(Sysctls { netns: HOST, values }));
    (0..300).for_each(|n| at(n * 100, Body::Tick));
    // A tick comes after what it covers.
    events.sort_by_key(|event| event.ts);
    events
}

/// The packet of a drop.
fn beside() -> Body {
    let mut bytes = [0; CAPTURE_BYTES];
    bytes[0] = 0x45;
    Body::Packet(Box::new(Packet {
        header: header(kind::PACKET, HOST),
        tuple: tcp(CLIENT_END, WEB_END),
        ct: Conntrack::default(),
        skb: 0xffff_8880_0000_9000,
        at: START + 20_000 * MS,
        ident: 7,
        iif: 7,
        tcp_flags: 2,
        with: u32::from(kind::DROP),
        packet_len: 60,
        captured: 60,
        bytes,
    }))
}

/// Text and JSON of all findings.
fn findings(events: &[Event]) -> (String, String) {
    let mut pipeline = Pipeline::new(Options::default());
    let (text, json) = (Text::new(100, false), Json { node: "ip-10-0-3-17".to_owned() });
    let mut outputs = Vec::new();
    for event in events {
        outputs.extend(pipeline.take(event));
    }
    outputs.extend(pipeline.end());
    let clock = pipeline.clock();
    let lines = |show: &dyn Fn(&_) -> String| outputs.iter().map(show).collect::<Vec<_>>().join("");
    (lines(&|o| text.output(o, clock)), lines(&|o| json.output(o, clock)))
}

#[test]
fn version_1() {
    let read = read(&fs::read(path("v1.pcapng")).unwrap());
    assert_eq!((read.notices, read.error, read.cut), (vec![], None, None));
    let (text, json) = findings(&read.events);
    insta::assert_snapshot!(text);
    assert_eq!((text, json), findings(&stream()), "what was told live");
}

/// A stream of today, whatever its structs are.
#[test]
fn a_replay_tells_what_was_told_live() {
    let live = findings(&stream());
    assert!(live.0.matches("explain").count() >= 4, "{}", live.0);
    assert_eq!(findings(&read(&file(&stream(), 10)).events), live);
}

#[test]
#[ignore = "writes the recording of this version anew"]
fn write_version() {
    let name = path(&format!("v{SCHEMA}.pcapng"));
    fs::write(name, file(&stream(), 1000)).unwrap();
}

/// Small recordings for the fuzzer to begin with: one of each kind of event, and whole runs.
#[test]
#[ignore = "writes what the fuzzer begins with"]
fn write_seeds() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/read_recording");
    fs::create_dir_all(&folder).unwrap();
    let events = stream();
    let without_ticks =
        |e: &&Event| !matches!(e.body, Body::Tick) || e.ts.is_multiple_of(1000 * MS);
    let thin: Vec<Event> = events.iter().filter(without_ticks).cloned().collect();
    fs::write(folder.join("run"), short(&thin)).unwrap();
    let facts = thin.iter().take_while(|e| e.ts < START + 400 * MS).count();
    for (n, second) in [1, 5, 11, 20].into_iter().enumerate() {
        let from = START + second * 1000 * MS - 1000 * MS;
        let near = thin.iter().skip(facts).filter(|e| (from..from + 5000 * MS).contains(&e.ts));
        let part: Vec<Event> = thin.iter().take(facts).chain(near).cloned().collect();
        fs::write(folder.join(format!("part-{n}")), short(&part)).unwrap();
    }
}

/// The file without layouts of kinds that are not in it: bytes for the fuzzer to change that matter.
fn short(events: &[Event]) -> Vec<u8> {
    let mut out = Vec::new();
    block::section(&mut out, "", "", "");
    let is_there = |kind: &u16| events.iter().any(|e| e.header().is_some_and(|h| h.kind == *kind));
    let mut layouts = layout::ours();
    layouts.retain(|layout| layout.kinds.iter().any(is_there));
    let head = Head { layouts, ..Head::default() };
    codec::json_block(&mut out, codec::kind::HEAD, &head).unwrap();
    let at = codec::begin(&mut out, codec::kind::EVENTS);
    for event in events {
        codec::push(&mut out, event).unwrap();
    }
    codec::finish(&mut out, at);
    out
}

/// What the fuzzers begin with, and what they found: none of it may harm.
#[test]
fn what_the_fuzzers_know() {
    let fuzz = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut files = 0;
    for folder in ["seeds/read_recording", "found/read_recording"] {
        let Ok(entries) = fs::read_dir(fuzz.join(folder)) else { continue };
        for entry in entries {
            harmless(&fs::read(entry.unwrap().path()).unwrap());
            files += 1;
        }
    }
    assert!(files >= 5, "{files}");
    let corpus = fs::File::open(fuzz.join("corpus.tar.zst")).unwrap();
    let corpus = zstd::stream::decode_all(corpus).unwrap();
    let corpus = files_of_tar(&corpus);
    assert!(corpus.len() > 100, "{}", corpus.len());
    for bytes in corpus {
        harmless(bytes);
    }
}

fn harmless(bytes: &[u8]) {
    render::render(bytes);
    rewrite::rewrite(bytes).unwrap();
}

/// The plain files of an archive (POSIX ustar: headers of 512 bytes, with the size in octal digits at 124 and
/// the kind at 156, and contents filled up to a multiple of that).
fn files_of_tar(mut archive: &[u8]) -> Vec<&[u8]> {
    let mut files = Vec::new();
    while let Some((header, rest)) = archive.split_at_checked(512) {
        // Blocks of zeros are the end.
        if header[0] == 0 {
            break;
        }
        let size = std::str::from_utf8(&header[124..135]).unwrap();
        let size = usize::from_str_radix(size, 8).unwrap();
        if header[156] == b'0' {
            files.push(&rest[..size]);
        }
        archive = &rest[size.next_multiple_of(512)..];
    }
    files
}
