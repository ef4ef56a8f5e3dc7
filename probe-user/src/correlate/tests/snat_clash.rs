use probe_common::{
    event::{OUTCOME_ESTABLISHED, kind},
    net::{IPPROTO_TCP, IPPROTO_UDP, ips},
};

use super::{json, not_seen, text};
use crate::{
    event::Body,
    finding::{Cause, Confidence, Details, SymptomKind},
    testing::*,
};

const OUTSIDE: &str = "198.51.100.7:443";

#[test]
fn tcp_recovers_after_a_second() {
    let mut run = Run::new();
    run.at(501, clashed(snat_clash(IPPROTO_TCP, CLIENT_END, OUTSIDE, ISN)));
    run.at(1520, syn_again(OUTSIDE, 500, 1));
    run.at(1540, connect_end(OUTSIDE, 500, 1, OUTCOME_ESTABLISHED, 0));
    run.until(9000);
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
    let Details::SnatClash(details) = &run.only().details else { panic!("details") };
    assert_eq!(details.winner_age_jiffies, Some(0));
}

#[test]
fn a_dns_query_is_one_stall_though_both_ends_show_it() {
    let mut run = Run::new();
    let resolver = "10.0.0.2:53";
    let mut q = query(kind::DNS_UNANSWERED, 0x2222, A, 500);
    q.tuple = udp(CLIENT_END, resolver);
    q.server[0] = q.tuple.dst;
    run.at(501, clashed(snat_clash(IPPROTO_UDP, CLIENT_END, resolver, 0x2222)));
    run.at(1700, Body::Dns(Box::new(q)));
    run.until(30_000);
    let found = run.only();
    assert_eq!((found.cause, found.confidence), (Cause::ConntrackSnatClash, Confidence::Certain));
    assert_eq!((found.symptom, found.count), (SymptomKind::DnsStall, 1));
    assert_eq!(found.victim.process.as_deref(), Some("getent"));
    assert_eq!(run.pipeline.status().stalls, 1);
}

#[test]
fn a_udp_packet_that_is_not_dns_is_told_by_its_drop_alone() {
    let mut run = Run::new();
    let outside = "198.51.100.7:9999";
    run.at(501, clashed(snat_clash(IPPROTO_UDP, CLIENT_END, outside, 0x4141)));
    run.at(700, clashed(snat_clash(IPPROTO_UDP, CLIENT_END, outside, 0x4242)));
    assert_eq!(run.first_finding_at(9000), Some(900));
    let found = run.only();
    assert_eq!(found.cause, Cause::ConntrackSnatClash);
    assert_eq!(found.victim.pod.as_deref(), Some("client"));
}

#[test]
fn two_services_with_one_server_clash_without_snat() {
    let mut clash = snat_clash(IPPROTO_TCP, CLIENT_END, "10.96.0.11:80", ISN);
    clash.loser.reply = tcp(WEB_END, CLIENT_END);
    clash.winner.orig = tcp(CLIENT_END, "10.96.0.12:80");
    clash.winner.reply = clash.loser.reply;
    for status in [ips::DST_NAT, ips::DST_NAT | ips::SRC_NAT] {
        clash.loser.status = status;
        let mut run = Run::new();
        run.at(501, clashed(clash));
        run.at(1520, syn_again("10.96.0.11:80", 500, 1));
        run.until(9000);
        assert_eq!(run.only().cause, Cause::Unknown);
    }
    // The port alone may be what the masquerade changed.
    clash.loser.reply = tcp(WEB_END, "10.244.1.2:61000");
    let mut run = Run::new();
    run.at(501, clashed(clash));
    run.at(1520, syn_again("10.96.0.11:80", 500, 1));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::ConntrackSnatClash);
}

#[test]
fn a_rule_that_drops_the_same_packet_is_not_a_clash() {
    for location in [0x100, 0x200] {
        let mut run = Run::new();
        run.at(501, syn_drop(HOST, OUTSIDE, NETFILTER_DROP, location));
        run.at(1520, syn_again(OUTSIDE, 500, 1));
        run.until(9000);
        assert_eq!(run.only().cause, Cause::Unknown);
        assert!(run.only().title.contains("was dropped by netfilter"), "{}", run.only().title);
        assert!(not_seen(run.only()).is_empty());
    }
}

#[test]
fn a_program_that_gives_up_early_is_named_when_its_syn_was_dropped() {
    let mut run = Run::new();
    run.at(501, clashed(snat_clash(IPPROTO_TCP, CLIENT_END, OUTSIDE, ISN)));
    run.at(900, connect_end(OUTSIDE, 500, 0, probe_common::event::OUTCOME_FAILED, 0));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::ConntrackSnatClash);
    assert_eq!(run.only().victim.process.as_deref(), Some("curl"));
}

#[test]
fn a_flow_that_clashes_with_itself_is_no_snat_clash() {
    let mut clash = snat_clash(IPPROTO_TCP, CLIENT_END, OUTSIDE, ISN);
    clash.winner.orig = clash.loser.orig;
    let mut run = Run::new();
    run.at(501, clashed(clash));
    run.at(1520, syn_again(OUTSIDE, 500, 1));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
    // A twin of a SYN that went through.
    let mut run = Run::new();
    run.at(501, clashed(clash));
    run.until(9000);
    assert_eq!(run.out, []);
}

#[test]
fn the_sequence_number_joins_behind_another_translation() {
    // The client's own namespace translates too: the host's table never saw its address.
    let mut run = Run::new();
    run.at(501, clashed(snat_clash(IPPROTO_TCP, "10.244.1.2:61000", OUTSIDE, ISN)));
    run.at(1520, syn_again("10.96.7.7:443", 500, 1));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::ConntrackSnatClash);
}

#[test]
fn a_packet_in_the_same_memory_long_after_is_another() {
    for (at, shown) in [(400, false), (502, true), (1700, false)] {
        let clash = snat_clash(IPPROTO_TCP, CLIENT_END, OUTSIDE, ISN);
        let mut run = Run::new();
        run.at(501, clashed(clash));
        let mut drop = dropped(HOST, tcp("10.0.3.17:9", OUTSIDE), 7, NETFILTER_DROP, 0x100);
        (drop.skb, drop.tcp_flags) = (clash.skb, 2);
        run.at(at, drop_event(drop));
        run.at(1520, syn_again(OUTSIDE, 500, 1));
        run.until(9000);
        let found = run.only();
        assert_eq!(found.cause, Cause::ConntrackSnatClash);
        assert_eq!(found.evidence.iter().any(|e| e.kind == "packet-dropped"), shown, "at {at}");
    }
}
