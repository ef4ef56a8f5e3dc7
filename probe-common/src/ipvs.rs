//! Where the module ip_vs keeps what the programs read. It may be loaded long after the programs
//! were, so these offsets are in a map and not in [`crate::offsets::Offsets`].

use crate::{offsets::ABSENT, plain};

macro_rules! layout {
    ($($(#[$meta:meta])* $field:ident = $st:literal . $path:literal),+ $(,)?) => {
        /// Byte offsets of members of ip_vs's structs, [`ABSENT`] for a member that is not there.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Layout {
            $(#[doc = concat!("`struct ", $st, "`: `", $path, "`.")] $(#[$meta])* pub $field: u16,)+
        }
        plain!(Layout { $($field: u16),+ });

        impl Layout {
            pub const UNKNOWN: Self = Self { $($field: ABSENT),+ };

            /// Asks for each member in turn: field, struct, path. The first error is given back.
            ///
            /// # Errors
            /// What `find` says of a member.
            pub fn resolve<E>(
                mut find: impl FnMut(&'static str, &'static str, &'static str) -> Result<u16, E>,
            ) -> Result<Self, E> {
                Ok(Self { $($field: find(stringify!($field), $st, $path)?),+ })
            }
        }
    };
}

layout! {
    svc_addr = "ip_vs_service"."addr",
    svc_port = "ip_vs_service"."port",
    svc_num_dests = "ip_vs_service"."num_dests",
    cp_vaddr = "ip_vs_conn"."vaddr",
    cp_vport = "ip_vs_conn"."vport",
    cp_daddr = "ip_vs_conn"."daddr",
    cp_dport = "ip_vs_conn"."dport",
    cp_state = "ip_vs_conn"."state",
    cp_in_pkts = "ip_vs_conn"."in_pkts",
    cp_dest = "ip_vs_conn"."dest",
    dest_weight = "ip_vs_dest"."weight",
    dest_flags = "ip_vs_dest"."flags",
    /// Where `IP_VS_DEST_F_AVAILABLE` moved to in newer kernels; absent in older ones.
    dest_cflags = "ip_vs_dest"."cflags",
}

/// Debian's 5.10 on amd64, which has no BTF of modules (include/net/ip_vs.h of that series).
pub const LAYOUT_5_10: Layout = Layout {
    svc_addr: 40,
    svc_port: 56,
    svc_num_dests: 104,
    cp_vaddr: 40,
    cp_vport: 20,
    cp_daddr: 56,
    cp_dport: 18,
    cp_state: 148,
    cp_in_pkts: 192,
    cp_dest: 184,
    dest_weight: 60,
    dest_flags: 52,
    dest_cflags: ABSENT,
};
