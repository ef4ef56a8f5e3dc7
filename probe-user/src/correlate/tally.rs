//! Exact counts beside the details: per namespace from the kernel, per listener and per pod from
//! the events.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

use crate::event::Counters;

/// Namespaces, listeners or pods counted at most.
const CAPACITY: usize = 4096;

/// The kernel's counters of each namespace: the first reading and the latest.
#[derive(Debug, Default)]
pub struct PerNetns {
    readings: HashMap<u32, (Counters, Counters)>,
}

impl PerNetns {
    /// `is_new`: the namespace was made during the run, so its counters began at zero.
    pub fn note(&mut self, counters: &Counters, is_new: bool) {
        if let Some((_, latest)) = self.readings.get_mut(&counters.netns) {
            latest.clone_from(counters);
        } else if self.readings.len() < CAPACITY {
            let mut first = counters.clone();
            if is_new {
                for counter in [
                    &mut first.listen_overflows,
                    &mut first.listen_drops,
                    &mut first.reqq_full_drop,
                ] {
                    *counter = counter.map(|_| 0);
                }
            }
            self.readings.insert(counters.netns, (first, counters.clone()));
        }
    }

    /// The namespace is gone; its inode number may come back with counters from zero.
    pub fn forget(&mut self, netns: u32) {
        self.readings.remove(&netns);
    }

    pub fn latest(&self, netns: u32) -> Option<&Counters> {
        self.readings.get(&netns).map(|(_, latest)| latest)
    }

    /// How much `ListenOverflows` of the namespace grew since its first reading.
    pub fn listen_overflows(&self, netns: u32) -> Option<u64> {
        self.grown(netns, |c| c.listen_overflows)
    }

    /// How much a counter of the namespace grew since its first reading.
    pub fn grown(&self, netns: u32, of: impl Fn(&Counters) -> Option<u64>) -> Option<u64> {
        let (first, latest) = self.readings.get(&netns)?;
        Some(of(latest)?.saturating_sub(of(first)?))
    }
}

/// Counts by key; keys beyond the capacity share one count.
#[derive(Debug)]
pub struct Tally<K> {
    counts: HashMap<K, u64>,
    pub others: u64,
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self { counts: HashMap::new(), others: 0 }
    }
}

impl<K: Eq + Hash + Ord + Clone> Tally<K> {
    pub fn add(&mut self, key: K) {
        if let Some(count) = self.counts.get_mut(&key) {
            *count += 1;
        } else if self.counts.len() < CAPACITY {
            self.counts.insert(key, 1);
        } else {
            self.others += 1;
        }
    }

    pub fn get(&self, key: &K) -> u64 {
        self.counts.get(key).copied().unwrap_or(0)
    }

    /// All counts by key, in order.
    pub fn sorted(&self) -> BTreeMap<K, u64> {
        self.counts.iter().map(|(k, n)| (k.clone(), *n)).collect()
    }

    pub fn sum(&self, of: impl Fn(&K) -> bool) -> u64 {
        self.counts.iter().filter(|(k, _)| of(k)).map(|(_, n)| n).sum()
    }
}
