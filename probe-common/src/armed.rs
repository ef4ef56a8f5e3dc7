//! Armed hooks: programs on functions that run for every packet, attached for one flow and a few
//! seconds only.

use crate::{net::Tuple, wire};

wire! {
    /// What the armed programs look for: the only value of the map `ARMED`, written before they are
    /// attached.
    pub struct Armed {
        /// The flow as its packets carry it at that place. Packets of either direction match.
        pub flow: Tuple,
        /// Boot-time nanoseconds from which on nothing is looked at.
        pub until: u64,
        /// Nanoseconds that one CPU may spend in the armed programs.
        pub budget: u64,
        /// The client's initial sequence number, for programs that look for one connect wherever NAT
        /// has taken it; else 0.
        pub isn: u32,
        pub _pad: u32,
    }
}

wire! {
    /// What one CPU spent on the armed programs: the only value of the map `ARMED_COST`, zero when
    /// they are attached.
    #[derive(Default)]
    pub struct Cost {
        /// How often an armed program ran.
        pub runs: u64,
        /// How often it was for a packet of the flow.
        pub matched: u64,
        /// Nanoseconds spent inside of the programs. The kernel's own part of a probe comes on top.
        pub ns: u64,
        /// Runs that did nothing, because the budget was used up.
        pub silent: u64,
    }
}
