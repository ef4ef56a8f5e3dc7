//! What the kernel side sends: one struct for each kind of event, each beginning with [`Header`].

use crate::{
    net::{Conntrack, Tuple},
    wire,
};

/// Event kinds: [`Header::kind`], and the index of the per-kind counters in
/// [`crate::stats::Stats`].
pub mod kind {
    /// A listener refused a SYN or a final ACK: [`super::Listen`].
    pub const LISTEN_DROP: u16 = 0;
    /// A client sent its SYN again: [`super::Connect`].
    pub const SYN_RETRANSMIT: u16 = 1;
    /// A connect ended late, after a retransmit, or without success: [`super::Connect`].
    pub const CONNECT_END: u16 = 2;
    /// A server sent its SYN-ACK again: [`super::SynAck`].
    pub const SYNACK_RETRANSMIT: u16 = 3;
    /// Two conntrack entries clashed at insertion: [`super::Clash`].
    pub const CLASH: u16 = 4;
    /// The conntrack table is full: [`super::TableFull`].
    pub const TABLE_FULL: u16 = 5;
    /// A SYN, SYN-ACK or DNS packet, or any packet refused by a full table, was freed as dropped:
    /// [`super::Drop`].
    pub const DROP: u16 = 6;
    /// A query was sent again on the same socket with the same id: [`super::Dns`].
    pub const DNS_RETRY: u16 = 7;
    /// An answer arrived at the client's socket late or after a retry: [`super::Dns`].
    pub const DNS_ANSWER: u16 = 8;
    /// An answer that arrived in time was read late: [`super::Dns`].
    pub const DNS_READ: u16 = 9;
    /// An answer reached an unconnected socket from an address that was not asked: [`super::Dns`].
    pub const DNS_WRONG_SOURCE: u16 = 10;
    /// A socket was closed with an unanswered query: [`super::Dns`], one for each such socket; the
    /// loader then collects the queries from the pairing map.
    pub const DNS_CLOSE: u16 = 11;
    /// A server answered late: [`super::Dns`] as seen by the server.
    pub const DNS_SERVER_ANSWER: u16 = 12;
    /// Made by the loader from the pairing map, never by the kernel: a query without an answer for
    /// longer than the least stall.
    pub const DNS_UNANSWERED: u16 = 13;
    /// Made by the loader from the pairing map, never by the kernel: a query that reached a
    /// server's socket and is not answered yet.
    pub const DNS_SERVER_PENDING: u16 = 14;
    /// IPVS took a SYN-ACK for the first packet of a connection to a service: [`super::Ipvs`].
    pub const IPVS_HIJACK: u16 = 15;
    /// A service had no server for the first packet of a connection: [`super::Ipvs`].
    pub const IPVS_NO_SERVER: u16 = 16;
    /// A SYN matched an old connection and went to its server, which takes no new connections:
    /// [`super::Ipvs`].
    pub const IPVS_STALE: u16 = 17;
    /// An old connection was ended so that its port could be used anew. Only counted.
    pub const IPVS_EXPIRED: u16 = 18;
    /// Made by the loader, never by the kernel: armed programs were attached for a flow, or let go.
    /// Only counted: how often something was armed.
    pub const ARMED: u16 = 19;
    /// What IPVS's hook decided on the SYN of the armed flow: [`super::Ipvs`].
    pub const IPVS_VERDICT: u16 = 20;
    /// What connection tracking made of one packet of the armed flow: [`super::CtEntry`].
    pub const CT_ENTRY: u16 = 21;
    /// A netfilter rule answered a packet with ICMP "unreachable": [`super::Reject`].
    pub const REJECT: u16 = 23;
    /// A connection of what may be the kubelet ended without an answer, or with a late one:
    /// [`super::Probe`].
    pub const PROBE_END: u16 = 24;
    /// How far the server had come when such a connection was given up: [`super::ProbeServer`].
    pub const PROBE_SERVER: u16 = 25;
    /// What the server did with such a connection after that: [`super::ProbeServer`].
    pub const PROBE_SERVED: u16 = 26;
    /// The bytes of the packet that another event tells of, beside it: [`super::Packet`]. Only when a
    /// recording wants packets.
    pub const PACKET: u16 = 27;
    /// A step at which the server of such a connection was first seen while the client waited:
    /// [`super::ProbeServer`].
    pub const PROBE_SEEN: u16 = 28;
    /// How far the server was while the client waited, sent right before a [`PROBE_END`]:
    /// [`super::ProbeSteps`].
    pub const PROBE_STEPS: u16 = 29;
    /// A device sent or received a packet of the armed connect: [`super::Departure`].
    pub const DEPARTURE: u16 = 30;
    /// One more than the highest kind.
    pub const COUNT: usize = 31;
}

