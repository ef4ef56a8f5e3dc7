//! `reply-not-translated`: the query (or SYN) was translated by conntrack on its way to the server,
//! the answer came back past conntrack, mostly over a bridge with `bridge-nf-call-iptables=0`
//! (`br_nf_pre_routing`, net/bridge/br_netfilter_hooks.c). It bears the server's own address, and
//! the client knows no such peer.
//!
//! The late answer of a clash looks the same (`conntrack-dnat-clash`), so there must be none.

use std::net::SocketAddr;

use probe_common::{
    event::{CtEntry, kind},
    net::ips,
};

use super::Verdict;
use crate::{
    correlate::{
        describe::sorted,
        evidence::{Key, Seen},
        join::{Case, Direction},
        world::Watch,
    },
    finding::{Cause, Confidence, Details, Evidence, Fix, Flow, Place, details::NotTranslated},
};

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    if !case.clashes().is_empty() {
        return None;
    }
    let seen = case.ct_entries();
    let unanswered = |e: &CtEntry| {
        e.ct.present != 0 && e.ct.status & ips::DST_NAT != 0 && e.ct.status & ips::SEEN_REPLY == 0
    };
    let (query, answer) = seen.iter().find_map(|(query, way)| {
        let is_query = *way == Direction::ToServer && unanswered(&query.event);
        Some((*query, is_query.then(|| answer_past(case, query))??))
    })?;
    // Had the answer passed there, it would have been translated.
    let netns = query.event.header.netns;
    if seen.iter().any(|(e, way)| {
        *way == Direction::ToClient && e.event.header.netns == netns && e.ts >= query.ts
    }) {
        return None;
    }
    // Or it passed there after the query's entry was deleted, and began an entry of its own.
    let reply = Key::Flow(Flow::of(&query.event.ct.reply));
    let entries = &case.world.evidence.ct_entries;
    if entries.find(reply).any(|e| e.ts >= query.ts && e.event.header.netns == netns) {
        return None;
    }
    let mut lines = case.symptom.notes.clone();
    lines.push(case.say_ct_entry(query, Direction::ToServer));
    lines.push(answer);
    let confidence = if clashes_were_seen(case) {
        Confidence::Certain
    } else if case.last_word {
        Confidence::Likely
    } else {
        return None;
    };
    Some(verdict(case, query, confidence, lines))
}

/// The answer of the server the query was translated to, as it came to the client by the server's
/// own address after that very query.
fn answer_past(case: &Case<'_>, query: &Seen<CtEntry>) -> Option<Evidence> {
    let reply = Flow::of(&query.event.ct.reply);
    let client = case.symptom.flow.src;
    let drop = case.drops().into_iter().find(|(drop, way)| {
        let flow = Flow::of(&drop.event.tuple);
        *way == Direction::ToClient
            && drop.ts >= query.ts
            && flow.src == reply.src
            && flow.dst == client
            && case.met_no_client(drop)
    });
    if let Some((drop, way)) = drop {
        return Some(case.say_drop(drop, way));
    }
    let stray = case
        .strays()
        .into_iter()
        .find(|s| s.ts >= query.ts && Flow::of(&s.event.tuple).dst == reply.src)?;
    Some(case.say_stray(stray))
}

/// Whether a clash of this flow would have been seen.
fn clashes_were_seen(case: &Case<'_>) -> bool {
    case.world.watch(Cause::ConntrackDnatClash) == Watch::Watched
        && case.world.losses.since(*case.symptom.span().start(), &[kind::CLASH]).is_none()
}

fn verdict(
    case: &Case<'_>,
    query: &Seen<CtEntry>,
    confidence: Confidence,
    lines: Vec<Evidence>,
) -> Verdict {
    let world = case.world;
    let service = Flow::of(&query.event.ct.orig).dst;
    let backend: SocketAddr = Flow::of(&query.event.ct.reply).src;
    let pod = world.pods.owner_name(backend.ip(), query.ts);
    let who = pod.clone().unwrap_or_else(|| backend.ip().to_string());
    let loaded = world.node.modules.iter().any(|m| m == "br_netfilter");
    let by_loading = if loaded { "" } else { "`modprobe br_netfilter`, then " };
    let sysctl = if service.is_ipv4() {
        "net.bridge.bridge-nf-call-iptables"
    } else {
        "net.bridge.bridge-nf-call-ip6tables"
    };
    Verdict {
        cause: Cause::ReplyNotTranslated,
        confidence,
        title: format!(
            "{service} is translated to {who} ({backend}), but the answer came back past conntrack, \
             by that address, which the client did not ask"
        ),
        evidence: sorted(lines),
        culprit: Some(world.party(backend.ip(), Some(backend.port()), query.ts)),
        fold: service.to_string(),
        fix: vec![Fix {
            place: Place::Node,
            now: Some(format!("{by_loading}`sysctl -w {sysctl}=1`")),
            lasting: Some(format!(
                "br_netfilter in /etc/modules-load.d and {sysctl}=1 in /etc/sysctl.d"
            )),
            caveat: Some(
                "this is for client and server on one bridge; where they are not, find the way the \
                 answers take past this node's conntrack. Container engines and virtualisation \
                 tools may set the sysctl back"
                    .to_owned(),
            ),
        }],
        confirm: vec![format!(
            "on the node: `sysctl {sysctl}` (0, or no such file), and `conntrack -L --orig-dst {}` \
             shows [UNREPLIED]",
            service.ip()
        )],
        details: Details::NotTranslated(Box::new(NotTranslated {
            client: case.symptom.flow.src,
            service,
            backend,
            backend_pod: pod,
            br_netfilter_loaded: loaded,
        })),
    }
}
