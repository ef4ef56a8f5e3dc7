//! A listener refuses a SYN or a final ACK because its accept queue is full.
//!
//! `int tcp_conn_request(struct request_sock_ops *rsk_ops, const struct tcp_request_sock_ops
//! *af_ops, struct sock *sk, struct sk_buff *skb)` (net/ipv4/tcp_input.c): the same on 5.10, 6.1,
//! 6.12, 6.18 and 7.2. With a full accept queue (`sk_acceptq_is_full`: backlog > limit, not ≥) the
//! SYN is counted in ListenOverflows and consumed: no drop tracepoint fires.
//!
//! `struct sock *tcp_v4_syn_recv_sock(const struct sock *sk, struct sk_buff *skb, struct
//! request_sock *req, …)` (net/ipv4/tcp_ipv4.c) and its IPv6 twin: 6 or 7 arguments, the first three
//! the same everywhere. The first thing it does is the same comparison; if the queue is full the
//! final ACK is dropped while the client believes to be connected.

use aya_ebpf::{
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use probe_common::{
    event::{Listen, STAGE_ACK, STAGE_SYN, kind},
    net::{FAMILY_V4, Tuple},
};

use crate::{
    emit,
    maps::{offset, seen},
    packet,
    read::{self, Ptr, field},
    socket,
};

#[fentry]
pub fn listen_syn_fe(ctx: FEntryContext) -> i32 {
    syn(ctx.arg(2), ctx.arg(3));
    0
}

#[kprobe]
pub fn listen_syn_kp(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(skb)) = (ctx.arg(2), ctx.arg(3)) {
        syn(sk, skb);
    }
    0
}

#[fentry]
pub fn listen_ack4_fe(ctx: FEntryContext) -> i32 {
    ack(ctx.arg(0), ctx.arg(2), false);
    0
}

#[kprobe]
pub fn listen_ack4_kp(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(req)) = (ctx.arg(0), ctx.arg(2)) {
        ack(sk, req, false);
    }
    0
}

#[fentry]
pub fn listen_ack6_fe(ctx: FEntryContext) -> i32 {
    ack(ctx.arg(0), ctx.arg(2), true);
    0
}

#[kprobe]
pub fn listen_ack6_kp(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(req)) = (ctx.arg(0), ctx.arg(2)) {
        ack(sk, req, true);
    }
    0
}

#[inline(always)]
fn syn(sk: Ptr, skb: Ptr) -> Option<()> {
    let (backlog, max) = socket::accept_queue(sk);
    if backlog <= max {
        return None;
    }
    seen(kind::LISTEN_DROP);
    let packet = packet::parse(skb)?;
    send(sk, packet.tuple, packet.ident, STAGE_SYN, backlog, max)
}

/// `is_v6`: called for the IPv6 function, which hands IPv4 connections of its sockets over to the
/// IPv4 one; those are reported there.
#[inline(always)]
fn ack(sk: Ptr, req: Ptr, is_v6: bool) -> Option<()> {
    let (backlog, max) = socket::accept_queue(sk);
    if backlog <= max {
        return None;
    }
    // A request socket's tuple is local → remote; the event's is client → server.
    let tuple = socket::tuple(req, probe_common::net::IPPROTO_TCP, None)?;
    if is_v6 && tuple.family == FAMILY_V4 {
        return None;
    }
    seen(kind::LISTEN_DROP);
    let isn = field(req, offset!(req_rcv_isn));
    send(sk, socket::reversed(&tuple), isn, STAGE_ACK, backlog, max)
}

#[inline(always)]
fn send(sk: Ptr, tuple: Tuple, isn: u32, stage: u32, backlog: u32, max: u32) -> Option<()> {
    let net = read::sock_net(sk);
    let ts = emit::now();
    let header = emit::header(kind::LISTEN_DROP, ts, net);
    let ino = read::sock_ino(sk);
    let qlen = field(sk, offset!(icsk_qlen));
    let somaxconn = field(net, offset!(net_somaxconn));
    let max_syn_backlog = field(net, offset!(net_max_syn_backlog));
    let syncookies: u8 = field(net, offset!(net_syncookies));
    emit::send(kind::LISTEN_DROP, u64::from(header.netns), ts, |event: *mut Listen| {
        // SAFETY: the entry is reserved for exactly this type and written whole.
        unsafe {
            event.write(Listen {
                header,
                tuple,
                sk,
                ino,
                isn,
                stage,
                ack_backlog: backlog,
                max_ack_backlog: max,
                qlen,
                somaxconn,
                max_syn_backlog,
                syncookies: u32::from(syncookies),
            });
        }
    });
    Some(())
}
