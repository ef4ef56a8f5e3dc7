//! Addresses. Two that share their first bits share as many afterwards (as Crypto-PAn does, Xu et al.
//! 2002), so subnets stay subnets: each bit is turned over or not by a keyed hash of those before it.
//! What is special by itself stays what it is, for correlation and readers know it by that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::key::{Domain, Key};

/// Where an address may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Stays as it is.
    Kept,
    /// Stays in its block: this many first bits are kept.
    Block(u32),
    /// An IPv4 address in the last 32 bits.
    Embedded,
    /// Anywhere among its like.
    Public,
}

pub fn ip(key: &Key, address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => v4_of(key, v4).into(),
        IpAddr::V6(v6) => v6_of(key, v6).into(),
    }
}

pub fn v4_of(key: &Key, address: Ipv4Addr) -> Ipv4Addr {
    let turned = |value: u32, keep| {
        let out = turn(key, Domain::V4, u128::from(value), 32, keep);
        u32::try_from(out).unwrap_or_default()
    };
    match class_v4(address) {
        Class::Kept | Class::Embedded => address,
        Class::Block(keep) => turned(address.into(), keep).into(),
        // Turned over again until it is none of the special ones: its orbit comes back to itself at
        // last, so this ends, and no two addresses end at the same one. The special blocks are of 16
        // bits at most, so what shares more goes together.
        Class::Public => {
            let mut out = turned(address.into(), 0);
            while class_v4(out.into()) != Class::Public {
                out = turned(out, 0);
            }
            out.into()
        }
    }
}

fn v6_of(key: &Key, address: Ipv6Addr) -> Ipv6Addr {
    let turned = |value: u128, keep| turn(key, Domain::V6, value, 128, keep);
    let value = u128::from(address);
    match class_v6(address) {
        Class::Kept => address,
        Class::Block(keep) => turned(value, keep).into(),
        Class::Embedded => {
            let [.., a, b, c, d] = address.octets();
            let v4 = u32::from(v4_of(key, Ipv4Addr::new(a, b, c, d)));
            (value >> 32 << 32 | u128::from(v4)).into()
        }
        Class::Public => {
            let mut out = turned(value, 0);
            while class_v6(out.into()) != Class::Public {
                out = turned(out, 0);
            }
            out.into()
        }
    }
}

fn class_v4(address: Ipv4Addr) -> Class {
    match address.octets() {
        // This network, loopback, link-local (the node-local DNS cache is at 169.254.20.10),
        // multicast and what is above it.
        [0 | 127, ..] | [169, 254, ..] | [224..=255, ..] => Class::Kept,
        [10, ..] => Class::Block(8),
        [100, 64..=127, ..] => Class::Block(10),
        [172, 16..=31, ..] => Class::Block(12),
        [192, 168, ..] => Class::Block(16),
        _ => Class::Public,
    }
}

fn class_v6(address: Ipv6Addr) -> Class {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] | [0xff00..=0xffff, ..] => Class::Kept,
        // IPv4 in a socket of IPv6 (RFC 4291 2.5.5.2), and behind NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Class::Embedded,
        // Link-local; its interface id is often made of the device's hardware address.
        [0xfe80..=0xfebf, ..] => Class::Block(64),
        [0xfc00..=0xfdff, ..] => Class::Block(8),
        [0x2000..=0x3fff, ..] => Class::Block(3),
        _ => Class::Public,
    }
}

/// Turns over bits of a number of `width` bits, all but the first `keep`.
fn turn(key: &Key, domain: Domain, value: u128, width: u32, keep: u32) -> u128 {
    (keep..width).fold(value, |out, bit| {
        let before = value.checked_shr(width - bit).unwrap_or(0);
        let flip = key.number(domain, u64::from(bit), &before.to_le_bytes()) & 1;
        out ^ u128::from(flip) << (width - 1 - bit)
    })
}
