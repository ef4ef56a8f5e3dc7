//! The numbers behind a finding, one shape for each cause. Field names are those of the JSON
//! output and stay stable.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

/// Details of a finding by its cause.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Details {
    ClientPorts(ClientPorts),
    AcceptQueue(Box<AcceptQueue>),
    SynQueue(Box<SynQueue>),
    SnatClash(SnatClash),
    SnatPorts(SnatPorts),
    DnatClash(Box<DnatClash>),
    TableFull(TableFull),
    InsertFailed(InsertFailed),
    StaleNat(Box<StaleNat>),
    Invalid(Box<Invalid>),
    NotTranslated(Box<NotTranslated>),
    IpvsStale(Box<IpvsStale>),
    NodePort(Box<NodePort>),
    NoBackend(NoBackend),
    NoListener(NoListener),
    ServerSlow(Box<ServerSlow>),
    LeftTheNode(Box<LeftTheNode>),
    /// Serialised as an empty object.
    #[default]
    #[serde(serialize_with = "empty")]
    None,
}

fn empty<S: serde::Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap;
    serializer.serialize_map(Some(0))?.end()
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientPorts {
    pub process: Option<String>,
    pub pid: Option<u32>,
    /// The local address and the destination for which ports ran out.
    pub source: IpAddr,
    /// `ip:port`.
    pub destination: String,
    /// `ip_local_port_range` of the namespace, both ends included; `None` when not known.
    pub port_range: Option<[u16; 2]>,
}

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Syn,
    Ack,
}

/// Who limits the accept queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CappedBy {
    /// `net.core.somaxconn` of the pod's namespace (the program may have asked for more).
    Somaxconn,
    /// The program's own `listen(fd, backlog)`.
    Listen,
    /// Not known: the limit was not read.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AcceptQueue {
    pub address: IpAddr,
    pub port: u16,
    pub process: Option<String>,
    pub pid: Option<u32>,
    pub ack_backlog: u32,
    /// `None` where only `/proc` could be read, which does not tell it.
    pub max_ack_backlog: Option<u32>,
    /// 0 when it was not read.
    pub somaxconn: u32,
    pub stage: Stage,
    pub capped_by: CappedBy,
    /// Refusals by this listener that the hook saw, in detail or not.
    pub refused: u64,
    /// The kernel's `ListenOverflows` of that namespace since stallprobe's start.
    pub kernel_listen_overflows: Option<u64>,
    /// Overflows the kernel counted and the hook did not see.
    pub missed: u64,
    /// Refusals counted but not sent in detail, on the whole node.
    pub details_left_out: u64,
    /// The listener's namespace, and what its refusals are counted under.
    #[serde(skip)]
    pub netns: u32,
    #[serde(skip)]
    pub key: (u32, u64),
}

