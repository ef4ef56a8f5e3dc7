//! From events to findings: a fold over one ordered stream. Its only clock is the time of the
//! events and ticks, so a replay of the stream gives the same findings.

pub mod dns;
pub mod flow;
pub mod fold;
pub mod losses;
pub mod pods;
pub mod rules;

mod describe;
mod evidence;
mod headline;
mod join;
mod recent;
mod stalls;
mod symptom;
mod tally;
mod unknown;
mod watch;
mod world;

#[cfg(test)]
mod tests;

use self::{
    fold::{Counts, Findings},
    join::Case,
    rules::Verdict,
    stalls::{Stalls, State},
    symptom::{Side, Symptom, Worth},
    world::World,
};
pub use self::{losses::sum, world::Watch};
use crate::{
    event::{Body, Event, Hook, Node, Totals},
    finding::{Cause, Confidence, Finding, NotNamed, Output, SymptomKind},
};

/// Settings of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Nanoseconds from which a lookup or handshake counts as a stall, unless the stream's
    /// [`Node::min_stall`] says so.
    pub min_stall: u64,
    /// UDP ports that are DNS.
    pub dns_ports: Vec<u16>,
}

impl Default for Options {
    fn default() -> Self {
        Self { min_stall: 1_000_000_000, dns_ports: vec![53, 5353] }
    }
}

/// A certain verdict is held back this long: a rule further up the catalogue may still get its
/// evidence.
const SETTLE: u64 = 150_000_000;
/// After the client gave up, its last evidence is waited for this long.
const GRACE: u64 = 300_000_000;
/// Resolvers wait for 5 s (glibc, musl, Go). One that then asks again by another socket or id
/// shows nothing on the first query, so this is when it is given up for it.
const RESOLVER_TIMEOUT: u64 = 5_500_000_000;
/// A connect is judged this long after its first retransmit if it does not end before.
const CONNECT_PATIENCE: u64 = 3_500_000_000;
/// An unknown stall is judged again on new evidence for so long.
const SECOND_THOUGHTS: u64 = 10_000_000_000;
/// How often state that is too old is dropped.
const FORGET_EVERY: u64 = 1_000_000_000;

/// The fold.
#[derive(Debug)]
pub struct Correlator {
    opts: Options,
    world: World,
    stalls: Stalls,
    findings: Findings,
    closes: watch::Closes,
    forgot_at: u64,
}

impl Correlator {
    pub fn new(opts: Options) -> Self {
        Self {
            opts,
            world: World::default(),
            stalls: Stalls::default(),
            findings: Findings::default(),
            closes: watch::Closes::default(),
            forgot_at: 0,
        }
    }

    /// Takes the next event in order of time and returns what is to be said now.
    pub fn push(&mut self, event: &Event) -> Vec<Output> {
        self.world.note(event);
        match &event.body {
            Body::Tick => return self.tick(event.ts),
            Body::Dns(e) => self.on_dns(event.ts, e),
            Body::Connect(e) => self.on_connect(event.ts, e),
            Body::Listen(e) => self.on_listen(event.ts, e),
            Body::SynAck(e) => self.on_synack(event.ts, e),
            Body::Clash(e) => self.on_clash(event.ts, e),
            Body::Drop(e) => self.on_drop(event.ts, e),
            _ => {}
        }
        Vec::new()
    }

    /// The stream is at its end: says what is known of stalls that are still open, and brings all
    /// findings up to date.
    pub fn finish(&mut self) -> Vec<Output> {
        let now = self.world.now;
        let mut out = Vec::new();
        for id in self.stalls.ids() {
            out.extend(self.judge(id, now, true));
        }
        out.extend(self.findings.flush(now, &self.world, true));
        out
    }

    fn tick(&mut self, now: u64) -> Vec<Output> {
        let mut out = Vec::new();
        for id in self.stalls.ids() {
            out.extend(self.judge(id, now, false));
        }
        out.extend(self.findings.flush(now, &self.world, false));
        if now.saturating_sub(self.forgot_at) >= FORGET_EVERY {
            self.forgot_at = now;
            self.world.forget();
            self.stalls.forget(now);
            self.closes.forget(now);
        }
        out
    }

