//! What IPVS did, in words.

use std::net::SocketAddr;

use probe_common::event::{
    IPVS_FOUND, IPVS_GONE, IPVS_LOOKED, IPVS_NO_DEST, Ipvs, NF_ACCEPT, NF_DROP, NF_STOLEN, kind,
};

use crate::{
    correlate::{evidence::Seen, flow::address, join::Case},
    event::IpvsEntry,
    finding::{Evidence, Flow},
    output::sanitize,
};

impl Case<'_> {
    pub fn say_ipvs(&self, decision: &Seen<Ipvs>) -> Evidence {
        let e = &decision.event;
        let (service, server) = ipvs_ends(e);
        let flow = Flow::of(&e.tuple);
        let who = self.world.who(server.ip(), decision.ts);
        let (kind, text) = match e.header.kind {
            kind::IPVS_HIJACK if server.port() == 0 => (
                "ipvs-syn-ack-taken",
                format!("IPVS took the SYN-ACK from {} for service {service}", flow.src),
            ),
            kind::IPVS_HIJACK => (
                "ipvs-syn-ack-taken",
                format!(
                    "IPVS took the SYN-ACK from {} for service {service} and sent it to {server} \
                     ({who})",
                    flow.src
                ),
            ),
            kind::IPVS_NO_SERVER => (
                "ipvs-no-server",
                format!("IPVS found no server for service {service} ({} listed)", e.dests),
            ),
            kind::IPVS_VERDICT => ("ipvs-verdict", self.verdict_words(e, (service, server), &who)),
            _ => (
                "ipvs-old-connection",
                format!(
                    "IPVS knew {} to {service} from before ({} packets) and sent the SYN to its \
                     old server {server} ({who}), {}",
                    flow.src,
                    e.in_pkts,
                    if e.flags & (IPVS_GONE | IPVS_NO_DEST) != 0 {
                        "which the service does not list any more"
                    } else {
                        "which has weight 0: drained"
                    }
                ),
            ),
        };
        Evidence { ts: decision.ts, kind, text }
    }

    /// What the armed hook saw of a SYN.
    fn verdict_words(&self, e: &Ipvs, ends: (SocketAddr, SocketAddr), who: &str) -> String {
        let did = match e.verdict {
            NF_DROP => "dropped the SYN".to_owned(),
            NF_ACCEPT => "let the SYN pass".to_owned(),
            NF_STOLEN => "sent the SYN on".to_owned(),
            other => format!("gave the SYN verdict {other}"),
        };
        if e.flags & IPVS_LOOKED == 0 {
            return format!("IPVS {did} (armed hook; its search was not seen)");
        }
        if e.flags & IPVS_FOUND == 0 {
            return format!("IPVS knew no connection for it and {did} (armed hook)");
        }
        let (service, server) = ends;
        let dest = match e.flags {
            f if f & IPVS_GONE != 0 => "which was taken out of the service".to_owned(),
            f if f & IPVS_NO_DEST != 0 => "of which the service knows nothing".to_owned(),
            _ => format!("which has weight {}", e.weight),
        };
        format!(
            "IPVS found its connection of {} to {service} ({}, {} packets) with server {server} \
             ({who}), {dest}, and {did} (armed hook)",
            Flow::of(&e.tuple).src,
            state_name(e.state),
            e.in_pkts
        )
    }

    pub fn say_ipvs_entry(&self, entry: &Seen<IpvsEntry>) -> Evidence {
        let e = &entry.event;
        let text = format!(
            "/proc/net/ip_vs_conn: {} to {} is an old connection ({}) to server {}, {}",
            e.client,
            e.service,
            sanitize::text(&e.state),
            e.server,
            match e.weight {
                None => "which the service does not list any more".to_owned(),
                Some(weight) => format!("which has weight {weight}"),
            }
        );
        Evidence { ts: entry.ts, kind: "ipvs-connection", text }
    }
}

/// Service and real server; the latter has port 0 when there is none.
pub fn ipvs_ends(e: &Ipvs) -> (SocketAddr, SocketAddr) {
    let end = |bytes, port| SocketAddr::new(address(bytes, e.tuple.family), port);
    (end(&e.service, e.service_port), end(&e.server, e.server_port))
}

/// `IP_VS_TCP_S_*` as `/proc/net/ip_vs_conn` names it (ip_vs_proto_tcp.c, `tcp_state_name_table`).
pub fn state_name(state: u32) -> String {
    const NAMES: [&str; 11] = [
        "NONE",
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "SYNACK",
    ];
    let name = usize::try_from(state).ok().and_then(|at| NAMES.get(at));
    name.map_or_else(|| format!("state {state}"), |&name| name.to_owned())
}
