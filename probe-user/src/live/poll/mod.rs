//! The lowest rung: where no hook tells, namespaces are looked at in turn, twice a second and within
//! a budget of bytes and time.

mod budget;
mod connects;
mod turns;

use std::{collections::HashMap, net::SocketAddr};

use self::{
    budget::Budget,
    connects::{Connects, Look},
    turns::Turns,
};
use super::Live;
use crate::{
    event::{Body, Counters, Event, Hook, HookState, ListenQueue, ListenQueues, Outcome, Rung},
    snapshot::round::{self, Before, Round, Seen},
};

/// Time between two rounds.
const EVERY: u64 = 500_000_000;
/// The same when a hook told of a stall just now.
const URGENT: u64 = 100_000_000;
/// Connects followed in one namespace, and queues told of one.
const MOST: usize = 256;

/// What is looked for, because no hook tells of it, and what was seen so far.
#[derive(Debug, Default)]
pub struct Poller {
    queues: bool,
    tables: bool,
    ipvs: bool,
    before: Before,
    /// When each namespace was looked at last.
    looked: HashMap<u32, u64>,
    connects: Connects,
    turns: Turns,
    budget: Budget,
    polled: u64,
    urgent: bool,
    /// See [`crate::event::Totals::not_read`].
    pub not_read: u64,
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
        self.queues = blind(QUEUES);
        self.tables = blind(TABLES) || (blind(TABLES_TOO) && !idle(TABLES));
        self.ipvs = blind(IPVS);
        self.before.connects = blind(CONNECTS);
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
        add(self.before.connects, "/proc/net/tcp", &[]);
        add(self.queues, "/proc/net/netstat", &["accept-queue-overflow"]);
        add(self.tables, "/proc/net/stat/nf_conntrack", &["conntrack-table-full"]);
        add(self.ipvs, "/proc/net/ip_vs_conn", &["ipvs-stale-connection"]);
    }

    /// Whether namespaces are looked at in turn.
    pub fn is_on(&self) -> bool {
        self.before.connects || self.queues || self.tables
    }

    /// Whether a hook's word of a stall makes the tables worth a look: that of IPVS.
    pub fn asks_ipvs(&self) -> bool {
        self.ipvs
    }

    /// A hook told of a stall.
    pub fn hurry(&mut self) {
        self.urgent = true;
    }

    pub fn forget(&mut self, netns: u32) {
        self.before.counters.remove(&netns);
        self.before.followed.remove(&netns);
        self.looked.remove(&netns);
        self.connects.forget(netns);
    }

    fn is_due(&self, now: u64) -> bool {
        let since = now.saturating_sub(self.polled);
        self.is_on() && (since >= EVERY || (self.urgent && since >= URGENT))
    }

    /// Turns a round into events.
    fn events(&mut self, now: u64, round: Round) -> Vec<Event> {
        self.polled = now;
        self.urgent = false;
        self.turns.came_to(round.next);
        self.not_read += round.not_read;
        let mut events = Vec::new();
        for (netns, seen) in round.seen {
            let since = self.looked.insert(netns, now).unwrap_or(0);
            let mut tell = |body| events.push(Event { ts: now, body });
            let counters = &seen.counters;
            // While a stall is open it matters too that nothing changed.
            if self.turns.is_attending() || self.before.counters.get(&netns) != Some(counters) {
                self.before.counters.insert(netns, counters.clone());
                tell(Body::Counters(Counters { since, ..counters.clone() }));
            }
            if let Some(queues) = queues(netns, &seen) {
                tell(Body::ListenQueues(Box::new(queues)));
            }
            if let Some(table) = &seen.connects {
                let followed = self.before.followed.entry(netns).or_default();
                let look = Look { netns, since, now, table };
                self.not_read += self.connects.follow(look, followed, tell);
            }
        }
        events
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
        let Some((bytes, time)) = self.poller.budget.refill(now) else { return };
        let targets = self.poller.turns.order(self.pods.targets(), now);
        let round = round::read(&self.root, &targets, &self.poller.before, bytes, time);
        self.poller.budget.spend(round.bytes, round.time);
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
        let of_server = self.asked.netns_of(server.ip());
        self.poller.turns.attend([netns, self.netns].into_iter().chain(of_server), now);
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

    fn listener(rx_queue: u32) -> Socket {
        let (local, remote) = (([10, 0, 0, 1], 80).into(), ([0, 0, 0, 0], 0).into());
        Socket { local, remote, state: LISTEN, rx_queue, retransmits: 0, ino: 9 }
    }

    fn seen() -> Seen {
        Seen { counters: Counters { netns: POD, ..Counters::default() }, ..Seen::default() }
    }

    fn round(poller: &mut Poller, now: u64, seen: Seen) -> Vec<Body> {
        let round = Round { seen: vec![(POD, seen)], ..Round::default() };
        poller.events(now, round).into_iter().map(|event| event.body).collect()
    }

    #[test]
    fn counters_are_told_when_they_change() {
        let mut poller = Poller::default();
        let told = |bodies: &[Body]| bodies.iter().any(|b| matches!(b, Body::Counters(_)));
        assert!(told(&round(&mut poller, S, seen())));
        assert!(!told(&round(&mut poller, 2 * S, seen())));
        let mut rose = seen();
        rose.counters.listen_overflows = Some(1);
        poller.turns.attend([7], 2 * S);
        assert!(told(&round(&mut poller, 2 * S, seen())), "a stall is open");
        let bodies = round(&mut poller, 3 * S, rose);
        let Body::Counters(counters) = &bodies[0] else { unreachable!("{bodies:?}") };
        assert_eq!((counters.listen_overflows, counters.since), (Some(1), 2 * S));
    }

    #[test]
    fn a_round_is_due_twice_a_second_or_when_a_stall_was_told() {
        let mut poller = Poller { queues: true, ..Poller::default() };
        assert!(poller.is_due(10 * S));
        poller.events(10 * S, Round { not_read: 2, ..Round::default() });
        assert_eq!(poller.not_read, 2);
        assert!(!poller.is_due(10 * S + EVERY - 1) && poller.is_due(10 * S + EVERY));
        poller.hurry();
        assert!(!poller.is_due(10 * S + URGENT - 1) && poller.is_due(10 * S + URGENT));
        poller.events(11 * S, Round::default());
        assert!(!poller.is_due(11 * S + URGENT), "nobody is in a hurry");
    }

    #[test]
    fn longer_queues_come_first() {
        let table = Some(Table { sockets: vec![listener(1), listener(5)], cut: false });
        let seen = Seen { queues: table, somaxconn: Some(128), ..Seen::default() };
        let told = queues(POD, &seen).unwrap();
        assert_eq!(told.queues.iter().map(|q| q.waiting).collect::<Vec<_>>(), [5, 1]);
        assert_eq!((told.somaxconn, told.cut), (Some(128), false));
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
