//! Which events open, continue and close a stall.

use std::{collections::HashMap, net::SocketAddr};

use probe_common::{
    event::{
        Clash, Connect, DROP_INSERT_FAILED, DROP_TABLE_FULL, Dns, Drop, Listen,
        OUTCOME_ESTABLISHED, OUTCOME_FAILED, OUTCOME_TRYING, Probe, STAGE_ACK, SynAck,
        VERDICT_ACCEPT, kind,
    },
    net::IPPROTO_TCP,
};

use super::{
    Correlator, arm, dns,
    join::{Case, Direction, TCP_ACK, TCP_SYN},
    probe,
    rules::{self, client_ports_exhausted::EADDRNOTAVAIL},
    stalls::{Key, Stall, State},
    symptom::{At, Join, Symptom, Worth},
};
use crate::{
    event::{Outcome, SynSent},
    finding::{Confidence, Flow, SymptomKind},
};

const ECONNREFUSED: u32 = 111;

/// How long a connect must have waited to be looked at when the program itself gives it up, in
/// nanoseconds: a little less than the least stall, for a program that waits for just as long looks at
/// its clock before it connects. The kubelet's probes do, with their one second. Below the least stall
/// such a connect is told only if it is a probe, or its cause is known.
pub const fn given_up_after(min_stall: u64) -> u64 {
    min_stall - min_stall / 8
}

/// A client on this node sends its SYN again after one second: it is then seen at its own socket.
const ELSEWHERE: u64 = 1_200_000_000;
/// The same for a client that is known to be here, whose retransmit may be reported late.
const HERE: u64 = 2_500_000_000;
/// Nothing will be seen of such a packet at the client.
const AT_ONCE: u64 = 300_000_000;
/// The sweep that finds unanswered queries comes some time after the least stall.
const SWEEP: u64 = 1_500_000_000;

/// Sockets closed lately with a query unanswered.
#[derive(Debug, Default)]
pub struct Closes {
    at: HashMap<(u32, u64), u64>,
}

impl Closes {
    /// The loader collects the queries of a closed socket at once.
    const KEEP: u64 = 5_000_000_000;
    const CAPACITY: usize = 4096;

    fn note(&mut self, netns: u32, sk: u64, ts: u64) {
        if self.at.len() < Self::CAPACITY || self.at.contains_key(&(netns, sk)) {
            self.at.insert((netns, sk), ts);
        }
    }

    pub fn forget(&mut self, now: u64) {
        self.at.retain(|_, ts| ts.saturating_add(Self::KEEP) >= now);
    }
}

impl Correlator {
    pub(super) fn on_dns(&mut self, ts: u64, e: &Dns) {
        match e.header.kind {
            kind::DNS_CLOSE => self.on_close(ts, e),
            kind::DNS_RETRY => {
                let Some(stall) = self.dns_stall(ts, e) else { return };
                let s = &mut stall.symptom;
                s.gave_up.get_or_insert(ts);
                s.retries = s.retries.max(u32::from(e.attempts).saturating_sub(1));
                let text = format!("asked again{}", s.after(ts));
                s.note(ts, "query-retry", text);
            }
            kind::DNS_ANSWER => {
                let answered = if e.answered == 0 { ts } else { e.answered };
                let late = answered.saturating_sub(e.first) >= self.min_stall();
                if !late && e.attempts <= 1 && self.stalls.id(dns_key(e)).is_none() {
                    return;
                }
                let Some(stall) = self.dns_stall(ts, e) else { return };
                let s = &mut stall.symptom;
                s.answered = Some(answered);
                s.ended = Some(answered);
                let text = format!("an answer arrived{}", s.after(answered));
                s.note(answered, "answer", text);
            }
            kind::DNS_UNANSWERED => self.on_unanswered(ts, e),
            _ => {}
        }
    }

    fn on_unanswered(&mut self, ts: u64, e: &Dns) {
        let closed = self.closes.at.get(&(e.header.netns, e.sk)).copied();
        let closed = closed.filter(|closed| *closed >= e.last);
        let waited = closed.unwrap_or(ts).saturating_sub(e.first);
        let short = waited < self.min_stall() && e.attempts <= 1;
        let is_new = self.stalls.client(dns_key(e)).is_none();
        // Kernels without drop reasons never make this certain.
        let met_closed_port = is_new && short && {
            let symptom = Symptom::dns(ts, e);
            let case = self.case_for(&symptom);
            !case.rejects().is_empty()
                || case.drops().into_iter().any(|(drop, way)| {
                    way == Direction::ToServer
                        && rules::no_listener::is_without_socket(&self.world, &drop.event)
                })
        };
        let Some(stall) = self.dns_stall(ts, e) else { return };
        let is_refused = stall.is_refused;
        let s = &mut stall.symptom;
        if is_new && short && !is_refused {
            // Closed early: no stall for the user, unless the query was refused.
            s.worth = if met_closed_port { Worth::OnlyNamed } else { Worth::OnlyCertain };
        }
        if let Some(end) = closed.or(short.then_some(ts))
            && s.ended.is_none()
        {
            closed_at(s, end);
        }
    }

