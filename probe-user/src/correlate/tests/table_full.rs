use super::{json, text};
use crate::{
    event::{Body, ConntrackCounters, Counters, HookState, Rung, Totals},
    finding::{Cause, Confidence, Details, Output, SymptomKind},
    testing::*,
};

fn table(max: u64) -> Body {
    let conntrack = ConntrackCounters { entries: max, max, ..ConntrackCounters::default() };
    Body::Counters(Counters { netns: HOST, conntrack: Some(conntrack), ..Counters::default() })
}

#[test]
fn a_syn_refused_by_a_full_table() {
    let mut run = Run::new();
    run.at(400, table(262_144));
    run.at(500, table_full_drop(HOST, tcp(CLIENT_END, WEB_END), ISN));
    run.at(1520, syn_again(WEB_END, 500, 1));
    run.at(1520, table_full_drop(HOST, tcp(CLIENT_END, WEB_END), ISN));
    run.until(9000);
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
}

#[test]
fn each_pod_that_lost_packets_is_named() {
    let mut run = Run::new();
    run.at(400, table(20));
    for n in 0..40 {
        let src = format!("10.244.1.2:{}", 30_000 + n);
        run.at(500 + n, table_full_drop(HOST, udp(&src, "10.96.0.9:9999"), 0x4141));
    }
    for n in 0..3 {
        let src = format!("10.244.4.2:{}", 30_000 + n);
        run.at(600 + n, table_full_drop(HOST, udp(&src, "10.96.0.9:9999"), 0x4141));
    }
    run.until(9000);
    run.out.extend(run.pipeline.finish());
    assert_eq!(run.causes(), [Cause::ConntrackTableFull; 2]);
    for name in ["client", "web"] {
        let told = run.findings().into_iter().find(|f| f.victim.pod.as_deref() == Some(name));
        assert_eq!(told.map(|f| f.confidence), Some(Confidence::Certain), "{name}");
    }
    let last = run.out.iter().rfind(|o| matches!(o, Output::Update(..))).expect("an update");
    let Details::TableFull(details) = &last.finding().details else { panic!("details") };
    let pods: Vec<_> = details.pods.iter().map(|p| (p.pod.as_str(), p.dropped)).collect();
    assert_eq!(pods, [("client", 40), ("web", 3)]);
    assert_eq!((details.limit, details.count), (Some(20), Some(20)));
    assert_eq!(run.pipeline.status().stalls, 43);
}

#[test]
fn a_dropped_query_of_a_local_resolver_is_the_resolvers_stall() {
    let mut run = Run::new();
    let mut drop = dns_drop(HOST, udp(CLIENT_END, SERVICE), 0x2222, false, NETFILTER_DROP, 0x100);
    drop.flags |= probe_common::event::DROP_TABLE_FULL;
    run.at(500, drop_event(drop));
    run.at(1600, unanswered(0x2222, AAAA, 500));
    run.until(30_000);
    assert_eq!(run.only().cause, Cause::ConntrackTableFull);
    assert_eq!(run.only().victim.process.as_deref(), Some("getent"));
    assert_eq!(run.pipeline.status().stalls, 1);
}

#[test]
fn of_two_certain_causes_the_first_in_the_catalogue_is_named() {
    let mut run = Run::new();
    run.at(500, table_full_drop(HOST, tcp(CLIENT_END, WEB_END), ISN));
    run.at(1520, syn_again(WEB_END, 500, 1));
    run.at(1521, syn_drop(WEB, WEB_END, NO_SOCKET, 0x400));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::ConntrackTableFull);
}

#[test]
fn the_packets_of_one_established_connection_are_one_stall() {
    let mut run = Run::new();
    for n in 0..5 {
        let mut drop = dropped(HOST, tcp(CLIENT_END, WEB_END), 1000 + n, NETFILTER_DROP, 0x100);
        drop.flags |= probe_common::event::DROP_TABLE_FULL;
        drop.tcp_flags = 0x10;
        run.at(500 + u64::from(n), drop_event(drop));
    }
    run.until(9000);
    assert_eq!(run.only().cause, Cause::ConntrackTableFull);
    assert_eq!(run.pipeline.status().stalls, 1);
}

#[test]
fn a_refused_syn_ack_stalls_the_one_who_connects() {
    let mut run = Run::new();
    let mut drop = dropped(HOST, tcp(WEB_END, CLIENT_END), ISN, NETFILTER_DROP, 0x100);
    drop.flags |= probe_common::event::DROP_TABLE_FULL;
    drop.tcp_flags = 0x12;
    run.at(500, drop_event(drop));
    run.until(9000);
    assert_eq!(run.only().victim.pod.as_deref(), Some("client"));
    assert_eq!(run.only().flow.dst.to_string(), WEB_END);
}

#[test]
fn a_sender_on_loopback_is_the_namespace_of_its_packet() {
    let mut run = Run::new();
    run.at(500, table_full_drop(CLIENT, udp("127.0.0.1:4000", "127.0.0.1:9999"), 0x4141));
    run.until(9000);
    assert_eq!(run.only().victim.pod.as_deref(), Some("client"));
}

#[test]
fn the_stream_says_which_ports_are_dns() {
    for (port, want) in [(8053, SymptomKind::DnsStall), (53, SymptomKind::ConnectStall)] {
        let node = crate::event::Node { dns_ports: vec![8053], ..node() };
        let watched = |_: &str| HookState::Watched { rung: Rung::Kprobe };
        let mut run = Run::with(node, hooks(watched));
        let to = format!("10.96.0.9:{port}");
        run.at(500, table_full_drop(HOST, udp(CLIENT_END, &to), 0x4141));
        run.until(9000);
        assert_eq!(run.only().symptom, want);
    }
}

#[test]
fn each_table_counts_its_own_and_what_was_left_out_is_said() {
    let mut run = Run::new();
    run.at(500, table_full_drop(HOST, udp(CLIENT_END, "10.96.0.9:9999"), 0x4141));
    run.at(500, table_full_drop(WEB, udp("10.244.4.2:1", "10.96.0.9:9999"), 0x4141));
    run.at(600, Body::Totals(Box::new(Totals { table_full: 12, ..totals() })));
    run.until(9000);
    let found = run.findings();
    assert_eq!(found.len(), 2);
    for (found, name) in found.into_iter().zip(["client", "web"]) {
        let Details::TableFull(details) = &found.details else { panic!("details") };
        let pods: Vec<_> = details.pods.iter().map(|p| (p.pod.as_str(), p.dropped)).collect();
        assert_eq!((pods, details.details_left_out), (vec![(name, 1)], 10));
        let want = "12 on this node, details of 10 left out";
        assert!(found.evidence.iter().any(|e| e.text.ends_with(want)), "{:?}", found.evidence);
    }
}
