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
    Handshake,
    Conntrack,
    Dns,
    SkbDrop,
}

impl Family {
    pub const ALL: [Self; 5] =
        [Self::Listen, Self::Handshake, Self::Conntrack, Self::Dns, Self::SkbDrop];

    /// The name used in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Handshake => "handshake",
            Self::Conntrack => "conntrack",
            Self::Dns => "dns",
            Self::SkbDrop => "skb_drop",
        }
    }

    /// Fields of [`Offsets`] without which the family's events would say nothing true. All other
    /// fields only add detail, and the programs leave out what is absent.
    fn needs(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Listen => &[PACKET, SOCKET, &["sk_ack_backlog", "sk_max_ack_backlog"]],
            Self::Handshake => &[SOCKET, &["skb_sk"]],
            Self::Conntrack => &[PACKET, ENTRY],
            Self::Dns => &[PACKET, SOCKET, &["skb_sk"]],
            Self::SkbDrop => &[PACKET],
        }
    }
}

/// To find a packet's headers.
const PACKET: &[&str] =
    &["skb_head", "skb_data", "skb_len", "skb_network_header", "skb_transport_header"];
/// To tell whose socket it is.
const SOCKET: &[&str] = &[
    "sk_family",
    "sk_state",
    "sk_num",
    "sk_dport",
    "sk_daddr",
    "sk_rcv_saddr",
    "sk_net",
    "net_inum",
];
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
        match lookup(btfs, strukt, path) {
            Ok(offset) => resolved.offsets.set(index, offset),
            Err(reason) => resolved.absent.push(Absent { field, reason }),
        }
    }
    resolved
}

fn lookup(btfs: &[&Btf], strukt: &str, path: &str) -> Result<u16, String> {
    let mut reason = None;
    for btf in btfs {
        match offset(btf, strukt, path) {
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

fn offset(btf: &Btf, strukt: &str, path: &str) -> Result<u16, Why> {
    let bytes = if path == SIZEOF {
        btf.struct_size(strukt).map_err(Why::Query)?
    } else {
        let field = btf.member(strukt, path).map_err(Why::Query)?;
        if field.bits.is_some() {
            return Err(Why::Unusable(format!("{path} of struct {strukt} is a bitfield here")));
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
        let int = b.int("int", 4);
        let mut structs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for &(field, strukt, path) in Offsets::MEMBERS {
            let paths = structs.entry(strukt).or_default();
            if path != SIZEOF && field != without {
                paths.push(path);
            }
        }
        for (name, paths) in structs {
            composite(&mut b, int, name, &paths);
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
            members.push((step, ty, at as u32 * 4));
        }
        b.strukt(name, members.len() as u32 * 4, &members)
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
        b.strukt("sk_buff", 240, &[("len", int, 112), ("head", int, 200)]);
        b.strukt("nf_conntrack_tuple_hash", 56, &[("tuple", int, 16)]);
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
        assert_eq!(resolved.offsets, expected);

        let reason = |field: &str| {
            resolved.absent.iter().find(|absent| absent.field == field).unwrap().reason.clone()
        };
        assert_eq!(reason("skb_nfct"), "struct sk_buff has no member _nfct in this kernel's BTF");
        assert_eq!(reason("ct_status"), "this kernel's BTF has no struct nf_conn");
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
