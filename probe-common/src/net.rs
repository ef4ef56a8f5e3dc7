//! Addresses and flows as the kernel sees them.

use crate::wire;

/// IP protocol numbers (RFC 1700) that stallprobe looks at.
pub const IPPROTO_ICMP: u8 = 1;
pub const IPPROTO_TCP: u8 = 6;
pub const IPPROTO_UDP: u8 = 17;
pub const IPPROTO_ICMPV6: u8 = 58;

/// [`Tuple::family`]: nothing known, IPv4, IPv6.
pub const FAMILY_NONE: u8 = 0;
pub const FAMILY_V4: u8 = 4;
pub const FAMILY_V6: u8 = 6;

wire! {
    /// A flow in one direction. An IPv4 address takes the first four bytes, the rest are zero.
    /// Ports are in host order; for ICMP `sport` is the id and `dport` is `type << 8 | code`.
    #[derive(Hash, Default)]
    pub struct Tuple {
        pub src: [u8; 16],
        pub dst: [u8; 16],
        pub sport: u16,
        pub dport: u16,
        pub proto: u8,
        pub family: u8,
        pub _pad: [u8; 2],
    }
}

wire! {
    /// A connection tracking entry (`struct nf_conn`) as found at the moment of an event.
    #[derive(Default)]
    pub struct Conntrack {
        pub orig: Tuple,
        pub reply: Tuple,
        /// `ct->status`, the `IPS_*` bits of `uapi/linux/netfilter/nf_conntrack_common.h`.
        pub status: u32,
        /// `ct->timeout`: of a confirmed entry the low 32 bits of the jiffies at which it ends, of
        /// an unconfirmed one the number of jiffies it will live from confirmation on.
        pub timeout: u32,
        /// Low three bits of `skb->_nfct`: `enum ip_conntrack_info`. 0xff when not known.
        pub info: u8,
        /// 1 when the packet had an entry, else all of this struct is zero.
        pub present: u8,
        /// TCP: `ct->proto.tcp.state`, see [`ct_tcp`]; 0 for other protocols.
        pub tcp_state: u8,
        pub _pad: [u8; 5],
        /// UDP: `ct->proto.udp.stream_ts`, the jiffies two seconds after the entry's first packet:
        /// the difference of two tells which came when. 0 for other protocols.
        pub born: u64,
    }
}

/// `enum tcp_conntrack` (uapi/linux/netfilter/nf_conntrack_tcp.h).
pub mod ct_tcp {
    pub const SYN_SENT: u8 = 1;
    pub const SYN_RECV: u8 = 2;
    pub const ESTABLISHED: u8 = 3;
}

/// `IPS_*` bits of `ct->status` (uapi, the same on 5.10 to 7.2).
pub mod ips {
    pub const EXPECTED: u32 = 1 << 0;
    pub const SEEN_REPLY: u32 = 1 << 1;
    pub const ASSURED: u32 = 1 << 2;
    pub const CONFIRMED: u32 = 1 << 3;
    pub const SRC_NAT: u32 = 1 << 4;
    pub const DST_NAT: u32 = 1 << 5;
    pub const SRC_NAT_DONE: u32 = 1 << 7;
    pub const DST_NAT_DONE: u32 = 1 << 8;
    pub const DYING: u32 = 1 << 9;
    pub const FIXED_TIMEOUT: u32 = 1 << 10;
    /// Same bit as `IPS_UNTRACKED`: the loser of a clash, inserted in the reply direction only.
    pub const NAT_CLASH: u32 = 1 << 12;
}
