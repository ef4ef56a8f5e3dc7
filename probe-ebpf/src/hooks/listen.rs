//! A listener refuses a SYN or a final ACK because its accept queue is full, or a SYN because its
//! queue of half-open connections is.
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
//!
//! Half-open connections have two limits, both without effect when the kernel answers with SYN
//! cookies (`tcp_syncookies`): as many as `sk_max_ack_backlog` (`inet_csk_reqsk_queue_is_full`: ≥ in
//! most kernels, > in some), and three quarters of `tcp_max_syn_backlog` for peers that are not
//! known from before. SYNs from TIME_WAIT pass both. So at the entry such a SYN is only a
//! candidate; that `sk_drops` has grown at the return tells that it was refused
//! (`tcp_listendrop`).

use aya_ebpf::{
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use probe_common::{
    event::{Listen, STAGE_ACK, STAGE_SYN, STAGE_SYN_PRESSURE, STAGE_SYN_QUEUE, kind},
    net::{FAMILY_V4, Tuple},
};

use crate::{
    capture::{self, Beside},
    emit,
    maps::{HALF_OPEN, HalfOpen, offset, seen},
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

#[fexit]
pub fn listen_syn_fx(_ctx: FExitContext) -> i32 {
    syn_return();
    0
}

#[kretprobe]
pub fn listen_syn_krp(_ctx: RetProbeContext) -> u32 {
    syn_return();
    0
}

#[fentry]
pub fn listen_ack4_fe(ctx: FEntryContext) -> i32 {
    ack(ctx.arg(0), ctx.arg(1), ctx.arg(2), false);
    0
}

#[kprobe]
pub fn listen_ack4_kp(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(skb), Some(req)) = (ctx.arg(0), ctx.arg(1), ctx.arg(2)) {
        ack(sk, skb, req, false);
    }
    0
}

#[fentry]
pub fn listen_ack6_fe(ctx: FEntryContext) -> i32 {
    ack(ctx.arg(0), ctx.arg(1), ctx.arg(2), true);
    0
}

#[kprobe]
pub fn listen_ack6_kp(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(skb), Some(req)) = (ctx.arg(0), ctx.arg(1), ctx.arg(2)) {
        ack(sk, skb, req, true);
    }
    0
}

#[inline(always)]
fn syn(sk: Ptr, skb: Ptr) -> Option<()> {
    let (backlog, max) = socket::accept_queue(sk);
    if backlog <= max {
        return half_open(sk, skb, backlog, max);
    }
    seen(kind::LISTEN_DROP);
    let packet = packet::parse(skb)?;
    let qlen = field(sk, offset!(icsk_qlen));
    let refusal = Refusal { stage: STAGE_SYN, backlog, max, qlen };
    let beside = send(sk, packet.tuple, packet.ident, refusal);
    capture::skb(skb, None, beside)
}

/// Remembers a SYN that finds too many half-open connections.
#[inline(always)]
fn half_open(sk: Ptr, skb: Ptr, ack_backlog: u32, max_ack_backlog: u32) -> Option<()> {
    let slot = HALF_OPEN.get_ptr_mut(0)?;
    // SAFETY: this CPU's own value; one SYN at a time.
    unsafe { (*slot).skb = 0 };
    let net = read::sock_net(sk);
    let syncookies: u8 = field(net, offset!(net_syncookies));
    if syncookies != 0 {
        return None;
    }
    let qlen: u32 = field(sk, offset!(icsk_qlen));
    let limit: u32 = field(net, offset!(net_max_syn_backlog));
    let stage = if qlen >= max_ack_backlog {
        STAGE_SYN_QUEUE
    } else if (limit.wrapping_sub(qlen) as i32) < (limit as i32 >> 2) {
        STAGE_SYN_PRESSURE
    } else {
        return None;
    };
    let drops = field(sk, offset!(sk_drops));
    // SAFETY: as above.
    unsafe {
        slot.write(HalfOpen { skb, sk, stage, drops, ack_backlog, max_ack_backlog, qlen, _pad: 0 });
    }
    Some(())
}

#[inline(always)]
fn syn_return() -> Option<()> {
    let slot = HALF_OPEN.get_ptr_mut(0)?;
    // SAFETY: this CPU's own value; one SYN at a time.
    let syn = unsafe { *slot };
    if syn.skb == 0 {
        return None;
    }
    // SAFETY: as above.
    unsafe { (*slot).skb = 0 };
    let drops: u32 = field(syn.sk, offset!(sk_drops));
    if drops == syn.drops {
        return None;
    }
    seen(kind::LISTEN_DROP);
    let packet = packet::parse(syn.skb)?;
    let refusal = Refusal {
        stage: syn.stage,
        backlog: syn.ack_backlog,
        max: syn.max_ack_backlog,
        qlen: syn.qlen,
    };
    let beside = send(syn.sk, packet.tuple, packet.ident, refusal);
    capture::skb(syn.skb, None, beside)
}

/// `is_v6`: called for the IPv6 function, which hands IPv4 connections of its sockets over to the
/// IPv4 one; those are reported there.
#[inline(always)]
fn ack(sk: Ptr, skb: Ptr, req: Ptr, is_v6: bool) -> Option<()> {
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
    let qlen = field(sk, offset!(icsk_qlen));
    let refusal = Refusal { stage: STAGE_ACK, backlog, max, qlen };
    let beside = send(sk, socket::reversed(&tuple), isn, refusal);
    capture::skb(skb, Some(isn), beside)
}

/// Why it was refused, as it was then.
struct Refusal {
    stage: u32,
    backlog: u32,
    max: u32,
    qlen: u32,
}

#[inline(always)]
fn send(sk: Ptr, tuple: Tuple, isn: u32, refusal: Refusal) -> Beside<'static> {
    let net = read::sock_net(sk);
    let ts = emit::now();
    let header = emit::header(kind::LISTEN_DROP, ts, net);
    let ino = read::sock_ino(sk);
    let somaxconn = field(net, offset!(net_somaxconn));
    let max_syn_backlog = field(net, offset!(net_max_syn_backlog));
    let syncookies: u8 = field(net, offset!(net_syncookies));
    let sent = emit::send(kind::LISTEN_DROP, u64::from(header.netns), ts, |event: *mut Listen| {
        // SAFETY: the entry is reserved for exactly this type and written whole.
        unsafe {
            event.write(Listen {
                header,
                tuple,
                sk,
                ino,
                isn,
                stage: refusal.stage,
                ack_backlog: refusal.backlog,
                max_ack_backlog: refusal.max,
                qlen: refusal.qlen,
                somaxconn,
                max_syn_backlog,
                syncookies: u32::from(syncookies),
            });
        }
    });
    Beside::event(header, sent)
}
