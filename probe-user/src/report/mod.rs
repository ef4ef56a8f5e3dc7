//! What recordings say, in one piece: as Markdown for a ticket, or as a page that needs nothing but
//! itself. Pure: no file, no terminal, no clock of its own, so that the same recordings give the same
//! report.

mod collect;
mod entry;
mod escape;
mod facts;
mod hazards;
mod html;
mod markdown;
mod svg;
mod tags;
mod timeline;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt::Write as _};

pub use self::{
    collect::{Collector, Source, Told},
    hazards::{Count, Hazards},
    html::page,
    markdown::markdown,
};
use crate::{
    finding::Cause,
    output::time::{counted, rfc3339, short, span},
    pipeline::{Header, Summary, WallClock},
};

/// Names of nodes in a title.
const NAMED: usize = 3;

/// All that is said, of one node or several.
#[derive(Debug)]
pub struct Report {
    pub nodes: Vec<Node>,
}

/// One node's run.
#[derive(Debug)]
pub struct Node {
    /// What it was read from.
    pub source: String,
    pub header: Header,
    pub summary: Summary,
    pub clock: WallClock,
    /// Each finding as it was last told, in the order they were found.
    pub findings: Vec<Told>,
    /// Findings there was no room for.
    pub more: u64,
    pub hazards: Hazards,
    /// What there is to say of the recording itself: that it was cut off, what was skipped.
    pub notices: Vec<String>,
}

/// One cause over all nodes.
#[derive(Debug)]
pub struct CauseLine<'a> {
    pub cause: Cause,
    /// Stands for it on the timeline, where colour alone must not.
    pub letter: String,
    /// Its colour and pattern.
    pub look: Look,
    pub stalls: u64,
    /// By the number of the node.
    pub findings: Vec<(usize, &'a Told)>,
}

/// Number of a colour with its pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Named(usize),
    Unknown,
}

/// How many colours with patterns there are; more causes than these share them and differ by letter.
pub const LOOKS: usize = 8;

impl Report {
    /// The causes that stalls had: those with most stalls first, the unknown last.
    pub fn causes(&self) -> Vec<CauseLine<'_>> {
        let mut stalls: BTreeMap<Cause, u64> = BTreeMap::new();
        for node in &self.nodes {
            for (&cause, &n) in &node.summary.by_cause {
                *stalls.entry(cause).or_default() += n;
            }
            for told in &node.findings {
                stalls.entry(told.finding.cause).or_default();
            }
        }
        let mut stalls: Vec<(Cause, u64)> = stalls.into_iter().collect();
        stalls.sort_by_key(|&(cause, n)| (cause == Cause::Unknown, std::cmp::Reverse(n), cause));
        let line = |(n, (cause, stalls)): (usize, (Cause, u64))| {
            let is_unknown = cause == Cause::Unknown;
            CauseLine {
                cause,
                letter: if is_unknown { "?".to_owned() } else { letter(n) },
                look: if is_unknown { Look::Unknown } else { Look::Named(n % LOOKS) },
                stalls,
                findings: self.of_cause(cause),
            }
        };
        stalls.into_iter().enumerate().map(line).collect()
    }

    fn of_cause(&self, cause: Cause) -> Vec<(usize, &Told)> {
        let all = self.nodes.iter().enumerate();
        let all = all.flat_map(|(n, node)| node.findings.iter().map(move |told| (n, told)));
        all.filter(|(_, told)| told.finding.cause == cause).collect()
    }

    /// `ip-10-0-3-17, ip-10-0-3-18 and 3 others`.
    pub fn title(&self) -> String {
        let names = self.nodes.iter().take(NAMED).map(|node| node.name());
        let mut title = format!("stallprobe report: {}", names.collect::<Vec<_>>().join(", "));
        if let Some(more @ 1..) = self.nodes.len().checked_sub(NAMED) {
            let _ = write!(title, " and {}", counted(more as u64, "other"));
        }
        title
    }

    /// `12 stalls, 11 of them with a named cause`.
    pub fn outcome(&self) -> String {
        let sum = |of: fn(&Node) -> u64| self.nodes.iter().map(of).sum::<u64>();
        let stalls = sum(|node| node.summary.status.stalls);
        match (stalls, sum(|node| node.summary.status.explained)) {
            (0, _) => "No stalls".to_owned(),
            (1, 1) => "1 stall, its cause is named".to_owned(),
            (1, _) => "1 stall, its cause is not known".to_owned(),
            (n, all) if n == all => format!("{}, all with a named cause", counted(n, "stall")),
            (n, some) => format!("{}, {some} of them with a named cause", counted(n, "stall")),
        }
    }
}

impl Node {
    pub fn name(&self) -> &str {
        match self.header.node.name.as_str() {
            "" => "a node without a name",
            name => name,
        }
    }

    /// Boot-time nanoseconds of its first event and its last.
    pub fn from_to(&self) -> (u64, u64) {
        let status = &self.summary.status;
        (status.now.saturating_sub(status.elapsed), status.now)
    }

    /// `2025-11-21 12:00:00 to 2025-11-21 12:10:00 UTC (10m00s)`.
    pub fn times(&self) -> String {
        let (from, to) = self.from_to();
        let utc = if self.clock.wall(from).is_some() { " UTC" } else { "" };
        let length = span(self.summary.status.elapsed);
        format!("{} to {}{utc} ({length})", date_time(self.clock, from), date_time(self.clock, to))
    }
}

/// `2025-11-21 12:00:00`; seconds since boot while no clock is known.
pub fn date_time(clock: WallClock, boot: u64) -> String {
    match rfc3339(clock, boot) {
        Some(time) => time.split('.').next().unwrap_or_default().replace('T', " "),
        None => short(clock, boot),
    }
}

/// `A` to `Z`, then `AA`.
fn letter(n: usize) -> String {
    let one = |n: usize| char::from(b'A' + u8::try_from(n % 26).unwrap_or_default());
    match n / 26 {
        0 => one(n).to_string(),
        more => format!("{}{}", one(more - 1), one(n)),
    }
}
