//! `conntrack-stale-nat`, `reply-not-translated` and `conntrack-invalid`.

use probe_common::{
    event::{CT_INVALID, CT_UNTRACKED, CtEntry},
    net::{Conntrack, ips},
};

use super::{json, text};
use crate::{
    event::{Body, PodChange},
    finding::{Cause, Change, Confidence, Details, Output, details::Stale},
    testing::*,
};

const ID: u16 = 0x2222;
const TRANSLATED: u32 = ips::DST_NAT | ips::DST_NAT_DONE | ips::SRC_NAT_DONE;
const OLD: u32 = TRANSLATED | ips::CONFIRMED | ips::SEEN_REPLY | ips::ASSURED;

/// The client's query as it was sent again, with an entry that leads to `dns-a`.
fn query_entry(status: u32) -> CtEntry {
    ct_entry(udp(CLIENT_END, SERVICE), udp(CLIENT_END, SERVICE), udp(DNS_A_END, CLIENT_END), status)
}

fn entered(entry: CtEntry) -> Body {
    Body::CtEntry(Box::new(entry))
}

fn gone(netns: u32) -> Body {
    Body::Pod(PodChange::Gone { netns })
}

/// A query that is never answered, and sent again five seconds later.
fn stalled(run: &mut Run) {
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(5500, retry(ID, AAAA, 500, 5500));
}

/// The answer of `dns-a`, as it came to the client by its own address.
fn untranslated_answer(reason: u32) -> Body {
    drop_event(dns_drop(CLIENT, udp(DNS_A_END, CLIENT_END), ID, true, reason, 0x300))
}

fn cause(run: &Run) -> (Cause, Confidence) {
    (run.only().cause, run.only().confidence)
}

fn why_not(run: &Run, cause: Cause) -> String {
    let all = run.only().ruled_out.iter().chain(&run.only().not_seen);
    all.filter(|n| n.cause == cause).map(|n| n.why.clone()).collect()
}

#[test]
fn the_entry_leads_to_a_pod_that_is_gone() {
    let mut run = Run::new();
    run.at(100, gone(DNS_A));
    stalled(&mut run);
    run.at(5500, entered(query_entry(OLD)));
    run.until(9000);
    assert_eq!(cause(&run), (Cause::ConntrackStaleNat, Confidence::Certain));
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
}

#[test]
fn an_entry_that_never_was_answered_may_be_new() {
    // The rules still lead to the pod that is gone: it is not the entry that is old.
    let mut run = Run::new();
    run.at(100, gone(DNS_A));
    stalled(&mut run);
    run.at(5500, entered(query_entry(TRANSLATED | ips::CONFIRMED)));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
    assert!(text(&run).contains("no answer has come by it"), "{}", text(&run));
}

#[test]
fn a_pod_that_lives_or_is_not_known_is_not_gone() {
    let mut run = Run::new();
    stalled(&mut run);
    run.at(5500, entered(query_entry(OLD)));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
    assert!(why_not(&run, Cause::ConntrackStaleNat).contains("no pod that is known to be gone"));

    // A pod of another node.
    let mut run = Run::new();
    stalled(&mut run);
    let mut entry = query_entry(OLD);
    entry.ct.reply = udp("10.244.9.2:53", CLIENT_END);
    run.at(5500, entered(entry));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);

    // It went only after the query was sent again.
    let mut run = Run::new();
    stalled(&mut run);
    run.at(5500, entered(query_entry(OLD)));
    run.at(5600, gone(DNS_A));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);

    // Its address has a new owner.
    let mut run = Run::new();
    run.at(100, gone(DNS_A));
    run.at(200, up(109, "dns-a2", "10.244.2.2"));
    stalled(&mut run);
    run.at(5500, entered(query_entry(OLD)));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn an_unknown_address_without_a_neighbour_is_likely_only() {
    let mut run = Run::new();
    stalled(&mut run);
    let mut entry = query_entry(OLD);
    entry.ct.reply = udp("10.244.9.2:53", CLIENT_END);
    let mut lost = dns_drop(HOST, udp(CLIENT_END, "10.244.9.2:53"), ID, false, NEIGH_FAILED, 0x500);
    lost.ct = entry.ct;
    run.at(5500, entered(entry));
    run.at(5600, drop_event(lost));
    run.until(9000);
    assert_eq!(cause(&run), (Cause::ConntrackStaleNat, Confidence::Likely));
    let Details::StaleNat(details) = &run.only().details else { panic!("details") };
    assert_eq!(details.is, Stale::Unreachable);
}

