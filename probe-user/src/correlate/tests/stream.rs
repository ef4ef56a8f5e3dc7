//! What the stream may do to a verdict: order, loss, missing hooks, reused names.

use probe_common::event::kind;

use super::text;
use crate::{
    correlate::unknown::looked_for,
    event::{Body, Event, HookState, PodChange, Rung, Totals},
    finding::{Cause, Change, Output, SymptomKind},
    testing::*,
};

const ID: u16 = 0x2222;

fn unknown_stall(run: &mut Run) {
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(5500, retry(ID, AAAA, 500, 5500));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

fn not_seen(run: &Run) -> Vec<(Cause, &str)> {
    run.only().not_seen.iter().map(|n| (n.cause, n.why.as_str())).collect()
}

#[test]
fn lost_events_leave_nothing_ruled_out() {
    let mut run = Run::new();
    run.at(900, Body::Totals(Box::new(Totals { lost: vec![3], ..totals() })));
    unknown_stall(&mut run);
    assert_eq!(run.only().ruled_out, []);
    assert_eq!(run.only().not_seen.len(), looked_for(SymptomKind::DnsStall).len());
    assert!(not_seen(&run).iter().all(|(_, why)| why.starts_with("3 events were lost")));
}

#[test]
fn missed_calls_leave_nothing_ruled_out() {
    let mut run = Run::new();
    run.at(900, Body::Totals(Box::new(Totals { missed: 2, ..totals() })));
    unknown_stall(&mut run);
    assert_eq!(run.only().ruled_out, []);
    assert_eq!(run.only().not_seen.len(), looked_for(SymptomKind::DnsStall).len());
}

#[test]
fn details_left_out_matter_to_the_causes_they_show() {
    let mut run = Run::new();
    let mut totals = totals();
    totals.limited[usize::from(kind::CLASH)] = 9;
    run.at(900, Body::Totals(Box::new(totals)));
    unknown_stall(&mut run);
    let causes: Vec<Cause> = super::not_seen(run.only()).iter().map(|n| n.cause).collect();
    let wanted = [Cause::ConntrackDnatClash, Cause::ConntrackSnatClash, Cause::SnatPortsExhausted];
    assert_eq!(causes, wanted);
    let all = looked_for(SymptomKind::DnsStall).len();
    assert_eq!(run.only().ruled_out.len(), all - run.only().not_seen.len());
}

#[test]
fn losses_of_long_ago_do_not_matter() {
    let mut run = Run::new();
    run.at(100, Body::Totals(Box::new(Totals { lost: vec![3], ..totals() })));
    run.at(2000, Body::Totals(Box::new(Totals { lost: vec![3], ..totals() })));
    unknown_stall(&mut run);
    assert!(super::not_seen(run.only()).is_empty());
}

#[test]
fn a_missing_hook_is_not_seen_and_an_absent_module_is_ruled_out() {
    let why = "nf_conntrack is not loaded".to_owned();
    let mut run = Run::with(
        node(),
        hooks(|name| match name {
            "nf_ct_resolve_clash" | "early_drop" => HookState::CannotHappen { why: why.clone() },
            "udp_send_skb" => HookState::CannotSee { why: "no BTF".to_owned() },
            _ => HookState::Watched { rung: Rung::Kprobe },
        }),
    );
    unknown_stall(&mut run);
    let of = |cause| not_seen(&run).into_iter().any(|(c, _)| c == cause);
    assert!(of(Cause::ServerSlow) && of(Cause::ConntrackDnatClash));
    assert!(!of(Cause::ConntrackSnatClash) && !of(Cause::NoListener));
    let table = run.only().ruled_out.iter().find(|n| n.cause == Cause::ConntrackTableFull);
    assert_eq!(
        table.map(|n| n.why.as_str()),
        Some("cannot happen here: nf_conntrack is not loaded")
    );
    insta::assert_snapshot!(text(&run));
}

#[test]
fn events_out_of_order_give_the_same_finding() {
    let answer = dns_drop(CLIENT, udp(DNS_B_END, CLIENT_END), ID, true, NO_SOCKET, 0x300);
    let events =
        [(501, clashed(clash())), (1500, unanswered(ID, AAAA, 500)), (1902, drop_event(answer))];
    let mut said = Vec::new();
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut run = Run::new();
        run.until(400);
        for n in order {
            let (ms, body) = &events[n];
            let event = Event { ts: START + ms * MS, body: body.clone() };
            run.out.extend(run.pipeline.push(event));
        }
        run.until(9000);
        assert_eq!(run.only().cause, Cause::ConntrackDnatClash);
        said.push(text(&run));
    }
    assert!(said.windows(2).all(|w| w[0] == w[1]));
}

