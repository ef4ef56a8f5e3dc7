//! `server-slow`, for health probes: the kubelet was connected, and the server did not accept the
//! connection, did not read the request or did not answer it in time.
//!
//! What the server had done is read from its own socket, at the moment at which the kubelet's FIN
//! reached it, or a few times while the kubelet waited. A request or an answer that was lost on its way
//! is not this.

use probe_common::event::{PROBE_CLOSED, PROBE_GAVE_UP, PROBE_LATE, Probe, kind};

use super::Verdict;
use crate::{
    correlate::{
        describe::sorted,
        evidence::Key,
        join::Case,
        probe::{Protocol, probed},
        symptom::seconds,
    },
    finding::{
        Cause, Confidence, Details, Evidence, Fix, Party, Place,
        details::{Late, ServerSlow, SlowProbe},
    },
};

/// A server that hangs up sooner without a byte is not slow, in nanoseconds: it ended, or does not speak
/// that protocol.
const AT_ONCE: u64 = 500_000_000;

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    let carried = case.symptom.probe.as_deref()?;
    why_not(case, carried).is_none().then_some(())?;
    let (late, confidence) = match carried.outcome {
        PROBE_GAVE_UP if carried.received == 0 => given_up(case)?,
        PROBE_GAVE_UP => by_steps(case, case.symptom.ended?),
        PROBE_CLOSED => (Late::Answer, Confidence::Likely),
        PROBE_LATE => by_steps(case, case.symptom.answered?),
        _ => return None,
    };
    Some(verdict(case, carried, late, confidence))
}

