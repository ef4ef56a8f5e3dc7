//! Packets that a netfilter rule rejects with ICMP "unreachable".
//!
//! - `void nf_send_unreach(struct sk_buff *skb_in, int code, int hook)`
//!   (net/ipv4/netfilter/nf_reject_ipv4.c, module nf_reject_ipv4)
//! - `void nf_send_unreach6(struct net *net, struct sk_buff *skb_in, unsigned char code, unsigned int
//!   hooknum)` (net/ipv6/netfilter/nf_reject_ipv6.c, module nf_reject_ipv6)
//!
//! The same on 5.10, 6.1, 6.12, 6.18 and 7.2. `REJECT` of iptables and `reject` of nftables both call
//! them, before the packet is dropped. A failure path: nothing else does.

use aya_ebpf::{macros::kprobe, programs::ProbeContext};
use probe_common::event::{Reject, kind};

use super::skb_drop::namespace;
use crate::{
    capture::{self, Beside},
    emit,
    maps::{REJECT_SCRATCH, offset, seen},
    packet,
    read::{Ptr, field},
    socket,
};

#[kprobe]
pub fn reject4_kp(ctx: ProbeContext) -> u32 {
    if let (Some(skb), Some(code), Some(hook)) = (ctx.arg(0), ctx.arg::<u64>(1), ctx.arg::<u64>(2))
    {
        rejected(skb, code, hook);
    }
    0
}

#[kprobe]
pub fn reject6_kp(ctx: ProbeContext) -> u32 {
    if let (Some(skb), Some(code), Some(hook)) = (ctx.arg(1), ctx.arg::<u64>(2), ctx.arg::<u64>(3))
    {
        rejected(skb, code, hook);
    }
    0
}

#[inline(always)]
fn rejected(skb: Ptr, code: u64, hook: u64) -> Option<()> {
    seen(kind::REJECT);
    let scratch = REJECT_SCRATCH.get_ptr_mut(0)?;
    let packet = packet::parse(skb)?;
    let ts = emit::now();
    let dev: Ptr = field(skb, offset!(skb_dev));
    let (ct, info) = socket::nfct(skb);
    // SAFETY: the scratch value is this CPU's own: kprobe programs do not interrupt each other
    // (bpf_prog_active).
    let to = unsafe { &mut *scratch };
    to.header = emit::header(kind::REJECT, ts, namespace(skb, dev, 0));
    to.tuple = packet.tuple;
    // SAFETY: a field of the scratch value.
    unsafe { socket::conntrack(ct, info, &raw mut to.ct) };
    to.skb = skb;
    to.ident = packet.ident;
    to.tcp_flags = u32::from(packet.tcp_flags);
    // A byte in one of the prototypes: the rest of the register means nothing.
    to.code = (code & 0xff) as u32;
    to.hook = hook as u32;
    let pod = socket::source_key(&packet.tuple);
    let sent = emit::send(kind::REJECT, pod, ts, |event: *mut Reject| {
        // SAFETY: the entry is reserved for exactly this type and written whole.
        unsafe { event.write(*scratch) };
    });
    capture::send(skb, &packet, Beside { ct: Some(&to.ct), ..Beside::event(to.header, sent) });
    Some(())
}
