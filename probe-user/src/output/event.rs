//! The raw events, one line each: for people who want to see what findings are made from.

use std::{fmt::Write, net::SocketAddr};

use probe_common::{
    event::{
        CT_INVALID, CT_UNTRACKED, Clash, Connect, CtEntry, DIRECTION_OUT, DROP_INSERT_FAILED,
        DROP_TABLE_FULL, Departure, Dns, Drop, IPVS_GONE, IPVS_NO_DEST, Ipvs, Listen, PROBE_CLOSED,
        PROBE_GAVE_UP, PROBE_LATE, Packet, Probe, ProbeServer, ProbeSteps, Reject, STAGE_ACK,
        STAGE_SYN_PRESSURE, STAGE_SYN_QUEUE, SynAck, kind,
    },
    net::{Conntrack, Tuple},
};
use serde_json::{Value, json};

use super::{
    json::Json,
    sanitize,
    time::{relative, short, span},
};
use crate::{
    correlate::{Correlator, dns::qtype_name, flow::address as address_of},
    event::{
        Body, Container, Event, ListenQueue, Outcome, PodChange,
        armed::{Armed, Step},
    },
    finding::Flow,
    pipeline::{Pipeline, WallClock},
};

/// The stable name of an event kind.
pub const fn kind_name(kind: u16) -> &'static str {
    match kind {
        kind::LISTEN_DROP => "listen-drop",
        kind::SYN_RETRANSMIT => "syn-retransmit",
        kind::CONNECT_END => "connect-end",
        kind::SYNACK_RETRANSMIT => "synack-retransmit",
        kind::CLASH => "clash",
        kind::TABLE_FULL => "table-full",
        kind::DROP => "drop",
        kind::DNS_RETRY => "dns-retry",
        kind::DNS_ANSWER => "dns-answer",
        kind::DNS_READ => "dns-read",
        kind::DNS_WRONG_SOURCE => "dns-wrong-source",
        kind::DNS_CLOSE => "dns-close",
        kind::DNS_SERVER_ANSWER => "dns-server-answer",
        kind::DNS_UNANSWERED => "dns-unanswered",
        kind::DNS_SERVER_PENDING => "dns-server-pending",
        kind::IPVS_HIJACK => "ipvs-hijack",
        kind::IPVS_NO_SERVER => "ipvs-no-server",
        kind::IPVS_STALE => "ipvs-stale",
        kind::IPVS_EXPIRED => "ipvs-expired",
        kind::ARMED => "armed",
        kind::IPVS_VERDICT => "ipvs-verdict",
        kind::CT_ENTRY => "ct-entry",
        kind::DEPARTURE => "departure",
        kind::REJECT => "reject",
        kind::PROBE_END => "probe-end",
        kind::PROBE_SERVER => "probe-server",
        kind::PROBE_SERVED => "probe-served",
        kind::PACKET => "packet",
        kind::PROBE_SEEN => "probe-seen",
        kind::PROBE_STEPS => "probe-steps",
        _ => "unknown",
    }
}

/// One line of text without its line break; `None` for the loader's own regular readings (ticks,
/// clocks, counters, totals), of which nobody wants a line several times a second.
pub fn text(event: &Event, pipeline: &Pipeline) -> Option<String> {
    let (name, place, words) = words(event, pipeline.correlator())?;
    let time = short(pipeline.clock(), event.ts);
    let us = pipeline.clock().wall(event.ts).unwrap_or(event.ts) % 1_000_000_000 / 1000;
    let place = place.map(|p| format!(" [{p}]")).unwrap_or_default();
    Some(format!("{time}.{us:06} {name}{place} {words}"))
}

/// The same as a JSON line of type `event`.
pub fn json(event: &Event, pipeline: &Pipeline, json: &Json) -> Option<String> {
    let (name, place, words) = words(event, pipeline.correlator())?;
    let mut body = json!({"event": name, "netns": place, "text": words});
    if let Value::Object(body) = &mut body
        && let Some(Value::Object(fields)) = fields(event)
    {
        body.extend(fields);
    }
    let clock: WallClock = pipeline.clock();
    Some(json.line("event", clock, event.ts, Ok(body)))
}

/// Name of the event, of the namespace it happened in, and the rest in words.
fn words(event: &Event, names: &Correlator) -> Option<(&'static str, Option<String>, String)> {
    let Some(header) = event.header() else { return loader_words(&event.body) };
    let place = names.place(header.netns, header.cookie, event.ts);
    let words = match &event.body {
        Body::Listen(e) => listen(e),
        Body::Connect(e) => connect(e),
        Body::SynAck(e) => synack(e),
        Body::Clash(e) => clash(e),
        Body::TableFull(e) => format!("evicted={}", e.evicted),
        Body::Drop(e) => drop(e, names),
        Body::Dns(e) => dns(e, event.ts),
        Body::Ipvs(e) => ipvs(e),
        Body::CtEntry(e) => ct_entry(e),
        Body::Reject(e) => reject(e),
        Body::Probe(e) => probe(e),
        Body::ProbeServer(e) => probe_server(e),
        Body::Packet(e) => packet(e),
        Body::ProbeSteps(e) => probe_steps(e),
        Body::Departure(e) => departure(e),
        _ => return None,
    };
    Some((kind_name(header.kind), Some(place), words))
}

