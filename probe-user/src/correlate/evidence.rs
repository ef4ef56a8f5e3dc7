//! The index of recent kernel events that may explain a stall, found by what NAT keeps: TCP's
//! initial sequence number, the DNS id, the packet's address in memory; or by the flow.

use std::net::{IpAddr, SocketAddr};

use probe_common::{
    event::{
        Clash, CtEntry, Departure, Dns, Drop, Ipvs, Listen, ProbeServer, ProbeSteps, Reject,
        SynAck, kind,
    },
    net::{IPPROTO_TCP, IPPROTO_UDP, Tuple},
};

use super::{
    dns,
    join::TCP_SYN,
    recent::{Keyed, Recent},
};
use crate::{
    event::{Body, Event, IpvsEntry, ServerQueue, armed::Armed},
    finding::Flow,
};

/// How long evidence is kept, in nanoseconds.
const KEEP: u64 = 60_000_000_000;
/// Events kept of each sort.
const CAPACITY: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The client's initial sequence number.
    Isn(u32),
    DnsId(u16),
    Skb(u64),
    Flow(Flow),
    /// Any flow of a client to a server, whatever the client's port.
    Asked {
        proto: u8,
        client: IpAddr,
        server: SocketAddr,
    },
}

/// An event and its time in the stream.
#[derive(Debug)]
pub struct Seen<T> {
    pub ts: u64,
    pub event: Box<T>,
}

/// A dropped packet and the DNS message in it.
#[derive(Debug)]
pub struct SeenDrop {
    pub ts: u64,
    pub event: Box<Drop>,
    pub dns: Option<dns::Message>,
}

/// An event that joins others by keys.
trait Joined {
    fn keys(&self) -> Vec<Key>;
}

impl<T: Joined> Keyed for Seen<T> {
    type Key = Key;
    fn ts(&self) -> u64 {
        self.ts
    }
    fn keys(&self) -> Vec<Key> {
        self.event.keys()
    }
}

impl Joined for Listen {
    fn keys(&self) -> Vec<Key> {
        vec![Key::Isn(self.isn)]
    }
}

impl Joined for SynAck {
    fn keys(&self) -> Vec<Key> {
        vec![Key::Isn(self.isn)]
    }
}

impl Joined for Clash {
    fn keys(&self) -> Vec<Key> {
        let c = self;
        let orig = Key::Flow(Flow::of(&c.loser.orig));
        let reply = Key::Flow(Flow::of(&c.loser.reply).reversed());
        let mut keys = vec![orig];
        if reply != orig {
            keys.push(reply);
        }
        keys.extend(ident_key(c.loser.orig.proto, c.ident));
        keys
    }
}

impl Keyed for SeenDrop {
    type Key = Key;
    fn ts(&self) -> u64 {
        self.ts
    }
    fn keys(&self) -> Vec<Key> {
        let mut keys = vec![Key::Skb(self.event.skb)];
        keys.extend(packet_keys(&self.event.tuple, self.event.ident));
        let as_sent = Key::Flow(super::arm::as_sent(&self.event));
        if !keys.contains(&as_sent) {
            keys.push(as_sent);
        }
        keys
    }
}

impl Joined for Dns {
    fn keys(&self) -> Vec<Key> {
        vec![Key::DnsId(self.question.id)]
    }
}

impl Joined for Ipvs {
    fn keys(&self) -> Vec<Key> {
        packet_keys(&self.tuple, self.ident)
    }
}

impl Joined for CtEntry {
    fn keys(&self) -> Vec<Key> {
        let flow = Flow::of(&self.tuple);
        let mut keys = vec![Key::Skb(self.skb), Key::Flow(flow)];
        // An answer is found by the flow that it answers.
        let orig = Flow::of(&self.ct.orig);
        if self.ct.present != 0 && orig != flow {
            keys.push(Key::Flow(orig));
        }
        if self.ct.present != 0 {
            let (proto, client, server) = (orig.proto, orig.src.ip(), orig.dst);
            keys.push(Key::Asked { proto, client, server });
        }
        let is_handshake = self.tcp_flags & TCP_SYN != 0;
        keys.extend(is_handshake.then_some(Key::Isn(self.ident)));
        keys
    }
}

