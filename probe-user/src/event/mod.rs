//! The one stream everything is concluded from: what the kernel told us, and what the loader read
//! from it. Correlation sees nothing else, so a recording of this stream replays to the same
//! findings.

pub mod armed;
pub mod decode;

use std::net::{IpAddr, SocketAddr};

use probe_common::event::{
    Clash, Connect, CtEntry, Departure, Dns, Drop, Header, Ipvs, Listen, Packet, Probe,
    ProbeServer, ProbeSteps, Reject, SynAck, TableFull,
};
use serde::{Deserialize, Serialize};

/// One event with its place in time.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    pub ts: u64,
    pub body: Body,
}

/// What happened. In a recording the loader's own are JSON, by the names of their variants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Body {
    // From the kernel side, one for each wire struct; `header.kind` tells kinds that share a
    // struct apart.
    #[serde(skip)]
    Listen(Box<Listen>),
    #[serde(skip)]
    Connect(Box<Connect>),
    #[serde(skip)]
    SynAck(Box<SynAck>),
    #[serde(skip)]
    Clash(Box<Clash>),
    #[serde(skip)]
    TableFull(Box<TableFull>),
    #[serde(skip)]
    Drop(Box<Drop>),
    #[serde(skip)]
    Dns(Box<Dns>),
    #[serde(skip)]
    Ipvs(Box<Ipvs>),
    #[serde(skip)]
    CtEntry(Box<CtEntry>),
    #[serde(skip)]
    Reject(Box<Reject>),
    #[serde(skip)]
    Probe(Box<Probe>),
    #[serde(skip)]
    ProbeServer(Box<ProbeServer>),
    #[serde(skip)]
    Packet(Box<Packet>),
    #[serde(skip)]
    ProbeSteps(Box<ProbeSteps>),
    #[serde(skip)]
    Departure(Box<Departure>),
    // From the loader.
    /// All kernel events up to `Event::ts` have been delivered (the watermark).
    #[serde(skip)]
    Tick,
    Clock(Clock),
    Node(Box<Node>),
    Hooks(Vec<Hook>),
    Sysctls(Sysctls),
    Pod(PodChange),
    Symbol(Symbol),
    Listener(Listener),
    Process(Process),
    Counters(Counters),
    IpvsEntry(IpvsEntry),
    LocalPorts(LocalPorts),
    Armed(Box<armed::Armed>),
    SynSent(SynSent),
    ListenQueues(Box<ListenQueues>),
    ServerQueue(ServerQueue),
    Service(Service),
    Totals(Box<Totals>),
}

impl Event {
    /// The header of an event of the kernel side; `None` for the loader's own.
    pub fn header(&self) -> Option<&Header> {
        Some(match &self.body {
            Body::Listen(e) => &e.header,
            Body::Connect(e) => &e.header,
            Body::SynAck(e) => &e.header,
            Body::Clash(e) => &e.header,
            Body::TableFull(e) => &e.header,
            Body::Drop(e) => &e.header,
            Body::Dns(e) => &e.header,
            Body::Ipvs(e) => &e.header,
            Body::CtEntry(e) => &e.header,
            Body::Reject(e) => &e.header,
            Body::Probe(e) => &e.header,
            Body::ProbeServer(e) => &e.header,
            Body::Packet(e) => &e.header,
            Body::ProbeSteps(e) => &e.header,
            Body::Departure(e) => &e.header,
            _ => return None,
        })
    }
}

/// A pair of clocks read at the same moment, to print boot time as wall time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Nanoseconds since the Unix epoch, UTC.
    pub wall: u64,
}

