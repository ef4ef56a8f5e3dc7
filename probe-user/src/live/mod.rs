//! The live source of the event stream: the kernel side, the pod table and the snapshots, brought
//! into one sequence that a recording could hold as well.

mod armed;
mod asked;
mod enrich;
mod ipvs;
mod kubelet;
#[cfg(test)]
mod passes;
mod poll;
mod services;
mod start;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;
use log::{debug, error};
use probe_common::event::{DROP_INSERT_FAILED, OUTCOME_FAILED, kind};

pub use self::start::{DNS_PORTS, NoRung, Options, start};
use self::{
    armed::Arming,
    asked::{Asked, Search},
    enrich::Known,
    ipvs::Ipvs,
    poll::Poller,
    services::Services,
};
use crate::{
    bpf::{Probes, unattached},
    event::{Body, Event, Hook, PodChange, Totals, armed::Outcome, decode::decode},
    finding::Flow,
    kernel::{
        facts::Facts,
        modules::{Change, ModuleWatch},
        symbols::Symbols,
    },
    pods::PodTable,
    snapshot::Sources,
};

/// An event taken by a program this long ago has been submitted by now: programs run for
/// microseconds and cannot be scheduled away.
const IN_FLIGHT: u64 = 10_000_000;
/// How often the pairing maps are looked through.
const SWEEP: u64 = 250_000_000;
/// How often modules, names, counters and clocks are looked at.
const LOOK: u64 = 1_000_000_000;
/// How often all processes are passed over, when no event asks for it.
const DEEP: u64 = 5_000_000_000;
/// How many searches for a listener's process one call may make.
const SEARCHES: usize = 2;
/// Processes of pods whose container is looked up in one call: a file each.
const ASKS: usize = 16;
/// How many looks at who listens one call may take: any program may call itself kubelet.
const LOOKS: usize = 4;
/// How long one look into the namespaces' counters may take.
const COUNTERS_BUDGET: Duration = Duration::from_millis(50);
/// How long reading all namespaces' addresses again may take.
const ADDRESSES_BUDGET: Duration = Duration::from_millis(50);

/// Everything that is attached and open.
pub struct Live {
    root: PathBuf,
    facts: Facts,
    /// The node's own namespace.
    netns: u32,
    /// The error says why nothing could be loaded into the kernel.
    probes: Result<Probes, String>,
    poller: Poller,
    symbols: Option<Symbols>,
    modules: ModuleWatch,
    pods: PodTable,
    sources: Sources,
    known: Known,
    asked: Asked,
    ipvs: Ipvs,
    arming: Arming,
    pulled: u64,
    /// Up to here all events have been read.
    edge: u64,
    /// The last tick.
    told: u64,
    /// When the last change of a pod was.
    changed: u64,
    services: Services,
    /// Namespaces whose conntrack refused an entry since its counters were read.
    recount: BTreeSet<u32>,
    swept: u64,
    looked: u64,
    deep: u64,
    undecodable: u64,
}

impl Live {
    /// All that happened since the last call, closed by a tick. Call it a few times a second. What
    /// cannot be read this time is logged, and tried again the next time.
    ///
    /// # Errors
    /// When the kernel has no clock.
    pub fn pull(&mut self) -> Result<Vec<Event>> {
        let (now, clock) = self.sources.clock()?;
        self.pulled = now;
        self.edge = self.edge.max(now.saturating_sub(IN_FLIGHT));
        let mut events = Vec::new();
        let mut records = Vec::new();
        if let Ok(probes) = &mut self.probes {
            probes.drain(|record| match decode(record) {
                Ok(event) => records.push(event),
                Err(err) => {
                    self.undecodable += 1;
                    debug!("a record of the kernel side is not an event: {err}");
                }
            });
        }
        self.known.searches = SEARCHES;
        self.known.asks = ASKS;
        self.known.looks = LOOKS;
        self.name_wanted(now, &mut events);
        let mut closed = Vec::new();
        for event in records {
            self.arming.saw(now, &event);
            match event.body {
                Body::Dns(dns) if dns.header.kind == kind::DNS_CLOSE => closed.push(*dns),
                _ => self.enrich(event, now, &mut events),
            }
        }
        let closed = match &mut self.probes {
            Ok(probes) => probes.closed(&closed).unwrap_or_else(failed),
            Err(_) => Vec::new(),
        };
        for dns in closed {
            let ts = dns.header.ts;
            self.enrich(Event { ts, body: Body::Dns(Box::new(dns)) }, now, &mut events);
        }
        if let Ok(probes) = &mut self.probes
            && now.saturating_sub(self.swept) >= SWEEP
        {
            self.swept = now;
            let swept = probes.sweep(now).unwrap_or_else(failed);
            for dns in swept {
                self.enrich(Event { ts: now, body: Body::Dns(Box::new(dns)) }, now, &mut events);
            }
            self.look_at_servers();
        }
        if now.saturating_sub(self.looked) >= LOOK {
            self.looked = now;
            events.push(Event { ts: now, body: Body::Clock(clock) });
            self.look(now, &mut events);
        }
        // Conntrack refused an entry: its counters tell why, and the client may try again soon.
        let again = std::mem::take(&mut self.recount);
        self.count(again, now, &mut events);
        self.look_for_unknown(now, &mut events);
        self.poll(now, &mut events);
        self.look_into_ipvs(now, &mut events);
        self.follow_armed(now, &mut events);
        // A name stands in the stream before what is told of its namespace.
        let held = self.asked.held(now).map_or(self.edge, |ts| ts.saturating_sub(1).min(self.edge));
        self.told = self.told.max(held);
        events.push(Event { ts: self.told, body: Body::Tick });
        Ok(events)
    }

