use probe_common::{
    event::{DROP_INSERT_FAILED, OUTCOME_ESTABLISHED},
    net::{Conntrack, IPPROTO_TCP, ips},
};

use super::{json, text};
use crate::{
    event::{Body, ConntrackCounters, Counters, HookState, Pod, PodChange, Rung},
    finding::{Cause, Confidence, Details, details::InsertExit},
    testing::*,
};

const OUTSIDE: &str = "198.51.100.7:443";

/// All refusals are for long chains.
fn table(chain_too_long: Option<u64>) -> Body {
    counted(chain_too_long, chain_too_long.unwrap_or(0))
}

fn counted(chain_too_long: Option<u64>, insert_failed: u64) -> Body {
    let conntrack = ConntrackCounters {
        entries: 22_000,
        buckets: 512,
        chain_too_long,
        insert_failed,
        ..ConntrackCounters::default()
    };
    Body::Counters(Counters { netns: HOST, conntrack: Some(conntrack), ..Counters::default() })
}

/// The client's SYN, whose entry was not inserted.
fn refused_entry(status: u32) -> Body {
    let mut drop = dropped(HOST, tcp(CLIENT_END, OUTSIDE), ISN, NETFILTER_DROP, 0x100);
    drop.flags |= DROP_INSERT_FAILED;
    drop.tcp_flags = 2;
    drop.ct = Conntrack { orig: drop.tuple, status, present: 1, ..Conntrack::default() };
    drop_event(drop)
}

fn recovers(run: &mut Run) {
    run.at(1520, syn_again(OUTSIDE, 500, 1));
    run.at(1540, connect_end(OUTSIDE, 500, 1, OUTCOME_ESTABLISHED, 0));
}

fn exit(run: &Run) -> (Cause, Confidence, InsertExit) {
    let found = run.only();
    let Details::InsertFailed(details) = &found.details else { panic!("details") };
    (found.cause, found.confidence, details.exit)
}

#[test]
fn a_chain_that_is_too_long() {
    let mut run = Run::new();
    run.at(400, table(Some(7)));
    run.at(500, refused_entry(0));
    run.at(600, table(Some(8)));
    recovers(&mut run);
    run.until(9000);
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
}

#[test]
fn a_long_chain_of_before_says_nothing_of_this_packet() {
    let mut run = Run::new();
    run.at(0, table(Some(7)));
    run.at(100, table(Some(8)));
    run.at(500, refused_entry(0));
    run.at(600, counted(Some(8), 9));
    recovers(&mut run);
    run.until(9000);
    let other = (Cause::ConntrackInsertFailed, Confidence::Likely, InsertExit::Other);
    assert_eq!(exit(&run), other);
}

#[test]
fn a_long_chain_beside_other_refusals_is_likely() {
    let mut run = Run::new();
    run.at(100, counted(Some(7), 7));
    run.at(500, refused_entry(0));
    run.at(600, counted(Some(8), 9));
    recovers(&mut run);
    run.until(9000);
    let likely = (Cause::ConntrackInsertFailed, Confidence::Likely, InsertExit::ChainTooLong);
    assert_eq!(exit(&run), likely);
}

#[test]
fn an_entry_that_was_being_removed() {
    let mut run = Run::new();
    run.at(400, table(None));
    run.at(500, refused_entry(ips::DYING | ips::SRC_NAT_DONE));
    recovers(&mut run);
    run.until(9000);
    let dying = (Cause::ConntrackInsertFailed, Confidence::Certain, InsertExit::Dying);
    assert_eq!(exit(&run), dying);
}

#[test]
fn no_sign_of_the_exit() {
    for counted in [table(None), table(Some(7))] {
        let mut run = Run::new();
        run.at(400, counted.clone());
        run.at(500, refused_entry(0));
        run.at(600, counted);
        recovers(&mut run);
        run.until(9000);
        let other = (Cause::ConntrackInsertFailed, Confidence::Likely, InsertExit::Other);
        assert_eq!(exit(&run), other);
    }
}