wire! {
    /// The beginning of every event.
    #[derive(Default)]
    pub struct Header {
        /// Nanoseconds of `CLOCK_BOOTTIME`, taken when the hook fired.
        pub ts: u64,
        /// `net->net_cookie`, 0 when not known (always 0 on 5.10).
        pub cookie: u64,
        /// Inode number of the network namespace in which it happened, 0 when not known.
        pub netns: u32,
        /// One of [`kind`].
        pub kind: u16,
        pub cpu: u16,
    }
}

/// [`Listen::stage`]: the SYN was refused / the final ACK of the handshake was refused, because the
/// accept queue was full.
pub const STAGE_SYN: u32 = 1;
pub const STAGE_ACK: u32 = 2;
/// [`Listen::stage`]: the SYN was refused without cookies, because there were as many half-open
/// connections as `sk_max_ack_backlog` allows / because less than a quarter of
/// `tcp_max_syn_backlog` was left.
pub const STAGE_SYN_QUEUE: u32 = 3;
pub const STAGE_SYN_PRESSURE: u32 = 4;

wire! {
    /// A listening socket refused a SYN (`tcp_conn_request`) or the final ACK
    /// (`tcp_v4_syn_recv_sock`, `tcp_v6_syn_recv_sock`).
    pub struct Listen {
        pub header: Header,
        /// From the packet: client → server, as the server's namespace sees it.
        pub tuple: Tuple,
        /// Address of the listening `struct sock`.
        pub sk: u64,
        /// Inode of the listening socket, as in `/proc/PID/fd`: `socket:[INO]`. 0 when not known.
        pub ino: u64,
        /// The client's initial sequence number: NAT keeps it, so it joins both ends.
        pub isn: u32,
        /// One of the `STAGE_*`.
        pub stage: u32,
        /// `sk_ack_backlog`: connections that wait for accept().
        pub ack_backlog: u32,
        /// `sk_max_ack_backlog`: min(backlog of listen(), somaxconn at that time).
        pub max_ack_backlog: u32,
        /// `reqsk_queue.qlen`: half-open connections.
        pub qlen: u32,
        /// `net.core.somaxconn` of that namespace, now.
        pub somaxconn: u32,
        /// `net.ipv4.tcp_max_syn_backlog` of that namespace.
        pub max_syn_backlog: u32,
        /// `net.ipv4.tcp_syncookies` of that namespace.
        pub syncookies: u32,
    }
}

/// [`Connect::outcome`]: still trying, established, given up or refused.
pub const OUTCOME_TRYING: u32 = 0;
pub const OUTCOME_ESTABLISHED: u32 = 1;
pub const OUTCOME_FAILED: u32 = 2;

