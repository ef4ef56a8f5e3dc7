//! What correlation would like to see more closely: requests for armed hooks. They change nothing
//! in what is correlated, and a replay leaves them where they are.

use std::collections::{HashSet, VecDeque};

use probe_common::{
    event::{Connect, DROP_IN_NF_HOOK_SLOW, DROP_TABLE_FULL, Drop, kind},
    net::IPPROTO_TCP,
};

use super::{
    Correlator,
    evidence::Key as EvidenceKey,
    join::{TCP_ACK, TCP_SYN},
    world::World,
};
use crate::{
    event::{
        HookState,
        armed::{Request, Set},
    },
    finding::Flow,
};

/// Requests kept until they are taken, and remembered so that each is made once.
const WAITING: usize = 16;
const REMEMBERED: usize = 1024;

/// One symptom's wish: set, flow, and what tells two connects of the same flow apart (the initial
/// sequence number, the DNS id).
type Key = (Set, Flow, u32);

#[derive(Debug, Default)]
pub struct Wishes {
    waiting: VecDeque<Request>,
    made: HashSet<Key>,
    order: VecDeque<Key>,
}

impl Wishes {
    /// Asks for a set, once for each symptom. What nobody takes makes way for what is newer.
    pub fn ask(&mut self, request: Request, ident: u32) {
        let key = (request.set, request.flow, ident);
        if !self.made.insert(key) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.made.remove(&oldest);
        }
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(request);
    }

    pub fn take(&mut self) -> Vec<Request> {
        self.waiting.drain(..).collect()
    }
}

impl Correlator {
    /// A SYN was dropped by a netfilter hook, and IPVS has one: the next SYN shows whether it was
    /// IPVS. Of clients elsewhere a second SYN is waited for: a port scan sends one to each port.
    pub(super) fn arm_on_drop(&mut self, ts: u64, e: &Drop) {
        let is_syn = e.tuple.proto == IPPROTO_TCP && e.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
        if !is_syn || !by_a_hook(&self.world, e) || !watches(&self.world, "ipvs") {
            return;
        }
        let flow = at_first(e);
        let drops = || self.world.evidence.drops.find(EvidenceKey::Isn(e.ident));
        let is_again = || drops().filter(|d| d.event.tuple.proto == IPPROTO_TCP).count() > 1;
        if self.world.pods.owner(flow.src.ip(), ts).is_some() || is_again() {
            let why = "its SYN was dropped by a netfilter hook";
            self.wishes.ask(Request { set: Set::IpvsVerdict, flow, port: 0, isn: 0, why }, e.ident);
        }
    }

    /// Where drops cannot be seen, a SYN that is sent again is all there is.
    pub(super) fn arm_on_connect(&mut self, ts: u64, e: &Connect) {
        let is_again = e.header.kind == kind::SYN_RETRANSMIT;
        if !is_again || !watches(&self.world, "ipvs") || watches(&self.world, "skb_drop") {
            return;
        }
        let flow = Flow::of(&e.tuple);
        let host = self.world.node.netns;
        // A pod's own address is no service.
        if self.world.pods.owner(flow.dst.ip(), ts).is_none_or(|pod| pod.netns == host) {
            let why = "its SYN was sent again, and drops cannot be seen here";
            self.wishes.ask(Request { set: Set::IpvsVerdict, flow, port: 0, isn: 0, why }, e.isn);
        }
    }
}

/// Whether a hook of this family is attached.
fn watches(world: &World, family: &str) -> bool {
    let is_watched = |state: &HookState| matches!(state, HookState::Watched { .. });
    world.hooks.iter().flatten().any(|hook| hook.family == family && is_watched(&hook.state))
}

/// Whether a netfilter hook's own verdict dropped the packet, and not a full table.
pub fn by_a_hook(world: &World, e: &Drop) -> bool {
    let is_there =
        e.flags & DROP_IN_NF_HOOK_SLOW != 0 || world.function(e.location) == Some("nf_hook_slow");
    is_there && e.flags & DROP_TABLE_FULL == 0
}

/// `IP_CT_ESTABLISHED_REPLY`, the first that is of a reply (uapi/linux/netfilter/nf_conntrack_common.h).
const REPLY: u8 = 3;

/// A dropped packet's flow as its sender knows it. The packet itself may have the node's address already:
/// the first of a flow that conntrack does not keep is dropped when all NAT is done.
pub fn as_sent(e: &Drop) -> Flow {
    let is_first_way = e.ct.present != 0 && e.ct.info < REPLY;
    Flow::of(if is_first_way { &e.ct.orig } else { &e.tuple })
}

/// A dropped packet's flow before NAT on this node, where conntrack tells it.
pub fn at_first(e: &Drop) -> Flow {
    let tuple = if e.ct.present != 0 { &e.ct.orig } else { &e.tuple };
    Flow::of(tuple)
}