#[test]
fn without_the_clash_hook_it_may_have_been_a_clash() {
    let hooks = hooks(|name| match name {
        "nf_ct_resolve_clash" => HookState::CannotSee { why: "no kprobes".to_owned() },
        _ => HookState::Watched { rung: Rung::Kprobe },
    });
    let mut run = Run::with(node(), hooks);
    run.at(500, refused_entry(0));
    recovers(&mut run);
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn a_dropped_clash_of_the_packet_is_the_clash() {
    let clash = snat_clash(IPPROTO_TCP, CLIENT_END, OUTSIDE, ISN);
    let mut run = Run::new();
    run.at(400, table(Some(7)));
    run.at(500, clashed(clash));
    let Body::Drop(mut drop) = refused_entry(ips::SRC_NAT) else { panic!("a drop") };
    drop.skb = clash.skb;
    run.at(501, Body::Drop(drop));
    run.at(600, table(Some(8)));
    recovers(&mut run);
    run.until(9000);
    assert_eq!(run.only().cause, Cause::ConntrackSnatClash);
}

#[test]
fn a_udp_packet_that_is_not_dns_is_told_too() {
    let mut run = Run::new();
    run.at(400, table(Some(0)));
    let mut drop = dropped(HOST, udp(CLIENT_END, "198.51.100.7:9"), 7, NETFILTER_DROP, 0x100);
    drop.flags |= DROP_INSERT_FAILED;
    run.at(500, drop_event(drop));
    run.at(600, table(Some(1)));
    run.until(9000);
    let long = (Cause::ConntrackInsertFailed, Confidence::Certain, InsertExit::ChainTooLong);
    assert_eq!(exit(&run), long);
}

/// The device on which it came in leads to the pod, where conntrack tells nothing; an answer comes from the
/// server.
#[test]
fn the_victim_is_the_pod_behind_the_device() {
    for (netns, is_answer) in [(HOST, false), (HOST, true), (WEB, false)] {
        let mut run = Run::new();
        run.at(400, table(Some(0)));
        let pod = Pod { netns: 77, name: "shop/vm-0".to_owned(), veth: vec![7], ..Pod::default() };
        run.at(400, Body::Pod(PodChange::Up(pod)));
        let (from, to) = ("10.0.3.17:4000", OUTSIDE);
        let ends = if is_answer { tcp(to, from) } else { tcp(from, to) };
        let mut drop = dropped(netns, ends, 7, NETFILTER_DROP, 0x100);
        drop.flags |= DROP_INSERT_FAILED;
        drop.tcp_flags = if is_answer { 0x12 } else { 0x02 };
        run.at(500, drop_event(drop));
        run.at(600, table(Some(1)));
        run.until(9000);
        let victims: Vec<_> = run.findings().iter().map(|f| f.victim.pod.clone()).collect();
        let is_vm = victims == [Some("shop/vm-0".to_owned())];
        assert_eq!(is_vm, (netns, is_answer) == (HOST, false), "{netns} {is_answer} {victims:?}");
    }
}

/// A pod's packet that another pod's device brought, such as an egress gateway's or a nested node's, is
/// its own; one with the node's address was rewritten.
#[test]
fn a_forwarded_packet_is_its_senders() {
    for (from, expected) in [(CLIENT_END, "client"), ("10.0.3.17:4000", "shop/gateway-0")] {
        let mut run = Run::new();
        run.at(0, up(CLIENT, "client", "10.244.1.2"));
        run.at(0, up(HOST, "host", "10.0.3.17"));
        run.at(400, table(Some(0)));
        let name = "shop/gateway-0".to_owned();
        let gateway = Pod { netns: 77, name, veth: vec![7], ..Pod::default() };
        run.at(400, Body::Pod(PodChange::Up(gateway)));
        let mut drop = dropped(HOST, tcp(from, OUTSIDE), 7, NETFILTER_DROP, 0x100);
        drop.flags |= DROP_INSERT_FAILED;
        drop.tcp_flags = 0x02;
        run.at(500, drop_event(drop));
        run.at(600, table(Some(1)));
        run.until(9000);
        assert_eq!(run.only().victim.pod.as_deref(), Some(expected), "{from}");
    }
}

/// The packet had the node's address when it was dropped.
#[test]
fn the_victim_of_a_packet_behind_snat_is_its_sender() {
    const NEW: u8 = 2;
    for info in [NEW, 0xff] {
        let mut run = Run::new();
        run.at(400, table(Some(0)));
        let mut drop =
            dropped(HOST, udp("10.0.3.17:4000", "198.51.100.7:9"), 7, NETFILTER_DROP, 0x100);
        drop.flags |= DROP_INSERT_FAILED;
        let (orig, reply) =
            (udp(CLIENT_END, "198.51.100.7:9"), udp("198.51.100.7:9", "10.0.3.17:4000"));
        drop.ct = Conntrack { orig, reply, info, present: 1, ..Conntrack::default() };
        run.at(500, drop_event(drop));
        run.at(600, table(Some(1)));
        run.until(9000);
        let found = run.only();
        let known = info == NEW;
        assert_eq!(found.victim.pod.as_deref() == Some("client"), known, "{:?}", found.victim);
        assert_eq!(found.cause, Cause::ConntrackInsertFailed);
        assert_eq!(found.evidence.iter().filter(|line| line.kind == "packet-dropped").count(), 1);
    }
}
