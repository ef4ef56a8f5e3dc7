//! Events in words, for the lines of evidence.

mod conntrack;
pub mod departure;
mod ipvs;

use probe_common::{
    event::{
        DROP_INSERT_FAILED, DROP_TABLE_FULL, Dns, Listen, NF_INET_FORWARD, NF_INET_LOCAL_IN,
        NF_INET_LOCAL_OUT, Reject, STAGE_ACK, STAGE_SYN_PRESSURE, SynAck, kind,
    },
    net::FAMILY_V6,
};

pub use self::ipvs::{ipvs_ends, state_name};
use super::{
    evidence::{Seen, SeenDrop},
    join::{Case, Direction},
    symptom::seconds,
    world::overflowed,
};
use crate::{
    event::armed::{Armed, Set, Step},
    finding::{Evidence, Flow},
    output::sanitize,
};

impl Case<'_> {
    pub fn say_listen(&self, listen: &Seen<Listen>) -> Evidence {
        let e = &listen.event;
        let (what, kind) = if e.stage == STAGE_ACK {
            ("the final ACK of the handshake", "ack-refused")
        } else {
            ("the SYN", "syn-refused")
        };
        let why = if overflowed(e) {
            format!(
                "{} connections wait for accept(), more than the {} allowed",
                e.ack_backlog, e.max_ack_backlog
            )
        } else if e.stage == STAGE_SYN_PRESSURE {
            format!(
                "{} half-open connections, less than a quarter of tcp_max_syn_backlog {} is left, \
                 syncookies {}",
                e.qlen, e.max_syn_backlog, e.syncookies
            )
        } else {
            format!(
                "{} half-open connections, limits {} and tcp_max_syn_backlog {}, syncookies {}",
                e.qlen, e.max_ack_backlog, e.max_syn_backlog, e.syncookies
            )
        };
        let text = format!(
            "listener {} in {} refused {what}: {why}",
            Flow::of(&e.tuple).dst,
            self.world.place(&e.header, listen.ts)
        );
        Evidence { ts: listen.ts, kind, text }
    }

    pub fn say_synack(&self, synack: &Seen<SynAck>) -> Evidence {
        let e = &synack.event;
        let text = format!(
            "{} in {} sent its SYN-ACK again (time {}); accept queue {} of {}",
            Flow::of(&e.tuple).dst,
            self.world.place(&e.header, synack.ts),
            e.retransmits,
            e.ack_backlog,
            e.max_ack_backlog
        );
        Evidence { ts: synack.ts, kind: "synack-retransmit", text }
    }

    pub fn say_drop(&self, drop: &SeenDrop, direction: Direction) -> Evidence {
        let e = &drop.event;
        let flow = Flow::of(&e.tuple);
        let dns = matches!(self.symptom.join, super::symptom::Join::Dns { .. });
        let what = match (direction, dns) {
            (Direction::ToServer, true) => format!("the query to {}", flow.dst),
            (Direction::ToClient, true) => format!("an answer from {}", flow.src),
            (Direction::ToServer, false) => format!("the packet to {}", flow.dst),
            (Direction::ToClient, false) => format!("the reply from {}", flow.src),
        };
        let not_asked = dns
            && direction == Direction::ToClient
            && !(self.symptom.servers.contains(&flow.src.ip())
                && flow.src.port() == self.symptom.flow.dst.port());
        let reason = self.world.reason(e);
        let by = match reason.as_deref() {
            Some("NO_SOCKET") => "met no socket (NO_SOCKET)".to_owned(),
            _ if e.flags & DROP_TABLE_FULL != 0 => {
                "was dropped: no room in the conntrack table".to_owned()
            }
            _ if e.flags & DROP_INSERT_FAILED != 0 => {
                "was dropped: conntrack did not take its new entry".to_owned()
            }
            Some("NETFILTER_DROP") => "was dropped by netfilter (NETFILTER_DROP)".to_owned(),
            Some(reason) => format!("was dropped ({reason})"),
            None => "was dropped".to_owned(),
        };
        let text = format!(
            "{what}{} {by} at {} in {}",
            if not_asked { ", which was not asked," } else { "" },
            self.world.symbol(e.location),
            self.world.place(&e.header, drop.ts)
        );
        Evidence { ts: drop.ts, kind: "packet-dropped", text }
    }

    /// When a set was armed for this flow, and what came of it.
    pub fn say_armed(&self, set: Set) -> Vec<Evidence> {
        let line = |seen: &Seen<Armed>| {
            let what = match set {
                Set::IpvsVerdict => "IPVS's verdict on the flow's next SYN",
                Set::ConntrackEntry => "conntrack's view of the flow's packets",
                Set::Departure => "where the connect's packets leave and come in",
            };
            let text = match &seen.event.step {
                Step::Armed { .. } => format!("armed: {what} is watched from here on"),
                Step::LetGo { outcome, lasted, .. } => {
                    format!(
                        "armed: {what} was watched for {}: {}",
                        seconds(*lasted),
                        outcome.words()
                    )
                }
                Step::Refused { why } => {
                    format!("{what} could not be watched: {}", sanitize::text(why))
                }
            };
            Evidence { ts: seen.ts, kind: ARMED, text }
        };
        self.armed(set).into_iter().map(line).collect()
    }

    pub fn say_reject(&self, reject: &Seen<Reject>) -> Evidence {
        let e = &reject.event;
        let text = format!(
            "a netfilter rule in {} ({}) rejected the packet to {} with {}",
            self.world.place(&e.header, reject.ts),
            hook_name(e.hook),
            Flow::of(&e.tuple).dst,
            code_name(e.tuple.family, e.code)
        );
        Evidence { ts: reject.ts, kind: "packet-rejected", text }
    }

    pub fn say_stray(&self, stray: &Seen<Dns>) -> Evidence {
        let from = Flow::of(&stray.event.tuple).dst;
        let text = format!("an answer came from {from}, which was not asked");
        Evidence { ts: stray.ts, kind: "wrong-source", text }
    }

    pub fn say_server(&self, server: &Seen<Dns>) -> Evidence {
        let e = &server.event;
        let place = self.world.place(&e.header, server.ts);
        let at = Flow::of(&e.tuple).dst;
        if e.header.kind == kind::DNS_SERVER_PENDING {
            let text = format!(
                "the query reached the server {at} in {place}, which had not answered {} later",
                seconds(server.ts.saturating_sub(e.first))
            );
            return Evidence { ts: server.ts, kind: "server-pending", text };
        }
        let text = format!(
            "{} in {place} answered {} after the query arrived",
            self.server_process(e),
            seconds(e.answered.saturating_sub(e.first))
        );
        Evidence { ts: server.ts, kind: "server-answer", text }
    }

    pub fn server_process(&self, e: &Dns) -> String {
        let comm = sanitize::c_string(&e.comm);
        if comm.is_empty() {
            "the server".to_owned()
        } else if e.pid == 0 {
            comm
        } else {
            format!("{comm} (pid {})", e.pid)
        }
    }

    /// All that is joined to the stall, in order of time.
    pub fn say_all(&self) -> Vec<Evidence> {
        let mut lines = self.symptom.notes.clone();
        lines.extend(self.listens().into_iter().map(|e| self.say_listen(e)));
        lines.extend(self.synacks().into_iter().map(|e| self.say_synack(e)));
        lines.extend(self.clashes().into_iter().map(|e| self.say_clash(e)));
        lines.extend(self.drops().into_iter().map(|(e, way)| self.say_drop(e, way)));
        let kinds = [kind::IPVS_HIJACK, kind::IPVS_NO_SERVER, kind::IPVS_STALE, kind::IPVS_VERDICT];
        for kind in kinds {
            lines.extend(self.ipvs(kind).into_iter().map(|e| self.say_ipvs(e)));
        }
        lines.extend(self.say_armed(Set::IpvsVerdict));
        lines.extend(self.rejects().into_iter().map(|e| self.say_reject(e)));
        lines.extend(self.say_probe());
        lines.extend(self.ipvs_entries().into_iter().map(|(e, _)| self.say_ipvs_entry(e)));
        lines.extend(self.ct_entries().into_iter().map(|(e, way)| self.say_ct_entry(e, way)));
        lines.extend(self.say_armed(Set::Departure));
        lines.extend(self.say_departures());
        lines.extend(self.strays().into_iter().map(|e| self.say_stray(e)));
        lines.extend(self.servers().into_iter().map(|e| self.say_server(e)));
        sorted(lines)
    }
}

