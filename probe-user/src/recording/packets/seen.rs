//! A packet as the kernel side told of it, and which stalls it belongs to.

use probe_common::{
    event::{DROP_INSERT_FAILED, DROP_TABLE_FULL, Drop, Header, Packet, kind},
    net::{Conntrack, IPPROTO_TCP, IPPROTO_UDP, Tuple},
};

use crate::{
    correlate::{
        Correlator, Join, Told,
        dns::{self, Message},
    },
    event::{Body, Event},
    finding::Flow,
    output::event::kind_name,
};

/// Flag of a TCP packet that opens a connection or answers such a one.
const TCP_SYN: u32 = 0x02;
/// The least an IP header has.
const SHORTEST: usize = 20;

/// A packet that was dropped or belongs to a stall.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Boot-time nanoseconds.
    pub at: u64,
    pub netns: u32,
    pub cookie: u64,
    /// Address of its `struct sk_buff`.
    pub skb: u64,
    /// By its IP header.
    pub length: u32,
    /// From the IP header on, as far as captured.
    pub bytes: Vec<u8>,
    /// What the kernel said of it.
    pub words: String,
    /// As it was, and as its conntrack entry has it on both sides of NAT.
    flows: Vec<Flow>,
    /// The client's initial sequence number, where the packet tells it.
    isn: Option<u32>,
    message: Option<Message>,
}

impl Seen {
    /// The packet that an event carries; `None` when it carries none, or no readable one.
    pub fn of(event: &Event, names: &Correlator) -> Option<Self> {
        match &event.body {
            Body::Drop(e) => Self::dropped(event.ts, e, names),
            Body::Packet(e) => Self::beside(e),
            _ => None,
        }
    }

    fn dropped(ts: u64, e: &Drop, names: &Correlator) -> Option<Self> {
        let reason = names.reason(e).map(|reason| format!(" ({reason})")).unwrap_or_default();
        let why = match e.flags {
            f if f & DROP_TABLE_FULL != 0 => ", conntrack's table was full",
            f if f & DROP_INSERT_FAILED != 0 => ", its conntrack entry could not be inserted",
            _ => "",
        };
        let words = format!("dropped at {}{reason}{why}", names.symbol(e.location));
        let bytes = filled(&e.packet, e.captured);
        let length = e.packet_len;
        let isn = (e.tcp_flags & TCP_SYN != 0).then_some(e.ident);
        let seen = Self::new(ts, &e.header, (&e.tuple, &e.ct), (bytes, length), words)?;
        Some(Self { skb: e.skb, isn: seen.is_tcp().then_some(isn).flatten(), ..seen })
    }

    fn beside(e: &Packet) -> Option<Self> {
        let with = u16::try_from(e.with).unwrap_or(u16::MAX);
        let words = match with {
            kind::LISTEN_DROP => "a listener refused it".to_owned(),
            kind::CLASH => "its conntrack entry clashed with another one".to_owned(),
            kind::DNS_RETRY => "a question asked again".to_owned(),
            kind::DNS_ANSWER => "an answer that came late, or after a retry".to_owned(),
            kind::DNS_READ => "an answer that was read late".to_owned(),
            kind::DNS_WRONG_SOURCE => "an answer from an address that was not asked".to_owned(),
            kind::IPVS_HIJACK => "IPVS took this SYN-ACK for a new connection".to_owned(),
            kind::IPVS_NO_SERVER => "IPVS had no server for it".to_owned(),
            kind::IPVS_STALE => "IPVS sent it to a server that takes no new connections".to_owned(),
            kind::CT_ENTRY => "as conntrack got it".to_owned(),
            kind::DEPARTURE => "as a device sent or received it".to_owned(),
            kind::REJECT => "a netfilter rule rejected it".to_owned(),
            other => format!("seen beside {}", kind_name(other)),
        };
        let bytes = filled(&e.bytes, e.captured);
        let tells_isn = with == kind::LISTEN_DROP || e.tcp_flags & TCP_SYN != 0;
        let seen = Self::new(e.at, &e.header, (&e.tuple, &e.ct), (bytes, e.packet_len), words)?;
        let isn = (seen.is_tcp() && tells_isn).then_some(e.ident);
        Some(Self { skb: e.skb, isn, ..seen })
    }

    fn new(
        at: u64,
        header: &Header,
        (tuple, ct): (&Tuple, &Conntrack),
        (bytes, length): (&[u8], u32),
        words: String,
    ) -> Option<Self> {
        if bytes.len() < SHORTEST || !matches!(bytes.first().map(|b| b >> 4), Some(4 | 6)) {
            return None;
        }
        let mut flows = vec![Flow::of(tuple)];
        if ct.present != 0 {
            flows.extend([Flow::of(&ct.orig), Flow::of(&ct.reply)]);
        }
        let message = if tuple.proto == IPPROTO_UDP { dns::of_packet(bytes) } else { None };
        Some(Self {
            at,
            netns: header.netns,
            cookie: header.cookie,
            skb: 0,
            length: length.max(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
            bytes: bytes.to_vec(),
            words,
            flows,
            isn: None,
            message,
        })
    }

    fn is_tcp(&self) -> bool {
        self.flows.first().is_some_and(|flow| flow.proto == IPPROTO_TCP)
    }

    /// Whether it is a packet of this stall, either way and on any side of NAT. In doubt it is not.
    pub fn is_of(&self, told: &Told) -> bool {
        if self.at < told.first {
            return false;
        }
        let is_it = |f: &Flow| *f == told.flow || f.reversed() == told.flow;
        let same_flow = self.flows.iter().any(is_it);
        match told.join {
            // NAT keeps the number, and two connections rarely share it; 0 is "not known".
            Join::Tcp { isn } if isn != 0 => match self.isn {
                Some(own) => own == isn,
                None => same_flow,
            },
            // The same id and name from another client is another query.
            Join::Dns { id, hash } => self.message.is_some_and(|message| {
                let asks_it = message.question.map_or(same_flow, |q| q.hash == hash);
                message.id == id && asks_it && self.has_end(told)
            }),
            Join::Tcp { .. } | Join::Flow => same_flow,
        }
    }

    /// Whether one of its ends is the client's.
    fn has_end(&self, told: &Told) -> bool {
        let client = told.flow.src;
        self.flows
            .iter()
            .any(|f| f.proto == told.flow.proto && (f.src == client || f.dst == client))
    }

    /// Whether it is the same packet at the same place, as another event has it.
    pub fn is_again(&self, other: &Self) -> bool {
        /// The kernel uses a packet's memory again for others.
        const SAME_SKB: u64 = 10_000_000;
        let kept = self.bytes.len().min(other.bytes.len());
        self.skb == other.skb
            && self.netns == other.netns
            && self.length == other.length
            && self.at.abs_diff(other.at) <= SAME_SKB
            && self.bytes[..kept] == other.bytes[..kept]
    }

    /// Adds what another event says of the same packet.
    pub fn join(&mut self, other: Self) {
        self.words = format!("{}; {}", self.words, other.words);
        self.isn = self.isn.or(other.isn);
        if other.bytes.len() > self.bytes.len() {
            self.bytes = other.bytes;
            self.message = other.message;
        }
        for flow in other.flows {
            if !self.flows.contains(&flow) {
                self.flows.push(flow);
            }
        }
    }
}

fn filled(bytes: &[u8], captured: u32) -> &[u8] {
    bytes.get(..usize::try_from(captured).unwrap_or(usize::MAX)).unwrap_or(bytes)
}
