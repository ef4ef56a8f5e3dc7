//! Everything that can be said of the node's pods at one moment, for `stallprobe pods`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    net::{IpAddr, SocketAddr},
    os::{fd::AsFd as _, unix::ffi::OsStrExt as _},
    path::Path,
    time::Duration,
};

use anyhow::Result;
use log::debug;
use serde::Serialize;

use super::{
    PodTable,
    enter::{Target, file, visit},
    identity::Owners,
    links::{self, Link},
    listening::{self, Listening},
    netns,
    process::comm,
    procfs::{netns_of, numbered, pids},
};
use crate::event::{NamedBy, Sandbox};

/// How long all namespaces together may take, and before that all processes, and all addresses.
const BUDGET: Duration = Duration::from_secs(10);
/// Open files looked at of one process.
const FILES: usize = 65536;

/// A network namespace and what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Row {
    pub pod: String,
    pub named_by: Option<NamedBy>,
    /// Inode number.
    pub netns: u32,
    pub addresses: Vec<IpAddr>,
    /// Its listeners are not the kernel's but of such a sandbox: they are invisible.
    pub sandbox: Option<Sandbox>,
    /// The node's ends of its veth pairs.
    pub veth: Vec<String>,
    /// Lowest process ids first.
    pub processes: Vec<Process>,
    pub listeners: Vec<Listener>,
    /// Why the listeners' `max` is not known, if it is not.
    pub no_max: Option<&'static str>,
    /// What is missing here and why: `devices and listeners: no time was left for it`.
    pub unread: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    pub pid: u32,
    pub comm: String,
    /// Its pod if that is another name than the row's, as for hostNetwork pods.
    pub pod: Option<String>,
    /// The container's name in its pod.
    pub container: Option<String>,
    /// The same by id, also of one that is no pod's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Whether it is in a container at all.
    pub contained: bool,
    /// The systemd unit, or the cgroup, of one that is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listener {
    pub address: SocketAddr,
    /// Connections that wait for accept(), and how many may (one more than this).
    pub queue: u32,
    pub max: Option<u32>,
    /// The process with the lowest id that holds it.
    pub pid: Option<u32>,
}

/// One look at the node.
#[derive(Debug)]
pub struct Look {
    pub rows: Vec<Row>,
    /// Whether all processes were looked at. If not, namespaces without a name may be missing.
    pub complete: bool,
}

/// Looks at all namespaces of the node below `root`.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn all(root: &Path) -> Result<Look> {
    let mut table = PodTable::unhurried(root, BUDGET);
    table.scan(true);
    let host = netns::host(root).unwrap_or(0);
    let mut inside = read(root, &table.targets(), table.target(host).as_ref());
    let of_node = inside.get(&host).map(|seen| seen.links.clone()).unwrap_or_default();
    let mut living = processes(root, &inside)?;
    let mut rows = Vec::new();
    for target in table.targets() {
        let Some(pod) = table.get(target.netns) else { continue };
        let seen = inside.remove(&target.netns).unwrap_or_default();
        let listener = |one: &Listening| Listener {
            address: one.address,
            queue: one.queue,
            max: one.max,
            pid: living.holders.get(&one.ino).copied(),
        };
        let mut processes = living.by_netns.remove(&target.netns).unwrap_or_default();
        let is_node = target.netns == host;
        for process in &mut processes {
            process.pod = process.pod.take().filter(|name| is_node || *name != pod.name);
        }
        rows.push(Row {
            pod: pod.name.clone(),
            named_by: pod.named_by,
            netns: target.netns,
            addresses: pod.addresses.clone(),
            sandbox: pod.sandbox,
            veth: if is_node {
                Vec::new()
            } else {
                links::other_ends(&of_node, &seen.links, seen.node)
            },
            processes,
            listeners: seen.listeners.iter().map(listener).collect(),
            no_max: seen.no_max,
            unread: unread([
                ("addresses", table.unread(target.netns)),
                ("devices", seen.no_links),
                ("listeners", seen.no_listeners),
            ]),
        });
    }
    rows.sort_by(|a, b| (a.netns != host, &a.pod).cmp(&(b.netns != host, &b.pod)));
    Ok(Look { rows, complete: table.is_complete() })
}

