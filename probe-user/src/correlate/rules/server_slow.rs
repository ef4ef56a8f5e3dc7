//! `server-slow`, for DNS (probes are in [`super::slow_probe`]): the query reached the server's socket
//! and was answered late or never. If the server itself waited for someone in that time, that one is
//! the cause.
//!
//! An answer sent late but lost on its way is not this: the server's time must explain the stall.

use std::net::SocketAddr;

use probe_common::event::{Dns, kind};

use super::Verdict;
use crate::{
    correlate::{
        describe::sorted,
        evidence::Seen,
        join::{Case, Direction},
        symptom::{Side, Symptom, seconds},
    },
    finding::{
        Cause, Confidence, Details, Evidence, Fix, Flow, Party, Place, SymptomKind,
        details::ServerSlow,
    },
    output::sanitize,
};

/// The part of the stall, in percent, that the server's time must explain.
const MOST: u64 = 80;

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    if case.symptom.kind != SymptomKind::DnsStall {
        return super::slow_probe::judge(case);
    }
    let (server, confidence) =
        case.servers().into_iter().find_map(|s| Some((s, explains(case, s)?)))?;
    Some(verdict(case, server, confidence))
}

fn explains(case: &Case<'_>, server: &Seen<Dns>) -> Option<Confidence> {
    let (s, e) = (case.symptom, &*server.event);
    if was_dropped_there(case, e) {
        return None;
    }
    if e.header.kind == kind::DNS_SERVER_PENDING {
        let unanswered = s.answered.is_none() || s.gave_up.is_some();
        return (case.last_word && unanswered).then_some(Confidence::Likely);
    }
    let took = e.answered.saturating_sub(e.first);
    // The stall of the attempt that this server got: until its answer arrived, or the client gave
    // up on it.
    let end = match (s.answered, s.gave_up) {
        (Some(answered), Some(again)) if e.first > again => answered,
        (_, Some(again)) => again,
        (Some(answered), None) => answered,
        (None, None) => return None,
    };
    if s.answered.is_none() && e.answered < end {
        // Answered while the client still waited: the answer was lost.
        return None;
    }
    let waited = end.saturating_sub(s.first.min(e.first));
    let in_time = e.answered.min(end).saturating_sub(e.first);
    (took > 0 && in_time.saturating_mul(100) >= waited.saturating_mul(MOST))
        .then_some(Confidence::Certain)
}

/// A query that came as far as the server's socket may still be dropped there, when its receive
/// buffer is full.
fn was_dropped_there(case: &Case<'_>, e: &Dns) -> bool {
    let at = Flow::of(&e.tuple).dst;
    case.drops().into_iter().any(|(drop, way)| {
        way == Direction::ToServer && drop.ts >= e.first && Flow::of(&drop.event.tuple).dst == at
    })
}

