//! What the loader knows already, so that it looks once for each name and not once for each event.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use log::{debug, warn};
use probe_common::{
    event::ProbeServer,
    net::{FAMILY_V4, FAMILY_V6, Tuple},
};

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
/// The least time between two searches for an unknown or nameless namespace, of which each is searched
/// for once: a pod that lives for a moment is found.
const HASTE: u64 = 200_000_000;
/// And so many times as long as the last search took: any user can make namespaces.
const REST: u64 = 10;
/// The least time between two searches for an unknown address.
const PATIENCE: u64 = 1_000_000_000;
/// The longest time between two searches for an unknown address.
const LONGEST_PATIENCE: u64 = 64_000_000_000;
/// When to search again for a process that was not found in time.
const TRY_AGAIN: u64 = 10_000_000_000;

/// An accepted socket, and how often its process may be searched for again.
struct Wanted {
    ino: u64,
    netns: u32,
    tries: u32,
}

/// Names looked up so far.
#[derive(Default)]
pub struct Known {
    symbols: HashSet<u64>,
    /// Listening sockets, and when to search for their process again.
    listeners: HashMap<u64, u64>,
    /// Accepted sockets whose process is still to be searched for.
    wanted: VecDeque<Wanted>,
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
    pods: HashMap<u32, Vec<IpAddr>>,
    /// Namespaces known by a number only, or not at all, and whether they were searched for as such.
    nameless: HashMap<u32, bool>,
    addresses: HashSet<IpAddr>,
    /// Namespaces without a name that events came from since the last search: the next one is theirs.
    asked: BTreeSet<u32>,
    /// A namespace without a name was seen since the last search.
    unknown_netns: bool,
    /// An address without a name was seen since the last search. Most such addresses are not pods'
    /// at all but the internet's.
    unknown_address: bool,
    searched_at: u64,
    /// How long the last search took.
    took: u64,
    /// How long to wait between two searches for addresses: doubles while they are in vain.
    patience: u64,
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

    /// Takes in a change of the pod table. A pass over all processes that was made for another reason
    /// may have come before the first process of a pod, whose namespace is there first: only the search
    /// for a namespace of which an event came is its one.
    pub fn pod(&mut self, change: &PodChange) {
        match change {
            PodChange::Up(pod) => {
                if pod.is_named() {
                    self.nameless.remove(&pod.netns);
                } else {
                    let searched = self.nameless.entry(pod.netns).or_default();
                    // Until now it was searched for as one that nobody knows.
                    *searched = (*searched && self.pods.contains_key(&pod.netns))
                        || self.asked.contains(&pod.netns);
                }
                if self.pods.insert(pod.netns, pod.addresses.clone()).is_none() {
                    self.fresh.insert(pod.netns);
                }
            }
            PodChange::Gone { netns } => {
                self.pods.remove(netns);
                self.nameless.remove(netns);
                self.counted.remove(netns);
            }
        }
        self.addresses = self.pods.values().flatten().copied().collect();
    }

    /// The namespace that has this address.
    pub fn netns_of(&self, address: IpAddr) -> Option<u32> {
        let address = address.to_canonical();
        let of = |all: &Vec<IpAddr>| all.iter().any(|a| a.to_canonical() == address);
        self.pods.iter().find(|(_, all)| of(all)).map(|(netns, _)| *netns)
    }

    /// A namespace in which something happened.
    pub fn netns(&mut self, netns: u32) {
        let is_new = match self.nameless.get_mut(&netns) {
            Some(searched) => !std::mem::replace(searched, true),
            None if netns == 0 || self.pods.contains_key(&netns) => false,
            None => {
                if self.nameless.len() >= MOST {
                    self.nameless.retain(|netns, _| self.pods.contains_key(netns));
                }
                self.nameless.insert(netns, true);
                true
            }
        };
        if is_new && self.asked.len() < MOST {
            self.asked.insert(netns);
        }
        self.unknown_netns |= is_new;
    }

    /// The namespace that has this address.
    pub fn netns_with(&self, address: IpAddr) -> Option<u32> {
        let mut all = self.pods.iter();
        all.find(|(_, addresses)| addresses.contains(&address)).map(|(netns, _)| *netns)
    }

