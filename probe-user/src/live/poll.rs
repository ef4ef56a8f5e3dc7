//! The lowest rung: where no hook tells, namespaces are looked at in turn, twice a second and within
//! a budget of bytes and time.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use super::Live;
use crate::{
    event::{
        Body, Counters, Event, Hook, HookState, ListenQueue, ListenQueues, Outcome, Rung, SynSent,
    },
    pods::Target,
    snapshot::{
        round::{self, Before, Ends, Round, Seen},
        sockets::{ESTABLISHED, SYN_SENT},
    },
};

/// Time between two rounds.
const EVERY: u64 = 500_000_000;
/// The same when a hook told of a stall just now.
const URGENT: u64 = 100_000_000;
/// What a second of rounds may cost: bytes, and nanoseconds of a processor.
const BYTES: u64 = 4 << 20;
const TIME: i64 = 50_000_000;
/// The least time that a round is begun with.
const WORTH_IT: i64 = 2_000_000;
/// How long the namespaces of a stall are looked at first.
const FIRST: u64 = 5_000_000_000;
/// Connects followed in one namespace, and queues told of one.
const MOST: usize = 256;
/// A connect takes 127 s at most, with the 6 retransmits that are the default of
/// `net.ipv4.tcp_syn_retries`. One that was not seen for longer is over, even if its table is never
/// read to its end.
const GONE: u64 = 130_000_000_000;

/// What is looked for, because no hook tells of it, and what was seen so far.
#[derive(Debug, Default)]
pub struct Poller {
    connects: bool,
    queues: bool,
    tables: bool,
    ipvs: bool,
    before: Before,
    /// When each namespace was looked at last.
    looked: HashMap<u32, u64>,
    /// Each connect that is followed.
    told: HashMap<(u32, Ends), Told>,
    /// The namespace a round begins with.
    next: u32,
    /// Namespaces looked at before all others, until then: a stall is open there.
    first: HashMap<u32, u64>,
    /// Whether they led the last round.
    led: bool,
    polled: u64,
    urgent: bool,
    /// What may still be spent. A look is not broken off, so the time may be overdrawn.
    bytes: u64,
    time: i64,
    refilled: u64,
    /// See [`crate::event::Totals::not_read`].
    pub not_read: u64,
}

/// What was told of a connect.
#[derive(Clone, Copy, Debug)]
struct Told {
    retransmits: u32,
    /// When it was seen last.
    seen: u64,
}

const CONNECTS: &str = "tcp:tcp_retransmit_skb";
const QUEUES: &str = "tcp_conn_request";
const TABLES: &str = "early_drop";
const TABLES_TOO: &str = "skb:kfree_skb";
const IPVS: &str = "ip_vs_nat_xmit";

impl Poller {
    /// Stands in for those of `hooks` that cannot see, and says so in additional ones.
    pub fn stand_in(&mut self, hooks: &mut Vec<Hook>) {
        let is = |name: &str, blind: fn(&HookState) -> bool| {
            hooks.iter().any(|hook| hook.name == name && blind(&hook.state))
        };
        let blind = |name| is(name, |state| matches!(state, HookState::CannotSee { .. }));
        let idle = |name| is(name, |state| matches!(state, HookState::CannotHappen { .. }));
        self.connects = blind(CONNECTS);
        self.queues = blind(QUEUES);
        self.tables = blind(TABLES) || (blind(TABLES_TOO) && !idle(TABLES));
        self.ipvs = blind(IPVS);
        self.before.connects = self.connects;
        let mut add = |is_on: bool, name: &str, causes: &[&str]| {
            if is_on {
                hooks.push(Hook {
                    name: name.to_owned(),
                    family: "snapshot".to_owned(),
                    causes: causes.iter().map(|&cause| cause.to_owned()).collect(),
                    state: HookState::Watched { rung: Rung::Snapshot },
                });
            }
        };
        add(self.connects, "/proc/net/tcp", &[]);
        add(self.queues, "/proc/net/netstat", &["accept-queue-overflow"]);
        add(self.tables, "/proc/net/stat/nf_conntrack", &["conntrack-table-full"]);
        add(self.ipvs, "/proc/net/ip_vs_conn", &["ipvs-stale-connection"]);
    }

    /// Whether namespaces are looked at in turn.
    pub fn is_on(&self) -> bool {
        self.connects || self.queues || self.tables
    }

    /// Whether a hook's word of a stall makes the tables worth a look: that of IPVS.
    pub fn asks_ipvs(&self) -> bool {
        self.ipvs
    }

