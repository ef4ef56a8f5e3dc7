//! A stream without the names of those it is about: `--redact`. Pods, processes, nodes, addresses and
//! what was asked of DNS get other names, the same one everywhere, before anything is written. So do
//! addresses in the kernel's memory. What stays, so that correlation finds the same: causes, times and so
//! the time since boot, ports, counters, sequence numbers, process ids, the numbers of namespaces and
//! sockets, devices, and names of the kernel's own functions.
//!
//! What something becomes depends on the key and on it alone, never on what came before: recordings of
//! several nodes that are redacted with one key still fit together. Without the key nobody can tell
//! what it was; who knows the cluster may guess by shape and time.

mod address;
mod key;
mod label;
mod message;
mod name;
mod packet;
mod request;
#[cfg(test)]
pub mod tests;
mod text;
mod wire;

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, SocketAddr},
};

use self::key::{Domain, Key};
use crate::event::{
    Body, Container, Event, Hook, HookState, IpvsEntry, ListenQueue, ListenQueues, Listener, Node,
    Pod, PodChange, Process, ServerQueue, Service, Symbol, SynSent,
    armed::{Armed, Step},
};

/// Entries that one of the caches holds.
const CACHED: usize = 1 << 16;

/// Replaces what must not be told.
#[derive(Debug)]
pub struct Redactor {
    key: Key,
    /// What was computed already: a hash for each bit of an address takes its time.
    addresses: Cache<IpAddr, IpAddr>,
    labels: Cache<Vec<u8>, Vec<u8>>,
    /// Names that were replaced, to find them in text.
    names: Cache<String, String>,
    /// UDP ports that are DNS, as the stream told.
    dns_ports: Vec<u16>,
}

impl Redactor {
    /// `secret` decides what everything becomes; it should be drawn at random, and be as long as a
    /// hash (32 bytes).
    pub fn new(secret: &[u8]) -> Self {
        Self {
            key: Key::new(secret),
            addresses: Cache::default(),
            labels: Cache::default(),
            names: Cache::default(),
            dns_ports: crate::correlate::Options::default().dns_ports,
        }
    }

    /// The same event with other names. Every field is named here or in `wire`, so that a new one
    /// does not compile until somebody has thought of it.
    pub fn event(&mut self, event: Event) -> Event {
        let Event { ts, body } = event;
        let body = match body {
            Body::Listen(e) => Body::Listen(self.listen(e)),
            Body::Connect(e) => Body::Connect(self.connect(e)),
            Body::SynAck(e) => Body::SynAck(self.syn_ack(e)),
            Body::Clash(e) => Body::Clash(self.clash(e)),
            Body::TableFull(e) => Body::TableFull(e),
            Body::Drop(e) => Body::Drop(self.dropped(e)),
            Body::Dns(e) => Body::Dns(self.dns(e)),
            Body::Ipvs(e) => Body::Ipvs(self.ipvs(e)),
            Body::CtEntry(e) => Body::CtEntry(self.ct_entry(e)),
            Body::Reject(e) => Body::Reject(self.reject(e)),
            Body::Probe(e) => Body::Probe(self.probe(e)),
            Body::ProbeServer(e) => Body::ProbeServer(self.probe_server(e)),
            Body::ProbeSteps(e) => Body::ProbeSteps(self.probe_steps(e)),
            Body::Departure(e) => Body::Departure(self.departure(e)),
            Body::Packet(e) => Body::Packet(self.captured(e)),
            Body::Node(node) => Body::Node(Box::new(self.node(*node))),
            Body::Hooks(hooks) => Body::Hooks(hooks.into_iter().map(|h| self.hook(h)).collect()),
            Body::Pod(change) => Body::Pod(match change {
                PodChange::Up(pod) => PodChange::Up(self.pod(pod)),
                PodChange::Gone { netns } => PodChange::Gone { netns },
            }),
            Body::Symbol(Symbol { mut address, name }) => {
                self.pointer(&mut address);
                Body::Symbol(Symbol { address, name })
            }
            Body::Listener(Listener { ino, pid, comm }) => {
                Body::Listener(Listener { ino, pid, comm: self.process_name(&comm) })
            }
            Body::Process(process) => Body::Process(self.process(process)),
            Body::IpvsEntry(entry) => Body::IpvsEntry(self.ipvs_entry(entry)),
            Body::Armed(armed) => Body::Armed(Box::new(self.armed(*armed))),
            Body::SynSent(sent) => Body::SynSent(self.syn_sent(sent)),
            Body::ListenQueues(queues) => {
                let ListenQueues { netns, somaxconn, queues, cut } = *queues;
                let queues = queues.into_iter().map(|q| self.queue(q)).collect();
                Body::ListenQueues(Box::new(ListenQueues { netns, somaxconn, queues, cut }))
            }
            Body::ServerQueue(ServerQueue { netns, client, server, queue }) => {
                Body::ServerQueue(ServerQueue {
                    netns,
                    client: self.socket(client),
                    server: self.socket(server),
                    queue: self.queue(queue),
                })
            }
            Body::Service(service) => Body::Service(self.service(service)),
            // Numbers alone.
            body @ (Body::Tick
            | Body::Clock(_)
            | Body::Counters(_)
            | Body::LocalPorts(_)
            | Body::Sysctls(_)
            | Body::Totals(_)) => body,
        };
        Event { ts, body }
    }

