//! DNS messages in packets (RFC 1035 4.1): where they begin, and what they ask.

use probe_common::{
    event::Question,
    net::{FAMILY_V4, Tuple},
};

use crate::{
    maps::{DnsScratch, offset},
    read::{self, Ptr, at, field},
};

/// A message's flags word (RFC 1035 4.1.1): response bit and opcode.
pub const QR: u16 = 1 << 15;
pub const OPCODE: u16 = 0xf << 11;
pub const HEADER: u64 = 12;

/// Where the payload of a UDP datagram begins, and how much of it is linear.
#[inline(always)]
pub fn payload(skb: Ptr) -> Option<(Ptr, u64)> {
    let head: Ptr = field(skb, offset!(skb_head));
    let transport: u16 = field(skb, offset!(skb_transport_header));
    let data: Ptr = field(skb, offset!(skb_data));
    let len: u32 = field(skb, offset!(skb_len));
    let data_len: u32 = field(skb, offset!(skb_data_len));
    let start = head + u64::from(transport) + 8;
    let end = data + u64::from(len.wrapping_sub(data_len));
    Some((start, end.saturating_sub(start)))
}

/// A DNS message's id and flags; `None` when not readable or not a message with one question.
#[inline(always)]
pub fn message(start: Ptr, linear: u64) -> Option<(u16, u16)> {
    if linear < HEADER {
        return None;
    }
    let h: [u8; 6] = at(start);
    if u16::from_be_bytes([h[4], h[5]]) != 1 {
        return None;
    }
    Some((u16::from_be_bytes([h[0], h[1]]), u16::from_be_bytes([h[2], h[3]])))
}

/// Multicast DNS (RFC 6762) asks everybody and often nobody answers: no lookup waits for that.
#[inline(always)]
pub fn is_multicast(tuple: &Tuple) -> bool {
    if tuple.family == FAMILY_V4 { tuple.dst[0] >= 224 } else { tuple.dst[0] == 0xff }
}

/// Reads the question at `start` (RFC 1035 4.1.2) into the scratch space.
#[inline(always)]
pub fn question(start: Ptr, linear: u64, id: u16, scratch: &mut DnsScratch) -> Option<()> {
    let len = linear.checked_sub(HEADER)?;
    let len = if len > 259 { 259 } else { len as u32 };
    let low = if len > 255 { 255 } else { len };
    // SAFETY: the buffer has room for 255 + 4 bytes.
    if !unsafe { read::bytes(start + HEADER, scratch.bytes.as_mut_ptr(), low, 255) } {
        return None;
    }
    let q: &mut Question = &mut scratch.dns.question;
    q.id = id;
    q._pad = 0;
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut label = 0u8;
    let mut end = 0u32;
    for i in 0..255u32 {
        if i >= low {
            return None;
        }
        let b = scratch.bytes[i as usize];
        hash = (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
        if label == 0 {
            if b == 0 {
                end = i + 1;
                break;
            }
            // A compression pointer has no place in a question.
            if b & 0xc0 != 0 {
                return None;
            }
            label = b;
        } else {
            label -= 1;
        }
        // The mask tells the verifier that all iterations look alike.
        label &= 0x3f;
    }
    if end == 0 {
        return None;
    }
    let qtype: u16 = at(start + HEADER + u64::from(end));
    q.hash = hash;
    q.qtype = u16::from_be(qtype);
    q.name_len = end as u16;
    // Bytes behind the name are of an earlier question; `name_len` tells where it ends.
    // SAFETY: the name has room for 128 bytes.
    unsafe { read::bytes(start + HEADER, q.name.as_mut_ptr(), end, 127) };
    Some(())
}
