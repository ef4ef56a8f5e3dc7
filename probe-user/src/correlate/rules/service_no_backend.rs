//! `service-no-backend`: the service has no server that takes new connections. IPVS tells so at the
//! lookup (`ip_vs_leave`) and answers with ICMP port unreachable, which the client sees as refused.

use std::net::SocketAddr;

use probe_common::event::kind;

use super::Verdict;
use crate::{
    correlate::{
        describe::{ipvs_ends, sorted},
        join::Case,
    },
    finding::{Cause, Confidence, Details, Fix, Party, Place, details::NoBackend},
};

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    let told = case.ipvs(kind::IPVS_NO_SERVER);
    let first = told.first()?;
    let (service, _) = ipvs_ends(&first.event);
    let servers = first.event.dests;
    let mut lines = case.symptom.notes.clone();
    lines.extend(told.iter().map(|d| case.say_ipvs(d)));
    let listed = match servers {
        0 => "has no server".to_owned(),
        n => format!("has no server that takes new connections ({n} listed, all with weight 0)"),
    };
    Some(Verdict {
        cause: Cause::ServiceNoBackend,
        confidence: Confidence::Certain,
        title: format!("service {service} {listed}: IPVS refuses the connection"),
        evidence: sorted(lines),
        culprit: Some(Party {
            address: Some(service.ip()),
            port: Some(service.port()),
            ..Party::default()
        }),
        fold: service.to_string(),
        details: Details::NoBackend(NoBackend { service, servers, proxy: "ipvs" }),
        fix: vec![
            Fix {
                place: Place::Application,
                now: Some(format!(
                    "look at the endpoints of the service with address {}: `kubectl get services \
                     -A | grep {0}`, then `kubectl get endpointslices -n NAMESPACE -l \
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
                    "if there are ready endpoints, kube-proxy on this node does not follow: see \
                     its log and its access to the API server"
                        .to_owned(),
                ),
                caveat: None,
            },
        ],
        confirm: vec![confirm(service)],
    })
}

fn confirm(service: SocketAddr) -> String {
    format!("on the node: `ipvsadm -Ln -t {service}` (or -u for UDP) lists no server with a weight")
}
