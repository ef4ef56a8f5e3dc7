//! Armed: what IPVS's hook decides on the SYN of one flow, and which connection it finds for it.
//!
//! - `unsigned int ip_vs_in_hook(void *priv, struct sk_buff *skb, const struct nf_hook_state
//!   *state)` (net/netfilter/ipvs/ip_vs_core.c), module ip_vs: 6.1, 6.12, 6.18 and 7.2. On 5.10 the
//!   hooks are `ip_vs_remote_request4`, `ip_vs_local_request4`, `ip_vs_remote_request6` and
//!   `ip_vs_local_request6`, of the same prototype.
//! - `struct ip_vs_conn *ip_vs_conn_in_get_proto(struct netns_ipvs *ipvs, int af, const struct
//!   sk_buff *skb, const struct ip_vs_iphdr *iph)` (ip_vs_conn.c): the same on all of them. It runs
//!   inside of the hook, before the hook changes anything.
//!
//! After the hook took a packet (NF_STOLEN) the packet may be gone: at the returns only what was
//! noted before is used.

use aya_ebpf::{
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use probe_common::event::{IPVS_FOUND, IPVS_LOOKED, kind};

use super::{
    conntrack::{entry_stack, return_stack},
    ipvs,
};
use crate::{
    armed, emit,
    maps::{IPVS_LAYOUT, VERDICT_CALLS, VERDICTS, seen},
    packet::TCP_SYN,
    read::Ptr,
};

/// An older call for a packet at the same address is over; its return was missed.
const SAME_CALL: u64 = 100_000_000;

#[kprobe]
pub fn ipvs_hook_kp(ctx: ProbeContext) -> u32 {
    if let Some(skb) = ctx.arg::<Ptr>(1) {
        let stack = entry_stack(&ctx);
        armed::run(|armed| {
            let packet = armed::packet(armed, skb)?;
            if ipvs::syn_ack(&packet) != TCP_SYN {
                return None;
            }
            let ts = emit::now();
            // The hook sends the packet through the node's own output, where it comes by again.
            // SAFETY: read at once, and only the time.
            if let Some(outer) = unsafe { VERDICTS.get(&skb) }
                && ts.saturating_sub(outer.header.ts) < SAME_CALL
            {
                return None;
            }
            let event = ipvs::begin(kind::IPVS_VERDICT, ts, skb, &packet)?;
            VERDICTS.insert(&skb, &*event, 0).ok()?;
            VERDICT_CALLS.insert(&stack, &skb, 0).ok()
        });
    }
    0
}

#[kprobe]
pub fn ipvs_find_kp(ctx: ProbeContext) -> u32 {
    if let Some(skb) = ctx.arg::<Ptr>(2) {
        let stack = entry_stack(&ctx);
        armed::run(|_| {
            VERDICTS.get_ptr(&skb)?;
            VERDICT_CALLS.insert(&stack, &skb, 0).ok()
        });
    }
    0
}

#[kretprobe]
pub fn ipvs_find_krp(ctx: RetProbeContext) -> u32 {
    let (stack, cp) = (return_stack(&ctx), ctx.ret::<Ptr>());
    armed::run(|_| found(stack, cp));
    0
}

#[kretprobe]
pub fn ipvs_hook_krp(ctx: RetProbeContext) -> u32 {
    let (stack, verdict) = (return_stack(&ctx), ctx.ret::<u64>() as u32);
    armed::run(|_| decided(stack, verdict));
    0
}

/// The packet of the call that was entered with this stack pointer, once.
#[inline(always)]
fn packet_of(stack: u64) -> Option<Ptr> {
    // SAFETY: the entry belongs to this call, which is about to return on this CPU.
    let skb = unsafe { VERDICT_CALLS.get(&stack) }.copied()?;
    let _ = VERDICT_CALLS.remove(&stack);
    Some(skb)
}

#[inline(always)]
fn found(stack: u64, cp: Ptr) -> Option<()> {
    let skb = packet_of(stack)?;
    let event = VERDICTS.get_ptr_mut(&skb)?;
    let layout = IPVS_LAYOUT.get(0)?;
    // SAFETY: a live map value of this call's own packet.
    let event = unsafe { &mut *event };
    event.flags |= IPVS_LOOKED;
    if cp != 0 {
        event.flags |= IPVS_FOUND;
        ipvs::connection(layout, event, cp);
        ipvs::service(layout, event, cp);
    }
    Some(())
}

#[inline(always)]
fn decided(stack: u64, verdict: u32) -> Option<()> {
    let skb = packet_of(stack)?;
    let event = VERDICTS.get_ptr_mut(&skb)?;
    // SAFETY: a live map value of this call's own packet.
    let event = unsafe { &mut *event };
    event.verdict = verdict;
    seen(kind::IPVS_VERDICT);
    ipvs::send(kind::IPVS_VERDICT, event);
    let _ = VERDICTS.remove(&skb);
    Some(())
}