#[test]
fn a_stall_that_is_over_is_not_explained_by_the_next_one_of_its_socket() {
    // The first was answered, late, while the pod was there.
    let mut run = Run::new();
    run.at(1000, answer(0x1111, A, 0, 1000, 1));
    run.at(2000, gone(DNS_A));
    run.at(3500, unanswered(ID, AAAA, 2500));
    run.at(5500, retry(ID, AAAA, 2500, 5500));
    run.at(5500, entered(query_entry(OLD)));
    run.until(9000);
    let causes = run.causes();
    assert_eq!(causes, [Cause::Unknown, Cause::ConntrackStaleNat]);
    assert!(run.out.iter().all(|o| o.finding().cause != Cause::Unknown || o.finding().count == 1));
    assert!(run.out.iter().all(|o| !matches!(o, Output::Update(Change::Named, _))));
}

#[test]
fn the_entry_of_another_client_says_nothing() {
    let mut run = Run::new();
    run.at(100, gone(DNS_A));
    stalled(&mut run);
    let other = "10.244.4.2:40312";
    let entry = ct_entry(udp(other, SERVICE), udp(other, SERVICE), udp(DNS_A_END, other), OLD);
    run.at(5500, entered(entry));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
    assert!(why_not(&run, Cause::ConntrackStaleNat).contains("was seen in conntrack"));
}

/// The stalled flow's entry translates nothing; another flow of the client came `later` jiffies
/// after it and is translated.
fn before_the_rules(later: i64) -> Run {
    let mut run = Run::new();
    stalled(&mut run);
    let mut old = query_entry(ips::CONFIRMED);
    old.ct.reply = udp(SERVICE, CLIENT_END);
    old.ct.born = 50_000;
    let other = "10.244.1.2:50001";
    let mut new = ct_entry(udp(other, SERVICE), udp(other, SERVICE), udp(DNS_B_END, other), OLD);
    new.ct.born = 50_000u64.wrapping_add_signed(later);
    run.at(4000, entered(new));
    run.at(5500, entered(old));
    run.until(9000);
    run
}

#[test]
fn an_entry_made_before_the_rules_translates_nothing() {
    let run = before_the_rules(500);
    assert_eq!(cause(&run), (Cause::ConntrackStaleNat, Confidence::Certain));
    insta::assert_snapshot!(text(&run));
    let Details::StaleNat(details) = &run.only().details else { panic!("details") };
    assert_eq!(details.is, Stale::Untranslated);
}

#[test]
fn a_flow_that_came_before_proves_no_later_rules() {
    assert_eq!(before_the_rules(-500).only().cause, Cause::Unknown);
}