/// Facts of the node that findings and the header speak of. Sent once at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// stallprobe's own version.
    pub version: String,
    pub name: String,
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`; empty in a stream that does not tell.
    #[serde(default)]
    pub machine: String,
    /// "iptables", "ipvs", "nftables", or empty when no kube-proxy was recognised.
    pub kube_proxy: String,
    /// Inode number of the namespace stallprobe runs in (the host's).
    pub netns: u32,
    /// Names of `enum skb_drop_reason` of the running kernel with their values; empty on kernels
    /// without drop reasons.
    pub drop_reasons: Vec<(u32, String)>,
    /// Nanoseconds from which a lookup or handshake counts as a stall.
    pub min_stall: u64,
    /// UDP ports that are DNS; empty in a stream that does not tell.
    #[serde(default)]
    pub dns_ports: Vec<u16>,
    /// Loaded (or built in) modules that matter: nf_conntrack, nf_nat, ip_vs, br_netfilter,
    /// nf_tables.
    pub modules: Vec<String>,
    /// Why no program is loaded into the kernel and `/proc` is read instead; empty when programs
    /// are loaded.
    #[serde(default)]
    pub no_ebpf: String,
}

/// Settings of the kernel as they were at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctls {
    /// Of this namespace, as far as they are a namespace's own.
    pub netns: u32,
    /// `net.core.somaxconn` and its value; lists are separated by spaces. Printable.
    pub values: Vec<(String, String)>,
}

/// How a hook is attached, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rung {
    Fentry,
    Kprobe,
    Tracepoint,
    Snapshot,
}

/// State of one hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum HookState {
    /// Attached by this rung.
    Watched { rung: Rung },
    /// What it watches cannot happen here (module not loaded); the reason in words.
    CannotHappen { why: String },
    /// Could not be attached; the reason in words.
    CannotSee { why: String },
}

/// One hook of the kernel side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Kernel function or tracepoint, for example `tcp_conn_request` or `skb:kfree_skb`.
    pub name: String,
    /// `listen`, `handshake`, `probe`, `conntrack`, `dns`, `skb_drop`, `ipvs` or `reject`.
    pub family: String,
    /// Causes that cannot be seen without it, by id.
    pub causes: Vec<String>,
    #[serde(flatten)]
    pub state: HookState,
}

/// The pod table changed. A pod is a network namespace with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum PodChange {
    /// A namespace appeared, or its addresses or name changed. Replaces what was known of the
    /// inode number.
    Up(Pod),
    /// The namespace is gone; its name stays known for what already happened.
    Gone { netns: u32 },
}

/// A network namespace with a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Inode number.
    pub netns: u32,
    /// `net->net_cookie`, 0 when not known.
    pub cookie: u64,
    /// `NAMESPACE/NAME` of a Kubernetes pod; else the `ip netns` name, or a container's; "host" for the
    /// node's own namespace; `netns:INODE` or `netns:NAME` when there is none that a person gave. These,
    /// and `pod:UID`, may have ` (host name HOSTNAME)` at the end.
    pub name: String,
    /// Where the name is from.
    #[serde(default)]
    pub named_by: Option<NamedBy>,
    /// Addresses on its interfaces, without loopback and link-local ones.
    pub addresses: Vec<IpAddr>,
    /// The node's ends of its veth pairs, by their indices.
    #[serde(default)]
    pub veth: Vec<u32>,
    /// Containers with a process in it, as far as known.
    #[serde(default)]
    pub containers: Vec<Container>,
    /// Whether it may have others, or some of these a name that is not known yet.
    #[serde(default)]
    pub more_containers: bool,
    /// Its programs' sockets are not the kernel's but of such a sandbox: they are invisible.
    #[serde(default)]
    pub sandbox: Option<Sandbox>,
}

/// A runtime that gives each pod a network stack of its own: packets are seen, sockets are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// A kernel in user space.
    GVisor,
    /// A virtual machine.
    Kata,
}

impl Sandbox {
    pub const fn name(self) -> &'static str {
        match self {
            Self::GVisor => "gVisor",
            Self::Kata => "Kata",
        }
    }
}

/// Where a namespace's name is from, surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamedBy {
    /// It is the node's own.
    Node,
    /// Its pod's cgroup, with the runtime's files or the kubelet's log folder.
    Pod,
    /// A file below `/run/netns`.
    Netns,
    /// A container that is no pod's.
    Container,
    /// A pod's cgroup alone: its UID.
    Uid,
    /// A number or that UID, and a host name that the pod may have chosen itself.
    Hostname,
    /// Nothing but its number.
    Number,
}

/// A container, by its process's cgroup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Container {
    /// What its runtime calls it: 64 hexadecimal digits.
    pub id: String,
    /// Its name in the pod, or in Docker or podman, where a runtime tells it; a pod's sandbox has none.
    pub name: Option<String>,
}

impl Container {
    /// The least length of an id's beginning that stands for it: names are rarely so long and of
    /// hexadecimal digits alone.
    const PREFIX: usize = 8;

    /// Whether a person means it: by its name, or how its id begins. `kubectl` shows an id as
    /// `containerd://ID`.
    pub fn is_called(&self, text: &str) -> bool {
        let id = text.rsplit_once("://").map_or(text, |(_, id)| id);
        self.name.as_deref() == Some(text) || (id.len() >= Self::PREFIX && self.id.starts_with(id))
    }
}

