//! Entries that clash at insertion, and a table that is full.
//!
//! `int nf_ct_resolve_clash(struct sk_buff *skb, struct nf_conntrack_tuple_hash *h, u32 reply_hash)`
//! (net/netfilter/nf_conntrack_core.c), module nf_conntrack, static noinline: the same on 5.10, 6.1,
//! 6.12, 6.18 and 7.2. `h` is the hash entry of the winner; NF_DROP (0) or NF_ACCEPT (1) comes back,
//! the latter with `skb->_nfct` replaced by the winner or the loser marked IPS_NAT_CLASH.
//!
//! `bool early_drop(struct net *net, unsigned int hash)` (same file): called only when the table is
//! full; false means that the packet will be dropped.
//!
//! `int __nf_conntrack_confirm(struct sk_buff *skb)` (same file): once for each new connection, when
//! its first packet leaves the host; NF_DROP (0) when its entry could not be inserted. Only the
//! return is hooked: it looks at one register, and nothing else happens unless that is 0. The packet
//! is freed by `nf_hook_slow` on the same CPU right after, with its unconfirmed entry, and takes the
//! mark that is left here. A clash that was dropped ends in the same return: it left a mark before.
//!
//! All are functions of a module, so kprobe and kretprobe. Where both are needed they are paired by the
//! stack pointer, which survives nesting: at the return it stands one return address above that at the entry on
//! x86, and at the same place on arm64.

use aya_ebpf::{
    helpers::generated::bpf_jiffies64,
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use aya_log_ebpf::debug;
use probe_common::event::{Clash, TableFull, VERDICT_DROP, kind};

use super::skb_drop::MARK_AGE;
use crate::{
    capture::{self, Beside},
    emit,
    maps::{
        CLASH_MARK, CLASH_SCRATCH, CLASHES, CONNECTED, EARLY_DROPS, INSERT_FAILED_MARK,
        TABLE_FULL_MARK, offset, seen, stats,
    },
    packet,
    read::{Ptr, field},
    socket,
};

#[kprobe]
pub fn clash_kp(ctx: ProbeContext) -> u32 {
    if let (Some(skb), Some(hash)) = (ctx.arg(0), ctx.arg(1)) {
        clash_entry(entry_stack(&ctx), skb, hash);
    }
    0
}

#[kretprobe]
pub fn clash_krp(ctx: RetProbeContext) -> u32 {
    let ret = ctx.ret();
    clash_return(return_stack(&ctx), ret);
    debug!(&ctx, "nf_ct_resolve_clash: {}", ret);
    0
}

#[kprobe]
pub fn early_drop_kp(ctx: ProbeContext) -> u32 {
    if let Some(net) = ctx.arg::<u64>(0) {
        let _ = EARLY_DROPS.insert(&entry_stack(&ctx), &net, 0);
    }
    0
}

#[kretprobe]
pub fn early_drop_krp(ctx: RetProbeContext) -> u32 {
    let evicted = ctx.ret::<u64>() & 0xff;
    early_drop_return(return_stack(&ctx), evicted != 0);
    debug!(&ctx, "early_drop: {}", evicted);
    0
}

#[kretprobe]
pub fn confirm_krp(ctx: RetProbeContext) -> u32 {
    if ctx.ret::<u64>() as u32 == VERDICT_DROP {
        insert_failed();
    }
    0
}

/// Stack pointer when a function was entered: it points to the return address.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub(super) fn entry_stack(ctx: &ProbeContext) -> u64 {
    // SAFETY: the context of a kprobe is a valid pt_regs.
    unsafe { (*ctx.regs).rsp }
}

/// The same value, read at the return: the return address has been taken off the stack.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub(super) fn return_stack(ctx: &RetProbeContext) -> u64 {
    // SAFETY: the context of a kretprobe is a valid pt_regs.
    unsafe { (*ctx.regs).rsp }.wrapping_sub(8)
}

#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub(super) fn entry_stack(ctx: &ProbeContext) -> u64 {
    // SAFETY: the context of a kprobe is a valid pt_regs.
    unsafe { (*ctx.regs).sp }
}

#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub(super) fn return_stack(ctx: &RetProbeContext) -> u64 {
    // SAFETY: the context of a kretprobe is a valid pt_regs.
    unsafe { (*ctx.regs).sp }
}

