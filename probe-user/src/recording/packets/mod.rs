//! Packets that wait for their cause: a stall is judged seconds after its packets were seen.

mod seen;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, fmt::Write as _};

use self::seen::Seen;
use crate::{
    correlate::{Correlator, Join, Told},
    event::Event,
    finding::Cause,
    pipeline::Pipeline,
};

/// How long a packet waits for its cause, in nanoseconds of the stream: a query is judged within six
/// seconds of its beginning and a connect earlier, and what was not known then may still get a name for ten
/// seconds.
const PATIENCE: u64 = 16_000_000_000;
/// A client sends its SYN again for about this long after the stall was told; a query it gives up sooner.
const MORE_SYNS: u64 = 60_000_000_000;
const MORE_QUERIES: u64 = 10_000_000_000;
/// Packets that wait at once, and stalls whose later packets are known. With more the oldest go first.
const MOST_WAITING: usize = 4096;
const MOST_TOLD: usize = 1024;

/// A packet with what is to be said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The network namespace it was seen in.
    pub netns: u32,
    /// What that is called, printable.
    pub name: String,
    /// Its number and addresses.
    pub description: String,
    /// Nanoseconds since the Unix epoch, UTC.
    pub wall: u64,
    /// Length by its IP header.
    pub length: u32,
    /// From the IP header on, as far as captured.
    pub bytes: Vec<u8>,
    /// The cause, or what the kernel said; one printable line.
    pub comment: String,
}

/// Packets in the order of their events.
#[derive(Debug, Default)]
pub struct Packets {
    waiting: VecDeque<Waiting>,
    /// With the time at which each was told.
    told: VecDeque<(u64, Told)>,
    /// Packets that went out before their time because too many waited.
    pub early: u64,
}

#[derive(Debug)]
struct Waiting {
    seen: Seen,
    since: u64,
    cause: Option<Told>,
}

impl Packets {
    /// Takes an event of the stream that `pipeline` has just taken, in order of time. Gives out the
    /// packets that need to wait no longer.
    pub fn take(&mut self, event: &Event, pipeline: &Pipeline) -> Vec<Packet> {
        let names = pipeline.correlator();
        self.hear(event.ts, names.told());
        let mut out = Vec::new();
        if let Some(seen) = Seen::of(event, names) {
            self.add(event.ts, seen);
        }
        while let Some(packet) = self.waiting.pop_front_if(|first| {
            first.is_named() || event.ts.saturating_sub(first.since) >= PATIENCE
        }) {
            out.push(packet.out(pipeline));
        }
        while self.waiting.len() > MOST_WAITING
            && let Some(packet) = self.waiting.pop_front()
        {
            self.early += 1;
            out.push(packet.out(pipeline));
        }
        out
    }

    /// The stream is at its end, and `pipeline` has said what it knows: gives out what still waits.
    pub fn finish(&mut self, pipeline: &Pipeline) -> Vec<Packet> {
        let names = pipeline.correlator();
        self.hear(pipeline.status().now, names.told());
        self.waiting.drain(..).map(|packet| packet.out(pipeline)).collect()
    }

    fn add(&mut self, now: u64, seen: Seen) {
        // The same packet is mostly among the last: rejected first, and dropped right after.
        let again = self.waiting.iter_mut().rev().take(16).find(|w| w.seen.is_again(&seen));
        let waiting = match again {
            Some(waiting) => {
                waiting.seen.join(seen);
                waiting
            }
            None => {
                self.waiting.push_back(Waiting { seen, since: now, cause: None });
                let Some(last) = self.waiting.back_mut() else { return };
                last
            }
        };
        for (at, told) in &self.told {
            waiting.hear(*at, told);
        }
    }

    fn hear(&mut self, now: u64, told: &[Told]) {
        for told in told {
            for waiting in &mut self.waiting {
                waiting.hear(now, told);
            }
            if self.told.len() >= MOST_TOLD {
                self.told.pop_front();
            }
            self.told.push_back((now, told.clone()));
        }
        while self.told.pop_front_if(|(at, _)| now.saturating_sub(*at) > MORE_SYNS).is_some() {}
    }
}

impl Waiting {
    /// A stall was told: maybe that of this packet.
    fn hear(&mut self, at: u64, told: &Told) {
        let more = match told.join {
            Join::Tcp { .. } => MORE_SYNS,
            Join::Dns { .. } | Join::Flow => MORE_QUERIES,
        };
        let rank = |told: &Told| (told.cause != Cause::Unknown, told.confidence);
        if self.seen.at <= at.saturating_add(more)
            && self.cause.as_ref().is_none_or(|known| rank(known) < rank(told))
            && self.seen.is_of(told)
        {
            self.cause = Some(told.clone());
        }
    }

    fn is_named(&self) -> bool {
        self.cause.as_ref().is_some_and(|told| told.cause != Cause::Unknown)
    }

    fn out(self, pipeline: &Pipeline) -> Packet {
        let Seen { at, netns, cookie, length, bytes, words, .. } = self.seen;
        let (name, description) = interface(pipeline.correlator(), netns, cookie, at);
        let comment = match self.cause {
            Some(Told { cause, confidence, finding, title, .. }) => {
                let (cause, confidence) = (cause.id(), confidence.id());
                format!("{cause} ({confidence}, {finding}): {title} [{words}]")
            }
            None => words,
        };
        Packet {
            netns,
            name,
            description,
            wall: pipeline.clock().wall(at).unwrap_or(at),
            length,
            bytes,
            // All of it is printable already; nothing that comes later can break the line.
            comment: comment.replace(char::is_control, "?"),
        }
    }
}

/// What a namespace was called at that time, and what more is known of it.
fn interface(names: &Correlator, netns: u32, cookie: u64, at: u64) -> (String, String) {
    if netns == 0 {
        return ("unknown".to_owned(), "network namespace not known".to_owned());
    }
    let name = names.place(netns, cookie, at);
    let mut description = format!("network namespace {netns}");
    for address in names.pod(netns, cookie, at).iter().flat_map(|pod| &pod.addresses) {
        let _ = write!(description, " {address}");
    }
    (name, description)
}
