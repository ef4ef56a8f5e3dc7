//! Where a SYN leaves this node, and whether an answer comes in: armed, never standing, for one connect.
//!
//! Raw tracepoints `net:net_dev_start_xmit(const struct sk_buff *skb, const struct net_device *dev)`
//! (`xmit_one` in net/core/dev.c, right before the driver gets the packet: its bytes are final) and
//! `net:netif_receive_skb(struct sk_buff *skb)` (`__netif_receive_skb_core`, before any tap, tc or bridge;
//! `skb->data` is at the network header, which is set only after it): the same on 5.10, 6.1, 6.12, 6.18 and
//! 7.2. Both run for each packet at each device.
//!
//! The packet is known by the initial sequence number, which NAT leaves alone: addresses change between
//! the client and the device.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use probe_common::{
    armed::Armed,
    event::{DIRECTION_IN, DIRECTION_OUT, Departure, IFF_LOOPBACK, kind},
    net::IPPROTO_TCP,
};

use crate::{
    armed,
    capture::{self, Beside},
    emit,
    maps::{offset, seen},
    packet::{self, TCP_ACK, TCP_SYN},
    read::{self, Ptr, at, field},
    socket,
};

#[raw_tracepoint]
pub fn departure_out(ctx: RawTracePointContext) -> i32 {
    let skb: Ptr = ctx.arg(0);
    let dev: Ptr = ctx.arg(1);
    armed::run(|armed| sent(armed, skb, dev));
    0
}

#[raw_tracepoint]
pub fn departure_in(ctx: RawTracePointContext) -> i32 {
    let skb: Ptr = ctx.arg(0);
    armed::run(|armed| received(armed, skb));
    0
}

#[inline(always)]
fn sent(armed: &Armed, skb: Ptr, dev: Ptr) -> Option<()> {
    let head: Ptr = field(skb, offset!(skb_head));
    let network: u16 = field(skb, offset!(skb_network_header));
    let mut l3 = head + u64::from(network);
    let mut inner = 0;
    let is_of_it = match tcp(l3) {
        Tcp::At(l4) => is_of_connect(armed, l4),
        Tcp::Other => {
            // A tunnel leaves a note of the headers it wrapped (skb_reset_inner_headers). An old note is no
            // harm: what it points to must still be a header with this very sequence number.
            let wrapped: u16 = field(skb, offset!(skb_inner_network_header));
            inner = 1;
            l3 = head + u64::from(wrapped);
            matches!(tcp(l3), Tcp::At(l4) if wrapped != 0 && is_of_connect(armed, l4))
        }
        Tcp::NoIp => false,
    };
    is_of_it.then(|| tell(armed, skb, dev, l3, DIRECTION_OUT, inner))?
}

#[inline(always)]
fn received(armed: &Armed, skb: Ptr) -> Option<()> {
    let mut l3: Ptr = field(skb, offset!(skb_data));
    let mut found = tcp(l3);
    if matches!(found, Tcp::NoIp) {
        // A VLAN tag that no device has taken off.
        l3 += 4;
        found = tcp(l3);
    }
    let Tcp::At(l4) = found else { return None };
    if !is_of_connect(armed, l4) {
        return None;
    }
    tell(armed, skb, field(skb, offset!(skb_dev)), l3, DIRECTION_IN, 0)
}

/// What is behind an IP header.
enum Tcp {
    /// TCP, with its header here.
    At(Ptr),
    Other,
    NoIp,
}

/// Reads no more than the IP header.
#[inline(always)]
fn tcp(l3: Ptr) -> Tcp {
    let ip: [u8; 20] = at(l3);
    let (proto, header) = match ip[0] >> 4 {
        4 => (ip[9], u64::from(ip[0] & 0xf) * 4),
        6 => (ip[6], 40),
        _ => return Tcp::NoIp,
    };
    if proto == IPPROTO_TCP { Tcp::At(l3 + header) } else { Tcp::Other }
}

/// Whether it is the connect's SYN, or acknowledges no more than that: a SYN-ACK, a reset.
#[inline(always)]
fn is_of_connect(armed: &Armed, l4: Ptr) -> bool {
    let tcp: [u8; 14] = at(l4);
    let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    let ack = u32::from_be_bytes([tcp[8], tcp[9], tcp[10], tcp[11]]);
    match tcp[13] & (TCP_SYN | TCP_ACK) {
        TCP_SYN => seq == armed.isn,
        0 => false,
        _ => ack.wrapping_sub(1) == armed.isn,
    }
}

#[inline(always)]
fn tell(armed: &Armed, skb: Ptr, dev: Ptr, l3: Ptr, direction: u32, inner: u32) -> Option<()> {
    let packet = packet::parse_at(skb, l3)?;
    seen(kind::DEPARTURE);
    let ts = emit::now();
    let header = emit::header(kind::DEPARTURE, ts, read::dev_net(dev));
    let dev_flags: u32 = field(dev, offset!(dev_flags));
    let name = dev + u64::from(offset!(dev_name));
    let ifindex: u32 = field(dev, offset!(dev_ifindex));
    let ops: Ptr = field(dev, offset!(dev_link_ops));
    let link: Ptr = if ops == 0 { 0 } else { field(ops, offset!(link_ops_kind)) };
    let begins: [u8; 4] = if link == 0 { [0; 4] } else { at(link) };
    let tcp_flags = u32::from(packet.tcp_flags);
    let sent = emit::send(
        kind::DEPARTURE,
        socket::source_key(&packet.tuple),
        ts,
        |event: *mut Departure| {
            // SAFETY: the entry is reserved for exactly this type and every field is written.
            unsafe {
                (*event).header = header;
                (*event).tuple = packet.tuple;
                (*event).skb = skb;
                (*event).ident = armed.isn;
                (*event).tcp_flags = tcp_flags;
                (*event).direction = direction;
                (*event).inner = inner;
                (*event).ifindex = ifindex;
                (*event).dev_flags = dev_flags;
                (*event).name = [0; 16];
                (*event).link = [0; 16];
                read::string(name, &raw mut (*event).name);
                if link != 0 {
                    read::string(link, &raw mut (*event).link);
                }
            }
        },
    );
    // Once for each time it comes in or goes out: between namespaces and bridge ports it is the same packet.
    let is_hop = begins == *b"veth" || begins == *b"brid";
    if inner == 0 && !is_hop && dev_flags & IFF_LOOPBACK == 0 {
        capture::send(skb, &packet, Beside::event(header, sent));
    }
    Some(())
}