impl Pod {
    /// Whether it is known by more than a number, or a name that a program made up: such a name may
    /// still give way to a better one.
    pub fn is_named(&self) -> bool {
        !self.name.starts_with("netns:") && !self.name.starts_with("pod:")
    }
}

/// The name of an address in the kernel's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symbol {
    pub address: u64,
    /// `nf_hook_slow+0x7b` or `nft_do_chain+0x1f [nf_tables]`.
    pub name: String,
}

/// Which process holds a listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Inode number of the socket, as in [`Listen::ino`].
    pub ino: u64,
    pub pid: u32,
    /// `/proc/PID/comm`, untrusted bytes made printable.
    pub comm: String,
}

/// Whose a process is. Told when an event names it and it is another than was told of that number before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// The hostNetwork pod or the container that it is of, as [`Pod::name`]; `None` outside of the node's
    /// own network namespace.
    pub pod: Option<String>,
    /// Its container.
    #[serde(default)]
    pub container: Option<Container>,
    /// It is the kubelet, run by root: its connects to pods are health probes.
    pub kubelet: bool,
    /// The kubelet is a part of it, beside an API server, which connects to pods too.
    #[serde(default)]
    pub has_kubelet: bool,
    /// Its namespace when it is not the node's own (a node that is a container, kind); else 0.
    #[serde(default)]
    pub netns: u32,
}

/// An IPVS connection whose client's SYN was dropped, read right after that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpvsEntry {
    /// Namespace of the table.
    pub netns: u32,
    pub client: SocketAddr,
    pub service: SocketAddr,
    /// The real server it was given long before.
    pub server: SocketAddr,
    /// As in `/proc/net/ip_vs_conn`: `TIME_WAIT`, `ESTABLISHED`, …
    pub state: String,
    /// What the service gives that server now: 0 takes no new connections; `None` when the service
    /// does not list it any more.
    pub weight: Option<u32>,
}

/// A port of a service's own address (ClusterIP), as pods on this node know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// IP protocol number.
    pub proto: u8,
    pub address: SocketAddr,
    /// As its environment variables have it, in lower case and with dashes: `shop-api`. Untrusted
    /// bytes made printable. `None` for the cluster's DNS service, known as a nameserver.
    pub name: Option<String>,
    /// The process whose environment or resolv.conf told.
    pub pid: u32,
}

/// Source ports of a namespace's own connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalPorts {
    pub netns: u32,
    /// `net.ipv4.ip_local_port_range`, both ends included.
    pub low: u16,
    pub high: u16,
    /// `net.ipv4.ip_local_reserved_ports`: ranges, both ends included.
    pub reserved: Vec<(u16, u16)>,
}

/// What became of a connect that `/proc/PID/net/tcp` showed in SYN_SENT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Still SYN_SENT.
    Trying,
    Established,
    /// The socket is not there any more: failed or given up, which of the two is not known.
    Gone,
}

