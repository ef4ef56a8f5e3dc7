//! One stall: who waits for what, since when, and what became of it.

use std::net::{IpAddr, SocketAddr};

use probe_common::{
    event::{Connect, Dns, OUTCOME_ESTABLISHED, OUTCOME_TRYING, PROBE_CLOSED, PROBE_LATE, Probe},
    net::IPPROTO_TCP,
};

use super::{dns, polled::Span, rules::client_ports_exhausted::EADDRNOTAVAIL};
use crate::{
    event::{Outcome, SynSent},
    finding::{Evidence, Flow, SymptomKind},
    output::sanitize,
};

/// From where the stall was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// At the client's socket.
    Client,
    /// From the packet that was refused or dropped: the client is not on this node, or it is one
    /// whose socket shows nothing.
    Packet,
}

/// What joins the stall with events of the same packet elsewhere: NAT keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// TCP: the client's initial sequence number, 0 when not known.
    Tcp { isn: u32 },
    /// A DNS query: id, hash of the name.
    Dns { id: u16, hash: u64 },
    /// Any other flow: only its tuple.
    Flow,
}

/// What must be found for the stall to be reported at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// It is one: reported as `unknown` if need be.
    Stall,
    /// Only with a named cause.
    OnlyNamed,
    /// Only when a rule is certain: a query given up early.
    OnlyCertain,
}

/// The question of a DNS query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Printable, with `...` at the end when it was cut.
    pub name: String,
    pub qtype: String,
    /// As sent, in lower case, for comparison across a server that changes the case.
    pub folded: Vec<u8>,
}

/// Bytes of a name that the kernel side fills in (the last one of the field stays free, for the
/// length is bounded by a mask).
const KEPT: usize = probe_common::event::QNAME_BYTES - 1;

impl Question {
    pub fn of(q: &probe_common::event::Question) -> Self {
        let wire = q.name.get(..usize::from(q.name_len).min(KEPT)).unwrap_or(&q.name);
        Self {
            name: sanitize::dns_name(wire),
            qtype: dns::qtype_name(q.qtype),
            folded: wire.to_ascii_lowercase(),
        }
    }
}

/// A SYN is sent again after this time (`TCP_TIMEOUT_INIT`, include/net/tcp.h).
const FIRST_TIMEOUT: u64 = 1_000_000_000;

/// How many lines of its own history a stall keeps.
const NOTES: usize = 8;

/// Where a packet was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub netns: u32,
    /// The device on which it came in, 0 when it was made there or that is not known.
    pub iif: u32,
}

#[derive(Debug)]
pub struct Symptom {
    pub kind: SymptomKind,
    pub side: Side,
    pub worth: Worth,
    pub join: Join,
    /// The client's namespace, 0 when not known.
    pub netns: u32,
    pub cookie: u64,
    pub flow: Flow,
    /// Where its packet was seen first.
    pub at: Option<At>,
    /// DNS: all servers asked.
    pub servers: Vec<IpAddr>,
    pub question: Option<Question>,
    pub pid: u32,
    /// Printable, empty when not known.
    pub comm: String,
    /// When the client began to wait, and whether that is exact.
    pub first: u64,
    pub first_known: bool,
    pub opened: u64,
    /// The client gave up on the attempt that stalled: it asked again, or closed the socket.
    pub gave_up: Option<u64>,
    /// The answer arrived, or the handshake was done, at the client.
    pub answered: Option<u64>,
    /// Nothing more will come.
    pub ended: Option<u64>,
    pub retries: u32,
    /// Spans of time in each of which a SYN was sent again.
    pub sent_again: Vec<Span>,
    /// The server refused the final ACK: the client believes that it is connected.
    pub half_open: bool,
    /// `sk_err` of a connect that failed.
    pub err: u32,
    /// What the kubelet's socket carried, of a probe that was connected.
    pub probe: Option<Box<Probe>>,
    /// Local ports there are, where none was left.
    pub port_range: Option<(u16, u16)>,
    /// What was seen of it at the client, in order.
    pub notes: Vec<Evidence>,
}

impl Symptom {
    /// A stalled lookup from the client's record of it.
    pub fn dns(ts: u64, e: &Dns) -> Self {
        let question = Question::of(&e.question);
        let flow = Flow::of(&e.tuple);
        let asked = usize::from(e.servers).min(e.server.len());
        let mut servers: Vec<IpAddr> = e.server[..asked]
            .iter()
            .map(|s| super::flow::address(s, e.tuple.family))
            .filter(|ip| !ip.is_unspecified())
            .collect();
        if !servers.contains(&flow.dst.ip()) {
            servers.push(flow.dst.ip());
        }
        let first = if e.first == 0 { ts } else { e.first };
        let mut symptom = Self {
            join: Join::Dns { id: e.question.id, hash: e.question.hash },
            netns: e.header.netns,
            cookie: e.header.cookie,
            servers,
            pid: e.pid,
            comm: sanitize::c_string(&e.comm),
            first,
            first_known: e.first != 0,
            ..Self::of(SymptomKind::DnsStall, Side::Client, flow, ts)
        };
        let text = format!(
            "query {:#06x} {} {} sent to {}",
            e.question.id, question.name, question.qtype, flow.dst
        );
        symptom.note(first, "query-sent", text);
        symptom.question = Some(question);
        symptom
    }

