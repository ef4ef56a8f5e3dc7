//! Connections of the kubelet that get no answer, or a late one: two more programs at the
//! tracepoint that tells of handshakes. The sockets themselves count what they carried. What the server
//! does while the kubelet waits is in [`super::probe_sample`].
//!
//! Raw tracepoint, the same on 5.10, 6.1, 6.12, 6.18 and 7.2:
//! `sock:inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`
//!
//! - A connect made by a program that is called as the kubelet is leaves its socket in [`PROBES`].
//! - When that socket leaves ESTABLISHED, `bytes_sent`, `bytes_received` and `lrcvtime` of it say
//!   whether it was given up while it waited. Only then anything is sent, and [`GIVEN_UP`] filled.
//! - The client's FIN then takes the server's socket to CLOSE_WAIT (`tcp_fin`, net/ipv4/tcp_input.c),
//!   on the same node: what that socket holds at that moment says whether the connection was accepted
//!   (`sk_socket`), whether the request was read (`copied_seq`), and whether bytes were sent.
//! - When the server's socket leaves CLOSE_WAIT, it says whether it answered in the end.
//!
//! While nothing is wrong a connection of another program costs a look at its name when it begins, one
//! search in a small map when its server's socket is made, and at its end one for each of its sockets;
//! packets cost nothing.
//!
//! `bytes_received` counts a FIN as a byte (`tcp_rcv_nxt_update`). `lrcvtime` is in jiffies, whose length
//! is taken from the time and the jiffies between the end of the handshake and now.

use aya_ebpf::{
    helpers::generated::bpf_jiffies64, macros::raw_tracepoint, programs::RawTracePointContext,
};
use probe_common::{
    event::{
        PROBE_CLOSED, PROBE_GAVE_UP, PROBE_LATE, Probe, ProbeServer, REQUEST_BYTES, kind,
        may_be_timeout,
    },
    net::{IPPROTO_TCP, Tuple},
    offsets::ABSENT,
};

use super::probe_sample;
use crate::{
    emit,
    maps::{GIVEN_UP, GIVEN_UP_AT, PROBES, Probing, SAMPLED, SERVING, offset, seen, setting},
    read::{self, Ptr, field},
    socket::{self, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_SYN_SENT},
};

/// How long after the client's FIN the server's socket may get it: it waits while the server's program
/// is in a system call with that socket, and for a processor. The loader waits as long for it.
const ON_ITS_WAY: u64 = 2_000_000_000;

/// The kubelet's lifecycle hooks keep their connections for the next request, and close them after 90 s
/// (`http.DefaultTransport`); probes do not (`DisableKeepAlives`). An idle one was answered long before.
pub const IDLE: u64 = 60_000_000_000;

/// What programs are called of which the kubelet is a part, by the first eight bytes. Whether it is one
/// the loader finds out.
const NAMES: [&[u8; 8]; 4] = [b"kubelet\0", b"kubelite", b"k3s-serv", b"k3s-agen"];

#[raw_tracepoint]
pub fn probe_state(ctx: RawTracePointContext) -> i32 {
    let (sk, old, new) = (ctx.arg(0), ctx.arg::<u32>(1) as u8, ctx.arg::<u32>(2) as u8);
    if new == TCP_SYN_SENT {
        begun(sk);
    } else if old == TCP_SYN_SENT {
        connected(sk, new);
    } else if old == TCP_ESTABLISHED {
        left_established(sk, new);
    }
    0
}

/// The server's end: a program of its own, for both together have not enough stack.
#[raw_tracepoint]
pub fn probe_server(ctx: RawTracePointContext) -> i32 {
    let (sk, old, new) = (ctx.arg(0), ctx.arg::<u32>(1) as u8, ctx.arg::<u32>(2) as u8);
    server(sk, old, new);
    0
}

#[inline(always)]
fn jiffies() -> u64 {
    // SAFETY: no arguments, always callable.
    unsafe { bpf_jiffies64() }
}

