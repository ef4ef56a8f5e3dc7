//! Packets that the kernel frees as dropped: SYNs, SYN-ACKs, DNS packets, and whatever a full
//! conntrack table refused.
//!
//! Raw tracepoint `skb:kfree_skb(struct sk_buff *skb, void *location[, enum skb_drop_reason
//! reason[, struct sock *rx_sk]])`: two arguments on 5.10, three on 6.1, four from 6.11 on. Reading
//! an argument that is not there makes the attach fail, so the reads are behind constants that the
//! loader sets from BTF.
//!
//! A full table has no reason of its own: `nf_conntrack_in` returns NF_DROP and `nf_hook_slow` frees
//! the packet, without an entry, on the same CPU right after `early_drop` failed. The mark that
//! `early_drop` left is taken by that packet.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use probe_common::{
    event::{
        DROP_HAS_REASON, DROP_IN_NF_HOOK_SLOW, DROP_INSERT_FAILED, DROP_TABLE_FULL, Drop,
        PACKET_BYTES, kind,
    },
    net::{IPPROTO_TCP, IPPROTO_UDP, ips},
};

use crate::{
    emit,
    hooks::dns::is_dns_port,
    maps::{INSERT_FAILED_MARK, TABLE_FULL_MARK, offset, seen, setting},
    packet::{self, TCP_SYN},
    read::{self, Ptr, field},
    socket,
};

/// A mark older than this is not of the packet that is freed now. Generous: an emulated CPU may be
/// held up between the two.
pub(super) const MARK_AGE: u64 = 50_000_000;

#[raw_tracepoint]
pub fn kfree_skb(ctx: RawTracePointContext) -> i32 {
    let skb: Ptr = ctx.arg(0);
    let location: u64 = ctx.arg(1);
    let args = setting!(kfree_skb_args);
    let reason = if args >= 3 { ctx.arg::<u64>(2) as u32 } else { 0 };
    let rx_sk: Ptr = if args >= 4 { ctx.arg(3) } else { 0 };
    dropped(skb, location, reason, rx_sk);
    0
}

#[inline(always)]
fn dropped(skb: Ptr, location: u64, reason: u32, rx_sk: Ptr) -> Option<()> {
    let mut flags = 0;
    if setting!(kfree_skb_args) >= 3 {
        if reason == setting!(reason_consumed) {
            return None;
        }
        flags |= DROP_HAS_REASON;
    }
    let mut by_netfilter =
        location >= setting!(nf_hook_slow[0]) && location < setting!(nf_hook_slow[1]);
    if by_netfilter {
        flags |= DROP_IN_NF_HOOK_SLOW;
    } else if setting!(nf_hook_slow[1]) == 0 {
        // The kernel hides its addresses: the reason must do, where there is one.
        by_netfilter = flags & DROP_HAS_REASON == 0 || reason == setting!(reason_netfilter_drop);
    }
    if by_netfilter && table_was_full(skb) {
        flags |= DROP_TABLE_FULL;
    }
    if by_netfilter && insert_failed(skb) {
        flags |= DROP_INSERT_FAILED;
    }
    let packet = packet::parse(skb)?;
    let interesting = match packet.tuple.proto {
        IPPROTO_TCP => packet.tcp_flags & TCP_SYN != 0,
        IPPROTO_UDP => is_dns_port(packet.tuple.sport) || is_dns_port(packet.tuple.dport),
        _ => false,
    };
    if !interesting && flags & (DROP_TABLE_FULL | DROP_INSERT_FAILED) == 0 {
        return None;
    }
    seen(kind::DROP);
    let ts = emit::now();
    let (ct, info) = socket::nfct(skb);
    let dev: Ptr = field(skb, offset!(skb_dev));
    // UDP's receive path keeps other things in skb->dev (dev_scratch, whose top byte is a bool), TCP
    // clears it: only a kernel address is a device.
    let dev = if dev >> 63 == 1 { dev } else { 0 };
    let header = emit::header(kind::DROP, ts, namespace(skb, dev, rx_sk));
    let ifindex = field(dev, offset!(dev_ifindex));
    let iif = field(skb, offset!(skb_iif));
    let captured = {
        let linear = packet.end.saturating_sub(packet.l3);
        let len = if linear < u64::from(packet.len) { linear as u32 } else { packet.len };
        if len < PACKET_BYTES as u32 { len } else { PACKET_BYTES as u32 - 1 }
    };
    emit::send(kind::DROP, socket::source_key(&packet.tuple), ts, |event: *mut Drop| {
        // SAFETY: the entry is reserved for exactly this type and every field is written.
        unsafe {
            (*event).header = header;
            (*event).tuple = packet.tuple;
            socket::conntrack(ct, info, &raw mut (*event).ct);
            (*event).skb = skb;
            (*event).location = location;
            (*event).reason = reason;
            (*event).flags = flags;
            (*event).ident = packet.ident;
            (*event).ifindex = ifindex;
            (*event).iif = iif;
            (*event).tcp_flags = u32::from(packet.tcp_flags);
            (*event).packet_len = packet.len;
            core::ptr::write_bytes(&raw mut (*event).packet, 0, 1);
            let read = read::bytes(
                packet.l3,
                (&raw mut (*event).packet).cast(),
                captured,
                PACKET_BYTES as u32 - 1,
            );
            (*event).captured = if read { captured } else { 0 };
        }
    });
    Some(())
}

/// Takes the mark of a failed `early_drop` on this CPU, if this packet has no entry.
#[inline(always)]
fn table_was_full(skb: Ptr) -> bool {
    let Some(mark) = TABLE_FULL_MARK.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own value.
    let marked = unsafe { *mark };
    if marked == 0 || socket::nfct(skb).0 != 0 {
        return false;
    }
    // SAFETY: as above.
    unsafe { *mark = 0 };
    emit::now().wrapping_sub(marked) < MARK_AGE
}

/// Takes the mark of an entry that could not be inserted, if this packet's is not in the table.
#[inline(always)]
fn insert_failed(skb: Ptr) -> bool {
    let Some(mark) = INSERT_FAILED_MARK.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own value.
    let marked = unsafe { *mark };
    if marked == 0 {
        return false;
    }
    // SAFETY: as above. The packet freed next takes the mark, whatever it is: another one later
    // must not.
    unsafe { *mark = 0 };
    let (ct, _) = socket::nfct(skb);
    if ct == 0 || field::<u32>(ct, offset!(ct_status)) & ips::CONFIRMED != 0 {
        return false;
    }
    emit::now().wrapping_sub(marked) < MARK_AGE
}

/// Where it happened: the receiving socket's namespace, else the device's, else that of the
/// packet's own socket, else that of its route.
#[inline(always)]
pub(super) fn namespace(skb: Ptr, dev: Ptr, rx_sk: Ptr) -> Ptr {
    if rx_sk != 0 {
        return read::sock_net(rx_sk);
    }
    if dev != 0 {
        return read::dev_net(dev);
    }
    let sk: Ptr = field(skb, offset!(skb_sk));
    if sk != 0 {
        return read::sock_net(sk);
    }
    let dst: Ptr = field(skb, offset!(skb_refdst));
    let dev: Ptr = field(dst & !1, offset!(dst_dev));
    read::dev_net(dev)
}