wire! {
    /// A client's handshake.
    pub struct Connect {
        pub header: Header,
        /// The client's socket: local → remote, before any NAT outside its namespace.
        pub tuple: Tuple,
        pub sk: u64,
        /// Boot-time nanoseconds of the connect(); 0 when it began before stallprobe did.
        pub started: u64,
        /// Process that called connect() (thread group id), 0 when not known.
        pub pid: u32,
        pub comm: [u8; 16],
        /// The client's initial sequence number.
        pub isn: u32,
        /// SYN retransmits so far.
        pub retransmits: u32,
        /// One of the `OUTCOME_*`.
        pub outcome: u32,
        /// `sk->sk_err` as a positive errno (ECONNREFUSED 111, ETIMEDOUT 110, EHOSTUNREACH 113),
        /// 0 when none was set. EADDRNOTAVAIL (99): no local port was left, and nothing was sent.
        pub err: u32,
        /// With EADDRNOTAVAIL `net.ipv4.ip_local_port_range` of that namespace, `high << 16 | low`;
        /// else, and when not known, 0.
        pub port_range: u32,
    }
}

/// [`Probe::outcome`]: the client closed the connection while it waited for bytes / the server closed
/// it without a byte / bytes came, and late.
pub const PROBE_GAVE_UP: u32 = 1;
pub const PROBE_CLOSED: u32 = 2;
pub const PROBE_LATE: u32 = 3;

/// Whether a probe that waited for so long, in nanoseconds, may have come to its `timeoutSeconds`, which
/// are whole. The kubelet's clock runs a moment before it calls connect(), and its program has to be
/// woken up to close.
#[inline(always)]
pub const fn may_be_timeout(waited: u64) -> bool {
    const SECOND: u64 = 1_000_000_000;
    const BEFORE: u64 = 20_000_000;
    const AFTER: u64 = 50_000_000;
    let waited = waited.saturating_add(BEFORE);
    waited >= SECOND && waited % SECOND <= BEFORE + AFTER
}

wire! {
    /// A connection made by a program that is called as the kubelet is, which ended after a wait.
    pub struct Probe {
        pub header: Header,
        /// The client's socket: local → remote.
        pub tuple: Tuple,
        pub sk: u64,
        /// Boot-time nanoseconds of the connect(), and of the end of the handshake.
        pub started: u64,
        pub connected: u64,
        /// Nanoseconds since the last bytes came from the server; since `connected` when none came.
        pub silence: u64,
        /// Payload sent, what was sent again included, and received, in bytes.
        pub sent: u64,
        pub received: u64,
        /// Process that called connect() (thread group id).
        pub pid: u32,
        pub comm: [u8; 16],
        /// The client's initial sequence number.
        pub isn: u32,
        /// One of the `PROBE_*`.
        pub outcome: u32,
        /// Segments sent again (`tcp_sock.total_retrans`), and not acknowledged (`packets_out`).
        pub retransmits: u32,
        pub unacked: u32,
        /// `sk->sk_err`: ECONNRESET (104) when the server reset the connection, else mostly 0.
        pub err: u32,
    }
}

/// What a server that is waited for has not done yet, by its socket: accepted the connection / read all
/// that came / sent anything since the client asked. [`STEP_NONE`]: it has done all this, or the client
/// may have asked for nothing, as on a connection that is kept for the next request.
pub const STEP_ACCEPT: usize = 0;
pub const STEP_READ: usize = 1;
pub const STEP_ANSWER: usize = 2;
pub const STEP_NONE: usize = 3;
pub const STEPS: usize = 4;

wire! {
    /// What the server's socket showed each time it was looked at while the client was connected and got
    /// no byte. Nothing is sent of a connection that was never looked at.
    pub struct ProbeSteps {
        pub header: Header,
        /// The client's socket: local → remote.
        pub tuple: Tuple,
        pub sk: u64,
        /// Payload that had come from the server, in bytes, when it was looked at last.
        pub received: u64,
        /// By the `STEP_*`: the first and the last time that it was seen at that step, in boot-time
        /// nanoseconds, 0 for never, and how often.
        pub first: [u64; STEPS],
        pub last: [u64; STEPS],
        pub count: [u32; STEPS],
    }
}

/// How many bytes of a request a [`ProbeServer`] carries.
pub const REQUEST_BYTES: usize = 128;