fn verdict(case: &Case<'_>, server: &Seen<Dns>, confidence: Confidence) -> Verdict {
    let (world, e) = (case.world, &*server.event);
    let at = Flow::of(&e.tuple).dst;
    let place = world.place(&e.header, server.ts);
    let pending = e.header.kind == kind::DNS_SERVER_PENDING;
    let took = (!pending).then(|| e.answered.saturating_sub(e.first));
    let process = case.server_process(e);
    let what = match took {
        // It answered what was sent again, and perhaps at once.
        Some(took) if e.attempts > 1 => format!(
            "did not answer the first query; it answered the one sent again, {} later",
            seconds(took)
        ),
        Some(took) => format!("answered only after {}", seconds(took)),
        None => "got the query and has not answered it".to_owned(),
    };
    let upstream = upstream(case, server);
    let mut title = format!("the DNS server {place} ({at}) {what}");
    let mut lines = case.symptom.notes.clone();
    lines.push(case.say_server(server));
    let culprit = match upstream {
        Some(asked) => {
            let to = asked.server();
            title.push_str(&format!("; {process} waited for {} itself", to.ip()));
            lines.push(Evidence {
                ts: asked.first,
                kind: "upstream-waited",
                text: format!(
                    "{process} in {place} asked {to} itself and waited {}",
                    seconds(asked.waited(world.now))
                ),
            });
            world.party(to.ip(), Some(to.port()), asked.first)
        }
        None => Party {
            pod: Some(place),
            netns: Some(e.header.netns),
            address: Some(at.ip()),
            port: Some(at.port()),
            process: Some(sanitize::c_string(&e.comm)).filter(|c| !c.is_empty()),
            pid: (e.pid != 0).then_some(e.pid),
            ..Party::default()
        },
    };
    let question = case.symptom.question.as_ref();
    let waited_for = upstream.map(Symptom::server);
    Verdict {
        cause: Cause::ServerSlow,
        confidence,
        title,
        evidence: sorted(lines),
        culprit: Some(culprit),
        fold: format!("{at} {}", waited_for.map(|a| a.to_string()).unwrap_or_default()),
        details: Details::ServerSlow(Box::new(ServerSlow {
            name: question.map(|q| q.name.clone()).unwrap_or_default(),
            qtype: question.map(|q| q.qtype.clone()).unwrap_or_default(),
            server: at.to_string(),
            server_pod: world
                .pods
                .at(e.header.netns, e.header.cookie, server.ts)
                .map(|p| p.name.clone()),
            process: Some(sanitize::c_string(&e.comm)).filter(|c| !c.is_empty()),
            took_ms: took.map(|ns| ns / 1_000_000),
            waited_for: waited_for.map(|a| a.to_string()),
            probe: None,
        })),
        fix: fix(waited_for),
        confirm: vec![format!(
            "from another pod: `dig @{} {}` and look at the query time",
            at.ip(),
            question.and_then(|q| sanitize::shell_word(&q.name)).unwrap_or("NAME")
        )],
    }
}

/// The server's own stalled query for the same name, while it had ours. Where both share a
/// namespace (`hostNetwork`, 127.0.0.53) the client's queries are there too: they are not it.
fn upstream<'a>(case: &Case<'a>, server: &Seen<Dns>) -> Option<&'a Symptom> {
    let e = &server.event;
    let name = &case.symptom.question.as_ref()?.folded;
    let end = if e.answered == 0 { case.world.now } else { e.answered };
    let at = Flow::of(&e.tuple).dst;
    let victim = case.symptom;
    let is_shared = e.header.netns == victim.netns || e.header.netns == case.world.node.netns;
    let is_servers = |s: &Symptom| match e.pid {
        // Who serves is known only once it answers.
        0 => !is_shared,
        pid => s.pid == pid || (s.pid == 0 && !is_shared),
    };
    case.stalls.iter().map(|stall| &stall.symptom).find(|s| {
        s.kind == SymptomKind::DnsStall
            && s.side == Side::Client
            && s.netns == e.header.netns
            && s.server() != at
            && is_servers(s)
            && s.question.as_ref().is_some_and(|q| q.folded == *name)
            && s.first >= e.first
            && s.first <= end
    })
}

fn fix(upstream: Option<SocketAddr>) -> Vec<Fix> {
    let server = match upstream {
        Some(upstream) => Fix {
            place: Place::Application,
            now: None,
            lasting: Some(format!(
                "see why {} is slow or does not answer; give the DNS server a second or nearer \
                 upstream, and cache longer",
                upstream.ip()
            )),
            caveat: None,
        },
        None => Fix {
            place: Place::Application,
            now: Some("add replicas of the DNS server".to_owned()),
            lasting: Some(
                "see whether it lacks CPU (its limit), or waits for its own upstream".to_owned(),
            ),
            caveat: None,
        },
    };
    let fewer = Fix {
        place: Place::Pod,
        now: None,
        lasting: Some(
            "ask less: a trailing dot or a lower `ndots` saves the search list".to_owned(),
        ),
        caveat: None,
    };
    vec![server, fewer]
}
