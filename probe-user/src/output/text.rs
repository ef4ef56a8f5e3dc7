//! Findings for a person at three in the morning.

use probe_common::event::kind;

use super::{
    time::{counted, number, relative, short, span},
    wrap::block,
};
use crate::{
    finding::{Change, Confidence, Details, Evidence, Finding, NotNamed, Output},
    pipeline::{Status, Summary, WallClock},
};

/// Column at which the text beside the headings begins.
const INDENT: usize = 12;
/// Lines of evidence shown; JSON has all.
const EVIDENCE: usize = 7;
const NARROWEST: usize = 60;

/// How to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// Columns of the terminal.
    pub width: usize,
    pub colour: bool,
}

impl Text {
    pub fn new(width: usize, colour: bool) -> Self {
        Self { width: width.max(NARROWEST), colour }
    }

    /// A finding or an update, with its line breaks.
    pub fn output(&self, output: &Output, clock: WallClock) -> String {
        match output {
            Output::Finding(finding) => self.finding(finding, clock, ""),
            Output::Update(Change::Named, finding) => {
                self.finding(finding, clock, "now explained: ")
            }
            Output::Update(Change::Repeated, finding) => self.again(finding, clock),
        }
    }

    fn finding(&self, f: &Finding, clock: WallClock, before: &str) -> String {
        let mut out = String::new();
        let first = format!("{} {}  {}", short(clock, f.ts), f.id, f.symptom.id());
        let heading = format!("{}  ", self.bold(&first));
        block(&mut out, &heading, INDENT, &format!("{before}{}", f.headline), self.width);
        let cause = match f.confidence {
            Confidence::Possible => self.paint(f.cause.id(), "33"),
            confidence => {
                let colour = if confidence == Confidence::Certain { "31;1" } else { "33;1" };
                format!("{} ({})", self.paint(f.cause.id(), colour), confidence.id())
            }
        };
        block(&mut out, "  cause", INDENT, &format!("{cause}: {}", f.title), self.width);
        self.evidence(&mut out, f);
        let mut heading = "  fix";
        for fix in &f.fix {
            let place = fix.place.id();
            let now = fix.now.as_ref().map(|now| format!("now ({place}): {now}"));
            let lasting =
                fix.lasting.as_ref().map(|lasting| format!("lasting ({place}): {lasting}"));
            let caveat = fix.caveat.as_ref().map(|caveat| format!("  but: {caveat}"));
            for text in [now, lasting, caveat].into_iter().flatten() {
                block(&mut out, heading, INDENT, &text, self.width);
                heading = "";
            }
        }
        for (n, confirm) in f.confirm.iter().enumerate() {
            let heading = if n == 0 { "  confirm" } else { "" };
            block(&mut out, heading, INDENT, confirm, self.width);
        }
        self.not_named(&mut out, "  ruled out", &f.ruled_out);
        self.not_named(&mut out, "  not seen", &f.not_seen);
        let explain = format!("stallprobe explain {}", f.cause.id());
        block(&mut out, "  explain", INDENT, &explain, self.width);
        out
    }

    /// The first lines and the last ones: what happened in between repeats itself.
    fn evidence(&self, out: &mut String, f: &Finding) {
        let skipped = f.evidence.len().saturating_sub(EVIDENCE);
        let line = |e: &Evidence| format!("{:>9}  {}", relative(f.ts, e.ts), e.text);
        for (n, evidence) in f.evidence.iter().enumerate() {
            if skipped > 0 && n == EVIDENCE - 2 {
                let text = format!("{:>9}  {} more (all with -o json)", "", skipped + 1);
                out.push_str(&format!("{:INDENT$}{text}\n", ""));
            }
            if skipped > 0 && n >= EVIDENCE - 2 && n + 1 < f.evidence.len() {
                continue;
            }
            let heading = if n == 0 { "  evidence" } else { "" };
            let text = line(evidence);
            let (time, words) = text.split_at(11.min(text.len()));
            let heading = format!("{heading:INDENT$}{time}");
            block(out, &heading, INDENT + 11, words, self.width);
        }
    }

    fn not_named(&self, out: &mut String, heading: &str, causes: &[NotNamed]) {
        for (n, (why, ids)) in by_reason(causes).iter().enumerate() {
            let heading = if n == 0 { heading } else { "" };
            block(out, heading, INDENT, &format!("{}: {why}", ids.join(", ")), self.width);
        }
    }

    fn again(&self, f: &Finding, clock: WallClock) -> String {
        let who = match &f.victim.pod {
            Some(pod) if pod == "host" => "the node itself".to_owned(),
            Some(pod) => format!("pod {pod}"),
            None => "clients elsewhere".to_owned(),
        };
        let heading = format!("{}  ", self.bold(&format!("{} {}", short(clock, f.last), f.id)));
        let mut text = format!(
            "{}, {who}: {} since {}{}",
            f.cause,
            counted(f.count, "stall"),
            short(clock, f.first),
            match f.waited {
                0 => String::new(),
                waited => format!(", longest {}", span(waited)),
            }
        );
        if let Some(counts) = counts(&f.details) {
            text.push_str(&format!("; {counts}"));
        }
        let mut out = String::new();
        block(&mut out, &heading, INDENT, &text, self.width);
        out
    }

