#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::kernel::btf::build::Builder;

fn parse(b: &Builder) -> Btf {
    Btf::parse(&b.bytes()).unwrap()
}

fn plain(byte_offset: u32, byte_size: u32) -> Field {
    Field { byte_offset, byte_size, bits: None }
}

#[test]
fn a_path_goes_through_anonymous_parts_typedefs_and_qualifiers() {
    let mut b = Builder::new();
    let long = b.int("long", 8);
    let short = b.int("short", 2);
    let pointer = b.ptr(0);
    // possible_net_t: typedef of an anonymous struct
    let net = b.strukt("", 8, &[("net", pointer, 0)]);
    let possible_net = b.typedef("possible_net_t", net);
    let pair = b.strukt("", 8, &[("num", short, 0), ("port", short, 2)]);
    let addr = b.union("", 8, &[("portpair", long, 0), ("", pair, 0)]);
    let common = b.strukt("sock_common", 24, &[("", addr, 8), ("skc_net", possible_net, 16)]);
    let constant = b.qualifier(10, common);
    let tagged = b.qualifier(18, constant);
    b.strukt("sock", 64, &[("__sk_common", tagged, 32)]);
    let btf = parse(&b);

    assert_eq!(btf.member("sock", "__sk_common.skc_net.net"), Ok(plain(48, 8)));
    assert_eq!(btf.member("sock", "__sk_common.port"), Ok(plain(42, 2)));
    assert_eq!(btf.member("sock", "__sk_common.portpair"), Ok(plain(40, 8)));
    assert_eq!(btf.member("sock", "__sk_common"), Ok(plain(32, 24)));
    assert_eq!(btf.member("possible_net_t", "net"), Ok(plain(0, 8)));
    assert_eq!(btf.struct_size("sock"), Ok(64));
    assert_eq!(btf.struct_size("possible_net_t"), Ok(8));
}

#[test]
fn what_is_missing_is_named() {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    let pointer = b.ptr(int);
    b.strukt("nf_conn", 8, &[("p", pointer, 0)]);
    b.fwd("netns_ipvs");
    let btf = parse(&b);

    let missing = |name: &str, path: &str| btf.member(name, path).unwrap_err().to_string();
    assert_eq!(
        missing("nf_conn", "status"),
        "struct nf_conn has no member status in this kernel's BTF"
    );
    assert_eq!(
        missing("nf_conn", "p.x"),
        "p.x of struct nf_conn goes through a ptr in this kernel's BTF"
    );
    assert_eq!(missing("netns_ipvs", "x"), "this kernel's BTF has no struct netns_ipvs");
    assert_eq!(missing("nf_conn", ""), "struct nf_conn has no member  in this kernel's BTF");
    assert!(btf.member("int", "x").is_err());
    assert_eq!(
        btf.struct_size("netns_ipvs"),
        Err(QueryError::NoType { what: "struct", name: "netns_ipvs".to_owned() })
    );
}

#[test]
fn arrays_may_end_a_path() {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    let row = b.array(int, 3);
    let table = b.array(row, 2);
    let flexible = b.array(int, 0);
    b.strukt("s", 28, &[("table", table, 4), ("data", flexible, 28)]);
    let btf = parse(&b);
    assert_eq!(btf.member("s", "table"), Ok(plain(4, 24)));
    assert_eq!(btf.member("s", "data"), Ok(plain(28, 0)));
    assert!(matches!(btf.member("s", "table.x"), Err(QueryError::NotAStruct { .. })));
}

#[test]
fn bitfields_of_both_codings() {
    let mut b = Builder::new();
    let byte = b.int("u8", 1);
    let word = b.int("u32", 4);
    let three = b.int_bits("unsigned int", 4, 3);
    b.struct_with_bitfields(
        "new",
        8,
        &[("a", byte, 0, 3), ("b", byte, 3, 1), ("w", word, 36, 7), ("plain", byte, 16, 0)],
    );
    b.raw("old", 4 << 24 | 1, 8, &[b_name_of_u32(), three, 37]);
    let btf = parse(&b);
    let bits = |byte_offset, byte_size, offset, size| {
        Ok(Field { byte_offset, byte_size, bits: Some(BitField { offset, size }) })
    };
    assert_eq!(btf.member("new", "a"), bits(0, 1, 0, 3));
    assert_eq!(btf.member("new", "b"), bits(0, 1, 3, 1));
    assert_eq!(btf.member("new", "w"), bits(4, 4, 4, 7));
    assert_eq!(btf.member("new", "plain"), Ok(plain(2, 1)));
    assert_eq!(btf.member("old", "u8"), bits(4, 4, 5, 3));
}

/// The first name a builder stores lies at offset 1.
fn b_name_of_u32() -> u32 {
    1
}

