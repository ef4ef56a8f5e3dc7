//! IPVS: a SYN-ACK taken for a new connection, a service without servers, and a SYN that follows an
//! old connection to a server which is drained or gone.
//!
//! Functions of the module ip_vs (net/netfilter/ipvs), the same on 5.10, 6.1, 6.12, 6.18 and 7.2:
//! - `struct ip_vs_conn *ip_vs_schedule(struct ip_vs_service *svc, struct sk_buff *skb, struct
//!   ip_vs_proto_data *pd, int *ignored, struct ip_vs_iphdr *iph)`: for the first packet of a
//!   connection to a service. `tcp_conn_schedule` calls it for a SYN with or without ACK.
//! - `int ip_vs_leave(struct ip_vs_service *svc, struct sk_buff *skb, struct ip_vs_proto_data *pd,
//!   struct ip_vs_iphdr *iph)`: when that found no server.
//! - `int ip_vs_nat_xmit(struct sk_buff *skb, struct ip_vs_conn *cp, struct ip_vs_protocol *pp,
//!   struct ip_vs_iphdr *ipvsh)` and `ip_vs_nat_xmit_v6`: for each packet to a server. They see the
//!   packet as the client sent it.
//! - `void ip_vs_conn_expire_now(struct ip_vs_conn *cp)`: an old connection makes way for a new one.

use aya_ebpf::{
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use probe_common::{
    event::{Header, IPVS_GONE, IPVS_NO_DEST, Ipvs, kind},
    ipvs::Layout,
    net::{FAMILY_V4, IPPROTO_TCP},
    offsets::ABSENT,
};

use super::{
    conntrack::{entry_stack, return_stack},
    skb_drop::namespace,
};
use crate::{
    capture::{self, Beside},
    emit,
    maps::{IPVS_LAYOUT, IPVS_SCRATCH, SCHEDULING, Scheduling, offset, seen},
    packet::{self, Packet, TCP_ACK, TCP_SYN},
    read::{self, Ptr, field},
    socket,
};

/// `IP_VS_DEST_F_AVAILABLE` (include/net/ip_vs.h).
const AVAILABLE: u32 = 1;

#[kprobe]
pub fn ipvs_sched_kp(ctx: ProbeContext) -> u32 {
    if let (Some(svc), Some(skb)) = (ctx.arg(0), ctx.arg(1)) {
        schedule_entry(entry_stack(&ctx), svc, skb);
    }
    0
}

#[kretprobe]
pub fn ipvs_sched_krp(ctx: RetProbeContext) -> u32 {
    schedule_return(return_stack(&ctx), ctx.ret());
    0
}

#[kprobe]
pub fn ipvs_leave_kp(ctx: ProbeContext) -> u32 {
    if let (Some(svc), Some(skb)) = (ctx.arg(0), ctx.arg(1)) {
        leave(svc, skb);
    }
    0
}

/// Attached to both functions.
#[kprobe]
pub fn ipvs_xmit_kp(ctx: ProbeContext) -> u32 {
    if let (Some(skb), Some(cp)) = (ctx.arg(0), ctx.arg(1)) {
        xmit(skb, cp);
    }
    0
}

#[kprobe]
pub fn ipvs_expire_kp(_ctx: ProbeContext) -> u32 {
    seen(kind::IPVS_EXPIRED);
    0
}

/// SYN and ACK of a TCP packet.
#[inline(always)]
pub(super) fn syn_ack(packet: &Packet) -> u8 {
    packet.tcp_flags & (TCP_SYN | TCP_ACK)
}

#[inline(always)]
fn schedule_entry(stack: u64, svc: Ptr, skb: Ptr) -> Option<()> {
    let packet = packet::parse(skb)?;
    if syn_ack(&packet) == TCP_SYN | TCP_ACK {
        let _ = SCHEDULING.insert(&stack, &Scheduling { svc, skb }, 0);
    }
    Some(())
}

#[inline(always)]
fn schedule_return(stack: u64, cp: Ptr) -> Option<()> {
    // SAFETY: the entry belongs to this call, which is about to return on this CPU.
    let Scheduling { svc, skb } = unsafe { SCHEDULING.get(&stack) }.copied()?;
    let _ = SCHEDULING.remove(&stack);
    let packet = packet::parse(skb)?;
    tell(kind::IPVS_HIJACK, skb, &packet, cp, svc)
}

#[inline(always)]
fn leave(svc: Ptr, skb: Ptr) -> Option<()> {
    let packet = packet::parse(skb)?;
    // A SYN-ACK that was taken has been told of already.
    if syn_ack(&packet) == TCP_SYN | TCP_ACK {
        return None;
    }
    tell(kind::IPVS_NO_SERVER, skb, &packet, 0, svc)
}

/// Runs for each packet to a server: asks the server's weight first, which is not 0 for nearly all.
#[inline(always)]
fn xmit(skb: Ptr, cp: Ptr) -> Option<()> {
    let layout = IPVS_LAYOUT.get(0)?;
    let dest: Ptr = field(cp, layout.cp_dest);
    if dest != 0 && field::<u32>(dest, layout.dest_weight) != 0 && is_available(layout, dest) {
        return None;
    }
    let packet = packet::parse(skb)?;
    if packet.tuple.proto != IPPROTO_TCP || syn_ack(&packet) != TCP_SYN {
        return None;
    }
    tell(kind::IPVS_STALE, skb, &packet, cp, 0)
}

#[inline(always)]
fn is_available(layout: &Layout, dest: Ptr) -> bool {
    let at = if layout.dest_cflags == ABSENT { layout.dest_flags } else { layout.dest_cflags };
    field::<u32>(dest, at) & AVAILABLE != 0
}

#[inline(always)]
fn port(base: Ptr, offset: u16) -> u16 {
    u16::from_be(field(base, offset))
}

/// Reads a `union nf_inet_addr` in place; the bytes behind an IPv4 address mean nothing.
///
/// # Safety
/// `to` points to 16 writable bytes.
#[inline(always)]
unsafe fn address(base: Ptr, offset: u16, v4: bool, to: *mut [u8; 16]) {
    // SAFETY: as the caller promises.
    unsafe {
        core::ptr::write_bytes(to, 0, 1);
        if base != 0 {
            read::bytes(base + u64::from(offset), to.cast(), if v4 { 4 } else { 16 }, 31);
        }
    }
}

/// Tells what IPVS decided on a packet, for the connection `cp` or the service `svc`; 0 where one
/// plays no part.
#[inline(always)]
fn tell(kind: u16, skb: Ptr, packet: &Packet, cp: Ptr, svc: Ptr) -> Option<()> {
    seen(kind);
    let layout = IPVS_LAYOUT.get(0)?;
    let ts = emit::now();
    let to = begin(kind, ts, skb, packet)?;
    connection(layout, to, cp);
    if svc == 0 {
        service(layout, to, cp);
    } else {
        let v4 = to.tuple.family == FAMILY_V4;
        to.service_port = port(svc, layout.svc_port);
        to.dests = field(svc, layout.svc_num_dests);
        // SAFETY: a field of the scratch value.
        unsafe { address(svc, layout.svc_addr, v4, &raw mut to.service) };
    }
    let sent = send(kind, to);
    let beside = Beside::event(Header { kind, ..to.header }, sent);
    capture::send(skb, packet, beside);
    Some(())
}

/// An event in this CPU's scratch place that knows the packet alone.
#[inline(always)]
pub(super) fn begin(kind: u16, ts: u64, skb: Ptr, packet: &Packet) -> Option<&'static mut Ipvs> {
    let scratch = IPVS_SCRATCH.get_ptr_mut(0)?;
    let dev: Ptr = field(skb, offset!(skb_dev));
    // SAFETY: the scratch value is this CPU's own: kprobe programs do not interrupt each other
    // (bpf_prog_active).
    let to = unsafe { &mut *scratch };
    to.header = emit::header(kind, ts, namespace(skb, dev, 0));
    to.tuple = packet.tuple;
    to.ident = packet.ident;
    to.tcp_flags = u32::from(packet.tcp_flags);
    to.flags = 0;
    to.weight = u32::MAX;
    to.in_pkts = 0;
    to.state = 0;
    to.dests = 0;
    to.server = [0; 16];
    to.server_port = 0;
    to.service = [0; 16];
    to.service_port = 0;
    to.verdict = u32::MAX;
    to._pad = 0;
    Some(to)
}

