use probe_common::{
    event::kind,
    net::{IPPROTO_TCP, IPPROTO_UDP, ct_tcp, ips},
};

use super::{json, text};
use crate::{
    event::Body,
    finding::{Cause, Confidence, SymptomKind},
    testing::*,
};

const OUTSIDE: &str = "198.51.100.7:443";

#[test]
fn a_port_that_was_taken_long_before() {
    let mut clash = snat_clash(IPPROTO_TCP, CLIENT_END, OUTSIDE, ISN);
    clash.winner.status |= ips::SEEN_REPLY | ips::ASSURED;
    clash.winner.tcp_state = ct_tcp::ESTABLISHED;
    clash.winner_started = START - 59_499 * MS;
    let mut run = Run::new();
    clash.header.ts = START + 501 * MS;
    run.at(501, clashed(clash));
    run.at(1520, syn_again(OUTSIDE, 500, 1));
    run.until(9000);
    assert_eq!(run.only().confidence, Confidence::Certain);
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
}

#[test]
fn a_dns_query_that_gets_no_port() {
    let resolver = "10.0.0.2:53";
    let mut clash = snat_clash(IPPROTO_UDP, CLIENT_END, resolver, 0x2222);
    (clash.loser.born, clash.winner.born) = (90_000, 89_000);
    clash.winner.status |= ips::SEEN_REPLY;
    let mut q = query(kind::DNS_UNANSWERED, 0x2222, A, 500);
    q.tuple = udp(CLIENT_END, resolver);
    q.server[0] = q.tuple.dst;
    let mut run = Run::new();
    run.at(501, clashed(clash));
    run.at(1700, Body::Dns(Box::new(q)));
    run.until(30_000);
    let found = run.only();
    assert_eq!((found.cause, found.confidence), (Cause::SnatPortsExhausted, Confidence::Certain));
    assert_eq!((found.symptom, found.count), (SymptomKind::DnsStall, 1));
}

#[test]
fn certain_needs_a_proof_of_age_and_a_young_winner_is_a_race() {
    let young = snat_clash(IPPROTO_TCP, CLIENT_END, OUTSIDE, ISN);
    let mut unclear = young;
    unclear.winner.status |= ips::SEEN_REPLY | ips::ASSURED;
    unclear.winner.tcp_state = ct_tcp::ESTABLISHED;
    let mut old = young;
    old.winner.timeout -= 3000;
    for (clash, cause, confidence) in [
        (young, Cause::ConntrackSnatClash, Confidence::Certain),
        (unclear, Cause::SnatPortsExhausted, Confidence::Likely),
        (old, Cause::SnatPortsExhausted, Confidence::Certain),
    ] {
        let mut run = Run::new();
        run.at(501, clashed(clash));
        run.at(1520, syn_again(OUTSIDE, 500, 1));
        run.until(9000);
        assert_eq!((run.only().cause, run.only().confidence), (cause, confidence));
    }
}

#[test]
fn an_old_winner_of_another_kind_is_no_lack_of_ports() {
    let mut old = snat_clash(IPPROTO_TCP, CLIENT_END, OUTSIDE, ISN);
    old.winner.timeout -= 3000;
    let mut not_translated = old;
    not_translated.loser.status &= !ips::SRC_NAT;
    let mut original_hit = old;
    original_hit.hit_dir = 0;
    let mut same_flow = old;
    same_flow.winner.orig = same_flow.loser.orig;
    let mut untouched = old;
    untouched.loser.reply = tcp(OUTSIDE, CLIENT_END);
    untouched.winner.reply = untouched.loser.reply;
    let mut passed = old;
    passed.verdict = u32::MAX;
    for clash in [not_translated, original_hit, same_flow, untouched, passed] {
        let mut run = Run::new();
        run.at(501, clashed(clash));
        run.at(1520, syn_again(OUTSIDE, 500, 1));
        run.until(9000);
        let found = run.only();
        assert_eq!(found.cause, Cause::Unknown);
        assert!(found.evidence.iter().any(|e| e.kind == "conntrack-clash"), "{found:#?}");
        let why = found.ruled_out.iter().find(|n| n.cause == Cause::SnatPortsExhausted);
        assert!(why.is_some_and(|n| n.why.contains("not with an older entry")), "{why:?}");
        let why = found.ruled_out.iter().find(|n| n.cause == Cause::ConntrackSnatClash);
        assert!(why.is_some_and(|n| n.why.contains("not with a young entry")), "{why:?}");
    }
}
