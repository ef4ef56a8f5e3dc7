//! Which step of a server took the time while a probe waited, by what its socket showed each time it was
//! looked at. What lies between two looks at the same step was that step; the rest is nobody's.

use probe_common::event::{
    ProbeSteps, STEP_ACCEPT, STEP_ANSWER, STEP_NONE, STEP_READ, kind, may_be_timeout,
};

use super::{
    evidence::{Key, Seen},
    join::Case,
    probe::LONGEST,
    symptom::{Symptom, seconds},
    world::World,
};
use crate::finding::{Evidence, details::Late};

/// A server must have been seen at a step so often for it to be named.
const OFTEN: u32 = 3;

/// The steps of a server, in their order.
const ORDER: [usize; 3] = [STEP_ACCEPT, STEP_READ, STEP_ANSWER];

/// A step at which the server was seen: when first, when last, and how often.
#[derive(Clone, Copy)]
struct Step {
    first: u64,
    last: u64,
    count: u32,
}

fn at(steps: &ProbeSteps, step: usize) -> Option<Step> {
    let count = *steps.count.get(step).filter(|count| **count > 0)?;
    Some(Step { first: *steps.first.get(step)?, last: *steps.last.get(step)?, count })
}

/// The step at which the server was for most of the time from `connected` to `end`, the answer or the
/// end of the wait; `None` when it is not seen often enough to be sure, or what was seen does not fit.
pub fn longest(steps: &ProbeSteps, connected: u64, end: u64) -> Option<Late> {
    // At such a moment nothing may have been asked, or an answer was on its way.
    let is_unsure = at(steps, STEP_NONE).is_some();
    let [accept, read, answer] = ORDER.map(|step| at(steps, step));
    let seen: Vec<Step> = [accept, read, answer].into_iter().flatten().collect();
    let mut before = connected;
    for step in &seen {
        if step.first < before || step.last < step.first {
            return None;
        }
        before = step.last;
    }
    if is_unsure || before > end {
        return None;
    }
    let took = [
        // What is not accepted now was not before, and what is not answered now was not until it was.
        (Late::Accept, accept.map(|s| (s, s.last.saturating_sub(connected)))),
        (Late::Read, read.map(|s| (s, s.last.saturating_sub(s.first)))),
        (Late::Answer, answer.map(|s| (s, end.saturating_sub(s.first)))),
    ];
    let took = took.into_iter().filter_map(|(late, seen)| seen.map(|(s, ns)| (late, s.count, ns)));
    let (late, count, ns) = took.max_by_key(|(_, _, ns)| *ns)?;
    let is_most = ns > end.saturating_sub(connected) / 2;
    (is_most && count >= OFTEN).then_some(late)
}

/// Whether a connection that got bytes, then none, and was closed by the kubelet may have been one on
/// which it waited, and not one that it kept for the next request.
pub fn is_pending(symptom: &Symptom, world: &World) -> bool {
    let waited = symptom.ended.map_or(0, |ended| ended.saturating_sub(symptom.first));
    let owed = of(symptom, world)
        .is_some_and(|seen| ORDER.iter().any(|step| at(&seen.event, *step).is_some()));
    waited <= LONGEST && (owed || may_be_timeout(waited))
}

/// What was seen of its server.
fn of<'a>(symptom: &Symptom, world: &'a World) -> Option<&'a Seen<ProbeSteps>> {
    let mut found = world.evidence.probe_steps.find(Key::Flow(symptom.flow));
    found.find(|s| symptom.span().contains(&s.ts))
}

impl<'a> Case<'a> {
    /// The step at which the server was for most of the time until `end`, and how often it was seen.
    pub fn longest_step(&self, end: u64) -> Option<Late> {
        let carried = self.symptom.probe.as_deref()?;
        longest(&of(self.symptom, self.world)?.event, carried.connected, end)
    }

    /// The process's socket, once it was accepted.
    pub fn accepted_by(&self) -> u64 {
        let found = self.world.evidence.probe_servers.find(Key::Flow(self.symptom.flow));
        let span = self.symptom.span();
        let of_this =
            found.filter(|s| span.contains(&s.ts) && s.event.header.kind != kind::PROBE_SERVED);
        of_this.map(|s| s.event.ino).find(|ino| *ino != 0).unwrap_or(0)
    }

    /// What it showed at which times.
    pub fn say_steps(&self) -> Option<Evidence> {
        let seen = of(self.symptom, self.world)?;
        let first = self.symptom.first;
        let words = ["not accepted", "not all read", "all read and not answered", "nothing to do"];
        let steps = ORDER.into_iter().chain([STEP_NONE]).zip(words);
        let said = steps.filter_map(|(step, words)| {
            let step = at(&seen.event, step)?;
            let after = |ts: u64| seconds(ts.saturating_sub(first));
            let when = match step.count {
                1 => format!("once, after {}", after(step.first)),
                n => format!("{n} times, after {} to {}", after(step.first), after(step.last)),
            };
            Some(format!("{words} {when}"))
        });
        let said: Vec<String> = said.collect();
        let text = format!("the server's socket while the kubelet waited: {}", said.join("; "));
        Some(Evidence { ts: seen.ts, kind: "probe-steps", text })
    }
}
