//! Folds stalls of the same cause, victim and culprit into one finding: the first is said, later
//! ones are counted and said again every ten seconds at most.

use std::collections::{BTreeMap, HashMap};

use super::{
    rules::{accept_queue_overflow, conntrack_table_full, syn_queue_overflow},
    world::World,
};
use crate::finding::{Cause, Change, Details, Finding, Output, Stalled};

/// Least time between two outputs of the same finding, in nanoseconds.
const PAUSE: u64 = 10_000_000_000;
/// A stall that lasts so much longer than was said is said again.
const LONGER: u64 = 1_000_000_000;
/// Culprits of one cause and victim that are told apart; what more there are (a port scan, a crawl
/// of dead hosts) fold into one.
const CULPRITS: usize = 8;
/// Findings kept for folding; one that is pushed out would be told anew.
const CAPACITY: usize = 1024;

/// [`Finding::id`] of a finding's number.
pub fn name(id: u64) -> String {
    format!("f{}", id + 1)
}

/// What makes two stalls the same finding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub cause: Cause,
    pub victim: String,
    pub culprit: String,
}

#[derive(Debug)]
struct Told {
    key: Key,
    finding: Finding,
    said_at: u64,
    said_waited: u64,
    dirty: bool,
}

/// How many stalls there were, for the status and the summary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub stalls: u64,
    pub by_cause: BTreeMap<Cause, u64>,
}

impl Counts {
    /// Stalls with a named cause.
    pub fn explained(&self) -> u64 {
        self.stalls - self.by_cause.get(&Cause::Unknown).copied().unwrap_or(0)
    }

    fn add(&mut self, cause: Cause) {
        self.stalls += 1;
        *self.by_cause.entry(cause).or_default() += 1;
    }

    fn renamed(&mut self, cause: Cause) {
        if let Some(unknown) = self.by_cause.get_mut(&Cause::Unknown) {
            *unknown = unknown.saturating_sub(1);
            if *unknown == 0 {
                self.by_cause.remove(&Cause::Unknown);
            }
        }
        *self.by_cause.entry(cause).or_default() += 1;
    }
}

#[derive(Debug, Default)]
pub struct Findings {
    by_key: HashMap<Key, u64>,
    all: BTreeMap<u64, Told>,
    next: u64,
    pub counts: Counts,
}

impl Findings {
    /// Tells a stall: as a new finding, or one more of a known one. Returns the finding's number.
    pub fn tell(&mut self, now: u64, key: Key, finding: Finding) -> (u64, Option<Output>) {
        self.counts.add(finding.cause);
        let key = self.one_of_few(key);
        if let Some(id) = self.fold_in(&key, &finding) {
            return (id, None);
        }
        let (id, finding) = self.keep(now, key, finding);
        (id, Some(Output::Finding(Box::new(finding))))
    }

    /// A stall that was told as unknown now has a cause. Its finding gets the new name when it was
    /// its only stall and the cause is not told yet; else it is counted where it belongs.
    pub fn rename(
        &mut self,
        now: u64,
        id: u64,
        key: Key,
        finding: Finding,
    ) -> (u64, Option<Output>) {
        self.counts.renamed(finding.cause);
        let key = self.one_of_few(key);
        let alone = self.all.get(&id).is_some_and(|told| told.finding.count <= 1);
        if !alone {
            if let Some(told) = self.all.get_mut(&id) {
                told.finding.count -= 1;
                let is_it = |a: &Stalled| {
                    finding
                        .stalls
                        .iter()
                        .any(|b| (a.flow, a.isn, a.from) == (b.flow, b.isn, b.from))
                };
                told.finding.stalls.retain(|stalled| !is_it(stalled));
            }
            if let Some(id) = self.fold_in(&key, &finding) {
                return (id, None);
            }
            let (id, finding) = self.keep(now, key, finding);
            return (id, Some(Output::Finding(Box::new(finding))));
        }
        if let Some(old) = self.all.get(&id) {
            self.by_key.remove(&old.key);
        }
        let finding = Finding { id: name(id), ..finding };
        let out = Output::Update(Change::Named, Box::new(finding.clone()));
        // Repeats of a cause known already are counted there from now on.
        self.by_key.entry(key.clone()).or_insert(id);
        let said_waited = finding.waited;
        self.all.insert(id, Told { key, finding, said_at: now, said_waited, dirty: false });
        (id, Some(out))
    }

