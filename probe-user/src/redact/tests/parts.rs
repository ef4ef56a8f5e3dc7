//! Addresses, names, packets and requests one by one.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use probe_common::event::kind;
use proptest::prelude::*;

use super::{
    super::{Key, address, label, name},
    Redactor, SECRET,
};
use crate::{
    correlate::dns,
    event::{
        Body, Event,
        decode::{decode, encode},
    },
    testing::{A, question},
};

fn ip(text: &str) -> IpAddr {
    address::ip(&Key::new(SECRET), text.parse().unwrap())
}

fn shared(a: IpAddr, b: IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a) ^ u128::from(b)).leading_zeros(),
        _ => panic!("{a} and {b} are of two families"),
    }
}

#[test]
fn special_addresses_stay() {
    for special in [
        "0.0.0.0",
        "127.0.0.1",
        "127.0.0.53",
        "169.254.20.10",
        "169.254.169.254",
        "224.0.0.251",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::fb",
        "::ffff:127.0.0.1",
    ] {
        assert_eq!(ip(special), special.parse::<IpAddr>().unwrap());
    }
    assert!(matches!(ip("fe80::1"), IpAddr::V6(v6) if v6.is_unicast_link_local()));
}

#[test]
fn private_blocks_stay_private_and_public_addresses_public() {
    let in_block = |text: &str, block: &str, bits| {
        let new = ip(text);
        assert!(shared(new, block.parse().unwrap()) >= bits, "{text} became {new}");
        assert_ne!(new, text.parse::<IpAddr>().unwrap());
    };
    in_block("10.96.0.10", "10.0.0.0", 8);
    in_block("172.20.1.2", "172.16.0.0", 12);
    in_block("192.168.1.10", "192.168.0.0", 16);
    in_block("100.64.3.4", "100.64.0.0", 10);
    in_block("fd00:10:96::a", "fd00::", 8);
    in_block("2001:db8::17", "2000::", 3);
    for first in 1..=223_u8 {
        let old = Ipv4Addr::new(first, 200, 3, 4);
        let new = address::v4_of(&Key::new(SECRET), old);
        assert_eq!(is_public(old), is_public(new), "{old} became {new}");
    }
}

fn is_public(v4: Ipv4Addr) -> bool {
    let [a, b, ..] = v4.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    !(a == 0 || v4.is_private() || v4.is_loopback() || v4.is_link_local() || is_shared || a > 223)
}

#[test]
fn a_socket_of_ipv6_shows_the_same_ipv4_address() {
    let (IpAddr::V6(mapped), IpAddr::V4(plain)) = (ip("::ffff:10.1.2.3"), ip("10.1.2.3")) else {
        panic!("families stay");
    };
    assert_eq!(mapped.to_ipv4_mapped(), Some(plain));
}

#[test]
fn keys_differ() {
    let other = address::ip(&Key::new(b"another"), "10.1.2.3".parse().unwrap());
    assert_ne!(ip("10.1.2.3"), other);
}

/// Every one of many inputs becomes something of its own.
fn all_differ<T: std::hash::Hash + Eq + std::fmt::Debug, I: std::fmt::Debug>(
    all: impl Iterator<Item = I>,
    new: impl Fn(&I) -> T,
) {
    let mut seen = HashMap::new();
    for old in all {
        if let Some(before) = seen.insert(new(&old), format!("{old:?}")) {
            panic!("{old:?} and {before} became one");
        }
    }
}

#[test]
fn no_two_become_one() {
    let key = Key::new(SECRET);
    let scattered = |n: u32| n.wrapping_mul(2_654_435_761);
    all_differ(0..20_000_u32, |n| address::v4_of(&key, scattered(*n).into()));
    all_differ(0..1000_u32, |n| {
        let v6 = u128::from(scattered(*n)) << 96 | u128::from(scattered(n ^ 77)) << 3;
        address::ip(&key, Ipv6Addr::from(v6).into())
    });
    all_differ(0..20_000, |n| name::pod(&key, &format!("shop/web-{n}")));
    all_differ(0..20_000, |n| name::process(&key, &format!("worker-{n}")));
    all_differ(0..2000, |n| label::label(&key, format!("web-{n}").as_bytes()));
    // All labels of up to two letters and digits, where room is least.
    let signs = || (b'a'..=b'z').chain(b'0'..=b'9').chain([b'-']);
    all_differ(signs(), |a| label::label(&key, &[*a]));
    let pairs = signs().flat_map(|a| signs().map(move |b| [a, b]));
    all_differ(pairs, |pair| label::label(&key, pair));
    all_differ(0..=255_u8, |byte| label::label(&key, &[*byte]));
}

