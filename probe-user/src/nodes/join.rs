//! A stall that no node explains by itself: its client saw the packets leave, and another node saw what
//! became of them. That node's finding names the cause then, if it is of the same connection.
//!
//! What makes it the same: the client's initial sequence number, which NAT keeps; where one of the nodes
//! does not know it, addresses and ports of both ends; of a query its id and name and one of its ends.
//! And the time, for all of these are used again.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::{
    finding::{Cause, Change, Confidence, Details, Evidence, Finding, Fix, Output, Party, Stalled},
    pipeline::WallClock,
};

/// How much the clocks of two nodes may differ, in nanoseconds.
const SKEW: u64 = 2_000_000_000;
/// Findings kept, over all nodes.
const CAPACITY: usize = 2048;

/// Stalls by the cause that their own node gave them and that another one did.
pub type ByCauses = BTreeMap<(Cause, Cause), u64>;

/// Findings of all nodes.
#[derive(Debug, Default)]
pub struct Findings {
    /// That which was said longest ago comes first.
    known: VecDeque<Known>,
    /// What was lent to findings that there was no more room for, by the number of their node.
    gone: HashMap<usize, ByCauses>,
}

#[derive(Debug)]
struct Known {
    node: usize,
    /// The node's name.
    on: String,
    clock: WallClock,
    /// As its own node says it.
    finding: Finding,
    /// What another node said of it.
    lent: Option<Lent>,
}

/// A cause, and all that belongs to it, from another node.
#[derive(Debug)]
struct Lent {
    cause: Cause,
    confidence: Confidence,
    title: String,
    culprit: Option<Party>,
    details: Details,
    fix: Vec<Fix>,
    confirm: Vec<String>,
    evidence: Evidence,
}

impl Findings {
    /// What a node says, with the cause that another one saw; and what follows for findings that had
    /// none.
    pub fn take(
        &mut self,
        node: usize,
        on: &str,
        clock: WallClock,
        output: Output,
    ) -> Vec<(usize, Output)> {
        let finding = output.finding().clone();
        let place = self.known.iter().position(|known| known.finding.id == finding.id);
        let lent = place.and_then(|place| self.known.remove(place)).and_then(|known| known.lent);
        let lent = lent.filter(|_| is_of_one_place(&finding));
        let mut known = Known { node, on: on.to_owned(), clock, finding, lent };
        let mut out = Vec::new();
        if is_explained(&known.finding) {
            known.lent = None;
            out.push((node, output));
            for other in &mut self.known {
                if other.node != node && other.lent.is_none() && !is_explained(&other.finding) {
                    other.lent = lend(&known, other);
                    if let Some(lent) = &other.lent {
                        let named = Box::new(lent.to(other.finding.clone()));
                        out.push((other.node, Output::Update(Change::Named, named)));
                    }
                }
            }
        } else {
            if known.lent.is_none() {
                let others = self.known.iter().filter(|other| other.node != node);
                let lent = others.filter_map(|other| lend(other, &known));
                known.lent = lent.max_by_key(|lent| lent.confidence);
                let is_new = known.lent.is_some();
                out.push((node, known.said(output, is_new)));
            } else {
                out.push((node, known.said(output, false)));
            }
        }
        if self.known.len() >= CAPACITY
            && let Some(oldest) = self.known.pop_front()
        {
            oldest.count(self.gone.entry(oldest.node).or_default());
        }
        self.known.push_back(known);
        out
    }

    /// Of a node the stalls that others explained.
    pub fn lent(&self, node: usize) -> ByCauses {
        let mut counts = self.gone.get(&node).cloned().unwrap_or_default();
        self.known.iter().filter(|known| known.node == node).for_each(|k| k.count(&mut counts));
        counts
    }
}

impl Known {
    fn count(&self, counts: &mut ByCauses) {
        if let Some(lent) = &self.lent {
            *counts.entry((self.finding.cause, lent.cause)).or_default() += self.finding.count;
        }
    }

    /// What is said of it, where it may have a cause from elsewhere.
    fn said(&self, output: Output, is_new: bool) -> Output {
        let Some(lent) = &self.lent else { return output };
        match output {
            Output::Finding(f) => Output::Finding(Box::new(lent.to(*f))),
            Output::Update(change, f) => {
                let change = if is_new { Change::Named } else { change };
                Output::Update(change, Box::new(lent.to(*f)))
            }
        }
    }