/// A connect whose SYN was sent again, as `/proc/PID/net/tcp` shows it. Only where no hook tells of
/// connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SynSent {
    /// The client's namespace.
    pub netns: u32,
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// How often the SYN was sent again (`icsk_retransmits`).
    pub retransmits: u32,
    /// When the namespace was looked at before this, in nanoseconds of `CLOCK_BOOTTIME`; 0: never.
    pub since: u64,
    pub outcome: Outcome,
}

/// The accept queues of a namespace that are not empty, read right after its `ListenOverflows`
/// rose. Only where no hook tells of refusals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenQueues {
    pub netns: u32,
    /// `net.core.somaxconn` there, which no queue's limit exceeds; `None` when it was not read.
    pub somaxconn: Option<u32>,
    pub queues: Vec<ListenQueue>,
    /// The list was cut off: other queues may have been full too.
    pub cut: bool,
}

/// The listener of a server that did not answer a probe in time, read right after that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerQueue {
    /// The server's namespace.
    pub netns: u32,
    /// The probe's connection, as the server's namespace sees it.
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub queue: ListenQueue,
}

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenQueue {
    pub address: SocketAddr,
    /// Inode number of the socket.
    pub ino: u64,
    /// Connections that wait for accept() (`sk_ack_backlog`).
    pub waiting: u32,
}

/// Counters of one network namespace, as totals since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub netns: u32,
    /// `TcpExt: ListenOverflows`, `ListenDrops`, `TCPReqQFullDrop`, `TCPReqQFullDoCookies`
    /// from `/proc/PID/net/netstat`.
    pub listen_overflows: Option<u64>,
    pub listen_drops: Option<u64>,
    pub reqq_full_drop: Option<u64>,
    pub reqq_full_cookies: Option<u64>,
    /// `TcpExt: TCPSynRetrans`: SYNs and SYN-ACKs sent again.
    #[serde(default)]
    pub syn_retransmits: Option<u64>,
    /// Where namespaces are looked at in turn: when this one was looked at before, in nanoseconds
    /// of `CLOCK_BOOTTIME`. 0: never, or they are not looked at in turn.
    #[serde(default)]
    pub since: u64,
    /// `/proc/net/stat/nf_conntrack`, summed over CPUs; `None` when conntrack is not loaded.
    pub conntrack: Option<ConntrackCounters>,
}

/// Connection tracking's own counters of one namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConntrackCounters {
    pub entries: u64,
    /// `nf_conntrack_max`, one limit for all namespaces (each counts its own entries against it).
    pub max: u64,
    pub insert_failed: u64,
    pub drop: u64,
    pub early_drop: u64,
    pub clash_resolve: u64,
    /// Entries refused because their hash bucket's chain was too long; `None` on kernels that do
    /// not limit it (before 5.15).
    #[serde(default)]
    pub chain_too_long: Option<u64>,
    /// `nf_conntrack_buckets`, one table for all namespaces; 0 when not known.
    #[serde(default)]
    pub buckets: u64,
}

/// The kernel programs' counters, summed over CPUs, as totals since stallprobe's start. Sent with
/// the status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// By event kind ([`probe_common::event::kind`]).
    pub seen: Vec<u64>,
    pub limited: Vec<u64>,
    pub lost: Vec<u64>,
    pub dns_queries: u64,
    pub dns_answers: u64,
    pub dns_nxdomain: u64,
    /// Nanoseconds.
    pub dns_slowest: u64,
    pub connects: u64,
    pub established: u64,
    /// Nanoseconds.
    pub connect_slowest: u64,
    /// Questions, arrivals and connects the pairing maps had no room for.
    pub unpaired: u64,
    /// DNS packets that could not be read.
    pub dns_unreadable: u64,
    /// Kernel function calls a kprobe missed, where the kernel counts them.
    pub missed: u64,
    /// Packets dropped by a full conntrack table.
    pub table_full: u64,
    /// Looks into a namespace, or at a table, that were left out or cut short to stay within the
    /// budget.
    #[serde(default)]
    pub not_read: u64,
    /// Passes over all processes, to know what namespaces are called.
    #[serde(default)]
    pub passes: u64,
}
