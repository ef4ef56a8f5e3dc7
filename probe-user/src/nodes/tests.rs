//! Streams of two nodes, made by hand: a client on one, its server on the other.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use probe_common::event::{DROP_TABLE_FULL, Header, kind};
use proptest::prelude::*;

use super::{Ids, Merge, Nodes};
use crate::{
    correlate::Options,
    event::{Body, Clock, Event, HookState, Node, Rung},
    finding::{Cause, Change, Confidence, Output},
    output::filter::Filter,
    pipeline::Pipeline,
    redact::Redactor,
    report::{Collector, Source},
    testing::*,
};

const S: u64 = 1000 * MS;
/// Wall time at which both streams begin.
const WALL: u64 = 1_763_726_400 * S;
/// The server's node is up for longer.
const LATER: u64 = 50_000 * S;
const ELSEWHERE: &str = "10.244.1.2:40313";

/// One node's stream: what happened so many milliseconds after its beginning, and ticks for 20 s.
/// `boot` is added to the boot times that the events of the tests have.
fn stream(name: &str, boot: u64, wall: u64, happened: Vec<(u64, Body)>) -> Vec<Event> {
    let node = Node { name: name.to_owned(), ..node() };
    let hooks = hooks(|_| HookState::Watched { rung: Rung::Kprobe });
    let mut events = vec![
        (0, Body::Clock(Clock { wall })),
        (0, Body::Node(Box::new(node))),
        (0, Body::Hooks(hooks)),
        (0, up(HOST, "host", if boot == 0 { "10.0.3.17" } else { "10.0.3.18" })),
        (0, Body::Totals(Box::new(totals()))),
    ];
    events.push(match boot {
        0 => (0, up(CLIENT, "shop/client", "10.244.1.2")),
        _ => (0, up(WEB, "shop/web", "10.244.4.2")),
    });
    events.extend(happened);
    events.extend((0..200).map(|n| (n * 100, Body::Tick)));
    events.sort_by_key(|(ms, _)| *ms);
    events.into_iter().map(|(ms, body)| Event { ts: START + boot + ms * MS, body }).collect()
}

/// A client whose SYN got no answer: its node sees no more than that.
fn client(dst: &str, isn: u32) -> Vec<Event> {
    stream("a", 0, WALL, vec![(1500, again(dst, 500, 1, isn)), (3500, again(dst, 500, 2, isn))])
}

fn again(dst: &str, started: u64, retransmits: u32, isn: u32) -> Body {
    let mut connect = connect(kind::SYN_RETRANSMIT, dst, started, retransmits);
    connect.isn = isn;
    Body::Connect(Box::new(connect))
}

/// Its server's full listener, on a node whose clock is `ahead` milliseconds ahead.
fn server(client: &str, isn: u32, ahead: i64) -> Vec<Event> {
    let refused = |ms| (ms, refused(client, isn));
    let wall = WALL.checked_add_signed(ahead * 1_000_000).unwrap();
    stream("b", LATER, wall, vec![refused(500), refused(1500), refused(3500)])
}

fn play(streams: Vec<Vec<Event>>) -> Vec<(usize, Output)> {
    played(streams, Ids::ByName).0
}

/// What was said, and the nodes at their ends.
fn played(streams: Vec<Vec<Event>>, ids: Ids) -> (Vec<(usize, Output)>, Nodes) {
    let mut merge = Merge::new(streams.len());
    let mut nodes = Nodes::new(streams.len(), ids, &Options::default());
    let mut streams: Vec<_> = streams.into_iter().map(Vec::into_iter).collect();
    let mut out = Vec::new();
    loop {
        while let Some(node) = merge.wants() {
            merge.put(node, streams[node].next());
        }
        let Some((node, event)) = merge.take() else { break };
        out.extend(nodes.take(node, &event));
    }
    out.extend(nodes.end());
    (out, nodes)
}

/// Of a node how many stalls there were, how many are explained, and by which causes.
fn counted(nodes: &Nodes, node: usize) -> (u64, u64, Vec<(Cause, u64)>) {
    let summary = nodes.summary(node).unwrap();
    let by_cause = summary.by_cause.into_iter().collect();
    (summary.status.stalls, summary.status.explained, by_cause)
}