    /// Judges one stall if its time has come.
    fn judge(&mut self, id: u64, now: u64, at_end: bool) -> Option<Output> {
        let generation = self.world.evidence.generation;
        let stall = self.stalls.get_mut(id)?;
        let told = match stall.state {
            State::Dismissed => return None,
            State::Told { finding, unknown } => {
                let open = stall.symptom.ended.is_none();
                let lasts = now.saturating_sub(stall.touched) <= SECOND_THOUGHTS;
                if lasts && stall.symptom.side == Side::Client {
                    let waited = stall.symptom.waited(stall.touched);
                    self.findings.waited(finding, waited, open);
                }
                if !unknown || !lasts || stall.checked == Some(generation) {
                    return None;
                }
                Some(finding)
            }
            State::Open => None,
        };
        let due = told.is_none() && (at_end || now >= self.due(id)?);
        let stall = self.stalls.get_mut(id)?;
        let ready = match stall.symptom.kind {
            SymptomKind::DnsStall => true,
            _ => now >= stall.symptom.opened.saturating_add(GRACE),
        };
        let news = stall.checked != Some(generation) || stall.certain_since.is_some();
        let looks = stall.symptom.side == Side::Client || told.is_some();
        if !due && !(looks && news) {
            return None;
        }
        let at_first = if due { stall.at_first.take() } else { None };
        stall.checked = Some(generation);
        let (verdict, ruled_out, not_seen) = self.case(id, told.is_some() || due)?;
        let verdict = verdict.or(at_first.map(|verdict| *verdict));
        if let Some(finding) = told {
            let verdict = verdict?;
            let (key, finding_now) = self.finding(id, verdict, Vec::new(), Vec::new())?;
            let (finding, out) = self.findings.rename(now, finding, key, finding_now);
            self.stalls.set_state(id, State::Told { finding, unknown: false });
            return out;
        }
        let stall = self.stalls.get_mut(id)?;
        let certain = verdict.as_ref().is_some_and(|v| v.confidence == Confidence::Certain);
        if certain {
            let since = *stall.certain_since.get_or_insert(now);
            if !due && (!ready || now.saturating_sub(since) < SETTLE) {
                return None;
            }
        } else if !due {
            return None;
        }
        let worth_it = match stall.symptom.worth {
            Worth::Stall => verdict.is_some() || !at_end || stall.symptom.is_over(now),
            Worth::OnlyNamed => verdict.is_some(),
            Worth::OnlyCertain => certain,
        };
        if !worth_it {
            if at_end && stall.symptom.worth == Worth::Stall {
                // Too young to judge: stays open, and is counted as such.
                return None;
            }
            self.stalls.set_state(id, State::Dismissed);
            return None;
        }
        let verdict = match verdict {
            Some(verdict) => verdict,
            None => unknown::verdict(&self.case_of(id, true)?),
        };
        let unknown = verdict.cause == Cause::Unknown;
        let (key, finding) = self.finding(id, verdict, ruled_out, not_seen)?;
        let (finding, out) = self.findings.tell(now, key, finding);
        self.stalls.set_state(id, State::Told { finding, unknown });
        out
    }

    /// When a stall is judged at the latest.
    fn due(&self, id: u64) -> Option<u64> {
        let stall = self.stalls.get(id)?;
        let s = &stall.symptom;
        Some(match (s.side, s.kind) {
            (Side::Packet, _) => stall.judge_at,
            (Side::Client, SymptomKind::DnsStall) => {
                let gave_up = [s.gave_up, s.answered, s.ended].into_iter().flatten().min();
                let gave_up = gave_up.unwrap_or_else(|| s.first.saturating_add(RESOLVER_TIMEOUT));
                gave_up.max(s.opened).saturating_add(GRACE)
            }
            (Side::Client, _) => {
                let patience = s.opened.saturating_add(CONNECT_PATIENCE);
                s.ended.map_or(patience, |ts| patience.min(ts.saturating_add(GRACE)))
            }
        })
    }

