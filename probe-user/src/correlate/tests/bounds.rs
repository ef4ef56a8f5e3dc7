//! Floods and nonsense: bounded memory, few words, no panic.

use probe_common::event::kind;
use proptest::prelude::*;

use crate::{
    event::{
        Body, Clock, Counters, Event, Listener, Pod, PodChange, Symbol, Totals, decode::decode,
    },
    finding::{Cause, Details},
    pipeline::Pipeline,
    testing::*,
};

#[test]
fn a_hundred_thousand_refused_syns() {
    let mut run = Run::new();
    let overflows = |n| {
        let listen_overflows = Some(n);
        Body::Counters(Counters { netns: WEB, listen_overflows, ..Counters::default() })
    };
    run.at(0, overflows(0));
    run.until(400);
    for n in 0..100_000u32 {
        let client = format!("192.0.{}.{}:{}", n >> 8 & 0xff, n & 0xff, 1024 + (n >> 8));
        let ts = START + 500 * MS + u64::from(n) * 100_000;
        run.out.extend(run.pipeline.push(Event { ts, body: refused(&client, n + 1) }));
        if n % 1000 == 0 {
            run.out.extend(run.pipeline.push(Event { ts, body: Body::Tick }));
        }
        assert!(run.pipeline.correlator().held() < 8192);
    }
    run.at(10_600, overflows(100_005));
    run.until(30_000);
    run.out.extend(run.pipeline.finish());
    assert_eq!(run.causes(), [Cause::AcceptQueueOverflow]);
    assert!((2..10).contains(&run.out.len()), "{} outputs", run.out.len());
    let last = run.out.last().expect("an output").finding();
    let Details::AcceptQueue(details) = &last.details else { panic!("details") };
    assert_eq!(details.refused, 100_000);
    assert_eq!(details.kernel_listen_overflows, Some(100_005));
    assert_eq!(details.missed, 5);
    assert_eq!(details.refused + details.missed, 100_005);
    assert!(run.pipeline.summary().left_out > 0);
}

/// Few enough values that things meet.
fn small() -> impl Strategy<Value = u64> {
    0u64..6
}

fn wire_event() -> impl Strategy<Value = Body> {
    let client = (1024u16..1030).prop_map(|port| format!("10.244.1.2:{port}"));
    let id = 0x2220u16..0x2224;
    prop_oneof![
        (client, 1u32..5).prop_map(|(client, isn)| refused(&client, isn)),
        (id.clone(), small(), small()).prop_map(|(id, first, again)| retry(
            id,
            AAAA,
            first * 1000,
            again * 1000
        )),
        (id.clone(), small(), small(), 1u16..3).prop_map(|(id, first, at, n)| answer(
            id,
            AAAA,
            first * 1000,
            at * 1000,
            n
        )),
        (id.clone(), small()).prop_map(|(id, first)| unanswered(id, AAAA, first * 1000)),
        (id.clone(), small()).prop_map(|(id, first)| {
            Body::Dns(Box::new(query(kind::DNS_CLOSE, id, AAAA, first * 1000)))
        }),
        (id.clone(), small(), small()).prop_map(|(id, first, at)| {
            served(kind::DNS_SERVER_ANSWER, id, DNS_B, DNS_B_END, first * 1000, at * 1000)
        }),
        (id.clone(), any::<bool>()).prop_map(|(id, is_answer)| {
            drop_event(dns_drop(
                CLIENT,
                udp(DNS_B_END, CLIENT_END),
                id,
                is_answer,
                NO_SOCKET,
                0x300,
            ))
        }),
        (0u32..3).prop_map(|verdict| {
            let mut clash = clash();
            clash.verdict = verdict.wrapping_sub(1);
            clashed(clash)
        }),
        (small(), 0u32..3, 0u32..3).prop_map(|(started, outcome, n)| {
            connect_end(WEB_END, started * 1000, n, outcome, 111 * (n % 2))
        }),
        small().prop_map(|started| syn_again(WEB_END, started * 1000, 1)),
        Just(syn_drop(WEB, WEB_END, NO_SOCKET, 0x400)),
        (2u32..5).prop_map(|code| rejected(reject(tcp(CLIENT_END, WEB_END), ISN, code))),
        Just(table_full_drop(HOST, tcp(CLIENT_END, WEB_END), ISN)),
        (0u32..3).prop_map(|n| synack_again(ISN, CLIENT_END, 127 + n)),
        Just(Body::Tick),
    ]
}

