//! A stall without a named cause is a finding too: with all that was seen of it, what was ruled
//! out, and what could not be seen.

use probe_common::event::{NF_DROP, PROBE_CLOSED, PROBE_GAVE_UP, kind};

use super::{
    describe::{ARMED, sorted},
    join::{Case, Direction},
    rules::{self, Verdict},
    world::Watch,
};
use crate::finding::{Cause, Confidence, Details, NotNamed, SymptomKind};

/// The causes looked for, with the kinds of events that show them.
const DNS: &[(Cause, &[u16])] = &[
    (Cause::ConntrackDnatClash, &[kind::CLASH, kind::DROP]),
    (Cause::ConntrackSnatClash, &[kind::CLASH]),
    (Cause::SnatPortsExhausted, &[kind::CLASH]),
    (Cause::ConntrackTableFull, &[kind::TABLE_FULL, kind::DROP]),
    (Cause::ConntrackInsertFailed, &[kind::DROP]),
    (Cause::ConntrackStaleNat, &[kind::CT_ENTRY]),
    (Cause::ReplyNotTranslated, &[kind::CT_ENTRY, kind::DROP]),
    (Cause::ServiceNoBackend, &[kind::IPVS_NO_SERVER, kind::REJECT]),
    (Cause::NoListener, &[kind::DROP]),
    (Cause::ServerSlow, &[kind::DNS_SERVER_ANSWER]),
];
const TCP: &[(Cause, &[u16])] = &[
    (Cause::ConntrackSnatClash, &[kind::CLASH]),
    (Cause::SnatPortsExhausted, &[kind::CLASH]),
    (Cause::ConntrackTableFull, &[kind::TABLE_FULL, kind::DROP]),
    (Cause::ConntrackInsertFailed, &[kind::DROP]),
    (Cause::ConntrackInvalid, &[kind::CT_ENTRY, kind::DROP]),
    (Cause::ReplyNotTranslated, &[kind::CT_ENTRY, kind::DROP]),
    (Cause::AcceptQueueOverflow, &[kind::LISTEN_DROP]),
    (Cause::SynQueueOverflow, &[kind::LISTEN_DROP]),
    (Cause::IpvsStaleConnection, &[kind::IPVS_STALE, kind::IPVS_VERDICT, kind::DROP]),
    (Cause::IpvsNodeportCollision, &[kind::IPVS_HIJACK]),
    (Cause::ServiceNoBackend, &[kind::IPVS_NO_SERVER, kind::REJECT]),
    (Cause::NoListener, &[kind::DROP]),
    (Cause::LeftTheNode, &[kind::DEPARTURE]),
];

/// Of a probe that was connected.
const PROBE: &[(Cause, &[u16])] = &[
    (Cause::AcceptQueueOverflow, &[kind::LISTEN_DROP]),
    (Cause::ServerSlow, &[kind::PROBE_SERVER]),
];

/// Of a server that closed a probe's connection, or reset it.
const HUNG_UP: &str =
    "the server's side ended the connection without a byte: its own log may say why";

pub fn verdict(case: &Case<'_>) -> Verdict {
    let evidence = sorted(case.say_all());
    // What was seen last apart from the client's own waiting is the best hint there is.
    let own: Vec<&str> = case.symptom.notes.iter().map(|n| n.kind).collect();
    let is_hint = |kind: &str| kind != ARMED && !own.contains(&kind);
    let hint = evidence.iter().rev().find(|line| is_hint(line.kind));
    let carried = case.symptom.probe.as_deref();
    let hung_up = carried.is_some_and(|carried| carried.outcome == PROBE_CLOSED);
    let title = match hint {
        _ if hung_up => HUNG_UP.to_owned(),
        Some(line) => format!("seen last: {}", line.text),
        None => "nothing was seen of its packets on this node".to_owned(),
    };
    Verdict {
        cause: Cause::Unknown,
        confidence: Confidence::Possible,
        title,
        culprit: None,
        fold: format!("{} {}", case.symptom.server(), hint_class(case)),
        evidence,
        details: Details::None,
        fix: Vec::new(),
        confirm: Vec::new(),
    }
}