wire! {
    /// The server's end of such a connection, at the moment at which the client's FIN reached it or, of
    /// [`kind::PROBE_SERVED`], at which it was closed there too, or, of [`kind::PROBE_SEEN`], before.
    pub struct ProbeServer {
        pub header: Header,
        /// client → server as the server's namespace sees it.
        pub tuple: Tuple,
        pub sk: u64,
        /// Inode of the accepted socket, 0 while nobody has accepted it.
        pub ino: u64,
        /// Payload sent by the server, in bytes.
        pub sent: u64,
        /// Payload received, and of that what the program has not read, in bytes.
        pub received: u64,
        pub unread: u32,
        /// 1: the program has accepted the connection.
        pub accepted: u32,
        /// How many bytes of `request` are filled: the beginning of what is not read, when nothing was
        /// read before.
        pub captured: u32,
        pub _pad: u32,
        pub request: [u8; REQUEST_BYTES],
    }
}

wire! {
    /// A server sent its SYN-ACK again (tracepoint `tcp:tcp_retransmit_synack`).
    pub struct SynAck {
        pub header: Header,
        /// client → server as the server's namespace sees it.
        pub tuple: Tuple,
        /// The listening socket.
        pub sk: u64,
        pub ino: u64,
        /// The client's initial sequence number.
        pub isn: u32,
        /// SYN-ACK retransmits so far.
        pub retransmits: u32,
        pub ack_backlog: u32,
        pub max_ack_backlog: u32,
    }
}

/// [`Clash::verdict`]: the packet was dropped / the clash was resolved and the packet goes on.
pub const VERDICT_DROP: u32 = 0;
pub const VERDICT_ACCEPT: u32 = 1;

wire! {
    /// `nf_ct_resolve_clash` ran: an entry could not be inserted because another one has a tuple
    /// of it.
    pub struct Clash {
        pub header: Header,
        /// The entry that came second, as it was before the clash was resolved.
        pub loser: Conntrack,
        /// The entry that is in the table.
        pub winner: Conntrack,
        /// Address of the packet's `struct sk_buff`; equals [`Drop::skb`] of the same packet.
        pub skb: u64,
        /// TCP: boot-time nanoseconds of the winner's connect(), when it was made on this node not
        /// long ago; else 0.
        pub winner_started: u64,
        /// Low 32 bits of jiffies64 at the event, to compare with [`Conntrack::timeout`].
        pub jiffies: u32,
        /// [`VERDICT_DROP`] or [`VERDICT_ACCEPT`].
        pub verdict: u32,
        /// The loser's `ct->status` after the function returned; when the packet's entry was
        /// replaced by the winner (merged), the winner's.
        pub status_after: u32,
        /// Which tuple of the winner was hit: 0 original, 1 reply.
        pub hit_dir: u32,
        /// `skb->skb_iif`: interface on which the packet came in, 0 when it was made here.
        pub iif: u32,
        /// Joins the packet across NAT: see [`Drop::ident`].
        pub ident: u32,
    }
}

wire! {
    /// `early_drop` found nothing to evict: the table is full and a packet will be dropped.
    /// `header.netns` is the namespace of the table.
    pub struct TableFull {
        pub header: Header,
        /// 0: nothing could be evicted. 1: another connection was evicted to make room.
        pub evicted: u32,
        pub _pad: u32,
    }
}

/// How many bytes of a packet a [`Drop`] carries, from the network header on.
pub const PACKET_BYTES: usize = 128;

/// [`Drop::flags`]: conntrack's table was full when this very packet asked for an entry.
pub const DROP_TABLE_FULL: u32 = 1 << 0;
/// [`Drop::flags`]: the location lies in `nf_hook_slow`.
pub const DROP_IN_NF_HOOK_SLOW: u32 = 1 << 1;
/// [`Drop::flags`]: the kernel gave a drop reason (5.17 and later).
pub const DROP_HAS_REASON: u32 = 1 << 2;
/// [`Drop::flags`]: this very packet's new entry could not be inserted into conntrack's table, and
/// that without a clash.
pub const DROP_INSERT_FAILED: u32 = 1 << 3;

