//! What namespaces that are looked at in turn show: counters that rose between two looks, and the
//! queues of listeners then. Whether that explains a stall is a matter of time: each SYN that was
//! lost must fall into a span in which the counter rose.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::event::{Counters, ListenQueues};

/// Namespaces kept.
const CAPACITY: usize = 1024;
/// Spans kept of one namespace, half a second or more each.
const SPANS: usize = 64;
/// A look takes its time, and so does the event of a SYN.
const SLACK: u64 = 100_000_000;

/// A span of time, in nanoseconds; both ends included.
pub type Span = (u64, u64);

/// What rose between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rise {
    pub span: Span,
    /// `ListenOverflows`.
    pub overflows: u64,
    /// Packets dropped by connection tracking, those that lost a clash not counted.
    pub untracked: u64,
    /// Whether the connection tracking table was about full at the end of the span.
    pub table_is_full: bool,
}

impl Rise {
    /// `None` when nothing rose.
    fn of(before: &Counters, now: &Counters, ts: u64) -> Option<Self> {
        let grown = |of: fn(&Counters) -> Option<u64>| {
            of(now).unwrap_or(0).saturating_sub(of(before).unwrap_or(0))
        };
        let overflows = grown(|c| c.listen_overflows);
        let dropped = grown(|c| c.conntrack.map(|ct| ct.drop));
        let clashed = grown(|c| c.conntrack.map(|ct| ct.insert_failed));
        let untracked = dropped.saturating_sub(clashed);
        let table_is_full = now.conntrack.is_some_and(|ct| {
            // Entries that ran out leave with the next packets.
            let about = ct.entries.saturating_add(ct.entries / 20).saturating_add(2);
            ct.max > 0 && about >= ct.max
        });
        let rise = Self { span: (now.since, ts), overflows, untracked, table_is_full };
        (overflows > 0 || untracked > 0).then_some(rise)
    }
}

/// By namespace.
#[derive(Debug, Default)]
pub struct Polled {
    rises: BTreeMap<u32, VecDeque<Rise>>,
    /// When each namespace with rises was looked at last.
    looked: HashMap<u32, u64>,
    queues: HashMap<u32, (u64, ListenQueues)>,
}

impl Polled {
    /// Takes in the counters of a look at `ts`; whether something rose. `before`: those of the look
    /// before. Readings that are not looks in turn say nothing.
    pub fn note(&mut self, ts: u64, before: Option<&Counters>, now: &Counters) -> bool {
        // Of a namespace without a reading before, the totals say nothing: it may just be new to us.
        let (Some(before), true) = (before, now.since > 0) else { return false };
        if let Some(looked) = self.looked.get_mut(&now.netns) {
            *looked = ts;
        }
        let Some(rise) = Rise::of(before, now, ts) else { return false };
        if self.rises.len() >= CAPACITY && !self.rises.contains_key(&now.netns) {
            return false;
        }
        self.looked.insert(now.netns, ts);
        let rises = self.rises.entry(now.netns).or_default();
        rises.push_back(rise);
        if rises.len() > SPANS {
            rises.pop_front();
        }
        true
    }

    pub fn queues_of(&mut self, ts: u64, queues: &ListenQueues) {
        if self.queues.len() < CAPACITY || self.queues.contains_key(&queues.netns) {
            self.queues.insert(queues.netns, (ts, queues.clone()));
        }
    }

    pub fn forget(&mut self, netns: u32) {
        self.rises.remove(&netns);
        self.looked.remove(&netns);
        self.queues.remove(&netns);
    }

    /// The queues of a namespace as read last, not before `since`.
    pub fn queues(&self, netns: u32, since: u64) -> Option<(u64, &ListenQueues)> {
        let (ts, queues) = self.queues.get(&netns)?;
        (*ts >= since).then_some((*ts, queues))
    }

    /// Namespaces in which something rose in each of these spans that ended before the last look,
    /// with the rises. Each span is a packet lost, and `of` tells how many packets a rise counted:
    /// it explains no more than that.
    pub fn rose_in_each<'a>(
        &'a self,
        spans: &'a [Span],
        of: impl Fn(&Rise) -> u64 + 'a,
    ) -> impl Iterator<Item = (u32, Vec<Rise>)> + 'a {
        self.rises.iter().filter_map(move |(netns, rises)| {
            let looked = *self.looked.get(netns)?;
            // What each rise may explain, and whether it does explain something.
            let mut left: Vec<(&Rise, u64, bool)> =
                rises.iter().map(|rise| (rise, of(rise), false)).collect();
            // The span that ends first takes from the rise that ended first: so none is left
            // without one that another way of sharing would have found.
            let mut lost: Vec<Span> = spans.iter().filter(|s| s.1 <= looked).copied().collect();
            lost.sort_unstable_by_key(|span| (span.1, span.0));
            for span in lost {
                let (_, count, is_used) = left
                    .iter_mut()
                    .find(|(rise, count, _)| *count > 0 && overlap(rise.span, span))?;
                *count -= 1;
                *is_used = true;
            }
            let used = left.into_iter().filter(|(.., is_used)| *is_used);
            let found: Vec<Rise> = used.map(|(rise, ..)| *rise).collect();
            (!found.is_empty()).then_some((*netns, found))
        })
    }

    pub fn is_empty(&self) -> bool {
        self.rises.is_empty()
    }
}

