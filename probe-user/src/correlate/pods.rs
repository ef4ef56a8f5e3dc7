//! Which pod a network namespace or an address belonged to at a given time. Inode numbers are
//! handed out again soon after a namespace is gone, so every name has a span of time.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

use crate::{
    event::{Container, Pod, PodChange, Sandbox},
    output::sanitize,
};

/// How long a pod that is gone stays known.
const REMEMBERED: u64 = 300_000_000_000;
/// How long after an event its namespace may first be reported.
const REPORT_DELAY: u64 = 5_000_000_000;
/// Spans of names kept, over all pods.
const CAPACITY: usize = 8192;
/// Bytes of them: a recording that nobody's stallprobe wrote may have pods of any size.
const ROOM: usize = 64 << 20;
/// Addresses of one pod that are looked up.
const ADDRESSES: usize = 64;

#[derive(Debug)]
struct Span {
    pod: Pod,
    from: u64,
    gone: Option<u64>,
    /// Addresses it had and has no more, and since when: a pod that is taken down loses its
    /// interfaces first.
    lost: Vec<(IpAddr, u64)>,
}

impl Span {
    /// Takes over a new report of the same namespace.
    fn renew(&mut self, ts: u64, pod: &Pod) {
        let old = std::mem::replace(&mut self.pod, pod.clone());
        self.lost.retain(|(address, _)| !has(pod, *address));
        let lost = old.addresses.into_iter().map(|address| address.to_canonical());
        self.lost.extend(lost.filter(|address| !has(pod, *address)).map(|address| (address, ts)));
        self.lost.truncate(ADDRESSES);
    }

    /// Since when it has not had an address that it had before; `None` when it never had it,
    /// `Some(None)` when it has it still.
    fn without(&self, address: IpAddr) -> Option<Option<u64>> {
        if has(&self.pod, address) {
            return Some(self.gone);
        }
        self.lost.iter().find(|(lost, _)| *lost == address).map(|(_, since)| Some(*since))
    }
}

/// Bytes of what is kept of it, more or less.
fn size_of_pod(pod: &Pod) -> usize {
    let lists = size_of_val(&pod.addresses[..]) + size_of_val(&pod.veth[..]);
    let of = |c: &Container| c.id.len() + c.name.as_ref().map_or(0, String::len) + size_of_val(c);
    size_of::<Span>() + pod.name.len() + lists + pod.containers.iter().map(of).sum::<usize>()
}

/// The pod table with its recent past.
#[derive(Debug, Default)]
pub struct Pods {
    /// By inode number, oldest span first.
    spans: HashMap<u32, VecDeque<Span>>,
    by_address: HashMap<IpAddr, Vec<u32>>,
    /// By the index of the node's end of a veth pair.
    by_veth: HashMap<u32, Vec<u32>>,
    count: usize,
    /// Bytes of all spans, more or less.
    size: usize,
    /// Pods there was no room for.
    pub left_out: u64,
}

impl Pods {
    pub fn change(&mut self, ts: u64, change: &PodChange) {
        match change {
            PodChange::Up(pod) => self.up(ts, pod),
            PodChange::Gone { netns } => {
                if let Some(span) = self.spans.get_mut(netns).and_then(VecDeque::back_mut) {
                    span.gone.get_or_insert(ts);
                }
            }
        }
    }

    fn up(&mut self, ts: u64, pod: &Pod) {
        let containers = pod.containers.iter().map(sanitize::container).collect();
        let pod = Pod { name: sanitize::text(&pod.name), containers, ..pod.clone() };
        let size = size_of_pod(&pod);
        if let Some(last) = self.spans.get_mut(&pod.netns).and_then(VecDeque::back_mut) {
            if last.gone.is_none() && is_same(&last.pod, &pod) {
                let others = self.size - size_of_pod(&last.pod);
                if others + size > ROOM {
                    self.left_out += 1;
                    return;
                }
                self.size = others + size;
                last.renew(ts, &pod);
                self.index(&pod);
                return;
            }
            last.gone.get_or_insert(ts);
        }
        if self.count >= CAPACITY || self.size + size > ROOM {
            self.left_out += 1;
            return;
        }
        self.size += size;
        self.index(&pod);
        self.spans.entry(pod.netns).or_default().push_back(Span {
            pod,
            from: ts,
            gone: None,
            lost: Vec::new(),
        });
        self.count += 1;
    }

