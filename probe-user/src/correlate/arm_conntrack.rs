//! When conntrack's own view of a stalled flow is asked for: the set `conntrack-entry`.

use super::{
    Correlator, Watch,
    join::{Case, Direction},
    symptom::{Join, Side},
};
use crate::{
    event::armed::{Request, Set},
    finding::{Cause, Flow},
};

/// One look at a client and its server is enough for all questions that stall within this time.
const ONCE_IN: u64 = 15_000_000_000;

impl Correlator {
    /// Asks for the next packets of a stall that has no certain cause, where conntrack may play a
    /// part in it.
    pub(super) fn arm_for_stall(&mut self, id: u64, now: u64) {
        if self.watch(Cause::ConntrackStaleNat) != Watch::Watched {
            return;
        }
        let Some(case) = self.case_of(id, false) else { return };
        if case.symptom.side == Side::Packet || case.symptom.ended.is_some() {
            return;
        }
        let port = case.symptom.flow.src.port();
        let Some((flow, ident, why)) = wish(&case, now) else { return };
        let port = if flow.src.port() == 0 { port } else { 0 };
        self.wishes.ask(Request { set: Set::ConntrackEntry, flow, port, isn: 0, why }, ident);
    }
}

/// The flow, what tells two wishes for it apart, and why.
fn wish(case: &Case<'_>, now: u64) -> Option<(Flow, u32, &'static str)> {
    let flow = case.symptom.flow;
    let lost_answer = case.drops().iter().any(|(_, way)| *way == Direction::ToClient);
    match case.symptom.join {
        Join::Tcp { isn } => {
            lost_answer.then_some((flow, isn, "the answer to its SYN was dropped"))
        }
        Join::Dns { .. } => {
            let ip = flow.dst.ip();
            // The address of a pod is no service, and is not translated.
            let host = case.world.node.netns;
            let owner = case.world.pods.owner(ip, now);
            if ip.is_loopback() || owner.is_some_and(|pod| pod.netns != host) {
                return None;
            }
            let reached = !case.servers().is_empty();
            if reached && !lost_answer && case.strays().is_empty() {
                return None;
            }
            // Some resolvers ask again by another socket.
            let mut any_port = flow;
            any_port.src.set_port(0);
            let ident = u32::try_from(case.symptom.opened / ONCE_IN).unwrap_or(u32::MAX);
            Some((any_port, ident, "its query is not answered"))
        }
        Join::Flow => None,
    }
}
