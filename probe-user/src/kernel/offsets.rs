//! Fills [`Offsets`] from BTF, and says for each hook family whether it can run with the result.
//!
//! Which member a field stands for is written beside the field in probe-common; which hook needs
//! it, here.

use probe_common::offsets::{ABSENT, Offsets};

use super::btf::{Btf, QueryError};

/// Hooks that are attached, or refused, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    Listen,
    HalfOpen,
    Handshake,
    Probe,
    Conntrack,
    Dns,
    SkbDrop,
    Ipvs,
    Reject,
    Departure,
}

impl Family {
    pub const ALL: [Self; 10] = [
        Self::Listen,
        Self::HalfOpen,
        Self::Handshake,
        Self::Probe,
        Self::Conntrack,
        Self::Dns,
        Self::SkbDrop,
        Self::Ipvs,
        Self::Reject,
        Self::Departure,
    ];

    /// The name used in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::HalfOpen => "half_open",
            Self::Handshake => "handshake",
            Self::Probe => "probe",
            Self::Conntrack => "conntrack",
            Self::Dns => "dns",
            Self::SkbDrop => "skb_drop",
            Self::Ipvs => "ipvs",
            Self::Reject => "reject",
            Self::Departure => "departure",
        }
    }

    /// Fields of [`Offsets`] without which the family's events would say nothing true. All other
    /// fields only add detail, and the programs leave out what is absent.
    fn needs(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Listen => &[PACKET, SOCKET, &["sk_ack_backlog", "sk_max_ack_backlog"]],
            Self::HalfOpen => &[
                PACKET,
                SOCKET,
                &["sk_max_ack_backlog", "icsk_qlen", "sk_drops"],
                &["net_syncookies", "net_max_syn_backlog"],
            ],
            Self::Handshake => &[SOCKET, &["sk_state", "sk_protocol", "inet_sport", "tcp_snd_una"]],
            Self::Probe => {
                &[SOCKET, CARRIED, &["sk_state", "sk_protocol", "inet_sport", "tcp_snd_una"]]
            }
            Self::Conntrack => &[ENTRY, &["net_inum"]],
            Self::Dns => &[PACKET, SOCKET, FLOW, &["skb_sk", "skb_transport_header"]],
            // What it needs of the module itself is asked when the module is there.
            Self::SkbDrop | Self::Ipvs | Self::Reject => &[PACKET],
            Self::Departure => &[PACKET, DEVICE],
        }
    }
}

/// To find a packet's headers.
const PACKET: &[&str] = &["skb_head", "skb_data", "skb_len", "skb_data_len", "skb_network_header"];
/// To tell a physical interface from all others: read as zero, every device would be one.
const DEVICE: &[&str] =
    &["skb_dev", "dev_net", "net_inum", "dev_name", "dev_flags", "dev_link_ops", "link_ops_kind"];
/// To tell whose socket it is. The IPv6 addresses are not among them: a kernel without IPv6 has none.
const SOCKET: &[&str] =
    &["sk_family", "sk_num", "sk_dport", "sk_daddr", "sk_rcv_saddr", "sk_net", "net_inum"];
/// To tell what a connection carried: read as zero, a probe would seem to have got no byte.
const CARRIED: &[&str] = &[
    "tcp_bytes_sent",
    "tcp_bytes_received",
    "tcp_rcv_nxt",
    "tcp_copied_seq",
    "tcp_packets_out",
    "tcp_total_retrans",
    "icsk_lrcvtime",
    "sk_socket",
];
/// To read where a datagram goes.
const FLOW: &[&str] = &["fl4_saddr", "fl4_daddr", "fl4_sport", "fl4_dport"];
/// To read a conntrack entry's two tuples and state.
const ENTRY: &[&str] = &[
    "skb_nfct",
    "ct_tuplehash",
    "ct_status",
    "tuplehash_tuple",
    "tuple_src",
    "tuple_sport",
    "tuple_l3num",
    "tuple_dst",
    "tuple_dport",
    "tuple_protonum",
    "tuple_dir",
    "tuplehash_size",
];

