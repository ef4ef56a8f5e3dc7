//! Arms sets of hooks as correlation asks for them: one at a time, each for a few seconds.

use std::{collections::VecDeque, net::SocketAddr};

use log::{debug, warn};
use probe_common::{
    armed::Armed as Wanted,
    event::{DROP_IN_NF_HOOK_SLOW, kind},
    net::{FAMILY_V4, FAMILY_V6, Tuple},
};

use super::Live;
use crate::{
    bpf::Probes,
    correlate::arm::at_first,
    event::{
        Body, Event,
        armed::{Armed, Outcome, Request, Set, Step},
    },
    finding::Flow,
};

/// For how long any set may be attached.
const LONGEST: u64 = 10_000_000_000;
/// The part of its time that a CPU may spend on armed programs: one percent of it, and at once as
/// much as that is of the longest arming.
const PART: u64 = 100;
const BUDGET: u64 = LONGEST / PART;
/// Requests that wait while another set is armed, and for how long they are worth it.
const WAITING: usize = 16;
const PATIENCE: u64 = 10_000_000_000;

/// What is armed and what waits.
#[derive(Debug, Default)]
pub struct Arming {
    waiting: VecDeque<(u64, Request)>,
    current: Option<Current>,
    /// Requests that will not come to it: no room, or too old. Told by the next pull.
    left_out: Vec<Request>,
    /// Nothing is armed before: until a CPU that was busy with it has earned its time again.
    rest_until: u64,
    /// And a set not before, after an arming in vain, for as long as that lasted. Drops that come
    /// for ever, as of a port scan, must not keep anything attached for ever.
    in_vain: Vec<(Set, u64)>,
    /// Armings so far.
    pub armed: u64,
}

#[derive(Debug)]
struct Current {
    set: Set,
    flow: Flow,
    /// The client's port that is stalled; 0: the flow's own.
    port: u16,
    /// See [`Request::isn`].
    isn: u32,
    since: u64,
    /// When a packet of what is stalled was first seen, and whether any of the flow was.
    seen: Option<u64>,
    is_any_seen: bool,
    /// The connect that is looked for came to its end: no SYN of it will come.
    is_over: bool,
    /// When a SYN of the flow was dropped after all was attached: it went another way, if nothing
    /// was seen by then.
    dropped: Option<u64>,
}

impl Current {
    fn new(request: &Request, since: u64) -> Self {
        let Request { set, flow, port, isn, .. } = *request;
        Self {
            set,
            flow,
            port,
            isn,
            since,
            seen: None,
            is_any_seen: false,
            is_over: false,
            dropped: None,
        }
    }

    /// Whether an event of the set's kind is of what is stalled, and not of another port of its.
    fn is_of_stalled(&self, event: &Event) -> bool {
        if let Body::Departure(e) = &event.body {
            return e.ident == self.isn;
        }
        let Body::CtEntry(e) = &event.body else { return true };
        let client = SocketAddr::new(self.flow.src.ip(), self.port);
        let of = |tuple| {
            let flow = Flow::of(tuple);
            flow.src == client || flow.dst == client
        };
        self.port == 0 || of(&e.tuple) || (e.ct.present != 0 && of(&e.ct.orig))
    }

    /// Whether all was seen that the set is for.
    fn is_enough(&self, now: u64) -> bool {
        self.seen.is_some_and(|seen| now.saturating_sub(seen) >= linger(self.set))
    }
}

/// A hook's event is out this long after its packet was freed at the latest; and programs see
/// everything this long after they were attached.
const MARGIN: u64 = 50_000_000;

/// What goes first.
const fn rank(set: Set) -> u8 {
    match set {
        Set::IpvsVerdict => 0,
        Set::ConntrackEntry => 1,
        Set::Departure => 2,
    }
}

/// The kind of event that a set is armed for.
const fn kind_of(set: Set) -> u16 {
    match set {
        Set::IpvsVerdict => kind::IPVS_VERDICT,
        Set::ConntrackEntry => kind::CT_ENTRY,
        Set::Departure => kind::DEPARTURE,
    }
}