/// The last word on the client's stall.
fn of_client(out: &[(usize, Output)]) -> (Cause, Confidence) {
    let found = out.iter().rfind(|(node, _)| *node == 0).unwrap().1.finding();
    (found.cause, found.confidence)
}

#[test]
fn the_other_node_tells_the_cause() {
    for streams in [
        vec![client(WEB_END, ISN), server(CLIENT_END, ISN, 0)],
        // The client asks a service's address, which its node translates; its own is translated too.
        vec![client("10.96.7.7:80", ISN), server("10.0.3.17:1024", ISN, 0)],
        vec![client(WEB_END, ISN), server(CLIENT_END, ISN, 1900)],
        vec![client(WEB_END, ISN), server(CLIENT_END, ISN, -1900)],
    ] {
        let out = play(streams.clone());
        let theirs = out.iter().find(|(node, _)| *node == 1).unwrap().1.finding();
        assert_eq!((theirs.cause, theirs.id.as_str()), (Cause::AcceptQueueOverflow, "b/f1"));
        assert_eq!(of_client(&out), (Cause::AcceptQueueOverflow, theirs.confidence));
        let ours = out.iter().rfind(|(node, _)| *node == 0).unwrap().1.finding();
        assert_eq!(ours.id, "a/f1");
        assert!(ours.title.ends_with("(seen on node b)"), "{}", ours.title);
        let line = ours.evidence.iter().find(|line| line.kind == "other-node").unwrap();
        assert!(line.text.contains("node b") && line.text.contains("finding b/f1"), "{line:?}");
        assert!(line.ts.abs_diff(START + 500 * MS) <= 2 * S, "by the client's clock");
        let culprit = ours.culprit.as_ref().unwrap();
        assert_eq!((culprit.pod.as_deref(), culprit.netns), (Some("shop/web"), None));
        assert_eq!(ours.victim.pod.as_deref(), Some("shop/client"));
        // Redacted by one key they fit together as before.
        let redacted = streams.into_iter().map(|events| {
            let mut redactor = Redactor::new(b"key");
            events.into_iter().map(|event| redactor.event(event)).collect()
        });
        assert_eq!(of_client(&play(redacted.collect())), of_client(&out));
    }
}

#[test]
fn a_finding_already_told_is_named_and_stays_so() {
    // Another connection of the same pod stalls later, and nobody saw why.
    let mut events = client(WEB_END, ISN);
    let later = again("10.244.4.2:8080", 9000, 1, ISN + 1);
    let at = events.iter().position(|e| e.ts >= START + 10_000 * MS).unwrap();
    events.insert(at, Event { ts: START + 10_000 * MS, body: later });
    let late = server(CLIENT_END, ISN, 1900);
    let out = play(vec![events, late]);
    let ours: Vec<&Output> = out.iter().filter(|(n, _)| *n == 0).map(|(_, o)| o).collect();
    assert!(ours.len() >= 2, "{}", ours.len());
    for output in &ours[1..] {
        assert_eq!(output.finding().cause, Cause::AcceptQueueOverflow);
        assert!(output.finding().evidence.iter().any(|line| line.kind == "other-node"));
    }
}

#[test]
fn what_was_told_first_is_said_again_when_the_cause_comes_later() {
    let ours = client(WEB_END, ISN);
    let theirs = server(CLIENT_END, ISN, 0);
    // All of one node, then all of the other.
    for order in [[0, 1], [1, 0]] {
        let mut nodes = Nodes::new(2, Ids::ByName, &Options::default());
        let mut out = Vec::new();
        for node in order {
            for event in if node == 0 { &ours } else { &theirs } {
                out.extend(nodes.take(node, event));
            }
        }
        assert_eq!(of_client(&out).0, Cause::AcceptQueueOverflow);
        let is_named = |o: &Output| matches!(o, Output::Update(Change::Named, _));
        let named = out.iter().filter(|(node, o)| *node == 0 && is_named(o)).count();
        assert_eq!(named, usize::from(order == [0, 1]), "else it is named at once");
    }
}