    fn case_of(&self, id: u64, last_word: bool) -> Option<Case<'_>> {
        let stall = self.stalls.get(id)?;
        Some(Case {
            symptom: &stall.symptom,
            world: &self.world,
            stalls: &self.stalls,
            last_word,
            evicted: self.world.evidence.evicted() > stall.evicted_before,
        })
    }

    /// The best verdict of the rules, and what is not named when it is not certain.
    #[expect(clippy::type_complexity, reason = "used once")]
    fn case(
        &self,
        id: u64,
        last_word: bool,
    ) -> Option<(Option<Verdict>, Vec<NotNamed>, Vec<NotNamed>)> {
        let case = self.case_of(id, last_word)?;
        let verdict = rules::best(&case);
        let certain = verdict.as_ref().is_some_and(|v| v.confidence == Confidence::Certain);
        if certain || !last_word {
            return Some((verdict, Vec::new(), Vec::new()));
        }
        let (mut ruled_out, mut not_seen) = unknown::not_named(&case);
        if let Some(verdict) = &verdict {
            ruled_out.retain(|n| n.cause != verdict.cause);
            not_seen.retain(|n| n.cause != verdict.cause);
        }
        Some((verdict, ruled_out, not_seen))
    }

    fn finding(
        &self,
        id: u64,
        verdict: Verdict,
        ruled_out: Vec<NotNamed>,
        not_seen: Vec<NotNamed>,
    ) -> Option<(fold::Key, Finding)> {
        let symptom = &self.stalls.get(id)?.symptom;
        let victim = headline::victim(symptom, &self.world);
        // Clients elsewhere are one victim: a flood from many addresses stays one finding.
        let who = victim.pod.clone().unwrap_or_else(|| "elsewhere".to_owned());
        let culprit = match verdict.cause {
            Cause::Unknown => format!("{} {}", symptom.kind.id(), verdict.fold),
            _ => verdict.fold,
        };
        let key = fold::Key { cause: verdict.cause, victim: who, culprit };
        let finding = Finding {
            id: String::new(),
            ts: symptom.first,
            symptom: symptom.kind,
            cause: verdict.cause,
            confidence: verdict.confidence,
            victim,
            culprit: verdict.culprit,
            flow: symptom.flow,
            waited: symptom.waited(self.world.now),
            open: symptom.ended.is_none(),
            count: 1,
            first: symptom.first,
            last: symptom.opened.max(symptom.first),
            headline: headline::headline(symptom, &self.world),
            title: verdict.title,
            evidence: verdict.evidence,
            details: verdict.details,
            fix: verdict.fix,
            confirm: verdict.confirm,
            ruled_out,
            not_seen,
        };
        Some((key, finding))
    }

    fn min_stall(&self) -> u64 {
        match self.world.node.min_stall {
            0 => self.opts.min_stall,
            ns => ns,
        }
    }

    pub fn counts(&self) -> &Counts {
        &self.findings.counts
    }

    /// Stalls that are seen but not told yet.
    pub fn open(&self) -> usize {
        self.stalls.open()
    }

    /// Stalls, pods and evidence that there was no room for.
    pub fn left_out(&self) -> u64 {
        self.stalls.left_out + self.world.pods.left_out + self.world.evidence.evicted()
    }

    pub fn node(&self) -> &Node {
        &self.world.node
    }

    pub fn hooks(&self) -> &[Hook] {
        self.world.hooks.as_deref().unwrap_or_default()
    }

    /// Whether a cause can be seen here.
    pub fn watch(&self, cause: Cause) -> Watch {
        self.world.watch(cause)
    }

    pub fn totals(&self) -> &Totals {
        &self.world.losses.latest
    }

    /// Pods that exist now.
    pub fn pods(&self) -> usize {
        self.world.pods.alive()
    }

    /// Name of a namespace at a time, for the raw events.
    pub fn place(&self, netns: u32, cookie: u64, ts: u64) -> String {
        self.world.pods.name(netns, cookie, ts)
    }

    /// Name of a kernel address, and of a drop's reason, for the raw events.
    pub fn symbol(&self, address: u64) -> String {
        self.world.symbol(address)
    }

    pub fn reason(&self, drop: &probe_common::event::Drop) -> Option<String> {
        self.world.reason(drop)
    }

    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.stalls.len() + self.world.evidence.len() + self.findings.len()
    }
}

impl Symptom {
    /// Whether it has stalled long enough to be called one although the run ends.
    fn is_over(&self, now: u64) -> bool {
        self.ended.is_some() || self.gave_up.is_some() || self.waited(now) >= RESOLVER_TIMEOUT
    }
}
