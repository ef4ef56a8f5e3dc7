use probe_common::event::{OUTCOME_ESTABLISHED, STAGE_ACK};

use super::{json, text};
use crate::{
    event::{Body, Counters, Listener},
    finding::{Cause, Confidence, Details, SymptomKind, details::CappedBy},
    testing::*,
};

fn listener() -> Body {
    Body::Listener(Listener { ino: 4711, pid: 640, comm: "python3".to_owned() })
}

fn counters(listen_overflows: u64) -> Body {
    let listen_overflows = Some(listen_overflows);
    Body::Counters(Counters { netns: WEB, listen_overflows, ..Counters::default() })
}

#[test]
fn a_refused_syn_of_a_pod_on_this_node() {
    let mut run = Run::new();
    run.at(0, counters(100));
    run.at(500, listener());
    run.at(500, refused(CLIENT_END, ISN));
    run.at(1500, counters(101));
    run.at(1520, syn_again(WEB_END, 500, 1));
    run.at(1521, refused(CLIENT_END, ISN));
    assert_eq!(run.first_finding_at(5000), Some(1900));
    run.until(9000);
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
}

#[test]
fn the_listener_is_found_behind_nat() {
    // The client asked a service; the web pod's listener sees other addresses and ports, but the
    // same initial sequence number.
    let mut run = Run::new();
    run.at(500, refused("10.0.3.17:61000", ISN));
    run.at(1520, syn_again("10.96.7.7:80", 500, 1));
    run.until(9000);
    let found = run.only();
    assert_eq!(found.cause, Cause::AcceptQueueOverflow);
    assert_eq!(found.victim.pod.as_deref(), Some("client"));
    let culprit = found.culprit.as_ref().expect("a culprit");
    assert_eq!((culprit.pod.as_deref(), culprit.port), (Some("web"), Some(8080)));
}

#[test]
fn a_refused_final_ack_needs_no_sign_of_the_client() {
    let mut run = Run::new();
    run.at(490, listener());
    let refusal = refusal(CLIENT_END, ISN);
    let refusal = probe_common::event::Listen { stage: STAGE_ACK, ..refusal };
    run.at(500, Body::Listen(Box::new(refusal)));
    run.at(1500, synack_again(ISN, CLIENT_END, 129));
    run.at(1501, Body::Listen(Box::new(refusal)));
    run.until(9000);
    insta::assert_snapshot!(text(&run));
    let found = run.only();
    assert_eq!((found.symptom, found.count), (SymptomKind::ConnectStall, 1));
    assert_eq!(found.victim.pod.as_deref(), Some("client"));
}

#[test]
fn a_remote_client_is_the_victim_when_no_client_shows() {
    let mut run = Run::new();
    run.at(500, refused("192.0.2.9:5000", 77));
    run.until(1600);
    assert!(run.out.is_empty(), "a client on this node could still show");
    run.until(9000);
    let found = run.only();
    assert_eq!(found.cause, Cause::AcceptQueueOverflow);
    assert_eq!(found.confidence, Confidence::Certain);
    assert_eq!((found.victim.pod.as_deref(), found.victim.netns), (None, None));
    assert_eq!(found.victim.address, "192.0.2.9".parse().ok());
    assert!(found.headline.contains("192.0.2.9 (not a pod of this node)"), "{}", found.headline);
}

#[test]
fn a_retransmitted_syn_ack_with_a_full_queue_is_likely() {
    let mut run = Run::new();
    run.at(500, synack_again(77, "192.0.2.9:5000", 129));
    run.at(600, synack_again(78, "192.0.2.9:5001", 3));
    run.until(9000);
    let found = run.only();
    assert_eq!(found.cause, Cause::AcceptQueueOverflow);
    assert_eq!(found.confidence, Confidence::Likely);
}

#[test]
fn who_caps_the_queue() {
    for (max, somaxconn, want) in [
        (128, 4096, CappedBy::Listen),
        (128, 128, CappedBy::Somaxconn),
        (4096, 128, CappedBy::Somaxconn),
    ] {
        let mut run = Run::new();
        let listen = refusal("192.0.2.9:5000", 77);
        let listen = probe_common::event::Listen {
            ack_backlog: max + 1,
            max_ack_backlog: max,
            somaxconn,
            ..listen
        };
        run.at(500, Body::Listen(Box::new(listen)));
        run.until(9000);
        let Details::AcceptQueue(details) = &run.only().details else { panic!("details") };
        assert_eq!(details.capped_by, want, "{max} of {somaxconn}");
    }
}

