//! The pod table itself: what was known, what is there now, and the difference as events.

mod reading;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use log::{debug, warn};

use super::{
    enter::Target,
    hostname,
    identity::{Owner, Owners},
    known::{Changes, Known, pod},
    netns::{self, HOST, Inhabited, Named},
    procfs::netns_of,
};
use crate::event::{NamedBy, Pod, PodChange};

/// Longest time a scan spends in reading addresses. What is left over comes with the next scans.
const READ_BUDGET: Duration = Duration::from_millis(40);
/// Longest time of a pass over all processes (about 3 µs each).
const PROC_BUDGET: Duration = Duration::from_millis(150);
/// Host names that are asked for in one pass, for each takes a thread.
const MOST_HOSTNAMES: usize = 64;
/// Namespaces without a name that are followed at most: any user of the node can make them.
const MOST_UNNAMED: usize = 4096;

/// All network namespaces of the node, with names and addresses.
#[derive(Debug)]
pub struct PodTable {
    root: PathBuf,
    known: BTreeMap<u32, Known>,
    /// The node's own, which is the only one called [`HOST`].
    host: Option<u32>,
    owners: Owners,
    /// Counts scans, to know what was read longest ago.
    scans: u64,
    /// Counts those that passed over all processes.
    passes: u64,
    read_budget: Duration,
    proc_budget: Duration,
    /// Whether the last pass over all processes saw all.
    complete: bool,
    warned: bool,
}