wire! {
    /// Tracepoint `skb:kfree_skb`.
    pub struct Drop {
        pub header: Header,
        /// From the packet's own headers.
        pub tuple: Tuple,
        pub ct: Conntrack,
        pub skb: u64,
        /// Address of the code that freed the packet.
        pub location: u64,
        /// `enum skb_drop_reason` of the running kernel; valid with [`DROP_HAS_REASON`].
        pub reason: u32,
        pub flags: u32,
        /// TCP: the sequence number (of a SYN: the client's ISN, of a SYN-ACK: the
        /// acknowledgement minus one, that is: the client's ISN). UDP: the first two bytes of the
        /// payload as a big-endian number (the DNS id).
        pub ident: u32,
        /// Interface the packet was on when dropped, 0 when not known.
        pub ifindex: u32,
        /// `skb->skb_iif`.
        pub iif: u32,
        /// TCP flags byte, 0 for other protocols.
        pub tcp_flags: u32,
        /// `skb->len` from the network header on, as far as known.
        pub packet_len: u32,
        /// How many bytes of `packet` are filled.
        pub captured: u32,
        pub packet: [u8; PACKET_BYTES],
    }
}

/// How many bytes of a question's name (wire format: labels with their length, RFC 1035 4.1.2) are
/// kept. A longer name is cut.
pub const QNAME_BYTES: usize = 128;

wire! {
    /// The question of a query: name, type, and what joins it across NAT.
    pub struct Question {
        /// FNV-1a over the name's bytes as sent, at most 255.
        pub hash: u64,
        /// DNS id (host order).
        pub id: u16,
        /// Query type: 1 A, 28 AAAA, …
        pub qtype: u16,
        /// Length of the whole name in wire format including the root label; may exceed
        /// [`QNAME_BYTES`].
        pub name_len: u16,
        pub _pad: u16,
        pub name: [u8; QNAME_BYTES],
    }
}

/// How many servers one question can be sent to at once (musl asks up to three).
pub const SERVERS: usize = 3;

wire! {
    /// A query and what became of it. Sent as an event, and kept (with `header.kind`
    /// [`kind::DNS_UNANSWERED`] or [`kind::DNS_SERVER_PENDING`]) in the pairing maps.
    pub struct Dns {
        pub header: Header,
        /// Client: socket → server asked last. Server side: client → server as the server sees it.
        pub tuple: Tuple,
        /// Address of the socket on whose side this was seen.
        pub sk: u64,
        /// Boot-time nanoseconds: first sent (client) or arrived (server).
        pub first: u64,
        /// Boot-time nanoseconds: sent last.
        pub last: u64,
        /// Boot-time nanoseconds: the answer arrived at the client's socket, or was sent by the
        /// server; 0 not yet.
        pub answered: u64,
        /// Process that sent the query (client) or the answer (server), 0 when not known.
        pub pid: u32,
        pub comm: [u8; 16],
        /// How often the question was sent to the same server (1: no retry).
        pub attempts: u16,
        /// How many servers were asked.
        pub servers: u16,
        /// RCODE of the answer (0 NOERROR, 3 NXDOMAIN), 0xffff without an answer.
        pub rcode: u16,
        /// Addresses of the servers asked, as in [`Tuple::dst`].
        pub server: [[u8; 16]; SERVERS],
        pub _pad: [u16; 3],
        pub question: Question,
    }
}

