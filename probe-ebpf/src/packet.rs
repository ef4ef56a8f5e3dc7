//! Headers of a packet in a `struct sk_buff`.

use probe_common::net::{FAMILY_V4, FAMILY_V6, IPPROTO_TCP, IPPROTO_UDP, Tuple};

use crate::{
    maps::offset,
    read::{Ptr, at, field},
    socket::v4,
};

pub const TCP_SYN: u8 = 0x02;
pub const TCP_ACK: u8 = 0x10;

/// An IP packet with TCP or UDP, or with another protocol and without ports.
pub struct Packet {
    /// Address of the IP header.
    pub l3: Ptr,
    /// Address of the TCP or UDP header.
    pub l4: Ptr,
    /// End of the linear part.
    pub end: Ptr,
    pub tuple: Tuple,
    /// 0 for other protocols.
    pub tcp_flags: u8,
    /// TCP: the client's ISN as far as this packet tells it. UDP: the first two payload bytes.
    pub ident: u32,
    /// Length by the IP header.
    pub len: u32,
}

/// Reads the headers of `skb`, whose network header must be set. `None`: no IP packet, a later
/// fragment, or not readable.
#[inline(always)]
pub fn parse(skb: Ptr) -> Option<Packet> {
    let head: Ptr = field(skb, offset!(skb_head));
    let network: u16 = field(skb, offset!(skb_network_header));
    if network == 0 || network == u16::MAX {
        return None;
    }
    parse_at(skb, head + u64::from(network))
}

/// As [`parse`], of the IP header at `l3`, wherever the network header is set to.
#[inline(always)]
pub fn parse_at(skb: Ptr, l3: Ptr) -> Option<Packet> {
    let data: Ptr = field(skb, offset!(skb_data));
    let len: u32 = field(skb, offset!(skb_len));
    let data_len: u32 = field(skb, offset!(skb_data_len));
    let end = data + u64::from(len.wrapping_sub(data_len));
    let first: u8 = at(l3);
    let mut tuple = Tuple::default();
    let (l4, ip_len) = match first >> 4 {
        4 => {
            let ip: [u8; 20] = at(l3);
            // A later fragment has no ports.
            if u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0 {
                return None;
            }
            tuple.family = FAMILY_V4;
            tuple.proto = ip[9];
            tuple.src = v4([ip[12], ip[13], ip[14], ip[15]]);
            tuple.dst = v4([ip[16], ip[17], ip[18], ip[19]]);
            let header = u64::from(first & 0xf) * 4;
            if header < 20 {
                return None;
            }
            (l3 + header, u32::from(u16::from_be_bytes([ip[2], ip[3]])))
        }
        6 => {
            let ip: [u8; 8] = at(l3);
            tuple.family = FAMILY_V6;
            tuple.proto = ip[6];
            tuple.src = at(l3 + 8);
            tuple.dst = at(l3 + 24);
            (l3 + 40, u32::from(u16::from_be_bytes([ip[4], ip[5]])) + 40)
        }
        _ => return None,
    };
    let mut packet = Packet { l3, l4, end, tuple, tcp_flags: 0, ident: 0, len: ip_len };
    if packet.tuple.proto == IPPROTO_TCP {
        ports(&mut packet);
        packet.tcp_flags = at(l4 + 13);
        let ack = packet.tcp_flags & TCP_ACK != 0;
        let seq: u32 = at(l4 + 4);
        packet.ident = u32::from_be(seq);
        if packet.tcp_flags & TCP_SYN != 0 {
            // A SYN-ACK acknowledges the client's ISN plus one.
            if ack {
                let ack_seq: u32 = at(l4 + 8);
                packet.ident = u32::from_be(ack_seq).wrapping_sub(1);
            }
        }
    } else if packet.tuple.proto == IPPROTO_UDP {
        ports(&mut packet);
        if l4 + 10 <= end {
            let id: u16 = at(l4 + 8);
            packet.ident = u32::from(u16::from_be(id));
        }
    }
    Some(packet)
}

#[inline(always)]
fn ports(packet: &mut Packet) {
    let ports: [u8; 4] = at(packet.l4);
    packet.tuple.sport = u16::from_be_bytes([ports[0], ports[1]]);
    packet.tuple.dport = u16::from_be_bytes([ports[2], ports[3]]);
}
