//! What the loader knows already, so that it looks once for each name and not once for each event.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use log::{debug, warn};
use probe_common::event::ProbeServer;

use super::{
    Live,
    kubelet::{self, Role},
};
use crate::{
    event::{Body, Event, PodChange, Process, ServerQueue, Symbol},
    finding::Flow,
    kernel::symbols::Symbols,
    pods::{
        enter::visit, identity::Owner, listening::serving, process::listener_process,
        procfs::read_text,
    },
};

/// How long one search for a socket's process may take. A pass over some thousand processes takes 10 to
/// 30 ms; what is spent beyond that is a machine's that has no processor to spare.
const LISTENER_BUDGET: Duration = Duration::from_millis(200);
/// How many searches that could not be made at once, or not to their end, are remembered, and how often
/// one is tried again: a finding waits for some of these calls.
const MOST_WANTED: usize = 64;
const TRIES: u32 = 5;
/// How many names of each kind are remembered.
const MOST: usize = 16384;
/// When to search again for a process that was not found in time.
const TRY_AGAIN: u64 = 10_000_000_000;

/// An accepted socket, and how often its process may be searched for again.
struct Wanted {
    ino: u64,
    netns: u32,
    tries: u32,
}

/// What a search for a socket's process came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Found(u32),
    Nobody,
    /// Not all processes were looked at.
    NoTime,
}

/// Names looked up so far.
#[derive(Default)]
pub struct Known {
    symbols: HashSet<u64>,
    /// Listening sockets, and when to search for their process again.
    listeners: HashMap<u64, u64>,
    /// Accepted sockets whose process is still to be searched for.
    wanted: Vec<Wanted>,
    /// Processes of the node's own network: when to look again whose each is, and what was told.
    processes: HashMap<u32, (u64, Option<Process>)>,
    /// How many searches for a process are left in this call.
    pub searches: usize,
    /// How many processes of pods may still be asked for their container, which is cheap.
    pub asks: usize,
    /// How many looks at who listens in a namespace are left in this call.
    pub looks: usize,
    /// Namespaces whose counters findings may need.
    counted: BTreeSet<u32>,
    /// Namespaces that are new: their counters are read once, to count from there.
    fresh: BTreeSet<u32>,
    /// Modules loaded when the kernel's names were read again last.
    modules: Vec<String>,
}

impl Known {
    /// A module was loaded or unloaded: its addresses mean something else now.
    pub fn forget_symbols(&mut self) {
        self.symbols.clear();
        self.modules.clear();
    }

    /// Leaves room for one look at a process, whatever was looked for before.
    pub fn spare_one(&mut self) {
        self.searches = self.searches.max(1);
        self.asks = self.asks.max(1);
    }

    /// Counters of this namespace will be read from now on.
    pub fn count(&mut self, netns: u32) {
        if self.counted.len() < MOST {
            self.counted.insert(netns);
        }
    }

    /// Whose counters to read now.
    pub fn counted(&mut self) -> BTreeSet<u32> {
        let fresh = std::mem::take(&mut self.fresh);
        self.counted.union(&fresh).copied().collect()
    }

    /// Takes in a change of the pod table; `is_new`: nothing was known of this namespace.
    pub fn pod(&mut self, change: &PodChange, is_new: bool) {
        match change {
            PodChange::Up(pod) if is_new => {
                self.fresh.insert(pod.netns);
            }
            PodChange::Up(_) => {}
            PodChange::Gone { netns } => {
                self.counted.remove(netns);
            }
        }
    }
}

/// The namespace an event happened in.
pub fn netns(body: &Body) -> Option<u32> {
    match body {
        Body::Listen(e) => Some(e.header.netns),
        Body::Connect(e) => Some(e.header.netns),
        Body::SynAck(e) => Some(e.header.netns),
        Body::Drop(e) => Some(e.header.netns),
        Body::Dns(e) => Some(e.header.netns),
        Body::Ipvs(e) => Some(e.header.netns),
        Body::CtEntry(e) => Some(e.header.netns),
        Body::Reject(e) => Some(e.header.netns),
        Body::Probe(e) => Some(e.header.netns),
        Body::ProbeServer(e) => Some(e.header.netns),
        Body::Packet(e) => Some(e.header.netns),
        Body::ProbeSteps(e) => Some(e.header.netns),
        Body::Departure(e) => Some(e.header.netns),
        _ => None,
    }
}

impl Live {
    /// Tells once which process holds a listening socket.
    pub(super) fn name_listener(
        &mut self,
        ino: u64,
        netns: u32,
        (ts, now): (u64, u64),
        events: &mut Vec<Event>,
    ) {
        let known = &self.known;
        let again = known.listeners.get(&ino).copied().unwrap_or(0);
        if ino == 0 || known.searches == 0 || now < again || known.listeners.len() >= MOST {
            return;
        }
        let holder = self.search_holder(ino, netns, ts, events);
        let again = if holder == Holder::NoTime { now.saturating_add(TRY_AGAIN) } else { u64::MAX };
        self.known.listeners.insert(ino, again);
        if let Holder::Found(pid) = holder {
            self.name_process(pid, netns, (ts, now), events);
        }
    }

    /// Searches for the process that holds a socket, and tells it. For a caller that knows of a search
    /// that is left.
    fn search_holder(&mut self, ino: u64, netns: u32, ts: u64, events: &mut Vec<Event>) -> Holder {
        self.known.searches = self.known.searches.saturating_sub(1);
        match listener_process(&self.root, ino, netns, LISTENER_BUDGET) {
            Ok(Some(holder)) => {
                let pid = holder.pid;
                events.push(Event { ts, body: Body::Listener(holder) });
                Holder::Found(pid)
            }
            Ok(None) => {
                debug!("no process of namespace {netns} holds socket {ino}");
                Holder::Nobody
            }
            Err(err) => {
                debug!("{err:#}");
                Holder::NoTime
            }
        }
    }