#[test]
fn names_keep_what_correlation_knows_them_by() {
    let key = Key::new(SECRET);
    for stays in ["host", "netns:4026532177", "netns:host"] {
        assert_eq!(name::pod(&key, stays), stays);
    }
    let [a, b] = ["shop/web-1", "shop/web-2"].map(|pod| name::pod(&key, pod));
    assert_eq!(a.split_once('/').unwrap().0, b.split_once('/').unwrap().0);
    assert_ne!(a, b);
    assert!(a.starts_with("ns-") && a.contains("/pod-"), "{a}");
    let uid = name::pod(&key, "pod:0b8a9e1c (host name web-1)");
    assert!(uid.starts_with("pod:") && uid.contains(" (host name host-"), "{uid}");
    assert!(!uid.contains("0b8a9e1c") && !uid.contains("web-1"), "{uid}");
    assert!(name::pod(&key, "netns:cni-12345678").starts_with("netns:"));
    assert_eq!(name::process(&key, "kubelet"), "kubelet");
    assert!(name::process(&key, "a-long-comm-123").len() <= 15);
    assert_eq!(name::container_id(&key, &"a".repeat(64)).len(), 64);
    assert_eq!(name::kernel("6.8.0-1021-aws"), "6.8.0-1021-aws");
    assert_eq!(name::kernel("6.1.0-acme+bank7"), "6.1.0-x+x7");
}

#[test]
fn a_name_keeps_its_shape_and_its_hash_is_that_of_packets() {
    let mut redactor = Redactor::new(SECRET);
    let wire = b"\x08Shop-Api\x04prod\x03svc\x07cluster\x05local\0";
    let mut event = crate::testing::query(kind::DNS_RETRY, 7, A, 0);
    event.question = question(7, A, wire);
    event.question.name[100..].fill(b'Z');
    let redacted = redactor.dns(Box::new(event)).question;
    let name = &redacted.name[..wire.len()];
    assert_eq!(&name[14..], b"\x03svc\x07cluster\x05local\0");
    assert_ne!(&name[1..9], b"Shop-Api");
    assert!(name[1].is_ascii_uppercase() && name[2].is_ascii_lowercase() && name[5] == b'-');
    assert_eq!(redacted.hash, dns::hash(name));
    assert!(redacted.name[wire.len()..].iter().all(|b| *b == 0), "an earlier name's rest");
    // The packet of this question.
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 2, 3, 10, 96, 0, 10];
    packet.extend([0x9d, 0x78, 0, 53, 0, 0, 0, 0, 0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend_from_slice(wire);
    packet.extend([0, 1, 0, 1]);
    redactor.packet(&mut packet);
    let message = dns::of_packet(&packet).unwrap();
    assert_eq!(message.question.unwrap().hash, redacted.hash);
}

#[test]
fn a_name_that_was_cut_has_a_hash_of_its_own() {
    let mut redactor = Redactor::new(SECRET);
    let wire = [b"\x3fa23456789012345678901234567890123456789012345678901234567890123".as_slice();
        3]
        .concat();
    let mut hashes = Vec::new();
    for last in [b'x', b'y', b'x'] {
        let mut wire = wire.clone();
        wire.extend([1, last, 0]);
        let mut event = crate::testing::query(kind::DNS_RETRY, 7, A, 0);
        event.question = question(7, A, &wire);
        let new = redactor.dns(Box::new(event)).question;
        assert_ne!(new.hash, event.question.hash);
        hashes.push(new.hash);
    }
    assert!(hashes[0] == hashes[2] && hashes[0] != hashes[1]);
}

/// A checksum over all, with that of the pseudo header.
fn checks(packet: &[u8]) -> bool {
    let sum = |bytes: &[u8]| -> u64 {
        bytes.chunks(2).map(|w| u64::from(w[0]) << 8 | u64::from(*w.get(1).unwrap_or(&0))).sum()
    };
    let fold = |mut sum: u64| {
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum
    };
    let (ip, segment, proto) = match packet[0] >> 4 {
        4 => (sum(&packet[12..20]), &packet[20..], packet[9]),
        _ => (sum(&packet[8..40]), &packet[40..], packet[6]),
    };
    let is_header_right = packet[0] >> 4 == 6 || fold(sum(&packet[..20])) == 0xffff;
    let pseudo = ip + u64::from(proto) + segment.len() as u64;
    is_header_right && fold(pseudo + sum(segment)) == 0xffff
}

/// Fills in the checksums of a whole packet.
fn seal(packet: &mut [u8]) {
    let word = |bytes: &[u8]| -> u64 {
        let mut sum: u64 = bytes
            .chunks(2)
            .map(|w| u64::from(w[0]) << 8 | u64::from(*w.get(1).unwrap_or(&0)))
            .sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum
    };
    let (start, ip, proto) = match packet[0] >> 4 {
        4 => {
            packet[10..12].fill(0);
            let sum = !(word(&packet[..20]) as u16);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            (20, word(&packet[12..20]), packet[9])
        }
        _ => (40, word(&packet[8..40]), packet[6]),
    };
    let at = start + if proto == 6 { 16 } else { 6 };
    if packet.len() < at + 2 || !matches!(proto, 6 | 17) {
        return;
    }
    packet[at..at + 2].fill(0);
    let mut sum = ip + u64::from(proto) + (packet.len() - start) as u64 + word(&packet[start..]);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let sum = !(sum as u16);
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn v4(proto: u8, segment: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, proto, 0, 0];
    packet.extend([10, 244, 1, 2, 10, 96, 0, 10]);
    packet.extend_from_slice(segment);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    seal(&mut packet);
    packet
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0, 53, 0x9d, 0x78];
    segment.extend((payload.len() as u16 + 8).to_be_bytes());
    segment.extend([0, 0]);
    segment.extend_from_slice(payload);
    segment
}