impl PodTable {
    /// An empty table of the node whose files are below `root`, mostly `/`. Touches nothing yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self {
            owners: Owners::new(&root),
            root,
            known: BTreeMap::new(),
            host: None,
            scans: 0,
            passes: 0,
            read_budget: READ_BUDGET,
            proc_budget: PROC_BUDGET,
            complete: false,
            warned: false,
        }
    }

    /// The same for one look at all there is, with `budget` each for processes and for addresses.
    pub fn unhurried(root: impl Into<PathBuf>, budget: Duration) -> Self {
        Self { read_budget: budget, proc_budget: budget, ..Self::new(root) }
    }

    /// How often all processes were looked at.
    pub fn passes(&self) -> u64 {
        self.passes
    }

    /// Whether the last pass over all processes had time for all of them.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Why the addresses of a namespace in the table are unknown, if they are.
    pub fn unread(&self, netns: u32) -> Option<String> {
        let known = self.known.get(&netns)?;
        let never = (known.read_at == 0).then(|| "no time was left for it".to_owned());
        known.unread.clone().or(never)
    }

    /// Looks again and tells what changed since the last call; everything at the first call.
    ///
    /// Without `deep` this lists `/run/netns` and looks into namespaces that are new: cheap enough
    /// for every tick. With `deep` it also passes over all processes, for namespaces without a
    /// name, and reads some of the known namespaces again: every few seconds, and when an event
    /// names a namespace that [`Self::knows`] does not.
    pub fn scan(&mut self, deep: bool) -> Vec<PodChange> {
        self.scans += 1;
        self.passes += u64::from(deep);
        let named = match netns::named(&self.root) {
            Ok(named) => named,
            Err(error) => {
                self.warn(&error);
                return Vec::new();
            }
        };
        let start = Instant::now();
        let inhabited = match deep.then(|| netns::inhabited(&self.root, self.proc_budget)) {
            None => None,
            Some(Ok(inhabited)) => {
                let (many, took) = (inhabited.pids.len(), start.elapsed());
                debug!("a pass over /proc found {many} network namespaces in {took:?}");
                Some(inhabited)
            }
            Some(Err(error)) => {
                self.warn(&error);
                None
            }
        };
        self.complete = inhabited.as_ref().is_some_and(|inhabited| inhabited.complete);
        let host = netns::host(&self.root).or(self.host);
        let mut changes = Changes::default();
        self.apply(host, named, inhabited.as_ref(), &mut changes);
        let due = self.due(deep);
        self.read(&due, self.read_budget, &mut changes);
        self.report(changes)
    }

    /// Reads the addresses of one namespace again, for example when an unknown address was seen in
    /// it. The caller limits how often.
    pub fn refresh(&mut self, netns: u32) -> Vec<PodChange> {
        let targets: Vec<Target> = self.target(netns).into_iter().collect();
        let mut changes = Changes::default();
        self.read(&targets, self.read_budget, &mut changes);
        self.report(changes)
    }

    /// Reads the addresses of all namespaces again, those read longest ago first, for as long as
    /// `budget` lasts: an unknown address does not tell whose it is. The caller limits how often.
    pub fn refresh_all(&mut self, budget: Duration) -> Vec<PodChange> {
        self.scans += 1;
        let targets = self.oldest(usize::MAX);
        let mut changes = Changes::default();
        self.read(&targets, budget, &mut changes);
        self.report(changes)
    }

    /// Takes in one process without a pass over all: an event tells that it did something in this
    /// namespace, which may have no name yet. A process that has left the namespace tells nothing.
    pub fn meet(&mut self, netns: u32, pid: u32) -> Vec<PodChange> {
        if netns_of(&self.root, &pid.to_string()) != Some(netns) {
            return Vec::new();
        }
        let pids = BTreeMap::from([(netns, vec![pid])]);
        let inhabited = Inhabited { pids, ..Inhabited::default() };
        let mut changes = Changes::default();
        self.apply_processes(self.host, &inhabited, &mut changes);
        self.report(changes)
    }

    /// Something happens in this namespace: the next passes ask for its owner as if it had just come.
    pub fn hurry(&mut self, netns: u32) {
        if let Some(known) = self.known.get_mut(&netns) {
            known.looks = 0;
        }
    }

    /// Whose process it is by its cgroup, whatever its network namespace.
    pub fn owner_of(&mut self, pid: u32) -> Option<Owner> {
        self.owners.begin();
        self.owners.known(pid)
    }

    /// Whether the namespace is in the table.
    pub fn knows(&self, netns: u32) -> bool {
        self.known.contains_key(&netns)
    }

    /// What is known of a namespace.
    pub fn get(&self, netns: u32) -> Option<&Pod> {
        self.known.get(&netns).map(|known| &known.pod)
    }

    /// How to reach a namespace, for its counters.
    pub fn target(&self, netns: u32) -> Option<Target> {
        self.known.get(&netns).map(|known| known.target.clone())
    }

    /// How to reach all of them.
    pub fn targets(&self) -> Vec<Target> {
        self.known.values().map(|known| known.target.clone()).collect()
    }

    /// Brings `known` in line with what was found.
    fn apply(
        &mut self,
        host: Option<u32>,
        mut named: BTreeMap<u32, Named>,
        inhabited: Option<&Inhabited>,
        changes: &mut Changes,
    ) {
        // Before processes are looked at: what has no name any more is kept by none.
        let mut nameless = BTreeSet::new();
        for (&netns, known) in &mut self.known {
            known.age = known.age.saturating_add(1);
            let is_named = Some(netns) == host || named.contains_key(&netns);
            if !is_named && known.target.path.take().is_some() {
                known.stamp = (0, 0);
                nameless.insert(netns);
            }
        }
        if let Some(host) = host {
            let path = named.remove(&host).map(|named| named.path);
            let pid = if netns_of(&self.root, "1") == Some(host) { 1 } else { std::process::id() };
            let known = self.known.entry(host).or_default();
            if self.host.replace(host) != Some(host) {
                if known.pod.netns == host {
                    changes.gone.insert(host);
                }
                let by_node = Pod { named_by: Some(NamedBy::Node), ..pod(host, HOST) };
                *known = Known { pod: by_node, ..Known::default() };
                changes.up.insert(host);
            }
            known.target = Target { netns: host, path, pid: Some(pid) };
        }
        for (&netns, named) in &named {
            let known = self.known.entry(netns).or_default();
            if known.pod.netns == netns && known.stamp != named.stamp {
                // Another namespace under a number used before: nothing of the old holds. Where the
                // old or the new name does not keep it, a process that is still there tells.
                let none_keeps = known.stamp == (0, 0) || named.stamp == (0, 0);
                if !(none_keeps && known.has_process(&self.root)) {
                    *known = Known::default();
                    changes.gone.insert(netns);
                }
            }
            known.stamp = named.stamp;
            known.pod.netns = netns;
            known.given = Some(named.name.clone());
            if known.rename() {
                changes.up.insert(netns);
            }
            known.target.netns = netns;
            known.target.path = Some(named.path.clone());
        }
        if let Some(inhabited) = inhabited {
            self.apply_processes(host, inhabited, changes);
        }
        self.remove_gone(host, &named, inhabited, &nameless, changes);
    }

    /// Notes which process lives where, and adds namespaces that only processes show.
    fn apply_processes(&mut self, host: Option<u32>, inhabited: &Inhabited, changes: &mut Changes) {
        self.owners.begin();
        let mut hostnames = 0;
        let mut unnamed = self.known.values().filter(|known| known.target.path.is_none()).count();
        for (&netns, pids) in &inhabited.pids {
            let is_new = !self.known.contains_key(&netns);
            if is_new && unnamed >= MOST_UNNAMED {
                continue;
            }
            unnamed += usize::from(is_new);
            let known = self.known.entry(netns).or_default();
            let all;
            let pids = if inhabited.complete {
                pids
            } else {
                all = known.with_those_left(pids, netns, &self.root);
                &all
            };
            known.target.pid = pids.first().copied();
            if Some(netns) == host {
                continue;
            }
            known.pod.netns = netns;
            known.target.netns = netns;
            known.looks = known.looks.saturating_add(1);
            if is_new || known.asks_owner(pids, inhabited.complete) {
                // Of the first process that has one.
                let owner = pids.iter().find_map(|&pid| self.owners.known(pid));
                if !is_new && known.is_another(owner.as_ref(), pids) {
                    known.replace();
                    changes.gone.insert(netns);
                }
                known.is_doubtful = !inhabited.complete;
                known.owner = owner.or(known.owner.take());
                if known.wants_hostname() && hostnames < MOST_HOSTNAMES {
                    hostnames += 1;
                    known.hostname = pids.first().and_then(|&pid| hostname::own(&self.root, pid));
                }
            }
            let crowded = inhabited.crowded.contains(&netns);
            let is_news = known.move_in(pids, crowded, &mut self.owners);
            if known.rename() || is_news {
                changes.up.insert(netns);
            }
        }
    }

    /// A namespace is gone when it has no name and no process any more. A name that was removed
    /// (`nameless` have lost theirs just now) while processes live on is kept: it is what people know
    /// the pod by.
    fn remove_gone(
        &mut self,
        host: Option<u32>,
        named: &BTreeMap<u32, Named>,
        inhabited: Option<&Inhabited>,
        nameless: &BTreeSet<u32>,
        changes: &mut Changes,
    ) {
        let root = &self.root;
        self.known.retain(|&netns, known| {
            if Some(netns) == host || named.contains_key(&netns) {
                return true;
            }
            let stays = match inhabited {
                Some(inhabited) if inhabited.complete => inhabited.pids.contains_key(&netns),
                // Only the process known to live there is looked at, and only now: others, and
                // its end, show in the next deep scan.
                _ if nameless.contains(&netns) => known.has_process(root),
                _ => true,
            };
            if !stays {
                changes.up.remove(&netns);
                changes.gone.insert(netns);
            }
            stays
        });
    }

    /// Says the first problem aloud and later ones only in debug output: a scan comes every tick.
    fn warn(&mut self, error: &anyhow::Error) {
        if self.warned {
            debug!("{error:#}");
        } else {
            self.warned = true;
            warn!("{error:#}");
        }
    }

    fn report(&self, changes: Changes) -> Vec<PodChange> {
        let gone = changes.gone.into_iter().map(|netns| PodChange::Gone { netns });
        let up = changes.up.iter().filter_map(|netns| self.get(*netns).cloned()).map(PodChange::Up);
        gone.chain(up).collect()
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