    /// A stalled or refused connect from the client's record of it.
    pub fn connect(ts: u64, kind: SymptomKind, e: &Connect) -> Self {
        let flow = Flow::of(&e.tuple);
        let first_known = e.started != 0;
        let first = if first_known { e.started } else { ts };
        let mut symptom = Self {
            join: Join::Tcp { isn: e.isn },
            netns: e.header.netns,
            cookie: e.header.cookie,
            pid: e.pid,
            comm: sanitize::c_string(&e.comm),
            first,
            first_known,
            ..Self::of(kind, Side::Client, flow, ts)
        };
        if e.err == EADDRNOTAVAIL {
            let [low, high] = [e.port_range as u16, (e.port_range >> 16) as u16];
            symptom.port_range = (e.port_range != 0).then_some((low, high));
        } else if first_known {
            symptom.note(first, "syn-sent", format!("SYN sent to {}", flow.dst));
        }
        symptom
    }

    /// A probe that was connected and got no answer, or a late one.
    pub fn probe(ts: u64, e: &Probe) -> Self {
        let flow = Flow::of(&e.tuple);
        let mut symptom = Self {
            join: Join::Tcp { isn: e.isn },
            netns: e.header.netns,
            cookie: e.header.cookie,
            pid: e.pid,
            comm: sanitize::c_string(&e.comm),
            first: e.started,
            first_known: true,
            ended: Some(ts),
            err: e.err,
            retries: e.retransmits,
            probe: Some(Box::new(*e)),
            ..Self::of(SymptomKind::ProbeFailure, Side::Client, flow, ts)
        };
        let text = format!("connected to {}{}", flow.dst, symptom.after(e.connected));
        symptom.note(e.connected, "connected", text);
        let last = ts.saturating_sub(e.silence);
        let carried = format!("{} bytes sent, {} received", e.sent, e.received);
        match e.outcome {
            PROBE_LATE => {
                symptom.answered = Some(last);
                let text = format!("answered{}: {carried}", symptom.after(last));
                symptom.note(last, "answer", text);
            }
            PROBE_CLOSED => {
                let text = format!("closed by the server{}: {carried}", symptom.after(ts));
                symptom.note(ts, "closed-by-server", text);
            }
            _ => {
                symptom.gave_up = Some(ts);
                let silence = match e.received {
                    0 => String::new(),
                    _ => format!(", the last of them {} before", seconds(e.silence)),
                };
                let text =
                    format!("given up by the kubelet{}: {carried}{silence}", symptom.after(ts));
                symptom.note(ts, "given-up", text);
            }
        }
        symptom
    }

    /// A stall seen only from its packet.
    pub fn packet(ts: u64, kind: SymptomKind, flow: Flow, join: Join) -> Self {
        Self { join, ..Self::of(kind, Side::Packet, flow, ts) }
    }

    /// Where the packet was seen: the client's own namespace only where it came by loopback.
    pub fn is_at(&mut self, at: At) {
        if self.flow.src.ip().is_loopback() {
            self.netns = at.netns;
        }
        self.at = Some(at);
    }

    fn of(kind: SymptomKind, side: Side, flow: Flow, ts: u64) -> Self {
        Self {
            kind,
            side,
            worth: Worth::Stall,
            join: Join::Flow,
            netns: 0,
            cookie: 0,
            at: None,
            flow,
            servers: Vec::new(),
            question: None,
            pid: 0,
            comm: String::new(),
            first: ts,
            first_known: false,
            opened: ts,
            gave_up: None,
            answered: None,
            ended: None,
            retries: 0,
            sent_again: Vec::new(),
            half_open: false,
            err: 0,
            probe: None,
            port_range: None,
            notes: Vec::new(),
        }
    }

    /// Takes in another event of the same connect.
    pub fn connect_again(&mut self, ts: u64, e: &Connect) {
        if e.retransmits > self.retries {
            self.retries = e.retransmits;
            self.again((ts, ts));
            let text = format!("SYN sent again{}", self.after(ts));
            self.note(ts, "syn-retransmit", text);
        }
        if e.outcome == OUTCOME_TRYING {
            return;
        }
        self.ended = Some(ts);
        self.err = e.err;
        if e.outcome == OUTCOME_ESTABLISHED {
            self.answered = Some(ts);
            let text = format!("connected{}", self.after(ts));
            self.note(ts, "connected", text);
        } else {
            let text = format!("{}{}", errno(e.err), self.after(ts));
            self.note(ts, "connect-failed", text);
        }
    }

