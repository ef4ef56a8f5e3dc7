//! The lowest rung: no hook tells, `/proc` is read in turn.

use probe_common::event::OUTCOME_FAILED;

use super::{json, text};
use crate::{
    event::{Body, ConntrackCounters, Counters, IpvsEntry, Listener, Outcome, PodChange, SynSent},
    finding::{Cause, Confidence, Details, details::CappedBy},
    testing::*,
};

const ECONNREFUSED: u32 = 111;
const ETIMEDOUT: u32 = 110;

/// What the namespace showed at `ms`, and half a second before that for the first time.
fn look(ms: u64, netns: u32, overflows: u64, drops: u64) -> Body {
    Body::Counters(Counters {
        netns,
        since: START + (ms - 500) * MS,
        listen_overflows: Some(overflows),
        listen_drops: Some(drops),
        ..Counters::default()
    })
}

/// The same for the conntrack table of the node, whose limit is 100.
fn table(ms: u64, entries: u64, drop: u64, insert_failed: u64) -> Body {
    let conntrack = ConntrackCounters {
        entries,
        max: 100,
        drop,
        insert_failed,
        ..ConntrackCounters::default()
    };
    let since = START + (ms - 500) * MS;
    Body::Counters(Counters {
        netns: HOST,
        since,
        conntrack: Some(conntrack),
        ..Counters::default()
    })
}

/// A connect to `server` whose SYN is sent again twice and that goes on.
fn stall(run: &mut Run, server: &str) {
    run.at(2000, syn_sent(2000, server, 1, Outcome::Trying));
    run.at(4000, syn_sent(4000, server, 2, Outcome::Trying));
}

/// The listener of the pod `netns` overflows whenever that connect sends a SYN.
fn overflow(run: &mut Run, netns: u32, queues: &[(&str, u32)]) {
    run.at(500, look(500, netns, 0, 0));
    for (n, ms) in [1000, 2000, 4000].into_iter().enumerate() {
        let count = n as u64 + 1;
        run.at(ms, look(ms, netns, count, count));
        run.at(ms, listen_queues(netns, queues));
    }
}

#[test]
fn the_listener_asked_overflows_with_each_syn() {
    let mut run = without_ebpf();
    overflow(&mut run, WEB, &[("0.0.0.0:8080", 2)]);
    run.at(1000, Body::Listener(Listener { ino: 4711, pid: 640, comm: "python3".to_owned() }));
    stall(&mut run, WEB_END);
    run.until(9000);
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
    assert_eq!(run.only().confidence, Confidence::Likely);
}

#[test]
fn somaxconn_may_prove_that_the_queue_is_full() {
    let mut run = without_ebpf();
    overflow(&mut run, WEB, &[("10.244.4.2:8080", 4097), ("0.0.0.0:9090", 1)]);
    stall(&mut run, WEB_END);
    run.until(9000);
    let found = run.only();
    assert_eq!((found.cause, found.confidence), (Cause::AcceptQueueOverflow, Confidence::Likely));
    let Details::AcceptQueue(details) = &found.details else { panic!("details") };
    assert_eq!((details.capped_by, details.max_ack_backlog), (CappedBy::Somaxconn, None));
}

#[test]
fn two_queues_that_may_be_full_make_it_possible() {
    let mut run = without_ebpf();
    overflow(&mut run, WEB, &[("0.0.0.0:8080", 1), ("0.0.0.0:9090", 128)]);
    stall(&mut run, WEB_END);
    run.until(9000);
    let found = run.only();
    assert_eq!((found.cause, found.confidence), (Cause::AcceptQueueOverflow, Confidence::Possible));
}