#[test]
fn a_refusal_with_room_in_the_accept_queue_is_something_else() {
    let mut run = Run::new();
    let listen = refusal(CLIENT_END, ISN);
    let listen =
        probe_common::event::Listen { ack_backlog: 128, qlen: 200, syncookies: 0, ..listen };
    run.at(500, Body::Listen(Box::new(listen)));
    run.at(1520, syn_again(WEB_END, 500, 1));
    run.at(1540, connect_end(WEB_END, 500, 1, OUTCOME_ESTABLISHED, 0));
    run.until(9000);
    let found = run.only();
    assert_eq!(found.cause, Cause::Unknown);
    assert!(found.title.contains("200 half-open connections"), "{}", found.title);
}

#[test]
fn a_namespace_made_during_the_run_counts_from_zero() {
    let mut run = Run::new();
    run.at(200, up(WEB + 1, "late", "10.244.9.9"));
    let listen = refusal("192.0.2.9:5000", 77);
    let mut listen = probe_common::event::Listen { ..listen };
    listen.header.netns = WEB + 1;
    run.at(500, Body::Listen(Box::new(listen)));
    let listen_overflows = Some(3);
    let counters = Counters { netns: WEB + 1, listen_overflows, ..Counters::default() };
    run.at(600, Body::Counters(counters));
    run.until(9000);
    let Details::AcceptQueue(details) = &run.only().details else { panic!("details") };
    assert_eq!(details.kernel_listen_overflows, Some(3));
    assert_eq!((details.refused, details.missed), (1, 2));
}

#[test]
fn a_refusal_left_out_is_likely_when_others_were_refused_there() {
    let mut run = Run::new();
    run.at(600, refused("192.0.2.9:5000", 77));
    run.at(1520, syn_again(WEB_END, 500, 1));
    let mut totals = totals();
    totals.limited[usize::from(probe_common::event::kind::LISTEN_DROP)] = 9;
    run.at(2000, Body::Totals(Box::new(totals)));
    run.until(9000);
    assert_eq!(run.causes(), [Cause::AcceptQueueOverflow; 2]);
    assert_eq!(run.findings()[1].confidence, Confidence::Likely);
    assert_eq!(run.findings()[1].victim.pod.as_deref(), Some("client"));
}

#[test]
fn an_unknown_sequence_number_joins_only_the_same_flow() {
    let mut run = Run::new();
    run.at(500, refused("192.0.2.9:5000", 0));
    let connect = connect(probe_common::event::kind::SYN_RETRANSMIT, WEB_END, 500, 1);
    let connect = probe_common::event::Connect { isn: 0, ..connect };
    run.at(1520, Body::Connect(Box::new(connect)));
    run.until(9000);
    assert_eq!(run.causes(), [Cause::AcceptQueueOverflow, Cause::Unknown]);
}

#[test]
fn a_client_that_shows_late_is_the_same_stall() {
    let mut run = Run::new();
    run.at(500, refused(CLIENT_END, ISN));
    run.until(3500);
    assert_eq!(run.only().victim.pod.as_deref(), Some("client"));
    run.at(3600, syn_again(WEB_END, 500, 1));
    run.until(30_000);
    assert_eq!(run.findings().len(), 1);
    assert_eq!(run.pipeline.status().stalls, 1);
}

#[test]
fn a_family_of_hooks_of_which_one_cannot_happen_is_still_watched() {
    use crate::event::{HookState, Rung};
    let mut run = Run::with(
        node(),
        hooks(|name| match name {
            "tcp_v4_syn_recv_sock" => HookState::CannotHappen { why: "no IPv6".to_owned() },
            _ => HookState::Watched { rung: Rung::Fentry },
        }),
    );
    run.at(1520, syn_again(WEB_END, 500, 1));
    run.until(9000);
    let found = run.only();
    let why = found.ruled_out.iter().find(|n| n.cause == Cause::AcceptQueueOverflow);
    assert_eq!(
        why.map(|n| n.why.as_str()),
        Some("no listener on this node refused this connection")
    );
}
