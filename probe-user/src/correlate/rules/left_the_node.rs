//! `left-the-node`: while it was looked at (the armed set `departure`), a SYN of the connect was given
//! to a physical interface, or to a tunnel that sends it on, and no answer to it came in by any device.
//!
//! What became of it outside is not seen, so this is never certain; and whatever was seen of it on this
//! node itself goes first.

use probe_common::event::{DIRECTION_IN, DIRECTION_OUT, Departure, IFF_LOOPBACK, kind};

use super::Verdict;
use crate::{
    correlate::{
        arm_departure::is_known_here,
        describe::{departure::device, sorted},
        evidence::Seen,
        join::{Case, TCP_ACK, TCP_SYN},
        symptom::{Side, seconds},
    },
    event::armed::{Outcome, Set, Step},
    finding::{Cause, Confidence, Details, Fix, Flow, Place, SymptomKind, details::LeftTheNode},
    output::sanitize,
};

/// For how long an answer must have failed to come: longer than a packet takes around the world.
const LONG_ENOUGH: u64 = 500_000_000;

/// Tunnels (`rtnl_link_ops->kind`) that encrypt: the packet that goes out in the end cannot be told from
/// others.
const SEALED: [&str; 4] = ["wireguard", "xfrm", "vti", "vti6"];

/// What sort of device it is: its link kind, or that a driver made it.
pub fn link(e: &Departure) -> String {
    let kind = sanitize::c_string(&e.link);
    match kind.as_str() {
        "" if e.dev_flags & IFF_LOOPBACK != 0 => "loopback".to_owned(),
        "" => "a physical interface".to_owned(),
        _ => kind,
    }
}

fn is_physical(e: &Departure) -> bool {
    e.link.first() == Some(&0) && e.dev_flags & IFF_LOOPBACK == 0
}

fn is_sealed(e: &Departure) -> bool {
    SEALED.contains(&sanitize::c_string(&e.link).as_str())
}

/// Whether it is the border of the node. All other devices hand the packet on to another one here, where
/// it is seen itself: a bridge, a VLAN, a bond, and a tunnel, whose packet goes out by a physical interface.
pub fn is_outside(e: &Departure) -> bool {
    is_physical(e) || is_sealed(e)
}

fn is_syn(e: &Departure) -> bool {
    e.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
}

fn is_sent_syn(e: &Departure) -> bool {
    is_syn(e) && e.direction == DIRECTION_OUT && is_outside(e)
}

/// What shows that the answer, or the SYN itself, was here again: then it was lost on this node.
fn is_back(e: &Departure) -> bool {
    !is_syn(e) || (e.direction == DIRECTION_IN && is_physical(e))
}

/// Whether one of its SYNs was seen on its whole way through the node.
pub fn is_followed(case: &Case<'_>) -> bool {
    let goes_out = |e: &Departure| is_syn(e) && e.direction == DIRECTION_OUT;
    case.followed().iter().any(|e| goes_out(&e.event))
}

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    let symptom = case.symptom;
    let given_up = [0, ETIMEDOUT].contains(&symptom.err);
    if !case.last_word
        || symptom.kind != SymptomKind::ConnectStall
        || symptom.side != Side::Client
        || symptom.answered.is_some()
        || !given_up
        || is_known_here(case)
    {
        return None;
    }
    if case.departures().iter().any(|e| is_back(&e.event)) {
        return None;
    }
    let seen = case.followed();
    // Each one that follows is not answered either.
    let sent = seen.iter().find(|e| is_sent_syn(&e.event))?;
    // The packets of one SYN: the tunnel, and what sent its packet on.
    let tunnel = seen.iter().rev().find(|e| {
        sent.event.inner != 0
            && e.ts <= sent.ts
            && is_syn(&e.event)
            && e.event.inner == 0
            && e.event.direction == DIRECTION_OUT
            && e.event.ifindex != sent.event.ifindex
    });
    let Looked { time: looked, is_over, is_complete } = looked(case, sent.ts);
    if looked < LONG_ENOUGH && !is_over && symptom.ended.is_none() {
        return None;
    }
    let lost = case.world.losses.since(*symptom.span().start(), &[kind::DEPARTURE, kind::DROP]);
    let is_likely = looked >= LONG_ENOUGH
        && is_complete
        && lost.is_none()
        && !case.evicted
        && !is_sealed(&sent.event);
    let flow = Flow::of(&sent.event.tuple);
    let dev = device(&sent.event);
    let by = match tunnel {
        Some(tunnel) => {
            format!("{dev}, in the tunnel {} ({})", device(&tunnel.event), link(&tunnel.event))
        }
        None if is_sealed(&sent.event) => format!("the tunnel {dev} ({})", link(&sent.event)),
        None => dev.clone(),
    };
    let mut lines = symptom.notes.clone();
    lines.extend(case.say_armed(Set::Departure));
    lines.extend(seen.iter().filter(|e| is_outside(&e.event)).map(|e| case.say_departure(e)));
    let place = case.world.place(&sent.event.header, sent.ts);
    let word = sanitize::shell_word(&dev).unwrap_or("DEVICE");
    Some(Verdict {
        cause: Cause::LeftTheNode,
        confidence: if is_likely { Confidence::Likely } else { Confidence::Possible },
        title: format!(
            "the SYN left {place} by {by}, and no answer came in within {}: it was lost, or is not answered, \
             beyond this node",
            seconds(looked)
        ),
        evidence: sorted(lines),
        culprit: None,
        fold: format!("{} {dev}", symptom.server()),
        details: Details::LeftTheNode(Box::new(LeftTheNode {
            interface: dev.clone(),
            link: sanitize::c_string(&sent.event.link),
            tunnel: tunnel.map(|tunnel| device(&tunnel.event)),
            sent_from: flow.src,
            sent_to: flow.dst,
            looked_ms: looked / 1_000_000,
        })),
        fix: fix(&flow, tunnel.is_some() || is_sealed(&sent.event)),
        confirm: vec![
            format!(
                "on both nodes at once: `tcpdump -ni any host {} and port {}`",
                flow.dst.ip(),
                flow.dst.port()
            ),
            format!(
                "errors and drops of the device: `ip -s link show {word}`; \
                 `ethtool -S {word} | grep -E 'drop|err|allowance_exceeded'` (a cloud's card counts what is \
                 over its allowance)"
            ),
        ],
    })
}