/// Bytes that the programs read. A member that is smaller on some kernel would bring its neighbour
/// along, so it counts as absent; of a larger one they read the low bytes.
const WIDTHS: &[(u32, &[&str])] = &[
    (16, &["sk_v6_daddr", "sk_v6_rcv_saddr", "tuple_src", "tuple_dst", "fl6_saddr", "fl6_daddr"]),
    (8, &["skb_head", "skb_data", "skb_sk", "skb_dev", "skb_nfct", "skb_refdst", "dst_dev"]),
    (8, &["dev_net", "net_cookie", "sk_net", "sk_socket", "socket_ino", "ct_net"]),
    (4, &["skb_len", "skb_data_len", "skb_iif", "dev_ifindex", "net_inum", "net_somaxconn"]),
    (4, &["net_max_syn_backlog", "sk_daddr", "sk_rcv_saddr", "sk_ack_backlog"]),
    (4, &["sk_drops", "sk_max_ack_backlog", "sk_err", "icsk_qlen", "tcp_snd_una", "req_rcv_isn"]),
    (4, &["ct_status", "ct_timeout", "fl4_saddr", "fl4_daddr"]),
    (8, &["sk_errors", "tcp_bytes_sent", "tcp_bytes_received"]),
    (4, &["tcp_rcv_nxt", "tcp_copied_seq", "tcp_packets_out", "tcp_total_retrans"]),
    (4, &["icsk_lrcvtime", "tcp_lsndtime", "skb_end"]),
    (1, &["shinfo_nr_frags"]),
    (16, &["dev_name"]),
    (8, &["dev_link_ops", "link_ops_kind"]),
    (4, &["dev_flags"]),
    (4, &["sk_err_soft", "sk_errors_len", "exterr_errno"]),
    (2, &["skb_network_header", "skb_transport_header", "skb_inner_network_header"]),
    (2, &["sk_family", "sk_num"]),
    (2, &["sk_dport", "sk_protocol", "inet_sport", "tuple_sport", "tuple_l3num", "tuple_dport"]),
    (2, &["fl4_sport", "fl4_dport", "fl6_sport", "fl6_dport"]),
    (1, &["net_syncookies", "sk_state", "icsk_retransmits", "req_num_retrans"]),
    (1, &["tuple_protonum", "tuple_dir"]),
];

/// The path that stands for the size of the struct itself.
const SIZEOF: &str = "sizeof";

/// What the running kernel's BTF says about every field of [`Offsets`].
#[derive(Debug)]
pub struct Resolved {
    pub offsets: Offsets,
    pub absent: Vec<Absent>,
}

/// A field that stays [`ABSENT`].
#[derive(Debug, PartialEq, Eq)]
pub struct Absent {
    /// Name of the field of [`Offsets`].
    pub field: &'static str,
    /// A sentence without a full stop: "struct nf_conn has no member x in this kernel's BTF".
    pub reason: String,
}

impl Resolved {
    /// Why a family's hooks cannot run here, or `None` when they can: the first needed member that
    /// is missing.
    #[must_use]
    pub fn refusal(&self, family: Family) -> Option<&str> {
        let needed: Vec<&str> = family.needs().iter().copied().flatten().copied().collect();
        self.absent
            .iter()
            .find(|absent| needed.contains(&absent.field))
            .map(|absent| absent.reason.as_str())
    }
}

/// Looks up every field. `btfs` are asked in turn, the first that has a member answers: vmlinux
/// first, then the modules' (a kernel may describe `struct nf_conn` only in its module).
#[must_use]
pub fn resolve(btfs: &[&Btf]) -> Resolved {
    let mut resolved = Resolved { offsets: Offsets::UNKNOWN, absent: Vec::new() };
    for (index, &(field, strukt, path)) in Offsets::MEMBERS.iter().enumerate() {
        match lookup(btfs, strukt, path, width(field)) {
            Ok(offset) => resolved.offsets.set(index, offset),
            Err(reason) => resolved.absent.push(Absent { field, reason }),
        }
    }
    resolved
}

fn width(field: &str) -> u32 {
    WIDTHS.iter().find(|(_, fields)| fields.contains(&field)).map_or(0, |&(width, _)| width)
}