    /// The last call: counters are read whenever they were read before.
    ///
    /// # Errors
    /// When the kernel has no clock.
    pub fn finish(&mut self) -> Result<Vec<Event>> {
        self.swept = 0;
        self.looked = 0;
        self.asked.hurry();
        let mut events = Vec::new();
        self.arming.forget();
        self.let_go(self.pulled, Outcome::Ended, &mut events);
        events.extend(self.pull()?);
        Ok(events)
    }

    /// What the servers of waiting probes do now; the kernel side tells of it.
    fn look_at_servers(&mut self) {
        let Ok(probes) = &mut self.probes else { return };
        let start = Instant::now();
        match probes.look_at_servers() {
            Ok(0) => {}
            Ok(n) => debug!("looked at the servers of {n} probes in {:?}", start.elapsed()),
            Err(err) => error!("{err:#}"),
        }
    }

    /// Modules, names and counters.
    fn look(&mut self, now: u64, events: &mut Vec<Event>) {
        self.follow_modules(now, events);
        let deep = now.saturating_sub(self.deep) >= DEEP;
        self.scan_pods(now, deep, events);
        if !self.poller.is_on() {
            let counted = self.known.counted();
            self.count(counted, now, events);
        }
        let totals = self.probes.as_ref().map_or_else(|_| Ok(Totals::default()), Probes::totals);
        match totals {
            Ok(mut totals) => {
                totals.not_read = self.poller.not_read;
                totals.passes = self.pods.passes();
                if let Some(n) = totals.seen.get_mut(usize::from(kind::ARMED)) {
                    *n += self.arming.armed;
                }
                events.push(Event { ts: now, body: Body::Totals(Box::new(totals)) });
            }
            Err(err) => error!("{err:#}"),
        }
    }

    /// The hooks, and the snapshots that stand in for those that cannot see.
    fn hooks(&mut self) -> Vec<Hook> {
        let mut hooks = match &self.probes {
            Ok(probes) => probes.hooks(),
            Err(_) => unattached("no eBPF", |name| self.modules.state(name).is_present()),
        };
        self.poller.stand_in(&mut hooks);
        hooks
    }

    /// Reads the counters of these namespaces.
    fn count(&self, namespaces: BTreeSet<u32>, now: u64, events: &mut Vec<Event>) {
        let targets: Vec<_> =
            namespaces.into_iter().filter_map(|netns| self.pods.target(netns)).collect();
        if targets.is_empty() {
            return;
        }
        for counters in self.sources.counters(&targets, COUNTERS_BUDGET) {
            events.push(Event { ts: now, body: Body::Counters(counters) });
        }
    }