/// What is missing, by reason.
fn unread<const N: usize>(parts: [(&str, Option<String>); N]) -> Option<String> {
    let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
    for (part, why) in parts {
        let Some(why) = why else { continue };
        match reasons.iter_mut().find(|(reason, _)| *reason == why) {
            Some((_, parts)) => parts.push(part),
            None => reasons.push((why, vec![part])),
        }
    }
    let line = |(why, parts): &(String, Vec<&str>)| format!("{}: {why}", parts.join(" and "));
    let lines: Vec<String> = reasons.iter().map(line).collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// What was read inside a namespace.
#[derive(Default)]
struct Seen {
    links: Vec<Link>,
    /// What it calls the node's namespace in these.
    node: Option<i32>,
    listeners: Vec<Listening>,
    /// Why the links are missing.
    no_links: Option<String>,
    no_listeners: Option<String>,
    no_max: Option<&'static str>,
}

impl Seen {
    fn nothing(why: &str) -> Self {
        let why = Some(why.to_owned());
        Self { no_links: why.clone(), no_listeners: why, ..Self::default() }
    }

    /// Takes what was read, one as well as the other.
    fn of(links: Result<Linked>, listeners: Result<Vec<Listening>>, diag: bool) -> Self {
        let split = |error: anyhow::Error| format!("{error:#}");
        let ((links, node), no_links) = halves(links.map_err(split));
        let (listeners, no_listeners) = halves(listeners.map_err(split));
        let no_max = listeners.iter().any(|one| one.max.is_none()).then_some(match diag {
            true => "the namespace may not be entered",
            false => "inet_diag or tcp_diag is not loaded, and stallprobe loads no module",
        });
        Self { links, node, listeners, no_links, no_listeners, no_max }
    }
}

fn halves<T: Default>(result: Result<T, String>) -> (T, Option<String>) {
    match result {
        Ok(found) => (found, None),
        Err(why) => (T::default(), Some(why)),
    }
}

/// Devices, and what their namespace calls the node's.
type Linked = (Vec<Link>, Option<i32>);

fn read(root: &Path, targets: &[Target], node: Option<&Target>) -> BTreeMap<u32, Seen> {
    let diag = listening::has_diag(root);
    let node = node.map(|node| file(root, node));
    let node = node.and_then(|file| file.map_err(|error| debug!("the node: {error:#}")).ok());
    let linked = || {
        let links = links::links()?;
        let id = node.as_ref().map(|node| links::nsid(node.as_fd())).transpose()?;
        anyhow::Ok((links, id.flatten()))
    };
    let answers = visit(root, targets, BUDGET, |inside| {
        let links = if inside.entered { linked() } else { Err(not_entered()) };
        Ok(Seen::of(links, listening::listening(inside, diag), diag))
    });
    let mut all: BTreeMap<u32, Seen> = BTreeMap::new();
    for target in targets {
        all.insert(target.netns, Seen::nothing("no time was left for it"));
    }
    for (netns, answer) in answers {
        all.insert(netns, answer.unwrap_or_else(|error| Seen::nothing(&format!("{error:#}"))));
    }
    all
}

fn not_entered() -> anyhow::Error {
    anyhow::anyhow!("it may not be entered")
}

/// What one pass over all processes tells.
#[derive(Default)]
struct Living {
    by_netns: BTreeMap<u32, Vec<Process>>,
    /// Who holds each of the listeners, by inode number.
    holders: HashMap<u64, u32>,
}

fn processes(root: &Path, inside: &BTreeMap<u32, Seen>) -> Result<Living> {
    let sockets: HashSet<u64> =
        inside.values().flat_map(|seen| &seen.listeners).map(|one| one.ino).collect();
    let mut owners = Owners::new(root);
    owners.begin();
    let mut living = Living::default();
    for pid in pids(root)? {
        let Some(netns) = netns_of(root, &pid.to_string()) else { continue };
        let (owner, unit) = owners.known_or_unit(pid);
        // Threads of the kernel itself are everywhere and nobody's.
        if owner.is_none() && fs::read_link(root.join(format!("proc/{pid}/exe"))).is_err() {
            continue;
        }
        // One that is no pod's stands in the place of the pod.
        let container = owner.as_ref().and_then(|owner| owner.container.clone());
        let is_pod = owner.as_ref().is_some_and(|owner| owner.pod.is_some());
        living.by_netns.entry(netns).or_default().push(Process {
            pid,
            comm: comm(root, pid).unwrap_or_default(),
            contained: owner.is_some(),
            unit,
            pod: owner.map(|owner| owner.name()),
            container_id: container.as_ref().map(|container| container.id.clone()),
            container: container.and_then(|container| container.name).filter(|_| is_pod),
        });
        for ino in open_sockets(root, pid) {
            if sockets.contains(&ino) {
                living.holders.entry(ino).or_insert(pid);
            }
        }
    }
    Ok(living)
}

fn open_sockets(root: &Path, pid: u32) -> impl Iterator<Item = u64> {
    let entries = fs::read_dir(root.join(format!("proc/{pid}/fd"))).into_iter().flatten();
    entries.take(FILES).filter_map(|entry| {
        let link = fs::read_link(entry.ok()?.path()).ok()?;
        numbered(link.as_os_str().as_bytes(), "socket")
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn this_machine() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap();
        let root = Path::new("/");
        let netns = netns_of(root, "self").unwrap();
        let Look { rows, complete } = all(root).unwrap();
        assert!(complete);
        let row = rows.iter().find(|row| row.netns == netns).unwrap();
        let me = std::process::id();
        assert!(row.processes.iter().any(|process| process.pid == me));
        let found = row.listeners.iter().find(|listener| listener.address == own).unwrap();
        assert_eq!((found.queue, found.pid), (0, Some(me)));
    }

    #[test]
    fn one_part_may_be_missing() {
        let link = Link { index: 1, name: "lo".to_owned(), peer: None };
        let seen = Seen::of(Err(not_entered()), Ok(Vec::new()), true);
        assert_eq!(seen.no_links.as_deref(), Some("it may not be entered"));
        assert_eq!(seen.no_listeners, None);
        let seen = Seen::of(Ok((vec![link.clone()], Some(3))), Err(not_entered()), true);
        assert_eq!((seen.links, seen.node, seen.no_links), (vec![link], Some(3), None));
        assert!(seen.no_listeners.is_some());
    }

    #[test]
    fn what_is_missing_and_why() {
        let why = |text: &str| Some(text.to_owned());
        assert_eq!(unread([("devices", None), ("listeners", None)]), None);
        let said =
            unread([("addresses", why("x")), ("devices", why("y")), ("listeners", why("y"))]);
        assert_eq!(said.as_deref(), Some("addresses: x; devices and listeners: y"));
    }
}