/// `www.example.org` is an alias for `web.example.org`, which has an address of each family.
fn answer() -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, 3, 0, 0, 0, 1];
    bytes.extend_from_slice(b"\x03www\x07example\x03org\0\0\x01\0\x01");
    bytes.extend_from_slice(b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x06\x03web\xc0\x10");
    bytes.extend_from_slice(b"\xc0\x2d\0\x01\0\x01\0\0\0\x3c\0\x04\xc6\x33\x64\x07");
    bytes.extend_from_slice(b"\xc0\x2d\0\x1c\0\x01\0\0\0\x3c\0\x10\x20\x01\x0d\xb8");
    bytes.extend([0; 11]);
    bytes.push(0x77);
    // An option with a client's subnet.
    bytes.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0\x08\0\x08\0\x04secr");
    bytes
}

#[test]
fn an_answer_keeps_its_form_and_gets_other_names() {
    for payload in [answer(), [answer(), vec![9]].concat()] {
        let old = v4(17, &udp(&payload));
        assert!(checks(&old));
        let mut new = old.clone();
        Redactor::new(SECRET).packet(&mut new);
        assert!(checks(&new), "checksums follow");
        assert_eq!(new.len(), old.len());
        for gone in
            [&b"www"[..], b"example", b"web", b"secr", &[0xc6, 0x33, 0x64, 7], &[0x0d, 0xb8]]
        {
            assert!(!new.windows(gone.len()).any(|part| part == gone), "{gone:?} in {new:?}");
        }
        let dns = &new[28..];
        assert_eq!(&dns[..12], &answer()[..12]);
        // The alias's name is one label and a pointer to `example`.
        assert_eq!(&dns[0x21..0x23], &[0xc0, 0x0c]);
        assert_eq!((dns[0x2d], &dns[0x31..0x33]), (3, &[0xc0, 0x10][..]));
        let address = [dns[0x3f], dns[0x40], dns[0x41], dns[0x42]];
        assert_eq!(IpAddr::from(address), ip("198.51.100.7"));
        let address: [u8; 16] = dns[0x4f..0x5f].try_into().unwrap();
        assert_eq!(IpAddr::from(address), ip("2001:db8::77"));
    }
}