/// connect(), in the program's own context.
#[inline(always)]
fn begun(sk: Ptr) {
    let (pid, comm) = socket::current();
    let c = &comm;
    let name = u64::from_ne_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]);
    let protocol: u16 = field(sk, offset!(sk_protocol));
    if !NAMES.iter().any(|known| u64::from_ne_bytes(**known) == name)
        || protocol != u16::from(IPPROTO_TCP)
    {
        // The address may have been a kubelet's socket's, whose end was missed.
        let _ = PROBES.remove(&sk);
        return;
    }
    let probing = Probing { started: emit::now(), connected: 0, jiffies: 0, pid, isn: 0, comm };
    let _ = PROBES.insert(&sk, &probing, 0);
}

/// A connect ended.
#[inline(always)]
fn connected(sk: Ptr, new: u8) {
    let Some(probing) = PROBES.get_ptr_mut(&sk) else { return };
    if new != TCP_ESTABLISHED {
        let _ = PROBES.remove(&sk);
        return;
    }
    let una: u32 = field(sk, offset!(tcp_snd_una));
    let now = emit::now();
    // SAFETY: the entry is this socket's, whose lock the kernel holds here.
    unsafe {
        (*probing).connected = now;
        (*probing).jiffies = jiffies();
        (*probing).isn = una.wrapping_sub(1);
    }
    probe_sample::reach(sk, now);
}

/// A socket leaves ESTABLISHED.
#[inline(always)]
fn left_established(sk: Ptr, new: u8) {
    let Some(probing) = PROBES.get_ptr(&sk) else { return };
    // SAFETY: the entry is this socket's, whose lock the kernel holds here.
    ended(sk, new, unsafe { &*probing });
    let _ = PROBES.remove(&sk);
    let _ = SAMPLED.remove(&sk);
}

#[inline(always)]
fn ended(sk: Ptr, new: u8, probing: &Probing) -> Option<()> {
    let now = emit::now();
    let waited = now.saturating_sub(probing.started);
    let sent: u64 = field(sk, offset!(tcp_bytes_sent));
    // A connection without a byte is a probe that only connects, whose program was slow to close it.
    if sent == 0 {
        return None;
    }
    let received: u64 = field(sk, offset!(tcp_bytes_received));
    let received = received.saturating_sub(u64::from(new == TCP_CLOSE_WAIT));
    let silence = silence(sk, received, now, probing);
    let is_idle =
        received != 0 && (waited >= IDLE || !(probe_sample::owes(sk) || may_be_timeout(waited)));
    // A server that hangs up without a byte fails a probe however fast it does.
    let outcome = if received == 0 && new != TCP_FIN_WAIT1 {
        PROBE_CLOSED
    } else if waited < setting!(min_given_up) {
        return None;
    } else if new == TCP_FIN_WAIT1 && silence >= waited / 2 && !is_idle {
        PROBE_GAVE_UP
    } else if received != 0
        && silence <= waited / 8
        && waited.saturating_sub(silence) >= setting!(min_stall)
    {
        PROBE_LATE
    } else {
        return None;
    };
    let tuple = socket::tcp_tuple(sk)?;
    if outcome == PROBE_GAVE_UP {
        let _ = GIVEN_UP.insert(&tuple, &now, 0);
        if let Some(at) = GIVEN_UP_AT.get_ptr_mut(0) {
            // SAFETY: a live map value; the latest of two writers may win.
            unsafe { *at = now };
        }
    }
    probe_sample::tell(sk, now, &tuple);
    tell(sk, now, probing, &tuple, outcome, [sent, received, silence])
}

