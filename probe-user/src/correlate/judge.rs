//! When a stall is judged, and what its finding is.

use super::{
    Correlator, fold, headline,
    join::Case,
    probe,
    rules::{self, Verdict},
    stalls::{Stall, State},
    symptom::{Join, Side, Symptom, Worth},
    unknown,
};
use crate::finding::{Cause, Confidence, Finding, NotNamed, Output, Stalled, SymptomKind};

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
/// A server may still answer a probe that was given up, which makes sure that it was slow.
const LATE_ANSWER: u64 = 2_000_000_000;
/// An unknown stall is judged again on new evidence for so long.
const SECOND_THOUGHTS: u64 = 10_000_000_000;

impl Correlator {
    /// Judges one stall if its time has come.
    pub(super) fn judge(&mut self, id: u64, now: u64, at_end: bool) -> Option<Output> {
        let generation = self.world.evidence.generation;
        let stall = self.stalls.get_mut(id)?;
        let told = match stall.state {
            State::Dismissed => return None,
            State::Told { finding, unknown } => {
                let open = stall.symptom.ended.is_none();
                let lasts = now.saturating_sub(stall.touched) <= SECOND_THOUGHTS;
                if lasts {
                    self.findings.waited(finding, stall.waited(stall.touched), open);
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
        let is_time = due || (looks && news);
        if !is_time {
            return None;
        }
        let at_first = if due { stall.at_first.take() } else { None };
        stall.checked = Some(generation);
        let (verdict, ruled_out, not_seen) = self.case(id, told.is_some() || due)?;
        let verdict = verdict.or(at_first.map(|verdict| *verdict));
        if verdict.as_ref().is_none_or(|v| v.confidence != Confidence::Certain) {
            self.arm_for_stall(id, now);
        }
        if verdict.is_none() {
            self.arm_for_departure(id, now);
        }
        if let Some(finding) = told {
            let verdict = verdict?;
            let (key, finding_now) = self.finding(id, verdict, Vec::new(), Vec::new())?;
            let told = self.stalls.get(id)?.symptom.told(&finding_now);
            let (finding, out) = self.findings.rename(now, finding, key, finding_now);
            self.told.push(told.of(finding));
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
        let is_no_probe = stall.symptom.kind == SymptomKind::ProbeFailure
            && probe::probed(&stall.symptom, &self.world).is_none();
        if is_no_probe && !due {
            // Whose process it is may be told yet.
            return None;
        }
        let worth_it = !is_no_probe
            && match stall.symptom.worth {
                Worth::Stall => verdict.is_some() || !at_end || stall.symptom.is_over(now),
                Worth::OnlyNamed => verdict.is_some(),
                Worth::OnlyCertain => certain,
            };
        if !worth_it {
            if at_end && !is_no_probe && stall.symptom.worth == Worth::Stall {
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
        let told = self.stalls.get(id)?.symptom.told(&finding);
        let (finding, out) = self.findings.tell(now, key, finding);
        self.told.push(told.of(finding));
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
            (Side::Client, SymptomKind::ProbeFailure) => {
                s.ended.unwrap_or(s.opened).saturating_add(LATE_ANSWER)
            }
            (Side::Client, _) => {
                let patience = s.opened.saturating_add(CONNECT_PATIENCE);
                s.ended.map_or(patience, |ts| patience.min(ts.saturating_add(GRACE)))
            }
        })
    }

    pub(super) fn case_of(&self, id: u64, last_word: bool) -> Option<Case<'_>> {
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
        let stall = self.stalls.get(id)?;
        let symptom = &stall.symptom;
        let world = &self.world;
        let (kind, victim, headline) = match probe::probed(symptom, world) {
            Some(probed) => {
                let headline = probe::headline(symptom, world, &probed);
                (SymptomKind::ProbeFailure, probed, headline)
            }
            None => {
                let victim = headline::victim(symptom, world);
                (symptom.kind, victim, headline::headline(symptom, world))
            }
        };
        // Clients elsewhere are one victim: a flood from many addresses stays one finding.
        let who = victim.pod.clone().unwrap_or_else(|| "elsewhere".to_owned());
        let culprit = match verdict.cause {
            Cause::Unknown => format!("{} {}", kind.id(), verdict.fold),
            _ if kind == SymptomKind::ProbeFailure => format!("probe {}", verdict.fold),
            _ => verdict.fold,
        };
        let key = fold::Key { cause: verdict.cause, victim: who, culprit };
        let finding = Finding {
            id: String::new(),
            ts: symptom.first,
            symptom: kind,
            cause: verdict.cause,
            confidence: verdict.confidence,
            victim: world.contained(victim, symptom.first),
            culprit: verdict
                .culprit
                .map(|party| world.contained(world.by_process(party), symptom.first)),
            flow: symptom.flow,
            waited: stall.waited(self.world.now),
            open: symptom.ended.is_none(),
            count: 1,
            first: symptom.first,
            last: symptom.opened.max(symptom.first),
            headline,
            title: verdict.title,
            evidence: verdict.evidence,
            details: verdict.details,
            fix: verdict.fix,
            confirm: verdict.confirm,
            ruled_out,
            not_seen,
            stalls: vec![stall.seen_elsewhere(verdict.confidence, self.world.now)],
        };
        Some((key, finding))
    }
}

impl Symptom {
    /// Whether it has stalled long enough to be called one although the run ends.
    fn is_over(&self, now: u64) -> bool {
        self.ended.is_some() || self.gave_up.is_some() || self.waited(now) >= RESOLVER_TIMEOUT
    }
}

impl Stall {
    /// What another node may know it by.
    fn seen_elsewhere(&self, confidence: Confidence, now: u64) -> Stalled {
        let s = &self.symptom;
        let (isn, question) = match s.join {
            Join::Tcp { isn } => (isn, None),
            Join::Dns { id, hash } => (0, Some((id, hash))),
            Join::Flow => (0, None),
        };
        let to = s.first.saturating_add(self.waited(now));
        Stalled { flow: s.flow, isn, question, confidence, from: s.first, to }
    }

    /// How long the client has waited by then. From the packet's side only what was seen counts.
    fn waited(&self, now: u64) -> u64 {
        match self.symptom.side {
            Side::Client => self.symptom.waited(now),
            Side::Packet => self.touched.saturating_sub(self.symptom.first),
        }
    }
}
