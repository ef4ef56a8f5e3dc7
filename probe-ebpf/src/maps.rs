//! Every map and global: the interface between the kernel programs and the loader.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use probe_common::{
    armed::{Armed, Cost},
    config::Config,
    event::{Clash, CtEntry, Dns, Ipvs, Reject, STEPS, kind},
    ipvs::Layout,
    net::Tuple,
    offsets::Offsets,
    stats::Stats,
};

/// Set by the loader before the programs are loaded. The map behind it is frozen, so the verifier
/// takes every field as a constant and removes the branches it decides.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets::UNKNOWN;

/// Likewise.
#[unsafe(no_mangle)]
static CONFIG: Config = Config {
    min_stall: 0,
    min_given_up: 0,
    nf_hook_slow: [0; 2],
    token_ns: 0,
    burst: 0,
    dns_ports: [0; 4],
    kfree_skb_args: 2,
    reason_consumed: u32::MAX,
    reason_netfilter_drop: u32::MAX,
    page_offset_base: 0,
    vmemmap_base: 0,
};

pub fn offsets() -> &'static Offsets {
    &OFFSETS
}

pub fn config() -> &'static Config {
    &CONFIG
}

/// Reads one field of [`OFFSETS`]; volatile, or the compiler would fold the initial value.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a plain integer in a static that is never written after load.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::offsets().$field) }
    };
}
pub(crate) use offset;

/// Reads one field of [`CONFIG`].
macro_rules! setting {
    ($($field:tt)+) => {
        // SAFETY: a plain integer in a static that is never written after load.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::config().$($field)+) }
    };
}
pub(crate) use setting;

/// All events, in the order they were reserved.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(4 * 1024 * 1024, 0);

/// One set of counters per CPU.
#[map]
pub static STATS: PerCpuArray<Stats> = PerCpuArray::with_max_entries(1, 0);

/// A pod's allowance of events of one kind.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BucketKey {
    pub kind: u32,
    /// 1: the bucket of all pods together.
    pub whole_node: u32,
    /// Network namespace for what happens at sockets, original source address for what happens in
    /// the host's namespace.
    pub pod: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Bucket {
    pub filled: u64,
    pub tokens: u64,
}

/// Least recently used pods lose their bucket, that is: they get a full one the next time.
#[map]
pub static BUCKETS: LruHashMap<BucketKey, Bucket> = LruHashMap::with_max_entries(4096, 0);

/// A handshake under way, by its socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Started {
    pub ts: u64,
    pub pid: u32,
    pub retransmits: u32,
    pub comm: [u8; 16],
}

#[map]
pub static CONNECTS: HashMap<u64, Started> = HashMap::with_max_entries(16384, 0);

/// When clients on this node that are connected now called connect(), by their own tuple. Only the
/// latest are needed: whether a connection is younger than a moment.
#[map]
pub static CONNECTED: LruHashMap<Tuple, u64> = LruHashMap::with_max_entries(8192, 0);

/// A connection of a program that is called as the kubelet is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Probing {
    /// connect(), and the end of the handshake.
    pub started: u64,
    pub connected: u64,
    /// Jiffies at the end of the handshake.
    pub jiffies: u64,
    pub pid: u32,
    pub isn: u32,
    pub comm: [u8; 16],
}

/// By their sockets. The kubelet has a few tens open at once; one that is pushed out by programs that
/// only call themselves so is not told.
#[map]
pub static PROBES: LruHashMap<u64, Probing> = LruHashMap::with_max_entries(4096, 0);

/// Such a connection by its own tuple, from the end of its handshake until the server's socket is there.
#[map]
pub static REACHING: LruHashMap<Tuple, u64> = LruHashMap::with_max_entries(1024, 0);

/// When that was the last time, so that no other server's socket is looked at.
#[map]
pub static REACHING_AT: Array<u64> = Array::with_max_entries(1, 0);