/// For how long more is waited for once it was seen.
const fn linger(set: Set) -> u64 {
    match set {
        Set::IpvsVerdict => 0,
        // The answer to the packet that was seen is of interest too.
        Set::ConntrackEntry => 500_000_000,
        // The answer to the SYN that was seen; over before the connect is judged, which is 3.5 seconds
        // after its first retransmit: the next one may come as late as two seconds after that.
        Set::Departure => 1_200_000_000,
    }
}

/// For how long a set is attached when nothing is seen.
const fn longest(set: Set) -> u64 {
    let longest = match set {
        // TCP sends a SYN again after 1, 3 and 7 seconds: one of these at least.
        Set::IpvsVerdict | Set::Departure => 6_000_000_000,
        // A question is asked again after up to five.
        Set::ConntrackEntry => LONGEST,
    };
    if longest < LONGEST { longest } else { LONGEST }
}

impl Arming {
    /// An event came from the kernel: it may be what is waited for, or show that it will not come.
    pub fn saw(&mut self, now: u64, event: &Event) {
        if let Body::Connect(e) = &event.body
            && e.header.kind == kind::CONNECT_END
            && e.isn != 0
        {
            self.waiting.retain(|(_, request)| request.isn != e.isn);
            self.current.iter_mut().filter(|c| c.isn == e.isn).for_each(|c| c.is_over = true);
        }
        let Some(current) = &mut self.current else { return };
        match &event.body {
            Body::Drop(drop)
                if current.set == Set::IpvsVerdict
                    && drop.flags & DROP_IN_NF_HOOK_SLOW != 0
                    && event.ts >= current.since.saturating_add(MARGIN)
                    && at_first(drop) == current.flow =>
            {
                current.dropped = Some(event.ts);
            }
            // Records of the arming before may still come.
            _ if event.ts >= current.since.saturating_sub(MARGIN)
                && event.header().is_some_and(|header| header.kind == kind_of(current.set)) =>
            {
                current.is_any_seen = true;
                if current.is_of_stalled(event) {
                    current.seen.get_or_insert(now);
                }
            }
            _ => {}
        }
    }

    fn ask(&mut self, now: u64, request: Request) {
        self.forget_old(now);
        // What is newest is most likely still going on.
        if self.waiting.len() >= WAITING
            && let Some((_, oldest)) = self.waiting.pop_front()
        {
            self.left_out.push(oldest);
        }
        self.waiting.push_back((now, request));
    }

    fn forget_old(&mut self, now: u64) {
        while let Some((asked, _)) = self.waiting.front()
            && now.saturating_sub(*asked) > PATIENCE
        {
            self.left_out.extend(self.waiting.pop_front().map(|(_, request)| request));
        }
    }

    /// The next request that is still worth it: IPVS's are few, and a SYN is not sent again often. Where a
    /// packet leaves is looked at last: it costs the most, and the others name more.
    fn next(&mut self, now: u64) -> Option<Request> {
        self.forget_old(now);
        self.in_vain.retain(|(_, until)| now < *until);
        let is_ready = |set| self.in_vain.iter().all(|(resting, _)| *resting != set);
        let ready = |(_, request): &(u64, Request)| is_ready(request.set);
        let ready = self.waiting.iter().enumerate().filter(|(_, request)| ready(request));
        let (index, _) = ready.min_by_key(|(_, (_, request))| rank(request.set))?;
        self.waiting.remove(index).map(|(_, request)| request)
    }

    /// Whether a look at where a packet leaves is under way while something waits that names more.
    fn must_make_way(&self, now: u64) -> bool {
        let is_ready =
            |set| self.in_vain.iter().all(|(resting, until)| *resting != set || now >= *until);
        let departs = |set| set == Set::Departure;
        self.current.as_ref().is_some_and(|current| departs(current.set))
            && self.waiting.iter().any(|(_, r)| !departs(r.set) && is_ready(r.set))
    }

