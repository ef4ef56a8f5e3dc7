#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::kernel::btf::build::{Builder, TYPE_HEADER};

fn sample() -> Builder {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    let anon = b.union("", 4, &[("x", int, 0), ("y", int, 0)]);
    let nested = b.array(int, 3);
    b.strukt("outer", 20, &[("", anon, 0), ("list", nested, 4)]);
    b.struct_with_bitfields("flags", 4, &[("a", int, 0, 3), ("b", int, 3, 1), ("c", int, 8, 0)]);
    b.enumeration("mode", false, &[("OFF", 0), ("ON", 1)]);
    b.enumeration64("wide", &[("BIG", 1 << 40)]);
    let proto = b.proto(int, &[int, int]);
    b.func("do_it", proto);
    b.tracepoint("thing", 2);
    b
}

/// Every question there is, with the names that `sample` knows.
fn ask_everything(btf: &Btf) {
    for name in ["outer", "flags", "mode", "wide", "do_it", "int", "", "thing"] {
        for path in ["x", "list", "a", "b", "c", "list.x", "", ".", "x."] {
            let _ = btf.member(name, path);
        }
        let _ = btf.struct_size(name);
        let _ = btf.enum_value(name, "ON");
        let _ = btf.enum_values(name);
        let _ = btf.func_params(name);
        let _ = btf.tracepoint_args(name);
    }
}

#[test]
fn a_sample_parses_and_counts_its_types() {
    let btf = Btf::parse(&sample().bytes()).unwrap();
    assert_eq!(btf.len(), 13);
    assert!(!btf.is_empty());
}

#[test]
fn no_types_at_all_is_valid() {
    let btf = Btf::parse(&Builder::new().bytes()).unwrap();
    assert!(btf.is_empty());
}

#[test]
fn every_cut_is_an_error() {
    let bytes = sample().bytes();
    for len in 0..bytes.len() {
        let error = Btf::parse(&bytes[..len]).unwrap_err();
        assert!(matches!(error, BtfError::Truncated { .. }), "{len}: {error}");
    }
}

#[test]
fn header_mistakes_are_told_apart() {
    let good = sample().bytes();
    let change = |at: usize, to: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        Btf::parse(&bytes).unwrap_err()
    };
    assert_eq!(change(0, &0x9feb_u16.to_ne_bytes()), BtfError::ForeignByteOrder);
    assert_eq!(change(0, &0x1234_u16.to_ne_bytes()), BtfError::BadMagic(0x1234));
    assert_eq!(change(2, &[2]), BtfError::UnknownVersion(2));
    assert!(matches!(change(4, &8_u32.to_ne_bytes()), BtfError::Truncated { what: "header", .. }));
    assert!(matches!(
        change(12, &u32::MAX.to_ne_bytes()),
        BtfError::Truncated { what: "type section", .. }
    ));
    assert!(matches!(
        change(16, &u32::MAX.to_ne_bytes()),
        BtfError::Truncated { what: "string section", .. }
    ));
    assert!(matches!(change(good.len() - 1, b"x"), BtfError::BadStrings(_)));
    assert_eq!(
        change(20, &0_u32.to_ne_bytes()),
        BtfError::BadStrings("it is empty"),
        "vmlinux BTF always has the empty string"
    );
}

#[test]
fn a_longer_header_of_a_newer_kernel_is_skipped() {
    let mut bytes = sample().bytes();
    bytes[4..8].copy_from_slice(&32_u32.to_ne_bytes());
    bytes.splice(24..24, [0xff; 8]);
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.enum_value("mode", "ON"), Some(1));
}

#[test]
fn an_unknown_kind_is_named() {
    let mut b = Builder::new();
    b.int("int", 4);
    b.raw("strange", 20 << 24, 0, &[]);
    assert_eq!(
        Btf::parse(&b.bytes()).unwrap_err(),
        BtfError::UnknownKind { id: 2, kind: 20 },
        "an unknown kind has an unknown length: nothing after it can be read"
    );
    let mut b = Builder::new();
    b.raw("", 0, 0, &[]);
    assert_eq!(Btf::parse(&b.bytes()).unwrap_err(), BtfError::UnknownKind { id: 1, kind: 0 });
}

#[test]
fn every_known_kind_has_its_length() {
    let mut b = Builder::new();
    let kinds = [
        (1, 0, 1),
        (2, 0, 0),
        (3, 0, 3),
        (4, 2, 6),
        (5, 1, 3),
        (6, 3, 6),
        (7, 0, 0),
        (8, 0, 0),
        (9, 0, 0),
        (10, 0, 0),
        (11, 0, 0),
        (12, 0, 0),
        (13, 2, 4),
        (14, 0, 1),
        (15, 2, 6),
        (16, 0, 0),
        (17, 0, 1),
        (18, 0, 0),
        (19, 2, 6),
    ];
    for (kind, vlen, words) in kinds {
        b.raw("", kind << 24 | vlen, 0, &vec![0; words]);
    }
    b.enumeration("last", false, &[("FOUND", 7)]);
    let btf = Btf::parse(&b.bytes()).unwrap();
    assert_eq!(btf.len(), kinds.len() + 1);
    assert_eq!(btf.enum_value("last", "FOUND"), Some(7));
}