#[test]
fn a_server_that_is_no_service_is_not_translated_either() {
    let mut run = Run::new();
    stalled(&mut run);
    let mut entry = query_entry(ips::CONFIRMED);
    entry.ct.reply = udp(SERVICE, CLIENT_END);
    run.at(5500, entered(entry));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn the_answer_came_past_conntrack() {
    let mut run = Run::new();
    run.at(502, untranslated_answer(NO_SOCKET));
    stalled(&mut run);
    run.at(5500, entered(query_entry(TRANSLATED | ips::CONFIRMED)));
    run.at(5501, untranslated_answer(NO_SOCKET));
    run.until(9000);
    assert_eq!(cause(&run), (Cause::ReplyNotTranslated, Confidence::Certain));
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
}

#[test]
fn an_answer_before_the_entry_was_seen_proves_nothing() {
    // Somebody may have deleted the entry between query and answer.
    let mut run = Run::new();
    run.at(502, untranslated_answer(NO_SOCKET));
    stalled(&mut run);
    run.at(5500, entered(query_entry(TRANSLATED)));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn an_answer_that_conntrack_saw_did_not_come_past_it() {
    let mut run = Run::new();
    stalled(&mut run);
    run.at(5500, entered(query_entry(TRANSLATED)));
    let orig = udp(CLIENT_END, SERVICE);
    let reply = udp(DNS_A_END, CLIENT_END);
    run.at(5501, entered(ct_entry(reply, orig, reply, OLD)));
    run.at(5502, untranslated_answer(NO_SOCKET));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn a_clash_of_the_flow_is_a_clash() {
    let mut run = Run::new();
    run.at(501, clashed(clash()));
    stalled(&mut run);
    run.at(5500, entered(query_entry(TRANSLATED | ips::CONFIRMED)));
    run.at(5501, untranslated_answer(NO_SOCKET));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn where_clashes_cannot_be_seen_it_is_likely_only() {
    let state = |name: &str| match name {
        "nf_ct_resolve_clash" => crate::event::HookState::CannotSee { why: "test".to_owned() },
        _ => crate::event::HookState::Watched { rung: crate::event::Rung::Kprobe },
    };
    let mut run = Run::with(node(), hooks(state));
    stalled(&mut run);
    run.at(5500, entered(query_entry(TRANSLATED)));
    run.at(5501, untranslated_answer(NO_SOCKET));
    run.until(9000);
    assert_eq!(cause(&run), (Cause::ReplyNotTranslated, Confidence::Likely));
}

#[test]
fn an_unrelated_host_that_met_no_socket_is_no_answer() {
    let mut run = Run::new();
    stalled(&mut run);
    run.at(5500, entered(query_entry(TRANSLATED)));
    let stranger = dns_drop(CLIENT, udp(DNS_B_END, CLIENT_END), ID, true, NO_SOCKET, 0x300);
    run.at(5501, drop_event(stranger));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

/// The SYN-ACK of the web pod; `end` is the end it goes to.
fn syn_ack_drop(netns: u32, reason: u32, location: u64) -> Body {
    let mut drop = dropped(netns, tcp(WEB_END, CLIENT_END), ISN, reason, location);
    drop.tcp_flags = 0x12;
    drop_event(drop)
}

#[test]
fn a_syn_ack_came_past_conntrack() {
    let service = "10.96.0.20:80";
    let mut run = Run::new();
    run.at(1520, syn_again(service, 500, 1));
    run.at(3520, syn_again(service, 500, 2));
    let (orig, reply) = (tcp(CLIENT_END, service), tcp(WEB_END, CLIENT_END));
    let entry = ct_entry(orig, orig, reply, TRANSLATED | ips::CONFIRMED);
    run.at(3520, entered(CtEntry { tcp_flags: 2, ident: ISN, ..entry }));
    run.at(3521, syn_ack_drop(CLIENT, NO_SOCKET, 0x400));
    run.until(9000);
    assert_eq!(cause(&run), (Cause::ReplyNotTranslated, Confidence::Certain));
}

/// The web pod's SYN-ACK, without an entry.
fn judged(info: u32) -> CtEntry {
    let tuple = tcp(WEB_END, CLIENT_END);
    let entry = ct_entry(tuple, tuple, tuple, 0);
    CtEntry { tcp_flags: 0x12, ident: ISN, ct: Conntrack::default(), info, ..entry }
}

fn syn_ack_lost(judged: CtEntry) -> Run {
    let mut run = Run::new();
    run.at(1520, syn_again(WEB_END, 500, 1));
    run.at(3520, syn_again(WEB_END, 500, 2));
    run.at(3521, entered(judged));
    run.at(3521, syn_ack_drop(HOST, NETFILTER_DROP, 0x200));
    run.until(9000);
    run
}

#[test]
fn an_invalid_syn_ack_is_dropped_by_a_rule() {
    let run = syn_ack_lost(judged(CT_INVALID));
    assert_eq!(cause(&run), (Cause::ConntrackInvalid, Confidence::Likely));
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
}

#[test]
fn a_syn_ack_that_is_not_tracked_or_has_an_entry_is_not_invalid() {
    assert_eq!(syn_ack_lost(judged(CT_UNTRACKED)).only().cause, Cause::Unknown);
    let (orig, reply) = (tcp(CLIENT_END, WEB_END), tcp(WEB_END, CLIENT_END));
    let known = ct_entry(reply, orig, reply, ips::CONFIRMED | ips::SEEN_REPLY);
    let known = CtEntry { tcp_flags: 0x12, ident: ISN, ..known };
    assert_eq!(syn_ack_lost(known).only().cause, Cause::Unknown);
}

#[test]
fn an_invalid_packet_that_was_not_lost_stalled_nobody() {
    let mut run = Run::new();
    run.at(1520, syn_again(WEB_END, 500, 1));
    run.at(3521, entered(judged(CT_INVALID)));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn another_packet_dropped_is_not_the_invalid_one() {
    let other = CtEntry { skb: 0xffff_8880_0000_7000, ..judged(CT_INVALID) };
    assert_eq!(syn_ack_lost(other).only().cause, Cause::Unknown);
}