    /// Wall time of one of its stalls, from its beginning to its end as far as that was seen.
    fn span(&self, stalled: &Stalled) -> Option<(u64, u64)> {
        let alone = self.finding.count == 1;
        let lasted = if alone { self.finding.waited } else { 0 };
        let end = stalled.to.max(stalled.from.saturating_add(lasted));
        Some((self.clock.wall(stalled.from)?, self.clock.wall(end)?))
    }
}

impl Lent {
    fn to(&self, finding: Finding) -> Finding {
        let mut evidence = finding.evidence;
        evidence.push(self.evidence.clone());
        evidence.sort_by_key(|line| line.ts);
        Finding {
            cause: self.cause,
            confidence: self.confidence,
            title: self.title.clone(),
            culprit: self.culprit.clone(),
            details: self.details.clone(),
            fix: self.fix.clone(),
            confirm: self.confirm.clone(),
            evidence,
            ruled_out: Vec::new(),
            not_seen: Vec::new(),
            ..finding
        }
    }
}

/// Whether its own node knows why. That a packet left is no cause where the other end can be asked.
fn is_explained(finding: &Finding) -> bool {
    !matches!(finding.cause, Cause::Unknown | Cause::LeftTheNode)
}

/// Whether all of its stalls, as far as they are known, have one destination. Of a client that waits for
/// many the rest are one finding, and what explains one of them says nothing of the others.
fn is_of_one_place(finding: &Finding) -> bool {
    let mut places = finding.stalls.iter().map(|stalled| stalled.flow.dst);
    let first = places.next();
    places.all(|place| Some(place) == first)
}

/// The cause of `from` for `to`, if one of the stalls of each is the same connection.
fn lend(from: &Known, to: &Known) -> Option<Lent> {
    if !is_explained(&from.finding) || !is_of_one_place(&to.finding) {
        return None;
    }
    let pairs =
        to.finding.stalls.iter().flat_map(|a| from.finding.stalls.iter().map(move |b| (a, b)));
    let same = pairs.filter(|(a, b)| overlap(to.span(a), from.span(b)));
    let found = same.filter_map(|(a, b)| Some((sure(a, b)?.min(b.confidence), b)));
    let (confidence, stalled) = found.max_by_key(|(confidence, _)| *confidence)?;
    let cause = &from.finding;
    let on = &from.on;
    // The line stands where it was seen there, by this node's clock.
    let ts = from.clock.wall(stalled.from).and_then(|wall| to.clock.boot(wall));
    let text = format!(
        "node {on} saw the same {} ({} there) and found {} ({}): finding {}",
        if stalled.question.is_some() { "query" } else { "connection" },
        stalled.flow,
        cause.cause,
        stalled.confidence.id(),
        cause.id
    );
    Some(Lent {
        cause: cause.cause,
        confidence,
        title: format!("{} (seen on node {on})", cause.title),
        // Its namespace and process number mean nothing on another node.
        culprit: cause.culprit.clone().map(|party| Party { netns: None, pid: None, ..party }),
        details: cause.details.clone(),
        fix: cause.fix.clone(),
        confirm: cause.confirm.iter().map(|line| format!("for node {on}: {line}")).collect(),
        evidence: Evidence { ts: ts.unwrap_or(to.finding.ts), kind: "other-node", text },
    })
}

fn overlap(a: Option<(u64, u64)>, b: Option<(u64, u64)>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return false };
    a.0 <= b.1.saturating_add(SKEW) && b.0 <= a.1.saturating_add(SKEW)
}

/// How sure it is that two nodes speak of one connection; `None` when it is another.
fn sure(a: &Stalled, b: &Stalled) -> Option<Confidence> {
    if a.flow.proto != b.flow.proto || a.question.is_some() != b.question.is_some() {
        return None;
    }
    if let (Some(asked), Some(other)) = (a.question, b.question) {
        // Ids are of 16 bits, and busy names are asked for all the time.
        let is_same = asked == other && (a.flow.src == b.flow.src || a.flow.dst == b.flow.dst);
        return is_same.then_some(Confidence::Likely);
    }
    match (a.isn, b.isn) {
        (0, _) | (_, 0) => (a.flow == b.flow).then_some(Confidence::Likely),
        (a, b) => (a == b).then_some(Confidence::Certain),
    }
}