/// What kind of hint there is, for folding: the place of the last drop, or nothing.
fn hint_class(case: &Case<'_>) -> String {
    match case.drops().last() {
        Some((drop, way)) => {
            let way = if *way == Direction::ToServer { "to server" } else { "to client" };
            let reason = case.world.reason(&drop.event).unwrap_or_default();
            let place = case.world.function(drop.event.location).unwrap_or("?");
            format!("{way} {reason} {place}")
        }
        None => String::new(),
    }
}

/// The causes looked for behind such a symptom.
pub fn looked_for(symptom: SymptomKind) -> &'static [(Cause, &'static [u16])] {
    match symptom {
        SymptomKind::DnsStall => DNS,
        SymptomKind::ConnectStall | SymptomKind::ConnectRefused => TCP,
        SymptomKind::ProbeFailure => PROBE,
    }
}

/// What happens at a socket: seen only where that is the kernel's.
const AT_SOCKETS: [Cause; 4] =
    [Cause::AcceptQueueOverflow, Cause::SynQueueOverflow, Cause::NoListener, Cause::ServerSlow];

/// Why what happens at the server's socket could not be seen.
fn invisible(case: &Case<'_>) -> Option<String> {
    let (symptom, pods) = (case.symptom, &case.world.pods);
    let servers = std::iter::once(symptom.server().ip()).chain(symptom.servers.iter().copied());
    let owner = |address| pods.owner(address, symptom.first);
    let sandbox = servers.filter_map(owner).find_map(|pod| Some((&pod.name, pod.sandbox?)));
    let (pod, sandbox) = sandbox?;
    Some(format!("the sockets of {pod} are invisible: it runs in {}", sandbox.name()))
}

/// The causes that are ruled out, and those that could not be seen.
pub fn not_named(case: &Case<'_>) -> (Vec<NotNamed>, Vec<NotNamed>) {
    let (mut ruled_out, mut not_seen) = (Vec::new(), Vec::new());
    let invisible = invisible(case);
    let unseen = |cause: Cause| invisible.clone().filter(|_| AT_SOCKETS.contains(&cause));
    for (cause, kinds) in looked_for(case.symptom.kind) {
        let cause = *cause;
        match case.world.watch(cause) {
            Watch::CannotHappen(why) => {
                let why = format!("cannot happen here: {why}");
                ruled_out.push(NotNamed { cause, why });
            }
            Watch::CannotSee(why) => not_seen.push(NotNamed { cause, why }),
            Watch::Watched => match unseen(cause).or_else(|| incomplete(case, kinds)) {
                Some(why) => not_seen.push(NotNamed { cause, why }),
                None => ruled_out.push(NotNamed { cause, why: why_not(case, cause) }),
            },
        }
    }
    (ruled_out, not_seen)
}

/// Why what only an armed hook sees was not seen.
pub const NOT_ARMED: &str = "no packet of it was seen in conntrack: that is looked at for one \
                             stalled flow at a time, when its packet is sent again";

/// The same of the devices that a SYN leaves by.
pub const NOT_FOLLOWED: &str = "no packet of it was seen at a device: that is looked at for one \
                                stalled connect at a time, when its SYN is sent again";

fn incomplete(case: &Case<'_>, kinds: &[u16]) -> Option<String> {
    let (losses, since) = (&case.world.losses, *case.symptom.span().start());
    let is_dns = case.symptom.kind == SymptomKind::DnsStall;
    if let Some(why) = losses.since(since, kinds).or_else(|| losses.unseen_since(since, is_dns)) {
        return Some(why);
    }
    if case.evicted {
        return Some("too much happened at once to keep it all".to_owned());
    }
    if kinds.contains(&kind::PROBE_SERVER) && is_server_unseen(case) {
        return Some(SERVER_UNSEEN.to_owned());
    }
    if kinds.contains(&kind::DEPARTURE) && !rules::left_the_node::is_followed(case) {
        return Some(NOT_FOLLOWED.to_owned());
    }
    let is_looked_at = !kinds.contains(&kind::CT_ENTRY) || !case.ct_entries().is_empty();
    (!is_looked_at).then(|| NOT_ARMED.to_owned())
}