    /// A stalled connect from what `/proc/net/tcp` shows of it.
    pub fn polled(ts: u64, e: &SynSent) -> Self {
        let flow = Flow { proto: IPPROTO_TCP, src: e.client, dst: e.server };
        let before = u64::from(e.retransmits).saturating_mul(FIRST_TIMEOUT);
        Self {
            join: Join::Tcp { isn: 0 },
            netns: e.netns,
            first: ts.saturating_sub(before),
            ..Self::of(SymptomKind::ConnectStall, Side::Client, flow, ts)
        }
    }

    /// Takes in another look at the same connect.
    pub fn polled_again(&mut self, ts: u64, e: &SynSent) {
        if e.retransmits > self.retries {
            self.retries = e.retransmits;
            let since = if e.since == 0 { ts.saturating_sub(FIRST_TIMEOUT) } else { e.since };
            self.again((since, ts));
            let times = if e.retransmits == 1 { "" } else { "s" };
            let text = format!(
                "/proc/net/tcp: SYN_SENT, the SYN was sent again ({} time{times} so far)",
                e.retransmits
            );
            self.note(ts, "syn-retransmit", text);
        }
        match e.outcome {
            Outcome::Trying => return,
            Outcome::Established => {
                self.answered = Some(ts);
                self.note(ts, "connected", "/proc/net/tcp: connected".to_owned());
            }
            Outcome::Gone => {
                let text = "/proc/net/tcp: the socket is gone".to_owned();
                self.note(ts, "connect-failed", text);
            }
        }
        self.ended = Some(ts);
    }

    fn again(&mut self, span: Span) {
        if self.sent_again.len() < NOTES {
            self.sent_again.push(span);
        }
    }

    /// Spans of time in each of which a SYN of this connect was sent and not answered: what rose in
    /// all of them may have cost them.
    pub fn lost_syns(&self) -> Vec<Span> {
        let mut spans = self.sent_again.clone();
        if self.answered.is_some() {
            // The last one got through; the first one did not.
            spans.pop();
            if self.first_known {
                spans.insert(0, (self.first, self.first));
            } else if let Some((from, to)) = self.sent_again.first()
                && spans.is_empty()
            {
                let before = |ts: u64| ts.saturating_sub(FIRST_TIMEOUT);
                spans.push((before(*from), before(*to)));
            }
        }
        spans
    }

    /// ` after 1.0 s`, when the beginning is known.
    pub fn after(&self, ts: u64) -> String {
        if self.first_known {
            format!(" after {}", seconds(ts.saturating_sub(self.first)))
        } else {
            String::new()
        }
    }

    pub fn note(&mut self, ts: u64, kind: &'static str, text: String) {
        if self.notes.len() < NOTES {
            self.notes.push(Evidence { ts, kind, text });
        }
    }

    /// How long the client waited, or has waited so far.
    pub fn waited(&self, now: u64) -> u64 {
        self.ended.unwrap_or(now).saturating_sub(self.first)
    }

    /// The server's end as the client sees it.
    pub fn server(&self) -> SocketAddr {
        self.flow.dst
    }

    /// Earliest and latest time at which its evidence may lie.
    pub fn span(&self) -> std::ops::RangeInclusive<u64> {
        /// Clocks of CPUs differ a little.
        const SLACK: u64 = 50_000_000;
        /// The SYN whose retransmit is the first thing seen of a connect was sent before.
        const UNKNOWN_START: u64 = 5_000_000_000;
        let before = if self.first_known { SLACK } else { UNKNOWN_START };
        self.first.saturating_sub(before)..=u64::MAX
    }
}

/// Nanoseconds as `1.4 s` or `230 ms`.
pub fn seconds(ns: u64) -> String {
    let ms = ns / 1_000_000;
    if ms < 1000 {
        return format!("{ms} ms");
    }
    let tenths = (ms + 50) / 100;
    format!("{}.{} s", tenths / 10, tenths % 10)
}

/// What a failed connect() told the program.
fn errno(err: u32) -> String {
    match err {
        0 => "given up by the program".to_owned(),
        101 => "failed: network is unreachable (ENETUNREACH)".to_owned(),
        104 => "failed: connection reset (ECONNRESET)".to_owned(),
        110 => "failed: timed out (ETIMEDOUT)".to_owned(),
        EADDRNOTAVAIL => "failed: no local port is left (EADDRNOTAVAIL)".to_owned(),
        111 => "refused (ECONNREFUSED)".to_owned(),
        113 => "failed: no route to host (EHOSTUNREACH)".to_owned(),
        other => format!("failed: errno {other}"),
    }
}