/// Nanoseconds without a byte from the server.
#[inline(always)]
pub fn silence(sk: Ptr, received: u64, now: u64, probing: &Probing) -> u64 {
    let since = now.saturating_sub(probing.connected);
    let here = jiffies();
    let passed = here.saturating_sub(probing.jiffies);
    if received == 0 || passed == 0 {
        return since;
    }
    let last: u32 = field(sk, offset!(icsk_lrcvtime));
    let silent = u64::from((here as u32).wrapping_sub(last));
    if silent >= passed { since } else { since / passed * silent }
}

#[inline(always)]
fn tell(
    sk: Ptr,
    now: u64,
    probing: &Probing,
    tuple: &Tuple,
    outcome: u32,
    [sent, received, silence]: [u64; 3],
) -> Option<()> {
    seen(kind::PROBE_END);
    let header = emit::header(kind::PROBE_END, now, read::sock_net(sk));
    let retransmits: u32 = field(sk, offset!(tcp_total_retrans));
    let unacked: u32 = field(sk, offset!(tcp_packets_out));
    let err: u32 = field(sk, offset!(sk_err));
    emit::send(kind::PROBE_END, u64::from(header.netns), now, |event: *mut Probe| {
        // SAFETY: the entry is reserved for exactly this type and written whole.
        unsafe {
            event.write(Probe {
                header,
                tuple: *tuple,
                sk,
                started: probing.started,
                connected: probing.connected,
                silence,
                sent,
                received,
                pid: probing.pid,
                comm: probing.comm,
                isn: probing.isn,
                outcome,
                retransmits,
                unacked,
                err,
            });
        }
    });
    Some(())
}

/// A FIN reached a server's socket, or the server closed it then: tells of it, if it is one of a
/// connection that was given up. Verifiers before 5.15 count at least 32 bytes for each function that is
/// called: that leaves a program 448 of the stack's 512, or 480 with one call at most.
#[inline(always)]
fn server(sk: Ptr, old: u8, new: u8) -> Option<()> {
    if old == TCP_CLOSE_WAIT {
        SERVING.get_ptr(&sk)?;
        let _ = SERVING.remove(&sk);
        let tuple = socket::reversed(&socket::tcp_tuple(sk)?);
        return served::<{ kind::PROBE_SERVED }>(sk, &tuple);
    }
    if old != TCP_ESTABLISHED || new != TCP_CLOSE_WAIT {
        return None;
    }
    let at = GIVEN_UP_AT.get(0).copied()?;
    let now = emit::now();
    if at == 0 || now.saturating_sub(at) > ON_ITS_WAY {
        return None;
    }
    let protocol: u16 = field(sk, offset!(sk_protocol));
    if protocol != u16::from(IPPROTO_TCP) {
        return None;
    }
    let tuple = socket::reversed(&socket::tcp_tuple(sk)?);
    GIVEN_UP.get_ptr(&tuple)?;
    let _ = GIVEN_UP.remove(&tuple);
    let _ = SERVING.insert(&sk, &now, 0);
    served::<{ kind::PROBE_SERVER }>(sk, &tuple)
}

/// Tells what a server's socket holds. `tuple` is client → server. `KIND` is a constant, so that each use has
/// a function of its own to fill in the event, which is then inlined.
#[inline(always)]
pub fn served<const KIND: u16>(sk: Ptr, tuple: &Tuple) -> Option<()> {
    // The client's FIN is among the bytes.
    let fin = u32::from(KIND != kind::PROBE_SEEN);
    let now = emit::now();
    seen(KIND);
    let header = emit::header(KIND, now, read::sock_net(sk));
    let file: Ptr = field(sk, offset!(sk_socket));
    let ino = if file == 0 { 0 } else { read::sock_ino(sk) };
    let next: u32 = field(sk, offset!(tcp_rcv_nxt));
    let copied: u32 = field(sk, offset!(tcp_copied_seq));
    let received: u64 = field(sk, offset!(tcp_bytes_received));
    let sent: u64 = field(sk, offset!(tcp_bytes_sent));
    emit::send(KIND, u64::from(header.netns), now, |event: *mut ProbeServer| {
        // SAFETY: the entry is reserved for exactly this type; all bytes zero is a valid value of it.
        let event = unsafe {
            core::ptr::write_bytes(event, 0, 1);
            &mut *event
        };
        event.header = header;
        event.tuple = *tuple;
        event.sk = sk;
        event.ino = ino;
        event.accepted = u32::from(file != 0);
        event.sent = sent;
        event.received = received.saturating_sub(u64::from(fin));
        let unread = next.wrapping_sub(copied).saturating_sub(fin);
        event.unread = unread;
        if unread > 0 && u64::from(unread) == event.received {
            event.captured = request(sk, &mut event.request);
        }
    });
    Some(())
}