    /// The loader sends a close once for each stalled query of the socket, with the query in it;
    /// a recording may hold the bare one too.
    fn on_close(&mut self, ts: u64, e: &Dns) {
        self.closes.note(e.header.netns, e.sk, ts);
        if e.first != 0 {
            self.on_unanswered(ts, e);
        }
        let (netns, sk) = (e.header.netns, e.sk);
        for stall in self.stalls.iter_mut() {
            if stall.is_of_socket(netns, sk) && stall.symptom.ended.is_none() {
                stall.touched = ts;
                closed_at(&mut stall.symptom, ts);
            }
        }
    }

    fn case_for<'a>(&'a self, symptom: &'a Symptom) -> Case<'a> {
        let (world, stalls) = (&self.world, &self.stalls);
        Case { symptom, world, stalls, last_word: false, evicted: false }
    }

    /// The stall of this query, opened if need be.
    fn dns_stall(&mut self, ts: u64, e: &Dns) -> Option<&mut Stall> {
        let key = dns_key(e);
        if let Some(id) = self.stalls.client(key) {
            // The same id and name on the same socket after an answer is a new query.
            let is_over = |s: &Stall| s.symptom.ended.is_some_and(|end| e.first > end);
            if !self.stalls.get(id).is_some_and(is_over) {
                let stall = self.stalls.get_mut(id)?;
                stall.touched = ts;
                return Some(stall);
            }
        }
        let symptom = Symptom::dns(ts, e);
        let ident = u32::from(e.question.id);
        let mut keys = vec![key];
        for server in &symptom.servers {
            let dst = SocketAddr::new(*server, symptom.flow.dst.port());
            keys.push(Key::Flow(Flow { dst, ..symptom.flow }, ident));
        }
        let id = self.open_stall(symptom, keys, None)?;
        self.stalls.get_mut(id)
    }

    pub(super) fn on_connect(&mut self, ts: u64, e: &Connect) {
        let flow = Flow::of(&e.tuple);
        let key = match e.err {
            // Nothing was sent: each failure is one of its own.
            EADDRNOTAVAIL => Key::Flow(flow, (ts / 1000) as u32),
            _ => tcp_key(e.isn, flow),
        };
        let known = self.stalls.client(key);
        let waited = if e.started == 0 { 0 } else { ts.saturating_sub(e.started) };
        let min_stall = self.min_stall();
        let slow = waited >= min_stall || e.retransmits > 0;
        let kind = match e.outcome {
            OUTCOME_FAILED if e.err == ECONNREFUSED => SymptomKind::ConnectRefused,
            // Given up in no time by the program itself (the slower of two addresses, say).
            // Unless its SYN is known to have been refused or dropped.
            OUTCOME_FAILED
                if e.err == 0
                    && !slow
                    && waited < given_up_after(min_stall)
                    && self.stalls.id(key).is_none() =>
            {
                return;
            }
            OUTCOME_ESTABLISHED if !slow && known.is_none() => return,
            OUTCOME_TRYING if e.header.kind != kind::SYN_RETRANSMIT => return,
            _ => SymptomKind::ConnectStall,
        };
        let id = match known {
            Some(id) => id,
            None => {
                let mut symptom = Symptom::connect(ts, kind, e);
                if e.outcome == OUTCOME_FAILED && e.err == 0 && !slow {
                    // A little too early to be a stall by itself, unless it is a probe that failed.
                    let is_probe = probe::probed(&symptom, &self.world).is_some();
                    symptom.worth = if is_probe { Worth::Stall } else { Worth::OnlyNamed };
                }
                let Some(id) = self.open_stall(symptom, vec![key], None) else { return };
                id
            }
        };
        let Some(stall) = self.stalls.get_mut(id) else { return };
        stall.touched = ts;
        stall.symptom.connect_again(ts, e);
        if kind == SymptomKind::ConnectRefused && stall.state == State::Open {
            stall.symptom.kind = kind;
        }
    }

