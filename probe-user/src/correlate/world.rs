//! Everything known that is not itself a stall: names, settings, counters and the index of recent
//! evidence. Rules read it and never change it.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use probe_common::event::{
    DROP_HAS_REASON, DROP_TABLE_FULL, Drop, Header, Listen, STAGE_SYN_PRESSURE, STAGE_SYN_QUEUE,
};

use super::{
    evidence::Index,
    losses::Losses,
    pods::Pods,
    polled::Polled,
    refusals::Refusals,
    tally::{PerNetns, Tally},
    watched::{Watched, watched},
};
use crate::{
    event::{
        Body, Container, Event, Hook, Listener, LocalPorts, Node, PodChange, Process, Service,
    },
    finding::{Cause, Flow, Party},
    output::sanitize,
};

/// Names of kernel addresses and of listening sockets kept.
const NAMES: usize = 8192;

/// A listening socket: its namespace, and its inode number (its address where that is not known).
pub type ListenerKey = (u32, u64);

/// What rules look at.
#[derive(Debug, Default)]
pub struct World {
    /// Time of the latest event or tick.
    pub now: u64,
    /// Time of the first event: what existed then was reported then.
    start: Option<u64>,
    pub node: Node,
    reasons: HashMap<u32, String>,
    pub hooks: Option<Vec<Hook>>,
    pub pods: Pods,
    symbols: Bounded<u64, String>,
    listeners: Bounded<u64, Listener>,
    /// Pods of processes in the network of the node itself, and the kubelet.
    processes: Bounded<u32, Process>,
    /// Containers of processes.
    containers: Bounded<u32, Option<Container>>,
    local_ports: Bounded<u32, LocalPorts>,
    services: Bounded<(u8, SocketAddr), Service>,
    service_addresses: Bounded<IpAddr, ()>,
    /// Networks that hold addresses of services.
    service_nets: Bounded<IpAddr, ()>,
    pub counters: PerNetns,
    pub refusals: Refusals,
    pub losses: Losses,
    /// What looks at namespaces in turn showed.
    pub polled: Polled,
    pub evidence: Index,
    /// The latest overflow at each address that clients connect to.
    full: Bounded<SocketAddr, (u64, Box<Listen>)>,
    /// Overflows by listener, as delivered in detail.
    pub refused: Tally<ListenerKey>,
    /// The same for SYNs refused for want of room for half-open connections.
    half_open_full: Bounded<SocketAddr, (u64, Box<Listen>)>,
    pub half_open_refused: Tally<ListenerKey>,
    /// Packets refused by a full conntrack table, by the table's namespace and the pod (or address)
    /// that sent them.
    pub table_full: Tally<(u32, String)>,
}

/// Whether the hooks a cause needs are there; reasons in words for a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watch {
    Watched,
    CannotHappen(String),
    CannotSee(String),
}