    /// A probe on a module that went away stays dead when the module comes back: attach anew.
    fn follow_modules(&mut self, now: u64, events: &mut Vec<Event>) {
        let changes = self.modules.poll().unwrap_or_else(failed);
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            if change.change != Change::Loaded {
                self.armed_module_gone(change.name, now, events);
            }
        }
        if let Ok(probes) = &mut self.probes {
            for change in changes {
                if change.change != Change::Loaded {
                    probes.module_gone(change.name);
                }
                if change.change != Change::Unloaded {
                    if change.name == "ip_vs" {
                        let (release, machine) = (&self.facts.release, self.facts.machine);
                        let layout = crate::kernel::ipvs::layout(&self.root, release, machine);
                        probes.ipvs_layout(layout);
                    }
                    probes.module_here(change.name);
                }
            }
            self.known.forget_symbols();
            self.reload_symbols();
        }
        let hooks = self.hooks();
        events.push(Event { ts: now, body: Body::Hooks(hooks) });
    }

    fn scan_pods(&mut self, now: u64, deep: bool, events: &mut Vec<Event>) {
        if deep {
            self.deep = now;
        }
        let changes = self.pods.scan(deep);
        self.tell_pods(changes, self.edge, events);
    }

    /// Tells changes of the pod table: in their order, and by the tick that comes next.
    fn tell_pods(&mut self, changes: Vec<PodChange>, ts: u64, events: &mut Vec<Event>) {
        if changes.is_empty() {
            return;
        }
        self.changed = self.changed.max(ts.clamp(self.told, self.edge));
        for change in changes {
            let is_new = self.asked.pod(&change);
            self.known.pod(&change, is_new);
            if let PodChange::Gone { netns } = &change {
                self.poller.forget(*netns);
            }
            events.push(Event { ts: self.changed, body: Body::Pod(change) });
        }
    }

    /// An event named a namespace or an address that nobody has a name for: look again, for each
    /// namespace once, for addresses ever more seldom while it is in vain.
    fn look_for_unknown(&mut self, now: u64, events: &mut Vec<Event>) {
        let Some(search) = self.asked.due(now) else { return };
        let (before, start) = (events.len(), self.sources.spent());
        self.scan_pods(now, true, events);
        if search == Search::Addresses {
            let changes = self.pods.refresh_all(ADDRESSES_BUDGET);
            self.tell_pods(changes, self.edge, events);
        }
        let took = self.sources.spent().saturating_sub(start);
        self.asked.searched(search, events.len() > before, took);
    }

    /// Adds what the loader knows to what the kernel told, before it.
    fn enrich(&mut self, event: Event, now: u64, events: &mut Vec<Event>) {
        let ts = event.ts;
        match &event.body {
            Body::Listen(listen) => {
                self.known.count(listen.header.netns);
                self.name_listener(listen.ino, listen.header.netns, (ts, now), events);
            }
            Body::Connect(connect) => {
                let (pid, netns) = (connect.pid, connect.header.netns);
                if kubelet::is_called_so(&connect.comm) {
                    self.known.spare_one();
                }
                self.name_process(pid, netns, (ts, now), events);
                let failed = connect.outcome == OUTCOME_FAILED && connect.err != 0;
                if connect.header.kind == kind::SYN_RETRANSMIT || failed {
                    self.poller.hurry();
                    let flow = Flow::of(&connect.tuple);
                    self.attend(connect.header.netns, flow.dst, now);
                    self.ask_ipvs(flow.src, flow.dst);
                }
            }
            Body::SynAck(synack) => {
                self.name_listener(synack.ino, synack.header.netns, (ts, now), events);
            }
            Body::Drop(drop) => {
                if drop.flags & DROP_INSERT_FAILED != 0 {
                    self.recount.insert(drop.header.netns);
                }
                self.asked.address(&drop.tuple);
                self.ipvs.dropped(drop);
                self.name_place(drop.location, ts, events);
            }
            Body::Ipvs(ipvs) => {
                self.asked.address(&ipvs.tuple);
                self.ipvs.decided(ipvs);
            }
            Body::Reject(reject) => {
                self.asked.address(&reject.tuple);
                self.name_service(reject, now, events);
            }
            Body::Dns(dns) => self.name_process(dns.pid, dns.header.netns, (ts, now), events),
            Body::Probe(probe) => {
                // Without this there is no finding; it is asked for one process, every ten seconds.
                self.known.spare_one();
                self.name_process(probe.pid, probe.header.netns, (ts, now), events);
            }
            Body::ProbeServer(server) if server.header.kind != kind::PROBE_SERVED => {
                self.name_server(server, (ts, now), events);
            }
            Body::Clash(clash) => self.asked.address(&clash.loser.orig),
            Body::Departure(e) => self.asked.address(&e.tuple),
            Body::CtEntry(entry) => self.asked.address(&entry.tuple),
            _ => {}
        }
        if let Some(netns) = enrich::netns(&event.body)
            && self.asked.netns(netns, (ts, now))
        {
            self.pods.hurry(netns);
        }
        events.push(event);
    }
}

/// Nothing this time.
fn failed<T>(err: anyhow::Error) -> Vec<T> {
    error!("{err:#}");
    Vec::new()
}