/// What else may be why no answer came in time.
pub fn why_not(case: &Case<'_>, carried: &Probe) -> Option<&'static str> {
    if carried.retransmits > 0 {
        return Some("packets of it were sent again");
    }
    // By a server that ended, or by anything on the way.
    if carried.outcome == PROBE_CLOSED && carried.err != 0 {
        return Some("it was reset");
    }
    if carried.outcome == PROBE_CLOSED && case.symptom.waited(case.world.now) < AT_ONCE {
        return Some("the server hung up at once");
    }
    if case.was_answer_dropped() {
        return Some("a packet of its answer was dropped on this node");
    }
    let server = &*case.probe_server(kind::PROBE_SERVER)?.event;
    if server.received < carried.sent {
        return Some("not all that the kubelet sent had come to the server's socket");
    }
    (server.sent > carried.received).then_some("the server had sent more than came to the kubelet")
}

/// The server's socket tells the step. What it sends after the FIN need not be an answer: TLS and
/// HTTP/2 take their leave by a record or a frame. So does the client, right before its FIN, which the
/// program may not have read: that it has not read anything at all is sure.
fn given_up(case: &Case<'_>) -> Option<(Late, Confidence)> {
    let server = &*case.probe_server(kind::PROBE_SERVER)?.event;
    Some(match (server.accepted, u64::from(server.unread)) {
        (0, _) => (Late::Accept, Confidence::Certain),
        (_, unread) if unread > 0 && unread == server.received => (Late::Read, Confidence::Certain),
        (_, 0) => (Late::Answer, Confidence::Likely),
        _ => (Late::Unknown, Confidence::Likely),
    })
}

/// By what was seen while the kubelet waited. Without that an answer may have been sent in time, lost on
/// its way, and sent again, and what was given up after some bytes may have been idle.
fn by_steps(case: &Case<'_>, end: u64) -> (Late, Confidence) {
    match case.longest_step(end) {
        Some(late) => (late, Confidence::Likely),
        None => (Late::Unknown, Confidence::Possible),
    }
}

/// What the server had sent when nothing more came: what begins by exchanging more than a request and an
/// answer is known by its port at best.
fn part(case: &Case<'_>, carried: &Probe) -> String {
    let of = match case.symptom.server().port() % 1000 {
        443 => "a TLS handshake, by its port",
        _ => "a TLS handshake or HTTP/2 settings, if it speaks these",
    };
    format!("had sent {} bytes ({of})", carried.received)
}

fn verdict(case: &Case<'_>, carried: &Probe, late: Late, confidence: Confidence) -> Verdict {
    let (symptom, world) = (case.symptom, case.world);
    let at = symptom.server();
    let pod = probed(symptom, world);
    let place = pod.as_ref().and_then(|party| party.pod.clone());
    let queue = case.server_queue();
    // Who listens need not be who accepted it.
    let accepted = case.accepted_by();
    let listening = queue.map_or(0, |queue| queue.event.queue.ino);
    let listener = world.listener(if accepted == 0 { listening } else { accepted });
    let who = match (listener, &place) {
        (Some(listener), Some(place)) => format!("{} in {place}", listener.comm),
        (None, Some(place)) => place.clone(),
        (_, None) => at.to_string(),
    };
    let ended = symptom.ended.unwrap_or(world.now);
    let first = symptom.first;
    let after = |ts: u64| seconds(ts.saturating_sub(first));
    let gave_up = after(ended);
    let what = match (late, symptom.answered) {
        (Late::Accept, Some(answered)) => {
            format!(
                "accepted the connection late, so that it answered only after {}",
                after(answered)
            )
        }
        (Late::Read, Some(answered)) => format!(
            "accepted the connection and read the request late, so that it answered only after {}",
            after(answered)
        ),
        (Late::Answer, Some(answered)) => {
            format!("read the request and answered it only after {}", after(answered))
        }
        _ if carried.outcome == PROBE_GAVE_UP && carried.received > 0 => {
            let part = part(case, carried);
            match late {
                Late::Accept | Late::Read => {
                    format!("{part} and had not read what the kubelet sent then, after {gave_up}")
                }
                Late::Answer => {
                    format!(
                        "{part}, had read all that the kubelet sent, and sent no more in {gave_up}"
                    )
                }
                Late::Unknown => format!(
                    "{part} and sent no more in {gave_up}; if that was its whole answer, the \
                     connection was only kept"
                ),
            }
        }
        (Late::Accept, _) => format!("had not accepted the connection after {gave_up}"),
        (Late::Read, _) => {
            format!("accepted the connection and had not read the request after {gave_up}")
        }
        (Late::Unknown, Some(answered)) => format!("answered only after {}", after(answered)),
        (Late::Unknown, None) => {
            format!("accepted the connection and had not answered after {gave_up}")
        }
        (Late::Answer, _) if carried.outcome == PROBE_CLOSED => {
            format!("closed the connection without an answer after {gave_up}")
        }
        (Late::Answer, _) => {
            format!("read all that the kubelet sent and had sent nothing after {gave_up}")
        }
    };
    let protocol = Protocol::of(symptom, world);
    let mut lines = symptom.notes.clone();
    lines.extend(case.say_probe());
    Verdict {
        cause: Cause::ServerSlow,
        confidence,
        title: format!("{who} ({at}) {what}"),
        evidence: sorted(lines),
        culprit: Some(Party {
            process: listener.map(|l| l.comm.clone()),
            pid: listener.map(|l| l.pid),
            ..pod.unwrap_or_default()
        }),
        fold: at.to_string(),
        details: Details::ServerSlow(Box::new(ServerSlow {
            name: String::new(),
            qtype: String::new(),
            server: at.to_string(),
            server_pod: place,
            process: listener.map(|l| l.comm.clone()),
            took_ms: symptom.answered.map(|ts| ts.saturating_sub(carried.connected) / 1_000_000),
            waited_for: None,
            probe: Some(SlowProbe {
                protocol: protocol.as_ref().and_then(Protocol::id),
                request: match protocol {
                    Some(Protocol::Http(request)) => Some(request),
                    _ => None,
                },
                late,
                waited_ms: ended.saturating_sub(first) / 1_000_000,
                accept_queue: queue.map(|queue| queue.event.queue.waiting),
            }),
        })),
        fix: fix(late),
        confirm: vec![format!(
            "from the node: `curl -v --max-time 10 http://{at}/PATH` (the probe's path) and look at the \
             time; `kubectl describe pod` lists the probe with its timeout"
        )],
    }
}

fn fix(late: Late) -> Vec<Fix> {
    let lasting = match late {
        Late::Accept => {
            "see why its accept loop stands still: too few workers, a blocked event loop, no CPU (its \
             limit)"
        }
        Late::Read | Late::Answer | Late::Unknown => {
            "see what the program waits for: a lock, a database that its health check asks, no CPU \
             (its limit); let the health check answer without asking others"
        }
    };
    vec![
        Fix {
            place: Place::Application,
            now: None,
            lasting: Some(lasting.to_owned()),
            caveat: None,
        },
        Fix {
            place: Place::Pod,
            now: Some("raise the probe's `timeoutSeconds` (1 by default)".to_owned()),
            lasting: None,
            caveat: Some("users wait as long as the probe does".to_owned()),
        },
    ]
}

impl Case<'_> {
    /// Whether a packet to the client was dropped on this node while it waited, as far as drops are
    /// known. What comes after its FIN is dropped at its socket.
    fn was_answer_dropped(&self) -> bool {
        let waited = self.symptom.first..=self.symptom.ended.unwrap_or(u64::MAX);
        let drops = &self.world.evidence.drops;
        let mut dropped = drops.find(Key::Flow(self.symptom.flow.reversed()));
        dropped.any(|drop| waited.contains(&drop.ts))
    }

    /// What the server's socket showed.
    pub fn say_probe(&self) -> Vec<Evidence> {
        let mut lines = Vec::new();
        if let Some(seen) = self.probe_server(kind::PROBE_SERVER) {
            let e = &*seen.event;
            let accepted = if e.accepted == 0 { "nobody has accepted it" } else { "accepted" };
            let text = format!(
                "the server's socket when the kubelet gave up: {accepted}, {} bytes received, {} of \
                 them not read, {} sent",
                e.received, e.unread, e.sent
            );
            lines.push(Evidence { ts: seen.ts, kind: "probe-server", text });
        }
        lines.extend(self.say_steps());
        if let Some(seen) = self.probe_server(kind::PROBE_SERVED) {
            let e = &*seen.event;
            let text = format!(
                "the server closed its end{}, {} bytes not read, {} sent",
                self.symptom.after(seen.ts),
                e.unread,
                e.sent
            );
            lines.push(Evidence { ts: seen.ts, kind: "probe-served", text });
        }
        if let Some(seen) = self.server_queue() {
            let queue = &seen.event.queue;
            let text = format!(
                "/proc/net/tcp there: {} connections wait for accept() at {}",
                queue.waiting, queue.address
            );
            lines.push(Evidence { ts: seen.ts, kind: "listen-queue", text });
        }
        lines
    }
}