#[test]
fn payload_of_tcp_goes_and_its_checksum_follows() {
    let mut segment =
        vec![0x9d, 0x78, 0x1f, 0x90, 1, 2, 3, 4, 0, 0, 0, 0, 0x90, 2, 0xff, 0xff, 0, 0, 0, 0];
    // Segment size, an address in an option that is no standard's, padding.
    segment.extend([2, 4, 5, 0xb4, 254, 10, 1, 2, 198, 51, 100, 9, 3, 4, 1, 0]);
    segment.extend_from_slice(b"GET /secret");
    for length in [segment.len(), segment.len() - 1] {
        let old = v4(6, &segment[..length]);
        let mut new = old.clone();
        Redactor::new(SECRET).packet(&mut new);
        assert!(checks(&old) && checks(&new));
        assert_eq!(new[20..36], old[20..36]);
        assert_eq!(&new[40..46], &[2, 4, 5, 0xb4, 254, 10]);
        assert!(new[46..54].iter().chain(&new[56..]).all(|b| *b == 0), "{new:?}");
        assert_eq!(IpAddr::from([new[16], new[17], new[18], new[19]]), ip("10.96.0.10"));
    }
}

#[test]
fn packets_of_ipv6_and_fragments() {
    let mut old = vec![0x60, 0, 0, 0, 0, 0, 17, 64];
    old.extend("fd00:10:244::7".parse::<Ipv6Addr>().unwrap().octets());
    old.extend("fd00:10:96::a".parse::<Ipv6Addr>().unwrap().octets());
    old.extend(udp(&answer()));
    seal(&mut old);
    let mut new = old.clone();
    Redactor::new(SECRET).packet(&mut new);
    assert!(checks(&old) && checks(&new) && old[8..40] != new[8..40]);
    let mut later = v4(17, &udp(&answer()));
    later[7] = 9;
    Redactor::new(SECRET).packet(&mut later);
    assert!(later[20..].iter().all(|b| *b == 0), "a later fragment has no header");
}

#[test]
fn an_icmp_error_has_the_packet_redacted_that_it_carries() {
    let inner = v4(6, b"\x9d\x78\x1f\x90\x01\x02\x03\x04");
    let mut packet = v4(1, &[&[3, 3, 0, 0, 0, 0, 0, 0], inner.as_slice()].concat());
    Redactor::new(SECRET).packet(&mut packet);
    let mut alone = inner;
    Redactor::new(SECRET).packet(&mut alone);
    assert_eq!(packet[28..], alone);
}

