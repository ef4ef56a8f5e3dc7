//! Connection tracking's counters of refused entries over time: what else was refused about when a
//! packet was dropped.

use std::collections::{HashMap, VecDeque};

use crate::event::Counters;

/// Namespaces kept.
const CAPACITY: usize = 4096;
/// Readings kept of one, those between which something rose.
const READINGS: usize = 128;
/// A reading is given the time at which the loader began to read, some time before the counters were
/// looked at.
const SLACK: u64 = 100_000_000;

/// The counters at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    ts: u64,
    /// `insert_failed`: all refusals of new entries; dropped clashes, entries that were dying and long
    /// chains (`__nf_conntrack_confirm`).
    failed: u64,
    /// `chaintoolong`: those for the length of the chain.
    too_long: u64,
}

/// How many entries were refused between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub failed: u64,
    pub too_long: u64,
}

impl Refused {
    /// Nothing was refused for another reason.
    pub fn is_for_length_alone(self) -> bool {
        // The kernel counts a long chain first and the failure after it, one line for each CPU.
        self.too_long > 0 && self.failed <= self.too_long
    }
}

/// By namespace.
#[derive(Debug, Default)]
pub struct Refusals {
    readings: HashMap<u32, VecDeque<Reading>>,
}

impl Refusals {
    pub fn note(&mut self, ts: u64, counters: &Counters) {
        // Conntrack may come later: its counters begin at zero then.
        let table = counters.conntrack.unwrap_or_default();
        let (failed, too_long) = (table.insert_failed, table.chain_too_long.unwrap_or(0));
        let reading = Reading { ts, failed, too_long };
        if self.readings.len() >= CAPACITY && !self.readings.contains_key(&counters.netns) {
            return;
        }
        let readings = self.readings.entry(counters.netns).or_default();
        let is_same = |old: &Reading| (old.failed, old.too_long) == (failed, too_long);
        // Of a time in which nothing rose its ends are enough.
        if readings.iter().rev().take(2).filter(|old| is_same(old)).count() == 2 {
            readings.pop_back();
        }
        readings.push_back(reading);
        if readings.len() > READINGS {
            readings.pop_front();
        }
    }

    /// The namespace is gone.
    pub fn forget(&mut self, netns: u32) {
        self.readings.remove(&netns);
    }

    /// What was refused between the last reading before `ts` and the first one after it; `None` when
    /// there is none on either side.
    pub fn around(&self, netns: u32, ts: u64) -> Option<Refused> {
        let readings = self.readings.get(&netns)?;
        let before = readings.iter().rev().find(|r| r.ts.saturating_add(SLACK) <= ts)?;
        let after = readings.iter().find(|r| r.ts >= ts)?;
        Some(Refused {
            failed: after.failed.saturating_sub(before.failed),
            too_long: after.too_long.saturating_sub(before.too_long),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ConntrackCounters;

    const MS: u64 = 1_000_000;

    fn refusals(readings: &[(u64, u64, u64)]) -> Refusals {
        let mut refusals = Refusals::default();
        for (ms, insert_failed, too_long) in readings {
            let conntrack = ConntrackCounters {
                insert_failed: *insert_failed,
                chain_too_long: Some(*too_long),
                ..ConntrackCounters::default()
            };
            let counters = Counters { netns: 1, conntrack: Some(conntrack), ..Counters::default() };
            refusals.note(ms * MS, &counters);
        }
        refusals
    }

    #[test]
    fn only_what_was_refused_about_then() {
        let refusals = refusals(&[(0, 5, 5), (1000, 8, 7), (2000, 9, 7), (60_000, 9, 7)]);
        let around =
            |ms: u64| refusals.around(1, ms * MS).map(|refused| (refused.failed, refused.too_long));
        assert_eq!(around(500), Some((3, 2)));
        assert_eq!(around(1500), Some((1, 0)));
        assert_eq!(around(30_000), Some((0, 0)), "long chains of before say nothing");
        assert_eq!(around(1050), Some((4, 2)), "the reading may have counted it already");
        assert_eq!(around(50), None, "no reading before");
        assert_eq!(around(61_000), None, "no reading after");
        assert_eq!(refusals.around(2, 500 * MS), None);
    }

    #[test]
    fn length_alone() {
        let is = |failed, too_long| Refused { failed, too_long }.is_for_length_alone();
        assert!(is(2, 2) && is(1, 2));
        assert!(!is(3, 2) && !is(0, 0) && !is(1, 0));
    }

    #[test]
    fn quiet_times_take_two_readings() {
        let readings: Vec<(u64, u64, u64)> = (0..1000).map(|n| (n * 1000, 5, 5)).collect();
        let mut refusals = refusals(&readings);
        assert_eq!(refusals.readings[&1].len(), 2);
        refusals.forget(1);
        assert!(refusals.readings.is_empty());
    }
}