    /// A stall is open between these namespaces: they are looked at first.
    pub fn attend(&mut self, namespaces: impl IntoIterator<Item = u32>, now: u64) {
        for netns in namespaces {
            if self.first.len() < MOST || self.first.contains_key(&netns) {
                self.first.insert(netns, now.saturating_add(FIRST));
            }
        }
    }

    /// A hook told of a stall.
    pub fn hurry(&mut self) {
        self.urgent = true;
    }

    pub fn forget(&mut self, netns: u32) {
        self.before.counters.remove(&netns);
        self.before.followed.remove(&netns);
        self.looked.remove(&netns);
        self.told.retain(|(of, _), _| *of != netns);
    }

    fn is_due(&self, now: u64) -> bool {
        let since = now.saturating_sub(self.polled);
        self.is_on() && (since >= EVERY || (self.urgent && since >= URGENT))
    }

    /// Those not looked at for the longest time first; in every other round after those of an open
    /// stall. If these alone use up what a round may cost, the others still have their turn.
    fn in_turn(&mut self, mut targets: Vec<Target>, now: u64) -> Vec<Target> {
        let first = targets.iter().position(|t| t.netns >= self.next).unwrap_or(0);
        targets.rotate_left(first);
        self.first.retain(|_, until| *until > now);
        self.led = !self.led && !self.first.is_empty();
        if self.led {
            targets.sort_by_key(|target| !self.first.contains_key(&target.netns));
        }
        targets
    }

    /// What may be spent now: what a second costs at most, and no more than that at once. `None`
    /// when nearly all of it is spent.
    fn budget(&mut self, now: u64) -> Option<(u64, Duration)> {
        const SECOND: u64 = 1_000_000_000;
        let ms = now.saturating_sub(self.refilled).min(SECOND) / 1_000_000;
        self.refilled = now;
        self.bytes = BYTES.min(self.bytes + BYTES * ms / 1000);
        let time = TIME / 1000 * i64::try_from(ms).unwrap_or(0);
        self.time = TIME.min(self.time.saturating_add(time));
        let time = u64::try_from(self.time).ok().filter(|_| self.time >= WORTH_IT)?;
        Some((self.bytes, Duration::from_nanos(time)))
    }

    fn spend(&mut self, bytes: u64, time: Duration) {
        self.bytes = self.bytes.saturating_sub(bytes);
        let time = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        // A second pays for it at most: a machine that stood still does not cost sight for long.
        self.time = self.time.saturating_sub(time).max(-TIME);
    }

    /// Turns a round into events.
    fn events(&mut self, now: u64, round: Round) -> Vec<Event> {
        self.polled = now;
        self.urgent = false;
        let next = round.next.unwrap_or(0);
        // Not even all that led were reached: the others' turn is where it was.
        if !(self.led && self.first.contains_key(&next)) {
            self.next = next;
        }
        self.not_read += round.not_read;
        let mut events = Vec::new();
        for (netns, seen) in round.seen {
            let since = self.looked.insert(netns, now).unwrap_or(0);
            let mut tell = |body| events.push(Event { ts: now, body });
            let counters = &seen.counters;
            // While a stall is open it matters too that nothing changed.
            if !self.first.is_empty() || self.before.counters.get(&netns) != Some(counters) {
                self.before.counters.insert(netns, counters.clone());
                tell(Body::Counters(Counters { since, ..counters.clone() }));
            }
            if let Some(queues) = queues(netns, &seen) {
                tell(Body::ListenQueues(Box::new(queues)));
            }
            self.connects(netns, (since, now), &seen, tell);
        }
        events
    }

