//! Handshakes seen from the ends: when a connect began, its retransmits, how it ended, and SYN-ACKs
//! sent again. Handshakes that end in time leave only a count.
//!
//! Raw tracepoints, the same first arguments on 5.10, 6.1, 6.12, 6.18 and 7.2:
//! - `sock:inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`
//! - `tcp:tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb[, int err])`
//! - `tcp:tcp_retransmit_synack(const struct sock *sk, const struct request_sock *req)`
//!
//! connect() without a local port: `int __inet_hash_connect(struct inet_timewait_death_row
//! *death_row, struct sock *sk, …)` (net/ipv4/inet_hashtables.c; the arguments after the first two
//! differ) returns -EADDRNOTAVAIL, in the caller's context; `tcp_v4_connect` and `tcp_v6_connect`
//! then set the socket's state from SYN_SENT back to CLOSE. It returns the same for a socket that
//! has chosen its port when that one is in use: then `inet_sport` is set.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{fexit, kretprobe, raw_tracepoint},
    programs::{FExitContext, RawTracePointContext, RetProbeContext},
};
use aya_log_ebpf::debug;
use probe_common::{
    event::{Connect, Header, OUTCOME_ESTABLISHED, OUTCOME_FAILED, OUTCOME_TRYING, SynAck, kind},
    net::{IPPROTO_TCP, Tuple},
    offsets::ABSENT,
};

use crate::{
    emit,
    maps::{CONNECTED, CONNECTS, NO_PORT, Started, offset, seen, setting, stats},
    read::{self, Ptr, field},
    socket::{self, TCP_ESTABLISHED, TCP_SYN_RECV, TCP_SYN_SENT},
};

#[raw_tracepoint]
pub fn sock_state(ctx: RawTracePointContext) -> i32 {
    set_state(ctx.arg(0), ctx.arg::<u32>(1) as u8, ctx.arg::<u32>(2) as u8);
    0
}

#[fexit]
pub fn connect_fx(ctx: FExitContext) -> i32 {
    port_chosen(ctx.ret::<u64>().unwrap_or(0) as u32);
    0
}

#[kretprobe]
pub fn connect_krp(ctx: RetProbeContext) -> u32 {
    port_chosen(ctx.ret::<u64>() as u32);
    0
}

#[raw_tracepoint]
pub fn syn_retrans(ctx: RawTracePointContext) -> i32 {
    retransmit(ctx.arg(0));
    0
}

#[raw_tracepoint]
pub fn synack_retrans(ctx: RawTracePointContext) -> i32 {
    synack(ctx.arg(0), ctx.arg(1));
    debug!(&ctx, "SYN-ACK sent again");
    0
}

#[inline(always)]
fn set_state(sk: Ptr, old: u8, new: u8) -> Option<()> {
    if new == TCP_SYN_SENT {
        let protocol: u16 = field(sk, offset!(sk_protocol));
        if protocol != u16::from(IPPROTO_TCP) {
            return None;
        }
        let (pid, comm) = socket::current();
        let started = Started { ts: emit::now(), pid, retransmits: 0, comm };
        let kept = CONNECTS.insert(&sk, &started, 0).is_ok();
        stats(|s| {
            s.connects += 1;
            if !kept {
                s.connect_unpaired += 1;
            }
        });
    } else if old == TCP_SYN_SENT {
        if new == TCP_SYN_RECV {
            // Both ends opened at the same moment (RFC 9293 3.5): nobody waits for a SYN-ACK.
            let _ = CONNECTS.remove(&sk);
        } else {
            end(sk, new == TCP_ESTABLISHED);
        }
    }
    Some(())
}

const EADDRNOTAVAIL: u32 = 99;

#[inline(always)]
fn port_chosen(ret: u32) {
    if ret == EADDRNOTAVAIL.wrapping_neg() {
        let _ = NO_PORT.insert(&bpf_get_current_pid_tgid(), &emit::now(), 0);
    }
}

/// Whether this socket's connect() failed because no local port was left.
#[inline(always)]
fn without_port(sk: Ptr, since: u64) -> bool {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: the value is copied; only this thread writes it.
    let Some(failed) = (unsafe { NO_PORT.get(&thread) }).copied() else { return false };
    let _ = NO_PORT.remove(&thread);
    let port: u16 = field(sk, offset!(inet_sport));
    port == 0 && failed >= since
}

/// `net.ipv4.ip_local_port_range` as `high << 16 | low`, 0 when not known.
#[inline(always)]
fn port_range(sk: Ptr) -> u32 {
    let at = offset!(net_port_range);
    if at == ABSENT {
        return 0;
    }
    let at = read::sock_net(sk) + u64::from(at);
    let first: u32 = read::at(at);
    if first >> 16 != 0 {
        return first;
    }
    let high: u32 = read::at(at + 4);
    high << 16 | first
}

