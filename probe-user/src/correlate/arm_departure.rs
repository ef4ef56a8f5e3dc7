//! When it is asked where the packets of a stalled connect leave this node: the set `departure`.

use probe_common::event::kind;

use super::{
    Correlator, Watch,
    join::Case,
    symptom::{Join, Side},
};
use crate::{
    event::armed::{Request, Set},
    finding::{Cause, SymptomKind},
};

impl Correlator {
    /// Asks for the next SYN of a connect that nothing seen so far explains.
    pub(super) fn arm_for_departure(&mut self, id: u64, now: u64) {
        if self.watch(Cause::LeftTheNode) != Watch::Watched {
            return;
        }
        let Some(case) = self.case_of(id, false) else { return };
        let symptom = case.symptom;
        let Join::Tcp { isn } = symptom.join else { return };
        let waits = symptom.kind == SymptomKind::ConnectStall
            && symptom.side == Side::Client
            && symptom.ended.is_none()
            && symptom.retries > 0;
        let (flow, host) = (symptom.flow, case.world.node.netns);
        // A pod of this node is reached without leaving it.
        let owner = case.world.pods.owner(flow.dst.ip(), now);
        let stays = flow.dst.ip().is_loopback() || owner.is_some_and(|pod| pod.netns != host);
        if isn == 0 || !waits || stays || is_known_here(&case) {
            return;
        }
        let why = "its SYN was sent again, and nothing seen here explains it";
        self.wishes.ask(Request { set: Set::Departure, flow, port: 0, isn, why }, isn);
    }
}

/// Whether something was seen on this node that its packets met here.
pub fn is_known_here(case: &Case<'_>) -> bool {
    let ipvs = [kind::IPVS_HIJACK, kind::IPVS_NO_SERVER, kind::IPVS_STALE, kind::IPVS_VERDICT];
    !case.drops().is_empty()
        || !case.rejects().is_empty()
        || !case.listens().is_empty()
        || !case.synacks().is_empty()
        || !case.clashes().is_empty()
        || ipvs.iter().any(|kind| !case.ipvs(*kind).is_empty())
}
