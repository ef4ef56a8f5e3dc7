//! How far the server of a waiting probe is, looked at a few times a second: nothing tells when a
//! program accepts or reads, short of a hook on every call.
//!
//! - The handshake's last ACK makes the server's socket (`tcp_rcv_state_process`: SYN_RECV to
//!   ESTABLISHED), after the client's is connected: [`probe_reached`] brings the two together.
//! - The loader runs [`probe_sample`] for each entry of [`SAMPLED`], of which there is none but while the
//!   kubelet has connections to servers of this node. It is attached to nothing (`BPF_PROG_TEST_RUN`, 5.10).
//! - What it saw is sent when the connection ends, in one event, and the first time at each step.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use probe_common::{
    event::{
        ProbeSteps, STEP_ACCEPT, STEP_ANSWER, STEP_NONE, STEP_READ, STEPS,
        kind::{PROBE_SEEN, PROBE_STEPS},
    },
    net::Tuple,
    offsets::ABSENT,
};

use super::probe::{IDLE, served, silence};
use crate::{
    emit,
    maps::{PROBES, REACHING, REACHING_AT, SAMPLED, Sampled, offset, seen, setting},
    read::{self, Ptr, field},
    socket::{self, TCP_ESTABLISHED, TCP_SYN_RECV},
};

/// How long after the client is connected the server's socket may come: a full accept queue makes it
/// wait for the client's next packet.
const ON_ITS_WAY: u64 = 2_000_000_000;

/// Nothing was seen yet. Not on the stack, which is small.
static UNSEEN: Sampled = Sampled {
    server: 0,
    is_news: 0,
    received: 0,
    first: [0; STEPS],
    last: [0; STEPS],
    count: [0; STEPS],
};

/// The client is connected; its server may be here.
#[inline(always)]
pub fn reach(sk: Ptr, now: u64) -> Option<()> {
    let tuple = socket::tcp_tuple(sk)?;
    let _ = REACHING.insert(&tuple, &sk, 0);
    if let Some(at) = REACHING_AT.get_ptr_mut(0) {
        // SAFETY: a live map value; the latest of two writers may win.
        unsafe { *at = now };
    }
    Some(())
}

/// `sock:inet_sock_set_state`, as in [`super::probe`]: a program of its own, for the stack is small.
#[raw_tracepoint]
pub fn probe_reached(ctx: RawTracePointContext) -> i32 {
    let (sk, old, new) = (ctx.arg(0), ctx.arg::<u32>(1) as u8, ctx.arg::<u32>(2) as u8);
    if old == TCP_SYN_RECV && new == TCP_ESTABLISHED {
        reached(sk);
    }
    0
}

/// A server's socket is connected: remembers it if it is a probe's.
#[inline(always)]
fn reached(server: Ptr) -> Option<()> {
    let at = REACHING_AT.get(0).copied()?;
    if at == 0 || emit::now().saturating_sub(at) > ON_ITS_WAY {
        return None;
    }
    let tuple = socket::reversed(&socket::tcp_tuple(server)?);
    let sk = REACHING.get_ptr(&tuple)?;
    // SAFETY: a live map value, written once.
    let sk = unsafe { *sk };
    let _ = REACHING.remove(&tuple);
    PROBES.get_ptr(&sk)?;
    let _ = SAMPLED.insert(&sk, &UNSEEN, 0);
    let sampled = SAMPLED.get_ptr_mut(&sk)?;
    // SAFETY: a live map value, at which nobody looks before its client has waited.
    unsafe { (*sampled).server = server };
    Some(())
}

/// Looks at the server of one connection. Its argument is the client's socket, a key of [`SAMPLED`].
#[raw_tracepoint]
pub fn probe_sample(ctx: RawTracePointContext) -> i32 {
    let sk: Ptr = ctx.arg(0);
    if look(sk).is_none() {
        // Nobody waits for it any more.
        let _ = SAMPLED.remove(&sk);
    }
    0
}

/// Tells what the server's socket shows, if that is news. It is run right after [`probe_sample`], with
/// its argument: a program of its own, for both together have not enough stack.
#[raw_tracepoint]
pub fn probe_seen(ctx: RawTracePointContext) -> i32 {
    let sk: Ptr = ctx.arg(0);
    if let Some(sampled) = SAMPLED.get_ptr_mut(&sk) {
        // SAFETY: a live map value that only the loader's one thread has written since it was made.
        let sampled = unsafe { &mut *sampled };
        if sampled.is_news != 0 {
            sampled.is_news = 0;
            if let Some(tuple) = socket::tcp_tuple(sampled.server) {
                served::<PROBE_SEEN>(sampled.server, &socket::reversed(&tuple));
            }
        }
    }
    0
}