#[test]
fn later_evidence_names_an_unknown_stall_once() {
    let mut run = Run::new();
    run.at(5500, retry(ID, AAAA, 500, 5500));
    run.until(6000);
    assert_eq!(run.only().cause, Cause::Unknown);
    // Both came out of the kernel late.
    let answer = dns_drop(CLIENT, udp(DNS_B_END, CLIENT_END), ID, true, NO_SOCKET, 0x300);
    for (ms, body) in [(501, clashed(clash())), (1902, drop_event(answer))] {
        run.out.extend(run.pipeline.push(Event { ts: START + ms * MS, body }));
    }
    run.until(30_000);
    let [Output::Finding(unknown), Output::Update(Change::Named, named)] = run.out.as_slice()
    else {
        panic!("{:#?}", run.out)
    };
    assert_eq!(unknown.id, named.id);
    assert_eq!((named.cause, named.count), (Cause::ConntrackDnatClash, 1));
    let status = run.pipeline.status();
    assert_eq!((status.stalls, status.explained), (1, 1));
}

#[test]
fn repeats_fold_into_one_finding_and_few_updates() {
    let mut run = Run::new();
    for n in 0..30u32 {
        let client = format!("192.0.2.{n}:5000");
        run.at(500 + u64::from(n) * 1000, refused(&client, 1000 + n));
    }
    run.until(60_000);
    assert_eq!(run.findings().len(), 1);
    let updates = run.out.len() - 1;
    assert!((2..=4).contains(&updates), "{updates} updates");
    let last = run.out.last().expect("an update").finding();
    assert_eq!((last.id.as_str(), last.count), ("f1", 30));
    assert!(last.last > last.first);
}

#[test]
fn a_reused_inode_takes_no_name_along() {
    let mut run = Run::new();
    let mut first = query(kind::DNS_UNANSWERED, ID, AAAA, 500);
    first.sk = 1;
    run.at(1500, Body::Dns(Box::new(first)));
    run.at(2000, Body::Pod(PodChange::Gone { netns: CLIENT }));
    run.at(2100, up(CLIENT, "batch", "10.244.1.9"));
    let mut second = query(kind::DNS_UNANSWERED, ID, AAAA, 3000);
    second.sk = 2;
    run.at(4000, Body::Dns(Box::new(second)));
    run.until(20_000);
    let victims: Vec<_> = run.findings().iter().map(|f| f.victim.pod.as_deref()).collect();
    assert_eq!(victims, [Some("client"), Some("batch")]);
}

#[test]
fn the_end_of_the_stream_tells_what_is_known() {
    let mut run = Run::new();
    run.at(500, refused("192.0.2.9:5000", 77));
    run.at(1500, unanswered(ID, AAAA, 900));
    run.until(1600);
    assert_eq!(run.out, []);
    run.out.extend(run.pipeline.finish());
    assert_eq!(run.causes(), [Cause::AcceptQueueOverflow]);
    let summary = run.pipeline.summary();
    assert_eq!((summary.status.stalls, summary.status.explained), (1, 1));
}

#[test]
fn of_stalls_named_at_once_the_first_comes_first() {
    let mut run = Run::new();
    for (port, first, sk) in [(3u16, 520, 3u64), (1, 500, 1), (2, 510, 2)] {
        let end = format!("10.244.1.2:{port}");
        let mut clash = clash();
        clash.loser.orig = udp(&end, SERVICE);
        clash.winner.orig = clash.loser.orig;
        clash.loser.reply = udp(DNS_B_END, &end);
        run.at(first + 1, clashed(clash));
        let mut q = query(kind::DNS_UNANSWERED, ID, AAAA, first);
        q.tuple = udp(&end, SERVICE);
        (q.sk, q.pid) = (sk, u32::from(port));
        run.at(1600, Body::Dns(Box::new(q)));
        let answer = udp(DNS_B_END, &end);
        run.at(1902, drop_event(dns_drop(CLIENT, answer, ID, true, NO_SOCKET, 0x300)));
    }
    run.until(2500);
    assert_eq!(run.only().victim.pid, Some(1));
    assert_eq!(run.pipeline.status().stalls, 3);
}