/// The chain of iptables that belongs to a netfilter hook.
fn hook_name(hook: u32) -> &'static str {
    match hook {
        0 => "PREROUTING",
        NF_INET_LOCAL_IN => "INPUT",
        NF_INET_FORWARD => "FORWARD",
        NF_INET_LOCAL_OUT => "OUTPUT",
        4 => "POSTROUTING",
        _ => "another hook",
    }
}

/// The code of an ICMP message as iptables names it (RFC 792, RFC 1812; RFC 4443).
fn code_name(family: u8, code: u32) -> String {
    let names: &[&str] = if family == FAMILY_V6 {
        &["no-route", "adm-prohibited", "beyond-scope", "addr-unreachable", "port-unreachable"]
    } else {
        &["net-unreachable", "host-unreachable", "proto-unreachable", "port-unreachable"]
    };
    let at = usize::try_from(code).unwrap_or(usize::MAX);
    let name = match (family, code) {
        (FAMILY_V6, _) => names.get(at).copied(),
        (_, 9) => Some("net-prohibited"),
        (_, 10) => Some("host-prohibited"),
        (_, 13) => Some("admin-prohibited"),
        _ => names.get(at).copied(),
    };
    let icmp = if family == FAMILY_V6 { "icmp6" } else { "icmp" };
    name.map_or_else(|| format!("{icmp} code {code}"), |name| format!("{icmp}-{name}"))
}

/// The kind of the lines that tell of armed hooks.
pub const ARMED: &str = "armed";

/// How many lines of evidence a finding carries.
const LINES: usize = 12;

/// Lines in order of time, each once, and not more than a person reads.
pub fn sorted(mut lines: Vec<Evidence>) -> Vec<Evidence> {
    lines.sort_by_key(|line| line.ts);
    lines.dedup_by(|a, b| a.text == b.text);
    lines.truncate(LINES);
    lines
}
