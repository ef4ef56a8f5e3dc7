//! JSON Lines: one object a line, each with `schema`, `type`, `node` and `time`. Field names stay;
//! new ones may be added.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::time::rfc3339;
use crate::{
    correlate::flow::proto_name,
    event::HookState,
    finding::{Change, Details, Finding, Fix, NotNamed, Output, Party},
    pipeline::{Header, Status, Summary, WallClock},
};

/// Version of the shape of all objects.
pub const SCHEMA: u32 = 1;

/// Makes the lines of one run.
#[derive(Clone, Debug)]
pub struct Json {
    pub node: String,
}

#[derive(Serialize)]
struct FlowView {
    proto: String,
    src: IpAddr,
    sport: u16,
    dst: IpAddr,
    dport: u16,
}

#[derive(Serialize)]
struct EvidenceView<'a> {
    time: Option<String>,
    kind: &'a str,
    text: &'a str,
}

#[derive(Serialize)]
struct FindingView<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<Change>,
    symptom: &'a str,
    cause: &'a str,
    confidence: &'a str,
    victim: &'a Party,
    culprit: &'a Option<Party>,
    flow: FlowView,
    waited_ms: u64,
    open: bool,
    count: u64,
    first: Option<String>,
    last: Option<String>,
    headline: &'a str,
    title: &'a str,
    evidence: Vec<EvidenceView<'a>>,
    details: &'a Details,
    fix: &'a [Fix],
    confirm: &'a [String],
    ruled_out: &'a [NotNamed],
    not_seen: &'a [NotNamed],
}

impl Json {
    /// A `finding` or an `update`; its time is that of the stall's beginning.
    pub fn output(&self, output: &Output, clock: WallClock) -> String {
        let (kind, change, f) = match output {
            Output::Finding(f) => ("finding", None, f),
            Output::Update(change, f) => ("update", Some(*change), f),
        };
        self.line(kind, clock, f.ts, serde_json::to_value(view(f, change, clock)))
    }

    /// What is watched, at the start: not among the types people need, but good to have in a log.
    pub fn header(&self, header: &Header, clock: WallClock, now: u64) -> String {
        let hooks: Vec<Value> = header
            .hooks
            .iter()
            .map(|h| {
                let (state, detail) = match &h.state {
                    HookState::Watched { rung } => ("watched", json!(rung)),
                    HookState::CannotHappen { why } => ("cannot-happen", json!(why)),
                    HookState::CannotSee { why } => ("cannot-see", json!(why)),
                };
                json!({"name": h.name, "causes": h.causes, "state": state, "detail": detail})
            })
            .collect();
        let sandboxed: Vec<Value> = header
            .sandboxed
            .iter()
            .map(|(pod, sandbox)| json!({"pod": pod, "sandbox": sandbox}))
            .collect();
        let node = &header.node;
        let body = json!({
            "version": node.version,
            "kernel": node.kernel,
            "kube_proxy": node.kube_proxy,
            "no_ebpf": (!node.no_ebpf.is_empty()).then_some(&node.no_ebpf),
            "pods": header.pods,
            "sandboxed": sandboxed,
            "min_stall_ms": node.min_stall / 1_000_000,
            "hooks": hooks,
        });
        self.line("header", clock, now, Ok(body))
    }

    pub fn status(&self, status: &Status, clock: WallClock) -> String {
        self.line("status", clock, status.now, Ok(status_body(status)))
    }

    /// Said whenever events were lost since it was said last.
    pub fn lost(&self, status: &Status, clock: WallClock) -> String {
        let body = json!({
            "lost": status.lost,
            "limited": status.limited,
            "missed": status.missed,
        });
        self.line("lost", clock, status.now, Ok(body))
    }

    pub fn summary(&self, summary: &Summary, clock: WallClock) -> String {
        let mut body = status_body(&summary.status);
        if let Value::Object(body) = &mut body {
            body.remove("state");
            let by_cause: Map<String, Value> =
                summary.by_cause.iter().map(|(c, n)| (c.id().to_owned(), json!(n))).collect();
            body.insert("elapsed_ms".to_owned(), json!(summary.status.elapsed / 1_000_000));
            body.insert("by_cause".to_owned(), Value::Object(by_cause));
            body.insert("hidden".to_owned(), json!(summary.hidden));
            body.insert("left_out".to_owned(), json!(summary.left_out));
            body.insert("out_of_order".to_owned(), json!(summary.late + summary.early));
        }
        self.line("summary", clock, summary.status.now, Ok(body))
    }

    pub(super) fn line(
        &self,
        kind: &str,
        clock: WallClock,
        boot: u64,
        body: serde_json::Result<Value>,
    ) -> String {
        let mut line = json!({
            "schema": SCHEMA,
            "type": kind,
            "node": self.node,
            "time": rfc3339(clock, boot),
        });
        match (&mut line, body) {
            (Value::Object(line), Ok(Value::Object(body))) => line.extend(body),
            (Value::Object(line), Err(err)) => {
                line.insert("error".to_owned(), json!(err.to_string()));
            }
            _ => {}
        }
        line.to_string()
    }
}

fn view<'a>(f: &'a Finding, change: Option<Change>, clock: WallClock) -> FindingView<'a> {
    let evidence = f.evidence.iter();
    FindingView {
        id: &f.id,
        change,
        symptom: f.symptom.id(),
        cause: f.cause.id(),
        confidence: f.confidence.id(),
        victim: &f.victim,
        culprit: &f.culprit,
        flow: FlowView {
            proto: proto_name(f.flow.proto),
            src: f.flow.src.ip(),
            sport: f.flow.src.port(),
            dst: f.flow.dst.ip(),
            dport: f.flow.dst.port(),
        },
        waited_ms: f.waited / 1_000_000,
        open: f.open,
        count: f.count,
        first: rfc3339(clock, f.first),
        last: rfc3339(clock, f.last),
        headline: &f.headline,
        title: &f.title,
        evidence: evidence
            .map(|e| EvidenceView { time: rfc3339(clock, e.ts), kind: e.kind, text: &e.text })
            .collect(),
        details: &f.details,
        fix: &f.fix,
        confirm: &f.confirm,
        ruled_out: &f.ruled_out,
        not_seen: &f.not_seen,
    }
}

fn status_body(status: &Status) -> Value {
    let t = &status.totals;
    json!({
        "state": "watching",
        "dns_queries": t.dns_queries,
        "dns_answers": t.dns_answers,
        "dns_nxdomain": t.dns_nxdomain,
        "dns_slowest_ms": t.dns_slowest / 1_000_000,
        "connects": t.connects,
        "established": t.established,
        "connect_slowest_ms": t.connect_slowest / 1_000_000,
        "table_full": t.table_full,
        "seen": by_kind(&t.seen),
        "lost": status.lost,
        "limited": status.limited,
        "missed": status.missed,
        "unpaired": t.unpaired,
        "dns_unreadable": t.dns_unreadable,
        "not_read": t.not_read,
        "proc_passes": t.passes,
        "stalls": status.stalls,
        "explained": status.explained,
        "open": status.open,
    })
}

/// Counters by event kind, those that are not zero.
fn by_kind(counts: &[u64]) -> Value {
    let named = counts.iter().enumerate().filter(|(_, n)| **n > 0).map(|(kind, n)| {
        let kind = u16::try_from(kind).unwrap_or(u16::MAX);
        (super::event::kind_name(kind).to_owned(), json!(n))
    });
    Value::Object(named.collect())
}