fn overlap(one: Span, other: Span) -> bool {
    one.0 <= other.1.saturating_add(SLACK) && other.0 <= one.1.saturating_add(SLACK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ConntrackCounters;

    fn counters(since: u64, overflows: u64, drop: u64, insert_failed: u64) -> Counters {
        let conntrack = ConntrackCounters {
            entries: 96,
            max: 100,
            drop,
            insert_failed,
            ..ConntrackCounters::default()
        };
        Counters {
            netns: 7,
            since,
            listen_overflows: Some(overflows),
            conntrack: Some(conntrack),
            ..Counters::default()
        }
    }

    const S: u64 = 1_000_000_000;

    #[test]
    fn only_looks_in_turn_show_rises() {
        let mut polled = Polled::default();
        let (first, next) = (counters(0, 3, 0, 0), counters(0, 5, 0, 0));
        assert!(!polled.note(S, None, &first), "totals since the namespace was made");
        assert!(!polled.note(2 * S, Some(&first), &next), "not in turn");
        assert!(!polled.note(2 * S, Some(&first), &counters(S, 3, 0, 0)), "nothing rose");
        assert!(polled.note(2 * S, Some(&first), &counters(S, 5, 0, 0)));
        let found: Vec<_> = polled.rose_in_each(&[(S, S)], |r| r.overflows).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1[0].overflows, 2);
    }

    #[test]
    fn each_span_must_have_its_rise() {
        let mut polled = Polled::default();
        polled.note(2 * S, Some(&counters(S, 0, 0, 0)), &counters(S, 1, 0, 0));
        polled.note(5 * S, Some(&counters(4 * S, 1, 0, 0)), &counters(4 * S, 2, 0, 0));
        let count =
            |polled: &Polled, spans: &[Span]| polled.rose_in_each(spans, |r| r.overflows).count();
        assert_eq!(count(&polled, &[(S, 2 * S), (4 * S, 5 * S)]), 1);
        assert_eq!(count(&polled, &[(S, 2 * S), (3 * S, 3 * S)]), 0);
        assert_eq!(count(&polled, &[]), 0, "nothing to go by");
        let later = (6 * S, 6 * S);
        assert_eq!(count(&polled, &[(S, 2 * S), later]), 1, "not looked at since");
        assert_eq!(count(&polled, &[later]), 0);
        polled.note(7 * S, Some(&counters(4 * S, 2, 0, 0)), &counters(5 * S, 2, 0, 0));
        assert_eq!(count(&polled, &[(S, 2 * S), later]), 0, "looked, and it had not risen");
    }

    #[test]
    fn a_rise_explains_as_many_packets_as_it_counted() {
        // One wide span, as of a namespace that is seldom looked at.
        let count = |overflows, spans: &[Span]| {
            let mut polled = Polled::default();
            polled.note(8 * S, Some(&counters(S, 0, 0, 0)), &counters(S, overflows, 0, 0));
            polled.rose_in_each(spans, |r| r.overflows).count()
        };
        let spans = [(2 * S, 2 * S), (3 * S, 3 * S), (5 * S, 5 * S)];
        assert_eq!(count(2, &spans), 0, "two of three");
        assert_eq!(count(3, &spans), 1);
        assert_eq!(count(1, &spans[..1]), 1);
    }

    #[test]
    fn packets_share_rises_as_they_can() {
        let mut polled = Polled::default();
        polled.note(2 * S, Some(&counters(S, 0, 0, 0)), &counters(S, 1, 0, 0));
        polled.note(3 * S, Some(&counters(2 * S, 1, 0, 0)), &counters(2 * S, 2, 0, 0));
        // The first may have been lost in both, the second in the earlier one only.
        let spans = [(S, 3 * S), (S, S + S / 2)];
        let found: Vec<_> = polled.rose_in_each(&spans, |r| r.overflows).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1.len(), 2);
    }

    #[test]
    fn clashes_are_no_full_table() {
        let rise = |drop, failed| Rise::of(&counters(S, 0, 0, 0), &counters(S, 0, drop, failed), S);
        assert_eq!(rise(3, 3), None);
        assert!(rise(4, 3).is_some_and(|r| r.untracked == 1 && r.table_is_full));
        let mut half = counters(S, 0, 1, 0);
        half.conntrack = half.conntrack.map(|ct| ConntrackCounters { entries: 50, ..ct });
        let rise = Rise::of(&counters(S, 0, 0, 0), &half, S);
        assert!(rise.is_some_and(|r| !r.table_is_full));
    }
}
