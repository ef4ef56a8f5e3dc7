//! What the kernel side could not tell us, over time: whether "not seen" may be said to mean "did
//! not happen".

use std::collections::VecDeque;

use probe_common::event::kind;

use crate::event::Totals;

/// Samples kept. The loader sends one with each status, so these reach back further than any stall.
const CAPACITY: usize = 512;

#[derive(Clone, Debug)]
struct Sample {
    ts: u64,
    lost: u64,
    missed: u64,
    unpaired: u64,
    unreadable: u64,
    limited: Vec<u64>,
}

/// A packet's bytes are for the recording: nothing is concluded from them.
fn packets_lost(totals: &Totals) -> u64 {
    totals.lost.get(usize::from(kind::PACKET)).copied().unwrap_or(0)
}

/// Recent samples of the loss counters, and the latest totals as a whole.
#[derive(Debug, Default)]
pub struct Losses {
    samples: VecDeque<Sample>,
    pub latest: Totals,
}

impl Losses {
    pub fn note(&mut self, ts: u64, totals: &Totals) {
        self.latest = totals.clone();
        if self.samples.len() >= CAPACITY {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            ts,
            lost: sum(&totals.lost).saturating_sub(packets_lost(totals)),
            missed: totals.missed,
            unpaired: totals.unpaired,
            unreadable: totals.dns_unreadable,
            limited: totals.limited.clone(),
        });
    }

    /// Why events of these kinds may be absent from the stream since `from`, in words; `None` when
    /// nothing was lost. Before the first sample everything counts from zero.
    pub fn since(&self, from: u64, kinds: &[u16]) -> Option<String> {
        let (now, before) = self.span(from)?;
        let lost = now.lost.saturating_sub(before.map_or(0, |s| s.lost));
        if lost > 0 {
            return Some(format!("{lost} events were lost meanwhile (ring buffer full)"));
        }
        let missed = now.missed.saturating_sub(before.map_or(0, |s| s.missed));
        if missed > 0 {
            return Some(format!("the kernel missed {missed} calls of hooked functions meanwhile"));
        }
        let limited: u64 = kinds
            .iter()
            .map(|kind| {
                let at = |s: &Sample| s.limited.get(usize::from(*kind)).copied().unwrap_or(0);
                at(now).saturating_sub(before.map_or(0, at))
            })
            .sum();
        (limited > 0).then(|| format!("details of {limited} such events were left out meanwhile"))
    }

    /// Why packets may have been seen and yet show in no event, in words.
    pub fn unseen_since(&self, from: u64, is_dns: bool) -> Option<String> {
        let (now, before) = self.span(from)?;
        let unpaired = now.unpaired.saturating_sub(before.map_or(0, |s| s.unpaired));
        if unpaired > 0 {
            return Some(format!("there was no room to follow {unpaired} queries or connects"));
        }
        let unreadable = now.unreadable.saturating_sub(before.map_or(0, |s| s.unreadable));
        (is_dns && unreadable > 0)
            .then(|| format!("{unreadable} DNS packets could not be read meanwhile"))
    }

    fn span(&self, from: u64) -> Option<(&Sample, Option<&Sample>)> {
        let before = self.samples.iter().rev().find(|s| s.ts <= from);
        Some((self.samples.back()?, before))
    }
}

/// Sum of a per-kind counter.
pub fn sum(counts: &[u64]) -> u64 {
    counts.iter().fold(0, |sum, n| sum.saturating_add(*n))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(lost: u64, limited: u64, missed: u64) -> Totals {
        Totals { lost: vec![lost], limited: vec![limited, 0], missed, ..Totals::default() }
    }

    #[test]
    fn what_could_not_be_followed_or_read_counts() {
        let mut losses = Losses::default();
        losses.note(10, &Totals { unpaired: 5, dns_unreadable: 5, ..Totals::default() });
        assert_eq!(losses.unseen_since(10, true), None);
        losses.note(20, &Totals { unpaired: 5, dns_unreadable: 7, ..Totals::default() });
        assert!(losses.unseen_since(15, true).is_some_and(|why| why.starts_with("2 DNS")));
        assert_eq!(losses.unseen_since(15, false), None);
        losses.note(30, &Totals { unpaired: 6, dns_unreadable: 7, ..Totals::default() });
        assert!(losses.unseen_since(25, false).is_some_and(|why| why.contains("follow 1 queries")));
    }

    #[test]
    fn only_what_was_lost_since_counts() {
        let mut losses = Losses::default();
        assert_eq!(losses.since(0, &[0]), None);
        losses.note(10, &totals(5, 5, 5));
        losses.note(20, &totals(5, 5, 5));
        assert_eq!(losses.since(15, &[0]), None);
        assert!(losses.since(5, &[0]).is_some_and(|why| why.starts_with("5 events were lost")));
        losses.note(30, &totals(5, 7, 5));
        assert!(losses.since(25, &[0]).is_some_and(|why| why.contains("details of 2")));
        assert_eq!(losses.since(25, &[1]), None);
        losses.note(40, &totals(5, 7, 6));
        assert!(losses.since(35, &[1]).is_some_and(|why| why.contains("missed 1 calls")));
    }

    #[test]
    fn packets_lost_to_the_recording_are_no_lost_evidence() {
        let mut losses = Losses::default();
        let mut lost = vec![0; kind::COUNT];
        losses.note(10, &Totals { lost: lost.clone(), ..Totals::default() });
        lost[usize::from(kind::PACKET)] = 3;
        losses.note(20, &Totals { lost: lost.clone(), ..Totals::default() });
        assert_eq!(losses.since(15, &[kind::DROP]), None);
        lost[usize::from(kind::DROP)] = 1;
        losses.note(30, &Totals { lost, ..Totals::default() });
        let why = losses.since(25, &[kind::DROP]);
        assert!(why.is_some_and(|why| why.starts_with("1 events were lost")));
    }
}