impl Joined for Departure {
    fn keys(&self) -> Vec<Key> {
        vec![Key::Isn(self.ident)]
    }
}

impl Joined for Reject {
    fn keys(&self) -> Vec<Key> {
        packet_keys(&self.tuple, self.ident)
    }
}

impl Joined for ProbeServer {
    fn keys(&self) -> Vec<Key> {
        vec![Key::Flow(Flow::of(&self.tuple))]
    }
}

impl Joined for ProbeSteps {
    fn keys(&self) -> Vec<Key> {
        vec![Key::Flow(Flow::of(&self.tuple))]
    }
}

impl Joined for ServerQueue {
    fn keys(&self) -> Vec<Key> {
        vec![Key::Flow(Flow { proto: IPPROTO_TCP, src: self.client, dst: self.server })]
    }
}

impl Joined for IpvsEntry {
    fn keys(&self) -> Vec<Key> {
        let (src, dst) = (self.client, self.service);
        vec![Key::Flow(Flow { proto: IPPROTO_TCP, src, dst })]
    }
}

impl Joined for Armed {
    fn keys(&self) -> Vec<Key> {
        vec![Key::Flow(self.flow())]
    }
}

/// Of a packet: its flow, and what NAT keeps.
fn packet_keys(tuple: &Tuple, ident: u32) -> Vec<Key> {
    let mut keys = vec![Key::Flow(Flow::of(tuple))];
    keys.extend(ident_key(tuple.proto, ident));
    keys
}

fn ident_key(proto: u8, ident: u32) -> Option<Key> {
    match proto {
        IPPROTO_TCP => Some(Key::Isn(ident)),
        IPPROTO_UDP => u16::try_from(ident).ok().map(Key::DnsId),
        _ => None,
    }
}

/// Recent kernel events by sort.
#[derive(Debug)]
pub struct Index {
    pub listens: Recent<Seen<Listen>>,
    pub synacks: Recent<Seen<SynAck>>,
    pub clashes: Recent<Seen<Clash>>,
    pub drops: Recent<SeenDrop>,
    /// Answers from addresses that were not asked.
    pub strays: Recent<Seen<Dns>>,
    /// Queries as servers saw them: answered late, or still pending.
    pub servers: Recent<Seen<Dns>>,
    /// What IPVS decided on first packets.
    pub ipvs: Recent<Seen<Ipvs>>,
    /// Packets of armed flows as conntrack saw them.
    pub ct_entries: Recent<Seen<CtEntry>>,
    /// SYNs of armed connects, and the answers to them, at devices.
    pub departures: Recent<Seen<Departure>>,
    /// IPVS connections of clients whose SYN was dropped.
    pub ipvs_entries: Recent<Seen<IpvsEntry>>,
    /// What was armed for which flow.
    pub armed: Recent<Seen<Armed>>,
    /// Packets that rules rejected.
    pub rejects: Recent<Seen<Reject>>,
    /// Servers of connections that the kubelet gave up, and who listens there.
    pub probe_servers: Recent<Seen<ProbeServer>>,
    pub server_queues: Recent<Seen<ServerQueue>>,
    /// What such servers were seen to do while they were waited for.
    pub probe_steps: Recent<Seen<ProbeSteps>>,
    /// Counts up with every event kept, so that a symptom can tell whether there is anything new.
    pub generation: u64,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            listens: Recent::new(CAPACITY, KEEP),
            synacks: Recent::new(CAPACITY, KEEP),
            clashes: Recent::new(CAPACITY, KEEP),
            drops: Recent::new(CAPACITY, KEEP),
            strays: Recent::new(CAPACITY, KEEP),
            servers: Recent::new(CAPACITY, KEEP),
            ipvs: Recent::new(CAPACITY, KEEP),
            ct_entries: Recent::new(CAPACITY, KEEP),
            departures: Recent::new(CAPACITY, KEEP),
            ipvs_entries: Recent::new(CAPACITY, KEEP),
            armed: Recent::new(CAPACITY, KEEP),
            rejects: Recent::new(CAPACITY, KEEP),
            probe_servers: Recent::new(CAPACITY, KEEP),
            server_queues: Recent::new(CAPACITY, KEEP),
            probe_steps: Recent::new(CAPACITY, KEEP),
            generation: 0,
        }
    }
}