    fn index(&mut self, pod: &Pod) {
        for address in pod.addresses.iter().take(ADDRESSES) {
            let owners = self.by_address.entry(address.to_canonical()).or_default();
            if !owners.contains(&pod.netns) {
                owners.push(pod.netns);
            }
        }
        for ifindex in pod.veth.iter().take(ADDRESSES) {
            let there = self.by_veth.entry(*ifindex).or_default();
            if !there.contains(&pod.netns) {
                there.push(pod.netns);
            }
        }
        if self.by_address.len().max(self.by_veth.len()) > CAPACITY * ADDRESSES {
            self.unindex();
        }
    }

    /// Drops addresses that no known pod has any more.
    fn unindex(&mut self) {
        let spans = &self.spans;
        self.by_address.retain(|address, owners| {
            owners.retain(|netns| {
                spans.get(netns).is_some_and(|s| s.iter().any(|s| s.without(*address).is_some()))
            });
            !owners.is_empty()
        });
        self.by_veth.retain(|ifindex, there| {
            there.retain(|netns| {
                spans.get(netns).is_some_and(|s| s.iter().any(|s| s.pod.veth.contains(ifindex)))
            });
            !there.is_empty()
        });
    }

    /// Forgets pods that are gone for long.
    pub fn forget(&mut self, now: u64) {
        let before = self.count;
        self.spans.retain(|_, spans| {
            while spans.front().and_then(|s| s.gone).is_some_and(|t| t + REMEMBERED < now) {
                let span = spans.pop_front();
                self.size -= span.map_or(0, |span| size_of_pod(&span.pod));
                self.count -= 1;
            }
            !spans.is_empty()
        });
        if self.count != before {
            self.unindex();
        }
    }

    /// The pod that namespace was at that time. `cookie` is the kernel's own unique number of the
    /// namespace, 0 when not known.
    pub fn at(&self, netns: u32, cookie: u64, ts: u64) -> Option<&Pod> {
        let spans = self.spans.get(&netns)?;
        if cookie != 0
            && let Some(span) = spans.iter().find(|s| s.pod.cookie == cookie)
        {
            return Some(&span.pod);
        }
        let fits = |s: &&Span| cookie == 0 || s.pod.cookie == 0 || s.pod.cookie == cookie;
        let now = spans.iter().rev().filter(fits).find(|s| s.from <= ts);
        let next = spans
            .iter()
            .filter(fits)
            .find(|s| s.from > ts && s.from - ts <= REPORT_DELAY)
            .map(|s| &s.pod);
        match now {
            Some(span) if span.gone.is_none_or(|gone| ts <= gone) => match next {
                // A namespace may be seen before its name is known.
                Some(named) if !span.pod.is_named() => Some(named),
                _ => Some(&span.pod),
            },
            // Between two pods: events of the new one may come before its report.
            Some(span) => Some(next.unwrap_or(&span.pod)),
            None => next,
        }
    }

    /// The one pod that had this address at that time; `None` when none or several had it.
    pub fn owner(&self, address: IpAddr, ts: u64) -> Option<&Pod> {
        let address = address.to_canonical();
        let mut owners = self
            .by_address
            .get(&address)?
            .iter()
            .filter_map(|netns| self.at(*netns, 0, ts))
            .filter(|pod| has(pod, address));
        let first = owners.next()?;
        owners.next().is_none().then_some(first)
    }

    /// The one pod whose veth pair had this end on the node at that time.
    pub fn behind(&self, ifindex: u32, ts: u64) -> Option<&Pod> {
        if ifindex == 0 {
            return None;
        }
        let there = self.by_veth.get(&ifindex)?.iter();
        let mut pods = there.filter_map(|netns| self.at(*netns, 0, ts));
        let first = pods.find(|pod| pod.veth.contains(&ifindex))?;
        pods.all(|pod| !pod.veth.contains(&ifindex)).then_some(first)
    }

    /// Its name.
    pub fn owner_name(&self, address: IpAddr, ts: u64) -> Option<String> {
        self.owner(address, ts).map(|pod| pod.name.clone())
    }