/// A connection of [`PROBES`] whose server is on this node: its server's socket, and what that showed
/// each time it was looked at. See [`probe_common::event::ProbeSteps`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sampled {
    pub server: u64,
    /// 1: it was seen at a step for the first time, which is to be told.
    pub is_news: u64,
    pub received: u64,
    pub first: [u64; STEPS],
    pub last: [u64; STEPS],
    pub count: [u32; STEPS],
}

/// By the client's socket, for as long as anyone waits for a probe.
#[map]
pub static SAMPLED: LruHashMap<u64, Sampled> = LruHashMap::with_max_entries(1024, 0);

/// When such a connection was given up, by its own tuple, until the server's end gets the FIN.
#[map]
pub static GIVEN_UP: LruHashMap<Tuple, u64> = LruHashMap::with_max_entries(1024, 0);

/// When that was the last time, so that no other server's socket is looked at long after.
#[map]
pub static GIVEN_UP_AT: Array<u64> = Array::with_max_entries(1, 0);

/// Server's sockets of connections that were given up, until they are closed.
#[map]
pub static SERVING: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);

/// Threads whose connect() found no local port, until its socket is closed again right after.
#[map]
pub static NO_PORT: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);

/// A question of a client's socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct QueryKey {
    pub sk: u64,
    pub id: u16,
    pub _pad: [u16; 3],
}

/// Questions that clients wait for, until the answer is read or the loader clears them away.
#[map]
pub static QUERIES: HashMap<QueryKey, Dns> = HashMap::with_max_entries(8192, 0);

/// How many questions of a socket are unanswered (low bits).
#[map]
pub static ASKING: HashMap<u64, u32> = HashMap::with_max_entries(8192, 0);

/// In [`ASKING`]: an answer came whose payload could not be read, so nothing is known of this
/// socket's questions.
pub const UNREADABLE: u32 = 1 << 31;

/// A question as a server sees it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ServedKey {
    pub client: [u8; 16],
    pub port: u16,
    pub server_port: u16,
    pub id: u16,
    pub _pad: u16,
    pub netns: u32,
    pub _pad2: u32,
}

/// Questions that reached a server's socket and are not answered yet.
#[map]
pub static SERVED: HashMap<ServedKey, Dns> = HashMap::with_max_entries(8192, 0);

/// What the last arrival on a CPU was paired with: undone when the socket then refuses the
/// datagram.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Arrival {
    /// 0: nothing was paired.
    pub sk: u64,
    pub id: u16,
    /// 1: an answer at a client's socket, 0: a question at a server's, which is `served`.
    pub is_answer: u16,
    pub _pad: u32,
    pub served: ServedKey,
}

#[map]
pub static LAST_ARRIVAL: PerCpuArray<Arrival> = PerCpuArray::with_max_entries(1, 0);

/// A clash between entry and return of `nf_ct_resolve_clash`, by the stack pointer at entry. An
/// entry whose return was missed goes when room is needed.
#[map]
pub static CLASHES: LruHashMap<u64, Clash> = LruHashMap::with_max_entries(1024, 0);

/// `struct net *` between entry and return of `early_drop`, by the stack pointer at entry.
#[map]
pub static EARLY_DROPS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);

/// A SYN between entry and return of `tcp_conn_request` that may be refused for want of room for
/// another half-open connection.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HalfOpen {
    /// 0: none.
    pub skb: u64,
    pub sk: u64,
    pub stage: u32,
    /// `sk_drops`, `sk_ack_backlog`, `sk_max_ack_backlog` and `reqsk_queue.qlen` at entry.
    pub drops: u32,
    pub ack_backlog: u32,
    pub max_ack_backlog: u32,
    pub qlen: u32,
    pub _pad: u32,
}

/// The SYN that this CPU is at: it is handled in one go, with bottom halves off.
#[map]
pub static HALF_OPEN: PerCpuArray<HalfOpen> = PerCpuArray::with_max_entries(1, 0);

