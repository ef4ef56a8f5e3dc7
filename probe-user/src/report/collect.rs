//! Plays streams and keeps what a report is made of.

use std::collections::HashMap;

use super::{Hazards, Node, Report};
use crate::{
    correlate::Options,
    event::Event,
    finding::{Finding, Output},
    nodes::{Ids, Nodes},
    output::filter::{Filter, Filtered},
    pipeline::Summary,
};

/// Findings of one node that are kept.
const FINDINGS: usize = 2000;
/// Times of one finding's stalls that are told apart.
const SPANS: usize = 64;
/// Stalls of one finding that are nearer than this are shown as one: what happens again is told at
/// most every ten seconds.
const NEAR: u64 = 30_000_000_000;

/// A finding as it was last told, and when its stalls were, in nanoseconds of boot time.
#[derive(Clone, Debug)]
pub struct Told {
    pub finding: Finding,
    pub spans: Vec<(u64, u64)>,
}

/// What a node's part was read from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub name: String,
    /// What there is to say of the recording itself.
    pub notices: Vec<String>,
}

/// The streams of one node or several on their way into a report.
#[derive(Debug)]
pub struct Collector {
    nodes: Nodes,
    kept: Vec<Kept>,
}

/// Of one node.
#[derive(Debug)]
struct Kept {
    filtered: Filtered,
    by_id: HashMap<String, usize>,
    findings: Vec<Told>,
    more: u64,
    hazards: Hazards,
}

impl Collector {
    pub fn new(count: usize, filter: &Filter) -> Self {
        let kept = |_| Kept {
            filtered: Filtered::new(filter.clone()),
            by_id: HashMap::new(),
            findings: Vec::new(),
            more: 0,
            hazards: Hazards::default(),
        };
        Self {
            nodes: Nodes::new(count, Ids::ByNumber, &Options::default()),
            kept: (0..count).map(kept).collect(),
        }
    }

    /// Takes a node's next event in order of time.
    pub fn take(&mut self, node: usize, event: &Event) {
        if let (Some(kept), Some(pipeline)) = (self.kept.get_mut(node), self.nodes.pipeline(node)) {
            kept.hazards.note(pipeline.correlator(), event);
        }
        let outputs = self.nodes.take(node, event);
        self.tell(&outputs);
    }

    /// How many events of a node were late and early when its stream was put in order.
    pub fn was_ordered(&mut self, node: usize, late: u64, early: u64) {
        if let Some(pipeline) = self.nodes.pipeline_mut(node) {
            pipeline.was_ordered(late, early);
        }
    }

    /// The streams are at their ends.
    pub fn finish(mut self, sources: Vec<Source>) -> Report {
        let outputs = self.nodes.end();
        self.tell(&outputs);
        let mut nodes = Vec::new();
        for ((n, kept), source) in self.kept.into_iter().enumerate().zip(sources) {
            let (Some(pipeline), Some(summary)) = (self.nodes.pipeline(n), self.nodes.summary(n))
            else {
                continue;
            };
            nodes.push(Node {
                source: source.name,
                notices: source.notices,
                header: pipeline.header(),
                summary: Summary { hidden: kept.filtered.hidden(), ..summary },
                clock: pipeline.clock(),
                hazards: kept.hazards,
                findings: kept.findings,
                more: kept.more,
            });
        }
        Report { nodes }
    }

    fn tell(&mut self, outputs: &[(usize, Output)]) {
        for (node, output) in outputs {
            if let Some(kept) = self.kept.get_mut(*node) {
                kept.tell(output);
            }
        }
    }
}

impl Kept {
    fn tell(&mut self, output: &Output) {
        if !self.filtered.shows(output) {
            return;
        }
        let finding = output.finding();
        let known = self.by_id.get(&finding.id).copied();
        match known.and_then(|at| self.findings.get_mut(at)) {
            Some(told) => told.update(finding),
            None if known.is_none() && self.by_id.len() < FINDINGS => {
                self.by_id.insert(finding.id.clone(), self.findings.len());
                self.findings.push(Told::new(finding));
            }
            None => self.more += u64::from(matches!(output, Output::Finding(_))),
        }
    }
}

impl Told {
    fn new(finding: &Finding) -> Self {
        Self { spans: vec![(finding.first, finding.last)], finding: finding.clone() }
    }

    fn update(&mut self, finding: &Finding) {
        let room = self.spans.len() < SPANS;
        if let Some(latest) = self.spans.last_mut() {
            if finding.last > latest.1.saturating_add(NEAR) && room {
                self.spans.push((finding.last, finding.last));
            } else {
                latest.1 = latest.1.max(finding.last);
            }
        }
        self.finding = finding.clone();
    }

    /// The end of the last of its stalls that is known.
    pub fn end(&self) -> u64 {
        self.shown().last().map_or(self.finding.last, |span| span.1)
    }

    /// When its stalls were; the length of a single one is known.
    pub fn shown(&self) -> Vec<(u64, u64)> {
        let f = &self.finding;
        match f.count {
            0 | 1 => vec![(f.first, f.last.max(f.first.saturating_add(f.waited)))],
            _ => self.spans.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    fn told() -> Told {
        let mut run = Run::new();
        run.at(1500, unanswered(7, AAAA, 500));
        run.until(9000);
        Told::new(run.only())
    }

    fn again(told: &mut Told, last: u64) {
        let finding = Finding { count: told.finding.count + 1, last, ..told.finding.clone() };
        told.update(&finding);
    }

    #[test]
    fn stalls_near_each_other_are_one_bar() {
        let mut told = told();
        let first = told.finding.first;
        assert_eq!(told.shown(), [(first, first + told.finding.waited)]);
        let second = told.finding.last + NEAR;
        again(&mut told, second);
        assert_eq!(told.shown(), [(first, second)]);
        again(&mut told, second + NEAR + 1);
        assert_eq!(told.shown(), [(first, second), (second + NEAR + 1, second + NEAR + 1)]);
        for n in 0..1000 {
            again(&mut told, second + n * 2 * NEAR);
        }
        assert_eq!(told.shown().len(), SPANS, "bounded");
        assert_eq!(told.shown().last().map(|s| s.1), Some(told.finding.last));
    }
}
