//! `conntrack-dnat-clash`: one socket sent two queries (A and AAAA) at the same moment and the
//! service's DNAT sent them to two DNS pods. Since 5.7 the clash is resolved
//! (`nf_ct_resolve_clash_harder`): the loser's entry is inserted in the reply direction only and
//! lives one second. An answer that takes longer arrives untranslated and meets no socket. Older
//! kernels drop the second query.
//!
//! The clash alone stalls nobody: that the answer was lost must be seen too.

use probe_common::{
    event::{Clash, VERDICT_ACCEPT, VERDICT_DROP, kind},
    net::ips,
};

use super::Verdict;
use crate::{
    correlate::{
        describe::sorted,
        evidence::Seen,
        join::{Case, Direction},
    },
    finding::{
        Cause, Confidence, Details, Evidence, Fix, Flow, Place, SymptomKind, details::DnatClash,
    },
};

/// The loser's entry lives so long (`nf_ct_resolve_clash_harder`: "timeout is 1 second").
const LOSER_LIVES: u64 = 1_000_000_000;

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    if case.symptom.kind != SymptomKind::DnsStall {
        return None;
    }
    case.clashes().into_iter().find_map(|clash| judge_clash(case, clash))
}

fn judge_clash(case: &Case<'_>, clash: &Seen<Clash>) -> Option<Verdict> {
    let e = &*clash.event;
    if Flow::of(&e.loser.orig) != Flow::of(&e.winner.orig) {
        return None;
    }
    let two_backends = Flow::of(&e.loser.reply) != Flow::of(&e.winner.reply);
    let (confidence, lost) = match e.verdict {
        VERDICT_DROP if e.loser.status & ips::DST_NAT != 0 => {
            let way = Direction::ToServer;
            (Confidence::Certain, case.drop_of(clash).map(|d| case.say_drop(d, way)))
        }
        VERDICT_ACCEPT if two_backends => answer_lost(case, clash)?,
        _ => return None,
    };
    let mut lines = case.symptom.notes.clone();
    lines.push(case.say_clash(clash));
    lines.extend(case.servers().into_iter().map(|s| case.say_server(s)));
    lines.extend(lost);
    Some(verdict(case, clash, confidence, lines))
}

/// Whether the answer that came by the loser's entry was lost, and how that was seen.
fn answer_lost(case: &Case<'_>, clash: &Seen<Clash>) -> Option<(Confidence, Option<Evidence>)> {
    let backend = Flow::of(&clash.event.loser.reply).src;
    for (drop, way) in case.drops() {
        let flow = Flow::of(&drop.event.tuple);
        let to_client =
            flow.dst == case.symptom.flow.src || flow.dst == Flow::of(&clash.event.loser.reply).dst;
        if way != Direction::ToClient || drop.ts < clash.ts || flow.src != backend || !to_client {
            continue;
        }
        let line = Some(case.say_drop(drop, way));
        return Some(match case.world.reason(&drop.event).as_deref() {
            Some("NO_SOCKET") => (Confidence::Certain, line),
            // Dropped by a rule, say: the answer is lost, but perhaps not for that.
            Some(_) => (Confidence::Likely, line),
            None if drop.event.header.netns == case.symptom.netns => (Confidence::Certain, line),
            None => (Confidence::Likely, line),
        });
    }
    let stray = case.strays().into_iter().find(|s| Flow::of(&s.event.tuple).dst == backend);
    if let Some(stray) = stray {
        return Some((Confidence::Certain, Some(case.say_stray(stray))));
    }
    // The answer's end was not seen, but it came too late for the entry, and not to the client.
    let first_attempt_failed = case.symptom.answered.is_none() || case.symptom.retries > 0;
    let too_late = case.servers().into_iter().any(|s| {
        s.event.header.kind == kind::DNS_SERVER_ANSWER
            && Flow::of(&s.event.tuple).dst == backend
            && s.event.answered.saturating_sub(clash.ts) > LOSER_LIVES
    });
    (case.last_word && first_attempt_failed && too_late).then_some((Confidence::Likely, None))
}

fn verdict(
    case: &Case<'_>,
    clash: &Seen<Clash>,
    confidence: Confidence,
    lines: Vec<Evidence>,
) -> Verdict {
    let (world, e) = (case.world, &*clash.event);
    let service = Flow::of(&e.loser.orig).dst;
    let backends = [Flow::of(&e.loser.reply).src, Flow::of(&e.winner.reply).src];
    let resolved = e.verdict == VERDICT_ACCEPT;
    let question = case.symptom.question.as_ref();
    let [lost, other] = backends.map(|b| match world.pods.owner(b.ip(), clash.ts) {
        Some(pod) => format!("{} ({b})", pod.name),
        None => b.to_string(),
    });
    let title = if resolved {
        format!(
            "two queries left one socket at the same moment and {service} sent them \
             to {other} and {lost}; conntrack keeps the second translation for one second only, \
             the answer came later and was lost"
        )
    } else {
        format!(
            "two queries left one socket at the same moment; their conntrack entries \
             for {service} clashed and the kernel dropped the second query"
        )
    };
    Verdict {
        cause: Cause::ConntrackDnatClash,
        confidence,
        title,
        evidence: sorted(lines),
        culprit: Some(world.party(backends[0].ip(), Some(backends[0].port()), clash.ts)),
        fold: service.to_string(),
        details: Details::DnatClash(Box::new(DnatClash {
            name: question.map(|q| q.name.clone()).unwrap_or_default(),
            qtype: question.map(|q| q.qtype.clone()).unwrap_or_default(),
            service: service.to_string(),
            backends: backends.iter().map(ToString::to_string).collect(),
            backend_pods: backends
                .iter()
                .map(|b| world.pods.owner_name(b.ip(), clash.ts))
                .collect(),
            resolved,
        })),
        fix: fix(resolved),
        confirm: vec![
            "on the node: `conntrack -S` (clash_resolve rises, insert_failed need not); in the pod: \
             `nstat -az UdpNoPorts` rises by one with each stall"
                .to_owned(),
        ],
    }
}

fn fix(resolved: bool) -> Vec<Fix> {
    let mut fixes = vec![
        Fix {
            place: Place::Pod,
            now: Some(
                "`options single-request-reopen` (two sockets) or `use-vc` (TCP) by dnsConfig in \
                 the pod's spec"
                    .to_owned(),
            ),
            lasting: None,
            caveat: Some(
                "for glibc: musl (Alpine) ignores both, there only the node's fix helps".to_owned(),
            ),
        },
        Fix {
            place: Place::Node,
            now: None,
            lasting: Some(
                "NodeLocal DNSCache: the pod then asks an address that is not translated"
                    .to_owned(),
            ),
            caveat: None,
        },
    ];
    if resolved {
        fixes.push(Fix {
            place: Place::Application,
            now: None,
            lasting: Some(
                "make the DNS servers answer within one second: a faster upstream, a larger cache"
                    .to_owned(),
            ),
            caveat: None,
        });
    }
    fixes
}