/// `None`: it need not be looked at again.
#[inline(always)]
fn look(sk: Ptr) -> Option<()> {
    let probing = PROBES.get_ptr(&sk)?;
    // SAFETY: a live map value, which is written before its socket is in [`SAMPLED`].
    let probing = unsafe { &*probing };
    let now = emit::now();
    let state: u8 = field(sk, offset!(sk_state));
    if now.saturating_sub(probing.connected) > IDLE || state != TCP_ESTABLISHED {
        return None;
    }
    let received: u64 = field(sk, offset!(tcp_bytes_received));
    let asked: u64 = field(sk, offset!(tcp_bytes_sent));
    if asked == 0 || silence(sk, received, now, probing) < setting!(min_stall) / 4 {
        return Some(());
    }
    let sampled = SAMPLED.get_ptr_mut(&sk)?;
    // SAFETY: a live map value that only the loader's one thread has written since it was made.
    let sampled = unsafe { &mut *sampled };
    let server = sampled.server;
    let step = step(sk, server, received)?;
    sampled.received = received;
    let (first, last) = (sampled.first.get_mut(step)?, sampled.last.get_mut(step)?);
    let count = sampled.count.get_mut(step)?;
    *last = now;
    *count += 1;
    if *count == 1 {
        *first = now;
        sampled.is_news = 1;
    }
    Some(())
}

/// One of the `STEP_*`; `None` when that socket is no more the server's.
#[inline(always)]
fn step(sk: Ptr, server: Ptr, received: u64) -> Option<usize> {
    let state: u8 = field(server, offset!(sk_state));
    if state != TCP_ESTABLISHED || !are_ends(sk, server) {
        return None;
    }
    let file: Ptr = field(server, offset!(sk_socket));
    if file == 0 {
        return Some(STEP_ACCEPT);
    }
    let next: u32 = field(server, offset!(tcp_rcv_nxt));
    let copied: u32 = field(server, offset!(tcp_copied_seq));
    if next != copied {
        return Some(STEP_READ);
    }
    // What it sent may be on its way.
    let sent: u64 = field(server, offset!(tcp_bytes_sent));
    let is_asked = received == 0 || spoke_last(sk);
    Some(if sent <= received && is_asked { STEP_ANSWER } else { STEP_NONE })
}

/// Whether the client has sent something since the last bytes came. In the same jiffy nobody knows.
#[inline(always)]
fn spoke_last(sk: Ptr) -> bool {
    if offset!(tcp_lsndtime) == ABSENT {
        return false;
    }
    let sent: u32 = field(sk, offset!(tcp_lsndtime));
    let got: u32 = field(sk, offset!(icsk_lrcvtime));
    (sent.wrapping_sub(got) as i32) > 0
}

/// Whether these are the two ends of one connection: the memory of a socket that is gone is soon
/// another's. By their ports, for a tuple has no place on the stack.
#[inline(always)]
fn are_ends(sk: Ptr, server: Ptr) -> bool {
    let port = |sk| field::<u16>(sk, offset!(sk_num));
    let peer = |sk| u16::from_be(field::<u16>(sk, offset!(sk_dport)));
    port(sk) == peer(server) && peer(sk) == port(server)
}

/// Whether the server was seen to owe something, and when it was looked at.
#[inline(always)]
pub fn owes(sk: Ptr) -> bool {
    let Some(sampled) = SAMPLED.get_ptr(&sk) else { return false };
    // SAFETY: a live map value.
    let sampled = unsafe { &*sampled };
    sampled.count[STEP_ACCEPT] + sampled.count[STEP_READ] + sampled.count[STEP_ANSWER] > 0
}

/// Tells what was seen of a connection that ends now.
#[inline(always)]
pub fn tell(sk: Ptr, now: u64, tuple: &Tuple) -> Option<()> {
    let sampled = SAMPLED.get_ptr(&sk)?;
    // SAFETY: a live map value.
    let sampled = unsafe { &*sampled };
    if !sampled.count.iter().any(|count| *count > 0) {
        return None;
    }
    seen(PROBE_STEPS);
    let header = emit::header(PROBE_STEPS, now, read::sock_net(sk));
    emit::send(PROBE_STEPS, u64::from(header.netns), now, |event: *mut ProbeSteps| {
        // SAFETY: the entry is reserved for exactly this type; all bytes zero is a valid value of it.
        let event = unsafe {
            core::ptr::write_bytes(event, 0, 1);
            &mut *event
        };
        event.header = header;
        event.tuple = *tuple;
        event.sk = sk;
        event.received = sampled.received;
        event.first = sampled.first;
        event.last = sampled.last;
        event.count = sampled.count;
    });
    Some(())
}
