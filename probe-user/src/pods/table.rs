//! The pod table itself: what was known, what is there now, and the difference as events.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use log::{debug, warn};

use super::{
    addresses,
    enter::{Target, cookie, visit},
    identity::{Id, Owner, Owners},
    naming,
    netns::{self, HOST, Inhabited, Named},
    procfs::netns_of,
};
use crate::event::{Pod, PodChange};

/// Longest time a scan spends in reading addresses. What is left over comes with the next scans.
const READ_BUDGET: Duration = Duration::from_millis(40);
/// Longest time of a pass over all processes (about 3 µs each).
const PROC_BUDGET: Duration = Duration::from_millis(150);
/// Namespaces without news that a deep scan reads again, those read longest ago first.
const REREAD: usize = 32;
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
    read_budget: Duration,
    proc_budget: Duration,
    /// Whether the last pass over all processes saw all.
    complete: bool,
    warned: bool,
}

#[derive(Debug, Default)]
struct Known {
    pod: Pod,
    target: Target,
    stamp: (i64, i64),
    /// Its `ip netns` name.
    given: Option<String>,
    /// Some of the processes that were in it at the last deep scan.
    pids: Vec<u32>,
    owner: Option<Owner>,
    /// How often its owner was looked for.
    looks: u32,
    /// Scans since it appeared or was replaced. Addresses come some time after the namespace, so
    /// it is read again at ages 1, 2, 4 … 64.
    age: u32,
    /// [`PodTable::scans`] when it was read last; 0 when it never was.
    read_at: u64,
    /// Why that failed.
    unread: Option<String>,
}

impl Known {
    fn is_due(&self) -> bool {
        self.read_at == 0 || (self.age <= 64 && self.age.is_power_of_two())
    }

    /// Whether to look for its owner, in the pass that found these processes in it. A container's files
    /// come some time after its first process. If none of the processes is left that were in it before,
    /// it may be another namespace under the same number.
    fn asks_owner(&self, pids: &[u32]) -> bool {
        let is_known = self
            .owner
            .as_ref()
            .is_some_and(|owner| owner.pod.is_some() || matches!(owner.id, Id::Container(_)));
        let again = self.looks == 0 || (self.looks <= 64 && self.looks.is_power_of_two());
        (!is_known && again) || !self.shares(pids)
    }

    /// Whether the process known to live in it still does.
    fn has_process(&self, root: &Path) -> bool {
        let netns_of = |pid: u32| netns_of(root, &pid.to_string());
        self.target.pid.and_then(netns_of).is_some_and(|netns| netns == self.target.netns)
    }

    /// Whether one of these processes was in it at the last deep scan.
    fn shares(&self, pids: &[u32]) -> bool {
        pids.iter().any(|pid| self.pids.contains(pid))
    }

