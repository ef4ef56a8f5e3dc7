use probe_common::event::{VERDICT_DROP, kind};

use super::{json, text};
use crate::{
    finding::{Cause, Confidence, Details},
    testing::*,
};

const ID: u16 = 0x2222;

/// The answer of the loser's backend, as it arrives untranslated in the client's namespace.
fn lost_answer(reason: u32) -> crate::event::Body {
    drop_event(dns_drop(CLIENT, udp(DNS_B_END, CLIENT_END), ID, true, reason, 0x300))
}

fn clash_and_late_answer(run: &mut Run) {
    run.at(501, clashed(clash()));
    run.at(1000, served(kind::DNS_SERVER_PENDING, ID, DNS_B, DNS_B_END, 501, 0));
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(1901, served(kind::DNS_SERVER_ANSWER, ID, DNS_B, DNS_B_END, 501, 1901));
}

#[test]
fn the_answer_comes_too_late_for_the_losers_entry() {
    let mut run = Run::new();
    clash_and_late_answer(&mut run);
    run.at(1902, lost_answer(NO_SOCKET));
    run.at(6900, retry(ID, AAAA, 500, 6900));
    run.at(8300, answer(ID, AAAA, 500, 8300, 2));
    assert_eq!(run.first_finding_at(9000), Some(2200));
    run.until(9000);
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
    run.until(30_000);
    assert_eq!(run.findings().len(), 1, "one stall is counted once");
    assert_eq!(run.pipeline.status().stalls, 1);
    let last = run.out.last().expect("an update").finding();
    assert_eq!((last.count, last.waited, last.open), (1, 7800 * MS, false));
}

#[test]
fn evidence_before_the_symptom_and_after_it_give_the_same() {
    let mut run = Run::new();
    run.at(501, clashed(clash()));
    run.at(1902, lost_answer(NO_SOCKET));
    run.at(5500, retry(ID, AAAA, 500, 5500));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::ConntrackDnatClash);
    assert_eq!(run.only().confidence, Confidence::Certain);
}

#[test]
fn an_unconnected_socket_sees_the_wrong_source() {
    let mut run = Run::new();
    clash_and_late_answer(&mut run);
    let mut stray = query(kind::DNS_WRONG_SOURCE, ID, AAAA, 500);
    stray.tuple.dst = udp(CLIENT_END, DNS_B_END).dst;
    run.at(1902, crate::event::Body::Dns(Box::new(stray)));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::ConntrackDnatClash);
    assert_eq!(run.only().confidence, Confidence::Certain);
}

#[test]
fn a_kernel_without_reasons_shows_the_drop_in_the_pod() {
    let mut node = node();
    node.drop_reasons.clear();
    let watched = |_: &str| crate::event::HookState::Watched { rung: crate::event::Rung::Kprobe };
    let mut run = Run::with(node, hooks(watched));
    clash_and_late_answer(&mut run);
    run.at(1902, lost_answer(0));
    run.until(9000);
    assert_eq!(run.only().confidence, Confidence::Certain);
}

#[test]
fn an_old_kernel_drops_the_second_query() {
    let mut run = Run::new();
    let mut clash = clash();
    clash.verdict = VERDICT_DROP;
    run.at(501, clashed(clash));
    run.at(1500, unanswered(ID, AAAA, 500));
    run.until(9000);
    let found = run.only();
    assert_eq!((found.cause, found.confidence), (Cause::ConntrackDnatClash, Confidence::Certain));
    let Details::DnatClash(details) = &found.details else { panic!("details") };
    assert!(!details.resolved);
    assert_eq!(found.count, 1, "the clash seen in the host's namespace is the same stall");
}

#[test]
fn the_clash_alone_is_not_enough() {
    // Nobody saw the answer lost, but it left the server too late for the entry.
    let mut run = Run::new();
    clash_and_late_answer(&mut run);
    run.at(5500, retry(ID, AAAA, 500, 5500));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::ConntrackDnatClash);
    assert_eq!(run.only().confidence, Confidence::Likely);
    // Not even that: the server is on another node.
    let mut run = Run::new();
    run.at(501, clashed(clash()));
    run.at(5500, retry(ID, AAAA, 500, 5500));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
    let why = &run.only().ruled_out.iter().find(|n| n.cause == Cause::ConntrackDnatClash);
    assert!(why.is_some_and(|n| n.why.contains("a clash of this flow was seen")), "{why:?}");
}