#[test]
fn a_packed_bitfield_widens_its_unit() {
    let mut b = Builder::new();
    let byte = b.int("u8", 1);
    b.struct_with_bitfields("packed", 4, &[("x", byte, 6, 4), ("bad", byte, 60, 60)]);
    let btf = parse(&b);
    assert_eq!(
        btf.member("packed", "x"),
        Ok(Field { byte_offset: 0, byte_size: 2, bits: Some(BitField { offset: 6, size: 4 }) })
    );
    assert!(matches!(btf.member("packed", "bad"), Err(QueryError::Malformed(_))));
}

#[test]
fn of_several_structs_with_one_name_the_one_with_the_member_answers() {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    b.fwd("twin");
    b.strukt("twin", 4, &[("a", int, 0)]);
    b.strukt("twin", 12, &[("a", int, 4), ("b", int, 8)]);
    let btf = parse(&b);
    assert_eq!(btf.member("twin", "b"), Ok(plain(8, 4)));
    assert_eq!(btf.member("twin", "a"), Ok(plain(0, 4)));
}

#[test]
fn enums_of_both_widths() {
    let mut b = Builder::new();
    b.enumeration("skb_drop_reason", false, &[("NO", 0), ("MASK", 0xffff_0000)]);
    b.enumeration("signed", true, &[("MINUS", u32::MAX)]);
    b.enumeration64("wide", &[("LOW", -5), ("HIGH", 1 << 40)]);
    let btf = parse(&b);
    assert_eq!(btf.enum_value("skb_drop_reason", "MASK"), Some(0xffff_0000));
    assert_eq!(btf.enum_value("skb_drop_reason", "MAS"), None);
    assert_eq!(btf.enum_value("signed", "MINUS"), Some(-1));
    assert_eq!(btf.enum_values("wide"), vec![("LOW".to_owned(), -5), ("HIGH".to_owned(), 1 << 40)]);
    assert!(btf.enum_values("none").is_empty());
}

#[test]
fn functions_and_tracepoints_count_their_arguments() {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    let none = b.proto(0, &[]);
    let six = b.proto(int, &[int; 6]);
    b.func("nothing", none);
    b.func("tcp_v4_syn_recv_sock", six);
    b.tracepoint("kfree_skb", 4);
    b.tracepoint("bare", 0);
    // typedefs that only look like a tracepoint's
    b.typedef("btf_trace_int", int);
    let to_empty = b.ptr(none);
    b.typedef("btf_trace_no_data", to_empty);
    let btf = parse(&b);
    assert_eq!(btf.func_params("nothing"), Some(0));
    assert_eq!(btf.func_params("tcp_v4_syn_recv_sock"), Some(6));
    assert_eq!(btf.func_params("kfree_skb"), None);
    assert_eq!(btf.tracepoint_args("kfree_skb"), Some(4));
    assert_eq!(btf.tracepoint_args("bare"), Some(0));
    assert_eq!(btf.tracepoint_args("int"), None);
    assert_eq!(btf.tracepoint_args("no_data"), None);
    assert_eq!(btf.tracepoint_args("icmp_send"), None);
}

#[test]
fn cycles_end_in_an_error() {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    let a = b.next_id();
    b.typedef("a", a + 1);
    b.typedef("b", a);
    b.strukt("through_typedefs", 8, &[("m", a, 0), ("", a, 0)]);
    let selfish = b.next_id();
    b.strukt("selfish", 8, &[("", selfish, 0), ("", selfish, 0), ("m", selfish, 0)]);
    let array = b.next_id();
    b.array(array, 1);
    b.strukt("endless_array", 8, &[("m", array, 0)]);
    let huge = b.array(int, u32::MAX);
    b.strukt("huge", 8, &[("m", huge, 0)]);
    let btf = parse(&b);
    for (name, path) in [
        ("through_typedefs", "m"),
        ("through_typedefs", "other"),
        ("selfish", "other"),
        ("selfish", "m.m.other"),
        ("endless_array", "m"),
        ("huge", "m"),
        ("a", "m"),
    ] {
        assert!(
            matches!(btf.member(name, path), Err(QueryError::Malformed(_))),
            "{name}.{path}: {:?}",
            btf.member(name, path)
        );
    }
}

/// Two anonymous parts on each of 30 levels are 2^30 ways down: the budget ends the search.
#[test]
fn wide_nesting_is_cut_by_the_budget() {
    let mut b = Builder::new();
    let mut inner = b.strukt("", 8, &[]);
    for _ in 0..30 {
        inner = b.strukt("", 8, &[("", inner, 0), ("", inner, 0)]);
    }
    b.strukt("bush", 8, &[("", inner, 0)]);
    let btf = parse(&b);
    assert!(matches!(btf.member("bush", "leaf"), Err(QueryError::Malformed(_))));
}