/// [`Ipvs::flags`]: the connection has no server at all.
pub const IPVS_NO_DEST: u32 = 1 << 0;
/// [`Ipvs::flags`]: the server was taken out of the service (`IP_VS_DEST_F_AVAILABLE` is off).
pub const IPVS_GONE: u32 = 1 << 1;
/// [`Ipvs::flags`] of a verdict: IPVS looked for a connection of this packet.
pub const IPVS_LOOKED: u32 = 1 << 2;
/// [`Ipvs::flags`] of a verdict: it found one, which is the one told of.
pub const IPVS_FOUND: u32 = 1 << 3;

/// [`Ipvs::verdict`] (uapi/linux/netfilter.h): dropped / not IPVS's, or passed on / sent to a server.
pub const NF_DROP: u32 = 0;
pub const NF_ACCEPT: u32 = 1;
pub const NF_STOLEN: u32 = 2;

wire! {
    /// IPVS decided on the first packet of a connection: in a way that stalls it, or in any way
    /// where it is the packet of an armed flow.
    pub struct Ipvs {
        pub header: Header,
        /// From the packet, as IPVS got it: client → service; of a taken SYN-ACK: server → client.
        pub tuple: Tuple,
        /// Address of the service, in the form of [`Tuple::src`]; of the packet's family.
        pub service: [u8; 16],
        /// Address of the real server, all zero when there is none.
        pub server: [u8; 16],
        pub service_port: u16,
        pub server_port: u16,
        /// Joins the packet across NAT: see [`Drop::ident`].
        pub ident: u32,
        /// TCP flags byte, 0 for other protocols.
        pub tcp_flags: u32,
        pub flags: u32,
        /// `dest->weight`: 0 takes no new connections (drained). [`u32::MAX`] when not known.
        pub weight: u32,
        /// `cp->in_pkts`: packets of the connection that came before this one.
        pub in_pkts: u32,
        /// `cp->state`: `IP_VS_TCP_S_*`, as this packet left it; in a verdict as it found it.
        pub state: u32,
        /// `svc->num_dests`: servers of the service, drained ones too.
        pub dests: u32,
        /// What the hook returned, one of the `NF_*`; [`u32::MAX`] where only something inside of it
        /// was seen.
        pub verdict: u32,
        pub _pad: u32,
    }
}

/// [`CtEntry::info`] without an entry: the packet belongs to no connection (`INVALID`).
pub const CT_INVALID: u32 = 0;
/// [`CtEntry::info`] without an entry: a rule took the packet past conntrack (`IP_CT_UNTRACKED`).
pub const CT_UNTRACKED: u32 = 7;

wire! {
    /// `nf_conntrack_in` returned for a packet of the armed flow.
    pub struct CtEntry {
        pub header: Header,
        /// From the packet's own headers, that is: before this namespace's NAT.
        pub tuple: Tuple,
        /// The entry the packet was given.
        pub ct: Conntrack,
        /// Address of the packet's `struct sk_buff`; equals [`Drop::skb`] of the same packet.
        pub skb: u64,
        /// Low 32 bits of jiffies64 at the event, to compare with [`Conntrack::timeout`].
        pub jiffies: u32,
        /// Joins the packet across NAT: see [`Drop::ident`].
        pub ident: u32,
        /// TCP flags byte, 0 for other protocols.
        pub tcp_flags: u32,
        /// What came back: [`NF_DROP`], [`NF_ACCEPT`].
        pub verdict: u32,
        /// Low three bits of `skb->_nfct` (`enum ip_conntrack_info`); without an entry
        /// [`CT_INVALID`] or [`CT_UNTRACKED`].
        pub info: u32,
        /// `skb->skb_iif`: interface on which the packet came in, 0 when it was made here.
        pub iif: u32,
    }
}

/// [`Reject::code`]: "port unreachable" of ICMP (RFC 792) and of ICMPv6 (RFC 4443).
pub const PORT_UNREACH_V4: u32 = 3;
pub const PORT_UNREACH_V6: u32 = 4;

/// [`Reject::hook`]: `enum nf_inet_hooks` (uapi/linux/netfilter.h).
pub const NF_INET_LOCAL_IN: u32 = 1;
pub const NF_INET_FORWARD: u32 = 2;
pub const NF_INET_LOCAL_OUT: u32 = 3;