impl World {
    /// Takes in what one event tells.
    pub fn note(&mut self, event: &Event) {
        self.now = self.now.max(event.ts);
        let start = *self.start.get_or_insert(event.ts);
        match &event.body {
            Body::Node(node) => self.node_facts(node),
            Body::Hooks(hooks) => self.hooks = Some(hooks.clone()),
            Body::Pod(change) => {
                if let PodChange::Gone { netns } = change {
                    self.counters.forget(*netns);
                    self.refusals.forget(*netns);
                    self.polled.forget(*netns);
                }
                self.pods.change(event.ts, change);
            }
            Body::Symbol(s) => self.symbols.insert(s.address, sanitize::text(&s.name)),
            Body::Listener(l) => {
                let comm = sanitize::text(&l.comm);
                self.listeners.insert(l.ino, Listener { comm, ..l.clone() });
            }
            Body::Process(p) => {
                let pod = p.pod.as_deref().map(sanitize::text);
                let container = p.container.as_ref().map(sanitize::container);
                let process = Process { pod, container: None, ..p.clone() };
                // Clients in pods are many, the kubelet is told once.
                let is_plain = process == Process { pid: p.pid, ..Process::default() };
                if !is_plain || self.processes.get(&p.pid).is_some() {
                    self.processes.insert(p.pid, process);
                }
                self.containers.insert(p.pid, container);
            }
            Body::LocalPorts(ports) => self.local_ports.insert(ports.netns, ports.clone()),
            Body::Service(s) => {
                let name = s.name.as_deref().map(sanitize::text);
                self.services.insert((s.proto, s.address), Service { name, ..s.clone() });
                self.service_addresses.insert(s.address.ip(), ());
                self.service_nets.insert(service_net(s.address.ip()), ());
            }
            Body::Counters(c) => {
                if self.polled.note(event.ts, self.counters.latest(c.netns), c) {
                    self.evidence.generation += 1;
                }
                let is_new = self.pods.since(c.netns).is_some_and(|since| since > start);
                self.counters.note(c, is_new);
                self.refusals.note(event.ts, c);
            }
            Body::ListenQueues(q) => {
                self.polled.queues_of(event.ts, q);
                self.evidence.generation += 1;
            }
            Body::Totals(t) => self.losses.note(event.ts, t),
            Body::Listen(l) if overflowed(l) => {
                self.refused.add(listener_key(l));
                self.full.insert(Flow::of(&l.tuple).dst, (event.ts, l.clone()));
            }
            Body::Listen(l) if half_open_full(l) => {
                self.half_open_refused.add(listener_key(l));
                self.half_open_full.insert(Flow::of(&l.tuple).dst, (event.ts, l.clone()));
            }
            Body::Drop(d) if d.flags & DROP_TABLE_FULL != 0 => {
                let who = self.who(Flow::of(&d.tuple).src.ip(), event.ts);
                self.table_full.add((d.header.netns, who));
            }
            _ => {}
        }
        self.evidence.note(event);
    }

    fn node_facts(&mut self, node: &Node) {
        self.node = Node {
            name: sanitize::text(&node.name),
            kernel: sanitize::text(&node.kernel),
            ..node.clone()
        };
        self.reasons = node
            .drop_reasons
            .iter()
            .map(|(value, name)| {
                (*value, sanitize::text(name.trim_start_matches("SKB_DROP_REASON_")))
            })
            .collect();
    }

    pub fn forget(&mut self) {
        self.evidence.forget(self.now);
        self.pods.forget(self.now);
    }

    /// Name of a drop's reason; `None` where the kernel gives none.
    pub fn reason(&self, drop: &Drop) -> Option<String> {
        if drop.flags & DROP_HAS_REASON == 0 {
            return None;
        }
        let name = self.reasons.get(&drop.reason).cloned();
        Some(name.unwrap_or_else(|| format!("reason {}", drop.reason)))
    }

    /// Place of a drop: `nf_hook_slow+0x7b`, or the address when kallsyms gave no name.
    pub fn symbol(&self, address: u64) -> String {
        self.symbols.get(&address).cloned().unwrap_or_else(|| format!("{address:#x}"))
    }

    /// The function a drop's location lies in, without offset and module.
    pub fn function(&self, address: u64) -> Option<&str> {
        self.symbols.get(&address)?.split(['+', ' ']).next()
    }

    /// The latest refusal by a full listener with this address, when it was not before `since`.
    pub fn overflow_at(&self, address: SocketAddr, since: u64) -> Option<(u64, &Listen)> {
        let (ts, listen) = self.full.get(&address)?;
        (*ts >= since).then_some((*ts, listen))
    }

    /// The same for a listener without room for half-open connections.
    pub fn half_open_full_at(&self, address: SocketAddr, since: u64) -> Option<(u64, &Listen)> {
        let (ts, listen) = self.half_open_full.get(&address)?;
        (*ts >= since).then_some((*ts, listen))
    }

    /// Source ports of a namespace's own connections, where they were looked up.
    pub fn local_ports(&self, netns: u32) -> Option<&LocalPorts> {
        self.local_ports.get(&netns)
    }

    /// The service with this very address and port, as pods know it.
    pub fn service(&self, proto: u8, address: SocketAddr) -> Option<&Service> {
        self.services.get(&(proto, address))
    }

    /// Whether an address is near those of known services, so that it is likely one, and not one
    /// of theirs: all their ports are known.
    pub fn is_near_services(&self, address: IpAddr) -> bool {
        self.service_nets.get(&service_net(address)).is_some()
            && self.service_addresses.get(&address).is_none()
    }

    pub fn listener(&self, ino: u64) -> Option<&Listener> {
        if ino == 0 { None } else { self.listeners.get(&ino) }
    }