    /// Nothing more will be armed.
    pub fn forget(&mut self) {
        self.waiting.clear();
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
            let spent = self.probes.as_ref().map(Probes::spent);
            let over = spent.is_ok_and(|spent| spent.is_ok_and(|spent| spent.most >= BUDGET));
            let outcome = match current {
                _ if current.is_enough(now) => Some(Outcome::Seen),
                _ if over => Some(Outcome::OverBudget),
                Current { is_over: true, seen: None, .. } => Some(Outcome::NothingSeen),
                _ if self.arming.must_make_way(now) => Some(Outcome::MadeWay),
                Current { dropped: Some(dropped), .. } if now >= dropped + MARGIN => {
                    Some(Outcome::NothingSeen)
                }
                _ if now.saturating_sub(current.since) >= longest(current.set) => {
                    let is_seen = current.is_any_seen;
                    Some(if is_seen { Outcome::Seen } else { Outcome::NothingSeen })
                }
                _ => None,
            };
            if let Some(outcome) = outcome {
                self.let_go(now, outcome, events);
            }
        }
        for request in std::mem::take(&mut self.arming.left_out) {
            let step = Step::Refused { why: "too many others were asked for".to_owned() };
            let armed = Armed::new(request.set, request.flow, step);
            events.push(Event { ts: now, body: Body::Armed(Box::new(armed)) });
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
        let Ok(probes) = &mut self.probes else { return };
        probes.let_go();
        let spent = probes.spent().unwrap_or_else(|err| {
            warn!("{err:#}");
            crate::bpf::Spent::default()
        });
        let lasted = now.saturating_sub(current.since);
        // So that a client that tries a dead address all day has its packets looked at half of the time.
        if outcome != Outcome::Seen || current.set == Set::Departure {
            self.arming.in_vain.push((current.set, now.saturating_add(lasted)));
        }
        self.arming.rest_until = current.since.saturating_add(spent.most.saturating_mul(PART));
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
        let is_of = |current: &Current| Probes::module_of(current.set) == Some(module);
        if self.arming.current.as_ref().is_some_and(is_of) {
            self.let_go(now, Outcome::ModuleGone, events);
        }
    }

