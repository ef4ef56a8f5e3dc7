//! `conntrack-stale-nat`: the entry of this very flow is older than the state of things. It still
//! leads to a pod that is gone, or it was made before the service's rules were and translates
//! nothing. The client's own packets keep it alive (`nf_conntrack_udp_packet`).
//!
//! An address that is not known says nothing: pods of other nodes are not known here either.

use std::net::SocketAddr;

use probe_common::{
    event::CtEntry,
    net::{IPPROTO_UDP, ips},
};

use super::Verdict;
use crate::{
    correlate::{
        describe::sorted,
        evidence::{Key, Seen, SeenDrop},
        join::{Case, Direction},
    },
    finding::{
        Cause, Confidence, Details, Evidence, Fix, Flow, Place,
        details::{Stale, StaleNat},
    },
};

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    if case.symptom.flow.proto != IPPROTO_UDP {
        return None;
    }
    let seen = case.ct_entries();
    let own = || {
        let queries = seen.iter().filter(|(_, way)| *way == Direction::ToServer);
        queries.map(|(e, _)| *e).filter(|e| e.event.ct.present != 0)
    };
    let found = own()
        .find_map(|e| gone(case, e))
        .or_else(|| own().find_map(|e| untranslated(case, e)))
        .or_else(|| own().find_map(|e| unreachable(case, e)))?;
    let mut lines = case.symptom.notes.clone();
    lines.extend(seen.iter().map(|(e, way)| case.say_ct_entry(e, *way)));
    lines.extend(found.line.clone());
    Some(verdict(case, found, lines))
}

/// What is wrong with the entry, and how sure that is.
struct Found {
    confidence: Confidence,
    details: StaleNat,
    line: Option<Evidence>,
}

fn details(e: &CtEntry, is: Stale) -> StaleNat {
    let orig = Flow::of(&e.ct.orig);
    StaleNat {
        client: orig.src,
        service: orig.dst,
        target: Flow::of(&e.ct.reply).src,
        target_pod: None,
        is,
        others_go_to: None,
    }
}

/// An entry that was answered before leads to a pod that is gone. One that never was may be new:
/// then it is the rules that are old.
fn gone(case: &Case<'_>, seen: &Seen<CtEntry>) -> Option<Found> {
    let e = &*seen.event;
    let both = ips::DST_NAT | ips::SEEN_REPLY;
    if e.ct.status & both != both {
        return None;
    }
    let mut details = details(e, Stale::Gone);
    let (pod, since) = case.world.pods.gone(details.target.ip(), seen.ts)?;
    details.target_pod = Some(pod.name.clone());
    let text = format!("pod {} ({}) is gone since then", pod.name, details.target.ip());
    let line = Some(Evidence { ts: since, kind: "pod-gone", text });
    Some(Found { confidence: Confidence::Certain, details, line })
}

/// An entry that was answered before leads to an address nobody is known to have, and its packet
/// was lost for that.
fn unreachable(case: &Case<'_>, seen: &Seen<CtEntry>) -> Option<Found> {
    let e = &*seen.event;
    let both = ips::DST_NAT | ips::SEEN_REPLY;
    let details = details(e, Stale::Unreachable);
    if !case.last_word
        || e.ct.status & both != both
        || case.world.pods.owner(details.target.ip(), seen.ts).is_some()
    {
        return None;
    }
    let (drop, way) = case.drops().into_iter().find(|(drop, way)| {
        *way == Direction::ToServer
            && Flow::of(&drop.event.tuple).dst == details.target
            && has_no_way(case, drop)
    })?;
    let line = Some(case.say_drop(drop, way));
    Some(Found { confidence: Confidence::Likely, details, line })
}

/// Whether a packet was dropped because its destination has no neighbour or no route.
fn has_no_way(case: &Case<'_>, drop: &SeenDrop) -> bool {
    match case.world.reason(&drop.event).as_deref() {
        Some(reason) => matches!(
            reason,
            "NEIGH_FAILED" | "NEIGH_CREATEFAIL" | "NEIGH_DEAD" | "IP_INNOROUTES" | "IP_OUTNOROUTES"
        ),
        None => matches!(
            case.world.function(drop.event.location),
            Some("neigh_invalidate" | "arp_error_report" | "ndisc_error_report" | "ip_error")
        ),
    }
}