/// A handshake ended.
#[inline(always)]
fn end(sk: Ptr, established: bool) -> Option<()> {
    let now = emit::now();
    // SAFETY: the entry is this socket's, whose lock the kernel holds here.
    let started = unsafe { CONNECTS.get(&sk) }.copied()?;
    let _ = CONNECTS.remove(&sk);
    let took = now.saturating_sub(started.ts);
    if !established && without_port(sk, started.ts) {
        return send(kind::CONNECT_END, sk, now, &started, 0, OUTCOME_FAILED, EADDRNOTAVAIL);
    }
    let err: u32 = if established { 0 } else { error(sk) };
    if established {
        stats(|s| {
            s.established += 1;
            if took > s.connect_slowest {
                s.connect_slowest = took;
            }
        });
        if let Some(tuple) = socket::tcp_tuple(sk) {
            let _ = CONNECTED.insert(&tuple, &started.ts, 0);
        }
        if started.retransmits == 0 && took < setting!(min_stall) {
            return None;
        }
    } else if err == 0 && started.retransmits == 0 && took < setting!(min_given_up) {
        // Given up by the program itself before it could be called a stall.
        return None;
    }
    // tcp_rcv_synsent_state_process() has taken the acknowledgement of the SYN by now when the
    // connection is established; in all other cases snd_una is still the ISN.
    let una: u32 = field(sk, offset!(tcp_snd_una));
    let isn = if established { una.wrapping_sub(1) } else { una };
    let outcome = if established { OUTCOME_ESTABLISHED } else { OUTCOME_FAILED };
    send(kind::CONNECT_END, sk, now, &started, isn, outcome, err)
}

/// Why a connect failed. An ICMP error that comes while the program holds the socket, as it does
/// on one node, does not end the connect: `tcp_v4_err` leaves it in `sk_err_soft`, which SO_ERROR
/// takes away, and in the error queue, which wakes the program up.
#[inline(always)]
fn error(sk: Ptr) -> u32 {
    let err: u32 = field(sk, offset!(sk_err));
    if err != 0 {
        return err;
    }
    let soft: u32 = field(sk, offset!(sk_err_soft));
    let queued: u32 = field(sk, offset!(sk_errors_len));
    if soft != 0 || queued == 0 || offset!(exterr_errno) == ABSENT || offset!(skb_cb) == ABSENT {
        return soft;
    }
    let skb: Ptr = field(sk, offset!(sk_errors));
    field(skb + u64::from(offset!(skb_cb)), offset!(exterr_errno))
}

/// A segment was sent again; only SYNs matter here.
#[inline(always)]
fn retransmit(sk: Ptr) -> Option<()> {
    let state: u8 = field(sk, offset!(sk_state));
    if state != TCP_SYN_SENT {
        return None;
    }
    let now = emit::now();
    let started = match CONNECTS.get_ptr_mut(&sk) {
        Some(started) => {
            // SAFETY: the entry is this socket's, whose lock the kernel holds here.
            unsafe {
                (*started).retransmits += 1;
                *started
            }
        }
        None => {
            let retransmits: u8 = field(sk, offset!(icsk_retransmits));
            Started { ts: 0, pid: 0, retransmits: u32::from(retransmits) + 1, comm: [0; 16] }
        }
    };
    let isn: u32 = field(sk, offset!(tcp_snd_una));
    send(kind::SYN_RETRANSMIT, sk, now, &started, isn, OUTCOME_TRYING, 0)
}

#[inline(always)]
fn send(
    kind: u16,
    sk: Ptr,
    ts: u64,
    started: &Started,
    isn: u32,
    outcome: u32,
    err: u32,
) -> Option<()> {
    seen(kind);
    let tuple: Tuple = socket::tcp_tuple(sk)?;
    let header: Header = emit::header(kind, ts, read::sock_net(sk));
    let port_range = if err == EADDRNOTAVAIL { port_range(sk) } else { 0 };
    emit::send(kind, u64::from(header.netns), ts, |event: *mut Connect| {
        // SAFETY: the entry is reserved for exactly this type and written whole.
        unsafe {
            event.write(Connect {
                header,
                tuple,
                sk,
                started: started.ts,
                pid: started.pid,
                comm: started.comm,
                isn,
                retransmits: started.retransmits,
                outcome,
                err,
                port_range,
            });
        }
    });
    Some(())
}

#[inline(always)]
fn synack(sk: Ptr, req: Ptr) -> Option<()> {
    seen(kind::SYNACK_RETRANSMIT);
    let ts = emit::now();
    let tuple = socket::reversed(&socket::tuple(req, IPPROTO_TCP, None)?);
    let header = emit::header(kind::SYNACK_RETRANSMIT, ts, read::sock_net(sk));
    let (ack_backlog, max_ack_backlog) = socket::accept_queue(sk);
    let isn = field(req, offset!(req_rcv_isn));
    let retransmits: u8 = field(req, offset!(req_num_retrans));
    let ino = read::sock_ino(sk);
    emit::send(kind::SYNACK_RETRANSMIT, u64::from(header.netns), ts, |event: *mut SynAck| {
        // SAFETY: the entry is reserved for exactly this type and written whole.
        unsafe {
            event.write(SynAck {
                header,
                tuple,
                sk,
                ino,
                isn,
                retransmits: u32::from(retransmits),
                ack_backlog,
                max_ack_backlog,
            });
        }
    });
    Some(())
}
