//! Dropped and rejected packets.

use super::*;

/// A dropped packet with a reason (0: the kernel has none).
pub fn dropped(netns: u32, tuple: Tuple, ident: u32, reason: u32, location: u64) -> Drop {
    Drop {
        header: header(kind::DROP, netns),
        tuple,
        ct: Conntrack::default(),
        skb: 0xffff_8880_0000_9000,
        location,
        reason,
        flags: if reason == 0 { 0 } else { DROP_HAS_REASON },
        ident,
        ifindex: 7,
        iif: 7,
        tcp_flags: 0,
        packet_len: 0,
        captured: 0,
        packet: [0; PACKET_BYTES],
    }
}

/// A dropped DNS packet with its bytes.
pub fn dns_drop(netns: u32, tuple: Tuple, id: u16, is_answer: bool, reason: u32, at: u64) -> Drop {
    let mut packet = vec![0u8; 28];
    packet[0] = 0x45;
    packet[9] = IPPROTO_UDP;
    packet.extend(id.to_be_bytes());
    packet.extend([if is_answer { 0x81 } else { 0x01 }, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend_from_slice(NAME);
    packet.extend([0, 28, 0, 1]);
    let mut drop = dropped(netns, tuple, u32::from(id), reason, at);
    drop.captured = u32::try_from(packet.len()).unwrap();
    drop.packet[..packet.len()].copy_from_slice(&packet);
    drop
}

pub fn drop_event(drop: Drop) -> Body {
    Body::Drop(Box::new(drop))
}

pub fn table_full_drop(netns: u32, tuple: Tuple, ident: u32) -> Body {
    let mut drop = dropped(netns, tuple, ident, NETFILTER_DROP, 0x100);
    drop.flags |= DROP_TABLE_FULL | DROP_IN_NF_HOOK_SLOW;
    if tuple.proto == IPPROTO_TCP {
        drop.tcp_flags = 2;
    }
    drop_event(drop)
}

/// A dropped SYN of the client.
pub fn syn_drop(netns: u32, dst: &str, reason: u32, location: u64) -> Body {
    let mut drop = dropped(netns, tcp(CLIENT_END, dst), ISN, reason, location);
    drop.tcp_flags = 2;
    drop_event(drop)
}

/// A rule of the host rejects the packet with this ICMP code.
pub fn reject(tuple: Tuple, ident: u32, code: u32) -> Reject {
    let tcp_flags = if tuple.proto == IPPROTO_TCP { 2 } else { 0 };
    Reject {
        header: header(kind::REJECT, HOST),
        tuple,
        ct: Conntrack::default(),
        skb: 0xffff_8880_0000_3000,
        ident,
        tcp_flags,
        code,
        hook: NF_INET_FORWARD,
    }
}

pub fn rejected(reject: Reject) -> Body {
    Body::Reject(Box::new(reject))
}