fn loader_event() -> impl Strategy<Value = Body> {
    let text = prop::collection::vec(any::<char>(), 0..8).prop_map(String::from_iter);
    prop_oneof![
        Just(Body::Tick),
        any::<u64>().prop_map(|wall| Body::Clock(Clock { wall })),
        (0u32..5, text.clone()).prop_map(|(netns, name)| {
            let addresses = vec!["10.244.1.2".parse().expect("an address")];
            Body::Pod(PodChange::Up(Pod { netns, name, addresses, ..Pod::default() }))
        }),
        (0u32..5).prop_map(|netns| Body::Pod(PodChange::Gone { netns })),
        text.clone().prop_map(|name| service(6, "10.244.4.1:80", Some(&name))),
        (any::<u64>(), text.clone())
            .prop_map(|(address, name)| Body::Symbol(Symbol { address, name })),
        (any::<u64>(), text).prop_map(|(ino, comm)| Body::Listener(Listener { ino, pid: 1, comm })),
        prop::collection::vec(any::<u64>(), 0..20)
            .prop_map(|lost| Body::Totals(Box::new(Totals { lost, ..Totals::default() }))),
    ]
}

/// Any record that decodes, its fields being what they like.
fn any_event() -> impl Strategy<Value = Body> {
    (0..kind::COUNT, any::<u8>(), any::<u64>()).prop_map(|(kind, fill, ts)| {
        let mut bytes = vec![fill; 1024];
        bytes[..8].copy_from_slice(&ts.to_ne_bytes());
        bytes[20..22].copy_from_slice(&u16::try_from(kind).expect("few kinds").to_ne_bytes());
        let len = (24..1024).find(|len| decode(&bytes[..*len]).is_ok());
        len.and_then(|len| decode(&bytes[..len]).ok()).map_or(Body::Tick, |event| event.body)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_is_taken(
        events in prop::collection::vec(
            (prop_oneof![Just(None), any::<u64>().prop_map(Some)], 0u64..500,
             prop_oneof![6 => wire_event(), 2 => loader_event(), 1 => any_event()]),
            0..300,
        ),
        known in any::<bool>(),
    ) {
        let mut pipeline = if known { Run::new().until(0).take() } else { Pipeline::new(Default::default()) };
        let mut now = START;
        let mut said = 0;
        for (odd, step, body) in events {
            now += step * MS;
            let ts = match odd { Some(ts) if step % 50 == 0 => ts, _ => now };
            for output in pipeline.push(Event { ts, body }) {
                said += 1;
                let f = output.finding();
                prop_assert!(!f.headline.chars().any(char::is_control));
                prop_assert!(f.count >= 1);
            }
        }
        said += pipeline.finish().len();
        let summary = pipeline.summary();
        prop_assert!(summary.status.explained <= summary.status.stalls);
        prop_assert_eq!(summary.by_cause.values().sum::<u64>(), summary.status.stalls);
        prop_assert!(said <= 600);
    }
}

#[test]
fn a_port_scan_is_a_few_findings() {
    let mut run = Run::new();
    for n in 0..500u32 {
        let at = 500 + u64::from(n) * 10;
        let dst = format!("10.244.4.2:{}", 1000 + n);
        let mut drop = dropped(WEB, tcp(CLIENT_END, &dst), n + 1, NO_SOCKET, 0x400);
        drop.tcp_flags = 2;
        run.at(at, drop_event(drop));
        let mut end = connect(kind::CONNECT_END, &dst, at, 0);
        (end.isn, end.outcome, end.err) = (n + 1, probe_common::event::OUTCOME_FAILED, 111);
        run.at(at + 1, Body::Connect(Box::new(end)));
    }
    run.until(30_000);
    assert_eq!(run.causes(), [Cause::NoListener; 9]);
    assert_eq!(run.pipeline.status().stalls, 500);
    assert_eq!(run.pipeline.status().explained, 500);
}

#[test]
fn what_was_left_out_is_shared_and_never_more_than_the_kernel_counted() {
    for (kernel, seen, missed) in [(10, 10, 0), (600, 501, 99), (1, 2, 0)] {
        let mut run = Run::new();
        let overflows = |n| {
            let listen_overflows = Some(n);
            Body::Counters(Counters { netns: WEB, listen_overflows, ..Counters::default() })
        };
        run.at(0, overflows(0));
        run.at(500, refused("192.0.2.1:5000", 1));
        run.at(500, refused("192.0.2.2:5000", 2));
        let mut totals = totals();
        totals.limited[usize::from(kind::LISTEN_DROP)] = 499;
        run.at(600, Body::Totals(Box::new(totals)));
        run.at(700, overflows(kernel));
        run.until(9000);
        let Details::AcceptQueue(details) = &run.only().details else { panic!("details") };
        assert_eq!((details.refused, details.missed), (seen, missed), "of {kernel}");
        assert_eq!(details.details_left_out, 499);
    }
}
