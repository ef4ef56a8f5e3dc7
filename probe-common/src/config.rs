//! What the loader tells the kernel programs: one read-only global, constant for the verifier.

use crate::wire;

/// How many UDP ports count as DNS: servers listen on other ports behind DNAT.
pub const DNS_PORTS: usize = 4;

/// See [`Config::burst`].
pub const NODE: u64 = 32;

wire! {
    /// Settings of one run.
    #[derive(Default)]
    pub struct Config {
        /// Nanoseconds from which a lookup or handshake counts as a stall.
        pub min_stall: u64,
        /// Nanoseconds from which a connect that the program itself gives up counts as one.
        pub min_given_up: u64,
        /// First address of `nf_hook_slow` and the address behind its end; both 0 when kallsyms
        /// could not be read.
        pub nf_hook_slow: [u64; 2],
        /// Nanoseconds in which a (kind, pod) earns the right to send another event.
        pub token_ns: u64,
        /// Events a (kind, pod) may send at once. All pods together may send [`NODE`] times as many
        /// of a kind, at once and per second.
        pub burst: u32,
        /// UDP ports that are DNS, 0 for unused places. Host order.
        pub dns_ports: [u16; DNS_PORTS],
        /// Number of arguments of the tracepoint `skb:kfree_skb`: 2 (5.10), 3, or 4 (6.11).
        pub kfree_skb_args: u32,
        /// How many bytes of a packet are kept, less than [`crate::event::CAPTURE_BYTES`]; 0: packets are
        /// not wanted.
        pub snaplen: u32,
        /// Value of `SKB_CONSUMED` in `enum skb_drop_reason`; [`u32::MAX`] when there is none.
        pub reason_consumed: u32,
        /// Value of `NETFILTER_DROP`; [`u32::MAX`] when there is none.
        pub reason_netfilter_drop: u32,
        pub _pad: u32,
        /// Addresses of the variables `page_offset_base` and `vmemmap_base` (x86); 0 when not known, and
        /// then no page's bytes are read.
        pub page_offset_base: u64,
        pub vmemmap_base: u64,
    }
}
