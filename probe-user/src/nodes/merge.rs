//! Whose event is next: that with the earliest wall time. Every node's own order stays as it is, also
//! where its clock was set back.

use crate::{
    event::{Body, Event},
    pipeline::WallClock,
};

/// One event of each source, of which the earliest is taken.
///
/// ```text
/// while let Some(node) = merge.wants() { merge.put(node, the next of that source, or None) }
/// let (node, event) = merge.take();
/// ```
#[derive(Debug)]
pub struct Merge {
    sources: Vec<Source>,
}

#[derive(Debug, Default)]
struct Source {
    next: Next,
    clock: WallClock,
}

#[derive(Debug, Default)]
enum Next {
    #[default]
    Unread,
    /// Nanoseconds since the Unix epoch; 0 before its clock is known, for that comes first.
    Event(u64, Event),
    Ended,
}

impl Merge {
    pub fn new(count: usize) -> Self {
        Self { sources: (0..count).map(|_| Source::default()).collect() }
    }

    /// A source whose next event must be known before any is taken.
    pub fn wants(&self) -> Option<usize> {
        self.sources.iter().position(|source| matches!(source.next, Next::Unread))
    }

    /// Its next event; `None` at its end.
    pub fn put(&mut self, source: usize, event: Option<Event>) {
        let Some(source) = self.sources.get_mut(source) else { return };
        source.next = match event {
            Some(event) => {
                if let Body::Clock(clock) = &event.body {
                    source.clock = WallClock::new(event.ts, clock.wall);
                }
                Next::Event(source.clock.wall(event.ts).unwrap_or(0), event)
            }
            None => Next::Ended,
        };
    }

    /// The earliest, of equal ones that of the first source; `None` when all are at their end.
    pub fn take(&mut self) -> Option<(usize, Event)> {
        let walls = self.sources.iter().enumerate().filter_map(|(n, source)| match source.next {
            Next::Event(wall, _) => Some((wall, n)),
            Next::Unread | Next::Ended => None,
        });
        let (_, first) = walls.min()?;
        match std::mem::take(&mut self.sources.get_mut(first)?.next) {
            Next::Event(_, event) => Some((first, event)),
            Next::Unread | Next::Ended => None,
        }
    }
}