#[test]
fn a_type_longer_than_its_section_is_named() {
    let mut b = Builder::new();
    b.int("int", 4);
    b.raw("s", 4 << 24 | 0xffff, 4, &[0, 0, 0]);
    assert_eq!(Btf::parse(&b.bytes()).unwrap_err(), BtfError::TypeOverrun { id: 2 });

    let mut bytes = sample().bytes();
    let len = TYPE_HEADER as u32 - 1;
    bytes[12..16].copy_from_slice(&len.to_ne_bytes());
    assert_eq!(Btf::parse(&bytes).unwrap_err(), BtfError::TypeOverrun { id: 1 });
}

#[test]
fn split_btf_continues_ids_and_strings() {
    let mut base_builder = Builder::new();
    let int = base_builder.int("int", 4);
    let inner = base_builder.strukt("inner", 8, &[("a", int, 0), ("b", int, 4)]);
    let mut module = Builder::on(&base_builder);
    module.strukt("mine", 16, &[("own", int, 0), ("theirs", inner, 8)]);

    let base = Arc::new(Btf::parse(&base_builder.bytes()).unwrap());
    let split = Btf::parse_split(&module.bytes(), &base).unwrap();
    assert_eq!(split.len(), 1);
    assert_eq!(split.member("mine", "theirs.b").unwrap().byte_offset, 12);
    assert_eq!(split.struct_size("inner"), Ok(8), "the base answers, too");
    assert!(base.struct_size("mine").is_err(), "but the base does not know the module");

    // Its strings continue the base's, so it has no empty string of its own to start with.
    assert!(Btf::parse(&module.bytes()).is_err());
}

#[test]
fn a_module_without_strings_of_its_own_is_valid() {
    let mut base_builder = Builder::new();
    base_builder.int("int", 4);
    let mut module = Builder::on(&base_builder);
    module.ptr(1);
    let base = Arc::new(Btf::parse(&base_builder.bytes()).unwrap());
    assert_eq!(Btf::parse_split(&module.bytes(), &base).unwrap().len(), 1);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(btf) = Btf::parse(&bytes) {
            ask_everything(&btf);
        }
    }

    /// Random words behind a good header reach the type section much more often.
    #[test]
    fn random_types_never_panic(
        types in prop::collection::vec((0_u32..8, 0_u32..20, 0_u32..4, any::<bool>(), 0_u32..9,
            prop::collection::vec(0_u32..9, 12)), 0..8),
    ) {
        let mut b = Builder::new();
        for (name, kind, vlen, flag, to, words) in &types {
            let trailing = match kind {
                1 | 14 | 17 => 1,
                3 => 3,
                4 | 5 | 15 | 19 => 3 * vlen,
                6 | 13 => 2 * vlen,
                _ => 0,
            };
            let name = ["outer", "mode", "do_it", "x", "", "btf_trace_thing", "flags", "wide"]
                [*name as usize];
            b.raw(
                name,
                u32::from(*flag) << 31 | kind << 24 | vlen,
                *to,
                &words[..trailing as usize],
            );
        }
        if let Ok(btf) = Btf::parse(&b.bytes()) {
            ask_everything(&btf);
        }
    }

    #[test]
    fn mutated_btf_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = sample().bytes();
        for (at, to) in changes {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        if let Ok(btf) = Btf::parse(&bytes) {
            ask_everything(&btf);
            // The same bytes as a module on top of themselves: ids and strings continue.
            let base = Arc::new(btf);
            if let Ok(split) = Btf::parse_split(&bytes, &base) {
                ask_everything(&split);
            }
        }
    }
}

/// The machine's own kernel, where there is one with BTF.
#[test]
fn the_running_kernel_parses() {
    let path = std::path::Path::new("/sys/kernel/btf/vmlinux");
    if !path.exists() {
        println!("skipped: this kernel has no {}", path.display());
        return;
    }
    let btf = match crate::kernel::btf::load_vmlinux(std::path::Path::new("/")) {
        Ok(btf) => btf,
        Err(error) => panic!("{error:?}"),
    };
    assert!(btf.len() > 10_000, "only {} types", btf.len());
    // Fixed by the wire format or the ABI, whatever the kernel.
    assert_eq!(btf.struct_size("iphdr"), Ok(20));
    assert_eq!(btf.member("iphdr", "saddr").unwrap().byte_offset, 12);
    assert_eq!(btf.struct_size("ipv6hdr"), Ok(40));
    assert!(btf.member("sk_buff", "network_header").unwrap().byte_offset > 0);
    assert_eq!(btf.member("sock", "__sk_common.skc_family").unwrap().byte_size, 2);
    assert!(btf.tracepoint_args("kfree_skb").unwrap() >= 2);
    assert_eq!(btf.func_params("tcp_conn_request"), Some(4));
}