fn lookup(btfs: &[&Btf], strukt: &str, path: &str, width: u32) -> Result<u16, String> {
    let mut reason = None;
    for btf in btfs {
        match offset(btf, strukt, path, width) {
            Ok(offset) => return Ok(offset),
            // A later BTF that knows the struct says more than an earlier one that does not.
            Err(why)
                if reason.is_none() || !matches!(why, Why::Query(QueryError::NoType { .. })) =>
            {
                reason = Some(why);
            }
            Err(_) => {}
        }
    }
    Err(match reason {
        Some(Why::Query(error)) => error.to_string(),
        Some(Why::Unusable(reason)) => reason,
        None => "this kernel has no BTF (/sys/kernel/btf/vmlinux)".to_owned(),
    })
}

enum Why {
    Query(QueryError),
    Unusable(String),
}

fn offset(btf: &Btf, strukt: &str, path: &str, width: u32) -> Result<u16, Why> {
    let bytes = if path == SIZEOF {
        btf.struct_size(strukt).map_err(Why::Query)?
    } else {
        let field = btf.member(strukt, path).map_err(Why::Query)?;
        if field.bits.is_some() {
            return Err(Why::Unusable(format!("{path} of struct {strukt} is a bitfield here")));
        }
        if field.byte_size < width {
            return Err(Why::Unusable(format!(
                "{path} of struct {strukt} has {} bytes here, not {width}",
                field.byte_size
            )));
        }
        field.byte_offset
    };
    u16::try_from(bytes).ok().filter(|&offset| offset != ABSENT).ok_or_else(|| {
        Why::Unusable(format!("{path} of struct {strukt} lies at {bytes}, farther than expected"))
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

    use std::{
        collections::{BTreeMap, HashSet},
        path::Path,
        sync::Arc,
    };

    use super::*;
    use crate::kernel::btf::{build::Builder, load_vmlinux};

    /// A kernel that has every member of [`Offsets`] but for that of the field `without`.
    fn kernel(without: &str) -> Builder {
        let mut b = Builder::new();
        let leaf = b.int("__int128", 16);
        let mut structs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for &(field, strukt, path) in Offsets::MEMBERS {
            let paths = structs.entry(strukt).or_default();
            if path != SIZEOF && field != without {
                paths.push(path);
            }
        }
        for (name, paths) in structs {
            composite(&mut b, leaf, name, &paths);
        }
        b
    }

    /// A struct with these dotted paths; the steps before the last become anonymous types.
    fn composite(b: &mut Builder, leaf: u32, name: &str, paths: &[&str]) -> u32 {
        let mut steps: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for path in paths {
            let (first, rest) = path.split_once('.').unwrap_or((path, ""));
            let rests = steps.entry(first).or_default();
            if !rest.is_empty() {
                rests.push(rest);
            }
        }
        let mut members = Vec::new();
        for (at, (step, rests)) in steps.into_iter().enumerate() {
            let ty = if rests.is_empty() { leaf } else { composite(b, leaf, "", &rests) };
            members.push((step, ty, at as u32 * 16));
        }
        b.strukt(name, members.len() as u32 * 16, &members)
    }

    fn index(field: &str) -> usize {
        Offsets::MEMBERS.iter().position(|(name, _, _)| *name == field).unwrap()
    }

    #[test]
    fn needed_fields_exist() {
        let known: HashSet<&str> = Offsets::MEMBERS.iter().map(|(field, _, _)| *field).collect();
        for family in Family::ALL {
            for field in family.needs().iter().copied().flatten() {
                assert!(known.contains(field), "{} needs {field}", family.name());
            }
        }
        for field in WIDTHS.iter().flat_map(|(_, fields)| *fields) {
            assert!(known.contains(field), "width of {field}");
        }
    }

    #[test]
    fn nothing_is_resolved_without_btf() {
        let resolved = resolve(&[]);
        assert_eq!(resolved.offsets, Offsets::UNKNOWN);
        assert_eq!(resolved.absent.len(), Offsets::MEMBERS.len());
        assert!(resolved.refusal(Family::SkbDrop).unwrap().contains("no BTF"));
    }

    #[test]
    fn fields_land_where_they_belong() {
        let mut b = Builder::new();
        let int = b.int("int", 4);
        let byte = b.int("u8", 1);
        let pointer = b.ptr(0);
        b.strukt(
            "sk_buff",
            240,
            &[("len", int, 112), ("head", pointer, 200), ("network_header", byte, 184)],
        );
        b.strukt("nf_conntrack_tuple_hash", 56, &[("tuple", int, 16)]);
        // An unsigned long of which the low four bytes are read.
        b.strukt("nf_conn", 248, &[("status", pointer, 128)]);
        b.struct_with_bitfields("request_sock", 8, &[("num_retrans", int, 3, 5)]);
        b.strukt("socket_alloc", 70_000, &[("vfs_inode", int, 68_000)]);
        b.strukt("sock", 70_000, &[("sk_err", int, 66_000)]);
        let btf = Btf::parse(&b.bytes()).unwrap();
        let resolved = resolve(&[&btf]);
        let mut expected = Offsets::UNKNOWN;
        expected.skb_len = 112;
        expected.skb_head = 200;
        expected.tuplehash_tuple = 16;
        expected.tuplehash_size = 56;
        expected.ct_status = 128;
        assert_eq!(resolved.offsets, expected);

        let reason = |field: &str| {
            resolved.absent.iter().find(|absent| absent.field == field).unwrap().reason.clone()
        };
        assert_eq!(reason("skb_nfct"), "struct sk_buff has no member _nfct in this kernel's BTF");
        assert_eq!(reason("tuple_src"), "this kernel's BTF has no struct nf_conntrack_tuple");
        assert_eq!(
            reason("skb_network_header"),
            "network_header of struct sk_buff has 1 bytes here, not 2"
        );
        assert_eq!(
            reason("req_num_retrans"),
            "num_retrans of struct request_sock is a bitfield here"
        );
        assert_eq!(reason("sk_err"), "sk_err of struct sock lies at 66000, farther than expected");
    }

    #[test]
    fn a_missing_member_refuses_only_the_families_that_need_it() {
        let complete = Btf::parse(&kernel("").bytes()).unwrap();
        let resolved = resolve(&[&complete]);
        assert_eq!(resolved.absent, []);
        for family in Family::ALL {
            assert_eq!(resolved.refusal(family), None, "{}", family.name());
        }

        let without = Btf::parse(&kernel("ct_status").bytes()).unwrap();
        let resolved = resolve(&[&without]);
        assert_eq!(resolved.offsets.get(index("ct_status")), Some(ABSENT));
        assert_eq!(
            resolved.refusal(Family::Conntrack),
            Some("struct nf_conn has no member status in this kernel's BTF")
        );
        for family in [Family::Listen, Family::Handshake, Family::Dns, Family::SkbDrop] {
            assert_eq!(resolved.refusal(family), None, "{}", family.name());
        }
    }

    #[test]
    fn a_struct_that_only_a_module_describes_is_found() {
        let mut vmlinux = Builder::new();
        let int = vmlinux.int("int", 4);
        vmlinux.fwd("nf_conn");
        let mut module = Builder::on(&vmlinux);
        module.strukt("nf_conn", 8, &[("timeout", int, 0), ("status", int, 4)]);
        let base = Arc::new(Btf::parse(&vmlinux.bytes()).unwrap());
        let split = Btf::parse_split(&module.bytes(), &base).unwrap();

        let resolved = resolve(&[&base, &split]);
        assert_eq!(resolved.offsets.ct_status, 4);
        let reason = resolved.absent.iter().find(|absent| absent.field == "ct_net").unwrap();
        assert_eq!(reason.reason, "struct nf_conn has no member ct_net.net in this kernel's BTF");
    }

    #[test]
    fn the_running_kernel_has_what_every_socket_hook_needs() {
        let Ok(btf) = load_vmlinux(Path::new("/")) else {
            println!("skipped: this kernel has no readable BTF");
            return;
        };
        let resolved = resolve(&[&btf]);
        for family in [Family::Listen, Family::Handshake, Family::Dns, Family::SkbDrop] {
            assert_eq!(resolved.refusal(family), None, "{}", family.name());
        }
    }
}
