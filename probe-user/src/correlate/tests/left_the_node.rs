//! Which connects ask where their packets leave, and what is made of what was seen there.

use probe_common::event::{DIRECTION_IN, Departure, IFF_LOOPBACK, OUTCOME_ESTABLISHED};

use super::{json, text};
use crate::{
    event::{
        Body, HookState,
        armed::{Armed, Outcome, Request, Set, Step},
    },
    finding::{Cause, Confidence, Flow, details::Details},
    testing::*,
};

const SYN: u32 = 0x02;
const SYN_ACK: u32 = 0x12;

fn wishes(run: &mut Run) -> Vec<Request> {
    let all = run.pipeline.wishes().into_iter();
    all.filter(|request| request.set == Set::Departure).collect()
}

fn answer_in(name: &str, link: &str) -> Departure {
    let tuple = tcp(OUTSIDE, NODE_END);
    Departure { tuple, tcp_flags: SYN_ACK, direction: DIRECTION_IN, ..syn_out(name, link) }
}

fn step(step: Step) -> Body {
    let flow = Flow::of(&tcp(CLIENT_END, OUTSIDE));
    Body::Armed(Box::new(Armed::new(Set::Departure, flow, step)))
}

fn armed_now() -> Body {
    step(Step::Armed { why: "a test".to_owned(), places: 2, took: MS })
}

fn let_go(outcome: Outcome, lasted: u64) -> Body {
    step(Step::LetGo { outcome, lasted: lasted * MS, runs: 900, matched: 2, spent: 90_000 })
}

/// A connect from 0.5 s on whose SYN is sent again at 1.5 s and, looked at, at 3.5 s.
fn looked_at(seen: &[Departure]) -> Run {
    let mut run = Run::new();
    run.at(1520, syn_again(OUTSIDE, 500, 1));
    run.at(1560, armed_now());
    run.at(3520, syn_again(OUTSIDE, 500, 2));
    for (e, ms) in seen.iter().zip(3521..) {
        run.at(ms, at_device(*e));
    }
    run
}

/// What is said of it in the end.
fn concluded(seen: &[Departure], outcome: Outcome) -> Run {
    let mut run = looked_at(seen);
    run.at(4730, let_go(outcome, 3170));
    run.until(9000);
    run
}

#[test]
fn a_connect_that_nothing_explains_is_followed_once() {
    let mut run = Run::new();
    run.at(1520, syn_again(OUTSIDE, 500, 1));
    run.until(3000);
    let asked = wishes(&mut run);
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(
        (asked[0].isn, asked[0].flow.to_string()),
        (ISN, format!("tcp {CLIENT_END} -> {OUTSIDE}"))
    );
    run.at(3520, syn_again(OUTSIDE, 500, 2));
    run.until(9000);
    assert_eq!(wishes(&mut run), []);
}

#[test]
fn what_stays_here_or_is_explained_is_not_followed() {
    let dropped_here = {
        let mut drop = dropped(HOST, tcp(CLIENT_END, OUTSIDE), ISN, NETFILTER_DROP, 0x100);
        drop.tcp_flags = SYN;
        drop_event(drop)
    };
    for (to, more) in [(WEB_END, None), ("127.0.0.1:80", None), (OUTSIDE, Some(dropped_here))] {
        let mut run = Run::new();
        if let Some(body) = more {
            run.at(1515, body);
        }
        run.at(1520, syn_again(to, 500, 1));
        run.until(9000);
        assert_eq!(wishes(&mut run), [], "{to}");
    }
}

#[test]
fn without_the_hook_nothing_is_asked_for() {
    let missing = |name: &str| match name.starts_with("net:") {
        true => HookState::CannotSee { why: "a test".to_owned() },
        false => HookState::Watched { rung: crate::event::Rung::Kprobe },
    };
    let mut run = Run::with(node(), hooks(missing));
    run.at(1520, syn_again(OUTSIDE, 500, 1));
    run.until(9000);
    assert_eq!(wishes(&mut run), []);
    assert!(run.only().not_seen.iter().any(|n| n.cause == Cause::LeftTheNode));
}

#[test]
fn it_left_by_a_physical_interface_and_nothing_came_back() {
    let run = concluded(&[syn_out("veth1", "veth"), syn_out("eth0", "")], Outcome::Seen);
    let found = run.only();
    assert_eq!((found.cause, found.confidence), (Cause::LeftTheNode, Confidence::Likely));
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
}