/// An entry that was never answered translates nothing, while a younger flow of the same client to
/// the same service is translated: the rules came after the entry.
fn untranslated(case: &Case<'_>, seen: &Seen<CtEntry>) -> Option<Found> {
    let e = &*seen.event;
    if e.ct.status & (ips::DST_NAT | ips::SEEN_REPLY) != 0 || e.ct.status & ips::CONFIRMED == 0 {
        return None;
    }
    let orig = Flow::of(&e.ct.orig);
    let other = case.world.evidence.ct_entries.find(Key::Asked {
        proto: orig.proto,
        client: orig.src.ip(),
        server: orig.dst,
    });
    let younger = other.into_iter().find(|other| {
        let o = &*other.event;
        o.header.netns == e.header.netns
            && o.ct.present != 0
            && o.ct.status & ips::DST_NAT != 0
            && o.ct.born.wrapping_sub(e.ct.born).cast_signed() > 0
    })?;
    let mut details = details(e, Stale::Untranslated);
    let to = Flow::of(&younger.event.ct.reply).src;
    details.others_go_to = Some(to);
    let text =
        format!("{}, which came later, is translated to {to}", Flow::of(&younger.event.ct.orig));
    let line = Some(Evidence { ts: younger.ts, kind: "conntrack-entry", text });
    Some(Found { confidence: Confidence::Certain, details, line })
}

fn verdict(case: &Case<'_>, found: Found, lines: Vec<Evidence>) -> Verdict {
    let StaleNat { client, service, target, .. } = found.details;
    let title = match (found.details.is, &found.details.target_pod, found.details.others_go_to) {
        (Stale::Gone, Some(pod), _) => format!(
            "the conntrack entry of {client} still translates {service} to {target}, which was pod \
             {pod}, now gone; each packet of this socket keeps the entry alive"
        ),
        (Stale::Untranslated, _, Some(to)) => format!(
            "the conntrack entry of {client} was made before {service} was a service: it translates \
             nothing, while newer ones lead to {to}"
        ),
        _ => format!(
            "the conntrack entry of {client} translates {service} to {target}, which answered \
             before and now has no neighbour or route on this node"
        ),
    };
    let culprit = SocketAddr::new(target.ip(), target.port());
    let delete = format!(
        "conntrack -D -p udp --orig-src {} --sport {} --orig-dst {} --dport {}",
        client.ip(),
        client.port(),
        service.ip(),
        service.port()
    );
    Verdict {
        cause: Cause::ConntrackStaleNat,
        confidence: found.confidence,
        title,
        evidence: sorted(lines),
        culprit: Some(case.world.party(culprit.ip(), Some(culprit.port()), case.symptom.first)),
        fold: format!("{service} {target}"),
        fix: vec![
            Fix {
                place: Place::Node,
                now: Some(format!("`{delete}`")),
                lasting: None,
                caveat: Some(
                    "delete the entries of this service only; deleting all breaks masqueraded \
                     connections"
                        .to_owned(),
                ),
            },
            Fix {
                place: Place::KubeProxy,
                now: None,
                lasting: Some(
                    "a kube-proxy version that removes such entries when an endpoint goes \
                     (kubernetes #125467, #119750, #122740)"
                        .to_owned(),
                ),
                caveat: Some("on managed clusters the provider sets its version".to_owned()),
            },
            Fix {
                place: Place::Application,
                now: Some("restart the client, or let it use a new source port".to_owned()),
                lasting: Some("a new socket for each query, or after a timeout".to_owned()),
                caveat: None,
            },
        ],
        confirm: vec![format!(
            "on the node: `conntrack -L -p udp --orig-dst {} --dport {}` shows where entries lead; \
             `kubectl get endpointslices -A -o wide | grep -F '{}'` whether somebody has that address",
            service.ip(),
            service.port(),
            target.ip()
        )],
        details: Details::StaleNat(Box::new(found.details)),
    }
}
