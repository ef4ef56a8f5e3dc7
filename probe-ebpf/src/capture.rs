//! The packet that an event tells of, beside it: only when a recording wants packets, and only where
//! something went wrong. Without a recording the verifier takes all of this away.

use probe_common::{
    event::{CAPTURE_BYTES, Header, Packet as Captured, kind},
    net::Conntrack,
};

use crate::{
    emit,
    maps::{offset, seen, setting},
    packet::{self, Packet},
    read::{self, Ptr, field},
};

const MOST: u32 = CAPTURE_BYTES as u32 - 1;

/// What is told of a packet besides what its headers say.
#[derive(Clone, Copy)]
pub struct Beside<'a> {
    /// Of the event beside it.
    pub header: Header,
    /// Whether that was sent: a packet goes only beside it, and takes no allowance of its own.
    pub sent: bool,
    /// See [`Captured::at`].
    pub at: u64,
    pub ct: Option<&'a Conntrack>,
}

impl Beside<'_> {
    /// The packet came by when the event happened.
    #[inline(always)]
    pub fn event(header: Header, sent: bool) -> Self {
        Self { header, sent, at: header.ts, ct: None }
    }
}

/// Whether packets are wanted: a constant for the verifier.
#[inline(always)]
pub fn wanted() -> bool {
    setting!(snaplen) > 0
}

/// Sends the bytes of a packet whose headers are not read yet.
#[inline(always)]
pub fn skb(skb: Ptr, ident: Option<u32>, beside: Beside<'_>) -> Option<()> {
    if wanted() && beside.sent {
        let mut packet = packet::parse(skb)?;
        if let Some(ident) = ident {
            packet.ident = ident;
        }
        send(skb, &packet, beside);
    }
    Some(())
}

/// Sends the bytes of a packet. The headers and checksums of `skb` must be filled in as far as they
/// ever are on this node.
#[inline(always)]
pub fn send(skb: Ptr, packet: &Packet, beside: Beside<'_>) {
    if !wanted() || !beside.sent {
        return;
    }
    seen(kind::PACKET);
    let Beside { header, at, ct, .. } = beside;
    let iif = field(skb, offset!(skb_iif));
    let snaplen = setting!(snaplen);
    emit::send_anyway(kind::PACKET, |event: *mut Captured| {
        // SAFETY: the entry is reserved for exactly this type and every field is written; a `Conntrack`
        // of zeros is a valid value.
        unsafe {
            (*event).header = Header { kind: kind::PACKET, ..header };
            (*event).tuple = packet.tuple;
            match ct {
                Some(ct) => (*event).ct = *ct,
                None => core::ptr::write_bytes(&raw mut (*event).ct, 0, 1),
            }
            (*event).skb = skb;
            (*event).at = at;
            (*event).ident = packet.ident;
            (*event).iif = iif;
            (*event).tcp_flags = u32::from(packet.tcp_flags);
            (*event).with = u32::from(header.kind);
            (*event).packet_len = packet.len;
            core::ptr::write_bytes(&raw mut (*event).bytes, 0, 1);
            // Last: each bound doubles what the verifier has to walk behind it.
            let linear = packet.end.saturating_sub(packet.l3);
            let mut len = if linear < u64::from(packet.len) { linear as u32 } else { packet.len };
            if len > snaplen {
                len = snaplen;
            }
            let read = read::masked(packet.l3, (&raw mut (*event).bytes).cast(), len, MOST);
            (*event).captured = if read { len } else { 0 };
        }
    });
}