#[test]
fn look_alikes_lend_no_cause() {
    let hour = 3_600_000;
    for (why, ours, theirs) in [
        ("another client", client(WEB_END, ISN), server(ELSEWHERE, ISN + 1, 0)),
        ("its port again", client(WEB_END, ISN), server(CLIENT_END, ISN + 1, 0)),
        ("an hour later", client(WEB_END, ISN), server(CLIENT_END, ISN, hour)),
        ("without a number, an hour later", client(WEB_END, 0), server(CLIENT_END, ISN, hour)),
        ("clocks too far apart", client(WEB_END, ISN), server(CLIENT_END, ISN, 60_000)),
        ("without a number, another port", client(WEB_END, 0), server(ELSEWHERE, ISN, 0)),
        (
            "without a number, another server",
            client("10.244.4.3:8080", 0),
            server(CLIENT_END, 0, 0),
        ),
        ("both without a number", client(WEB_END, 0), server(ELSEWHERE, 0, 0)),
    ] {
        let out = play(vec![ours, theirs]);
        assert_eq!(of_client(&out).0, Cause::Unknown, "{why}");
        assert!(out.iter().any(|(_, o)| o.finding().cause == Cause::AcceptQueueOverflow), "{why}");
    }
}

#[test]
fn what_another_node_explains_is_counted_so() {
    let full = Cause::AcceptQueueOverflow;
    for turned in [false, true] {
        let mut streams = vec![client(WEB_END, ISN), server(CLIENT_END, ISN, 0)];
        let (ours, theirs) = if turned { (1, 0) } else { (0, 1) };
        if turned {
            streams.reverse();
        }
        let (out, nodes) = played(streams, Ids::ByNumber);
        assert_eq!(counted(&nodes, ours), (1, 1, vec![(full, 1)]));
        assert_eq!(counted(&nodes, theirs), (1, 1, vec![(full, 1)]));
        let line = out.iter().rfind(|(node, _)| *node == ours).unwrap().1.finding().clone();
        assert_eq!(line.id, format!("n{}-f1", ours + 1));
        let other = line.evidence.iter().find(|line| line.kind == "other-node").unwrap();
        assert!(other.text.ends_with(&format!("finding n{}-f1", theirs + 1)), "{other:?}");
    }
    let (_, nodes) = played(vec![client(WEB_END, ISN), server(ELSEWHERE, ISN + 1, 0)], Ids::ByName);
    assert_eq!(counted(&nodes, 0), (1, 0, vec![(Cause::Unknown, 1)]));
}

#[test]
fn a_report_joins_them_too() {
    let streams = [client(WEB_END, ISN), server(CLIENT_END, ISN, 0)];
    let mut collector = Collector::new(2, &Filter::default());
    // One after the other: the client's stall was told before its cause came.
    for (node, events) in streams.iter().enumerate() {
        events.iter().for_each(|event| collector.take(node, event));
    }
    let report = collector.finish(vec![Source::default(); 2]);
    let causes = report.causes();
    let [line] = causes.as_slice() else { panic!("{causes:?}") };
    let of: Vec<usize> = line.findings.iter().map(|(node, _)| *node).collect();
    assert_eq!((line.cause, line.stalls, of), (Cause::AcceptQueueOverflow, 2, vec![0, 1]));
    assert_eq!(report.outcome(), "2 stalls, all with a named cause");
}

#[test]
fn what_explains_one_destination_explains_no_other() {
    // More destinations than are told apart: those that are left share a finding.
    let places: Vec<String> = (0..12).map(|n| format!("10.244.7.{}:8080", 10 + n)).collect();
    let syns = |ms: u64, retransmits| {
        let all = places.iter().enumerate();
        all.map(move |(n, to)| (ms, again(to, 500, retransmits, ISN + n as u32)))
            .collect::<Vec<_>>()
    };
    let ours = stream("a", 0, WALL, [syns(1500, 1), syns(3500, 2)].concat());
    // The last of them was refused by its listener.
    let out = play(vec![ours, server(CLIENT_END, ISN + 11, 0)]);
    let ids: std::collections::BTreeSet<_> =
        out.iter().filter(|(n, _)| *n == 0).map(|(_, o)| o.finding().id.clone()).collect();
    let last = |id: &String| out.iter().rfind(|(_, o)| o.finding().id == *id).unwrap().1.finding();
    let many = ids.iter().map(last).find(|f| f.count > 1).unwrap();
    assert!(many.stalls.iter().any(|stalled| stalled.isn == ISN + 11), "{:?}", many.stalls);
    assert_eq!(many.cause, Cause::Unknown);
    assert_eq!(ids.iter().map(last).map(|f| f.count).sum::<u64>(), 12);
}