wire! {
    /// A rule rejects a packet: `nf_send_unreach` or `nf_send_unreach6` was called for it.
    pub struct Reject {
        pub header: Header,
        /// From the packet's own headers.
        pub tuple: Tuple,
        pub ct: Conntrack,
        pub skb: u64,
        /// Joins the packet across NAT: see [`Drop::ident`].
        pub ident: u32,
        /// TCP flags byte, 0 for other protocols.
        pub tcp_flags: u32,
        /// Code of the ICMP or ICMPv6 message "destination unreachable".
        pub code: u32,
        /// Where the rule is: `NF_INET_*`.
        pub hook: u32,
    }
}

/// [`Departure::direction`]: a device is about to send it / has received it.
pub const DIRECTION_OUT: u32 = 1;
pub const DIRECTION_IN: u32 = 2;

/// [`Departure::dev_flags`]: the device is a loopback (`IFF_LOOPBACK`, uapi/linux/if.h).
pub const IFF_LOOPBACK: u32 = 1 << 3;

wire! {
    /// A SYN of the armed connect, or the first answer to it, at a device: `net_dev_start_xmit` or
    /// `netif_receive_skb`.
    pub struct Departure {
        /// The namespace is the device's.
        pub header: Header,
        /// From the packet's own headers, as they are at the device.
        pub tuple: Tuple,
        /// Address of the packet's `struct sk_buff`; equals [`Drop::skb`] of the same packet.
        pub skb: u64,
        /// The client's initial sequence number.
        pub ident: u32,
        /// TCP flags byte: a SYN without ACK is the client's, all else is the answer.
        pub tcp_flags: u32,
        /// [`DIRECTION_OUT`] or [`DIRECTION_IN`].
        pub direction: u32,
        /// 1: it was inside of another packet, as a tunnel had wrapped it.
        pub inner: u32,
        pub ifindex: u32,
        /// `net_device->flags`: `IFF_*`.
        pub dev_flags: u32,
        /// `net_device->name`, ended by a zero.
        pub name: [u8; 16],
        /// `net_device->rtnl_link_ops->kind` ("veth", "vxlan"), ended by a zero; empty for a device
        /// that a driver made: a physical one, as a rule.
        pub link: [u8; 16],
    }
}

/// How many bytes of a packet a [`Packet`] has room for, from the network header on. One less is used:
/// the length is masked for the verifier.
pub const CAPTURE_BYTES: usize = 256;

wire! {
    /// The packet that another event tells of. Its checksums may be left to the device, as any capture on
    /// the same interface shows them.
    pub struct Packet {
        /// `kind` is [`kind::PACKET`]; the rest is that of the event beside it.
        pub header: Header,
        /// From the packet's own headers.
        pub tuple: Tuple,
        /// Its conntrack entry, where the event beside it has that too; else zero.
        pub ct: Conntrack,
        /// Address of the packet's `struct sk_buff`; equals [`Drop::skb`] of the same packet.
        pub skb: u64,
        /// Boot-time nanoseconds at which the packet came by: before `header.ts` where it lay in a queue.
        pub at: u64,
        /// Joins the packet across NAT: see [`Drop::ident`]; of a final ACK the client's ISN too.
        pub ident: u32,
        /// `skb->skb_iif`: interface on which the packet came in, 0 when it was made here.
        pub iif: u32,
        /// TCP flags byte, 0 for other protocols.
        pub tcp_flags: u32,
        /// The kind of the event beside it. [`kind::DNS_RETRY`] of a query that reached its server's
        /// socket again: no other event tells of that.
        pub with: u32,
        /// Length by the IP header.
        pub packet_len: u32,
        /// How many bytes of `bytes` are filled.
        pub captured: u32,
        pub bytes: [u8; CAPTURE_BYTES],
    }
}
