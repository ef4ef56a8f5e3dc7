//! What is known of one network namespace, and when to look at it again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use super::{
    cni,
    enter::Target,
    identity::{Id, Owner, Owners},
    naming,
    procfs::netns_of,
};
use crate::event::{Container, Pod};

/// Whether to look once more at what came `n` scans ago: ever more seldom, for the files of a pod come
/// some time after it, and mostly soon.
fn is_turn(n: u32) -> bool {
    n <= 64 && n.is_power_of_two()
}

/// A network namespace.
#[derive(Debug, Default)]
pub struct Known {
    pub pod: Pod,
    pub target: Target,
    pub stamp: (i64, i64),
    /// Its `ip netns` name.
    pub given: Option<String>,
    /// Some of the processes that were in it at the last deep scan.
    pub pids: BTreeMap<u32, Resident>,
    pub owner: Option<Owner>,
    /// Its own host name.
    pub hostname: Option<String>,
    /// Passes that found processes in it, since it appeared, was replaced or something happened in it.
    pub looks: u32,
    /// The owner was told by some of its processes, when a look did not reach all.
    pub is_doubtful: bool,
    /// Scans since it appeared or was replaced. Addresses come some time after the namespace, so
    /// it is read again at ages 1, 2, 4 … 64.
    pub age: u32,
    /// The count of scans when it was read last; 0 when it never was.
    pub read_at: u64,
    /// Why that failed.
    pub unread: Option<String>,
}

/// A process in it.
#[derive(Debug, Default)]
pub struct Resident {
    container: Option<Container>,
    /// Passes that found it here.
    passes: u32,
    /// No runtime has written anything of its container yet.
    is_missed: bool,
}

impl Resident {
    /// Asks for the container, again in the passes 2, 4 … 64 while its name is unknown: a runtime's files
    /// come some time after the first process.
    fn ask(&mut self, pid: u32, owners: &mut Owners) {
        self.passes = self.passes.saturating_add(1);
        let has_name = self.container.as_ref().is_some_and(|container| container.name.is_some());
        if !has_name && is_turn(self.passes) {
            self.container = owners.known(pid).and_then(|owner| owner.container);
            self.is_missed = self.container.as_ref().is_some_and(|one| owners.misses(one));
        }
    }
}

impl Known {
    pub fn is_due(&self) -> bool {
        self.read_at == 0 || is_turn(self.age)
    }

    /// Whether to look for the node's ends of its veth pairs. A list of devices costs more than all else
    /// that is read, and mostly a pair stays for as long as its pod; but another may come some time after
    /// the first (Multus), or replace it.
    pub fn wants_veth(&self) -> bool {
        self.pod.veth.is_empty() || self.is_due()
    }

    /// Whether to look for its owner, in the pass that found these processes in it. A container's files
    /// come some time after its first process. If none of the processes is left that were in it before,
    /// it may be another namespace under the same number. What some of its processes told is asked again
    /// of all of them: one of another pod may have entered it.
    pub fn asks_owner(&self, pids: &[u32], is_complete: bool) -> bool {
        let is_known = self
            .owner
            .as_ref()
            .is_some_and(|owner| owner.pod.is_some() || matches!(owner.id, Id::Container(_)));
        let is_sure = !(is_complete && self.is_doubtful);
        (!is_known && is_turn(self.looks)) || !is_sure || !self.shares(pids)
    }

    /// Whether the process known to live in it still does.
    pub fn has_process(&self, root: &Path) -> bool {
        let netns_of = |pid: u32| netns_of(root, &pid.to_string());
        self.target.pid.and_then(netns_of).is_some_and(|netns| netns == self.target.netns)
    }

    /// Whether one of these processes was in it at the last deep scan.
    pub fn shares(&self, pids: &[u32]) -> bool {
        pids.iter().any(|pid| self.pids.contains_key(pid))
    }

    /// These processes of it, and those that were in it before and are still there: for a look that did
    /// not reach all processes.
    pub fn with_those_left(&self, pids: &[u32], netns: u32, root: &Path) -> Vec<u32> {
        let known = self.pids.keys().copied().filter(|pid| !pids.contains(pid));
        let left = known.filter(|pid| netns_of(root, &pid.to_string()) == Some(netns));
        left.chain(pids.iter().copied()).collect::<BTreeSet<u32>>().into_iter().collect()
    }

