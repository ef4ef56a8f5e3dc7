//! `client-ports-exhausted`: connect() failed with EADDRNOTAVAIL because no local port was left for
//! this destination (`__inet_hash_connect`, net/ipv4/inet_hashtables.c). Nothing was sent.

use super::Verdict;
use crate::{
    correlate::{describe::sorted, join::Case, symptom::Side},
    finding::{Cause, Confidence, Details, Fix, Party, Place, SymptomKind, details::ClientPorts},
};

/// The kernel side says so only when that function returned it and the socket had no port of its
/// own choice: then it is the one port asked for that is in use, not all.
pub const EADDRNOTAVAIL: u32 = 99;

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    let symptom = case.symptom;
    let is_it = symptom.kind == SymptomKind::ConnectStall
        && symptom.side == Side::Client
        && symptom.err == EADDRNOTAVAIL
        && symptom.flow.src.port() == 0;
    if !is_it {
        return None;
    }
    let world = case.world;
    let pod = world.pods.name(symptom.netns, symptom.cookie, symptom.first);
    let server = symptom.server();
    let from = symptom.flow.src.ip();
    let range = symptom.port_range.map(|(low, high)| format!("{low}-{high}"));
    let title = format!(
        "no local port is left in {pod} for connections from {from} to {server}{}: connect() \
         fails at once with EADDRNOTAVAIL",
        match &range {
            Some(range) => format!(" (ip_local_port_range {range})"),
            None => String::new(),
        }
    );
    let process = (!symptom.comm.is_empty()).then(|| symptom.comm.clone());
    let pid = (symptom.pid != 0).then_some(symptom.pid);
    Some(Verdict {
        cause: Cause::ClientPortsExhausted,
        confidence: Confidence::Certain,
        title,
        evidence: sorted(symptom.notes.clone()),
        culprit: Some(Party {
            pod: Some(pod),
            netns: Some(symptom.netns),
            address: (!from.is_unspecified()).then_some(from),
            port: None,
            process: process.clone(),
            pid,
            ..Party::default()
        }),
        // Ports run out for each source address and destination on its own.
        fold: format!("{} {from} {server}", symptom.netns),
        details: Details::ClientPorts(ClientPorts {
            process,
            pid,
            source: from,
            destination: server.to_string(),
            port_range: symptom.port_range.map(|(low, high)| [low, high]),
        }),
        fix: fix(),
        confirm: vec![format!(
            "in the pod's network namespace: `ss -tan dst {} | wc -l` (TIME-WAIT counts too) and \
             `sysctl net.ipv4.ip_local_port_range net.ipv4.ip_local_reserved_ports`",
            server.ip()
        )],
    })
}

fn fix() -> Vec<Fix> {
    vec![
        Fix {
            place: Place::Application,
            now: Some("close connections to that destination that are not needed".to_owned()),
            lasting: Some(
                "reuse connections: HTTP keep-alive, a pool with a limit; look for sockets that \
                 are never closed"
                    .to_owned(),
            ),
            caveat: Some(
                "the side that closes first keeps the port for 60 s (TIME-WAIT)".to_owned(),
            ),
        },
        Fix {
            place: Place::Pod,
            now: None,
            lasting: Some(
                "widen net.ipv4.ip_local_port_range by the pod's securityContext.sysctls, and \
                 net.ipv4.tcp_tw_reuse=1 where TIME-WAIT holds the ports"
                    .to_owned(),
            ),
            caveat: Some(
                "each pod's network namespace has its own value; keep the NodePort range out of \
                 the node's"
                    .to_owned(),
            ),
        },
        Fix {
            place: Place::Application,
            now: None,
            lasting: Some(
                "spread over more destinations or pods: a port is used up only for one source \
                 address and one destination address and port; programs that bind() first need \
                 IP_BIND_ADDRESS_NO_PORT for that"
                    .to_owned(),
            ),
            caveat: None,
        },
    ]
}