    /// The pod of this node that had this address and had it no more at that time, and since when;
    /// `None` when some pod has it, or none is known to have had it.
    pub fn gone(&self, address: IpAddr, ts: u64) -> Option<(&Pod, u64)> {
        let address = address.to_canonical();
        let spans = self.by_address.get(&address)?.iter().filter_map(|n| self.spans.get(n));
        let had = || {
            let all = spans.clone().flatten();
            all.filter_map(|span| Some((&span.pod, span.without(address)?)))
        };
        if had().any(|(_, since)| since.is_none_or(|since| since > ts)) {
            return None;
        }
        had().filter_map(|(pod, since)| Some((pod, since?))).max_by_key(|(_, since)| *since)
    }

    /// Name for a namespace: the pod's, else `netns:INODE`.
    pub fn name(&self, netns: u32, cookie: u64, ts: u64) -> String {
        self.at(netns, cookie, ts).map_or_else(|| format!("netns:{netns}"), |pod| pod.name.clone())
    }

    /// When the namespace that has this number now was first reported.
    pub fn since(&self, netns: u32) -> Option<u64> {
        self.spans.get(&netns)?.back().map(|span| span.from)
    }

    /// Those that exist now and whose sockets are invisible, by name.
    pub fn sandboxed(&self) -> Vec<(String, Sandbox)> {
        let alive =
            self.spans.values().filter_map(|spans| spans.back().filter(|s| s.gone.is_none()));
        let mut all: Vec<_> =
            alive.filter_map(|span| Some((span.pod.name.clone(), span.pod.sandbox?))).collect();
        all.sort();
        all
    }

    /// How many pods exist now, the host not counted.
    pub fn alive(&self) -> usize {
        let alive = |s: &&VecDeque<Span>| {
            s.back().is_some_and(|s| s.gone.is_none() && s.pod.name != "host")
        };
        self.spans.values().filter(alive).count()
    }
}

fn has(pod: &Pod, address: IpAddr) -> bool {
    pod.addresses.iter().any(|a| a.to_canonical() == address)
}

