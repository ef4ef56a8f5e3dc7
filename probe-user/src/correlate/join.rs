//! Joins a stall with the kernel events of the same packets, on both sides of NAT.
//!
//! What NAT keeps is what joins: TCP's initial sequence number (32 random bits), the DNS id
//! together with the name asked for. Only where these are not known are addresses and ports
//! compared.

use std::net::SocketAddr;

use probe_common::{
    event::{Clash, CtEntry, Departure, Dns, Ipvs, Listen, ProbeServer, Reject, SynAck, kind},
    net::{IPPROTO_TCP, IPPROTO_UDP, Tuple},
};

use super::{
    evidence::{Key, Seen, SeenDrop},
    recent::{Keyed, Recent},
    rules::no_listener::is_without_socket,
    stalls::Stalls,
    symptom::{Join, Side, Symptom},
    world::{Watch, World},
};
use crate::{
    event::{
        IpvsEntry, ServerQueue,
        armed::{Armed, Set, Step},
    },
    finding::{Cause, Flow, SymptomKind},
};

pub const TCP_SYN: u32 = 0x02;
pub const TCP_ACK: u32 = 0x10;
/// A packet's memory is used again for others; this soon after the clash it is still the same one.
const SAME_SKB: u64 = 1_000_000_000;
/// Clocks of CPUs differ a little.
const AFTER_END: u64 = 5_000_000;
/// How long a DNS id stays the same question.
const SAME_ID: u64 = 10_000_000_000;

/// A stall together with all that is known: what a rule judges.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    pub symptom: &'a Symptom,
    pub world: &'a World,
    /// The other stalls, to follow a chain of servers.
    pub stalls: &'a Stalls,
    /// Nothing more is waited for: a rule may say what is merely likely.
    pub last_word: bool,
    /// Evidence was pushed out before its time since the stall began.
    pub evicted: bool,
}

/// Which way a dropped packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Query or SYN.
    ToServer,
    /// Answer or SYN-ACK.
    ToClient,
}

impl<'a> Case<'a> {
    fn is_timely(&self, ts: u64) -> bool {
        self.symptom.span().contains(&ts)
            && (!matches!(self.symptom.join, Join::Dns { .. })
                || ts <= self.symptom.opened.saturating_add(SAME_ID))
    }

