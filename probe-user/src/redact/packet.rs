//! Packets from their IP header on: addresses are replaced and checksums follow (RFC 1624); DNS keeps
//! its form; all other payload becomes zeros. Packets are cut: what is behind the end is as it was as
//! far as a checksum is concerned, which holds for the packet as it would be whole.

use std::{net::IpAddr, ops::Range};

use probe_common::net::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

use super::Redactor;
use crate::correlate::dns;

/// An ICMP error carries the packet that it is about.
const NESTED: u32 = 1;

impl Redactor {
    /// A packet that begins with its IP header, as far as it was captured.
    pub fn packet(&mut self, bytes: &mut [u8]) {
        self.nested(bytes, NESTED);
    }

    fn nested(&mut self, bytes: &mut [u8], depth: u32) {
        match bytes.first().map(|first| first >> 4) {
            Some(4) if bytes.len() >= 20 => self.v4(bytes, depth),
            Some(6) if bytes.len() >= 40 => self.v6(bytes, depth),
            // Not even addresses.
            _ => zero(bytes, 1),
        }
    }

    fn v4(&mut self, bytes: &mut [u8], depth: u32) {
        let length = bytes.first().map_or(0, |first| usize::from(first & 15) * 4);
        let header = if length < 20 { 20 } else { length.min(bytes.len()) };
        let old = bytes.to_vec();
        self.addresses_at(bytes, 12..16);
        self.addresses_at(bytes, 16..20);
        // Options record the way: nothing (RFC 791) in their place.
        if let Some(options) = bytes.get_mut(20..header) {
            options.fill(1);
        }
        fix(bytes, &old, std::slice::from_ref(&(12..header)), 10, 0);
        let is_later_part = old.get(6..8).is_some_and(|f| f[0] & 0x1f != 0 || f[1] != 0);
        let proto = if length < 20 || is_later_part { None } else { old.get(9).copied() };
        self.transport(bytes, &old, header, 12..20, proto, depth);
    }

    fn v6(&mut self, bytes: &mut [u8], depth: u32) {
        let old = bytes.to_vec();
        self.addresses_at(bytes, 8..24);
        self.addresses_at(bytes, 24..40);
        self.transport(bytes, &old, 40, 8..40, old.get(6).copied(), depth);
    }

    fn addresses_at(&mut self, bytes: &mut [u8], place: Range<usize>) {
        let Some(place) = bytes.get_mut(place) else { return };
        let old = match (<[u8; 4]>::try_from(&*place), <[u8; 16]>::try_from(&*place)) {
            (Ok(v4), _) => IpAddr::from(v4),
            (_, Ok(v6)) => IpAddr::from(v6),
            _ => return,
        };
        match self.ip(old) {
            IpAddr::V4(new) => place.copy_from_slice(&new.octets()),
            IpAddr::V6(new) => place.copy_from_slice(&new.octets()),
        }
    }

    /// What follows the IP header at `start`; `addresses` is what of the IP header its checksum covers.
    fn transport(
        &mut self,
        bytes: &mut [u8],
        old: &[u8],
        start: usize,
        addresses: Range<usize>,
        proto: Option<u8>,
        depth: u32,
    ) {
        let Some(segment) = bytes.get_mut(start..) else { return };
        let (covered, checksum) = match proto {
            Some(IPPROTO_TCP) => {
                tcp(segment);
                (addresses, 16)
            }
            Some(IPPROTO_UDP) => {
                self.udp(segment);
                (addresses, 6)
            }
            Some(IPPROTO_ICMP) => {
                self.icmp(segment, depth, &[0, 8, 13, 14], &[3, 11, 12]);
                (0..0, 2)
            }
            Some(IPPROTO_ICMPV6) => {
                self.icmp(segment, depth, &[128, 129], &[1, 2, 3, 4]);
                (addresses, 2)
            }
            _ => return segment.fill(0),
        };
        let is_unused =
            proto == Some(IPPROTO_UDP) && old.get(start + 6..start + 8) == Some(&[0, 0]);
        if !is_unused {
            let instead_of_zero = if proto == Some(IPPROTO_UDP) { 0xffff } else { 0 };
            fix(bytes, old, &[covered, start..old.len()], start + checksum, instead_of_zero);
        }
    }