    /// `since`: when the namespace was looked at before; `now`: when it was this time.
    fn connects(
        &mut self,
        netns: u32,
        (since, now): (u64, u64),
        seen: &Seen,
        mut tell: impl FnMut(Body),
    ) {
        let Some(table) = &seen.connects else { return };
        let mut say = |ends: Ends, retransmits, outcome| {
            let (client, server) = ends;
            tell(Body::SynSent(SynSent { netns, client, server, retransmits, since, outcome }));
        };
        let followed = self.before.followed.entry(netns).or_default();
        // Before others take their places.
        let here: HashSet<Ends> = table.sockets.iter().map(|s| (s.local, s.remote)).collect();
        for ends in followed.iter().filter(|ends| !here.contains(ends)) {
            let key = (netns, *ends);
            let Some(told) = self.told.get(&key).copied() else { continue };
            if !table.cut || now.saturating_sub(told.seen) > GONE {
                self.told.remove(&key);
                say(*ends, told.retransmits, Outcome::Gone);
            }
        }
        followed.retain(|ends| self.told.contains_key(&(netns, *ends)));
        for socket in &table.sockets {
            let ends = (socket.local, socket.remote);
            let known = self.told.get(&(netns, ends)).copied();
            if socket.state == SYN_SENT {
                if known.is_none() && followed.len() >= MOST {
                    self.not_read += 1;
                    continue;
                }
                let retransmits = socket.retransmits;
                if known.is_none() {
                    followed.push(ends);
                }
                let most = known.map_or(0, |told| told.retransmits).max(retransmits);
                self.told.insert((netns, ends), Told { retransmits: most, seen: now });
                if known.is_none_or(|told| told.retransmits < retransmits) {
                    say(ends, retransmits, Outcome::Trying);
                }
            } else if let Some(told) = self.told.remove(&(netns, ends)) {
                let is_done = socket.state == ESTABLISHED;
                let outcome = if is_done { Outcome::Established } else { Outcome::Gone };
                say(ends, told.retransmits, outcome);
            }
        }
        followed.retain(|ends| self.told.contains_key(&(netns, *ends)));
    }
}

fn queues(netns: u32, seen: &Seen) -> Option<ListenQueues> {
    let table = seen.queues.as_ref()?;
    let mut queues: Vec<ListenQueue> = table
        .sockets
        .iter()
        .map(|s| ListenQueue { address: s.local, ino: s.ino, waiting: s.rx_queue })
        .collect();
    let cut = table.cut || queues.len() > MOST;
    queues.sort_by_key(|queue| std::cmp::Reverse(queue.waiting));
    queues.truncate(MOST);
    Some(ListenQueues { netns, somaxconn: seen.somaxconn, queues, cut })
}

impl Live {
    /// One round, if it is time for one.
    pub(super) fn poll(&mut self, now: u64, events: &mut Vec<Event>) {
        if !self.poller.is_due(now) {
            return;
        }
        let Some((bytes, time)) = self.poller.budget(now) else { return };
        let targets = self.poller.in_turn(self.pods.targets(), now);
        let round = round::read(&self.root, &targets, &self.poller.before, bytes, time);
        self.poller.spend(round.bytes, round.time);
        for event in self.poller.events(now, round) {
            match &event.body {
                Body::SynSent(e) if e.outcome == Outcome::Trying => {
                    self.attend(e.netns, e.server, now);
                    self.ask_ipvs(e.client, e.server);
                }
                Body::ListenQueues(queues) => {
                    for queue in &queues.queues {
                        self.name_listener(queue.ino, queues.netns, (now, now), events);
                    }
                }
                _ => {}
            }
            events.push(event);
        }
    }

    /// A client in `netns` waits for `server`: its namespaces are looked at first.
    pub(super) fn attend(&mut self, netns: u32, server: SocketAddr, now: u64) {
        let of_server = self.known.netns_of(server.ip());
        self.poller.attend([netns, self.netns].into_iter().chain(of_server), now);
    }

