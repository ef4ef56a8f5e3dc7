//! Arms sets of hooks as correlation asks for them: one at a time, each for a few seconds.

use std::collections::VecDeque;

use log::{debug, warn};
use probe_common::{
    armed::Armed as Wanted,
    event::kind,
    net::{FAMILY_V4, FAMILY_V6, Tuple},
};

use super::Live;
use crate::{
    bpf::Probes,
    event::{
        Body, Event,
        armed::{Armed, Outcome, Request, Set, Step},
    },
    finding::Flow,
};

/// For how long any set may be attached.
const LONGEST: u64 = 10_000_000_000;
/// The part of that time that one CPU may spend: one percent.
const PART: u64 = 100;
/// Requests that wait while another set is armed, and for how long they are worth it.
const WAITING: usize = 16;
const PATIENCE: u64 = 10_000_000_000;

/// What is armed and what waits.
#[derive(Debug, Default)]
pub struct Arming {
    waiting: VecDeque<(u64, Request)>,
    current: Option<Current>,
    /// After an arming in vain nothing is armed for as long as it lasted: drops that come for ever,
    /// as of a port scan, must not keep anything attached for ever.
    rest_until: u64,
    /// Armings so far, and requests that never came to it: no room, or too old.
    pub armed: u64,
    pub left_out: u64,
}

#[derive(Debug)]
struct Current {
    set: Set,
    flow: Flow,
    since: u64,
    /// When what the set is for was first seen.
    seen: Option<u64>,
}

impl Current {
    /// Whether all was seen that the set is for.
    fn is_enough(&self, now: u64) -> bool {
        self.seen.is_some_and(|seen| now.saturating_sub(seen) >= linger(self.set))
    }
}

/// The kind of event that a set is armed for.
const fn kind_of(set: Set) -> u16 {
    match set {
        Set::IpvsVerdict => kind::IPVS_VERDICT,
        Set::ConntrackEntry => kind::CT_ENTRY,
    }
}

/// For how long more is waited for once it was seen.
const fn linger(set: Set) -> u64 {
    match set {
        Set::IpvsVerdict => 0,
        // The answer to the packet that was seen is of interest too.
        Set::ConntrackEntry => 500_000_000,
    }
}

/// For how long a set is attached when nothing is seen.
const fn longest(set: Set) -> u64 {
    let longest = match set {
        // TCP sends a SYN again after 1, 3 and 7 seconds: one of these at least.
        Set::IpvsVerdict => 4_000_000_000,
        // A question is asked again after up to five.
        Set::ConntrackEntry => LONGEST,
    };
    if longest < LONGEST { longest } else { LONGEST }
}

impl Arming {
    /// An event came from the kernel: it may be what is waited for.
    pub fn saw(&mut self, now: u64, kind: u16) {
        if let Some(current) = &mut self.current
            && kind == kind_of(current.set)
        {
            current.seen.get_or_insert(now);
        }
    }

    fn ask(&mut self, now: u64, request: Request) {
        if self.waiting.len() >= WAITING {
            self.left_out += 1;
            return;
        }
        self.waiting.push_back((now, request));
    }

    /// The next request that is still worth it.
    fn next(&mut self, now: u64) -> Option<Request> {
        while let Some((asked, request)) = self.waiting.pop_front() {
            if now.saturating_sub(asked) <= PATIENCE {
                return Some(request);
            }
            self.left_out += 1;
        }
        None
    }
}

impl Live {
    /// Takes in what correlation asks for. What is armed is told by the next [`Self::pull`].
    pub fn arm(&mut self, requests: Vec<Request>) {
        for request in requests {
            debug!("armed hooks are asked for: {request:?}");
            self.arming.ask(self.pulled, request);
        }
    }

    /// Lets go of what has had its time, and arms what waits.
    pub(super) fn follow_armed(&mut self, now: u64, events: &mut Vec<Event>) {
        if let Some(current) = &self.arming.current {
            let over = self.probes.spent().is_ok_and(|spent| spent.over);
            let outcome = match current {
                _ if current.is_enough(now) => Some(Outcome::Seen),
                _ if over => Some(Outcome::OverBudget),
                _ if now.saturating_sub(current.since) >= longest(current.set) => {
                    Some(Outcome::NothingSeen)
                }
                _ => None,
            };
            if let Some(outcome) = outcome {
                self.let_go(now, outcome, events);
            }
        }
        if self.arming.current.is_none()
            && now >= self.arming.rest_until
            && let Some(request) = self.arming.next(now)
        {
            self.arm_now(request, now, events);
        }
    }

    /// Lets go at once, whatever was seen.
    pub(super) fn let_go(&mut self, now: u64, outcome: Outcome, events: &mut Vec<Event>) {
        let Some(current) = self.arming.current.take() else { return };
        self.probes.let_go();
        let lasted = now.saturating_sub(current.since);
        if outcome != Outcome::Seen {
            self.arming.rest_until = now.saturating_add(lasted);
        }
        let spent = self.probes.spent().unwrap_or_else(|err| {
            warn!("{err:#}");
            crate::bpf::Spent::default()
        });
        let step = Step::LetGo {
            outcome,
            lasted,
            runs: spent.total.runs,
            matched: spent.total.matched,
            spent: spent.total.ns,
        };
        let armed = Armed::new(current.set, current.flow, step);
        events.push(Event { ts: now, body: Body::Armed(Box::new(armed)) });
    }

    /// The functions of a set are gone with their module.
    pub(super) fn armed_module_gone(&mut self, module: &str, now: u64, events: &mut Vec<Event>) {
        let is_of = |current: &Current| Probes::module_of(current.set) == module;
        if self.arming.current.as_ref().is_some_and(is_of) {
            self.let_go(now, Outcome::ModuleGone, events);
        }
    }

    fn arm_now(&mut self, request: Request, now: u64, events: &mut Vec<Event>) {
        let Request { set, flow, why } = request;
        let module = Probes::module_of(set);
        let armed = if self.modules.state(module).is_present() {
            let longest = longest(set);
            let until = now.saturating_add(longest);
            let wanted = Wanted { flow: tuple(flow), until, budget: longest / PART };
            let before = std::time::Instant::now();
            let places = self.probes.arm(set, wanted).map_err(|err| format!("{err:#}"));
            places.map(|places| (places, before.elapsed().as_nanos()))
        } else {
            Err(format!("{module} is not loaded"))
        };
        let step = match armed {
            Ok((places, took)) => {
                self.arming.armed += 1;
                self.arming.current = Some(Current { set, flow, since: now, seen: None });
                let took = u64::try_from(took).unwrap_or(u64::MAX);
                Step::Armed { why: why.to_owned(), places, took }
            }
            Err(why) => Step::Refused { why },
        };
        let armed = Armed::new(set, flow, step);
        events.push(Event { ts: now, body: Body::Armed(Box::new(armed)) });
    }
}

/// A flow as its packets carry it.
fn tuple(flow: Flow) -> Tuple {
    let bytes = |address| match address {
        std::net::IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        std::net::IpAddr::V6(v6) => v6.octets(),
    };
    Tuple {
        src: bytes(flow.src.ip()),
        dst: bytes(flow.dst.ip()),
        sport: flow.src.port(),
        dport: flow.dst.port(),
        proto: flow.proto,
        family: if flow.src.is_ipv4() { FAMILY_V4 } else { FAMILY_V6 },
        _pad: [0; 2],
    }
}