/// Why a probe's server could not be judged.
pub const SERVER_UNSEEN: &str =
    "the server's socket was not found: another address, or a proxy there";

/// Only what the kubelet gave up is looked for at the server.
fn is_server_unseen(case: &Case<'_>) -> bool {
    let gave_up = case.symptom.probe.as_deref().is_some_and(|p| p.outcome == PROBE_GAVE_UP);
    gave_up && case.probe_server(kind::PROBE_SERVER).is_none()
}

fn why_not(case: &Case<'_>, cause: Cause) -> String {
    let clash = !case.clashes().is_empty();
    let why = match cause {
        Cause::ConntrackDnatClash if clash => {
            "a clash of this flow was seen, but not that its answer was lost by it"
        }
        Cause::ConntrackSnatClash if clash => {
            "a clash of this flow was seen, but not with a young entry for the same source port"
        }
        Cause::SnatPortsExhausted if clash => {
            "a clash of this flow was seen, but not with an older entry for the same source port"
        }
        Cause::ConntrackDnatClash | Cause::ConntrackSnatClash | Cause::SnatPortsExhausted => {
            "no clash of this flow was seen while the hook was watched and nothing was lost"
        }
        Cause::ConntrackTableFull => "no packet of this flow was refused by a full table",
        Cause::ConntrackInsertFailed => "conntrack took the new entry of each packet of this flow",
        Cause::ConntrackStaleNat => "its conntrack entry leads to no pod that is known to be gone",
        Cause::ConntrackInvalid => {
            "conntrack held no packet of it to be invalid that was then lost"
        }
        Cause::ReplyNotTranslated => {
            "no answer came past conntrack by another address than the one asked"
        }
        Cause::AcceptQueueOverflow | Cause::SynQueueOverflow if case.listens().is_empty() => {
            "no listener on this node refused this connection"
        }
        Cause::AcceptQueueOverflow => "the listener refused it, but its accept queue was not full",
        Cause::SynQueueOverflow => "the listener refused it, but not for half-open connections",
        Cause::IpvsStaleConnection
            if case.ipvs(kind::IPVS_VERDICT).iter().any(|d| d.event.verdict != NF_DROP) =>
        {
            "IPVS's hook was watched for this flow and did not drop its SYN"
        }
        Cause::IpvsStaleConnection if !case.ipvs(kind::IPVS_VERDICT).is_empty() => {
            "IPVS dropped its SYN, but not for an old connection whose server is gone"
        }
        Cause::IpvsStaleConnection if rules::ipvs_stale_connection::was_passed_by(case) => {
            "IPVS's hook was watched while its SYN was dropped, and never got it"
        }
        Cause::IpvsStaleConnection if !case.ipvs_entries().is_empty() => {
            "IPVS has this connection, but made it for this connect, its state shows that IPVS never got \
             the SYN, or its server takes connections"
        }
        Cause::IpvsStaleConnection => {
            "IPVS sent no packet of it to a server that is drained or gone"
        }
        Cause::IpvsNodeportCollision => "IPVS took no SYN-ACK of it for a service",
        Cause::ServiceNoBackend if !case.rejects().is_empty() => {
            "a rule rejected it, but not as kube-proxy does for an address known as a service's"
        }
        Cause::ServiceNoBackend => "IPVS found a server for it, and no rule rejected it",
        Cause::NoListener => "the request met no closed port on this node",
        Cause::LeftTheNode => rules::left_the_node::why_not(case),
        Cause::ServerSlow if let Some(carried) = case.symptom.probe.as_deref() => {
            rules::slow_probe::why_not(case, carried).unwrap_or("the server was not late")
        }
        Cause::ServerSlow if case.servers().is_empty() => {
            "no server on this node got this query and answered it late"
        }
        Cause::ServerSlow => "the server was not slow enough to explain it, or its answer was lost",
        _ => "not seen",
    };
    why.to_owned()
}