/// Copies the beginning of what waits to be read; gives how many bytes. Nothing may fail between
/// reserve and submit: what cannot be read is left out.
///
/// A request sent on this node lies in a page that both ends share (`tcp_sendmsg_locked`), not in the
/// packet's linear part. `skb_frag_t` begins with the page, its length and where in the page it begins:
/// `struct bio_vec` before 6.7, the same members under other names since. The lowest bit of the page
/// marks memory that is no page's (`netmem_is_net_iov`).
#[inline(always)]
fn request(sk: Ptr, to: &mut [u8; REQUEST_BYTES]) -> u32 {
    const MAX: u32 = REQUEST_BYTES as u32 - 1;
    if offset!(sk_receive_queue) == ABSENT {
        return 0;
    }
    let queue = sk + u64::from(offset!(sk_receive_queue));
    // `struct sk_buff_head` and `struct sk_buff` begin with the next one.
    let skb: Ptr = read::at(queue);
    if skb == 0 || skb == queue {
        return 0;
    }
    let len: u32 = field(skb, offset!(skb_len));
    let in_pages: u32 = field(skb, offset!(skb_data_len));
    let linear = len.saturating_sub(in_pages);
    let (from, len) = if linear > 0 {
        (field(skb, offset!(skb_data)), linear)
    } else {
        match first_page(skb) {
            Some(found) => found,
            None => return 0,
        }
    };
    let len = if len > MAX { MAX } else { len };
    // SAFETY: `to` has more than MAX bytes.
    if unsafe { read::bytes(from, to.as_mut_ptr(), len, MAX) } { len } else { 0 }
}

/// Where the first bytes lie that a packet has in pages, and how many.
#[inline(always)]
fn first_page(skb: Ptr) -> Option<(Ptr, u32)> {
    const PAGE: u64 = 4096;
    if setting!(page_offset_base) == 0
        || setting!(vmemmap_base) == 0
        || offset!(skb_end) == ABSENT
        || offset!(shinfo_nr_frags) == ABSENT
        || offset!(shinfo_frags) == ABSENT
        || offset!(page_size) == ABSENT
    {
        return None;
    }
    let head: Ptr = field(skb, offset!(skb_head));
    // `sk_buff_data_t` is an offset on 64-bit machines.
    let end: u32 = field(skb, offset!(skb_end));
    let shared = head + u64::from(end);
    let frags: u8 = field(shared, offset!(shinfo_nr_frags));
    if frags == 0 {
        return None;
    }
    let frag = shared + u64::from(offset!(shinfo_frags));
    let page: u64 = read::at(frag);
    let (len, at): (u32, u32) = (read::at(frag + 8), read::at(frag + 12));
    // `page_to_virt` (asm-generic/memory_model.h with SPARSEMEM_VMEMMAP, asm/page_64.h).
    let first: u64 = read::at(setting!(vmemmap_base));
    let base: u64 = read::at(setting!(page_offset_base));
    let size = u64::from(offset!(page_size));
    if page & 1 != 0 || page < first || size == 0 {
        return None;
    }
    let index = (page - first) / size;
    Some((base + index * PAGE + u64::from(at), len))
}