/// Whether a report is of the namespace already known, and only its name or addresses changed.
fn is_same(old: &Pod, new: &Pod) -> bool {
    match (old.cookie, new.cookie) {
        (0, _) | (_, 0) => old.name == new.name || !old.is_named(),
        (old, new) => old == new,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const S: u64 = 1_000_000_000;

    fn pod(netns: u32, cookie: u64, name: &str, address: &str) -> PodChange {
        let addresses = vec![address.parse().unwrap()];
        PodChange::Up(Pod { netns, cookie, name: name.to_owned(), addresses, ..Pod::default() })
    }

    fn name(pods: &Pods, netns: u32, ts: u64) -> &str {
        pods.at(netns, 0, ts).map_or("", |p| &p.name)
    }

    #[test]
    fn a_reused_inode_names_only_later_events_anew() {
        let mut pods = Pods::default();
        pods.change(10 * S, &pod(7, 0, "old", "10.0.0.1"));
        pods.change(20 * S, &PodChange::Gone { netns: 7 });
        pods.change(30 * S, &pod(7, 0, "new", "10.0.0.2"));
        assert_eq!(name(&pods, 7, 15 * S), "old");
        assert_eq!(name(&pods, 7, 22 * S), "old");
        assert_eq!(name(&pods, 7, 29 * S), "new");
        assert_eq!(name(&pods, 7, 31 * S), "new");
        assert_eq!(pods.owner("10.0.0.1".parse().unwrap(), 15 * S).unwrap().name, "old");
        assert_eq!(pods.owner("10.0.0.1".parse().unwrap(), 31 * S), None);
        assert_eq!(pods.alive(), 1);
    }

    #[test]
    fn a_reused_inode_without_a_gone_is_told_by_its_name_or_cookie() {
        let mut pods = Pods::default();
        pods.change(10 * S, &pod(7, 1, "same-name", "10.0.0.1"));
        pods.change(30 * S, &pod(7, 2, "same-name", "10.0.0.9"));
        let old = pods.at(7, 1, 40 * S).unwrap();
        assert_eq!(old.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        pods.change(50 * S, &pod(8, 0, "a", "10.0.0.2"));
        pods.change(60 * S, &pod(8, 0, "b", "10.0.0.2"));
        assert_eq!(name(&pods, 8, 55 * S), "a");
        assert_eq!(name(&pods, 8, 65 * S), "b");
    }

    #[test]
    fn a_name_learnt_late_holds_for_the_whole_namespace() {
        let mut pods = Pods::default();
        pods.change(10 * S, &pod(7, 0, "netns:7", "10.0.0.1"));
        pods.change(30 * S, &pod(7, 0, "web", "10.0.0.1"));
        assert_eq!(name(&pods, 7, 12 * S), "web");
    }

    #[test]
    fn the_gone_are_forgotten_after_five_minutes() {
        let mut pods = Pods::default();
        pods.change(10 * S, &pod(7, 0, "old", "10.0.0.1"));
        pods.change(20 * S, &PodChange::Gone { netns: 7 });
        pods.forget(319 * S);
        assert_eq!(name(&pods, 7, 15 * S), "old");
        pods.forget(321 * S);
        assert_eq!(name(&pods, 7, 15 * S), "");
        assert_eq!(pods.name(7, 0, 15 * S), "netns:7");
        assert!(pods.by_address.is_empty());
    }

    #[test]
    fn an_address_is_gone_when_nobody_has_it_any_more() {
        let address = "10.0.0.1".parse().unwrap();
        let gone = |pods: &Pods, ts| pods.gone(address, ts).map(|(p, at)| (p.name.clone(), at / S));
        let mut pods = Pods::default();
        assert_eq!(gone(&pods, 10 * S), None, "never heard of");
        pods.change(10 * S, &pod(7, 0, "old", "10.0.0.1"));
        assert_eq!(gone(&pods, 15 * S), None);
        pods.change(20 * S, &PodChange::Gone { netns: 7 });
        assert_eq!(gone(&pods, 19 * S), None, "not yet");
        assert_eq!(gone(&pods, 21 * S), Some(("old".to_owned(), 20)));
        // Its successor has it again.
        pods.change(30 * S, &pod(8, 0, "new", "10.0.0.1"));
        assert_eq!(gone(&pods, 31 * S), None);
        // A pod that is taken down loses its interface before its namespace.
        pods.change(40 * S, &pod(8, 0, "new", "10.0.0.8"));
        assert_eq!(gone(&pods, 41 * S), Some(("new".to_owned(), 40)));
        pods.change(50 * S, &pod(8, 0, "new", "10.0.0.1"));
        assert_eq!(gone(&pods, 51 * S), None);
    }

    #[test]
    fn the_pod_behind_a_device_of_the_node() {
        let up = |netns, name: &str, veth: u32| {
            let pod = Pod { netns, name: name.to_owned(), veth: vec![veth], ..Pod::default() };
            PodChange::Up(pod)
        };
        let behind = |pods: &Pods, ts| pods.behind(9, ts).map(|pod| pod.name.clone());
        let mut pods = Pods::default();
        assert_eq!(behind(&pods, 10 * S), None);
        pods.change(10 * S, &up(7, "old", 9));
        pods.change(10 * S, &up(6, "other", 8));
        assert_eq!(behind(&pods, 15 * S).as_deref(), Some("old"));
        pods.change(20 * S, &PodChange::Gone { netns: 7 });
        pods.change(30 * S, &up(7, "new", 9));
        assert_eq!(behind(&pods, 15 * S).as_deref(), Some("old"));
        assert_eq!(behind(&pods, 31 * S).as_deref(), Some("new"));
        pods.change(40 * S, &up(5, "same", 9));
        assert_eq!(behind(&pods, 45 * S), None, "of two pods it names neither");
        for netns in [5, 7, 6] {
            pods.change(50 * S, &PodChange::Gone { netns });
        }
        pods.forget(900 * S);
        assert!(pods.by_veth.is_empty() && behind(&pods, 31 * S).is_none());
    }

    #[test]
    fn an_address_of_two_pods_names_neither() {
        let mut pods = Pods::default();
        pods.change(10 * S, &pod(7, 0, "a", "10.0.0.1"));
        pods.change(10 * S, &pod(8, 0, "b", "10.0.0.1"));
        assert_eq!(pods.owner("10.0.0.1".parse().unwrap(), 15 * S), None);
    }
}
