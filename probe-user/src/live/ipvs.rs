//! What is read of IPVS's tables and of local ports, at the moment something calls for it.

use std::{collections::HashMap, net::SocketAddr};

use probe_common::{
    event::{DROP_HAS_REASON, DROP_IN_NF_HOOK_SLOW, DROP_TABLE_FULL, Drop, Ipvs as Decision, kind},
    net::IPPROTO_TCP,
};

use super::Live;
use crate::{
    event::{Body, Event},
    finding::Flow,
    snapshot,
};

/// The least time between two looks into the table of connections.
const PATIENCE: u64 = 1_000_000_000;
/// SYNs looked up at once, and namespaces whose ports are remembered.
const MOST: usize = 256;
/// How long a namespace's ports are not read again.
const PORTS_LAST: u64 = 60_000_000_000;

const TCP_SYN: u32 = 0x02;
const TCP_ACK: u32 = 0x10;

/// What is to be read.
#[derive(Debug, Default)]
pub struct Ipvs {
    dropped: Vec<(u32, SocketAddr, SocketAddr)>,
    looked: u64,
    /// Namespaces with a collision, and when their ports were read.
    ports: HashMap<u32, u64>,
}

impl Ipvs {
    /// IPVS drops the SYN of an old connection whose server is gone without a word: netfilter's
    /// own place is all that shows.
    pub fn dropped(&mut self, drop: &Drop) {
        let is_syn =
            drop.tuple.proto == IPPROTO_TCP && drop.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
        let by_hook = drop.flags & DROP_IN_NF_HOOK_SLOW != 0 || drop.flags & DROP_HAS_REASON == 0;
        if !is_syn || !by_hook || drop.flags & DROP_TABLE_FULL != 0 || self.dropped.len() >= MOST {
            return;
        }
        let flow = Flow::of(&drop.tuple);
        let one = (drop.header.netns, flow.src, flow.dst);
        if !self.dropped.contains(&one) {
            self.dropped.push(one);
        }
    }

    /// A connect that stalls or failed, where no hook tells what IPVS did with it: its entry is
    /// looked up in the node's own table.
    pub fn stalled(&mut self, netns: u32, client: SocketAddr, service: SocketAddr) {
        let one = (netns, client, service);
        if self.dropped.len() < MOST && !self.dropped.contains(&one) {
            self.dropped.push(one);
        }
    }

    /// A collision: the ports of that namespace are wanted.
    pub fn decided(&mut self, decision: &Decision) {
        if decision.header.kind == kind::IPVS_HIJACK && self.ports.len() < MOST {
            self.ports.entry(decision.header.netns).or_default();
        }
    }
}

impl Live {
    pub(super) fn look_into_ipvs(&mut self, now: u64, events: &mut Vec<Event>) {
        for (netns, read) in &mut self.ipvs.ports {
            if *read == 0
                && let Some(target) = self.pods.target(*netns)
            {
                *read = now;
                let ports = snapshot::local_ports::read(&self.root, &target);
                events.extend(ports.map(|p| Event { ts: now, body: Body::LocalPorts(p) }));
            }
        }
        self.ipvs.ports.retain(|_, read| now.saturating_sub(*read) < PORTS_LAST || *read == 0);
        if self.ipvs.dropped.is_empty() || now.saturating_sub(self.ipvs.looked) < PATIENCE {
            return;
        }
        self.ipvs.looked = now;
        let dropped = std::mem::take(&mut self.ipvs.dropped);
        if !self.modules.state("ip_vs").is_present() {
            return;
        }
        let mut by_netns: HashMap<u32, Vec<(SocketAddr, SocketAddr)>> = HashMap::new();
        for (netns, client, service) in dropped {
            by_netns.entry(netns).or_default().push((client, service));
        }
        for (netns, flows) in by_netns {
            let Some(target) = self.pods.target(netns) else { continue };
            let found = snapshot::ipvs::entries(&self.root, &target, &flows);
            self.poller.not_read += u64::from(found.cut);
            events.extend(
                found.entries.into_iter().map(|e| Event { ts: now, body: Body::IpvsEntry(e) }),
            );
        }
    }
}