/// `ETIMEDOUT`: the kernel gave up; nothing else may have told the client anything.
const ETIMEDOUT: u32 = 110;

/// How an answer was looked for.
struct Looked {
    /// For how long, in nanoseconds, so far.
    time: u64,
    is_over: bool,
    /// Without a gap.
    is_complete: bool,
}

/// How an answer was looked for after that.
fn looked(case: &Case<'_>, sent: u64) -> Looked {
    let let_go = case.armed(Set::Departure).into_iter().filter(|step| step.ts >= sent);
    let ends = let_go.filter_map(|seen| match &seen.event.step {
        Step::LetGo { outcome, .. } => Some((seen.ts, *outcome != Outcome::OverBudget)),
        _ => None,
    });
    let end = ends.min_by_key(|(ts, _)| *ts);
    let (until, is_complete) = end.unwrap_or((case.world.now, true));
    Looked { time: until.saturating_sub(sent), is_over: end.is_some(), is_complete }
}

/// Why it is not this, of a connect some of whose packets were seen.
pub fn why_not(case: &Case<'_>) -> &'static str {
    let seen: Vec<&Seen<Departure>> = case.departures();
    let came_in = |e: &Departure| e.direction == DIRECTION_IN && is_outside(e);
    if seen.iter().any(|e| !is_syn(&e.event) && came_in(&e.event)) {
        "an answer came in from outside, and was lost on this node if it did not reach the client"
    } else if seen.iter().any(|e| is_back(&e.event)) {
        "its SYN was looked at, and it was answered on this machine, or came back to it"
    } else if seen.iter().any(|e| is_sent_syn(&e.event)) {
        "its SYN left this node, but something else was seen of it here, or it ended otherwise"
    } else {
        "its SYN was looked at, and no physical interface sent it"
    }
}

fn fix(flow: &Flow, is_tunnel: bool) -> Vec<Fix> {
    let tunnel = if is_tunnel {
        ". Of a tunnel also what lies between the nodes: its UDP port or protocol in security groups, its \
         peer's address"
    } else {
        ""
    };
    vec![Fix {
        place: Place::Node,
        now: Some(format!(
            "run stallprobe on the node of {} while it happens; `stallprobe record -o FILE` on both, and `stallprobe \
             replay A.pcapng B.pcapng` joins what they saw",
            flow.dst.ip()
        )),
        lasting: Some(format!(
            "depends on what is found there: usual are security groups and network ACLs, a NetworkPolicy or \
             firewall of the other node, a route back that is missing, a host that is gone{tunnel}"
        )),
        caveat: Some(
            "that it left shows only that the driver got it; an XDP program or a full ring of the card can lose \
             the answer before it is seen here"
                .to_owned(),
        ),
    }]
}
