//! `service-no-backend`: the service has no server that takes new connections. IPVS tells so at the
//! lookup (`ip_vs_leave`); in iptables and nftables mode a rule of kube-proxy rejects the packet
//! (`nf_send_unreach`), which still has the service's address because no other rule translated it.
//! All answer with ICMP port unreachable, which the client sees as refused.

use std::net::SocketAddr;

use probe_common::{
    event::{
        NF_INET_FORWARD, NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT, PORT_UNREACH_V4, PORT_UNREACH_V6,
        Reject, kind,
    },
    net::FAMILY_V6,
};

use super::Verdict;
use crate::{
    correlate::{
        describe::{ipvs_ends, sorted},
        join::Case,
    },
    finding::{
        Cause, Confidence, Details, Evidence, Fix, Flow, Party, Place, SymptomKind,
        details::NoBackend,
    },
};

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    by_ipvs(case).or_else(|| by_rule(case))
}

fn by_ipvs(case: &Case<'_>) -> Option<Verdict> {
    let told = case.ipvs(kind::IPVS_NO_SERVER);
    let first = told.first()?;
    let (service, _) = ipvs_ends(&first.event);
    let servers = first.event.dests;
    let lines = told.iter().map(|d| case.say_ipvs(d)).collect();
    let listed = match servers {
        0 => "has no server".to_owned(),
        n => format!("has no server that takes new connections ({n} listed, all with weight 0)"),
    };
    let title = format!("service {service} {listed}: IPVS refuses the connection");
    let details = NoBackend { service, servers, proxy: "ipvs", name: None };
    let confirm = format!(
        "on the node: `ipvsadm -Ln -t {service}` (or -u for UDP) lists no server with a weight"
    );
    Some(verdict(case, Confidence::Certain, title, lines, details, confirm))
}

/// kube-proxy's rule for a service without endpoints. `certain` only for a service that is known
/// with this very port: nftables mode rejects other ports of a service's address in the same way,
/// and a firewall may do it anywhere.
fn by_rule(case: &Case<'_>) -> Option<Verdict> {
    let world = case.world;
    let proxy = match world.node.kube_proxy.as_str() {
        "iptables" => "iptables",
        "nftables" => "nftables",
        _ => return None,
    };
    let told = case.rejects();
    let first = told
        .iter()
        .find(|r| r.event.header.netns == world.node.netns && may_be_kube_proxy(&r.event))?;
    let flow = Flow::of(&first.event.tuple);
    let service = flow.dst;
    if world.pods.owner(service.ip(), first.ts).is_some() {
        return None;
    }
    let known = world.service(flow.proto, service);
    let what = match case.symptom.kind {
        SymptomKind::DnsStall => "query",
        _ => "connection",
    };
    // In nftables mode kube-proxy also refuses ports that a service does not have, or not any more.
    let is_for_ports = proxy == "nftables";
    let (confidence, title) = match known {
        Some(known) => {
            let name = known.name.as_ref().map(|name| format!("{name} ")).unwrap_or_default();
            let or_port = if is_for_ports { ", or not this port any more" } else { "" };
            let title = format!(
                "service {name}{service} has no endpoint{or_port}: kube-proxy's rule ({proxy} mode) \
                 refuses the {what}"
            );
            match is_for_ports {
                false => (Confidence::Certain, title),
                true if case.last_word => (Confidence::Likely, title),
                true => return None,
            }
        }
        None if case.last_word && world.is_near_services(service.ip()) => {
            let or_port =
                if is_for_ports { ", or for a port that the service does not have" } else { "" };
            let title = format!(
                "a rule refuses the {what} to {service} as kube-proxy ({proxy} mode) does for a \
                 service without endpoints{or_port}"
            );
            (Confidence::Likely, title)
        }
        None => return None,
    };
    let lines = told.iter().map(|r| case.say_reject(r)).collect();
    let name = known.and_then(|known| known.name.clone());
    let details = NoBackend { service, servers: 0, proxy, name };
    let confirm = confirm(proxy, service);
    Some(verdict(case, confidence, title, lines, details, confirm))
}

/// Whether kube-proxy may have done this: its rules say "port unreachable", behind routing.
fn may_be_kube_proxy(e: &Reject) -> bool {
    let code = if e.tuple.family == FAMILY_V6 { PORT_UNREACH_V6 } else { PORT_UNREACH_V4 };
    e.code == code && matches!(e.hook, NF_INET_LOCAL_IN | NF_INET_FORWARD | NF_INET_LOCAL_OUT)
}

fn verdict(
    case: &Case<'_>,
    confidence: Confidence,
    title: String,
    told: Vec<Evidence>,
    details: NoBackend,
    confirm: String,
) -> Verdict {
    let service = details.service;
    let mut lines = case.symptom.notes.clone();
    lines.extend(told);
    Verdict {
        cause: Cause::ServiceNoBackend,
        confidence,
        title,
        evidence: sorted(lines),
        culprit: Some(Party {
            address: Some(service.ip()),
            port: Some(service.port()),
            ..Party::default()
        }),
        fold: service.to_string(),
        details: Details::NoBackend(details),
        fix: fix(service),
        confirm: vec![confirm],
    }
}

fn fix(service: SocketAddr) -> Vec<Fix> {
    vec![
        Fix {
            place: Place::Application,
            now: Some(format!(
                "look at the endpoints of the service with address {}: `kubectl get services -A | \
                 grep {0}`, then `kubectl get endpointslices -n NAMESPACE -l \
                 kubernetes.io/service-name=NAME`",
                service.ip()
            )),
            lasting: Some(
                "no pod matches the service's selector, or none is ready: see their readiness \
                 probes; a PodDisruptionBudget and more than one replica keep one ready"
                    .to_owned(),
            ),
            caveat: None,
        },
        Fix {
            place: Place::KubeProxy,
            now: None,
            lasting: Some(
                "if there are ready endpoints, kube-proxy on this node does not follow: see its \
                 log and its access to the API server"
                    .to_owned(),
            ),
            caveat: None,
        },
    ]
}

fn confirm(proxy: &str, service: SocketAddr) -> String {
    let (six, ip) = (if service.is_ipv6() { "6" } else { "" }, service.ip());
    match proxy {
        "nftables" => format!(
            "on the node: `nft list map ip{six} kube-proxy no-endpoint-services | grep '{ip} '`"
        ),
        _ => format!(
            "on the node: `ip{six}tables-save -t filter | grep 'has no endpoints' | grep '{ip}/'`"
        ),
    }
}
