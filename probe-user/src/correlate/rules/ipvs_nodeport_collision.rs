//! `ipvs-nodeport-collision`: the client's own source port is the port of an IPVS service on the
//! node's address (a NodePort). IPVS takes the server's SYN-ACK for the first packet of a connection
//! to that service (`tcp_conn_schedule` asks for SYN and does not look at ACK) and sends it to one
//! of its pods, which answers with a reset.

use std::fmt::Write as _;

use probe_common::event::kind;

use super::Verdict;
use crate::{
    correlate::{
        describe::{ipvs_ends, sorted},
        join::Case,
    },
    event::LocalPorts,
    finding::{Cause, Confidence, Details, Fix, Flow, Party, Place, details::NodePort},
};

/// kube-apiserver's default for `--service-node-port-range`.
pub const NODE_PORTS: (u16, u16) = (30000, 32767);

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    let taken = case.ipvs(kind::IPVS_HIJACK);
    let first = taken.first()?;
    let world = case.world;
    let e = &*first.event;
    let (service, sent_to) = ipvs_ends(e);
    let server = Flow::of(&e.tuple).src;
    let owner = |ip| world.pods.owner_name(ip, first.ts);
    let sent_to = (sent_to.port() != 0).then_some(sent_to);
    let ports = world.local_ports(e.header.netns);
    let port = service.port();
    let details = NodePort {
        service,
        port,
        server,
        server_pod: owner(server.ip()),
        sent_to,
        sent_to_pod: sent_to.and_then(|to| owner(to.ip())),
        local_port_range: ports.map(|p| [p.low, p.high]),
        range_overlaps_node_ports: ports.map(|p| p.low <= NODE_PORTS.1 && NODE_PORTS.0 <= p.high),
        reserved_ports: ports.map(|p| show(&p.reserved)),
        port_is_reserved: ports.map(|p| holds(&p.reserved, port)),
        reserve: show(&merged(ports, port)),
    };
    let mut lines = case.symptom.notes.clone();
    lines.extend(taken.iter().map(|d| case.say_ipvs(d)));
    lines.extend(case.synacks().into_iter().map(|s| case.say_synack(s)));
    let got = match (&details.sent_to_pod, sent_to) {
        (Some(pod), Some(to)) => format!("pod {pod} ({to}) got it"),
        (None, Some(to)) => format!("{to} got it"),
        _ => "nobody got it, for the service has no server".to_owned(),
    };
    Some(Verdict {
        cause: Cause::IpvsNodeportCollision,
        confidence: Confidence::Certain,
        title: format!(
            "the client's source port {port} is also the port of IPVS service {service}: IPVS took \
             the SYN-ACK of {server} for a new connection to that service, and {got}"
        ),
        evidence: sorted(lines),
        culprit: Some(Party { address: Some(service.ip()), port: Some(port), ..Party::default() }),
        fold: service.to_string(),
        fix: fix(&details, ports),
        confirm: vec![format!(
            "on the node: `ipvsadm -Ln -t {service}` is a service, and `sysctl \
             net.ipv4.ip_local_port_range net.ipv4.ip_local_reserved_ports` leaves its port to clients"
        )],
        details: Details::NodePort(Box::new(details)),
    })
}

fn fix(details: &NodePort, ports: Option<&LocalPorts>) -> Vec<Fix> {
    let reserve = &details.reserve;
    let mut caveat = match ports {
        None => "what is reserved now could not be read: add it to the list, the value replaces it"
            .to_owned(),
        Some(ports) if ports.reserved.is_empty() => "nothing is reserved now".to_owned(),
        Some(ports) => format!("this holds what is reserved now ({})", show(&ports.reserved)),
    };
    if details.port_is_reserved == Some(true) || details.range_overlaps_node_ports == Some(false) {
        caveat.push_str(
            ". The program chose this port itself with bind(): that neither sysctl prevents, so \
             change the program",
        );
    }
    caveat.push_str(
        ". A cluster with another --service-node-port-range needs that range; a pod with its own \
         network namespace is not concerned",
    );
    vec![Fix {
        place: Place::Node,
        now: Some(format!("`sysctl -w net.ipv4.ip_local_reserved_ports={reserve}`")),
        lasting: Some(format!(
            "put net.ipv4.ip_local_reserved_ports={reserve} into /etc/sysctl.d, or keep \
             net.ipv4.ip_local_port_range clear of the NodePorts (the kernel's default begins at \
             32768)"
        )),
        caveat: Some(caveat),
    }]
}

pub fn holds(ranges: &[(u16, u16)], port: u16) -> bool {
    ranges.iter().any(|(low, high)| (*low..=*high).contains(&port))
}

/// What is reserved and the range of NodePorts (or the one port outside of it), in order and
/// without overlap.
fn merged(ports: Option<&LocalPorts>, port: u16) -> Vec<(u16, u16)> {
    let wanted = if holds(&[NODE_PORTS], port) { NODE_PORTS } else { (port, port) };
    let mut ranges = ports.map(|p| p.reserved.clone()).unwrap_or_default();
    ranges.push(wanted);
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (low, high) in ranges {
        match merged.last_mut() {
            Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
            _ => merged.push((low, high)),
        }
    }
    merged
}

/// As the sysctl is written: `8080,30000-32767`.
fn show(ranges: &[(u16, u16)]) -> String {
    let mut text = String::new();
    for (low, high) in ranges {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = match low == high {
            true => write!(text, "{comma}{low}"),
            false => write!(text, "{comma}{low}-{high}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve(reserved: &[(u16, u16)], port: u16) -> String {
        let ports = LocalPorts { reserved: reserved.to_vec(), ..LocalPorts::default() };
        show(&merged(Some(&ports), port))
    }

    #[test]
    fn what_is_reserved_stays_reserved() {
        assert_eq!(reserve(&[], 31055), "30000-32767");
        assert_eq!(reserve(&[(8080, 8080), (9148, 9150)], 31055), "8080,9148-9150,30000-32767");
        assert_eq!(reserve(&[(29000, 30500), (32768, 32770)], 31055), "29000-32770");
        assert_eq!(reserve(&[(30000, 40000)], 31055), "30000-40000");
        assert_eq!(reserve(&[(60000, 65535)], 8080), "8080,60000-65535");
        assert_eq!(reserve(&[(0, 65535)], 31055), "0-65535");
    }
}