impl Index {
    /// Keeps the event if it may be evidence.
    pub fn note(&mut self, event: &Event) {
        let ts = event.ts;
        match &event.body {
            Body::Listen(e) => self.listens.push(Seen { ts, event: e.clone() }),
            Body::SynAck(e) => self.synacks.push(Seen { ts, event: e.clone() }),
            Body::Clash(e) => self.clashes.push(Seen { ts, event: e.clone() }),
            Body::Drop(e) => {
                let captured = usize::try_from(e.captured).unwrap_or(usize::MAX);
                let packet = e.packet.get(..captured).unwrap_or(&e.packet);
                let dns = dns::of_packet(packet);
                self.drops.push(SeenDrop { ts, event: e.clone(), dns });
            }
            Body::Ipvs(e) => self.ipvs.push(Seen { ts, event: e.clone() }),
            Body::CtEntry(e) => self.ct_entries.push(Seen { ts, event: e.clone() }),
            Body::Departure(e) => self.departures.push(Seen { ts, event: e.clone() }),
            Body::Reject(e) => self.rejects.push(Seen { ts, event: e.clone() }),
            Body::ProbeServer(e) => self.probe_servers.push(Seen { ts, event: e.clone() }),
            Body::ProbeSteps(e) => self.probe_steps.push(Seen { ts, event: e.clone() }),
            Body::ServerQueue(e) => {
                self.server_queues.push(Seen { ts, event: Box::new(e.clone()) });
            }
            Body::IpvsEntry(e) => {
                self.ipvs_entries.push(Seen { ts, event: Box::new(e.clone()) });
            }
            Body::Armed(e) => self.armed.push(Seen { ts, event: e.clone() }),
            Body::Dns(e) => match e.header.kind {
                kind::DNS_WRONG_SOURCE => self.strays.push(Seen { ts, event: e.clone() }),
                kind::DNS_SERVER_ANSWER | kind::DNS_SERVER_PENDING => {
                    self.servers.push(Seen { ts, event: e.clone() });
                }
                _ => return,
            },
            _ => return,
        }
        self.generation += 1;
    }

    pub fn forget(&mut self, now: u64) {
        self.listens.forget(now);
        self.synacks.forget(now);
        self.clashes.forget(now);
        self.drops.forget(now);
        self.strays.forget(now);
        self.servers.forget(now);
        self.ipvs.forget(now);
        self.ct_entries.forget(now);
        self.departures.forget(now);
        self.ipvs_entries.forget(now);
        self.armed.forget(now);
        self.rejects.forget(now);
        self.probe_servers.forget(now);
        self.server_queues.forget(now);
        self.probe_steps.forget(now);
    }

    /// Events forgotten before their time, and events kept now.
    pub fn evicted(&self) -> u64 {
        self.listens.evicted
            + self.synacks.evicted
            + self.clashes.evicted
            + self.drops.evicted
            + self.strays.evicted
            + self.servers.evicted
            + self.ipvs.evicted
            + self.ct_entries.evicted
            + self.departures.evicted
            + self.ipvs_entries.evicted
            + self.armed.evicted
            + self.rejects.evicted
            + self.probe_servers.evicted
            + self.server_queues.evicted
            + self.probe_steps.evicted
    }

    pub fn len(&self) -> usize {
        self.listens.len()
            + self.synacks.len()
            + self.clashes.len()
            + self.drops.len()
            + self.strays.len()
            + self.servers.len()
            + self.ipvs.len()
            + self.ct_entries.len()
            + self.departures.len()
            + self.ipvs_entries.len()
            + self.armed.len()
            + self.rejects.len()
            + self.probe_servers.len()
            + self.server_queues.len()
            + self.probe_steps.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
