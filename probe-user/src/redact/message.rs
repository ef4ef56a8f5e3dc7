//! DNS messages in packets (RFC 1035 section 4.1): names and addresses are replaced, lengths and
//! compression pointers stay, and what is of a kind that is not known becomes zeros.

use std::net::IpAddr;

use super::Redactor;

const HEADER: usize = 12;
/// Type, class, time to live and length of a record, behind its name.
const FIXED: usize = 10;
const A: u16 = 1;
const NS: u16 = 2;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const PTR: u16 = 12;
const MX: u16 = 15;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const DNAME: u16 = 39;

impl Redactor {
    /// A message that may be cut anywhere.
    pub(super) fn message(&mut self, bytes: &mut [u8]) {
        let Some(&[_, _, _, _, q0, q1, a0, a1, n0, n1, r0, r1]) = bytes.get(..HEADER) else {
            return super::packet::opaque(bytes);
        };
        let questions = u16::from_be_bytes([q0, q1]);
        let records: u32 =
            [[a0, a1], [n0, n1], [r0, r1]].map(|b| u32::from(u16::from_be_bytes(b))).iter().sum();
        let mut at = HEADER;
        for _ in 0..questions {
            let Some(end) = self.name_in(bytes, at) else { return };
            // Type and class, or what the packet was cut to.
            at = end + 4;
            if at >= bytes.len() {
                return;
            }
        }
        for _ in 0..records {
            let Some(end) = self.record(bytes, at) else { return };
            at = end;
        }
        zero(bytes, at);
    }

    /// Where it ends; `None` when there is nothing behind it.
    fn record(&mut self, bytes: &mut [u8], at: usize) -> Option<usize> {
        let fixed = self.name_in(bytes, at)?;
        let Some(&[t0, t1, _, _, _, _, _, _, l0, l1]) = bytes.get(fixed..fixed + FIXED) else {
            zero(bytes, fixed);
            return None;
        };
        let data = fixed + FIXED;
        let end = data + usize::from(u16::from_be_bytes([l0, l1]));
        let there = end.min(bytes.len());
        let rdata = bytes.get_mut(data..there)?;
        match (u16::from_be_bytes([t0, t1]), &mut *rdata) {
            (A, [a, b, c, d]) => {
                if let IpAddr::V4(new) = self.ip(IpAddr::from([*a, *b, *c, *d])) {
                    rdata.copy_from_slice(&new.octets());
                }
            }
            (AAAA, rdata) if let Ok(old) = <[u8; 16]>::try_from(&*rdata) => {
                if let IpAddr::V6(new) = self.ip(IpAddr::from(old)) {
                    rdata.copy_from_slice(&new.octets());
                }
            }
            (NS | CNAME | PTR | DNAME, rdata) => self.names(rdata, 0, 1),
            (MX, rdata) => self.names(rdata, 2, 1),
            (SRV, rdata) => self.names(rdata, 6, 1),
            (SOA, rdata) => self.names(rdata, 0, 2),
            (_, rdata) => rdata.fill(0),
        }
        (end < bytes.len()).then_some(end)
    }

    /// So many names from there on; numbers behind them stay.
    fn names(&mut self, rdata: &mut [u8], from: usize, count: usize) {
        let mut at = from;
        for _ in 0..count {
            let Some(end) = self.name_in(rdata, at) else { return };
            at = end;
        }
        // Serial and timers of an SOA; the others have nothing there.
        if count == 1 {
            zero(rdata, at);
        }
    }

    /// One name; where it ends, or `None` when it does not end here. Behind a byte that is neither a
    /// length nor a pointer nothing can be read: all is zero.
    fn name_in(&mut self, bytes: &mut [u8], from: usize) -> Option<usize> {
        let mut at = from;
        loop {
            let length = *bytes.get(at)?;
            match length {
                0 => return Some(at + 1),
                1..=63 => {
                    let begin = at + 1;
                    at = begin + usize::from(length);
                    let end = at.min(bytes.len());
                    if let Some(label) = bytes.get_mut(begin..end) {
                        self.label(label);
                    }
                }
                0xc0.. => return Some(at + 2),
                _ => {
                    zero(bytes, at + 1);
                    return None;
                }
            }
        }
    }
}

fn zero(bytes: &mut [u8], from: usize) {
    if let Some(rest) = bytes.get_mut(from..) {
        rest.fill(0);
    }
}
