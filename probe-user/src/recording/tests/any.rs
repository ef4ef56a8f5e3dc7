//! Arbitrary events: every kind, with fields that are what they like.

use std::net::{IpAddr, SocketAddr};

use probe_common::event::kind;
use proptest::{collection::vec, option, prelude::*};

use crate::{
    event::{
        Body, Clock, ConntrackCounters, Container, Counters, Event, Hook, HookState, IpvsEntry,
        ListenQueue, ListenQueues, Listener, LocalPorts, NamedBy, Node, Outcome, Pod, PodChange,
        Process, Rung, Sandbox, ServerQueue, Service, Symbol, SynSent, Sysctls, Totals,
        armed::{Armed, Outcome as LetGo, Set, Step},
        decode::decode,
    },
    recording::layout,
    testing::START,
};

/// Anything that a person can type, and what nobody can.
pub fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => "[ -~]{0,12}",
        1 => vec(any::<char>(), 0..8).prop_map(String::from_iter),
        1 => Just("web\u{1b}]0;x\u{7}\u{202e}<script>".to_owned()),
    ]
}

/// Times near the start, and any.
pub fn time() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => START..START + 60_000_000_000,
        1 => 0..1u64 << 62,
        1 => Just((1 << 62) - 1),
    ]
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0u64..10, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0u32..8, 1 => 100u32..106, 1 => any::<u32>()]
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        3 => (0u8..4, 0u8..4).prop_map(|(a, b)| IpAddr::from([10, 244, a, b])),
        1 => any::<[u8; 4]>().prop_map(IpAddr::from),
        1 => any::<[u16; 8]>().prop_map(IpAddr::from),
    ]
}

fn end() -> impl Strategy<Value = SocketAddr> {
    let port = prop_oneof![Just(53), Just(8080), Just(40312), any::<u16>()];
    (address(), port).prop_map(SocketAddr::from)
}

fn container() -> impl Strategy<Value = Container> {
    (text(), option::of(text())).prop_map(|(id, name)| Container { id, name })
}

fn pod() -> impl Strategy<Value = Pod> {
    (
        (small(), number(), text()),
        vec(address(), 0..3),
        vec(small(), 0..3),
        vec(container(), 0..3),
        any::<bool>(),
        option::of(prop_oneof![Just(Sandbox::Kata), Just(Sandbox::GVisor)]),
        option::of(prop_oneof![Just(NamedBy::Pod), Just(NamedBy::Number)]),
    )
        .prop_map(|(id, addresses, veth, containers, more_containers, sandbox, named_by)| {
            Pod {
                netns: id.0,
                cookie: id.1,
                name: id.2,
                named_by,
                addresses,
                veth,
                containers,
                more_containers,
                sandbox,
            }
        })
}

fn hook() -> impl Strategy<Value = Hook> {
    let state = prop_oneof![
        Just(HookState::Watched { rung: Rung::Kprobe }),
        text().prop_map(|why| HookState::CannotHappen { why }),
        text().prop_map(|why| HookState::CannotSee { why }),
    ];
    let cause = prop_oneof![Just("no-listener".to_owned()), text()];
    (text(), text(), vec(cause, 0..3), state).prop_map(|(name, family, causes, state)| Hook {
        name,
        family,
        causes,
        state,
    })
}

fn node() -> impl Strategy<Value = Node> {
    (
        (text(), text(), text(), text(), text()),
        small(),
        vec((small(), text()), 0..4),
        number(),
        vec(any::<u16>(), 0..5),
        vec(text(), 0..4),
    )
        .prop_map(|(words, netns, drop_reasons, min_stall, dns_ports, modules)| Node {
            version: words.0,
            name: words.1,
            machine: words.2.clone(),
            kernel: words.2,
            kube_proxy: words.3,
            no_ebpf: words.4,
            netns,
            drop_reasons,
            min_stall,
            dns_ports,
            modules,
        })
}

fn counters() -> impl Strategy<Value = Counters> {
    let conntrack = (number(), number(), number(), option::of(number())).prop_map(
        |(entries, max, drop, chain_too_long)| ConntrackCounters {
            entries,
            max,
            insert_failed: max,
            drop,
            early_drop: drop,
            clash_resolve: entries,
            chain_too_long,
            buckets: max,
        },
    );
    let five = || option::of(number());
    (small(), (five(), five(), five(), five(), five()), time(), option::of(conntrack)).prop_map(
        |(netns, n, since, conntrack)| Counters {
            netns,
            listen_overflows: n.0,
            listen_drops: n.1,
            reqq_full_drop: n.2,
            reqq_full_cookies: n.3,
            syn_retransmits: n.4,
            since,
            conntrack,
        },
    )
}

fn queue() -> impl Strategy<Value = ListenQueue> {
    (end(), number(), small()).prop_map(|(address, ino, waiting)| ListenQueue {
        address,
        ino,
        waiting,
    })
}

fn armed() -> impl Strategy<Value = Armed> {
    let outcome = prop_oneof![Just(LetGo::Seen), Just(LetGo::OverBudget), Just(LetGo::Ended)];
    let step = prop_oneof![
        (text(), small(), number()).prop_map(|(why, places, took)| Step::Armed {
            why,
            places,
            took
        }),
        (outcome, number(), number(), number()).prop_map(|(outcome, lasted, runs, spent)| {
            Step::LetGo { outcome, lasted, runs, matched: runs, spent }
        }),
        text().prop_map(|why| Step::Refused { why }),
    ];
    let set = prop_oneof![Just(Set::IpvsVerdict), Just(Set::ConntrackEntry), Just(Set::Departure)];
    (set, any::<u8>(), end(), end(), step).prop_map(|(set, proto, src, dst, step)| Armed {
        set,
        proto,
        src,
        dst,
        step,
    })
}