/// Its name, else the beginning of its id.
fn container_words(container: &Container) -> String {
    let Container { id, name } = sanitize::container(container);
    name.unwrap_or_else(|| id.chars().take(12).collect())
}

fn loader_words(body: &Body) -> Option<(&'static str, Option<String>, String)> {
    Some(match body {
        Body::Pod(PodChange::Up(pod)) => {
            let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
            let name = sanitize::text(&pod.name);
            let veth: Vec<String> = pod.veth.iter().map(|index| format!(" veth={index}")).collect();
            let words = format!("netns={} {}{}", pod.netns, addresses.join(" "), veth.concat());
            ("pod-up", Some(name), words)
        }
        Body::Pod(PodChange::Gone { netns }) => ("pod-gone", None, format!("netns={netns}")),
        Body::Listener(l) => {
            let comm = sanitize::text(&l.comm);
            ("listener", None, format!("socket={} pid={} comm={comm}", l.ino, l.pid))
        }
        Body::Process(p) => {
            let of = p.pod.as_deref().map(|pod| format!(" of {}", sanitize::text(pod)));
            let kubelet = match (p.kubelet, p.has_kubelet) {
                (true, _) => " kubelet",
                (_, true) => " with a kubelet",
                _ => "",
            };
            let container =
                p.container.as_ref().map(|c| format!(" container {}", container_words(c)));
            let [of, container] = [of, container].map(Option::unwrap_or_default);
            ("process", None, format!("pid={}{of}{container}{kubelet}", p.pid))
        }
        Body::IpvsEntry(e) => {
            let weight =
                e.weight.map_or_else(|| "not listed".to_owned(), |w| format!("weight {w}"));
            let state = sanitize::text(&e.state);
            let words = format!("{} -> {} -> {} {state}, {weight}", e.client, e.service, e.server);
            ("ipvs-entry", None, words)
        }
        Body::LocalPorts(p) => {
            let words = format!("netns={} {}-{} reserved {:?}", p.netns, p.low, p.high, p.reserved);
            ("local-ports", None, words)
        }
        Body::Armed(e) => armed(e),
        Body::SynSent(e) => {
            let outcome = match e.outcome {
                Outcome::Trying => "trying",
                Outcome::Established => "established",
                Outcome::Gone => "gone",
            };
            let words = format!(
                "netns={} {} -> {} retransmits={} {outcome}",
                e.netns, e.client, e.server, e.retransmits
            );
            ("syn-sent", None, words)
        }
        Body::ListenQueues(e) => {
            let queue = |q: &ListenQueue| format!("{} {}", q.address, q.waiting);
            let queues: Vec<String> = e.queues.iter().map(queue).collect();
            let cut = if e.cut { " and more" } else { "" };
            ("listen-queues", None, format!("netns={} {}{cut}", e.netns, queues.join(", ")))
        }
        Body::ServerQueue(e) => {
            let q = &e.queue;
            let words = format!(
                "netns={} {} -> {}: {} wait at {} socket={}",
                e.netns, e.client, e.server, q.waiting, q.address, q.ino
            );
            ("server-queue", None, words)
        }
        Body::Service(s) => {
            let name = s.name.as_deref().map(sanitize::text).unwrap_or_default();
            let proto = crate::correlate::flow::proto_name(s.proto);
            ("service", None, format!("{proto} {} {name} pid={}", s.address, s.pid))
        }
        Body::Sysctls(s) => {
            let pairs = s.values.iter().map(|(name, value)| format!(" {name}={value:?}"));
            let words = format!("netns={}{}", s.netns, pairs.collect::<String>());
            ("sysctls", None, sanitize::text(&words))
        }
        Body::Hooks(hooks) => ("hooks", None, format!("{} hooks", hooks.len())),
        _ => return None,
    })
}

fn armed(e: &Armed) -> (&'static str, Option<String>, String) {
    let (set, flow) = (e.set.id(), e.flow());
    match &e.step {
        Step::Armed { why, places, took } => {
            let why = sanitize::text(why);
            let words =
                format!("{set} for {flow}: {places} places in {}, because {why}", span(*took));
            ("armed", None, words)
        }
        Step::LetGo { outcome, lasted, runs, matched, spent } => {
            let words = format!(
                "{set} for {flow}: {} after {}; ran {runs} times ({matched} for the flow), \
                 {:.3} ms of CPU time",
                outcome.words(),
                span(*lasted),
                *spent as f64 / 1e6
            );
            ("let-go", None, words)
        }
        Step::Refused { why } => {
            ("not-armed", None, format!("{set} for {flow}: {}", sanitize::text(why)))
        }
    }
}