    fn one_of_few(&self, key: Key) -> Key {
        if self.by_key.contains_key(&key) {
            return key;
        }
        let same = |k: &&Key| k.cause == key.cause && k.victim == key.victim;
        if self.by_key.keys().filter(same).count() < CULPRITS {
            return key;
        }
        Key { culprit: "others".to_owned(), ..key }
    }

    fn fold_in(&mut self, key: &Key, finding: &Finding) -> Option<u64> {
        let id = *self.by_key.get(key)?;
        let told = self.all.get_mut(&id)?;
        let old = &mut told.finding;
        old.count += 1;
        old.last = old.last.max(finding.last);
        old.first = old.first.min(finding.first);
        old.waited = old.waited.max(finding.waited);
        old.confidence = old.confidence.max(finding.confidence);
        old.details = finding.details.clone();
        old.stalls.extend_from_slice(&finding.stalls);
        let too_many = old.stalls.len().saturating_sub(Finding::STALLS);
        old.stalls.drain(..too_many);
        told.dirty = true;
        Some(id)
    }

    fn keep(&mut self, now: u64, key: Key, finding: Finding) -> (u64, Finding) {
        if self.all.len() >= CAPACITY
            && let Some(oldest) =
                self.all.iter().min_by_key(|(_, t)| t.finding.last).map(|(id, _)| *id)
            && let Some(told) = self.all.remove(&oldest)
        {
            self.by_key.remove(&told.key);
        }
        let id = self.next;
        self.next += 1;
        let finding = Finding { id: name(id), ..finding };
        self.by_key.insert(key.clone(), id);
        let told = Told {
            key,
            said_at: now,
            said_waited: finding.waited,
            finding: finding.clone(),
            dirty: false,
        };
        self.all.insert(id, told);
        (id, finding)
    }

    /// A stall that was told lasts on.
    pub fn waited(&mut self, id: u64, waited: u64, open: bool) {
        if let Some(told) = self.all.get_mut(&id) {
            let finding = &mut told.finding;
            finding.waited = finding.waited.max(waited);
            finding.open &= open;
            told.dirty |= finding.waited >= told.said_waited.saturating_add(LONGER);
        }
    }

    /// Says again what changed, each finding not too often; at the end of the run at once.
    pub fn flush(&mut self, now: u64, world: &World, at_end: bool) -> Vec<Output> {
        let mut out = Vec::new();
        for told in self.all.values_mut() {
            if !at_end && now.saturating_sub(told.said_at) < PAUSE {
                continue;
            }
            told.dirty |= recount(&mut told.finding.details, world, at_end);
            if told.dirty {
                told.dirty = false;
                told.said_at = now;
                told.said_waited = told.finding.waited;
                out.push(Output::Update(Change::Repeated, Box::new(told.finding.clone())));
            }
        }
        out
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

/// Brings the counts among the details up to date; whether there is more to say. At the end of the
/// run any other number is.
fn recount(details: &mut Details, world: &World, at_end: bool) -> bool {
    let before = at_end.then(|| details.clone());
    let more = match details {
        Details::AcceptQueue(details) => accept_queue_overflow::count(details, world),
        Details::SynQueue(details) => syn_queue_overflow::count(details, world),
        Details::TableFull(details) => conntrack_table_full::count(details, world),
        _ => false,
    };
    more || before.is_some_and(|before| before != *details)
}