    /// Refusals of this connection by its listener, in order of time.
    pub fn listens(&self) -> Vec<&'a Seen<Listen>> {
        let Join::Tcp { isn } = self.symptom.join else { return Vec::new() };
        let found = self.world.evidence.listens.find(Key::Isn(isn));
        in_order(found.filter(|l| self.is_timely(l.ts) && self.is_tcp_of_this(isn, &l.event.tuple)))
    }

    /// SYN-ACKs of this connection sent again.
    pub fn synacks(&self) -> Vec<&'a Seen<SynAck>> {
        let Join::Tcp { isn } = self.symptom.join else { return Vec::new() };
        let found = self.world.evidence.synacks.find(Key::Isn(isn));
        in_order(found.filter(|s| self.is_timely(s.ts) && self.is_tcp_of_this(isn, &s.event.tuple)))
    }

    /// An initial sequence number of 0 is "not known": then the flow must be the same.
    fn is_tcp_of_this(&self, isn: u32, tuple: &Tuple) -> bool {
        isn != 0 || Flow::of(tuple) == self.symptom.flow
    }

    /// Clashes this flow lost, in order of time.
    pub fn clashes(&self) -> Vec<&'a Seen<Clash>> {
        let clashes = &self.world.evidence.clashes;
        let mut found: Vec<&Seen<Clash>> = match self.symptom.join {
            Join::Tcp { isn } if isn != 0 => clashes.find(Key::Isn(isn)).collect(),
            _ => Vec::new(),
        };
        for flow in self.flows() {
            for clash in clashes.find(Key::Flow(flow)) {
                if self.is_ident_of_this(clash.event.ident)
                    && !found.iter().any(|f| std::ptr::eq(*f, clash))
                {
                    found.push(clash);
                }
            }
        }
        in_order(found.into_iter().filter(|c| {
            self.is_timely(c.ts) && c.event.loser.orig.proto == self.symptom.flow.proto
        }))
    }

    /// The flow to each server the client asked.
    fn flows(&self) -> Vec<Flow> {
        let flow = self.symptom.flow;
        let mut flows = vec![flow];
        for server in &self.symptom.servers {
            let mut other = flow;
            other.dst.set_ip(*server);
            if other != flow {
                flows.push(other);
            }
        }
        flows
    }

    /// What IPVS decided on packets of this flow, in order of time.
    pub fn ipvs(&self, kind: u16) -> Vec<&'a Seen<Ipvs>> {
        let mut found = self.sent_to_server(&self.world.evidence.ipvs, |e| &e.tuple);
        found.retain(|d| d.event.header.kind == kind);
        found
    }

    /// Packets to the server that a rule rejected, in order of time.
    pub fn rejects(&self) -> Vec<&'a Seen<Reject>> {
        let mut found = self.sent_to_server(&self.world.evidence.rejects, |e| &e.tuple);
        let is_syn = |e: &Reject| e.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
        found.retain(|r| r.event.tuple.proto != IPPROTO_TCP || is_syn(&r.event));
        found
    }

    /// How far the server of a probe had come when it was given up, or, of
    /// [`kind::PROBE_SERVED`], in the end.
    pub fn probe_server(&self, kind: u16) -> Option<&'a Seen<ProbeServer>> {
        let found = self.world.evidence.probe_servers.find(Key::Flow(self.symptom.flow));
        let mut found = found.filter(|s| s.event.header.kind == kind && self.is_timely(s.ts));
        found.next()
    }

    /// Who listens there, and how many connections wait for it.
    pub fn server_queue(&self) -> Option<&'a Seen<ServerQueue>> {
        let found = self.world.evidence.server_queues.find(Key::Flow(self.symptom.flow));
        found.filter(|s| self.is_timely(s.ts)).last()
    }

    /// What became of this flow's packets on their way to the server, in order of time.
    fn sent_to_server<T>(
        &self,
        seen: &'a Recent<Seen<T>>,
        tuple: impl Fn(&T) -> &Tuple,
    ) -> Vec<&'a Seen<T>>
    where
        Seen<T>: Keyed<Key = Key>,
    {
        let symptom = self.symptom;
        let key = match symptom.join {
            Join::Tcp { isn } if isn != 0 => Key::Isn(isn),
            Join::Dns { id, .. } => Key::DnsId(id),
            _ => Key::Flow(symptom.flow),
        };
        in_order(seen.find(key).filter(|d| {
            let flow = Flow::of(tuple(&d.event));
            flow.proto == symptom.flow.proto
                && self.is_timely(d.ts)
                // A DNS id is not enough: the same client, to a server it asked.
                && (matches!(key, Key::Isn(_))
                    || (flow.src == symptom.flow.src && symptom.servers.contains(&flow.dst.ip()))
                    || flow == symptom.flow)
        }))
    }

    /// Whether a connect from here stalled that this cause's hooks cannot tell of, so that what was
    /// seen by looking at namespaces in turn is all there is.
    pub fn is_polled_connect(&self, cause: Cause) -> bool {
        self.last_word
            && self.symptom.kind == SymptomKind::ConnectStall
            && self.symptom.side == Side::Client
            && matches!(self.world.watch(cause), Watch::CannotSee(_))
            && !self.world.polled.is_empty()
    }

    /// IPVS connections that the dropped SYN of this flow found, by the addresses it had there.
    pub fn ipvs_entries(&self) -> Vec<(&'a Seen<IpvsEntry>, &'a SeenDrop)> {
        let entries = &self.world.evidence.ipvs_entries;
        let mut found = Vec::new();
        for (drop, way) in self.drops() {
            if way != Direction::ToServer {
                continue;
            }
            for entry in entries.find(Key::Flow(Flow::of(&drop.event.tuple))) {
                if entry.event.netns == drop.event.header.netns && self.is_timely(entry.ts) {
                    found.push((entry, drop));
                }
            }
        }
        found
    }

    /// When this set was armed for packets of this flow, and let go, in order of time.
    pub fn armed(&self, set: Set) -> Vec<&'a Seen<Armed>> {
        let mut flows = vec![self.symptom.flow];
        for (drop, way) in self.drops() {
            let flow = super::arm::at_first(&drop.event);
            if way == Direction::ToServer && !flows.contains(&flow) {
                flows.push(flow);
            }
        }
        let armed = &self.world.evidence.armed;
        let found = flows.into_iter().flat_map(|flow| armed.find(Key::Flow(flow)));
        in_order(found.filter(|a| a.event.set == set && self.is_timely(a.ts)))
    }

    /// The same where no drop was seen: by the addresses that the client itself sees.
    pub fn ipvs_entries_of_flow(&self) -> Vec<&'a Seen<IpvsEntry>> {
        let entries = self.world.evidence.ipvs_entries.find(Key::Flow(self.symptom.flow));
        in_order(entries.filter(|entry| self.is_timely(entry.ts)))
    }

    /// Packets of this flow as conntrack saw them while it was armed and the stall lasted, in order
    /// of time.
    pub fn ct_entries(&self) -> Vec<(&'a Seen<CtEntry>, Direction)> {
        let seen = &self.world.evidence.ct_entries;
        let found: Vec<&Seen<CtEntry>> = match self.symptom.join {
            Join::Tcp { isn } if isn != 0 => seen.find(Key::Isn(isn)).collect(),
            // One entry serves all questions of a socket.
            _ => self.flows().into_iter().flat_map(|f| seen.find(Key::Flow(f))).collect(),
        };
        let proto = self.symptom.flow.proto;
        let found =
            found.into_iter().filter(|e| self.is_timely(e.ts) && e.event.tuple.proto == proto);
        // The same socket may wait for another answer soon after.
        let end = self.symptom.ended.map_or(u64::MAX, |end| end.saturating_add(AFTER_END));
        let found = found.filter(|e| e.ts <= end);
        in_order(found).into_iter().map(|e| (e, self.way(&e.event))).collect()
    }

    /// SYNs of this connect, and answers to them, at devices while that was armed, in order of time.
    pub fn departures(&self) -> Vec<&'a Seen<Departure>> {
        let Join::Tcp { isn } = self.symptom.join else { return Vec::new() };
        let found = self.world.evidence.departures.find(Key::Isn(isn));
        in_order(found.filter(|e| isn != 0 && self.is_timely(e.ts)))
    }

    /// The same since all of it was looked at: of a SYN that went by while the hooks were being attached
    /// only some of its way was seen.
    pub fn followed(&self) -> Vec<&'a Seen<Departure>> {
        let armed = self.armed(Set::Departure).into_iter();
        let mut begun = armed.filter(|step| matches!(step.event.step, Step::Armed { .. }));
        let Some(since) = begun.next().map(|step| step.ts) else { return Vec::new() };
        self.departures().into_iter().filter(|e| e.ts >= since).collect()
    }

    fn way(&self, e: &CtEntry) -> Direction {
        let to_client = if e.tuple.proto == IPPROTO_TCP {
            e.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN | TCP_ACK
        } else {
            Flow::of(&e.tuple).src != self.symptom.flow.src
        };
        if to_client { Direction::ToClient } else { Direction::ToServer }
    }

    /// Whether an answer met no socket in the client's own namespace.
    pub fn met_no_client(&self, drop: &SeenDrop) -> bool {
        let netns = drop.event.header.netns;
        is_without_socket(self.world, &drop.event)
            && (self.symptom.netns == 0 || netns == self.symptom.netns)
    }

    /// Whether what a packet carried does not contradict this stall: 0 is "not known".
    fn is_ident_of_this(&self, ident: u32) -> bool {
        ident == 0
            || match self.symptom.join {
                Join::Tcp { isn } => isn == 0 || isn == ident,
                Join::Dns { id, .. } => u32::from(id) == ident,
                Join::Flow => true,
            }
    }

    /// Dropped packets of this flow, in order of time.
    pub fn drops(&self) -> Vec<(&'a SeenDrop, Direction)> {
        let drops = &self.world.evidence.drops;
        let found: Vec<&SeenDrop> = match self.symptom.join {
            Join::Tcp { isn } if isn != 0 => {
                drops.find(Key::Isn(isn)).filter(|d| d.event.tuple.proto == IPPROTO_TCP).collect()
            }
            Join::Dns { id, hash } => {
                drops.find(Key::DnsId(id)).filter(|d| self.is_dns_of_this(d, hash)).collect()
            }
            _ => {
                let flow = self.symptom.flow;
                let there = drops.find(Key::Flow(flow));
                there.chain(drops.find(Key::Flow(flow.reversed()))).collect()
            }
        };
        let found = found.into_iter().filter(|d| self.is_timely(d.ts));
        in_order(found).into_iter().map(|d| (d, self.direction(d))).collect()
    }

    fn is_dns_of_this(&self, drop: &SeenDrop, hash: u64) -> bool {
        let tuple = &drop.event.tuple;
        let same_family = (tuple.family == probe_common::net::FAMILY_V6)
            == self.symptom.flow.dst.ip().to_canonical().is_ipv6();
        if tuple.proto != IPPROTO_UDP || !same_family {
            return false;
        }
        let (flow, client) = (Flow::of(tuple), self.symptom.flow.src);
        if let Some(message) = drop.dns
            && let Some(question) = message.question
        {
            let end = if message.answer { flow.dst } else { flow.src };
            let ct = &drop.event.ct;
            let was_translated = ct.present != 0 && Flow::of(&ct.orig).src == client;
            return question.hash == hash
                && (was_translated || self.may_be_client(end, drop.ts))
                && self.is_reached(flow, drop.event.header.netns);
        }
        // The name was cut off or could not be read: the client's end must be the same.
        flow.src == client || flow.dst == client
    }

    /// Whether this may be the client's end as seen elsewhere. Resolvers ask the next server with
    /// the same id from another socket, and busy names are asked with equal ids by several pods:
    /// only an address that SNAT may have put there says nothing.
    fn may_be_client(&self, end: SocketAddr, ts: u64) -> bool {
        let own = self.symptom.flow.src;
        if end.ip() == own.ip() {
            return end.port() == own.port();
        }
        let (pods, host) = (&self.world.pods, self.world.node.netns);
        match pods.owner(end.ip(), ts) {
            Some(pod) if pod.netns != host => {
                // The client's other address; or what is known of the client is behind SNAT.
                pod.netns == self.symptom.netns
                    || (self.symptom.side == Side::Packet
                        && pods.owner(own.ip(), ts).is_none_or(|pod| pod.netns == host))
            }
            _ => true,
        }
    }

    /// Loopback reaches the client's own namespace only.
    fn is_reached(&self, flow: Flow, netns: u32) -> bool {
        let is_loopback = flow.src.ip().is_loopback() || flow.dst.ip().is_loopback();
        !is_loopback || self.symptom.netns == 0 || netns == self.symptom.netns
    }

    fn direction(&self, drop: &SeenDrop) -> Direction {
        let to_client = match drop.dns {
            Some(message) => message.answer,
            None if drop.event.tuple.proto == IPPROTO_TCP => {
                drop.event.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN | TCP_ACK
            }
            None => Flow::of(&drop.event.tuple).src.port() == self.symptom.flow.dst.port(),
        };
        if to_client { Direction::ToClient } else { Direction::ToServer }
    }

    /// The drop of the very packet whose entry clashed.
    pub fn drop_of(&self, clash: &Seen<Clash>) -> Option<&'a SeenDrop> {
        let found = self.world.evidence.drops.find(Key::Skb(clash.event.skb));
        found.filter(|d| clash.ts <= d.ts && d.ts - clash.ts <= SAME_SKB).min_by_key(|d| d.ts)
    }

    /// Answers to this query from addresses that were not asked.
    pub fn strays(&self) -> Vec<&'a Seen<Dns>> {
        let found = self.same_question(&self.world.evidence.strays);
        in_order(found.filter(|s| s.event.header.netns == self.symptom.netns))
    }

    /// This query as servers saw it: answered late, or not yet.
    pub fn servers(&self) -> Vec<&'a Seen<Dns>> {
        in_order(self.served().filter(|s| {
            // A pending query that was answered later is told by its answer.
            s.event.header.kind == kind::DNS_SERVER_ANSWER
                || !self.served().any(|other| {
                    other.event.header.kind == kind::DNS_SERVER_ANSWER
                        && other.event.sk == s.event.sk
                        && other.event.header.netns == s.event.header.netns
                })
        }))
    }

    fn served(&self) -> impl Iterator<Item = &'a Seen<Dns>> + use<'a> {
        let case = *self;
        self.same_question(&self.world.evidence.servers).filter(move |s| {
            let flow = Flow::of(&s.event.tuple);
            case.may_be_client(flow.src, s.ts) && case.is_reached(flow, s.event.header.netns)
        })
    }

    fn same_question(
        &self,
        events: &'a Recent<Seen<Dns>>,
    ) -> impl Iterator<Item = &'a Seen<Dns>> + use<'a> {
        let case = *self;
        let key = match self.symptom.join {
            Join::Dns { id, hash } => Some((id, hash)),
            _ => None,
        };
        key.into_iter().flat_map(move |(id, hash)| {
            events
                .find(Key::DnsId(id))
                .filter(move |e| e.event.question.hash == hash && case.is_timely(e.ts))
        })
    }
}

trait Timed {
    fn ts(&self) -> u64;
}

impl<T> Timed for Seen<T> {
    fn ts(&self) -> u64 {
        self.ts
    }
}

impl Timed for SeenDrop {
    fn ts(&self) -> u64 {
        self.ts
    }
}

fn in_order<'a, T: Timed>(found: impl Iterator<Item = &'a T>) -> Vec<&'a T> {
    let mut found: Vec<&T> = found.collect();
    found.sort_by_key(|event| event.ts());
    found
}
