//! Namespaces and addresses without a name of which events came, and when to search for them.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use probe_common::net::{FAMILY_V4, FAMILY_V6, Tuple};

use crate::event::PodChange;

/// How many namespaces are remembered.
const MOST: usize = 16384;
/// The least time between two searches for an unknown or nameless namespace, of which each is searched
/// for once: a pod that lives for a moment is found.
const HASTE: u64 = 200_000_000;
/// And so many times as long as the last search took: any user can make namespaces.
const REST: u64 = 10;
/// The least time between two searches for an unknown address.
const PATIENCE: u64 = 1_000_000_000;
/// The longest time between two searches for an unknown address.
const LONGEST_PATIENCE: u64 = 64_000_000_000;
/// How long events wait for the search for their namespace's name: a finding waits longer for its evidence
/// (`correlate::judge`), so this is for a machine that is busy.
const LONGEST_HOLD: u64 = 400_000_000;

/// What a search is for: all do a pass over `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    Namespaces,
    /// All namespaces' addresses are read again too.
    Addresses,
}

/// Events that wait for a search.
#[derive(Clone, Copy)]
struct Waiting {
    /// The time of the first.
    ts: u64,
    /// When it was read.
    since: u64,
}

/// What has a name, and what is asked for.
#[derive(Default)]
pub struct Asked {
    pods: HashMap<u32, Vec<IpAddr>>,
    /// Namespaces known by a number only, or not at all, and whether they were searched for as such.
    nameless: HashMap<u32, bool>,
    addresses: HashSet<IpAddr>,
    /// Namespaces without a name that events came from since the last search: the next one is theirs.
    asked: BTreeSet<u32>,
    /// Those that the search is for that is being made.
    sought: BTreeSet<u32>,
    /// The first event that waits for the next search.
    waiting: Option<Waiting>,
    /// An address without a name was seen since the last search. Most such addresses are not pods'
    /// at all but the internet's.
    unknown_address: bool,
    searched_at: u64,
    /// How long the last search took.
    took: u64,
    /// How long to wait between two searches for addresses: doubles while they are in vain.
    patience: u64,
}

impl Asked {
    /// Takes in a change of the pod table. A pass over all processes that was made for another reason
    /// may have come before the first process of a pod, whose namespace is there first: only the search
    /// for a namespace of which an event came is its one.
    /// Whether nothing was known of it.
    pub fn pod(&mut self, change: &PodChange) -> bool {
        let mut is_new = false;
        match change {
            PodChange::Up(pod) => {
                if pod.is_named() {
                    self.nameless.remove(&pod.netns);
                    self.no_longer_asked(pod.netns);
                } else {
                    let searched = self.nameless.entry(pod.netns).or_default();
                    // Until now it was searched for as one that nobody knows.
                    *searched = (*searched && self.pods.contains_key(&pod.netns))
                        || self.asked.contains(&pod.netns)
                        || self.sought.contains(&pod.netns);
                }
                is_new = self.pods.insert(pod.netns, pod.addresses.clone()).is_none();
            }
            PodChange::Gone { netns } => {
                self.pods.remove(netns);
                self.nameless.remove(netns);
                self.no_longer_asked(*netns);
            }
        }
        self.addresses = self.pods.values().flatten().copied().collect();
        is_new
    }

    /// The namespace that has this address.
    pub fn netns_of(&self, address: IpAddr) -> Option<u32> {
        let address = address.to_canonical();
        let of = |all: &Vec<IpAddr>| all.iter().any(|a| a.to_canonical() == address);
        self.pods.iter().find(|(_, all)| of(all)).map(|(netns, _)| *netns)
    }

    /// Nothing waits for its name any more.
    fn no_longer_asked(&mut self, netns: u32) {
        if self.asked.remove(&netns) && self.asked.is_empty() {
            self.waiting = None;
        }
    }

    /// Whether it is known by a number only, or not at all.
    pub fn is_nameless(&self, netns: u32) -> bool {
        !self.pods.contains_key(&netns) || self.nameless.contains_key(&netns)
    }

    /// A namespace in which something happened at `ts`, as was read at `now`. Whether it is to be searched
    /// for.
    pub fn netns(&mut self, netns: u32, (ts, now): (u64, u64)) -> bool {
        let is_new = match self.nameless.get_mut(&netns) {
            Some(searched) => !std::mem::replace(searched, true),
            None if netns == 0 || self.pods.contains_key(&netns) => false,
            None => {
                if self.nameless.len() >= MOST {
                    self.nameless.retain(|netns, _| self.pods.contains_key(netns));
                }
                self.nameless.insert(netns, true);
                true
            }
        };
        if is_new && self.asked.len() < MOST {
            self.asked.insert(netns);
            let waiting = self.waiting.get_or_insert(Waiting { ts, since: now });
            waiting.ts = waiting.ts.min(ts);
        }
        is_new
    }

    /// From which time on events wait for the name of their namespace. There is one wait for each search,
    /// and that has an end: who makes namespaces all the time makes findings late, and no more.
    pub fn held(&self, now: u64) -> Option<u64> {
        let waiting = self.waiting?;
        (now.saturating_sub(waiting.since) < LONGEST_HOLD).then_some(waiting.ts)
    }

    /// The next search needs not wait its turn.
    pub fn hurry(&mut self) {
        self.took = 0;
        self.searched_at = 0;
    }

    /// The namespace that has this address.
    pub fn netns_with(&self, address: IpAddr) -> Option<u32> {
        let mut all = self.pods.iter();
        all.find(|(_, addresses)| addresses.contains(&address)).map(|(netns, _)| *netns)
    }