    /// What earlier calls could not name.
    pub(super) fn name_wanted(&mut self, now: u64, events: &mut Vec<Event>) {
        for wanted in std::mem::take(&mut self.known.wanted) {
            self.name_holder(wanted, now, events);
        }
    }

    /// Tells which process holds an accepted socket. It serves one connection only: there is nothing to
    /// remember.
    fn name_holder(&mut self, mut wanted: Wanted, ts: u64, events: &mut Vec<Event>) {
        if self.known.searches > 0 {
            let holder = self.search_holder(wanted.ino, wanted.netns, ts, events);
            if holder != Holder::NoTime || wanted.tries == 0 {
                return;
            }
            wanted.tries -= 1;
        }
        if self.known.wanted.len() < MOST_WANTED {
            self.known.wanted.push(wanted);
        }
    }

    /// Tells which process a probe waits for, which is the one that accepted it or else the one that
    /// listens, and how many connections wait for accept().
    pub(super) fn name_server(
        &mut self,
        server: &ProbeServer,
        (ts, now): (u64, u64),
        events: &mut Vec<Event>,
    ) {
        let netns = server.header.netns;
        let flow = Flow::of(&server.tuple);
        if server.ino != 0 {
            self.name_holder(Wanted { ino: server.ino, netns, tries: TRIES }, ts, events);
        }
        let (client, asked) = (flow.src, flow.dst);
        if self.known.looks == 0 {
            return;
        }
        let Some(target) = self.pods.target(netns) else { return };
        self.known.looks -= 1;
        let looked =
            visit(&self.root, &[target], LISTENER_BUDGET, |inside| serving(&inside.net, asked));
        match looked.into_iter().next().map(|(_, found)| found) {
            Some(Ok(Some(queue))) => {
                if server.accepted == 0 {
                    self.name_listener(queue.ino, netns, (ts, now), events);
                }
                let queue = ServerQueue { netns, client, server: asked, queue };
                events.push(Event { ts, body: Body::ServerQueue(queue) });
            }
            Some(Ok(None)) | None => debug!("nothing listens at {asked} in namespace {netns}"),
            Some(Err(err)) => debug!("who listens at {asked} in namespace {netns}: {err:#}"),
        }
    }

    /// Tells what a process is, if it is a container's, or in the node's own network a pod's, or a node's
    /// kubelet; looks again only after the number may have been given to another.
    pub(super) fn name_process(
        &mut self,
        pid: u32,
        netns: u32,
        (ts, now): (u64, u64),
        events: &mut Vec<Event>,
    ) {
        if pid == 0 {
            return;
        }
        let known = &mut self.known;
        let before = known.processes.get(&pid).cloned();
        let is_node = netns == self.netns;
        let left = if is_node { &mut known.searches } else { &mut known.asks };
        if *left == 0 || before.as_ref().is_some_and(|(again, _)| now < *again) {
            return;
        }
        *left -= 1;
        if !is_node && self.asked.is_nameless(netns) {
            let changes = self.pods.meet(netns, pid);
            self.tell_pods(changes, ts, events);
        }
        let owner = self.pods.owner_of(pid);
        let role = kubelet::role(&self.root, pid, owner.as_ref(), is_node);
        let process = Process {
            pid,
            pod: owner.as_ref().filter(|_| is_node).map(Owner::name),
            container: owner.and_then(|owner| owner.container),
            kubelet: role == Role::Kubelet,
            has_kubelet: role == Role::Part,
            netns: if is_node || role == Role::Other { 0 } else { netns },
        };
        let told = before.and_then(|(_, told)| told);
        // Of most there is nothing to tell; of a number given to another process that too is news.
        let is_news = match &told {
            Some(told) => *told != process,
            None => process.pod.is_some() || process.container.is_some() || role != Role::Other,
        };
        let told = if is_news { Some(process.clone()) } else { told };
        let processes = &mut self.known.processes;
        if processes.len() >= MOST {
            processes.clear();
        }
        processes.insert(pid, (now.saturating_add(TRY_AGAIN), told));
        if is_news {
            events.push(Event { ts, body: Body::Process(process) });
        }
    }

    /// Tells once what a place in the kernel is called.
    pub(super) fn name_place(&mut self, address: u64, ts: u64, events: &mut Vec<Event>) {
        if self.known.symbols.len() >= MOST || !self.known.symbols.insert(address) {
            return;
        }
        if self.place(address).is_none() {
            // It may lie in a module that was loaded since the names were read.
            self.reload_symbols();
        }
        if let Some(name) = self.place(address) {
            events.push(Event { ts, body: Body::Symbol(Symbol { address, name }) });
        }
    }

    fn place(&self, address: u64) -> Option<String> {
        let place = self.symbols.as_ref()?.locate(address)?;
        let module = place.module.map(|m| format!(" [{m}]")).unwrap_or_default();
        Some(format!("{}+{:#x}{module}", place.symbol, place.offset))
    }

    /// Reads the kernel's names again if other modules are loaded than the last time.
    pub(super) fn reload_symbols(&mut self) {
        let modules = read_text(&self.root.join("proc/modules"), u64::MAX).unwrap_or_default();
        let names: Vec<String> =
            modules.lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect();
        if names == self.known.modules {
            return;
        }
        self.known.modules = names;
        match Symbols::load(&self.root) {
            Ok(symbols) => self.symbols = Some(symbols),
            Err(err) => warn!("places in the kernel have no names any more: {err}"),
        }
    }
}
