use probe_common::event::DROP_TABLE_FULL;

use crate::{
    event::{Body, HookState, Rung, armed::Set},
    testing::*,
};

fn wishes(run: &mut Run, until: u64) -> Vec<(Set, String)> {
    run.until(until);
    // Where packets leave is asked for besides, and goes last.
    let wishes = run.pipeline.wishes().into_iter().filter(|wish| wish.set != Set::Departure);
    wishes.map(|wish| (wish.set, wish.flow.to_string())).collect()
}

fn the_flow() -> Vec<(Set, String)> {
    vec![(Set::IpvsVerdict, format!("tcp {CLIENT_END} -> {IPVS_SERVICE}"))]
}

/// A dropped SYN from this end.
fn dropped_from(client: &str, isn: u32, location: u64) -> Body {
    let mut drop = dropped(HOST, tcp(client, IPVS_SERVICE), isn, NETFILTER_DROP, location);
    drop.tcp_flags = 2;
    drop_event(drop)
}

#[test]
fn a_dropped_syn_is_asked_for_once() {
    let mut run = Run::new();
    for ms in [500, 1500, 3500] {
        run.at(ms, dropped_from(CLIENT_END, ISN, 0x100));
    }
    assert_eq!(wishes(&mut run, 5000), the_flow());
    run.at(7500, dropped_from(CLIENT_END, ISN, 0x100));
    assert_eq!(wishes(&mut run, 9000), []);
    // Another connect from the same port.
    run.at(9500, dropped_from(CLIENT_END, ISN + 1, 0x100));
    assert_eq!(wishes(&mut run, 9900), the_flow());
}

#[test]
fn the_flow_is_the_one_before_nat() {
    let mut run = Run::new();
    let mut drop = dropped(HOST, tcp(CLIENT_END, WEB_END), ISN, NETFILTER_DROP, 0x100);
    drop.tcp_flags = 2;
    drop.ct.present = 1;
    drop.ct.orig = tcp(CLIENT_END, IPVS_SERVICE);
    run.at(500, drop_event(drop));
    assert_eq!(wishes(&mut run, 1000), the_flow());
}

#[test]
fn other_drops_ask_for_nothing() {
    let syn = |flags: u32, tcp_flags: u32, location: u64| {
        let mut drop = dropped(HOST, tcp(CLIENT_END, IPVS_SERVICE), ISN, NETFILTER_DROP, location);
        drop.flags |= flags;
        drop.tcp_flags = tcp_flags;
        drop_event(drop)
    };
    // A full table, a SYN-ACK, another place.
    for body in [syn(DROP_TABLE_FULL, 2, 0x100), syn(0, 0x12, 0x100), syn(0, 2, 0x400)] {
        let mut run = Run::new();
        run.at(500, body);
        assert_eq!(wishes(&mut run, 1000), []);
    }
}

#[test]
fn without_ipvs_there_is_nothing_to_arm() {
    let why = "ip_vs is not loaded".to_owned();
    let state = |name: &str| match name.starts_with("ip_vs") {
        true => HookState::CannotHappen { why: why.clone() },
        false => HookState::Watched { rung: Rung::Kprobe },
    };
    let mut run = Run::with(node(), hooks(state));
    run.at(500, dropped_from(CLIENT_END, ISN, 0x100));
    assert_eq!(wishes(&mut run, 1000), []);
}

#[test]
fn a_port_scan_arms_nothing_and_a_client_elsewhere_by_its_second_syn() {
    let mut run = Run::new();
    for n in 0..50u16 {
        run.at(500, dropped_from(&format!("192.0.2.9:{}", 5000 + n), u32::from(n) + 7, 0x100));
    }
    assert_eq!(wishes(&mut run, 1000), []);
    run.at(1500, dropped_from("192.0.2.9:5003", 10, 0x100));
    assert_eq!(wishes(&mut run, 2000).len(), 1);
}

#[test]
fn where_drops_cannot_be_seen_a_syn_sent_again_asks() {
    let why = "a test".to_owned();
    let state = |name: &str| match name {
        "skb:kfree_skb" => HookState::CannotSee { why: why.clone() },
        _ => HookState::Watched { rung: Rung::Kprobe },
    };
    let mut run = Run::with(node(), hooks(state));
    run.at(1520, syn_again(IPVS_SERVICE, 500, 1));
    // A pod's own address is no service.
    run.at(1520, syn_again(WEB_END, 500, 1));
    assert_eq!(wishes(&mut run, 2000), the_flow());
    // Where they can be seen, nothing was dropped here.
    let mut run = Run::new();
    run.at(1520, syn_again(IPVS_SERVICE, 500, 1));
    assert_eq!(wishes(&mut run, 2000), []);
}

#[test]
fn what_nobody_takes_does_not_pile_up() {
    let mut run = Run::new();
    for n in 0..2000u32 {
        run.at(500, dropped_from(&format!("10.244.1.2:{}", 1000 + n), n + 1, 0x100));
    }
    assert_eq!(wishes(&mut run, 1000).len(), 16);
}
