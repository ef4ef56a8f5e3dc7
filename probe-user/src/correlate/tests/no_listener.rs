use probe_common::event::{OUTCOME_FAILED, kind};

use super::{json, text};
use crate::{
    event::{HookState, Rung},
    finding::{Cause, Confidence, SymptomKind},
    testing::*,
};

const REFUSED: u32 = 111;

#[test]
fn a_closed_tcp_port() {
    let mut run = Run::new();
    run.at(500, syn_drop(WEB, WEB_END, NO_SOCKET, 0x400));
    run.at(501, connect_end(WEB_END, 500, 0, OUTCOME_FAILED, REFUSED));
    assert_eq!(run.first_finding_at(5000), Some(900));
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
}

#[test]
fn a_kernel_without_reasons_says_it_by_place_and_refusal() {
    let mut run = Run::new();
    run.at(500, syn_drop(WEB, WEB_END, 0, 0x400));
    run.at(501, connect_end(WEB_END, 500, 0, OUTCOME_FAILED, REFUSED));
    run.until(5000);
    assert_eq!((run.only().cause, run.only().confidence), (Cause::NoListener, Confidence::Certain));
}

/// IPVS may have sent the SYN to a drained server by an old connection.
#[test]
fn behind_a_service_it_is_likely_where_ipvs_is_not_watched() {
    let judged = |ipvs: HookState, asked: &str| {
        let watched = HookState::Watched { rung: Rung::Tracepoint };
        let of = |name: &str| if name.starts_with("ip_vs") { &ipvs } else { &watched }.clone();
        let mut run = Run::with(node(), hooks(of));
        run.at(500, syn_drop(WEB, WEB_END, NO_SOCKET, 0x400));
        run.at(501, connect_end(asked, 500, 0, OUTCOME_FAILED, REFUSED));
        run.until(9000);
        assert_eq!(run.only().cause, Cause::NoListener);
        run.only().confidence
    };
    let blind = || HookState::CannotSee { why: "left out".to_owned() };
    let absent = HookState::CannotHappen { why: "ip_vs is not loaded".to_owned() };
    assert_eq!(judged(blind(), "10.96.0.80:80"), Confidence::Likely);
    assert_eq!(judged(blind(), WEB_END), Confidence::Certain);
    assert_eq!(judged(absent, "10.96.0.80:80"), Confidence::Certain);
}

#[test]
fn a_refusal_whose_reset_came_from_elsewhere_is_unknown() {
    let mut run = Run::new();
    run.at(501, connect_end("192.0.2.80:80", 500, 0, OUTCOME_FAILED, REFUSED));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
    assert_eq!(run.only().symptom, SymptomKind::ConnectRefused);
}

#[test]
fn a_syn_ack_that_meets_no_socket_is_not_a_closed_port() {
    let mut run = Run::new();
    let mut drop = dropped(CLIENT, tcp(WEB_END, CLIENT_END), ISN, NO_SOCKET, 0x400);
    drop.tcp_flags = 0x12;
    run.at(500, drop_event(drop));
    run.at(1520, syn_again(WEB_END, 500, 1));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
    assert!(run.only().title.contains("the reply from 10.244.4.2:8080 met no socket"));
}

#[test]
fn a_closed_dns_port_stalls_a_resolver_that_does_not_see_the_icmp_error() {
    let mut run = Run::new();
    let to_pod = udp(CLIENT_END, DNS_A_END);
    run.at(500, drop_event(dns_drop(DNS_A, to_pod, 0x2222, false, NO_SOCKET, 0x300)));
    run.at(1500, unanswered(0x2222, AAAA, 500));
    run.until(9000);
    assert_eq!((run.only().cause, run.only().confidence), (Cause::NoListener, Confidence::Certain));
}

#[test]
fn a_query_refused_at_once_is_told_though_it_was_given_up_early() {
    let mut run = Run::new();
    let to_pod = udp(CLIENT_END, DNS_A_END);
    run.at(500, drop_event(dns_drop(DNS_A, to_pod, 0x2222, false, NO_SOCKET, 0x300)));
    run.at(501, crate::event::Body::Dns(Box::new(query(kind::DNS_CLOSE, 0x2222, AAAA, 500))));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::NoListener);
}

#[test]
fn a_program_that_gives_up_at_once_has_not_stalled() {
    let mut run = Run::new();
    run.at(700, connect_end(WEB_END, 500, 0, OUTCOME_FAILED, 0));
    run.until(9000);
    assert_eq!(run.out, []);
}

#[test]
fn a_refused_query_alone_stalls_nobody() {
    // Another server answered in time, which shows in no event.
    let mut run = Run::new();
    let to_pod = udp(CLIENT_END, DNS_A_END);
    run.at(500, drop_event(dns_drop(DNS_A, to_pod, 0x2222, false, NO_SOCKET, 0x300)));
    run.until(9000);
    assert_eq!(run.out, []);
    // An answer that comes after its socket is gone is everyday life.
    let mut run = Run::new();
    let answer = udp(DNS_A_END, CLIENT_END);
    run.at(500, drop_event(dns_drop(CLIENT, answer, 0x2222, true, NO_SOCKET, 0x300)));
    run.until(9000);
    assert_eq!(run.out, []);
}

#[test]
fn a_refused_query_is_likely_without_reasons_when_its_socket_closes_early() {
    let mut run = Run::new();
    let to_pod = udp(CLIENT_END, DNS_A_END);
    run.at(500, drop_event(dns_drop(DNS_A, to_pod, 0x2222, false, 0, 0x300)));
    run.at(501, crate::event::Body::Dns(Box::new(query(kind::DNS_CLOSE, 0x2222, AAAA, 500))));
    run.until(9000);
    assert_eq!((run.only().cause, run.only().confidence), (Cause::NoListener, Confidence::Likely));
}

#[test]
fn without_reasons_a_drop_there_alone_says_nothing() {
    let mut run = Run::new();
    run.at(500, syn_drop(WEB, WEB_END, 0, 0x400));
    run.at(1520, syn_again(WEB_END, 500, 1));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}
