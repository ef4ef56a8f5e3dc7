//! One file for each cause: `judge` looks at a stall and at all that is known and names the cause,
//! or does not. A rule says `certain` only with the evidence the catalogue asks for.

pub mod accept_queue_overflow;
pub mod client_ports_exhausted;
mod conntrack_dnat_clash;
mod conntrack_insert_failed;
mod conntrack_invalid;
mod conntrack_snat_clash;
mod conntrack_stale_nat;
pub mod conntrack_table_full;
pub mod ipvs_nodeport_collision;
pub mod ipvs_stale_connection;
pub mod left_the_node;
pub mod no_listener;
mod reply_not_translated;
mod server_slow;
mod service_no_backend;
pub mod slow_probe;
mod snat_ports_exhausted;
pub mod syn_queue_overflow;
mod winner_age;

use super::join::Case;
use crate::finding::{Cause, Confidence, Details, Evidence, Fix, Party};

/// What a rule concludes.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub cause: Cause,
    pub confidence: Confidence,
    /// The cause in plain words, one sentence.
    pub title: String,
    pub evidence: Vec<Evidence>,
    pub culprit: Option<Party>,
    /// What makes two culprits the same when stalls are folded into one finding.
    pub fold: String,
    pub details: Details,
    pub fix: Vec<Fix>,
    pub confirm: Vec<String>,
}

/// A rule: pure, and quick, for it runs on every open stall whenever there is new evidence.
pub type Rule = fn(&Case<'_>) -> Option<Verdict>;

/// In the order of the catalogue.
pub const RULES: &[(Cause, Rule)] = &[
    (Cause::ConntrackDnatClash, conntrack_dnat_clash::judge),
    (Cause::ConntrackSnatClash, conntrack_snat_clash::judge),
    (Cause::SnatPortsExhausted, snat_ports_exhausted::judge),
    (Cause::ConntrackTableFull, conntrack_table_full::judge),
    (Cause::ConntrackInsertFailed, conntrack_insert_failed::judge),
    (Cause::ConntrackStaleNat, conntrack_stale_nat::judge),
    (Cause::ConntrackInvalid, conntrack_invalid::judge),
    (Cause::ReplyNotTranslated, reply_not_translated::judge),
    (Cause::ClientPortsExhausted, client_ports_exhausted::judge),
    (Cause::AcceptQueueOverflow, accept_queue_overflow::judge),
    (Cause::SynQueueOverflow, syn_queue_overflow::judge),
    (Cause::IpvsStaleConnection, ipvs_stale_connection::judge),
    (Cause::IpvsNodeportCollision, ipvs_nodeport_collision::judge),
    (Cause::ServiceNoBackend, service_no_backend::judge),
    (Cause::NoListener, no_listener::judge),
    (Cause::ServerSlow, server_slow::judge),
    (Cause::LeftTheNode, left_the_node::judge),
];

/// The verdict with the highest confidence; of equals the first in the order of the catalogue.
pub fn best(case: &Case<'_>) -> Option<Verdict> {
    RULES.iter().filter_map(|(_, judge)| judge(case)).fold(None, |best: Option<Verdict>, next| {
        match best {
            Some(best) if best.confidence >= next.confidence => Some(best),
            _ => Some(next),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_in_the_order_of_the_catalogue() {
        assert!(RULES.is_sorted_by_key(|(cause, _)| *cause));
    }
}