    fn node(&mut self, node: Node) -> Node {
        let Node {
            version,
            name,
            kernel,
            machine,
            kube_proxy,
            netns,
            drop_reasons,
            min_stall,
            dns_ports,
            modules,
            no_ebpf,
        } = node;
        if !dns_ports.is_empty() {
            self.dns_ports.clone_from(&dns_ports);
        }
        Node {
            version,
            name: self.replaced(&name, |key| name::called(key, Domain::Node, "node", &name)),
            kernel: name::kernel(&kernel),
            machine,
            kube_proxy,
            netns,
            drop_reasons,
            min_stall,
            dns_ports,
            modules,
            no_ebpf: self.text(&no_ebpf),
        }
    }

    fn hook(&mut self, hook: Hook) -> Hook {
        let Hook { name, family, causes, state } = hook;
        let state = match state {
            HookState::Watched { rung } => HookState::Watched { rung },
            HookState::CannotHappen { why } => HookState::CannotHappen { why: self.text(&why) },
            HookState::CannotSee { why } => HookState::CannotSee { why: self.text(&why) },
        };
        Hook { name, family, causes, state }
    }

    fn pod(&mut self, pod: Pod) -> Pod {
        let Pod {
            netns,
            cookie,
            name,
            named_by,
            addresses,
            veth,
            containers,
            more_containers,
            sandbox,
        } = pod;
        Pod {
            netns,
            cookie,
            name: self.pod_name(&name),
            named_by,
            addresses: addresses.into_iter().map(|ip| self.ip(ip)).collect(),
            veth,
            containers: containers.into_iter().map(|c| self.container(c)).collect(),
            more_containers,
            sandbox,
        }
    }

    fn container(&mut self, container: Container) -> Container {
        let Container { id, name } = container;
        let name = name.map(|name| {
            self.replaced(&name, |key| name::called(key, Domain::Container, "container", &name))
        });
        Container { id: self.replaced(&id, |key| name::container_id(key, &id)), name }
    }

    fn process(&mut self, process: Process) -> Process {
        let Process { pid, pod, container, kubelet, has_kubelet, netns } = process;
        Process {
            pid,
            pod: pod.map(|name| self.pod_name(&name)),
            container: container.map(|c| self.container(c)),
            kubelet,
            has_kubelet,
            netns,
        }
    }

    fn ipvs_entry(&mut self, entry: IpvsEntry) -> IpvsEntry {
        let IpvsEntry { netns, client, service, server, state, weight } = entry;
        IpvsEntry {
            netns,
            client: self.socket(client),
            service: self.socket(service),
            server: self.socket(server),
            state,
            weight,
        }
    }

    fn armed(&mut self, armed: Armed) -> Armed {
        let Armed { set, proto, src, dst, step } = armed;
        let step = match step {
            Step::Armed { why, places, took } => Step::Armed { why: self.text(&why), places, took },
            Step::LetGo { outcome, lasted, runs, matched, spent } => {
                Step::LetGo { outcome, lasted, runs, matched, spent }
            }
            Step::Refused { why } => Step::Refused { why: self.text(&why) },
        };
        Armed { set, proto, src: self.socket(src), dst: self.socket(dst), step }
    }

    fn syn_sent(&mut self, sent: SynSent) -> SynSent {
        let SynSent { netns, client, server, retransmits, since, outcome } = sent;
        let (client, server) = (self.socket(client), self.socket(server));
        SynSent { netns, client, server, retransmits, since, outcome }
    }

    fn queue(&mut self, queue: ListenQueue) -> ListenQueue {
        let ListenQueue { address, ino, waiting } = queue;
        ListenQueue { address: self.socket(address), ino, waiting }
    }

    fn service(&mut self, service: Service) -> Service {
        let Service { proto, address, name, pid } = service;
        let name = name.map(|name| {
            self.replaced(&name, |key| name::called(key, Domain::Service, "svc", &name))
        });
        Service { proto, address: self.socket(address), name, pid }
    }

    fn pod_name(&mut self, name: &str) -> String {
        self.replaced(name, |key| name::pod(key, name))
    }

    fn process_name(&mut self, comm: &str) -> String {
        self.replaced(comm, |key| name::process(key, comm))
    }

    /// The new name, which is remembered: text may have the old one in it.
    fn replaced(&mut self, name: &str, new: impl FnOnce(&Key) -> String) -> String {
        let new = new(&self.key);
        if new != name {
            self.names.insert(name.to_owned(), new.clone());
        }
        new
    }

    fn ip(&mut self, address: IpAddr) -> IpAddr {
        let key = &self.key;
        self.addresses.get(address, |address| address::ip(key, *address))
    }

    fn socket(&mut self, mut address: SocketAddr) -> SocketAddr {
        address.set_ip(self.ip(address.ip()));
        address
    }

    fn label(&mut self, label: &mut [u8]) {
        let key = &self.key;
        label.copy_from_slice(&self.labels.get(label.to_vec(), |label| label::label(key, label)));
    }
}

/// What was computed, as long as there is room: then it begins anew.
#[derive(Debug)]
struct Cache<K, V>(HashMap<K, V>);

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    fn get(&mut self, key: K, compute: impl FnOnce(&K) -> V) -> V {
        if let Some(known) = self.0.get(&key) {
            return known.clone();
        }
        let value = compute(&key);
        self.insert(key, value.clone());
        value
    }

    fn insert(&mut self, key: K, value: V) {
        if self.0.len() >= CACHED {
            self.0.clear();
        }
        self.0.insert(key, value);
    }

    fn known(&self, key: &str) -> Option<&V>
    where
        K: std::borrow::Borrow<str>,
    {
        self.0.get(key)
    }
}