#[test]
fn a_full_queue_of_another_pod_is_not_to_blame() {
    let mut run = without_ebpf();
    overflow(&mut run, DNS_A, &[("0.0.0.0:8080", 2)]);
    stall(&mut run, WEB_END);
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn a_full_queue_of_another_port_is_not_to_blame() {
    let mut run = without_ebpf();
    overflow(&mut run, WEB, &[("0.0.0.0:9090", 2)]);
    stall(&mut run, WEB_END);
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn drops_without_overflows_are_another_limit() {
    let mut run = without_ebpf();
    for (n, ms) in [500, 1000, 2000, 4000].into_iter().enumerate() {
        run.at(ms, look(ms, WEB, 0, n as u64));
    }
    run.at(2000, listen_queues(WEB, &[("0.0.0.0:8080", 2)]));
    stall(&mut run, WEB_END);
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn an_overflow_at_another_time_explains_nothing() {
    let mut run = without_ebpf();
    run.at(500, look(500, WEB, 0, 0));
    run.at(1000, look(1000, WEB, 1, 1));
    run.at(2000, look(2000, WEB, 2, 2));
    run.at(2000, listen_queues(WEB, &[("0.0.0.0:8080", 2)]));
    // Not with the second retransmit.
    run.at(4000, look(4000, WEB, 2, 2));
    stall(&mut run, WEB_END);
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn what_was_not_looked_at_since_does_not_count_against_it() {
    let mut run = without_ebpf();
    run.at(500, look(500, WEB, 0, 0));
    run.at(2000, look(2000, WEB, 2, 2));
    run.at(2000, listen_queues(WEB, &[("0.0.0.0:8080", 2)]));
    stall(&mut run, WEB_END);
    run.until(9000);
    assert_eq!(run.only().cause, Cause::AcceptQueueOverflow);
}

#[test]
fn an_overflow_explains_one_lost_syn() {
    // The namespace was looked at once in that time: one span for both retransmits.
    for (overflows, cause) in [(1, Cause::Unknown), (2, Cause::AcceptQueueOverflow)] {
        let mut run = without_ebpf();
        run.at(500, look(500, WEB, 0, 0));
        let Body::Counters(counters) = look(4000, WEB, overflows, overflows) else { panic!() };
        let since = START + 500 * MS;
        run.at(4000, Body::Counters(Counters { since, ..counters }));
        run.at(4000, listen_queues(WEB, &[("0.0.0.0:8080", 2)]));
        stall(&mut run, WEB_END);
        run.until(9000);
        assert_eq!(run.only().cause, cause, "{overflows}");
    }
}

/// Nobody here has the address: a service, another node, a dead host outside.
#[test]
fn the_only_full_queue_is_not_to_blame_for_an_address_no_pod_has() {
    for server in ["10.96.7.7:80", "203.0.113.9:8080", "10.0.3.99:8080"] {
        let mut run = without_ebpf();
        overflow(&mut run, WEB, &[("0.0.0.0:8080", 2)]);
        stall(&mut run, server);
        run.until(9000);
        assert_eq!(run.only().cause, Cause::Unknown, "{server}");
    }
}

#[test]
fn a_listener_of_the_other_family_makes_it_possible() {
    let likely = Some((Confidence::Likely, "0.0.0.0:8080"));
    for (server, queues, wanted) in [
        (WEB_END, &[("[::]:8080", 2)][..], Some((Confidence::Possible, "[::]:8080"))),
        // somaxconn proves that it is full, not that it is the one asked.
        (WEB_END, &[("[::]:8080", 4097)], Some((Confidence::Possible, "[::]:8080"))),
        (WEB_END, &[("0.0.0.0:8080", 2)], likely),
        // The one of the client's family is asked, but the other may be the full one.
        (
            WEB_END,
            &[("[::]:8080", 9), ("0.0.0.0:8080", 2)],
            likely.map(|(_, at)| (Confidence::Possible, at)),
        ),
        (
            WEB_END,
            &[("0.0.0.0:8080", 9), ("10.244.4.2:8080", 4097)],
            Some((Confidence::Likely, "10.244.4.2:8080")),
        ),
        (WEB_END, &[("[fd00::4]:8080", 2)], None),
        (WEB_END, &[("10.244.4.3:8080", 2)], None),
    ] {
        let mut run = without_ebpf();
        overflow(&mut run, WEB, queues);
        stall(&mut run, server);
        run.until(9000);
        let found = run.only();
        let line = found.evidence.iter().find(|line| line.kind == "listen-queue");
        let named = (found.cause == Cause::AcceptQueueOverflow)
            .then(|| (found.confidence, line.map_or("", |line| line.text.as_str())));
        assert_eq!(named.map(|(confidence, _)| confidence), wanted.map(|(c, _)| c), "{queues:?}");
        if let (Some((_, text)), Some((_, at))) = (named, wanted) {
            assert!(text.contains(&format!("at {at};")), "{text}");
        }
    }
}

#[test]
fn with_hooks_snapshots_have_no_say() {
    let mut run = Run::new();
    overflow(&mut run, WEB, &[("0.0.0.0:8080", 2)]);
    run.at(2000, syn_again(WEB_END, 1000, 1));
    run.at(4000, syn_again(WEB_END, 1000, 2));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn a_connect_that_gets_through_at_last() {
    let mut run = without_ebpf();
    overflow(&mut run, WEB, &[("0.0.0.0:8080", 2)]);
    run.at(2000, syn_sent(2000, WEB_END, 1, Outcome::Trying));
    run.at(2500, syn_sent(2500, WEB_END, 1, Outcome::Established));
    run.until(9000);
    let found = run.only();
    assert_eq!((found.cause, found.open), (Cause::AcceptQueueOverflow, false));
}

#[test]
fn the_same_ends_later_are_another_stall() {
    let mut run = without_ebpf();
    run.at(2000, syn_sent(2000, WEB_END, 1, Outcome::Trying));
    run.at(3000, syn_sent(3000, WEB_END, 1, Outcome::Gone));
    run.at(3500, syn_sent(3500, WEB_END, 1, Outcome::Gone));
    run.at(6000, syn_sent(6000, WEB_END, 1, Outcome::Trying));
    run.until(12_000);
    assert_eq!(run.pipeline.status().stalls, 2);
}

#[test]
fn a_full_table_drops_with_each_syn() {
    let mut run = without_ebpf();
    for (n, ms) in [500, 1000, 2000, 4000].into_iter().enumerate() {
        run.at(ms, table(ms, 100, 10 * n as u64, 0));
    }
    stall(&mut run, WEB_END);
    run.until(9000);
    insta::assert_snapshot!(text(&run));
    let found = run.only();
    assert_eq!((found.cause, found.confidence), (Cause::ConntrackTableFull, Confidence::Likely));
}

#[test]
fn clashes_and_a_table_with_room_are_no_full_table() {
    for (entries, failed) in [(100, 1), (50, 0)] {
        let mut run = without_ebpf();
        for (n, ms) in [500, 1000, 2000, 4000].into_iter().enumerate() {
            run.at(ms, table(ms, entries, n as u64, failed * n as u64));
        }
        stall(&mut run, WEB_END);
        run.until(9000);
        assert_eq!(run.only().cause, Cause::Unknown, "{entries} entries, {failed} failed");
    }
}

#[test]
fn a_full_table_of_a_pod_the_syn_does_not_pass() {
    let mut run = without_ebpf();
    for (n, ms) in [500, 1000, 2000, 4000].into_iter().enumerate() {
        let Body::Counters(counters) = table(ms, 100, n as u64, 0) else { panic!("counters") };
        run.at(ms, Body::Counters(Counters { netns: DNS_A, ..counters }));
    }
    stall(&mut run, WEB_END);
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

/// The client asks itself: no other table is on the way.
#[test]
fn the_nodes_full_table_is_not_on_the_way_within_a_namespace() {
    for server in ["127.0.0.1:8080", "[::1]:8080", "10.244.1.2:8080"] {
        for (of, cause) in [(HOST, Cause::Unknown), (CLIENT, Cause::ConntrackTableFull)] {
            let mut run = without_ebpf();
            for (n, ms) in [500, 1000, 2000, 4000].into_iter().enumerate() {
                let Body::Counters(counters) = table(ms, 100, n as u64, 0) else { panic!() };
                run.at(ms, Body::Counters(Counters { netns: of, ..counters }));
            }
            stall(&mut run, server);
            run.until(9000);
            assert_eq!(run.only().cause, cause, "{server} {of}");
        }
    }
}

#[test]
fn the_same_ends_in_two_namespaces_are_two_stalls() {
    let mut run = without_ebpf();
    for netns in [CLIENT, WEB] {
        let Body::SynSent(sent) = syn_sent(2000, "127.0.0.1:8080", 1, Outcome::Trying) else {
            panic!("a connect")
        };
        let client = "127.0.0.1:40000".parse().expect("an address");
        run.at(2000, Body::SynSent(SynSent { netns, client, ..sent }));
    }
    run.until(9000);
    assert_eq!(run.pipeline.status().stalls, 2);
}

fn entry(state: &str, weight: Option<u32>) -> Body {
    let Body::IpvsEntry(entry) = ipvs_entry(weight) else { panic!("an entry") };
    Body::IpvsEntry(IpvsEntry { state: state.to_owned(), ..entry })
}

#[test]
fn an_old_ipvs_connection_to_a_server_that_is_gone() {
    for (state, weight, wanted) in [
        ("TIME_WAIT", None, Some(Confidence::Likely)),
        ("ESTABLISHED", None, Some(Confidence::Likely)),
        ("SYN_RECV", None, None),
        // A drained server gets the SYN, which leaves no other old state than this as it was.
        ("ESTABLISHED", Some(0), Some(Confidence::Likely)),
        ("TIME_WAIT", Some(0), None),
        ("FIN_WAIT", Some(0), None),
        ("CLOSE_WAIT", Some(0), None),
        ("CLOSE", Some(0), None),
        ("SYN_RECV", Some(0), None),
        ("TIME_WAIT", Some(1), None),
        ("ESTABLISHED", Some(1), None),
    ] {
        let mut run = without_ebpf();
        stall(&mut run, IPVS_SERVICE);
        run.at(2000, entry(state, weight));
        run.until(9000);
        let found = run.only();
        let is_named = found.cause == Cause::IpvsStaleConnection;
        assert_eq!(is_named.then_some(found.confidence), wanted, "{state} {weight:?}");
    }
}

#[test]
fn a_drained_server_that_refuses_closes_the_old_ipvs_connection() {
    let named = |errno| {
        let mut run = without_ebpf();
        run.at(1520, syn_again(IPVS_SERVICE, 500, 1));
        run.at(1521, entry("CLOSE", Some(0)));
        run.at(1530, connect_end(IPVS_SERVICE, 500, 1, OUTCOME_FAILED, errno));
        run.until(9000);
        let found = run.only();
        (found.cause == Cause::IpvsStaleConnection).then_some(found.confidence)
    };
    assert_eq!(named(ECONNREFUSED), Some(Confidence::Likely));
    assert_eq!(named(ETIMEDOUT), None);
}

#[test]
fn another_clients_ipvs_connection_says_nothing() {
    let mut run = without_ebpf();
    stall(&mut run, IPVS_SERVICE);
    let Body::IpvsEntry(entry) = ipvs_entry(None) else { panic!("an entry") };
    let client = "10.244.1.2:40001".parse().expect("an address");
    run.at(2000, Body::IpvsEntry(IpvsEntry { client, ..entry }));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn a_namespace_that_is_gone_leaves_nothing() {
    let mut run = without_ebpf();
    overflow(&mut run, WEB, &[("0.0.0.0:8080", 2)]);
    run.at(4100, Body::Pod(PodChange::Gone { netns: WEB }));
    run.at(4100, Body::Tick);
    run.until(9000);
    assert!(run.out.is_empty());
}