    /// The same with the pod's name where a process of the node's own network is a pod's.
    pub fn by_process(&self, party: Party) -> Party {
        let is_host = party.pod.as_deref() == Some("host");
        let owner = party.pid.filter(|_| is_host).and_then(|pid| self.processes.get(&pid));
        match owner.and_then(|process| process.pod.clone()) {
            Some(pod) => Party { pod: Some(pod), ..party },
            None => party,
        }
    }

    /// The same with its containers at that time, of which one may fit a filter, and where its name is
    /// from.
    pub fn contained(&self, party: Party, ts: u64) -> Party {
        let of_process = party.pid.and_then(|pid| self.containers.get(&pid)?.clone());
        let pod = || party.netns.and_then(|netns| self.pods.at(netns, 0, ts));
        let (containers, more_containers) = match of_process {
            Some(container) => {
                let is_nameless = container.name.is_none();
                (vec![container], is_nameless)
            }
            None => {
                pod().map(|pod| (pod.containers.clone(), pod.more_containers)).unwrap_or_default()
            }
        };
        let is_its = |name: &String| pod().filter(|pod| pod.name == *name);
        let named_by = party.pod.as_ref().and_then(is_its).and_then(|pod| pod.named_by);
        Party { containers, more_containers, named_by, ..party }
    }

    /// What is known of a process of the node's own network, or of a node that is a container.
    pub fn process(&self, pid: u32) -> Option<&Process> {
        self.processes.get(&pid)
    }

    /// Name of the namespace an event happened in.
    pub fn place(&self, header: &Header, ts: u64) -> String {
        self.pods.name(header.netns, header.cookie, ts)
    }

    /// The pod with this address, else the address itself.
    pub fn who(&self, address: IpAddr, ts: u64) -> String {
        self.pods.owner(address, ts).map_or_else(|| address.to_string(), |pod| pod.name.clone())
    }

    /// The party behind an address; `port` where it means something to the reader.
    pub fn party(&self, address: IpAddr, port: Option<u16>, ts: u64) -> Party {
        let pod = self.pods.owner(address, ts);
        Party {
            pod: pod.map(|p| p.name.clone()),
            netns: pod.map(|p| p.netns),
            address: Some(address),
            port,
            ..Party::default()
        }
    }

    /// Whether the hooks this cause needs are attached.
    pub fn watch(&self, cause: Cause) -> Watch {
        let Some(hooks) = &self.hooks else {
            return Watch::CannotSee("it is not known which hooks are attached".to_owned());
        };
        match watched(hooks, cause.id()) {
            Watched::Yes => Watch::Watched,
            Watched::CannotHappen(why) => Watch::CannotHappen(sanitize::text(why)),
            Watched::CannotSee(hook, why) => {
                let (name, why) = (sanitize::text(&hook.name), sanitize::text(why));
                Watch::CannotSee(format!("{name} is not watched: {why}"))
            }
            Watched::NoHook => Watch::CannotSee("no hook watches it".to_owned()),
        }
    }
}

/// The network in which other services are expected beside one: an IPv4 /20, for clusters that carve
/// services, nodes and pods out of one /16; an IPv6 /108 (the largest that kube-apiserver takes).
fn service_net(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) & 0xffff_f000).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 20 << 20).into(),
    }
}

/// `sk_acceptq_is_full`: the comparison is `>` in all versions (include/net/sock.h).
pub fn overflowed(listen: &Listen) -> bool {
    listen.ack_backlog > listen.max_ack_backlog && !half_open_full(listen)
}

/// The SYN was refused for want of room for another half-open connection.
pub fn half_open_full(listen: &Listen) -> bool {
    matches!(listen.stage, STAGE_SYN_QUEUE | STAGE_SYN_PRESSURE)
}

pub fn listener_key(listen: &Listen) -> ListenerKey {
    (listen.header.netns, if listen.ino == 0 { listen.sk } else { listen.ino })
}

/// A map that forgets its oldest entry when it is full.
#[derive(Debug)]
struct Bounded<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Eq + std::hash::Hash + Copy, V> Bounded<K, V> {
    fn insert(&mut self, key: K, value: V) {
        if self.map.insert(key, value).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > NAMES
            && let Some(oldest) = self.order.pop_front()
        {
            self.map.remove(&oldest);
        }
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.map.get(key)
    }
}