#[inline(always)]
fn clash_entry(stack: u64, skb: Ptr, hash: Ptr) -> Option<()> {
    let ts = emit::now();
    let scratch = CLASH_SCRATCH.get_ptr_mut(0)?;
    let (loser, info) = socket::nfct(skb);
    let ident = packet::parse(skb).map_or(0, |p| p.ident);
    // The winner's nf_conn holds both directions' hash entries in an array; `dir` tells which one
    // this is (nf_ct_tuplehash_to_ctrack).
    let dir: u8 = field(hash + u64::from(offset!(tuplehash_tuple)), offset!(tuple_dir));
    let dir = u64::from(dir & 1);
    let winner = hash
        .wrapping_sub(u64::from(offset!(ct_tuplehash)))
        .wrapping_sub(dir * u64::from(offset!(tuplehash_size)));
    let net: Ptr = field(loser, offset!(ct_net));
    let iif = field(skb, offset!(skb_iif));
    // SAFETY: the scratch value is this CPU's own: kprobe programs do not interrupt each other
    // (bpf_prog_active). The helper has no arguments.
    unsafe {
        (*scratch).header = emit::header(kind::CLASH, ts, net);
        socket::conntrack(loser, info, &raw mut (*scratch).loser);
        socket::conntrack(winner, 0xff, &raw mut (*scratch).winner);
        (*scratch).skb = skb;
        (*scratch).winner_started = CONNECTED.get(&(*scratch).winner.orig).copied().unwrap_or(0);
        (*scratch).jiffies = bpf_jiffies64() as u32;
        (*scratch).verdict = u32::MAX;
        (*scratch).status_after = 0;
        (*scratch).hit_dir = dir as u32;
        (*scratch).iif = iif;
        (*scratch).ident = ident;
        let _ = CLASHES.insert(&stack, &*scratch, 0);
    }
    Some(())
}

#[inline(always)]
fn clash_return(stack: u64, ret: u64) -> Option<()> {
    seen(kind::CLASH);
    if ret as u32 == VERDICT_DROP {
        let mark = CLASH_MARK.get_ptr_mut(0)?;
        // SAFETY: this CPU's own value.
        unsafe { *mark = emit::now() };
    }
    let Some(clash) = CLASHES.get_ptr_mut(&stack) else {
        stats(|s| s.unmatched_returns += 1);
        return None;
    };
    // SAFETY: the entry belongs to this call, which is about to return on this CPU.
    let clash = unsafe { &mut *clash };
    clash.verdict = ret as u32;
    let (ct, _) = socket::nfct(clash.skb);
    clash.status_after = field(ct, offset!(ct_status));
    let pod = socket::source_key(&clash.loser.orig);
    let ts = clash.header.ts;
    let sent = emit::send(kind::CLASH, pod, ts, |event: *mut Clash| {
        // SAFETY: the entry is reserved for exactly this type and written whole.
        unsafe { event.write(*clash) };
    });
    let beside = Beside { ct: Some(&clash.loser), ..Beside::event(clash.header, sent) };
    // As NAT has left it: this is the last thing before it goes.
    capture::skb(clash.skb, None, beside);
    let _ = CLASHES.remove(&stack);
    Some(())
}

#[inline(always)]
fn insert_failed() -> Option<()> {
    let clash = CLASH_MARK.get_ptr_mut(0)?;
    let mark = INSERT_FAILED_MARK.get_ptr_mut(0)?;
    let ts = emit::now();
    // SAFETY: both are this CPU's own values.
    unsafe {
        let clashed = *clash;
        *clash = 0;
        if clashed == 0 || ts.wrapping_sub(clashed) >= MARK_AGE {
            *mark = ts;
        }
    }
    Some(())
}

#[inline(always)]
fn early_drop_return(stack: u64, evicted: bool) -> Option<()> {
    // SAFETY: the entry belongs to this call, which is about to return on this CPU.
    let net = unsafe { EARLY_DROPS.get(&stack) }.copied();
    let _ = EARLY_DROPS.remove(&stack);
    if net.is_none() {
        stats(|s| s.unmatched_returns += 1);
    }
    let ts = emit::now();
    seen(kind::TABLE_FULL);
    if !evicted {
        stats(|s| s.table_full += 1);
        let mark = TABLE_FULL_MARK.get_ptr_mut(0)?;
        // SAFETY: this CPU's own value.
        unsafe { *mark = ts };
    }
    let header = emit::header(kind::TABLE_FULL, ts, net.unwrap_or(0));
    emit::send(kind::TABLE_FULL, u64::from(header.netns), ts, |event: *mut TableFull| {
        // SAFETY: the entry is reserved for exactly this type and written whole.
        unsafe { event.write(TableFull { header, evicted: u32::from(evicted), _pad: 0 }) };
    });
    Some(())
}
