//! `ipvs-stale-connection`: the client used a source port again that IPVS still knows from an old
//! connection, and that connection's server is drained or gone.
//!
//! - Its weight is 0: the SYN goes to the old server all the same (`conn_reuse_mode=0`), which does
//!   not answer any more, or whose address has no route: "no route to host". The hook on the way to
//!   the server sees connection and server: `certain`.
//! - The service does not list it any more: `ip_vs_in_hook` drops the SYN without a word
//!   (`expire_nodest_conn=0`). The armed hook sees connection, server and verdict when the SYN comes
//!   again: `certain`. Else what shows is a drop by some netfilter hook, and the connection in
//!   `/proc/net/ip_vs_conn` right after: `likely`.

use probe_common::{
    event::{IPVS_FOUND, IPVS_GONE, IPVS_LOOKED, IPVS_NO_DEST, Ipvs, NF_DROP, kind},
    net::ips,
};

use super::Verdict;
use crate::{
    correlate::{
        arm::by_a_hook,
        describe::{ipvs_ends, sorted, state_name},
        evidence::Seen,
        join::{Case, Direction},
        symptom::Side,
        world::Watch,
    },
    event::{
        IpvsEntry,
        armed::{Outcome, Set, Step},
    },
    finding::{
        Cause, Confidence, Details, Evidence, Fix, Flow, Party, Place, SymptomKind,
        details::{IpvsStale, ServerIs, SynWas},
    },
};

/// Programs see everything this long after they were attached.
const MARGIN: u64 = 50_000_000;

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    sent(case).or_else(|| refused(case)).or_else(|| dropped(case)).or_else(|| polled(case))
}

/// Sent to a server that takes no new connections.
fn sent(case: &Case<'_>) -> Option<Verdict> {
    let told = case.ipvs(kind::IPVS_STALE);
    let first = told.iter().find(|d| is_older(case, d))?;
    let e = &*first.event;
    let (service, server) = ipvs_ends(e);
    let gone = e.flags & (IPVS_GONE | IPVS_NO_DEST) != 0;
    let details = IpvsStale {
        service,
        server,
        server_pod: case.world.pods.owner_name(server.ip(), first.ts),
        server_is: if gone { ServerIs::Removed } else { ServerIs::Drained },
        syn_was: SynWas::Sent,
        client: Flow::of(&e.tuple).src,
        state: None,
        packets_before: Some(e.in_pkts),
    };
    let lines = told.iter().map(|d| case.say_ipvs(d)).collect();
    Some(verdict(case, details, Confidence::Certain, lines))
}

/// Whether the connection had more packets than this connect has sent: a SYN that is sent again
/// finds the connection its own first one made.
fn is_older(case: &Case<'_>, told: &Seen<Ipvs>) -> bool {
    told.event.in_pkts > case.symptom.retries
}

/// `IP_VS_TCP_S_SYN_SENT` and `_RECV`: a connection that was never answered, maybe this connect's
/// own.
const UNANSWERED: [u32; 2] = [2, 3];

/// Dropped without a word, as the armed hook saw it (net/netfilter/ipvs/ip_vs_core.c: `cp->dest` is
/// not available).
fn refused(case: &Case<'_>) -> Option<Verdict> {
    let told = case.ipvs(kind::IPVS_VERDICT);
    let first = told.iter().find(|d| {
        let e = &*d.event;
        let wanted = IPVS_FOUND | IPVS_GONE;
        e.verdict == NF_DROP && e.flags & wanted == wanted && !UNANSWERED.contains(&e.state)
    })?;
    let e = &*first.event;
    let (service, server) = ipvs_ends(e);
    let details = IpvsStale {
        service,
        server,
        server_pod: case.world.pods.owner_name(server.ip(), first.ts),
        server_is: ServerIs::Removed,
        syn_was: SynWas::Dropped,
        client: Flow::of(&e.tuple).src,
        state: Some(state_name(e.state)),
        packets_before: Some(e.in_pkts),
    };
    let mut lines = vec![case.say_ipvs(first)];
    lines.extend(case.say_armed(Set::IpvsVerdict));
    Some(verdict(case, details, Confidence::Certain, lines))
}

