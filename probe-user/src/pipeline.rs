//! The pure half of stallprobe in one piece: events in any near order go in, findings come out.

use std::collections::BTreeMap;

use crate::{
    correlate::{Correlator, Options, sum},
    event::{Body, Event, Hook, Node, Sandbox, Totals, armed::Request},
    finding::{Cause, Output},
    order::Order,
};

/// Turns boot time into wall time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WallClock {
    /// Wall time minus boot time, in nanoseconds; `None` before the stream told.
    offset: Option<i128>,
}

impl WallClock {
    pub fn new(boot: u64, wall: u64) -> Self {
        Self { offset: Some(i128::from(wall) - i128::from(boot)) }
    }

    /// The boot time at that wall time; `None` while no clock is known, or when it was before boot.
    pub fn boot(self, wall: u64) -> Option<u64> {
        u64::try_from(i128::from(wall) - self.offset?).ok()
    }

    /// Nanoseconds since the Unix epoch, UTC; `None` while no clock is known.
    pub fn wall(self, boot: u64) -> Option<u64> {
        u64::try_from(i128::from(boot) + self.offset?).ok()
    }
}

/// How the run goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Boot-time nanoseconds of the latest event or tick.
    pub now: u64,
    /// Nanoseconds since the first event.
    pub elapsed: u64,
    pub totals: Totals,
    /// Stalls told, and how many of them with a named cause.
    pub stalls: u64,
    pub explained: u64,
    /// Stalls seen and not judged yet.
    pub open: usize,
    /// Events lost, over all kinds, and calls the kernel missed.
    pub lost: u64,
    pub limited: u64,
    pub missed: u64,
    /// Nothing is loaded into the kernel: lookups and connects are not counted.
    pub no_ebpf: bool,
}

/// How the run went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    pub status: Status,
    pub by_cause: BTreeMap<Cause, u64>,
    /// Stalls, pods and evidence there was no room for.
    pub left_out: u64,
    /// Findings that a filter did not show.
    pub hidden: u64,
    /// Events that came too late to be put in order, and events passed on early.
    pub late: u64,
    pub early: u64,
}

/// What the header shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    pub node: Node,
    pub hooks: Vec<Hook>,
    pub pods: usize,
    /// Pods whose sockets are invisible.
    pub sandboxed: Vec<(String, Sandbox)>,
}

/// Order and correlation.
#[derive(Debug)]
pub struct Pipeline {
    order: Order,
    /// Late and early events of a stream that was put in order before.
    before: (u64, u64),
    correlator: Correlator,
    clock: WallClock,
    start: Option<u64>,
    now: u64,
}

impl Pipeline {
    pub fn new(opts: Options) -> Self {
        Self {
            order: Order::default(),
            before: (0, 0),
            correlator: Correlator::new(opts),
            clock: WallClock::default(),
            start: None,
            now: 0,
        }
    }

    /// Puts an event into the order of time; gives out what may now be taken.
    pub fn order(&mut self, event: Event) -> Vec<Event> {
        self.order.push(event)
    }

    /// What still waits to be put in order: the stream is at its end.
    pub fn rest(&mut self) -> Vec<Event> {
        self.order.finish()
    }

    /// Takes the next event in order of time. Findings come out with the [`Body::Tick`] that covers
    /// them.
    pub fn take(&mut self, event: &Event) -> Vec<Output> {
        self.now = self.now.max(event.ts);
        self.start.get_or_insert(event.ts);
        if let Body::Clock(clock) = &event.body {
            self.clock = WallClock::new(event.ts, clock.wall);
        }
        self.correlator.push(event)
    }

    /// How many events were late and early when the stream was put in order elsewhere.
    pub fn was_ordered(&mut self, late: u64, early: u64) {
        self.before = (late, early);
    }

    /// All events have been taken: what is to be said of stalls that are still open.
    pub fn end(&mut self) -> Vec<Output> {
        self.correlator.finish()
    }

    /// Puts an event in order and takes what may be.
    pub fn push(&mut self, event: Event) -> Vec<Output> {
        let ordered = self.order(event);
        ordered.iter().flat_map(|event| self.take(event)).collect()
    }

    /// The stream is at its end.
    pub fn finish(&mut self) -> Vec<Output> {
        let rest = self.rest();
        let mut out: Vec<_> = rest.iter().flat_map(|event| self.take(event)).collect();
        out.extend(self.end());
        out
    }

    /// Armed hooks that would help; only a live source can arm them.
    pub fn wishes(&mut self) -> Vec<Request> {
        self.correlator.wishes()
    }

    pub fn clock(&self) -> WallClock {
        self.clock
    }

    /// Names of pods, places and reasons as known now.
    pub fn correlator(&self) -> &Correlator {
        &self.correlator
    }

    pub fn header(&self) -> Header {
        Header {
            node: self.correlator.node().clone(),
            hooks: self.correlator.hooks().to_vec(),
            pods: self.correlator.pods(),
            sandboxed: self.correlator.sandboxed(),
        }
    }

    pub fn status(&self) -> Status {
        let counts = self.correlator.counts();
        let totals = self.correlator.totals().clone();
        Status {
            now: self.now,
            elapsed: self.now.saturating_sub(self.start.unwrap_or(self.now)),
            stalls: counts.stalls,
            explained: counts.explained(),
            open: self.correlator.open(),
            lost: sum(&totals.lost),
            limited: sum(&totals.limited),
            missed: totals.missed,
            no_ebpf: !self.correlator.node().no_ebpf.is_empty(),
            totals,
        }
    }

    pub fn summary(&self) -> Summary {
        Summary {
            status: self.status(),
            by_cause: self.correlator.counts().by_cause.clone(),
            hidden: 0,
            left_out: self.correlator.left_out(),
            late: self.order.late + self.before.0,
            early: self.order.early + self.before.1,
        }
    }
}
