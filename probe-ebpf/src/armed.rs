//! What every armed program begins with: is this packet of the flow that is looked for, and may
//! this CPU still spend time on it?
//!
//! Armed programs sit on functions that run for every packet. The loader attaches them for one flow
//! and a few seconds, and lets go of them at once when a CPU has used up its budget.

use probe_common::{
    armed::Armed,
    net::{FAMILY_V4, FAMILY_V6},
};

use crate::{
    emit,
    maps::{ARMED, ARMED_COST, offset},
    packet::{self, Packet},
    read::{Ptr, at, field},
};

/// Runs `work` and accounts what it cost this CPU, unless the time or the budget is over. `work`
/// gives `Some` when the packet was of the flow.
#[inline(always)]
pub fn run(work: impl FnOnce(&Armed) -> Option<()>) {
    let (Some(armed), Some(cost)) = (ARMED.get(0), ARMED_COST.get_ptr_mut(0)) else { return };
    // SAFETY: this CPU's own value. Kprobe programs do not interrupt each other (bpf_prog_active). Those on
    // tracepoints run while a packet is sent or received, with bottom halves off: another of them comes in
    // between only in a hard interrupt that sends (netpoll), and then a count is lost at the worst.
    let cost = unsafe { &mut *cost };
    cost.runs += 1;
    let started = emit::now();
    if cost.ns >= armed.budget || started >= armed.until {
        cost.silent += 1;
        return;
    }
    if work(armed).is_some() {
        cost.matched += 1;
    }
    cost.ns += emit::now() - started;
}

/// The headers of `skb` if it is a packet of the armed flow, in either direction. Reads no more
/// than the addresses of any other packet.
#[inline(always)]
pub fn packet(armed: &Armed, skb: Ptr) -> Option<Packet> {
    let flow = &armed.flow;
    if !has_addresses(armed, skb) {
        return None;
    }
    let packet = packet::parse(skb)?;
    let (sport, dport) = (packet.tuple.sport, packet.tuple.dport);
    let there = sport == flow.sport && dport == flow.dport && packet.tuple.src == flow.src;
    let back = sport == flow.dport && dport == flow.sport && packet.tuple.src == flow.dst;
    (packet.tuple.proto == flow.proto && (there || back)).then_some(packet)
}

/// Whether the packet goes between the two addresses of the flow.
#[inline(always)]
fn has_addresses(armed: &Armed, skb: Ptr) -> bool {
    let (a, b) = (&armed.flow.src, &armed.flow.dst);
    let head: Ptr = field(skb, offset!(skb_head));
    let network: u16 = field(skb, offset!(skb_network_header));
    let l3 = head + u64::from(network);
    match armed.flow.family {
        FAMILY_V4 => {
            // Protocol and checksum come before: one read of 20 bytes costs no more than two.
            let ip: [u8; 20] = at(l3);
            let (src, dst) = ([ip[12], ip[13], ip[14], ip[15]], [ip[16], ip[17], ip[18], ip[19]]);
            let (a, b) = ([a[0], a[1], a[2], a[3]], [b[0], b[1], b[2], b[3]]);
            ip[0] >> 4 == 4 && ((src == a && dst == b) || (src == b && dst == a))
        }
        FAMILY_V6 => {
            let first: u8 = at(l3);
            let src: [u8; 16] = at(l3 + 8);
            let dst: [u8; 16] = at(l3 + 24);
            first >> 4 == 6 && ((src == *a && dst == *b) || (src == *b && dst == *a))
        }
        _ => false,
    }
}