fn totals() -> impl Strategy<Value = Totals> {
    let counts = || vec(number(), 0..30);
    (counts(), counts(), counts(), (number(), number(), number(), number()), number()).prop_map(
        |(seen, limited, lost, n, passes)| Totals {
            seen,
            limited,
            lost,
            dns_queries: n.0,
            dns_answers: n.0,
            dns_nxdomain: n.1,
            dns_slowest: n.1,
            connects: n.2,
            established: n.2,
            connect_slowest: n.3,
            unpaired: n.3,
            dns_unreadable: n.0,
            missed: n.1,
            table_full: n.2,
            not_read: n.3,
            passes,
        },
    )
}

pub fn loader() -> impl Strategy<Value = Body> {
    let outcome =
        prop_oneof![Just(Outcome::Trying), Just(Outcome::Established), Just(Outcome::Gone)];
    prop_oneof![
        4 => Just(Body::Tick),
        1 => number().prop_map(|wall| Body::Clock(Clock { wall })),
        1 => node().prop_map(|node| Body::Node(Box::new(node))),
        1 => vec(hook(), 0..4).prop_map(Body::Hooks),
        2 => pod().prop_map(|pod| Body::Pod(PodChange::Up(pod))),
        1 => small().prop_map(|netns| Body::Pod(PodChange::Gone { netns })),
        1 => (number(), text()).prop_map(|(address, name)| Body::Symbol(Symbol { address, name })),
        1 => (number(), small(), text())
            .prop_map(|(ino, pid, comm)| Body::Listener(Listener { ino, pid, comm })),
        1 => ((small(), small()), option::of(text()), option::of(container()), any::<bool>()).prop_map(
            |((pid, netns), pod, container, kubelet)| Body::Process(Process {
                pid, pod, container, kubelet, has_kubelet: kubelet, netns
            })
        ),
        1 => (small(), vec((text(), text()), 0..4))
            .prop_map(|(netns, values)| Body::Sysctls(Sysctls { netns, values })),
        1 => counters().prop_map(Body::Counters),
        1 => (small(), end(), end(), end(), text(), option::of(small())).prop_map(
            |(netns, client, service, server, state, weight)| Body::IpvsEntry(IpvsEntry {
                netns, client, service, server, state, weight
            })
        ),
        1 => (small(), any::<u16>(), any::<u16>(), vec(any::<(u16, u16)>(), 0..4)).prop_map(
            |(netns, low, high, reserved)| Body::LocalPorts(LocalPorts { netns, low, high, reserved })
        ),
        1 => armed().prop_map(|armed| Body::Armed(Box::new(armed))),
        1 => ((small(), small()), end(), end(), time(), outcome).prop_map(
            |((netns, retransmits), client, server, since, outcome)| Body::SynSent(SynSent {
                netns, client, server, retransmits, since, outcome
            })
        ),
        1 => (small(), option::of(small()), vec(queue(), 0..4), any::<bool>()).prop_map(
            |(netns, somaxconn, queues, cut)| Body::ListenQueues(Box::new(ListenQueues {
                netns, somaxconn, queues, cut
            }))
        ),
        1 => (small(), end(), end(), queue()).prop_map(
            |(netns, client, server, queue)| Body::ServerQueue(ServerQueue {
                netns, client, server, queue
            })
        ),
        1 => (any::<u8>(), end(), option::of(text()), small())
            .prop_map(|(proto, address, name, pid)| Body::Service(Service { proto, address, name, pid })),
        1 => totals().prop_map(|totals| Body::Totals(Box::new(totals))),
    ]
}

/// A record of any kind with any bytes, of which many are small numbers, as real ones are.
pub fn wire() -> impl Strategy<Value = Body> {
    let sizes: Vec<(u16, usize)> = layout::ours()
        .iter()
        .flat_map(|layout| layout.kinds.iter().map(|kind| (*kind, layout.size as usize)))
        .collect();
    (0..sizes.len(), any::<u64>(), time(), small()).prop_map(move |(which, seed, ts, netns)| {
        let (kind, size) = sizes[which];
        let mut bytes = bytes(seed, size);
        bytes[..8].copy_from_slice(&ts.to_le_bytes());
        bytes[16..20].copy_from_slice(&netns.to_le_bytes());
        bytes[20..22].copy_from_slice(&kind.to_le_bytes());
        decode(&bytes).expect("a record").body
    })
}

/// Made from a seed (xorshift64): as strategies they would take a second for each test.
fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let byte = (state >> 32) as u8;
        match state % 10 {
            0..6 => 0,
            6..8 => byte % 8,
            8 => byte,
            _ => 255,
        }
    };
    (0..size).map(|_| next()).collect()
}

pub fn event() -> impl Strategy<Value = Event> {
    (time(), prop_oneof![wire(), loader()]).prop_map(|(ts, body)| Event { ts, body })
}

pub fn events(most: usize) -> impl Strategy<Value = Vec<Event>> {
    vec(event(), 0..most)
}

#[test]
fn every_kind_of_a_record_has_a_layout() {
    for kind in 0..u16::try_from(kind::COUNT).unwrap() {
        let size = layout::ours().iter().find(|l| l.kinds.contains(&kind)).map(|l| l.size as usize);
        let mut bytes = vec![0; 1024];
        bytes[20..22].copy_from_slice(&kind.to_le_bytes());
        let decodes = (24..1024).find(|len| decode(&bytes[..*len]).is_ok());
        assert_eq!(decodes, size, "kind {kind}");
    }
}
