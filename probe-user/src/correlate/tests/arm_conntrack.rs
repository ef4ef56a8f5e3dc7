//! Which stalls ask for conntrack's own view of their flow.

use crate::{
    event::{
        Body, HookState, Rung,
        armed::{Request, Set},
    },
    testing::*,
};
use probe_common::event::kind;

const ID: u16 = 0x2222;

fn wishes(run: &mut Run) -> Vec<Request> {
    run.until(9000);
    let all = run.pipeline.wishes().into_iter();
    all.filter(|request| request.set == Set::ConntrackEntry).collect()
}

fn unanswered_by(server: &str) -> Body {
    let mut query = query(kind::DNS_UNANSWERED, ID, AAAA, 500);
    query.tuple.dst = udp(CLIENT_END, server).dst;
    query.server[0] = query.tuple.dst;
    Body::Dns(Box::new(query))
}

#[test]
fn a_query_without_an_answer_does_for_all_ports_of_the_client() {
    let mut run = Run::new();
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(1500, unanswered(0x1111, A, 500));
    let asked = wishes(&mut run);
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].flow.src.to_string(), "10.244.1.2:0");
    assert_eq!(asked[0].flow.dst.to_string(), SERVICE);
}

#[test]
fn a_pod_asked_by_its_own_address_is_no_service() {
    let mut run = Run::new();
    run.at(1500, unanswered_by(DNS_A_END));
    assert_eq!(wishes(&mut run), []);
}

#[test]
fn a_query_that_reached_a_server_does_not_unless_its_answer_was_lost() {
    let served_late = |run: &mut Run| {
        run.at(1000, served(kind::DNS_SERVER_PENDING, ID, DNS_A, DNS_A_END, 501, 0));
        run.at(1500, unanswered(ID, AAAA, 500));
    };
    let mut run = Run::new();
    served_late(&mut run);
    assert_eq!(wishes(&mut run), []);
    let mut run = Run::new();
    served_late(&mut run);
    let lost = dns_drop(CLIENT, udp(DNS_A_END, CLIENT_END), ID, true, NO_SOCKET, 0x300);
    run.at(1600, drop_event(lost));
    assert_eq!(wishes(&mut run).len(), 1);
}

#[test]
fn a_connect_does_only_when_its_syn_ack_was_dropped() {
    let mut run = Run::new();
    run.at(500, syn_drop(HOST, WEB_END, NETFILTER_DROP, 0x200));
    run.at(1520, syn_again(WEB_END, 500, 1));
    assert_eq!(wishes(&mut run), []);
    let mut run = Run::new();
    let mut lost = dropped(HOST, tcp(WEB_END, CLIENT_END), ISN, NETFILTER_DROP, 0x200);
    lost.tcp_flags = 0x12;
    run.at(501, drop_event(lost));
    run.at(1520, syn_again(WEB_END, 500, 1));
    let asked = wishes(&mut run);
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].flow.src.to_string(), CLIENT_END);
}

#[test]
fn what_has_a_certain_cause_needs_no_second_look() {
    let mut run = Run::new();
    let refused = dns_drop(DNS_A, udp(CLIENT_END, DNS_A_END), ID, false, NO_SOCKET, 0x300);
    run.at(501, drop_event(refused));
    run.at(1500, unanswered(ID, AAAA, 500));
    assert_eq!(wishes(&mut run), []);
}

#[test]
fn where_it_cannot_be_armed_nobody_asks() {
    let state = |name: &str| match name {
        "nf_conntrack_in" => HookState::CannotHappen { why: "not loaded".to_owned() },
        _ => HookState::Watched { rung: Rung::Kprobe },
    };
    let mut run = Run::with(node(), hooks(state));
    run.at(1500, unanswered(ID, AAAA, 500));
    assert_eq!(wishes(&mut run), []);
}