    /// A packet whose source may be a pod.
    pub fn address(&mut self, tuple: &Tuple) {
        let source = match tuple.family {
            FAMILY_V4 => {
                let [a, b, c, d, ..] = tuple.src;
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            FAMILY_V6 => IpAddr::V6(Ipv6Addr::from(tuple.src)),
            _ => return,
        };
        if !self.addresses.contains(&source) {
            self.unknown_address = true;
        }
    }

    /// Whether to search now; the answer is yes once.
    pub fn due(&mut self, now: u64) -> bool {
        let since = now.saturating_sub(self.searched_at);
        let due = (self.unknown_netns && since >= HASTE.max(self.took.saturating_mul(REST)))
            || (self.unknown_address && since >= self.patience.max(PATIENCE));
        if due {
            self.unknown_netns = false;
            self.unknown_address = false;
            self.searched_at = now;
        }
        due
    }

    /// A search was made; `found`: it brought something new.
    pub fn searched(&mut self, found: bool, took: Duration) {
        self.asked.clear();
        self.took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let longer = self.patience.max(PATIENCE) * 2;
        self.patience = if found { PATIENCE } else { longer.min(LONGEST_PATIENCE) };
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
        Body::ProbeSteps(e) => Some(e.header.netns),
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
        let known = &mut self.known;
        let again = known.listeners.get(&ino).copied().unwrap_or(0);
        if ino == 0 || known.searches == 0 || now < again || known.listeners.len() >= MOST {
            return;
        }
        known.searches -= 1;
        known.listeners.insert(ino, u64::MAX);
        match listener_process(&self.root, ino, netns, LISTENER_BUDGET) {
            Ok(Some(listener)) => {
                let pid = listener.pid;
                events.push(Event { ts, body: Body::Listener(listener) });
                self.name_process(pid, netns, (ts, now), events);
            }
            Ok(None) => debug!("no process of namespace {netns} holds socket {ino}"),
            Err(err) => {
                debug!("{err:#}");
                self.known.listeners.insert(ino, now.saturating_add(TRY_AGAIN));
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
    fn name_holder(&mut self, wanted: Wanted, ts: u64, events: &mut Vec<Event>) {
        let Wanted { ino, netns, tries } = wanted;
        let known = &mut self.known;
        let mut again = Some(wanted);
        if known.searches > 0 {
            known.searches -= 1;
            match listener_process(&self.root, ino, netns, LISTENER_BUDGET) {
                Ok(Some(holder)) => {
                    events.push(Event { ts, body: Body::Listener(holder) });
                    again = None;
                }
                Ok(None) => {
                    debug!("no process of namespace {netns} holds socket {ino}");
                    again = None;
                }
                Err(err) => {
                    debug!("{err:#}");
                    again = tries.checked_sub(1).map(|tries| Wanted { ino, netns, tries });
                }
            }
        }
        if known.wanted.len() < MOST_WANTED {
            known.wanted.extend(again);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Pod;

    const S: u64 = 1_000_000_000;

    fn up(netns: u32, name: &str) -> PodChange {
        PodChange::Up(Pod { netns, name: name.to_owned(), ..Pod::default() })
    }

    #[test]
    fn each_namespace_is_searched_for_once() {
        let mut known = Known::default();
        assert!(!known.due(10 * S), "nothing is unknown");
        known.netns(7);
        assert!(known.due(10 * S));
        known.pod(&up(7, "netns:7"));
        known.searched(true, Duration::ZERO);
        known.netns(7);
        assert!(!known.due(20 * S), "the search would have found its name");

        known.pod(&up(8, "netns:cni-0b8a"));
        known.netns(8);
        assert!(known.due(30 * S), "it is known by a name from a list only");
        known.netns(8);
        assert!(!known.due(40 * S));
        known.pod(&up(8, "shop/web-0"));
        known.pod(&PodChange::Gone { netns: 8 });
        known.netns(8);
        assert!(known.due(50 * S), "another one under the same number");

        known.searched(false, Duration::ZERO);
        // Found by a pass for something else, when it had no process yet.
        known.pod(&up(9, "netns:cni-5d4c"));
        known.netns(9);
        assert!(known.due(60 * S), "its pod has processes now");
        known.pod(&up(9, "netns:9"));
        known.searched(false, Duration::ZERO);
        known.netns(9);
        assert!(!known.due(70 * S));
    }

    #[test]
    fn searches_rest_longer_than_they_take() {
        let mut known = Known::default();
        known.netns(7);
        assert!(known.due(10 * S));
        known.searched(true, Duration::from_millis(100));
        known.netns(8);
        assert!(!known.due(10 * S + S / 2));
        assert!(known.due(11 * S));
        known.searched(true, Duration::from_millis(1));
        known.netns(9);
        assert!(!known.due(11 * S + HASTE - 1));
        assert!(known.due(11 * S + HASTE));
    }
}