    /// Notes the processes that are in it now; `crowded` when some are left out. `true` when other things
    /// are known of its containers than before.
    pub fn move_in(&mut self, pids: &[u32], crowded: bool, owners: &mut Owners) -> bool {
        let mut before = std::mem::take(&mut self.pids);
        for &pid in pids {
            let mut resident = before.remove(&pid).unwrap_or_default();
            resident.ask(pid, owners);
            self.pids.insert(pid, resident);
        }
        let containers = self.pids.values().filter_map(|resident| resident.container.as_ref());
        let all: BTreeSet<&Container> = containers.collect();
        let more = crowded || self.pids.values().any(|resident| resident.is_missed);
        let is_news =
            more != self.pod.more_containers || !all.iter().copied().eq(&self.pod.containers);
        if is_news {
            self.pod.containers = all.into_iter().cloned().collect();
            self.pod.more_containers = more;
        }
        is_news
    }

    /// Whether nothing is known of it but a number, so that its host name would tell more.
    pub fn wants_hostname(&self) -> bool {
        self.hostname.is_none()
            && naming::wants_hostname(self.given.as_deref(), self.owner.as_ref())
    }

    /// Calls it by the best name; `true` when that is another one.
    pub fn rename(&mut self) -> bool {
        let (given, hostname) = (self.given.as_deref(), self.hostname.as_deref());
        let (name, by) = naming::name(self.pod.netns, given, self.owner.as_ref(), hostname);
        self.pod.named_by = Some(by);
        let sandbox = self.owner.as_ref().and_then(|owner| owner.sandbox);
        let is_new = (&self.pod.name, self.pod.sandbox) != (&name, sandbox);
        self.pod.name = name;
        self.pod.sandbox = sandbox;
        is_new
    }

    /// Whether it must be another namespace under the same number, by the processes that are in it now
    /// and their owner. A name below `/run/netns` would have kept the old one; else a process that is
    /// still there has, or the same pod's next container: its sandbox was there all the time.
    pub fn is_another(&self, owner: Option<&Owner>, pids: &[u32]) -> bool {
        let is_same_owner = match (&self.owner, owner) {
            (Some(old), Some(new)) => old.id == new.id,
            _ => false,
        };
        self.target.path.is_none() && !self.shares(pids) && !is_same_owner
    }

    /// Another namespace under the same number: nothing of the old one holds.
    pub fn replace(&mut self) {
        let target = std::mem::take(&mut self.target);
        let pod = pod(target.netns, "");
        let mut pids = std::mem::take(&mut self.pids);
        pids.retain(|&pid, _| Some(pid) == target.pid);
        *self = Self { pod, target, pids, ..Self::default() };
    }

    /// What CNI plugins gave to its sandbox, for a namespace without addresses of its own.
    pub fn given_addresses(&self, root: &Path) -> Vec<IpAddr> {
        // Only containers in the sandbox have names.
        let sandbox = self.pod.containers.iter().find(|container| container.name.is_none());
        sandbox.map(|sandbox| cni::addresses(root, &sandbox.id)).unwrap_or_default()
    }

    /// Takes what was read, and notes what is news.
    pub fn update(&mut self, addresses: Vec<IpAddr>, cookie: u64, changes: &mut Changes) {
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
pub struct Changes {
    pub up: BTreeSet<u32>,
    /// Told before `up`: a number in both is another namespace now.
    pub gone: BTreeSet<u32>,
}

pub fn pod(netns: u32, name: &str) -> Pod {
    Pod { netns, name: name.to_owned(), ..Pod::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multus adds its device after the first one was seen.
    #[test]
    fn veth_ends_are_looked_for_again() {
        let mut known = Known { read_at: 1, age: 3, ..Known::default() };
        assert!(known.wants_veth(), "none is known");
        known.pod.veth = vec![7];
        let asks =
            |age: &u32| Known { age: *age, pod: known.pod.clone(), ..known_of(1) }.wants_veth();
        let ages: Vec<u32> = (1..200).filter(asks).collect();
        assert_eq!(ages, [1, 2, 4, 8, 16, 32, 64]);
        assert!(Known { pod: known.pod.clone(), ..known_of(0) }.wants_veth(), "replaced");
    }

    fn known_of(read_at: u64) -> Known {
        Known { read_at, ..Known::default() }
    }
}