/// Adds the server of a connection.
#[inline(always)]
pub(super) fn connection(layout: &Layout, to: &mut Ipvs, cp: Ptr) {
    if cp == 0 {
        return;
    }
    let v4 = to.tuple.family == FAMILY_V4;
    // SAFETY: a field of a value that is this call's own.
    unsafe { address(cp, layout.cp_daddr, v4, &raw mut to.server) };
    to.server_port = port(cp, layout.cp_dport);
    to.in_pkts = field(cp, layout.cp_in_pkts);
    to.state = u32::from(field::<u16>(cp, layout.cp_state));
    let dest: Ptr = field(cp, layout.cp_dest);
    if dest == 0 {
        to.flags |= IPVS_NO_DEST;
    } else {
        to.weight = field(dest, layout.dest_weight);
        if !is_available(layout, dest) {
            to.flags |= IPVS_GONE;
        }
    }
}

/// Adds the service of a connection.
#[inline(always)]
pub(super) fn service(layout: &Layout, to: &mut Ipvs, cp: Ptr) {
    let v4 = to.tuple.family == FAMILY_V4;
    to.service_port = port(cp, layout.cp_vport);
    // SAFETY: a field of a value that is this call's own.
    unsafe { address(cp, layout.cp_vaddr, v4, &raw mut to.service) };
}

/// `kind` again, as a constant: older verifiers do not follow it through memory.
#[inline(always)]
pub(super) fn send(kind: u16, event: &Ipvs) -> bool {
    let pod = socket::source_key(&event.tuple);
    emit::send(kind, pod, event.header.ts, |to: *mut Ipvs| {
        // SAFETY: the entry is reserved for exactly this type and written whole.
        unsafe { to.write(*event) };
    })
}