    /// A connection that may be a probe ended without an answer, or with a late one. Where it is none
    /// it is nobody's stall: a program may wait for what is sent to it for as long as it likes. Whose it
    /// is may be told later, and counts when it is judged.
    pub(super) fn on_probe(&mut self, ts: u64, e: &Probe) {
        let symptom = Symptom::probe(ts, e);
        let key = tcp_key(e.isn, symptom.flow);
        // A handshake that stalled was told as such.
        if self.stalls.client(key).is_none() && probe::may_be(&symptom, &self.world) {
            self.open_stall(symptom, vec![key], None);
        }
    }

    /// A connect that no hook told of.
    pub(super) fn on_syn_sent(&mut self, ts: u64, e: &SynSent) {
        let flow = Flow { proto: IPPROTO_TCP, src: e.client, dst: e.server };
        let key = polled_key(e, flow);
        // The same ends after it ended are a new connect.
        let known = self
            .stalls
            .client(key)
            .filter(|id| self.stalls.get(*id).is_some_and(|stall| stall.symptom.ended.is_none()));
        let id = match known {
            Some(id) => id,
            None if e.outcome == Outcome::Trying => {
                let symptom = Symptom::polled(ts, e);
                let Some(id) = self.open_stall(symptom, vec![key], None) else { return };
                id
            }
            None => return,
        };
        let Some(stall) = self.stalls.get_mut(id) else { return };
        stall.touched = ts;
        stall.symptom.polled_again(ts, e);
    }

    pub(super) fn on_listen(&mut self, ts: u64, e: &Listen) {
        let flow = Flow::of(&e.tuple);
        let half_open = e.stage == STAGE_ACK;
        // A probe shows at the kubelet's own socket, when it gives up.
        let own = |netns| netns == self.world.node.netns;
        let of_node = self.world.pods.owner(flow.src.ip(), ts).is_some_and(|pod| own(pod.netns));
        self.on_tcp_packet(
            ts,
            At { netns: e.header.netns, iif: 0 },
            e.isn,
            flow,
            half_open.then_some(if of_node { HERE } else { AT_ONCE }),
            Worth::Stall,
        );
        let id = self.stalls.id(tcp_key(e.isn, flow));
        if let Some(stall) = id.and_then(|id| self.stalls.get_mut(id)) {
            stall.symptom.half_open |= half_open;
        }
    }

    /// A SYN-ACK sent again says that the handshake hangs, but scanners that never answer make
    /// them too: a finding only if its cause is named.
    pub(super) fn on_synack(&mut self, ts: u64, e: &SynAck) {
        let at = At { netns: e.header.netns, iif: 0 };
        self.on_tcp_packet(ts, at, e.isn, Flow::of(&e.tuple), None, Worth::OnlyNamed);
    }

    /// A packet of a handshake was refused. `wait`: for how long the client itself may still show.
    fn on_tcp_packet(
        &mut self,
        ts: u64,
        at: At,
        isn: u32,
        flow: Flow,
        wait: Option<u64>,
        worth: Worth,
    ) {
        let key = tcp_key(isn, flow);
        if self.touch(key, ts, worth) {
            return;
        }
        let here = self.world.pods.owner(flow.src.ip(), ts).is_some();
        let wait = wait.unwrap_or(if here { HERE } else { ELSEWHERE });
        let mut symptom = Symptom::packet(ts, SymptomKind::ConnectStall, flow, Join::Tcp { isn });
        symptom.is_at(at);
        symptom.worth = worth;
        self.open_stall(symptom, vec![key], Some(ts.saturating_add(wait)));
    }

    pub(super) fn on_clash(&mut self, ts: u64, e: &Clash) {
        if e.verdict != VERDICT_ACCEPT {
            let flow = Flow::of(&e.loser.orig);
            // The same SYN twice: the first one is on its way.
            let is_twin = flow.proto == IPPROTO_TCP && flow == Flow::of(&e.winner.orig);
            let worth = if is_twin { Worth::OnlyNamed } else { Worth::Stall };
            let at = At { netns: e.header.netns, iif: e.iif };
            self.on_packet(ts, at, flow, e.ident, None, worth);
        }
    }

