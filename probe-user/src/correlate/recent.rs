//! A bounded memory of what happened lately, found by key.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

/// What is remembered knows its time and the keys it is found by.
pub trait Keyed {
    type Key: Copy + Eq + Hash;
    fn ts(&self) -> u64;
    fn keys(&self) -> Vec<Self::Key>;
}

/// How many hits of one key are looked at: enough for a flow, and a bound for a hostile flood of
/// equal keys.
const HITS: usize = 64;

/// The latest items, at most `capacity` and none older than `keep` nanoseconds.
#[derive(Debug)]
pub struct Recent<T: Keyed> {
    items: VecDeque<T>,
    /// Number of the first item; items are numbered as they come.
    first: u64,
    index: HashMap<T::Key, VecDeque<u64>>,
    capacity: usize,
    keep: u64,
    /// Items forgotten before their time because there was no room.
    pub evicted: u64,
}

impl<T: Keyed> Recent<T> {
    pub fn new(capacity: usize, keep: u64) -> Self {
        let (items, index) = (VecDeque::new(), HashMap::new());
        Self { items, first: 0, index, capacity, keep, evicted: 0 }
    }

    pub fn push(&mut self, item: T) {
        self.forget(item.ts());
        if self.items.len() >= self.capacity {
            self.pop();
            self.evicted += 1;
        }
        let number = self.first + self.items.len() as u64;
        for key in item.keys() {
            self.index.entry(key).or_default().push_back(number);
        }
        self.items.push_back(item);
    }

    /// Forgets what is older than `keep`.
    pub fn forget(&mut self, now: u64) {
        while self.items.front().is_some_and(|i| i.ts().saturating_add(self.keep) < now) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        let Some(item) = self.items.pop_front() else { return };
        for key in item.keys() {
            if let Some(numbers) = self.index.get_mut(&key) {
                numbers.pop_front();
                if numbers.is_empty() {
                    self.index.remove(&key);
                }
            }
        }
        self.first += 1;
    }

    /// Items with this key, the latest first, at most a few dozen.
    pub fn find(&self, key: T::Key) -> impl Iterator<Item = &T> {
        let numbers = self.index.get(&key);
        numbers
            .into_iter()
            .flatten()
            .rev()
            .take(HITS)
            .filter_map(|number| self.items.get(usize::try_from(number - self.first).ok()?))
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Item(u64, Vec<u8>);

    impl Keyed for Item {
        type Key = u8;
        fn ts(&self) -> u64 {
            self.0
        }
        fn keys(&self) -> Vec<u8> {
            self.1.clone()
        }
    }

    #[test]
    fn found_by_any_key_until_too_old_or_pushed_out() {
        let mut recent = Recent::new(3, 100);
        for (ts, keys) in [(1, vec![1, 2]), (2, vec![2]), (3, vec![3])] {
            recent.push(Item(ts, keys));
        }
        let found = |r: &Recent<Item>, key| r.find(key).map(|i| i.0).collect::<Vec<_>>();
        assert_eq!(found(&recent, 2), [2, 1]);
        recent.push(Item(4, vec![1]));
        assert_eq!((found(&recent, 1), found(&recent, 2)), (vec![4], vec![2]));
        assert_eq!(recent.evicted, 1);
        recent.forget(104);
        assert_eq!((recent.len(), recent.evicted), (1, 1));
        recent.push(Item(500, vec![9, 9]));
        assert_eq!(found(&recent, 1), [0; 0]);
        assert_eq!(recent.index.len(), 1);
    }
}