    /// Looks the connection up in the node's own IPVS table, where no hook tells.
    pub(super) fn ask_ipvs(&mut self, client: SocketAddr, service: SocketAddr) {
        if self.poller.asks_ipvs() {
            self.ipvs.stalled(self.netns, client, service);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;
    use crate::snapshot::sockets::{LISTEN, Socket, Table};

    const POD: u32 = 42;
    const S: u64 = 1_000_000_000;

    fn socket(state: u8, retransmits: u32, rx_queue: u32) -> Socket {
        let (local, remote) = ("10.0.0.1:4000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        Socket { local, remote, state, rx_queue, retransmits, ino: 9 }
    }

    fn seen(sockets: &[Socket], cut: bool) -> Seen {
        let counters = Counters { netns: POD, ..Counters::default() };
        let connects = Some(Table { sockets: sockets.to_vec(), cut });
        Seen { counters, connects, ..Seen::default() }
    }

    fn round(poller: &mut Poller, now: u64, seen: Seen) -> Vec<Body> {
        let round = Round { seen: vec![(POD, seen)], ..Round::default() };
        poller.events(now, round).into_iter().map(|event| event.body).collect()
    }

    fn outcomes(bodies: &[Body]) -> Vec<(u32, Outcome, u64)> {
        let of = |body: &Body| match body {
            Body::SynSent(e) => Some((e.retransmits, e.outcome, e.since)),
            _ => None,
        };
        bodies.iter().filter_map(of).collect()
    }

    #[test]
    fn a_connect_is_told_when_it_changes() {
        let mut poller = Poller::default();
        let first = round(&mut poller, S, seen(&[socket(SYN_SENT, 1, 0)], false));
        assert_eq!(outcomes(&first), [(1, Outcome::Trying, 0)]);
        let same = round(&mut poller, 2 * S, seen(&[socket(SYN_SENT, 1, 0)], false));
        assert_eq!(outcomes(&same), []);
        let again = round(&mut poller, 3 * S, seen(&[socket(SYN_SENT, 2, 0)], false));
        assert_eq!(outcomes(&again), [(2, Outcome::Trying, 2 * S)]);
        assert_eq!(poller.before.followed[&POD].len(), 1);
        let done = round(&mut poller, 4 * S, seen(&[socket(ESTABLISHED, 0, 0)], false));
        assert_eq!(outcomes(&done), [(2, Outcome::Established, 3 * S)]);
        assert!(poller.before.followed[&POD].is_empty() && poller.told.is_empty());
    }

    #[test]
    fn a_socket_missing_in_a_cut_table_is_not_gone() {
        let mut poller = Poller::default();
        round(&mut poller, S, seen(&[socket(SYN_SENT, 1, 0)], false));
        assert_eq!(outcomes(&round(&mut poller, 2 * S, seen(&[], true))), []);
        let gone = round(&mut poller, 3 * S, seen(&[], false));
        assert_eq!(outcomes(&gone), [(1, Outcome::Gone, 2 * S)]);
    }

    #[test]
    fn a_connect_not_seen_for_long_is_gone_even_if_the_table_is_always_cut() {
        let mut poller = Poller::default();
        round(&mut poller, S, seen(&[socket(SYN_SENT, 1, 0)], true));
        round(&mut poller, 31 * S, seen(&[socket(SYN_SENT, 1, 0)], true));
        assert_eq!(outcomes(&round(&mut poller, 32 * S + GONE - 2 * S, seen(&[], true))), []);
        let gone = round(&mut poller, 32 * S + GONE, seen(&[], true));
        assert!(matches!(outcomes(&gone)[..], [(1, Outcome::Gone, _)]), "{gone:?}");
        assert!(poller.before.followed[&POD].is_empty() && poller.told.is_empty());
    }

    #[test]
    fn connects_that_are_gone_make_room_for_others() {
        let mut poller = Poller::default();
        let from = |port: u16| {
            let mut socket = socket(SYN_SENT, 1, 0);
            socket.local.set_port(port);
            socket
        };
        let all: Vec<Socket> = (1..).map(from).take(MOST).collect();
        round(&mut poller, S, seen(&all, true));
        assert_eq!(outcomes(&round(&mut poller, 2 * S, seen(&[from(4000)], true))), []);
        assert_eq!(poller.not_read, 1);
        let later = outcomes(&round(&mut poller, 2 * S + GONE, seen(&[from(4000)], true)));
        assert_eq!(later.len(), MOST + 1);
        assert!(matches!(later.last(), Some((1, Outcome::Trying, _))));
        assert_eq!(poller.before.followed[&POD].len(), 1);
    }

    #[test]
    fn counters_are_told_when_they_change() {
        let mut poller = Poller::default();
        let told = |bodies: &[Body]| bodies.iter().any(|b| matches!(b, Body::Counters(_)));
        assert!(told(&round(&mut poller, S, seen(&[], false))));
        assert!(!told(&round(&mut poller, 2 * S, seen(&[], false))));
        let mut rose = seen(&[], false);
        rose.counters.listen_overflows = Some(1);
        poller.attend([7], 2 * S);
        assert!(told(&round(&mut poller, 2 * S, seen(&[], false))), "a stall is open");
        let bodies = round(&mut poller, 3 * S, rose);
        let Body::Counters(counters) = &bodies[0] else { unreachable!("{bodies:?}") };
        assert_eq!((counters.listen_overflows, counters.since), (Some(1), 2 * S));
    }

    #[test]
    fn longer_queues_come_first() {
        let queues =
            Some(Table { sockets: vec![socket(LISTEN, 0, 1), socket(LISTEN, 0, 5)], cut: false });
        let seen = Seen { queues, somaxconn: Some(128), ..Seen::default() };
        let told = queues_of(&seen);
        assert_eq!(told.queues.iter().map(|q| q.waiting).collect::<Vec<_>>(), [5, 1]);
        assert_eq!((told.somaxconn, told.cut), (Some(128), false));
    }

    fn queues_of(seen: &Seen) -> ListenQueues {
        queues(POD, seen).unwrap()
    }

    #[test]
    fn what_was_not_reached_comes_first_in_the_next_round() {
        let mut poller = Poller::default();
        let target = |netns| Target { netns, ..Target::default() };
        let all: Vec<Target> = [1, 2, 3].map(target).into();
        poller.events(S, Round { next: Some(2), not_read: 2, ..Round::default() });
        let order: Vec<u32> = poller.in_turn(all, S).iter().map(|t| t.netns).collect();
        assert_eq!((order, poller.not_read), (vec![2, 3, 1], 2));
    }

    #[test]
    fn namespaces_of_a_stall_come_first() {
        let mut poller = Poller::default();
        let target = |netns| Target { netns, ..Target::default() };
        let order = |poller: &mut Poller, now| -> Vec<u32> {
            poller.in_turn([1, 2, 3].map(target).into(), now).iter().map(|t| t.netns).collect()
        };
        poller.attend([3], S);
        assert_eq!(order(&mut poller, 2 * S), [3, 1, 2]);
        assert_eq!(order(&mut poller, 2 * S), [1, 2, 3], "every other round");
        assert_eq!(order(&mut poller, 2 * S), [3, 1, 2]);
        order(&mut poller, 2 * S);
        assert_eq!(order(&mut poller, 2 * S + FIRST), [1, 2, 3]);
    }

    #[test]
    fn namespaces_of_a_stall_that_take_all_do_not_starve_the_others() {
        let mut poller = Poller::default();
        poller.attend([4, 7], S);
        let mut reached = HashSet::new();
        let mut led = 0;
        for _ in 0..24 {
            let all: Vec<Target> =
                (1..=10).map(|netns| Target { netns, ..Target::default() }).collect();
            // One look uses up the round.
            let order: Vec<u32> = poller.in_turn(all, 2 * S).iter().map(|t| t.netns).collect();
            reached.insert(order[0]);
            led += usize::from(poller.led);
            poller.events(2 * S, Round { next: Some(order[1]), ..Round::default() });
        }
        assert_eq!(reached.len(), 10, "{reached:?}");
        assert_eq!(led, 12);
    }

    #[test]
    fn a_second_costs_no_more_however_often_it_is_looked() {
        let mut poller = Poller { connects: true, ..Poller::default() };
        let (mut bytes, mut time) = (0, Duration::ZERO);
        let mut rounds = 0;
        for tick in 0..=100 {
            let now = 10 * S + tick * S / 10;
            poller.hurry();
            assert!(poller.is_due(now));
            if let Some((b, t)) = poller.budget(now) {
                // Each look takes all it may, and a little more.
                poller.spend(b, t + Duration::from_millis(1));
                (bytes, time, rounds) = (bytes + b, time + t, rounds + 1);
            }
            poller.events(now, Round::default());
        }
        assert!(rounds > 50, "{rounds}");
        // Ten seconds, and one saved up.
        assert!(bytes <= 11 * BYTES, "{bytes}");
        assert!(time <= Duration::from_millis(11 * 50), "{time:?}");
        assert!(!poller.is_due(20 * S + S / 10), "nobody is in a hurry");
        poller.budget(1000 * S);
        assert_eq!(poller.budget(2000 * S), Some((BYTES, Duration::from_millis(50))));
    }

    #[test]
    fn a_look_that_took_long_is_paid_for_within_two_seconds() {
        let mut poller = Poller::default();
        poller.budget(10 * S);
        poller.spend(0, Duration::from_secs(60));
        assert_eq!(poller.budget(10 * S + S / 2), None);
        assert!(poller.budget(12 * S).is_some());
    }

    #[test]
    fn snapshots_stand_in_for_blind_hooks_only() {
        let hook = |name: &str, state| Hook {
            name: name.to_owned(),
            family: String::new(),
            causes: Vec::new(),
            state,
        };
        let blind = || HookState::CannotSee { why: String::new() };
        let mut poller = Poller::default();
        let mut hooks =
            vec![hook(CONNECTS, HookState::Watched { rung: Rung::Tracepoint }), hook("x", blind())];
        poller.stand_in(&mut hooks);
        assert!(!poller.is_on() && hooks.len() == 2);
        let idle = HookState::CannotHappen { why: String::new() };
        let mut hooks = vec![hook(TABLES, idle), hook(TABLES_TOO, blind())];
        poller.stand_in(&mut hooks);
        assert!(!poller.is_on(), "conntrack is not loaded");
        let mut hooks = vec![hook("early_drop", blind())];
        poller.stand_in(&mut hooks);
        assert!(poller.is_on() && !poller.before.connects && !poller.asks_ipvs());
        assert_eq!(hooks.len(), 2);
    }
}