    pub(super) fn on_drop(&mut self, ts: u64, e: &Drop) {
        // A query that met a closed port stalls nobody yet: the client may have asked another
        // server too. Its own socket tells when it was left without an answer.
        if e.flags & (DROP_TABLE_FULL | DROP_INSERT_FAILED) == 0 {
            return;
        }
        let captured = usize::try_from(e.captured).unwrap_or(usize::MAX);
        let message = dns::of_packet(e.packet.get(..captured).unwrap_or(&e.packet));
        let hash = message.and_then(|m| m.question).map(|q| q.hash);
        let as_sent = arm::as_sent(e);
        // Only the packets of a handshake carry the initial sequence number.
        let (flow, ident) = match e.tcp_flags & (TCP_SYN | TCP_ACK) {
            _ if as_sent.proto != IPPROTO_TCP => (as_sent, e.ident),
            TCP_SYN => (as_sent, e.ident),
            flags if flags & TCP_SYN != 0 => (as_sent.reversed(), e.ident),
            _ => (as_sent, 0),
        };
        let is_answer = flow != as_sent || message.is_some_and(|m| m.answer);
        let iif = if is_answer { 0 } else { e.iif };
        let at = At { netns: e.header.netns, iif };
        self.on_packet(ts, at, flow, ident, hash, Worth::Stall);
    }

    /// The first packet of a flow was dropped.
    fn on_packet(
        &mut self,
        ts: u64,
        at: At,
        flow: Flow,
        ident: u32,
        hash: Option<u64>,
        worth: Worth,
    ) {
        if flow.proto == IPPROTO_TCP {
            self.on_tcp_packet(ts, at, ident, flow, None, worth);
            return;
        }
        let is_dns = self.is_dns_port(flow.dst.port());
        // The payload of what is not DNS joins nothing: such a flow is told once.
        let key = Key::Flow(flow, if is_dns { ident } else { 0 });
        if self.touch(key, ts, worth) {
            return;
        }
        let here = self.world.pods.owner(flow.src.ip(), ts).is_some();
        let (kind, wait) = match is_dns {
            true if here => (SymptomKind::DnsStall, self.min_stall().saturating_add(SWEEP)),
            true => (SymptomKind::DnsStall, ELSEWHERE),
            false => (SymptomKind::ConnectStall, AT_ONCE),
        };
        let join = match (hash, u16::try_from(ident)) {
            (Some(hash), Ok(id)) if is_dns => Join::Dns { id, hash },
            _ => Join::Flow,
        };
        let mut symptom = Symptom::packet(ts, kind, flow, join);
        symptom.is_at(at);
        symptom.worth = worth;
        self.open_stall(symptom, vec![key], Some(ts.saturating_add(wait)));
    }

    /// Whether the stall is known already.
    fn touch(&mut self, key: Key, ts: u64, worth: Worth) -> bool {
        let Some(stall) = self.stalls.id(key).and_then(|id| self.stalls.get_mut(id)) else {
            return false;
        };
        stall.touched = ts;
        if stall.state == State::Open && worth == Worth::Stall {
            stall.symptom.worth = worth;
        }
        true
    }

    fn open_stall(
        &mut self,
        symptom: Symptom,
        keys: Vec<Key>,
        judge_at: Option<u64>,
    ) -> Option<u64> {
        let mut stall = Stall::new(symptom, self.world.evidence.evicted());
        if let Some(judge_at) = judge_at {
            stall.judge_at = judge_at;
        }
        let is_flood_prone = judge_at.is_some();
        let id = self.stalls.add(stall, keys)?;
        if is_flood_prone {
            let verdict = self.case_of(id, false).and_then(|case| rules::best(&case));
            let certain = verdict.filter(|v| v.confidence == Confidence::Certain);
            if let Some(stall) = self.stalls.get_mut(id) {
                stall.at_first = certain.map(Box::new);
            }
        }
        Some(id)
    }
}

fn closed_at(symptom: &mut Symptom, ts: u64) {
    symptom.gave_up.get_or_insert(ts);
    symptom.ended.get_or_insert(ts);
    let text = format!("the socket was closed without an answer{}", symptom.after(ts));
    symptom.note(ts, "given-up", text);
}

fn dns_key(e: &Dns) -> Key {
    let (netns, sk) = (e.header.netns, e.sk);
    Key::Dns { netns, sk, id: e.question.id, hash: e.question.hash }
}

/// An initial sequence number of 0 is "not known".
fn tcp_key(isn: u32, flow: Flow) -> Key {
    if isn == 0 { Key::Flow(flow, 0) } else { Key::Isn(isn) }
}

/// `/proc/net/tcp` shows no sequence number, and another namespace may have the same ends (both
/// loopback, or the same pod addresses on two networks): the namespace tells them apart.
fn polled_key(e: &SynSent, flow: Flow) -> Key {
    Key::Flow(flow, e.netns)
}