fn listen(e: &Listen) -> String {
    format!(
        "{} {} refused{}, isn={:#010x} accept queue {}/{} half-open {} somaxconn {}",
        Flow::of(&e.tuple),
        if e.stage == STAGE_ACK { "ACK" } else { "SYN" },
        match e.stage {
            STAGE_SYN_QUEUE => " (half-open queue full)",
            STAGE_SYN_PRESSURE => " (last quarter of tcp_max_syn_backlog)",
            _ => "",
        },
        e.isn,
        e.ack_backlog,
        e.max_ack_backlog,
        e.qlen,
        e.somaxconn
    )
}

fn connect(e: &Connect) -> String {
    format!(
        "{} isn={:#010x} retransmits={} outcome={} err={} {} {}",
        Flow::of(&e.tuple),
        e.isn,
        e.retransmits,
        e.outcome,
        e.err,
        sanitize::c_string(&e.comm),
        e.pid
    )
}

fn synack(e: &SynAck) -> String {
    format!(
        "{} isn={:#010x} retransmits={} accept queue {}/{}",
        Flow::of(&e.tuple),
        e.isn,
        e.retransmits,
        e.ack_backlog,
        e.max_ack_backlog
    )
}

fn clash(e: &Clash) -> String {
    format!(
        "loser {} winner {} hit_dir={} verdict={} status_after={:#x} ident={:#x} jiffies={} skb={:#x}",
        entry(&e.loser),
        entry(&e.winner),
        e.hit_dir,
        e.verdict.cast_signed(),
        e.status_after,
        e.ident,
        e.jiffies,
        e.skb
    )
}

fn entry(ct: &Conntrack) -> String {
    format!(
        "[{} reply {} status={:#x} timeout={}]",
        Flow::of(&ct.orig),
        Flow::of(&ct.reply),
        ct.status,
        ct.timeout
    )
}

fn drop(e: &Drop, names: &Correlator) -> String {
    let full = match e.flags {
        f if f & DROP_TABLE_FULL != 0 => " table-full",
        f if f & DROP_INSERT_FAILED != 0 => " insert-failed",
        _ => "",
    };
    format!(
        "{} flags={:#04x} ident={:#x} at {} {}{full} skb={:#x}",
        Flow::of(&e.tuple),
        e.tcp_flags,
        e.ident,
        names.symbol(e.location),
        names.reason(e).unwrap_or_else(|| "(no reason)".to_owned()),
        e.skb
    )
}

fn dns(e: &Dns, now: u64) -> String {
    let kept = e.question.name.get(..usize::from(e.question.name_len)).unwrap_or(&e.question.name);
    format!(
        "{} id={:#06x} {} {} first={} attempts={} servers={} rcode={} sk={:#x} {} {}",
        Flow::of(&e.tuple),
        e.question.id,
        sanitize::dns_name(kept),
        qtype_name(e.question.qtype),
        relative(now, e.first),
        e.attempts,
        e.servers,
        e.rcode,
        e.sk,
        sanitize::c_string(&e.comm),
        e.pid
    )
}

fn ipvs(e: &Ipvs) -> String {
    let end = |address, port| SocketAddr::new(address_of(address, e.tuple.family), port);
    let dest = match e.flags {
        f if f & IPVS_NO_DEST != 0 => "none".to_owned(),
        f if f & IPVS_GONE != 0 => "gone".to_owned(),
        _ if e.weight == u32::MAX => "?".to_owned(),
        _ => e.weight.to_string(),
    };
    let verdict = match e.verdict {
        u32::MAX => String::new(),
        verdict => format!(" verdict={verdict} found={:#x}", e.flags),
    };
    format!(
        "{} flags={:#04x} ident={:#x} service {} (servers {}) server {} weight={dest} in_pkts={} state={}{verdict}",
        Flow::of(&e.tuple),
        e.tcp_flags,
        e.ident,
        end(&e.service, e.service_port),
        e.dests,
        end(&e.server, e.server_port),
        e.in_pkts,
        e.state
    )
}

fn ct_entry(e: &CtEntry) -> String {
    let found = match e.info {
        _ if e.ct.present != 0 => entry(&e.ct),
        CT_INVALID => "INVALID".to_owned(),
        CT_UNTRACKED => "UNTRACKED".to_owned(),
        info => format!("no entry (info {info})"),
    };
    format!(
        "{} flags={:#04x} ident={:#x} {found} info={} verdict={} jiffies={} skb={:#x}",
        Flow::of(&e.tuple),
        e.tcp_flags,
        e.ident,
        e.info,
        e.verdict,
        e.jiffies,
        e.skb
    )
}

