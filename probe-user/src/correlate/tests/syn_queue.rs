use probe_common::event::{Listen, OUTCOME_ESTABLISHED, STAGE_SYN_PRESSURE, STAGE_SYN_QUEUE};

use super::{json, text};
use crate::{
    event::{Body, Counters, HookState, Listener, Rung, Totals},
    finding::{Cause, Confidence},
    testing::*,
};

fn refused_for(stage: u32, client: &str, isn: u32) -> Body {
    let (qlen, max_ack_backlog) = if stage == STAGE_SYN_QUEUE { (128, 128) } else { (385, 4096) };
    Body::Listen(Box::new(Listen {
        stage,
        ack_backlog: 0,
        max_ack_backlog,
        qlen,
        syncookies: 0,
        ..refusal(client, isn)
    }))
}

fn counters(listen_drops: u64, reqq_full_drop: u64) -> Body {
    Body::Counters(Counters {
        netns: WEB,
        listen_drops: Some(listen_drops),
        reqq_full_drop: Some(reqq_full_drop),
        ..Counters::default()
    })
}

#[test]
fn too_many_half_open_connections() {
    let mut run = Run::new();
    run.at(0, counters(7, 5));
    run.at(500, refused_for(STAGE_SYN_QUEUE, CLIENT_END, ISN));
    run.at(510, Body::Listener(Listener { ino: 4711, pid: 77, comm: "nginx".to_owned() }));
    run.at(1500, syn_again(WEB_END, 500, 1));
    run.at(1501, refused_for(STAGE_SYN_QUEUE, CLIENT_END, ISN));
    run.at(1600, counters(9, 7));
    run.at(3500, connect_end(WEB_END, 500, 1, OUTCOME_ESTABLISHED, 0));
    run.until(9000);
    assert_eq!(run.only().confidence, Confidence::Certain);
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
}

#[test]
fn the_last_quarter_is_for_known_peers() {
    let mut run = Run::new();
    run.at(500, refused_for(STAGE_SYN_PRESSURE, CLIENT_END, ISN));
    run.at(1500, syn_again(WEB_END, 500, 1));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::SynQueueOverflow);
    insta::assert_snapshot!(text(&run));
}

#[test]
fn a_full_accept_queue_is_another_cause() {
    let mut run = Run::new();
    run.at(500, refused(CLIENT_END, ISN));
    run.at(1500, syn_again(WEB_END, 500, 1));
    run.until(9000);
    assert_eq!(run.causes(), [Cause::AcceptQueueOverflow]);
    // A long accept queue does not make it the reason.
    let Body::Listen(mut both) = refused_for(STAGE_SYN_QUEUE, CLIENT_END, ISN) else { panic!() };
    both.ack_backlog = 200;
    let mut run = Run::new();
    run.at(500, Body::Listen(both));
    run.at(1500, syn_again(WEB_END, 500, 1));
    run.until(9000);
    assert_eq!(run.causes(), [Cause::SynQueueOverflow]);
}

#[test]
fn a_refusal_of_another_client_says_nothing_unless_details_were_left_out() {
    for lost in [false, true] {
        let mut run = Run::new();
        run.at(500, refused_for(STAGE_SYN_QUEUE, "10.244.9.9:1", 1));
        if lost {
            let mut totals = totals();
            totals.limited[usize::from(probe_common::event::kind::LISTEN_DROP)] = 900;
            run.at(900, Body::Totals(Box::new(Totals { ..totals })));
        }
        run.at(1500, syn_again(WEB_END, 499, 1));
        run.until(9000);
        let of_client = |f: &&&crate::finding::Finding| f.victim.pod.as_deref() == Some("client");
        let findings = run.findings();
        let mine = findings.iter().find(of_client).unwrap_or_else(|| panic!("{findings:#?}"));
        let wanted = match lost {
            true => (Cause::SynQueueOverflow, Confidence::Likely),
            false => (Cause::Unknown, Confidence::Possible),
        };
        assert_eq!((mine.cause, mine.confidence), wanted);
    }
}

#[test]
fn without_the_return_it_is_not_seen() {
    let hooks = hooks(|name| match name {
        "tcp_conn_request (return)" => HookState::CannotSee { why: "no kprobes".to_owned() },
        _ => HookState::Watched { rung: Rung::Kprobe },
    });
    let mut run = Run::with(node(), hooks);
    run.at(1500, syn_again(WEB_END, 500, 1));
    run.until(9000);
    let found = run.only();
    assert!(found.not_seen.iter().any(|n| n.cause == Cause::SynQueueOverflow));
    assert!(found.ruled_out.iter().any(|n| n.cause == Cause::AcceptQueueOverflow));
}