    fn arm_now(&mut self, request: Request, now: u64, events: &mut Vec<Event>) {
        let Request { set, flow, isn, why, .. } = request;
        let missing = Probes::module_of(set).filter(|m| !self.modules.state(m).is_present());
        let Ok(probes) = &mut self.probes else { return };
        let mut ts = now;
        let armed = if let Some(module) = missing {
            Err(format!("{module} is not loaded"))
        } else {
            // A longer time than the loader lets it have: should the loader hang, it ends all the same.
            let until = now.saturating_add(2 * LONGEST);
            let wanted = Wanted { flow: tuple(flow), until, budget: BUDGET, isn, _pad: 0 };
            let before = std::time::Instant::now();
            let places = probes.arm(set, wanted).map_err(|err| format!("{err:#}"));
            places.map(|places| (places, before.elapsed().as_nanos()))
        };
        let step = match armed {
            Ok((places, took)) => {
                self.arming.armed += 1;
                let took = u64::try_from(took).unwrap_or(u64::MAX);
                ts = now.saturating_add(took);
                self.arming.current = Some(Current::new(&request, ts));
                Step::Armed { why: why.to_owned(), places, took }
            }
            Err(why) => Step::Refused { why },
        };
        let armed = Armed::new(set, flow, step);
        events.push(Event { ts, body: Body::Armed(Box::new(armed)) });
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::testing::{ISN, connect_end, ct_entry, decided, ipvs};
    use probe_common::event::OUTCOME_FAILED;

    const SECOND: u64 = 1_000_000_000;

    fn request(port: u16) -> Request {
        let end = |port| SocketAddr::from(([10, 96, 0, 20], port));
        let flow = Flow { proto: 6, src: end(port), dst: end(80) };
        Request { set: Set::IpvsVerdict, flow, port: 0, isn: 0, why: "a test" }
    }

    #[test]
    fn requests_wait_in_order_and_not_for_ever() {
        let mut arming = Arming::default();
        arming.ask(0, request(1));
        arming.ask(5 * SECOND, request(2));
        arming.ask(5 * SECOND, request(3));
        assert_eq!(arming.next(12 * SECOND), Some(request(2)));
        assert_eq!(arming.left_out, [request(1)]);
        assert_eq!(arming.next(12 * SECOND), Some(request(3)));
        assert_eq!(arming.next(12 * SECOND), None);
    }

    #[test]
    fn what_is_oldest_makes_way_and_is_told() {
        let mut arming = Arming::default();
        for port in 0..20 {
            arming.ask(0, request(port));
        }
        assert_eq!(arming.left_out, (0..4).map(request).collect::<Vec<_>>());
        assert_eq!(arming.next(0), Some(request(4)));
    }

    #[test]
    fn a_set_that_was_armed_in_vain_lets_others_go_first() {
        let mut arming = Arming::default();
        let of_conntrack = Request { set: Set::ConntrackEntry, ..request(1) };
        arming.in_vain = vec![(Set::ConntrackEntry, 5)];
        arming.ask(0, of_conntrack.clone());
        assert_eq!(arming.next(4), None);
        arming.ask(4, request(2));
        assert_eq!(arming.next(5), Some(request(2)), "a SYN is not sent again often");
        assert_eq!(arming.next(5), Some(of_conntrack));
    }

    fn departure(isn: u32) -> Request {
        Request { set: Set::Departure, isn, ..request(9) }
    }

    #[test]
    fn where_packets_leave_is_looked_at_last_and_makes_way() {
        let mut arming = Arming::default();
        let of_conntrack = Request { set: Set::ConntrackEntry, ..request(1) };
        arming.ask(0, departure(7));
        arming.ask(1, of_conntrack.clone());
        assert_eq!(arming.next(2), Some(of_conntrack.clone()));
        assert_eq!(arming.next(2), Some(departure(7)));
        arming.current = Some(Current::new(&departure(7), 2));
        arming.ask(3, departure(8));
        assert!(!arming.must_make_way(3), "another connect waits for its turn");
        arming.in_vain = vec![(Set::ConntrackEntry, 5)];
        arming.ask(4, of_conntrack);
        assert!(!arming.must_make_way(4), "a set that rests is not armed anyway");
        assert!(arming.must_make_way(5));
    }

    #[test]
    fn a_connect_that_ended_is_not_looked_for() {
        let mut arming = Arming::default();
        arming.ask(0, departure(ISN));
        arming.ask(0, departure(ISN + 1));
        arming.current = Some(Current::new(&departure(ISN), 0));
        let end = connect_end("10.96.0.20:80", 500, 1, OUTCOME_FAILED, 0);
        arming.saw(1, &Event { ts: 1, body: end });
        assert!(arming.current.as_ref().unwrap().is_over);
        assert_eq!(arming.next(1), Some(departure(ISN + 1)));
        assert_eq!(arming.next(1), None);
    }

    #[test]
    fn only_the_event_of_the_set_is_what_was_looked_for() {
        let event = |kind| Event { ts: 1, body: decided(ipvs(kind, None)) };
        let current = Some(Current::new(&request(1), 0));
        let mut arming = Arming { current, ..Arming::default() };
        arming.saw(2, &event(kind::IPVS_STALE));
        assert_eq!(arming.current.as_ref().unwrap().seen, None);
        arming.saw(2, &event(kind::IPVS_VERDICT));
        assert_eq!(arming.current.as_ref().unwrap().seen, Some(2));
    }

    #[test]
    fn another_socket_of_the_client_is_not_the_one_that_waits() {
        let end = |text: &str| text.parse().unwrap();
        let flow = Flow { proto: 17, src: end("10.244.1.2:0"), dst: end("10.96.0.10:53") };
        let request =
            Request { set: Set::ConntrackEntry, flow, port: 40001, isn: 0, why: "a test" };
        let mut arming = Arming { current: Some(Current::new(&request, 0)), ..Arming::default() };
        let mut look = |port| {
            let to = tuple(Flow { src: SocketAddr::new(flow.src.ip(), port), ..flow });
            let body = Body::CtEntry(Box::new(ct_entry(to, to, to, 0)));
            arming.saw(2, &Event { ts: 1, body });
            let current = arming.current.as_ref().unwrap();
            (current.is_any_seen, current.seen)
        };
        assert_eq!(look(40000), (true, None));
        assert_eq!(look(40001), (true, Some(2)));
    }

    #[test]
    fn a_flow_becomes_the_bytes_of_its_packets() {
        for text in ["10.244.1.2:40000 10.96.0.20:80", "[fd00:244:1::2]:40000 [fd00:96::14]:80"] {
            let (src, dst) = text.split_once(' ').unwrap();
            let flow = Flow { proto: 6, src: src.parse().unwrap(), dst: dst.parse().unwrap() };
            assert_eq!(Flow::of(&tuple(flow)), flow);
        }
    }
}