fn departure(e: &Departure) -> String {
    let way = if e.direction == DIRECTION_OUT { "out" } else { "in" };
    let link = sanitize::c_string(&e.link);
    format!(
        "{} {way} {} ({}, index {}{}) flags={:#04x} isn={:#010x} skb={:#x}",
        Flow::of(&e.tuple),
        sanitize::c_string(&e.name),
        if link.is_empty() { "no link kind" } else { &link },
        e.ifindex,
        if e.inner == 0 { "" } else { ", wrapped" },
        e.tcp_flags,
        e.ident,
        e.skb
    )
}

fn reject(e: &Reject) -> String {
    let ct = if e.ct.present == 0 { "no entry".to_owned() } else { entry(&e.ct) };
    format!(
        "{} flags={:#04x} ident={:#x} code={} hook={} {ct} skb={:#x}",
        Flow::of(&e.tuple),
        e.tcp_flags,
        e.ident,
        e.code,
        e.hook,
        e.skb
    )
}

fn probe(e: &Probe) -> String {
    let outcome = match e.outcome {
        PROBE_GAVE_UP => "given up",
        PROBE_CLOSED => "closed by the server",
        PROBE_LATE => "answered late",
        _ => "unknown",
    };
    format!(
        "{} {outcome} after {}, pid={} comm={} isn={:#010x} sent={} received={} silent for {} \
         retransmits={} unacked={} err={} sk={:#x}",
        Flow::of(&e.tuple),
        span(e.header.ts.saturating_sub(e.started)),
        e.pid,
        sanitize::c_string(&e.comm),
        e.isn,
        e.sent,
        e.received,
        span(e.silence),
        e.retransmits,
        e.unacked,
        e.err,
        e.sk
    )
}

fn probe_server(e: &ProbeServer) -> String {
    format!(
        "{} accepted={} socket={} received={} unread={} sent={} captured={} sk={:#x}",
        Flow::of(&e.tuple),
        e.accepted,
        e.ino,
        e.received,
        e.unread,
        e.sent,
        e.captured,
        e.sk
    )
}

fn packet(e: &Packet) -> String {
    let with = u16::try_from(e.with).map_or("unknown", kind_name);
    let captured = usize::try_from(e.captured).unwrap_or(usize::MAX);
    let bytes = e.bytes.get(..captured).unwrap_or(&e.bytes);
    format!(
        "{} flags={:#04x} ident={:#x} with={with} at={} len={} captured={} skb={:#x} {}",
        Flow::of(&e.tuple),
        e.tcp_flags,
        e.ident,
        relative(e.header.ts, e.at),
        e.packet_len,
        e.captured,
        e.skb,
        hex(bytes)
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn probe_steps(e: &ProbeSteps) -> String {
    let [accept, read, answer, none] = e.count;
    format!(
        "{} seen not accepted {accept}, not read {read}, not answered {answer}, done {none} times, \
         received={} sk={:#x}",
        Flow::of(&e.tuple),
        e.received,
        e.sk
    )
}

/// The flow as fields, for filters; of an arming also what came of it.
fn fields(event: &Event) -> Option<Value> {
    let tuple: &Tuple = match &event.body {
        Body::Listen(e) => &e.tuple,
        Body::Connect(e) => &e.tuple,
        Body::SynAck(e) => &e.tuple,
        Body::Clash(e) => &e.loser.orig,
        Body::Drop(e) => &e.tuple,
        Body::Dns(e) => &e.tuple,
        Body::Ipvs(e) => &e.tuple,
        Body::CtEntry(e) => &e.tuple,
        Body::Reject(e) => &e.tuple,
        Body::Probe(e) => &e.tuple,
        Body::ProbeServer(e) => &e.tuple,
        Body::Packet(e) => &e.tuple,
        Body::ProbeSteps(e) => &e.tuple,
        Body::Departure(e) => &e.tuple,
        Body::Armed(e) => {
            let (mut all, more) = (flow_fields(e.flow()), serde_json::to_value(&e.step).ok()?);
            if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
                all.insert("set".to_owned(), json!(e.set));
                all.extend(more);
            }
            return Some(all);
        }
        _ => return None,
    };
    Some(flow_fields(Flow::of(tuple)))
}

fn flow_fields(flow: Flow) -> Value {
    json!({
        "proto": crate::correlate::flow::proto_name(flow.proto),
        "src": flow.src.ip(),
        "sport": flow.src.port(),
        "dst": flow.dst.ip(),
        "dport": flow.dst.port(),
    })
}