/// Whether IPVS's hook was watched while the SYN was dropped, and never got it: then it was dropped
/// elsewhere.
pub fn was_passed_by(case: &Case<'_>) -> bool {
    if !case.ipvs(kind::IPVS_VERDICT).is_empty() {
        return false;
    }
    let armed = case.armed(Set::IpvsVerdict);
    let (mut windows, mut from) = (Vec::new(), None);
    for seen in armed {
        match &seen.event.step {
            Step::Armed { .. } => from = Some(seen.ts.saturating_add(MARGIN)),
            Step::LetGo { outcome, matched, .. } => {
                // A hook that ran for the flow and told nothing, or had no budget, rules nothing out.
                if *outcome == Outcome::NothingSeen && *matched == 0 {
                    windows.extend(from.map(|from| (from, seen.ts)));
                }
                from = None;
            }
            Step::Refused { .. } => {}
        }
    }
    case.drops().into_iter().any(|(drop, way)| {
        // What was translated before IPVS got it was not looked for by the right addresses.
        way == Direction::ToServer
            && drop.event.ct.status & ips::DST_NAT == 0
            && by_a_hook(case.world, &drop.event)
            && windows.iter().any(|(from, until)| (*from..*until).contains(&drop.ts))
    })
}

/// Whether a connection as read after the SYN agrees with one that is older and cost it.
///
/// Where the service does not list its server any more, IPVS drops the SYN and leaves the state as it
/// was. A drained server gets the SYN, and a SYN makes each state `SYN_RECV`, but for `ESTABLISHED`,
/// which stays, and `SYN_SENT`, which becomes that (net/netfilter/ipvs/ip_vs_proto_tcp.c:
/// `tcp_states`, INPUT, `syn`). So `TIME_WAIT`, say, shows that IPVS never got this SYN; and
/// `SYN_RECV` may be of this connect's own first one. A server that refuses it makes the state
/// `CLOSE`.
fn agrees(case: &Case<'_>, entry: &IpvsEntry) -> bool {
    match (entry.weight, entry.state.as_str()) {
        (None, state) => !matches!(state, "SYN_RECV" | "SYN_SENT"),
        (Some(0), "ESTABLISHED") => true,
        (Some(0), "CLOSE") => case.symptom.kind == SymptomKind::ConnectRefused,
        _ => false,
    }
}

/// Dropped without a word.
fn dropped(case: &Case<'_>) -> Option<Verdict> {
    if !case.last_word {
        return None;
    }
    // What the armed hook saw counts more than what was read after the drop.
    let told = case.ipvs(kind::IPVS_VERDICT);
    let is_other = |e: &Ipvs| e.verdict != NF_DROP || e.flags & IPVS_LOOKED != 0;
    if told.iter().any(|d| is_other(&d.event)) || was_passed_by(case) {
        return None;
    }
    let (entry, _) = case
        .ipvs_entries()
        .into_iter()
        .find(|(entry, drop)| agrees(case, &entry.event) && by_a_hook(case.world, &drop.event))?;
    let details = by_table(case, entry, SynWas::Dropped);
    let mut lines = vec![case.say_ipvs_entry(entry)];
    lines.extend(case.say_armed(Set::IpvsVerdict));
    Some(verdict(case, details, Confidence::Likely, lines))
}

/// No hook tells what IPVS did: the old connection is all that shows.
fn polled(case: &Case<'_>) -> Option<Verdict> {
    let is_blind = matches!(case.world.watch(Cause::IpvsStaleConnection), Watch::CannotSee(_));
    if !case.last_word || !is_blind || case.symptom.side != Side::Client {
        return None;
    }
    let entries = case.ipvs_entries_of_flow();
    let entry = entries.into_iter().find(|entry| agrees(case, &entry.event))?;
    // A server that is not listed gets no packet.
    let is_listed = entry.event.weight.is_some();
    let details = by_table(case, entry, if is_listed { SynWas::Sent } else { SynWas::Dropped });
    let lines = vec![case.say_ipvs_entry(entry)];
    Some(verdict(case, details, Confidence::Likely, lines))
}

