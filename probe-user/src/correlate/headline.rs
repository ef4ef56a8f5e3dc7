//! Who waited for what, in one sentence.

use probe_common::net::IPPROTO_TCP;

use super::{
    rules::client_ports_exhausted::EADDRNOTAVAIL,
    symptom::{Side, Symptom, seconds},
    world::World,
};
use crate::finding::{Party, SymptomKind};

/// The one who suffers, unless it is the pod of a probe that failed.
pub fn victim(symptom: &Symptom, world: &World) -> Party {
    let address = symptom.flow.src.ip();
    let mut party = world.party(address, None, symptom.first);
    if symptom.side == Side::Packet && address.is_loopback() && symptom.netns != 0 {
        // Everybody has this address: it is the one of the namespace the packet was in.
        party.pod = Some(world.pods.name(symptom.netns, symptom.cookie, symptom.first));
        party.netns = Some(symptom.netns);
    }
    // The packet came from that pod if its address tells nobody, or is the node's own after NAT. One
    // of another pod was only forwarded: by an egress gateway, or a node that is a container itself.
    if symptom.side == Side::Packet
        && party.netns.is_none_or(|netns| netns == world.node.netns)
        && let Some(at) = symptom.at.filter(|at| at.netns == world.node.netns)
        && let Some(pod) = world.pods.behind(at.iif, symptom.first)
    {
        party.pod = Some(pod.name.clone());
        party.netns = Some(pod.netns);
    }
    if symptom.side == Side::Client {
        party.pod = Some(world.pods.name(symptom.netns, symptom.cookie, symptom.first));
        party.netns = Some(symptom.netns);
        party.process = (!symptom.comm.is_empty()).then(|| symptom.comm.clone());
        party.pid = (symptom.pid != 0).then_some(symptom.pid);
    }
    if address.is_unspecified() {
        party.address = None;
    }
    world.by_process(party)
}

pub fn headline(symptom: &Symptom, world: &World) -> String {
    let who = who(symptom, world);
    let server = symptom.server();
    let waited = symptom.waited(world.now);
    let open = symptom.ended.is_none();
    match symptom.kind {
        SymptomKind::DnsStall => {
            let asked = match &symptom.question {
                Some(q) => format!("asked {} for {} {}", server.ip(), q.name, q.qtype),
                None => format!("asked {} by DNS", server.ip()),
            };
            let end = match (symptom.side, symptom.answered, symptom.gave_up) {
                (Side::Packet, ..) => "and the query was dropped".to_owned(),
                (_, Some(_), Some(again)) => format!(
                    "and got an answer after {}, having asked again after {}",
                    seconds(waited),
                    seconds(again.saturating_sub(symptom.first))
                ),
                (_, Some(_), None) => format!("and waited {}", seconds(waited)),
                (_, None, Some(again)) => format!(
                    "and waited {} without an answer",
                    seconds(again.saturating_sub(symptom.first))
                ),
                (_, None, None) if open => format!("and has waited {} so far", seconds(waited)),
                (_, None, None) => format!("and waited {} without an answer", seconds(waited)),
            };
            format!("{who} {asked} {end}")
        }
        SymptomKind::ConnectRefused => format!("{who} was refused by {server}"),
        SymptomKind::ConnectStall if symptom.half_open => {
            format!("{who} believes to be connected to {server}, which did not take the connection")
        }
        SymptomKind::ConnectStall if symptom.side == Side::Packet => {
            if symptom.flow.proto == IPPROTO_TCP {
                format!("{who} could not connect to {server}")
            } else {
                let proto = super::flow::proto_name(symptom.flow.proto);
                format!("{who} sent to {server} ({proto}) and the packet was dropped")
            }
        }
        SymptomKind::ConnectStall if symptom.answered.is_some() => {
            format!(
                "{who} connected to {server} only{}",
                symptom.after(world.now.min(symptom.ended.unwrap_or(world.now)))
            )
        }
        SymptomKind::ConnectStall if open && symptom.first_known => {
            format!("{who} has tried for {} to connect to {server}", seconds(waited))
        }
        SymptomKind::ConnectStall if open => format!("{who} tries to connect to {server}"),
        SymptomKind::ConnectStall if symptom.err == EADDRNOTAVAIL => {
            format!("{who} could not connect to {server} for want of a local port")
        }
        SymptomKind::ConnectStall | SymptomKind::ProbeFailure => {
            let after = symptom.ended.map(|ts| symptom.after(ts)).unwrap_or_default();
            format!("{who} could not connect to {server} and gave up{after}")
        }
    }
}

fn who(symptom: &Symptom, world: &World) -> String {
    let party = victim(symptom, world);
    let process = match (&party.process, party.pid) {
        (Some(process), Some(pid)) => format!(" ({process} {pid})"),
        (Some(process), None) => format!(" ({process})"),
        _ => String::new(),
    };
    match (party.pod, party.address) {
        (Some(pod), _) if pod == "host" => format!("the node itself{process}"),
        (Some(pod), _) => format!("pod {pod}{process}"),
        (None, Some(address)) => format!("{address} (not a pod of this node)"),
        (None, None) => "someone".to_owned(),
    }
}