#[test]
fn addresses_alone_make_it_likely() {
    let out = play(vec![client(WEB_END, 0), server(CLIENT_END, ISN, 0)]);
    assert_eq!(of_client(&out), (Cause::AcceptQueueOverflow, Confidence::Likely));
}

#[test]
fn a_finding_with_a_cause_of_its_own_keeps_it() {
    let mut ours = client(WEB_END, ISN);
    let at = ours.iter().position(|e| e.ts > START + 500 * MS).unwrap();
    let drop = table_full_drop(CLIENT, tcp(CLIENT_END, WEB_END), ISN);
    ours.insert(at, Event { ts: START + 500 * MS, body: drop });
    let out = play(vec![ours, server(CLIENT_END, ISN, 0)]);
    assert_eq!(of_client(&out).0, Cause::ConntrackTableFull);
}

/// A query that a full table of the server's node dropped.
fn dropped_query(id: u16, ahead: u64, from: &str) -> Vec<Event> {
    let mut drop = dns_drop(HOST, udp(from, DNS_A_END), id, false, NETFILTER_DROP, 0x100);
    drop.flags |= DROP_TABLE_FULL;
    drop.header = Header { ts: 0, ..drop.header };
    stream("b", LATER, WALL + ahead * S, vec![(501, drop_event(drop))])
}

#[test]
fn a_query_is_known_by_its_id_name_and_one_end() {
    let ours = |id| {
        let told = vec![(2000, unanswered(id, AAAA, 500)), (6000, unanswered(id, AAAA, 500))];
        stream("a", 0, WALL, told)
    };
    let named = (Cause::ConntrackTableFull, Confidence::Likely);
    assert_eq!(of_client(&play(vec![ours(7), dropped_query(7, 0, CLIENT_END)])), named);
    for theirs in [
        dropped_query(8, 0, CLIENT_END),
        dropped_query(7, 600, CLIENT_END),
        dropped_query(7, 0, "10.244.9.9:40312"),
    ] {
        assert_eq!(of_client(&play(vec![ours(7), theirs])).0, Cause::Unknown);
    }
}

#[test]
fn one_node_says_what_its_pipeline_says() {
    let events = server(CLIENT_END, ISN, 0);
    let mut pipeline = Pipeline::new(Options::default());
    let mut alone: Vec<Output> = events.iter().flat_map(|event| pipeline.take(event)).collect();
    alone.extend(pipeline.end());
    let out: Vec<Output> = play(vec![events]).into_iter().map(|(_, output)| output).collect();
    assert_eq!(out, alone);
    assert_eq!(out[0].finding().id, "f1");
}

#[test]
fn nodes_of_one_name_are_told_apart() {
    let theirs = || server(CLIENT_END, ISN, 0);
    let out = play(vec![theirs(), theirs()]);
    let ids: std::collections::BTreeSet<_> =
        out.iter().map(|(node, output)| (*node, output.finding().id.clone())).collect();
    assert_eq!(ids, [(0, "b/f1".to_owned()), (1, "b-2/f1".to_owned())].into());
}

proptest! {
    #[test]
    fn merged_is_by_wall_time_and_nothing_is_lost(
        steps in prop::collection::vec(prop::collection::vec(0..5_u64, 0..30), 0..5),
        offsets in prop::collection::vec(1..1000_u64, 5),
    ) {
        let streams: Vec<Vec<Event>> = steps.iter().zip(&offsets).map(|(steps, offset)| {
            let mut ts = 10;
            let clock = Event { ts, body: Body::Clock(Clock { wall: ts + offset }) };
            std::iter::once(clock).chain(steps.iter().map(|step| {
                ts += step;
                Event { ts, body: Body::Tick }
            })).collect()
        }).collect();
        let mut merge = Merge::new(streams.len());
        let mut sources: Vec<_> = streams.iter().map(|s| s.iter().cloned()).collect();
        let (mut got, mut walls) = (vec![Vec::new(); streams.len()], Vec::new());
        loop {
            while let Some(node) = merge.wants() {
                merge.put(node, sources[node].next());
            }
            let Some((node, event)) = merge.take() else { break };
            walls.push(event.ts + offsets[node]);
            got[node].push(event);
        }
        prop_assert_eq!(got, streams);
        prop_assert!(walls.is_sorted());
    }
}
