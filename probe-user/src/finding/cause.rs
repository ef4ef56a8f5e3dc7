//! The catalogue of causes. Ids are used in text, JSON, documentation and tests and never change.

use serde::{Serialize, Serializer};

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $id:literal),+ $(,)?) => {
        /// One entry of the catalogue, in its order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Cause { $($(#[$doc])* $name),+ }

        impl Cause {
            /// The whole catalogue in its order.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The stable kebab-case id.
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id),+ }
            }
        }
    };
}

causes! {
    ConntrackDnatClash = "conntrack-dnat-clash",
    ConntrackSnatClash = "conntrack-snat-clash",
    SnatPortsExhausted = "snat-ports-exhausted",
    ConntrackTableFull = "conntrack-table-full",
    ConntrackInsertFailed = "conntrack-insert-failed",
    ConntrackStaleNat = "conntrack-stale-nat",
    ConntrackInvalid = "conntrack-invalid",
    ReplyNotTranslated = "reply-not-translated",
    ClientPortsExhausted = "client-ports-exhausted",
    AcceptQueueOverflow = "accept-queue-overflow",
    SynQueueOverflow = "syn-queue-overflow",
    IpvsStaleConnection = "ipvs-stale-connection",
    IpvsNodeportCollision = "ipvs-nodeport-collision",
    ServiceNoBackend = "service-no-backend",
    NetfilterDrop = "netfilter-drop",
    NetfilterReject = "netfilter-reject",
    BpfProgramDrop = "bpf-program-drop",
    RpFilter = "rp-filter",
    NoRoute = "no-route",
    ForwardingDisabled = "forwarding-disabled",
    NeighbourFailed = "neighbour-failed",
    NeighbourTableFull = "neighbour-table-full",
    MtuBlackhole = "mtu-blackhole",
    QueueDrop = "queue-drop",
    BadChecksum = "bad-checksum",
    UdpReceiveBufferFull = "udp-receive-buffer-full",
    NoListener = "no-listener",
    ServerSlow = "server-slow",
    CpuThrottled = "cpu-throttled",
    ClientSlow = "client-slow",
    DnsSearchExpansion = "dns-search-expansion",
    DnsIgnoresHosts = "dns-ignores-hosts",
    FirstNameserverDead = "first-nameserver-dead",
    LeftTheNode = "left-the-node",
    /// Nothing above.
    Unknown = "unknown",
}

impl Cause {
    /// The cause with this id.
    pub fn from_id(id: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|cause| cause.id() == id)
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id())
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_kebab_case_and_found_again() {
        for cause in Cause::ALL {
            assert_eq!(Cause::from_id(cause.id()), Some(*cause));
            assert!(cause.id().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
        }
        assert_eq!(Cause::from_id("no-such-cause"), None);
    }
}