    fn udp(&mut self, segment: &mut [u8]) {
        let Some((header, payload)) = segment.split_at_mut_checked(8) else { return };
        let ports = [header.get(..2), header.get(2..4)];
        let is_port = |port: Option<&[u8]>| {
            let port = port.and_then(|p| <[u8; 2]>::try_from(p).ok()).map(u16::from_be_bytes);
            port.is_some_and(|port| self.dns_ports.contains(&port))
        };
        // Behind a service the port may be any.
        let has_question = dns::parse(payload).is_some_and(|message| message.question.is_some());
        if has_question || ports.into_iter().any(is_port) {
            self.message(payload);
        } else {
            opaque(payload);
        }
    }

    /// Types that ask or answer have an id and a number; types that tell of an error a packet.
    fn icmp(&mut self, segment: &mut [u8], depth: u32, echoes: &[u8], errors: &[u8]) {
        let Some((header, rest)) = segment.split_at_mut_checked(8) else {
            return zero(segment, 4);
        };
        let kind = header.first().copied().unwrap_or(0);
        if !echoes.contains(&kind) && !errors.contains(&kind) {
            // Gateways and neighbours.
            zero(header, 4);
        }
        match depth.checked_sub(1) {
            Some(depth) if errors.contains(&kind) => self.nested(rest, depth),
            _ => rest.fill(0),
        }
    }
}

/// Payload of which only the first two bytes and the first bit of the third are read: a DNS id, and
/// whether it is an answer.
pub fn opaque(payload: &mut [u8]) {
    if let Some(flags) = payload.get_mut(2) {
        *flags &= 0x80;
    }
    zero(payload, 3);
}

/// Payload goes, and options that may carry a client's address or a secret.
fn tcp(segment: &mut [u8]) {
    let Some(offset) = segment.get(12).map(|byte| usize::from(byte >> 4) * 4) else { return };
    let end = offset.max(20).min(segment.len());
    zero(segment, end);
    let mut options = segment.get_mut(20..end).unwrap_or_default();
    while let Some((kind, rest)) = options.split_first_mut() {
        match *kind {
            0 => return rest.fill(0),
            1 => options = rest,
            kind_of => {
                let length = rest.first().map_or(0, |length| usize::from(*length));
                let Some(data) = length.checked_sub(2) else { return rest.fill(0) };
                let Some((_, after)) = rest.split_first_mut() else { return };
                let (data, after) = after.split_at_mut(data.min(after.len()));
                // Segment size, window scale, selective acknowledgement, timestamps.
                if !matches!(kind_of, 2..=5 | 8) {
                    data.fill(0);
                }
                options = after;
            }
        }
    }
}

/// Brings a checksum up to date with what changed in these ranges, which begin at even places of what
/// it covers.
fn fix(bytes: &mut [u8], old: &[u8], covered: &[Range<usize>], at: usize, instead_of_zero: u16) {
    let Some(&[high, low]) = bytes.get(at..at + 2) else { return };
    let sum = |of: &[u8]| -> u64 {
        let part = |range: &Range<usize>| of.get(range.clone()).map_or(0, words);
        // The checksum is not a part of what it covers.
        let own = covered.iter().any(|range| range.contains(&at));
        let own = if own { of.get(at..at + 2).map_or(0, words) } else { 0 };
        covered.iter().map(part).sum::<u64>() - own
    };
    let (before, after) = (fold(sum(old)), fold(sum(bytes)));
    if before == after {
        return;
    }
    // RFC 1624, equation 3.
    let checksum = u16::from_be_bytes([high, low]);
    let new = !fold(u64::from(!checksum) + u64::from(!before) + u64::from(after));
    let new = if new == 0 { instead_of_zero } else { new };
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&new.to_be_bytes());
    }
}

fn words(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| match pair {
        [high, low] => u64::from(u16::from_be_bytes([*high, *low])),
        [high] => u64::from(*high) << 8,
        _ => 0,
    };
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap_or(0)
}

fn zero(bytes: &mut [u8], from: usize) {
    if let Some(rest) = bytes.get_mut(from..) {
        rest.fill(0);
    }
}
