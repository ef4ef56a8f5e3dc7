//! What IPVS decided, and what was armed for it.

use super::*;

/// A service in IPVS mode, and the NodePort that the host's own port collides with.
pub const IPVS_SERVICE: &str = "10.96.0.20:80";
pub const NODE_PORT: &str = "10.0.3.17:31055";

/// What IPVS decided on the client's SYN.
pub fn ipvs(kind: u16, server: Option<&str>) -> Ipvs {
    let service = tcp(IPVS_SERVICE, server.unwrap_or("0.0.0.0:0"));
    Ipvs {
        header: header(kind, HOST),
        tuple: tcp(CLIENT_END, IPVS_SERVICE),
        service: service.src,
        server: service.dst,
        service_port: service.sport,
        server_port: service.dport,
        ident: ISN,
        tcp_flags: 2,
        flags: 0,
        weight: u32::MAX,
        in_pkts: 0,
        state: 0,
        dests: 0,
        verdict: u32::MAX,
        _pad: 0,
    }
}

pub fn decided(ipvs: Ipvs) -> Body {
    Body::Ipvs(Box::new(ipvs))
}

/// What the armed hook saw of the client's SYN: its old connection to the web pod, which was taken
/// out of the service, and the hook's verdict.
pub fn ipvs_verdict(verdict: u32) -> Ipvs {
    let found = ipvs(kind::IPVS_VERDICT, Some(WEB_END));
    let flags = IPVS_LOOKED | IPVS_FOUND | IPVS_GONE;
    Ipvs { flags, weight: 0, in_pkts: 4, state: 5, verdict, ..found }
}

/// A step of arming for the client's flow to the IPVS service.
pub fn armed(step: Step) -> Body {
    let flow = Flow::of(&tcp(CLIENT_END, IPVS_SERVICE));
    Body::Armed(Box::new(Armed::new(Set::IpvsVerdict, flow, step)))
}

pub fn armed_now() -> Body {
    armed(Step::Armed { why: "a test".to_owned(), places: 4, took: 3 * MS })
}

pub fn let_go(outcome: LetGo, lasted: u64) -> Body {
    let spent = 402_000;
    armed(Step::LetGo { outcome, lasted: lasted * MS, runs: 402, matched: 0, spent })
}

/// The SYN was sent to the web pod, drained since, by a connection that had four packets.
pub fn stale() -> Ipvs {
    let found = ipvs(kind::IPVS_STALE, Some(WEB_END));
    Ipvs { weight: 0, in_pkts: 4, state: 3, ..found }
}

/// The web pod's SYN-ACK to the host, taken for a NodePort and sent to `dns-a`.
pub fn hijack() -> Ipvs {
    let ends = tcp(NODE_PORT, "10.244.2.2:8080");
    Ipvs {
        tuple: tcp(WEB_END, NODE_PORT),
        service: ends.src,
        server: ends.dst,
        service_port: ends.sport,
        server_port: ends.dport,
        tcp_flags: 0x12,
        weight: 1,
        dests: 1,
        ..ipvs(kind::IPVS_HIJACK, None)
    }
}

/// The client's old connection to the web pod, as it was read after its SYN was dropped.
pub fn ipvs_entry(weight: Option<u32>) -> Body {
    Body::IpvsEntry(IpvsEntry {
        netns: HOST,
        client: CLIENT_END.parse().unwrap(),
        service: IPVS_SERVICE.parse().unwrap(),
        server: WEB_END.parse().unwrap(),
        state: "TIME_WAIT".to_owned(),
        weight,
    })
}
