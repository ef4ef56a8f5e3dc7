//! Counters kept by the kernel programs, one set per CPU: exact, whatever the ring buffer does.

use crate::{event::kind, wire};

wire! {
    /// One CPU's counters. The loader adds them up (the `slowest_*` by maximum).
    pub struct Stats {
        /// How often each kind happened, whether or not it was sent.
        pub seen: [u64; kind::COUNT],
        /// Not sent because the pod's bucket for the kind was empty.
        pub limited: [u64; kind::COUNT],
        /// Not sent because the ring buffer was full.
        pub lost: [u64; kind::COUNT],
        /// DNS queries sent and answers that arrived at clients' sockets.
        pub dns_queries: u64,
        pub dns_answers: u64,
        /// Answers with NXDOMAIN.
        pub dns_nxdomain: u64,
        /// Slowest answer in nanoseconds.
        pub dns_slowest: u64,
        /// Connects begun and established.
        pub connects: u64,
        pub established: u64,
        /// Slowest handshake in nanoseconds.
        pub connect_slowest: u64,
        /// Questions, arrivals and connects that the pairing maps had no room for.
        pub dns_unpaired: u64,
        pub server_unpaired: u64,
        pub connect_unpaired: u64,
        /// DNS packets whose payload was not in the packet's linear part, so not read.
        pub dns_unreadable: u64,
        /// Return of a hooked function whose entry was not seen, or the other way round.
        pub unmatched_returns: u64,
        /// Packets dropped by a full conntrack table (`early_drop` without success).
        pub table_full: u64,
    }
}