    /// What was explained, and what could not be.
    pub fn summary(&self, summary: &Summary) -> String {
        let status = &summary.status;
        let mut out = String::new();
        let head = match status.stalls {
            0 => format!("no stalls in {}", span(status.elapsed)),
            n => format!(
                "explained {} of {} in {}",
                number(status.explained),
                counted(n, "stall"),
                span(status.elapsed)
            ),
        };
        let head = format!("{} · {}", self.bold(&head), seen(status));
        block(&mut out, "", 0, &head, self.width);
        for (cause, n) in &summary.by_cause {
            out.push_str(&format!("  {:>7}  {cause}\n", number(*n)));
        }
        if summary.hidden > 0 {
            out.push_str(&format!("  {:>7}  findings hidden by filters\n", number(summary.hidden)));
        }
        let besides = besides(&status.totals.seen);
        if !besides.is_empty() {
            block(&mut out, "  no stall:", 12, &besides.join("; "), self.width);
        }
        let gaps = gaps(summary);
        if !gaps.is_empty() {
            block(&mut out, "  not seen:", 12, &gaps.join(", "), self.width);
        }
        out
    }

    fn bold(&self, text: &str) -> String {
        self.paint(text, "1")
    }

    fn paint(&self, text: &str, code: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Causes with the same reason share a line.
pub fn by_reason(causes: &[NotNamed]) -> Vec<(&str, Vec<&'static str>)> {
    let mut grouped: Vec<(&str, Vec<&str>)> = Vec::new();
    for n in causes {
        match grouped.iter_mut().find(|(why, _)| *why == n.why) {
            Some((_, ids)) => ids.push(n.cause.id()),
            None => grouped.push((&n.why, vec![n.cause.id()])),
        }
    }
    grouped
}

/// What the run did not see, with counts.
pub fn gaps(summary: &Summary) -> Vec<String> {
    let status = &summary.status;
    let gaps = [
        (status.open as u64, "stalls too young to judge"),
        (status.lost, "events lost (ring buffer full)"),
        (status.limited, "details left out (too many of a kind from one pod; counts are exact)"),
        (status.missed, "calls the kernel missed"),
        (status.totals.not_read, "looks at namespaces and their sockets (over the budget)"),
        (status.totals.unpaired, "queries and connects not followed (maps full)"),
        (status.totals.dns_unreadable, "DNS packets not readable"),
        (summary.left_out, "stalls or pieces of evidence not kept (too many at once)"),
        (summary.late.saturating_add(summary.early), "events out of order"),
    ];
    let told = gaps.iter().filter(|(n, _)| *n > 0);
    told.map(|(n, what)| format!("{} {what}", number(*n))).collect()
}

/// What was counted and stalled nobody.
pub fn besides(seen: &[u64]) -> Vec<String> {
    let count = |kind: u16| seen.get(usize::from(kind)).copied().unwrap_or(0);
    let mut besides = Vec::new();
    match count(kind::IPVS_EXPIRED) {
        0 => {}
        n => besides.push(format!(
            "IPVS ended {} early, as it does when a source port is used again",
            counted(n, "old connection")
        )),
    }
    match count(kind::ARMED) {
        0 => {}
        n => besides.push(format!("hooks were armed {}", counted(n, "time"))),
    }
    besides
}

/// One line that shows that the tool works while nothing stalls.
pub fn status_line(status: &Status) -> String {
    let stalls = match status.stalls {
        0 => format!("no stalls in {}", span(status.elapsed)),
        n => format!("explained {} of {}", number(status.explained), counted(n, "stall")),
    };
    let mut line = format!("{stalls} · {} · lost events {}", seen(status), number(status.lost));
    if status.missed > 0 {
        line.push_str(&format!(" · missed calls {}", number(status.missed)));
    }
    if status.totals.not_read > 0 {
        line.push_str(&format!(" · looks left out {}", number(status.totals.not_read)));
    }
    line
}

/// How much was watched.
pub fn seen(status: &Status) -> String {
    if status.no_ebpf {
        return "no eBPF, reading /proc".to_owned();
    }
    let t = &status.totals;
    let slowest = |n: u64, ns: u64| match n {
        0 => String::new(),
        _ => format!(" (slowest {})", span(ns)),
    };
    format!(
        "{} DNS {}{} · {} {}{}",
        number(t.dns_queries),
        if t.dns_queries == 1 { "query" } else { "queries" },
        slowest(t.dns_answers, t.dns_slowest),
        number(t.connects),
        if t.connects == 1 { "connect" } else { "connects" },
        slowest(t.established, t.connect_slowest)
    )
}

/// Exact counts behind a repeated finding.
pub fn counts(details: &Details) -> Option<String> {
    match details {
        Details::AcceptQueue(d) => {
            let mut text = format!("{} refused", number(d.refused));
            if let Some(kernel) = d.kernel_listen_overflows {
                text.push_str(&format!(", the kernel counted {}", number(kernel)));
            }
            if d.details_left_out > 0 {
                text.push_str(&format!(", {} details left out", number(d.details_left_out)));
            }
            if d.missed > 0 {
                text.push_str(&format!(", {} missed", number(d.missed)));
            }
            Some(text)
        }
        Details::SynQueue(d) => {
            let mut text = format!("{} refused", number(d.refused));
            if let Some(kernel) = d.kernel_listen_drops {
                text.push_str(&format!(", the kernel counted {}", number(kernel)));
            }
            Some(text)
        }
        Details::TableFull(d) => {
            let pods: Vec<String> =
                d.pods.iter().take(5).map(|p| format!("{} {}", p.pod, number(p.dropped))).collect();
            Some(format!("packets dropped: {}", pods.join(", ")))
        }
        _ => None,
    }
}
