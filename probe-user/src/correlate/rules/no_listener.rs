//! `no-listener`: the SYN or query itself reached a namespace where nobody listens on that port
//! (`tcp_v4_rcv`, `__udp4_lib_rcv` and their IPv6 twins: NO_SOCKET). An *answer* that meets no
//! socket is something else.

use std::net::SocketAddr;

use probe_common::event::{Drop, kind};

use super::Verdict;
use crate::{
    correlate::{
        describe::sorted,
        evidence::SeenDrop,
        join::{Case, Direction},
        symptom::Join,
        world::{Watch, World},
    },
    finding::{
        Cause, Confidence, Details, Fix, Flow, Party, Place, SymptomKind, details::NoListener,
    },
};

/// Where 5.10, which gives no reasons, drops a packet without a socket. The UDP functions drop
/// there for other reasons too.
const TCP_PLACES: [&str; 2] = ["tcp_v4_rcv", "tcp_v6_rcv"];
const UDP_PLACES: [&str; 4] = ["__udp4_lib_rcv", "__udp6_lib_rcv", "udp_rcv", "udpv6_rcv"];

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    let to_server = case.drops().into_iter().filter(|(_, way)| *way == Direction::ToServer);
    let (drop, confidence) =
        to_server.filter_map(|(d, _)| Some((d, met_no_socket(case, d)?))).next()?;
    let at = Flow::of(&drop.event.tuple).dst;
    let confidence = if may_be_drained(case, at) { Confidence::Likely } else { confidence };
    let header = &drop.event.header;
    let place = case.world.place(header, drop.ts);
    let is_dns = matches!(case.symptom.join, Join::Dns { .. });
    let proto = if is_dns { "UDP" } else { "TCP" };
    let mut lines = case.symptom.notes.clone();
    lines.push(case.say_drop(drop, Direction::ToServer));
    Some(Verdict {
        cause: Cause::NoListener,
        confidence,
        title: format!("nobody listens on {proto} port {} in {place} ({})", at.port(), at.ip()),
        evidence: sorted(lines),
        culprit: Some(Party {
            pod: Some(place.clone()),
            netns: Some(header.netns),
            address: Some(at.ip()),
            port: Some(at.port()),
            ..Party::default()
        }),
        fold: format!("{} {at}", header.netns),
        details: Details::NoListener(NoListener {
            address: at.ip(),
            port: at.port(),
            pod: case.world.pods.at(header.netns, header.cookie, drop.ts).map(|p| p.name.clone()),
        }),
        fix: vec![Fix {
            place: Place::Application,
            now: Some("see whether the program runs and has got as far as listen()".to_owned()),
            lasting: Some(
                "make the port of the container, the service's targetPort and the program's own \
                 setting agree; a readiness probe keeps traffic away until it listens"
                    .to_owned(),
            ),
            caveat: Some(
                "a program that listens on 127.0.0.1 only is not reached from other pods"
                    .to_owned(),
            ),
        }],
        confirm: vec![format!(
            "in the pod's network namespace: `ss -{}lnp 'sport = :{}'`",
            if is_dns { "u" } else { "t" },
            at.port()
        )],
    })
}

/// Whether IPVS, unwatched or with events of it lost, may have sent the SYN by an old connection to a
/// server that is drained and whose program has ended: then that is what to mend.
fn may_be_drained(case: &Case<'_>, at: SocketAddr) -> bool {
    let is_tcp = matches!(case.symptom.join, Join::Tcp { .. });
    let ipvs = case.world.watch(Cause::IpvsStaleConnection);
    let is_unseen = match ipvs {
        Watch::CannotSee(_) => true,
        Watch::CannotHappen(_) => false,
        Watch::Watched => {
            let since = *case.symptom.span().start();
            case.world.losses.since(since, &[kind::IPVS_STALE, kind::IPVS_VERDICT]).is_some()
        }
    };
    is_tcp && at != case.symptom.flow.dst && is_unseen
}

/// Whether a dropped packet seems to have met no socket, from what the kernel says of it alone.
pub fn is_without_socket(world: &World, drop: &Drop) -> bool {
    match world.reason(drop).as_deref() {
        Some(reason) => reason == "NO_SOCKET",
        None => world
            .function(drop.location)
            .is_some_and(|place| TCP_PLACES.contains(&place) || UDP_PLACES.contains(&place)),
    }
}

fn met_no_socket(case: &Case<'_>, drop: &SeenDrop) -> Option<Confidence> {
    match case.world.reason(&drop.event).as_deref() {
        Some("NO_SOCKET") => Some(Confidence::Certain),
        Some(_) => None,
        None => {
            let place = case.world.function(drop.event.location)?;
            let refused = case.symptom.kind == SymptomKind::ConnectRefused;
            if TCP_PLACES.contains(&place) && refused {
                Some(Confidence::Certain)
            } else {
                (UDP_PLACES.contains(&place) && case.last_word).then_some(Confidence::Likely)
            }
        }
    }
}