fn request(bytes: &[u8]) -> String {
    let mut bytes = bytes.to_vec();
    Redactor::new(SECRET).request(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn of_a_request_only_what_correlation_reads_stays() {
    let new = request(
        b"GET /shop/healthz?full=1 HTTP/1.1\r\nHost: 10.244.2.2:8080\r\nUser-Agent: kube-probe/1.31\r\n\
          X-Token: hunter2\r\nAccept",
    );
    let (line, rest) = new.split_once("\r\n").unwrap();
    assert!(line.starts_with("GET /") && line.contains("/healthz?") && line.ends_with(" HTTP/1.1"));
    assert!(!line.contains("shop") && line.len() == 33, "{line}");
    assert_eq!(
        rest,
        "Host: xx.xxx.x.x:xxxx\r\nUser-Agent: kube-probe/x.xx\r\nxxxxxxx: xxxxxxx\r\nxxxxxx"
    );
    assert_eq!(
        request(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nsecret")[..24],
        *"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    );
    assert_eq!(request(b"\x16\x03\x01\x00\x05host"), "\x16\x03\x01\0\x05\0\0\0\0");
    assert_eq!(
        request(b"PUT /x User-Agent: kube-probe/1"),
        format!("{}User-Agent: kube-probe/\0", "\0".repeat(7))
    );
    assert_eq!(request(b"secret"), "\0\0\0\0\0\0");
    assert_eq!(request(b"GET /a\x1b[31m").chars().filter(|c| *c == '~').count(), 2);
}

#[test]
fn text_loses_addresses_files_and_names() {
    let mut redactor = Redactor::new(SECRET);
    redactor.pod_name("shop/web-1");
    let new = redactor
        .text("cannot ask 10.1.2.3:53, (fd00::7) of shop/web-1: /home/me/x: /sys/kernel is gone");
    let (a, b) = (ip("10.1.2.3"), ip("fd00::7"));
    let pod = redactor.pod_name("shop/web-1");
    assert_eq!(new, format!("cannot ask {a}:53, ({b}) of {pod}: /...: /sys/kernel is gone"));
    let stays = "this kernel allows no fentry and has no kprobes: ip_vs is not loaded.";
    assert_eq!(redactor.text(stays), stays);
}

proptest! {
    #[test]
    fn subnets_stay_subnets(a in any::<u32>(), flip in 16..32_u32, keep in any::<u32>()) {
        let key = Key::new(SECRET);
        let old = [a, a ^ (1 << (31 - flip)) ^ (keep & ((1 << (31 - flip)) - 1))];
        let [old_a, old_b] = old.map(|n| IpAddr::from(Ipv4Addr::from(n)));
        let [new_a, new_b] = [old_a, old_b].map(|ip| address::ip(&key, ip));
        prop_assert_eq!(shared(old_a, old_b), shared(new_a, new_b));
    }

    #[test]
    fn subnets_of_ipv6_stay_subnets(a in any::<u128>(), flip in 65..128_u32) {
        let key = Key::new(SECRET);
        let [old_a, old_b] = [a, a ^ (1 << (127 - flip))].map(|n| IpAddr::from(Ipv6Addr::from(n)));
        let [new_a, new_b] = [old_a, old_b].map(|ip| address::ip(&key, ip));
        prop_assert_eq!(shared(old_a, old_b), shared(new_a, new_b));
    }

    #[test]
    fn the_same_becomes_the_same(
        labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..20),
        address in any::<u128>(),
    ) {
        let (mut one, mut other) = (Redactor::new(SECRET), Redactor::new(SECRET));
        for old in labels.iter().chain(labels.iter().rev()) {
            let [mut a, mut b] = [old.clone(), old.clone()];
            one.label(&mut a);
            other.label(&mut b);
            prop_assert_eq!(a.len(), old.len());
            prop_assert_eq!(a, b);
        }
        let old = IpAddr::from(Ipv6Addr::from(address));
        prop_assert_eq!(one.ip(old), other.ip(old));
    }

    #[test]
    fn case_stays_with_its_letters(label in "[a-zA-Z0-9-]{1,63}") {
        let key = Key::new(SECRET);
        let (as_is, lower) = (label::label(&key, label.as_bytes()), label::label(&key, label.to_ascii_lowercase().as_bytes()));
        prop_assert_eq!(as_is.to_ascii_lowercase(), lower);
        for (new, old) in as_is.iter().zip(label.bytes()) {
            prop_assert_eq!(new.is_ascii_uppercase(), old.is_ascii_uppercase());
        }
    }

    #[test]
    fn any_packet_is_taken(bytes in prop::collection::vec(any::<u8>(), 0..300), version in 0..3_u8, proto in 0..4_usize) {
        let mut bytes = bytes;
        let proto = [6, 17, 1, 58][proto];
        if let (true, Some(first)) = (version < 2, bytes.first_mut()) {
            *first = [0x45, 0x60][usize::from(version)];
        }
        let at = if version == 0 { 9 } else { 6 };
        if let Some(byte) = bytes.get_mut(at) {
            *byte = proto;
        }
        let old = bytes.clone();
        Redactor::new(SECRET).packet(&mut bytes);
        prop_assert_eq!(old.len(), bytes.len());
        // Whether there is a question, and an answer, does not change.
        let gist = |bytes: &[u8]| dns::of_packet(bytes).map(|m| (m.id, m.answer, m.question.map(|q| q.qtype)));
        prop_assert_eq!(gist(&old), gist(&bytes));
    }

    #[test]
    fn any_dns_message_is_taken(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut new = bytes.clone();
        Redactor::new(SECRET).message(&mut new);
        let gist = |bytes: &[u8]| dns::parse(bytes).map(|m| (m.id, m.answer, m.question.map(|q| q.qtype)));
        prop_assert_eq!(gist(&bytes), gist(&new));
    }

    #[test]
    fn any_request_and_text_is_taken(bytes in prop::collection::vec(any::<u8>(), 0..140)) {
        request(&bytes);
        Redactor::new(SECRET).text(&String::from_utf8_lossy(&bytes));
        name::pod(&Key::new(SECRET), &String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_record_of_the_kernel_side_is_taken(
        bytes in prop::collection::vec(any::<u8>(), 600),
        kind in 0..kind::COUNT as u16,
    ) {
        // One of these lengths is that of its struct.
        for length in (24..600).step_by(8) {
            let mut record = bytes[..length].to_vec();
            record[20..22].copy_from_slice(&kind.to_le_bytes());
            if let Ok(event) = decode(&record) {
                let new = Redactor::new(SECRET).event(event);
                prop_assert_eq!(encode(&new).unwrap().len(), length);
            }
        }
    }
}

#[test]
fn what_is_only_numbers_stays() {
    let event = Event { ts: 5, body: Body::Tick };
    assert_eq!(Redactor::new(SECRET).event(event.clone()), event);
}
