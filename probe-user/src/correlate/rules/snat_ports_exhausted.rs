//! `snat-ports-exhausted`: no source port is left for the masquerade. NAT tries some ports and then
//! hands out one that is taken (`nf_nat_l4proto_unique_tuple`, net/netfilter/nf_nat_core.c); the
//! packet dies when its entry is inserted, against an entry that was there long before. Against a
//! young one it would be a race: `conntrack-snat-clash`.

use probe_common::{
    event::{Clash, VERDICT_DROP},
    net::ips,
};

use super::{
    Verdict,
    winner_age::{self, Age},
};
use crate::{
    correlate::{
        describe::sorted,
        join::{Case, Direction},
        symptom::seconds,
    },
    finding::{Cause, Confidence, Details, Fix, Flow, Party, Place, details::SnatPorts},
};

/// [`Clash::hit_dir`]: the reply tuple was hit, which is where SNAT puts the chosen port.
const REPLY: u32 = 1;

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    let clash = case.clashes().into_iter().find(|c| is_taken_port(&c.event))?;
    let e = &*clash.event;
    let dropped = case.drop_of(clash);
    let confidence = match winner_age::of(e) {
        Age::Old => Confidence::Certain,
        Age::Young | Age::Unclear => Confidence::Likely,
    };
    let world = case.world;
    let (loser, winner) = (Flow::of(&e.loser.orig), Flow::of(&e.winner.orig));
    let reply = Flow::of(&e.loser.reply);
    let (to, server) = (reply.dst, reply.src);
    let mut lines = case.symptom.notes.clone();
    lines.push(case.say_clash(clash));
    lines.extend(dropped.map(|d| case.say_drop(d, Direction::ToServer)));
    let age = match e.winner_started {
        0 => None,
        started => Some(e.header.ts.saturating_sub(started)),
    };
    Some(Verdict {
        cause: Cause::SnatPortsExhausted,
        confidence,
        title: format!(
            "no source port was free to masquerade this as {} towards {server}: port {} {}; the \
             kernel dropped the packet",
            to.ip(),
            to.port(),
            match age {
                Some(ns) => format!("has belonged to {} for {}", winner.src, seconds(ns)),
                None => format!("already belonged to {}", winner.src),
            }
        ),
        evidence: sorted(lines),
        culprit: Some(Party { address: Some(to.ip()), ..Party::default() }),
        // Ports run out for each pair of source address and destination on its own.
        fold: format!("{} {server}", to.ip()),
        details: Details::SnatPorts(SnatPorts {
            loser: format!("{} -> {}", loser.src, loser.dst),
            holder: format!("{} -> {}", winner.src, winner.dst),
            holder_pod: world.party(winner.src.ip(), None, clash.ts).pod,
            snat_to: to.to_string(),
            destination: server.to_string(),
            holder_age_jiffies: winner_age::jiffies(e),
            holder_age_ms: age.map(|ns| ns / 1_000_000),
        }),
        fix: fix(),
        confirm: vec![format!(
            "on the node: `conntrack -S` (insert_failed and drop rise together), `conntrack -L -d \
             {} | wc -l` against the ports of the rule in `iptables-save -t nat | grep -e \
             MASQUERADE -e SNAT`",
            server.ip()
        )],
    })
}

/// NAT changed the source and the tuple it chose was in use by another flow, not just now.
fn is_taken_port(e: &Clash) -> bool {
    e.verdict == VERDICT_DROP
        && e.loser.status & ips::SRC_NAT != 0
        // Two services with the same server clash in the reply direction too, untouched by SNAT.
        && Flow::of(&e.loser.reply).dst != Flow::of(&e.loser.orig).src
        && e.hit_dir == REPLY
        && Flow::of(&e.loser.orig) != Flow::of(&e.winner.orig)
        && winner_age::of(e) != Age::Young
}

fn fix() -> Vec<Fix> {
    vec![
        Fix {
            place: Place::Node,
            now: None,
            lasting: Some(
                "give the masquerade more room: no narrow `--to-ports` range, or more source \
                 addresses (SNAT to a pool, an egress gateway, more nodes)"
                    .to_owned(),
            ),
            caveat: Some(
                "one address has at most about 64,000 ports for each destination address and port"
                    .to_owned(),
            ),
        },
        Fix {
            place: Place::Application,
            now: Some("close idle connections to that destination".to_owned()),
            lasting: Some(
                "reuse connections (keep-alive, pools), and spread clients over nodes and \
                 requests over several addresses of the destination"
                    .to_owned(),
            ),
            caveat: None,
        },
        Fix {
            place: Place::Node,
            now: None,
            lasting: Some(
                "let closed flows leave the table sooner: \
                 net.netfilter.nf_conntrack_tcp_timeout_time_wait, nf_conntrack_udp_timeout and \
                 nf_conntrack_udp_timeout_stream"
                    .to_owned(),
            ),
            caveat: Some("too short a timeout breaks the translation of slow answers".to_owned()),
        },
    ]
}
