//! Puts the stream into the order of time. CPUs hand over their events a little out of order; a
//! [`Body::Tick`] promises that nothing with its time or an earlier one is still to come.

use std::collections::BTreeMap;

use crate::event::{Body, Event};

/// How many events may wait for a tick before the oldest are passed on without one.
const CAPACITY: usize = 65_536;

/// Holds events back until a tick covers them.
#[derive(Debug)]
pub struct Order {
    /// By time, then by arrival: equal times keep the order in which they came.
    waiting: BTreeMap<(u64, u64), Event>,
    arrived: u64,
    /// Time up to which everything has been passed on.
    passed: u64,
    capacity: usize,
    /// Events that came behind the watermark and were passed on at once.
    pub late: u64,
    /// Events passed on before a tick covered them, because too many waited.
    pub early: u64,
}

impl Default for Order {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl Order {
    pub fn with_capacity(capacity: usize) -> Self {
        Self { waiting: BTreeMap::new(), arrived: 0, passed: 0, capacity, late: 0, early: 0 }
    }

    /// Takes one event and returns what may now be passed on, in order of time. A tick comes after
    /// all events it covers.
    pub fn push(&mut self, event: Event) -> Vec<Event> {
        if matches!(event.body, Body::Tick) {
            let mut out = self.up_to(event.ts);
            self.passed = self.passed.max(event.ts);
            out.push(event);
            return out;
        }
        if event.ts < self.passed {
            self.late += 1;
            return vec![event];
        }
        self.waiting.insert((event.ts, self.arrived), event);
        self.arrived += 1;
        if self.waiting.len() <= self.capacity {
            return Vec::new();
        }
        let Some((_, oldest)) = self.waiting.pop_first() else { return Vec::new() };
        self.early += 1;
        self.passed = oldest.ts;
        vec![oldest]
    }

    /// Everything that still waits, in order of time: the stream is at its end.
    pub fn finish(&mut self) -> Vec<Event> {
        self.up_to(u64::MAX)
    }

    fn up_to(&mut self, ts: u64) -> Vec<Event> {
        let later = match ts.checked_add(1) {
            Some(next) => self.waiting.split_off(&(next, 0)),
            None => BTreeMap::new(),
        };
        std::mem::replace(&mut self.waiting, later).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Clock;

    fn clock(ts: u64, wall: u64) -> Event {
        Event { ts, body: Body::Clock(Clock { wall }) }
    }

    fn tick(ts: u64) -> Event {
        Event { ts, body: Body::Tick }
    }

    #[test]
    fn a_tick_releases_what_it_covers_in_order_and_comes_last() {
        let mut order = Order::default();
        for event in [clock(30, 0), clock(10, 1), clock(20, 2), clock(10, 3)] {
            assert_eq!(order.push(event), []);
        }
        assert_eq!(order.push(tick(20)), [clock(10, 1), clock(10, 3), clock(20, 2), tick(20)]);
        assert_eq!(order.finish(), [clock(30, 0)]);
    }

    #[test]
    fn an_event_at_the_watermark_is_not_late_and_one_before_it_is() {
        let mut order = Order::default();
        order.push(tick(20));
        assert_eq!(order.push(clock(20, 0)), []);
        assert_eq!(order.late, 0);
        assert_eq!(order.push(clock(19, 1)), [clock(19, 1)]);
        assert_eq!(order.late, 1);
    }

    #[test]
    fn an_overflow_passes_the_oldest_on_and_counts_it() {
        let mut order = Order::with_capacity(2);
        assert_eq!(order.push(clock(3, 0)), []);
        assert_eq!(order.push(clock(1, 1)), []);
        assert_eq!(order.push(clock(2, 2)), [clock(1, 1)]);
        assert_eq!(order.early, 1);
        assert_eq!(order.push(tick(9)), [clock(2, 2), clock(3, 0), tick(9)]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_goes_back_in_time(
            times in prop::collection::vec((0u64..200, prop::bool::weighted(0.1)), 0..200),
            capacity in 1usize..20,
        ) {
            let mut order = Order::with_capacity(capacity);
            let mut out = Vec::new();
            for (n, (ts, is_tick)) in times.iter().enumerate() {
                let event = if *is_tick { tick(*ts) } else { clock(*ts, n as u64) };
                out.extend(order.push(event));
                prop_assert!(order.waiting.len() <= capacity);
            }
            out.extend(order.finish());
            prop_assert_eq!(out.len(), times.len());
            let back = out
                .iter()
                .filter(|e| !matches!(e.body, Body::Tick))
                .scan(0, |last, e| { let goes_back = e.ts < *last; *last = e.ts.max(*last); Some(goes_back) })
                .filter(|b| *b)
                .count() as u64;
            prop_assert!(back <= order.late);
        }
    }
}
