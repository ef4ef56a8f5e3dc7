//! What was seen at the devices of the node, in words.

use probe_common::{
    event::{DIRECTION_IN, DIRECTION_OUT, Departure},
    net::IPPROTO_TCP,
};

use crate::{
    correlate::{
        evidence::Seen,
        join::{Case, TCP_ACK, TCP_SYN},
        rules::left_the_node::{is_outside, link},
    },
    finding::{Evidence, Flow},
    output::sanitize,
};

/// `eth0`, printable.
pub fn device(e: &Departure) -> String {
    sanitize::c_string(&e.name)
}

impl Case<'_> {
    pub fn say_departure(&self, seen: &Seen<Departure>) -> Evidence {
        let e = &*seen.event;
        let flow = Flow::of(&e.tuple);
        let what = match e.tcp_flags & (TCP_SYN | TCP_ACK) {
            _ if e.tuple.proto != IPPROTO_TCP => format!("an ICMP error from {}", flow.src.ip()),
            TCP_SYN => format!("the SYN {} -> {}", flow.src, flow.dst),
            TCP_ACK => format!("a reset or acknowledgement from {}", flow.src),
            _ => format!("the SYN-ACK from {}", flow.src),
        };
        let wrapped = if e.inner == 0 { "" } else { ", wrapped by a tunnel," };
        let way = if e.direction == DIRECTION_IN { "came in" } else { "went out" };
        let text = format!(
            "{what}{wrapped} {way} by {} ({}) in {}",
            device(e),
            link(e),
            self.world.place(&e.header, seen.ts)
        );
        Evidence { ts: seen.ts, kind: "at-device", text }
    }

    /// What crossed the border of the node; where nothing did, how far the last packet came.
    pub fn say_departures(&self) -> Vec<Evidence> {
        let seen = self.departures();
        let (crossed, here): (Vec<_>, Vec<_>) =
            seen.into_iter().partition(|e| is_outside(&e.event));
        let sent = |e: &&&Seen<Departure>| e.event.direction == DIRECTION_OUT;
        let last = if crossed.is_empty() { here.iter().rfind(sent) } else { None };
        crossed.iter().chain(last).map(|e| self.say_departure(e)).collect()
    }
}
