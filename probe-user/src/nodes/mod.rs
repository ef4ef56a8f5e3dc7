//! Recordings of several nodes as one stream. Inode numbers, sockets and boot clocks are a node's own,
//! so each node has a pipeline of its own; only findings meet, by what the packets of one connection
//! have on every node, and by wall time.

mod join;
mod merge;
#[cfg(test)]
mod tests;

use self::join::Findings;
pub use self::merge::Merge;
use crate::{
    correlate::{Options, fold::Counts},
    event::{Body, Event},
    finding::{Finding, Output},
    pipeline::{Pipeline, Summary},
};

/// The nodes, numbered as their recordings are.
#[derive(Debug)]
pub struct Nodes {
    nodes: Vec<Node>,
    ids: Ids,
    findings: Findings,
}

/// What stands before the id of a finding where there are several nodes: each counts its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// `ip-10-0-3-17/f1`
    ByName,
    /// `n1-f1`: short, and of letters that a page may have as an anchor.
    ByNumber,
}

#[derive(Debug)]
struct Node {
    pipeline: Pipeline,
    /// What it is called; empty where there is but one node.
    label: String,
}

impl Nodes {
    pub fn new(count: usize, ids: Ids, options: &Options) -> Self {
        let node = |_| Node { pipeline: Pipeline::new(options.clone()), label: String::new() };
        Self { nodes: (0..count).map(node).collect(), ids, findings: Findings::default() }
    }

    /// Takes a node's next event in order of time; see [`Merge`] for whose turn it is. Gives out what is
    /// to be said now, and of which node it is. With one node that is what its pipeline says.
    pub fn take(&mut self, node: usize, event: &Event) -> Vec<(usize, Output)> {
        let Some(at) = self.nodes.get_mut(node) else { return Vec::new() };
        let outputs = at.pipeline.take(event);
        if matches!(event.body, Body::Node(_)) {
            self.name(node);
        }
        self.tell(node, outputs)
    }

    /// All events have been taken.
    pub fn end(&mut self) -> Vec<(usize, Output)> {
        let mut out = Vec::new();
        for node in 0..self.nodes.len() {
            let outputs = self.nodes.get_mut(node).map(|n| n.pipeline.end());
            out.extend(self.tell(node, outputs.unwrap_or_default()));
        }
        out
    }

    pub fn pipeline(&self, node: usize) -> Option<&Pipeline> {
        self.nodes.get(node).map(|node| &node.pipeline)
    }

    pub fn pipeline_mut(&mut self, node: usize) -> Option<&mut Pipeline> {
        self.nodes.get_mut(node).map(|node| &mut node.pipeline)
    }

    /// How a node's run went. Stalls that another node explained are counted where they belong.
    pub fn summary(&self, node: usize) -> Option<Summary> {
        let mut summary = self.pipeline(node)?.summary();
        for ((own, other), stalls) in self.findings.lent(node) {
            let had = summary.by_cause.remove(&own).unwrap_or(0);
            let moved = stalls.min(had);
            if had > moved {
                summary.by_cause.insert(own, had - moved);
            }
            *summary.by_cause.entry(other).or_default() += moved;
        }
        let (stalls, by_cause) = (summary.status.stalls, summary.by_cause.clone());
        summary.status.explained = Counts { stalls, by_cause }.explained();
        Some(summary)
    }

    /// What a node is called here: its name, with a number where another has it too.
    pub fn label(&self, node: usize) -> &str {
        self.nodes.get(node).map_or("", |node| &node.label)
    }

    fn name(&mut self, node: usize) {
        if self.nodes.len() < 2 {
            return;
        }
        let name = self.pipeline(node).map(|p| p.header().node.name).unwrap_or_default();
        let base = if name.is_empty() { format!("node{}", node + 1) } else { name };
        let others: Vec<&str> =
            (0..self.nodes.len()).filter(|n| *n != node).map(|n| self.label(n)).collect();
        let mut label = base.clone();
        let mut number = 1;
        while others.contains(&label.as_str()) {
            number += 1;
            label = format!("{base}-{number}");
        }
        if let Some(node) = self.nodes.get_mut(node) {
            node.label = label;
        }
    }

    /// Gives findings the ids that they have among those of several nodes.
    fn tell(&mut self, node: usize, outputs: Vec<Output>) -> Vec<(usize, Output)> {
        let Some(Node { pipeline, label }) = self.nodes.get(node) else { return Vec::new() };
        if self.nodes.len() < 2 {
            return outputs.into_iter().map(|output| (node, output)).collect();
        }
        let (clock, label) = (pipeline.clock(), label.clone());
        let before = match self.ids {
            Ids::ByName => format!("{label}/"),
            Ids::ByNumber => format!("n{}-", node + 1),
        };
        let mut out = Vec::new();
        for output in outputs {
            let named =
                |f: Box<Finding>| Box::new(Finding { id: format!("{before}{}", f.id), ..*f });
            let output = match output {
                Output::Finding(f) => Output::Finding(named(f)),
                Output::Update(change, f) => Output::Update(change, named(f)),
            };
            out.extend(self.findings.take(node, &label, clock, output));
        }
        out
    }
}