/// As `/proc/net/ip_vs_conn` and `/proc/net/ip_vs` tell it.
fn by_table(case: &Case<'_>, entry: &Seen<IpvsEntry>, syn_was: SynWas) -> IpvsStale {
    let e = &*entry.event;
    IpvsStale {
        service: e.service,
        server: e.server,
        server_pod: case.world.pods.owner_name(e.server.ip(), entry.ts),
        server_is: if e.weight.is_none() { ServerIs::Removed } else { ServerIs::Drained },
        syn_was,
        client: e.client,
        state: Some(crate::output::sanitize::text(&e.state)),
        packets_before: None,
    }
}

fn verdict(
    case: &Case<'_>,
    details: IpvsStale,
    confidence: Confidence,
    told: Vec<Evidence>,
) -> Verdict {
    let mut lines = case.symptom.notes.clone();
    lines.extend(told);
    let drops = case.drops().into_iter().filter(|(_, way)| *way == Direction::ToServer);
    lines.extend(drops.map(|(drop, way)| case.say_drop(drop, way)));
    let IpvsStale { service, server, client, .. } = details;
    let who = details.server_pod.clone().map(|pod| format!(" ({pod})")).unwrap_or_default();
    let title = format!(
        "source port {} was used before to {service}, and IPVS still ties it to server \
         {server}{who}, which {}: the SYN {}",
        client.port(),
        match details.server_is {
            ServerIs::Drained => "is drained (weight 0)",
            ServerIs::Removed => "was taken out of the service",
        },
        match details.syn_was {
            SynWas::Sent => "was sent there",
            SynWas::Dropped => "was dropped without a word",
        }
    );
    Verdict {
        cause: Cause::IpvsStaleConnection,
        confidence,
        title,
        evidence: sorted(lines),
        culprit: Some(Party {
            pod: details.server_pod.clone(),
            address: Some(server.ip()),
            port: Some(server.port()),
            ..Party::default()
        }),
        fold: format!("{service} {server}"),
        fix: fix(&details),
        confirm: vec![format!(
            "on the node: `ipvsadm -Lnc | grep -F '{client}'` shows the old connection, `ipvsadm -Ln \
             -t {service}` its server's weight (or that it is not listed)"
        )],
        details: Details::IpvsStale(Box::new(details)),
    }
}

fn fix(details: &IpvsStale) -> Vec<Fix> {
    let (sysctl, other) = match details.syn_was {
        SynWas::Sent => ("net.ipv4.vs.conn_reuse_mode=1", "net.ipv4.vs.expire_nodest_conn=1"),
        SynWas::Dropped => ("net.ipv4.vs.expire_nodest_conn=1", "net.ipv4.vs.conn_reuse_mode=1"),
    };
    vec![
        Fix {
            place: Place::Node,
            now: Some(format!("`sysctl -w {sysctl} {other}`")),
            lasting: None,
            caveat: Some(
                "conn_reuse_mode=1 is safe from kernel 5.9 on; before, with net.ipv4.vs.conntrack=1, \
                 it costs each reused port one second. kube-proxy sets both again when it starts"
                    .to_owned(),
            ),
        },
        Fix {
            place: Place::KubeProxy,
            now: None,
            lasting: Some(
                "kube-proxy 1.22 or newer (leaves conn_reuse_mode alone on kernels from 5.9 on, and \
                 sets expire_nodest_conn=1); or its nftables mode, which keeps no such connections"
                    .to_owned(),
            ),
            caveat: Some("on managed clusters the provider sets kube-proxy's mode".to_owned()),
        },
        Fix {
            place: Place::Application,
            now: None,
            lasting: Some(
                "let pods serve until they get no new connections (preStop with a delay), and use \
                 connections again instead of opening many: a port then comes back later. \
                 Anti-affinity of client and server spreads the source ports over nodes"
                    .to_owned(),
            ),
            caveat: None,
        },
    ]
}