    /// Calls it by the best name; `true` when that is another one.
    fn rename(&mut self) -> bool {
        let name = naming::name(self.pod.netns, self.given.as_deref(), self.owner.as_ref());
        let is_new = self.pod.name != name;
        self.pod.name = name;
        is_new
    }
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
        let named = match netns::named(&self.root) {
            Ok(named) => named,
            Err(error) => {
                self.warn(&error);
                return Vec::new();
            }
        };
        let inhabited = match deep.then(|| netns::inhabited(&self.root, self.proc_budget)) {
            None => None,
            Some(Ok(inhabited)) => Some(inhabited),
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
                *known = Known { pod: pod(host, HOST), ..Known::default() };
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
        let mut unnamed = self.known.values().filter(|known| known.target.path.is_none()).count();
        for (&netns, pids) in &inhabited.pids {
            let is_new = !self.known.contains_key(&netns);
            if is_new && unnamed >= MOST_UNNAMED {
                continue;
            }
            unnamed += usize::from(is_new);
            let known = self.known.entry(netns).or_default();
            known.target.pid = pids.first().copied();
            if Some(netns) == host {
                continue;
            }
            known.pod.netns = netns;
            known.target.netns = netns;
            if is_new || known.asks_owner(pids) {
                // Of the first process that has one.
                let owner = pids.iter().find_map(|&pid| self.owners.known(pid));
                if !is_new && known.is_another(owner.as_ref(), pids) {
                    known.replace();
                    changes.gone.insert(netns);
                }
                known.looks = known.looks.saturating_add(1);
                known.owner = owner.or(known.owner.take());
            }
            known.pids.clone_from(pids);
            if known.rename() {
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

    /// What has to be read in this scan, never-read ones first.
    fn due(&self, deep: bool) -> Vec<Target> {
        let mut due: Vec<&Known> = self.known.values().filter(|known| known.is_due()).collect();
        due.sort_by_key(|known| known.read_at);
        let mut targets: Vec<Target> = due.iter().map(|known| known.target.clone()).collect();
        if deep {
            let more = self.oldest(REREAD);
            targets.extend(more.into_iter().filter(|target| {
                self.known.get(&target.netns).is_some_and(|known| !known.is_due())
            }));
        }
        targets
    }

    /// Those read longest ago.
    fn oldest(&self, most: usize) -> Vec<Target> {
        let mut all: Vec<&Known> = self.known.values().collect();
        all.sort_by_key(|known| known.read_at);
        all.into_iter().take(most).map(|known| known.target.clone()).collect()
    }

    /// Reads addresses and cookie; what changed is added to `changes`.
    fn read(&mut self, targets: &[Target], budget: Duration, changes: &mut Changes) {
        let answers = visit(&self.root, targets, budget, |inside| {
            let cookie = if inside.entered { cookie() } else { 0 };
            Ok((addresses::read(inside)?, cookie))
        });
        for (netns, answer) in answers {
            let Some(known) = self.known.get_mut(&netns) else { continue };
            // Also after an error: it must not be first in the row for ever.
            known.read_at = self.scans;
            known.unread = answer.as_ref().err().map(|error| format!("{error:#}"));
            match answer {
                Ok((addresses, cookie)) => {
                    known.update(addresses, cookie, changes);
                }
                // It may just have gone; the next scan tells.
                Err(error) if known.target.path.as_ref().is_some_and(|path| !path.exists()) => {
                    debug!("addresses of {}: {error:#}", known.pod.name);
                }
                Err(error) => {
                    let error = error.context(format!(
                        "the addresses of network namespace {} stay unknown",
                        known.pod.name
                    ));
                    self.warn(&error);
                }
            }
        }
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

impl Known {
    /// Whether it must be another namespace under the same number, by the processes that are in it now
    /// and their owner. A name below `/run/netns` would have kept the old one; else a process that is
    /// still there has, or the same pod's next container: its sandbox was there all the time.
    fn is_another(&self, owner: Option<&Owner>, pids: &[u32]) -> bool {
        let is_same_owner = match (&self.owner, owner) {
            (Some(old), Some(new)) => old.id == new.id,
            _ => false,
        };
        self.target.path.is_none() && !self.shares(pids) && !is_same_owner
    }

    /// Another namespace under the same number: nothing of the old one holds.
    fn replace(&mut self) {
        let target = std::mem::take(&mut self.target);
        let pod = pod(target.netns, "");
        let pids = target.pid.into_iter().collect();
        *self = Self { pod, target, pids, ..Self::default() };
    }

    /// Takes what was read, and notes what is news.
    fn update(&mut self, addresses: Vec<IpAddr>, cookie: u64, changes: &mut Changes) {
        // A namespace read through a process has no cookie: keep what is known.
        let cookie = if cookie == 0 { self.pod.cookie } else { cookie };
        if self.pod.cookie != 0 && self.pod.cookie != cookie && self.target.path.is_none() {
            self.replace();
            self.rename();
            changes.gone.insert(self.pod.netns);
        }
        if self.pod.addresses != addresses || self.pod.cookie != cookie {
            changes.up.insert(self.pod.netns);
        }
        self.pod.addresses = addresses;
        self.pod.cookie = cookie;
    }
}

#[derive(Debug, Default)]
struct Changes {
    up: BTreeSet<u32>,
    /// Told before `up`: a number in both is another namespace now.
    gone: BTreeSet<u32>,
}

fn pod(netns: u32, name: &str) -> Pod {
    Pod { netns, name: name.to_owned(), ..Pod::default() }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
