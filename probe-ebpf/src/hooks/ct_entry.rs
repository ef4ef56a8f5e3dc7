//! What connection tracking makes of the packets of one flow: armed, never standing.
//!
//! `unsigned int nf_conntrack_in(struct sk_buff *skb, const struct nf_hook_state *state)`
//! (net/netfilter/nf_conntrack_core.c), module nf_conntrack, exported: the same on 5.10, 6.1, 6.12,
//! 6.18 and 7.2. It runs for each packet in PREROUTING and OUTPUT, before any NAT. When it returns,
//! `skb->_nfct` holds the entry and `enum ip_conntrack_info`; nothing at all for an INVALID packet,
//! and only IP_CT_UNTRACKED (7) for one that a rule took past it.

use aya_ebpf::{
    helpers::generated::bpf_jiffies64,
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use probe_common::{
    armed::Armed,
    event::{CtEntry, kind},
    net::{FAMILY_V4, FAMILY_V6, Tuple},
};

use super::{
    conntrack::{entry_stack, return_stack},
    skb_drop::namespace,
};
use crate::{
    armed,
    capture::{self, Beside},
    emit,
    maps::{CT_ENTRY_SCRATCH, TRACKING, offset, seen},
    packet,
    read::{Ptr, at, field},
    socket,
};

#[kprobe]
pub fn ct_entry_kp(ctx: ProbeContext) -> u32 {
    let stack = entry_stack(&ctx);
    if let Some(skb) = ctx.arg(0) {
        armed::run(|armed| entry(armed, stack, skb));
    }
    0
}

#[kretprobe]
pub fn ct_entry_krp(ctx: RetProbeContext) -> u32 {
    let (stack, ret) = (return_stack(&ctx), ctx.ret());
    armed::run(|armed| returned(armed, stack, ret));
    0
}

/// Counted as a packet of the flow at the return only.
#[inline(always)]
fn entry(armed: &Armed, stack: u64, skb: Ptr) -> Option<()> {
    if !has_client(&armed.flow, skb) {
        return None;
    }
    let tuple = packet::parse(skb)?.tuple;
    if is_asked(&armed.flow, &tuple) || is_to_client(&armed.flow, &tuple) {
        let _ = TRACKING.insert(&stack, &skb, 0);
    }
    None
}

/// Whether one end of the packet has the client's address. Reads no more than the addresses.
#[inline(always)]
fn has_client(flow: &Tuple, skb: Ptr) -> bool {
    let head: Ptr = field(skb, offset!(skb_head));
    let network: u16 = field(skb, offset!(skb_network_header));
    let l3 = head + u64::from(network);
    let client = &flow.src;
    match flow.family {
        FAMILY_V4 => {
            let ip: [u8; 20] = at(l3);
            let client = [client[0], client[1], client[2], client[3]];
            ip[0] >> 4 == 4
                && ([ip[12], ip[13], ip[14], ip[15]] == client
                    || [ip[16], ip[17], ip[18], ip[19]] == client)
        }
        FAMILY_V6 => {
            let first: u8 = at(l3);
            let src: [u8; 16] = at(l3 + 8);
            let dst: [u8; 16] = at(l3 + 24);
            first >> 4 == 6 && (src == *client || dst == *client)
        }
        _ => false,
    }
}

/// From the client to the server. Source port 0: any.
#[inline(always)]
fn is_asked(flow: &Tuple, t: &Tuple) -> bool {
    t.proto == flow.proto
        && (flow.sport == 0 || t.sport == flow.sport)
        && t.dport == flow.dport
        && t.src == flow.src
        && t.dst == flow.dst
}

/// To the client, from whatever address: before it is translated back, an answer bears that of the
/// server that gave it.
#[inline(always)]
fn is_to_client(flow: &Tuple, t: &Tuple) -> bool {
    t.proto == flow.proto && (flow.sport == 0 || t.dport == flow.sport) && t.dst == flow.src
}

/// An answer whose entry was gone when it came: it begins an entry of its own.
#[inline(always)]
fn is_new_answer(flow: &Tuple, orig: &Tuple) -> bool {
    orig.sport == flow.dport && is_to_client(flow, orig)
}

#[inline(always)]
fn returned(armed: &Armed, stack: u64, ret: u64) -> Option<()> {
    // SAFETY: the entry belongs to this call, which is about to return on this CPU.
    let skb = unsafe { TRACKING.get(&stack) }.copied()?;
    let _ = TRACKING.remove(&stack);
    let packet = packet::parse(skb)?;
    let scratch = CT_ENTRY_SCRATCH.get_ptr_mut(0)?;
    let ts = emit::now();
    let (ct, info) = socket::nfct(skb);
    let dev: Ptr = field(skb, offset!(skb_dev));
    // SAFETY: the scratch value is this CPU's own: kprobe programs do not interrupt each other
    // (bpf_prog_active).
    let to = unsafe { &mut *scratch };
    // SAFETY: a field of the scratch value.
    unsafe { socket::conntrack(ct, info, &raw mut to.ct) };
    if !is_asked(&armed.flow, &packet.tuple) {
        let is_answer = if to.ct.present == 0 {
            armed.flow.sport != 0
        } else {
            is_asked(&armed.flow, &to.ct.orig) || is_new_answer(&armed.flow, &to.ct.orig)
        };
        if !is_answer {
            return None;
        }
    }
    seen(kind::CT_ENTRY);
    to.header = emit::header(kind::CT_ENTRY, ts, namespace(skb, dev, 0));
    to.tuple = packet.tuple;
    to.skb = skb;
    // SAFETY: the helper has no arguments.
    to.jiffies = unsafe { bpf_jiffies64() } as u32;
    to.ident = packet.ident;
    to.tcp_flags = u32::from(packet.tcp_flags);
    to.verdict = ret as u32;
    to.info = u32::from(info);
    to.iif = field(skb, offset!(skb_iif));
    let pod = socket::source_key(&armed.flow);
    let sent = emit::send(kind::CT_ENTRY, pod, ts, |event: *mut CtEntry| {
        // SAFETY: the entry is reserved for exactly this type and written whole.
        unsafe { event.write(*scratch) };
    });
    let beside = Beside { ct: Some(&to.ct), ..Beside::event(to.header, sent) };
    capture::skb(skb, None, beside)
}