#[test]
fn a_clash_that_is_answered_in_time_is_nothing() {
    let mut run = Run::new();
    for n in 0..50 {
        run.at(500 + n * 10, clashed(clash()));
    }
    run.until(9000);
    assert_eq!(run.out, []);
    assert_eq!(run.pipeline.status().stalls, 0);
}

#[test]
fn the_query_that_won_has_another_id() {
    // Both queries share the five-tuple; the A query stalls for another reason.
    let mut run = Run::new();
    run.at(501, clashed(clash()));
    run.at(1500, unanswered(0x1111, A, 500));
    run.at(1902, lost_answer(NO_SOCKET));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn an_untranslated_answer_without_a_clash_is_not_a_clash() {
    // Bridged, with bridge-nf-call-iptables=0. Nor is it a closed port: the answer met no socket,
    // not the query.
    let mut run = Run::new();
    run.at(502, lost_answer(NO_SOCKET));
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(5500, retry(ID, AAAA, 500, 5500));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
    insta::assert_snapshot!(text(&run));
}

#[test]
fn a_rule_that_drops_the_late_answer_makes_it_likely_only() {
    let mut run = Run::new();
    clash_and_late_answer(&mut run);
    run.at(1902, lost_answer(NETFILTER_DROP));
    run.at(5500, retry(ID, AAAA, 500, 5500));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::ConntrackDnatClash);
    assert_eq!(run.only().confidence, Confidence::Likely);
}

#[test]
fn an_answer_that_arrived_was_not_lost_by_a_clash() {
    // The winner's backend is as slow, and its answer is translated and received.
    let mut run = Run::new();
    run.at(501, clashed(clash()));
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(1901, served(kind::DNS_SERVER_ANSWER, ID, DNS_B, DNS_B_END, 501, 1901));
    run.at(1902, answer(ID, AAAA, 500, 1902, 1));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::ServerSlow);
}

#[test]
fn an_answer_of_the_winners_backend_is_lost_by_something_else() {
    let mut run = Run::new();
    clash_and_late_answer(&mut run);
    let other = dns_drop(CLIENT, udp(DNS_A_END, CLIENT_END), ID, true, NO_SOCKET, 0x300);
    run.at(1902, drop_event(other));
    run.until(2500);
    assert_eq!(run.out, [], "nothing is certain");
}

#[test]
fn a_clash_merged_into_one_backend_loses_nothing() {
    let mut run = Run::new();
    let mut merged = clash();
    merged.winner.reply = merged.loser.reply;
    run.at(501, clashed(merged));
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(1902, lost_answer(NO_SOCKET));
    run.at(5500, retry(ID, AAAA, 500, 5500));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn an_answer_received_at_the_first_try_was_not_lost() {
    // Neither cause explains the stall: most of it passed before the query reached the server.
    let mut run = Run::new();
    run.at(501, clashed(clash()));
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(2900, served(kind::DNS_SERVER_ANSWER, ID, DNS_B, DNS_B_END, 2000, 2900));
    run.at(2901, answer(ID, AAAA, 500, 2901, 1));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn an_answer_within_the_entrys_second_was_lost_by_something_else() {
    let mut run = Run::new();
    run.at(501, clashed(clash()));
    run.at(1200, served(kind::DNS_SERVER_ANSWER, ID, DNS_B, DNS_B_END, 501, 1200));
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(5500, retry(ID, AAAA, 500, 5500));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn the_dropped_query_is_the_one_with_that_id() {
    let mut run = Run::new();
    let mut clash = clash();
    clash.verdict = VERDICT_DROP;
    run.at(501, clashed(clash));
    run.at(1500, unanswered(0x1111, A, 500));
    run.until(9000);
    let named: Vec<_> = run.findings().iter().map(|f| (f.victim.pid, f.cause)).collect();
    assert!(named.contains(&(Some(812), Cause::Unknown)), "{named:?}");
}

#[test]
fn a_wrong_source_in_another_pod_is_another_query() {
    let mut run = Run::new();
    clash_and_late_answer(&mut run);
    let mut stray = query(kind::DNS_WRONG_SOURCE, ID, AAAA, 500);
    stray.tuple.dst = udp(CLIENT_END, DNS_B_END).dst;
    stray.header.netns = WEB;
    run.at(1902, crate::event::Body::Dns(Box::new(stray)));
    run.until(2500);
    assert_eq!(run.out, [], "nothing is certain");
}