    /// A packet whose source may be a pod.
    pub fn address(&mut self, tuple: &Tuple) {
        let source = match tuple.family {
            FAMILY_V4 => {
                let [a, b, c, d, ..] = tuple.src;
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            FAMILY_V6 => IpAddr::V6(Ipv6Addr::from(tuple.src)),
            _ => return,
        };
        if !self.addresses.contains(&source) {
            self.unknown_address = true;
        }
    }

    /// What to search for now; the answer is given once.
    pub fn due(&mut self, now: u64) -> Option<Search> {
        let since = now.saturating_sub(self.searched_at);
        let address = self.unknown_address && since >= self.patience.max(PATIENCE);
        let netns = !self.asked.is_empty() && since >= HASTE.max(self.took.saturating_mul(REST));
        if !address && !netns {
            return None;
        }
        self.unknown_address &= !address;
        self.sought = std::mem::take(&mut self.asked);
        self.waiting = None;
        self.searched_at = now;
        Some(if address { Search::Addresses } else { Search::Namespaces })
    }

    /// This search was made; `found`: it brought something new. `took`: of a processor's time.
    pub fn searched(&mut self, search: Search, found: bool, took: Duration) {
        self.sought.clear();
        self.took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        if found {
            self.patience = PATIENCE;
        } else if search == Search::Addresses {
            self.patience = (self.patience.max(PATIENCE) * 2).min(LONGEST_PATIENCE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Pod;

    const S: u64 = 1_000_000_000;

    fn up(netns: u32, name: &str) -> PodChange {
        PodChange::Up(Pod { netns, name: name.to_owned(), ..Pod::default() })
    }

    #[test]
    fn each_namespace_is_searched_for_once() {
        let mut asked = Asked::default();
        assert!(asked.due(10 * S).is_none(), "nothing is unasked");
        asked.netns(7, (0, 0));
        assert!(asked.due(10 * S).is_some());
        asked.pod(&up(7, "netns:7"));
        asked.searched(Search::Namespaces, true, Duration::ZERO);
        asked.netns(7, (0, 0));
        assert!(asked.due(20 * S).is_none(), "the search would have found its name");

        asked.pod(&up(8, "netns:cni-0b8a"));
        asked.netns(8, (0, 0));
        assert!(asked.due(30 * S).is_some(), "it is known by a name from a list only");
        asked.netns(8, (0, 0));
        assert!(asked.due(40 * S).is_none());
        asked.pod(&up(8, "shop/web-0"));
        asked.pod(&PodChange::Gone { netns: 8 });
        asked.netns(8, (0, 0));
        assert!(asked.due(50 * S).is_some(), "another one under the same number");

        asked.searched(Search::Namespaces, false, Duration::ZERO);
        // Found by a pass for something else, when it had no process yet.
        asked.pod(&up(9, "netns:cni-5d4c"));
        asked.netns(9, (0, 0));
        assert!(asked.due(60 * S).is_some(), "its pod has processes now");
        asked.pod(&up(9, "netns:9"));
        asked.searched(Search::Namespaces, false, Duration::ZERO);
        asked.netns(9, (0, 0));
        assert!(asked.due(70 * S).is_none());
    }

    #[test]
    fn events_wait_for_one_search_and_not_for_long() {
        let mut asked = Asked::default();
        assert!(asked.due(10 * S).is_none());
        asked.netns(7, (9 * S, 10 * S));
        assert_eq!(asked.due(10 * S), Some(Search::Namespaces));
        asked.searched(Search::Namespaces, true, Duration::from_millis(100));
        assert_eq!(asked.held(10 * S), None, "it was searched for at once");
        asked.netns(8, (10 * S + 7, 10 * S + 8));
        asked.netns(9, (10 * S + 6, 10 * S + 8));
        assert!(asked.due(10 * S + 8).is_none(), "searches rest");
        assert_eq!(asked.held(10 * S + 8), Some(10 * S + 6));
        assert_eq!(asked.held(10 * S + 7 + LONGEST_HOLD), Some(10 * S + 6));
        assert_eq!(asked.held(10 * S + 8 + LONGEST_HOLD), None);
        asked.netns(6, (10 * S + LONGEST_HOLD, 10 * S + LONGEST_HOLD));
        assert_eq!(asked.held(10 * S + 8 + LONGEST_HOLD), None, "no other wait before a search");
        assert!(asked.due(11 * S).is_some());
        asked.searched(Search::Namespaces, true, Duration::ZERO);
        asked.netns(5, (11 * S, 11 * S));
        assert_eq!(asked.held(11 * S), Some(11 * S));
        asked.pod(&up(5, "shop/web-0"));
        assert_eq!(asked.held(11 * S), None, "its own process told its name");
        assert!(asked.due(12 * S).is_none());
    }

    #[test]
    fn searches_rest_longer_than_they_take() {
        let mut asked = Asked::default();
        asked.netns(7, (0, 0));
        assert!(asked.due(10 * S).is_some());
        asked.searched(Search::Namespaces, true, Duration::from_millis(100));
        asked.netns(8, (0, 0));
        assert!(asked.due(10 * S + S / 2).is_none());
        assert!(asked.due(11 * S).is_some());
        asked.searched(Search::Namespaces, true, Duration::from_millis(1));
        asked.netns(9, (0, 0));
        assert!(asked.due(11 * S + HASTE - 1).is_none());
        assert!(asked.due(11 * S + HASTE).is_some());
    }
}