/// Which limit of half-open connections was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SynLimit {
    /// The listener's backlog (`TCPReqQFullDrop`).
    Backlog,
    /// Three quarters of `tcp_max_syn_backlog`: the rest is for known peers (no counter of its
    /// own, only `ListenDrops`).
    LastQuarter,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SynQueue {
    pub address: IpAddr,
    pub port: u16,
    pub process: Option<String>,
    pub pid: Option<u32>,
    pub limit: SynLimit,
    /// Half-open connections of this listener when it refused.
    pub half_open: u32,
    pub max_ack_backlog: u32,
    pub somaxconn: u32,
    pub max_syn_backlog: u32,
    pub syncookies: u32,
    /// Refusals by this listener for this reason, as delivered in detail.
    pub refused: u64,
    /// The kernel's `ListenDrops` and `TCPReqQFullDrop` of that namespace since stallprobe's
    /// start.
    pub kernel_listen_drops: Option<u64>,
    pub kernel_reqq_full_drop: Option<u64>,
    /// The listener's namespace, and what its refusals are counted under.
    #[serde(skip)]
    pub netns: u32,
    #[serde(skip)]
    pub key: (u32, u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnatClash {
    /// The connection that lost, as it was before translation: `src:port -> dst:port`.
    pub loser: String,
    /// The connection that holds the source port.
    pub winner: String,
    /// The address and port both were translated to.
    pub snat_to: String,
    /// How long before the clash the winner entered the table; `None` when it cannot be told.
    pub winner_age_jiffies: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnatPorts {
    /// The connection that found no port, as it was before translation: `src:port -> dst:port`.
    pub loser: String,
    /// The connection that holds the port it was given.
    pub holder: String,
    /// The pod on this node that holds it.
    pub holder_pod: Option<String>,
    /// The address and port that NAT chose for want of a free one.
    pub snat_to: String,
    /// The server's address and port, for which ports ran out.
    pub destination: String,
    /// How long before the clash the holder entered the table; `None` when it cannot be told.
    pub holder_age_jiffies: Option<i64>,
    /// How long before the clash the holder called connect(); `None` when that was not seen.
    pub holder_age_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DnatClash {
    pub name: String,
    pub qtype: String,
    /// The address the client asked, `ip:port`.
    pub service: String,
    /// The two servers the service sent the two queries to, the loser's first.
    pub backends: Vec<String>,
    /// Names of their pods, in the same order; `null` for one that is not on this node.
    pub backend_pods: Vec<Option<String>>,
    /// The kernel resolved the clash (5.7 and later) instead of dropping the query.
    pub resolved: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableFull {
    pub limit: Option<u64>,
    pub count: Option<u64>,
    /// Who lost packets, most first.
    pub pods: Vec<PodDrops>,
    /// Packets refused by full tables but not sent in detail, on the whole node.
    pub details_left_out: u64,
    /// Namespace of the table.
    #[serde(skip)]
    pub netns: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodDrops {
    pub pod: String,
    pub dropped: u64,
}

/// Why a new entry was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InsertExit {
    /// It was being removed already (`IPS_DYING`).
    Dying,
    /// The chain of its hash bucket was too long.
    ChainTooLong,
    /// None of these: its extensions belonged to a module that is gone (6.0 and later), or what
    /// tells was not seen.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InsertFailed {
    pub exit: InsertExit,
    /// Entries of the namespace's table, and hash buckets of the node; `null` when not known.
    pub entries: Option<u64>,
    pub buckets: Option<u64>,
    /// How much the kernel's `chaintoolong` grew since stallprobe's start; `null` on kernels that
    /// do not limit a chain.
    pub chain_too_long: Option<u64>,
}

/// What is wrong with the entry of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stale {
    /// It leads to an address that a pod of this node had, which is gone.
    Gone,
    /// It leads to an address that nobody is known to have, and that did not answer.
    Unreachable,
    /// It was made before the service's rules were: it translates nothing.
    Untranslated,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StaleNat {
    pub client: SocketAddr,
    pub service: SocketAddr,
    /// Where the entry leads.
    pub target: SocketAddr,
    /// The pod that had that address.
    pub target_pod: Option<String>,
    pub is: Stale,
    /// Where another flow of the same client to this service leads; only with `untranslated`.
    pub others_go_to: Option<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftTheNode {
    /// The device that sent the first SYN that was looked at.
    pub interface: String,
    /// Its link kind as `ip -d link` shows it; empty for a physical one.
    pub link: String,
    /// The tunnel the SYN was in, as far as that was seen.
    pub tunnel: Option<String>,
    /// Its addresses as they left, after all NAT of this node.
    pub sent_from: SocketAddr,
    pub sent_to: SocketAddr,
    /// For how long after that an answer was looked for.
    pub looked_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Invalid {
    /// The packet that conntrack held to be invalid, as it saw it.
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// `syn-ack` or `syn`.
    pub packet: &'static str,
    /// Where it ended: the kernel's function, as far as known.
    pub dropped_at: String,
    /// Name of the namespace it was judged in.
    pub judged_in: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotTranslated {
    pub client: SocketAddr,
    pub service: SocketAddr,
    /// Who answered by its own address.
    pub backend: SocketAddr,
    pub backend_pod: Option<String>,
    /// Whether the module br_netfilter is there at all.
    pub br_netfilter_loaded: bool,
}

/// What became of the server of an old IPVS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerIs {
    /// Weight 0: takes no new connections.
    Drained,
    /// The service does not list it any more.
    Removed,
}

/// What IPVS did with the SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SynWas {
    /// Sent to the old connection's server.
    Sent,
    /// Dropped without a word.
    Dropped,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IpvsStale {
    pub service: SocketAddr,
    /// The server of the old connection.
    pub server: SocketAddr,
    pub server_pod: Option<String>,
    pub server_is: ServerIs,
    pub syn_was: SynWas,
    /// The client's end, whose port an old connection had too.
    pub client: SocketAddr,
    /// The old connection's state, as `/proc/net/ip_vs_conn` names it; `None` when it was not read.
    pub state: Option<String>,
    /// Packets the old connection had from its client before; `None` when it was not read.
    pub packets_before: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodePort {
    /// The service that took the SYN-ACK: the client's own address and source port.
    pub service: SocketAddr,
    pub port: u16,
    /// Who sent the SYN-ACK.
    pub server: SocketAddr,
    pub server_pod: Option<String>,
    /// Who got it, `None` when the service had no server.
    pub sent_to: Option<SocketAddr>,
    pub sent_to_pod: Option<String>,
    /// `ip_local_port_range` of the client's namespace, `null` when it could not be read.
    pub local_port_range: Option<[u16; 2]>,
    /// Whether it overlaps 30000-32767, the NodePorts kube-proxy gives by default.
    pub range_overlaps_node_ports: Option<bool>,
    /// `ip_local_reserved_ports` of that namespace.
    pub reserved_ports: Option<String>,
    /// Whether that holds the port.
    pub port_is_reserved: Option<bool>,
    /// The value to set: what is reserved now and the NodePorts.
    pub reserve: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NoBackend {
    pub service: SocketAddr,
    /// Servers the service lists, all with weight 0 if there are any.
    pub servers: u32,
    /// `ipvs`, `iptables` or `nftables`: the mode of the proxy that refused.
    pub proxy: &'static str,
    /// Name of the service as pods' environment has it; `null` when it is not known.
    pub name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NoListener {
    pub address: IpAddr,
    pub port: u16,
    pub pod: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerSlow {
    /// Of a query: its name and type. Of a probe empty, and left out.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub qtype: String,
    /// The server that was slow, `ip:port`.
    pub server: String,
    pub server_pod: Option<String>,
    pub process: Option<String>,
    /// From arrival to answer; `None` when it had not answered.
    pub took_ms: Option<u64>,
    /// The upstream the server itself waited for, `ip:port`.
    pub waited_for: Option<String>,
    /// What is told of a probe besides.
    #[serde(flatten)]
    pub probe: Option<SlowProbe>,
}

/// A health probe that the server was slow to answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlowProbe {
    /// `http`, `grpc` or `tls`, where the server had read none of its bytes.
    pub protocol: Option<&'static str>,
    /// `GET /healthz`, of plain HTTP.
    pub request: Option<String>,
    /// What the server had not done in time.
    pub late: Late,
    /// How long the kubelet waited.
    pub waited_ms: u64,
    /// Connections that waited for accept() right after.
    pub accept_queue: Option<u32>,
}

/// The step of a server that came late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Late {
    /// The connection waited in the accept queue.
    Accept,
    /// It was accepted, and nothing of the request was read.
    Read,
    /// The request was read, and not answered.
    Answer,
    /// One of these, which was not seen: a part was read, or the answer came in the end.
    Unknown,
}