#[test]
fn what_went_by_while_hooks_were_attached_says_nothing() {
    // Where it came in from the pod was watched already, where it left was not yet.
    let mut run = Run::new();
    run.at(1520, syn_again(OUTSIDE, 500, 1));
    run.at(1530, at_device(Departure { direction: DIRECTION_IN, ..syn_out("veth1", "veth") }));
    run.at(1560, armed_now());
    run.until(9000);
    let found = run.only();
    assert_eq!(found.cause, Cause::Unknown);
    assert!(found.not_seen.iter().any(|n| n.cause == Cause::LeftTheNode), "{:?}", found.ruled_out);
    // The SYN after it is followed: then it is named, and not before an answer had its time.
    let mut run = Run::new();
    run.at(1520, syn_again(OUTSIDE, 500, 1));
    run.at(4920, armed_now());
    run.at(7520, syn_again(OUTSIDE, 500, 3));
    run.at(7521, at_device(syn_out("eth0", "")));
    run.until(7900);
    assert!(run.out.iter().all(|told| told.finding().cause == Cause::Unknown), "{:?}", run.out);
    run.at(8730, let_go(Outcome::Seen, 3810));
    run.until(12000);
    let last = run.out.last().map(|told| told.finding());
    assert_eq!(
        last.map(|f| (f.cause, f.confidence)),
        Some((Cause::LeftTheNode, Confidence::Likely))
    );
}

#[test]
fn it_left_in_a_tunnel() {
    let outer = Departure { inner: 1, ..syn_out("eth0", "") };
    let run = concluded(&[syn_out("flannel.1", "vxlan"), outer], Outcome::Seen);
    let found = run.only();
    assert_eq!((found.cause, found.confidence), (Cause::LeftTheNode, Confidence::Likely));
    let Details::LeftTheNode(details) = &found.details else { panic!("{:?}", found.details) };
    assert_eq!(
        (details.interface.as_str(), details.tunnel.as_deref()),
        ("eth0", Some("flannel.1"))
    );
}

#[test]
fn a_tunnel_alone_does_not_leave_unless_it_hides_what_does() {
    let cause = |link| {
        let run = concluded(&[syn_out("tun9", link)], Outcome::Seen);
        (run.only().cause, run.only().confidence)
    };
    assert_eq!(cause("vxlan"), (Cause::Unknown, Confidence::Possible));
    assert_eq!(cause("wireguard"), (Cause::LeftTheNode, Confidence::Possible));
}

#[test]
fn other_devices_hand_it_on_here() {
    let lo = Departure { dev_flags: IFF_LOOPBACK, ..syn_out("lo", "") };
    for seen in [syn_out("veth1", "veth"), syn_out("br0", "bridge"), syn_out("bond0", "bond"), lo] {
        let run = concluded(&[seen], Outcome::Seen);
        assert_eq!(run.only().cause, Cause::Unknown);
        let why = run.only().ruled_out.iter().find(|n| n.cause == Cause::LeftTheNode);
        assert!(why.is_some_and(|n| n.why.contains("no physical interface")), "{why:?}");
    }
}

#[test]
fn an_answer_that_came_in_was_lost_here() {
    let run = concluded(&[syn_out("eth0", ""), answer_in("eth0", "")], Outcome::Seen);
    let found = run.only();
    assert_eq!(found.cause, Cause::Unknown);
    let why = found.ruled_out.iter().find(|n| n.cause == Cause::LeftTheNode);
    assert!(why.is_some_and(|n| n.why.contains("an answer came in")), "{why:?}");
    insta::assert_snapshot!(text(&run));
}

#[test]
fn a_syn_that_came_back_to_this_machine_did_not_leave_it() {
    let back = Departure { direction: DIRECTION_IN, ..syn_out("eth1", "") };
    assert_eq!(concluded(&[syn_out("eth0", ""), back], Outcome::Seen).only().cause, Cause::Unknown);
}

#[test]
fn a_short_look_or_one_with_gaps_makes_it_only_possible() {
    let seen = [syn_out("eth0", "")];
    assert_eq!(concluded(&seen, Outcome::OverBudget).only().confidence, Confidence::Possible);
    let mut short = looked_at(&seen);
    short.at(3720, let_go(Outcome::MadeWay, 2160));
    short.until(9000);
    let found = short.only();
    assert_eq!((found.cause, found.confidence), (Cause::LeftTheNode, Confidence::Possible));
}

#[test]
fn what_was_seen_here_goes_first() {
    let mut run = looked_at(&[syn_out("eth0", "")]);
    let mut drop = dropped(HOST, tcp(OUTSIDE, NODE_END), ISN, NETFILTER_DROP, 0x100);
    drop.tcp_flags = SYN_ACK;
    run.at(3600, drop_event(drop));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn a_connect_that_was_answered_in_the_end_is_another_matter() {
    let mut run = looked_at(&[syn_out("eth0", "")]);
    run.at(3530, connect_end(OUTSIDE, 500, 2, OUTCOME_ESTABLISHED, 0));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn another_connect_is_not_this_one() {
    let other = Departure { ident: ISN + 1, ..syn_out("eth0", "") };
    let run = concluded(&[other], Outcome::NothingSeen);
    assert_eq!(run.only().cause, Cause::Unknown);
    let why = run.only().not_seen.iter().find(|n| n.cause == Cause::LeftTheNode);
    assert!(why.is_some(), "not looked at is not ruled out");
}