/// When `early_drop` last failed on this CPU and the packet it failed for was not yet seen freed.
#[map]
pub static TABLE_FULL_MARK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// When `nf_ct_resolve_clash` last said on this CPU that a packet is to be dropped, and the function
/// that called it has not returned yet.
#[map]
pub static CLASH_MARK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// When `__nf_conntrack_confirm` last failed on this CPU without a clash and the packet it failed
/// for was not yet seen freed.
#[map]
pub static INSERT_FAILED_MARK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Where an event too large for the stack is built. Programs that can interrupt each other on one
/// CPU must not share a place.
#[map]
pub static DNS_SCRATCH: PerCpuArray<DnsScratch> = PerCpuArray::with_max_entries(3, 0);

pub const SCRATCH_SEND4: u32 = 0;
pub const SCRATCH_SEND6: u32 = 1;
pub const SCRATCH_ARRIVE: u32 = 2;

#[repr(C)]
pub struct DnsScratch {
    pub dns: Dns,
    /// The question's bytes: a name of at most 255 and four more for type and class.
    pub bytes: [u8; 264],
}

#[map]
pub static CLASH_SCRATCH: PerCpuArray<Clash> = PerCpuArray::with_max_entries(1, 0);

/// Where ip_vs keeps things: written by the loader when the module is there, before its hooks are
/// attached.
#[map]
pub static IPVS_LAYOUT: Array<Layout> = Array::with_max_entries(1, 0);

/// Service and packet between entry and return of `ip_vs_schedule`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Scheduling {
    pub svc: u64,
    pub skb: u64,
}

/// By the stack pointer at entry; only of SYN-ACKs, so nearly always empty.
#[map]
pub static SCHEDULING: HashMap<u64, Scheduling> = HashMap::with_max_entries(1024, 0);

#[map]
pub static IPVS_SCRATCH: PerCpuArray<Ipvs> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static REJECT_SCRATCH: PerCpuArray<Reject> = PerCpuArray::with_max_entries(1, 0);

/// The SYN of the armed flow on its way through IPVS's hook, by its `struct sk_buff`. Not a map that
/// forgets by itself: a small one of that sort gives up what was just put in.
#[map]
pub static VERDICTS: HashMap<u64, Ipvs> = HashMap::with_max_entries(256, 0);

/// Its `struct sk_buff` between entry and return of the hook and of the search for its connection,
/// by the stack pointer at entry.
#[map]
pub static VERDICT_CALLS: HashMap<u64, u64> = HashMap::with_max_entries(256, 0);

/// `struct sk_buff *` between entry and return of `nf_conntrack_in`, by the stack pointer at entry;
/// only of packets that may be of the armed flow.
#[map]
pub static TRACKING: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);

#[map]
pub static CT_ENTRY_SCRATCH: PerCpuArray<CtEntry> = PerCpuArray::with_max_entries(1, 0);

/// The flow that armed programs look for: written by the loader before they are attached.
#[map]
pub static ARMED: Array<Armed> = Array::with_max_entries(1, 0);

/// What the armed programs cost, set to zero by the loader before they are attached.
#[map]
pub static ARMED_COST: PerCpuArray<Cost> = PerCpuArray::with_max_entries(1, 0);

/// Adds to this CPU's counters.
#[inline(always)]
pub fn stats(change: impl FnOnce(&mut Stats)) {
    if let Some(stats) = STATS.get_ptr_mut(0) {
        // SAFETY: the pointer is to this CPU's own, live map value.
        change(unsafe { &mut *stats });
    }
}

/// Counts one occurrence of an event kind.
#[inline(always)]
pub fn seen(kind: u16) {
    stats(|s| {
        if let Some(n) = s.seen.get_mut(usize::from(kind)) {
            *n += 1;
        }
    });
}

const _: () = assert!(kind::COUNT <= 32);
