//! DNS over UDP: questions, their answers, and who waits for whom.
//!
//! - `int udp_send_skb(struct sk_buff *skb, struct flowi4 *fl4, struct inet_cork *cork)`
//!   (net/ipv4/udp.c) and `int udp_v6_send_skb(struct sk_buff *skb, struct flowi6 *fl6, struct
//!   inet_cork *cork)` (net/ipv6/udp.c): the whole datagram in the sender's context, its UDP header
//!   not filled in yet, so ports and addresses come from the flow.
//! - `int __udp_enqueue_schedule_skb(struct sock *sk, struct sk_buff *skb)`: arrival at a socket.
//! - `void skb_consume_udp(struct sock *sk, struct sk_buff *skb, int len)`: read by the program.
//! - `void udp_destroy_sock(struct sock *sk)`, `void udpv6_destroy_sock(struct sock *sk)`: close.
//!
//! All of vmlinux (IPv6 too where it is built in), with these arguments on 5.10, 6.1, 6.12, 6.18 and
//! 7.2. A question answered and read in time leaves only a count.

use aya_ebpf::{
    macros::{fentry, kprobe, raw_tracepoint},
    programs::{FEntryContext, ProbeContext, RawTracePointContext},
};
use probe_common::{
    event::{Dns, Question, SERVERS, kind},
    net::{FAMILY_V4, FAMILY_V6, IPPROTO_UDP, Tuple},
};

use crate::{
    emit,
    maps::{
        ASKING, Arrival, DNS_SCRATCH, DnsScratch, LAST_ARRIVAL, QUERIES, QueryKey, SCRATCH_ARRIVE,
        SCRATCH_SEND4, SCRATCH_SEND6, SERVED, ServedKey, UNREADABLE, offset, seen, setting, stats,
    },
    packet,
    read::{self, Ptr, at, field},
    socket,
};

macro_rules! rungs {
    ($fe:ident, $kp:ident, |$($arg:ident @ $n:literal),+| $call:expr) => {
        #[fentry]
        pub fn $fe(ctx: FEntryContext) -> i32 {
            $(let $arg: Ptr = ctx.arg($n);)+
            $call;
            0
        }

        #[kprobe]
        pub fn $kp(ctx: ProbeContext) -> u32 {
            if let ($(Some($arg),)+) = ($(ctx.arg::<Ptr>($n),)+) {
                $call;
            }
            0
        }
    };
}

rungs!(dns_send4_fe, dns_send4_kp, |skb @ 0, flow @ 1| send4(skb, flow));
rungs!(dns_send6_fe, dns_send6_kp, |skb @ 0, flow @ 1| send6(skb, flow));
rungs!(dns_arrive_fe, dns_arrive_kp, |sk @ 0, skb @ 1| arrive(sk, skb));
rungs!(dns_read_fe, dns_read_kp, |sk @ 0, skb @ 1| consumed(sk, skb));
rungs!(dns_close4_fe, dns_close4_kp, |sk @ 0| closed(sk));
rungs!(dns_close6_fe, dns_close6_kp, |sk @ 0| closed(sk));

/// The tracepoint `udp:udp_fail_queue_rcv_skb(int rc, struct sock *sk[, struct sk_buff *skb])`: the
/// same first arguments on 5.10, 6.1, 6.12, 6.18 and 7.2. It fires right after the arrival.
#[raw_tracepoint]
pub fn dns_refused(ctx: RawTracePointContext) -> i32 {
    refused(ctx.arg(1));
    0
}

/// A message's flags word (RFC 1035 4.1.1): response bit and opcode.
const QR: u16 = 1 << 15;
const OPCODE: u16 = 0xf << 11;
const HEADER: u64 = 12;
const NO_ANSWER: u16 = u16::MAX;

/// Time after which the same question to the same server is a retry rather than a burst.
const RETRY_AFTER: u64 = 200_000_000;

#[inline(always)]
pub fn is_dns_port(port: u16) -> bool {
    port != 0
        && (port == setting!(dns_ports[0])
            || port == setting!(dns_ports[1])
            || port == setting!(dns_ports[2])
            || port == setting!(dns_ports[3]))
}

#[inline(always)]
fn send4(skb: Ptr, flow: Ptr) -> Option<()> {
    let dport = u16::from_be(field(flow, offset!(fl4_dport)));
    let sport = u16::from_be(field(flow, offset!(fl4_sport)));
    if !is_dns_port(dport) && !is_dns_port(sport) {
        return None;
    }
    let tuple = Tuple {
        src: socket::v4(field(flow, offset!(fl4_saddr))),
        dst: socket::v4(field(flow, offset!(fl4_daddr))),
        sport,
        dport,
        proto: IPPROTO_UDP,
        family: FAMILY_V4,
        _pad: [0; 2],
    };
    sent(SCRATCH_SEND4, skb, &tuple)
}

#[inline(always)]
fn send6(skb: Ptr, flow: Ptr) -> Option<()> {
    let dport = u16::from_be(field(flow, offset!(fl6_dport)));
    let sport = u16::from_be(field(flow, offset!(fl6_sport)));
    if !is_dns_port(dport) && !is_dns_port(sport) {
        return None;
    }
    let tuple = Tuple {
        src: field(flow, offset!(fl6_saddr)),
        dst: field(flow, offset!(fl6_daddr)),
        sport,
        dport,
        proto: IPPROTO_UDP,
        family: FAMILY_V6,
        _pad: [0; 2],
    };
    sent(SCRATCH_SEND6, skb, &tuple)
}

/// Where the payload of a UDP datagram begins, and how much of it is linear.
#[inline(always)]
fn payload(skb: Ptr) -> Option<(Ptr, u64)> {
    let head: Ptr = field(skb, offset!(skb_head));
    let transport: u16 = field(skb, offset!(skb_transport_header));
    let data: Ptr = field(skb, offset!(skb_data));
    let len: u32 = field(skb, offset!(skb_len));
    let data_len: u32 = field(skb, offset!(skb_data_len));
    let start = head + u64::from(transport) + 8;
    let end = data + u64::from(len.wrapping_sub(data_len));
    Some((start, end.saturating_sub(start)))
}

/// A DNS message's id and flags; `None` when not readable or not a message with one question.
#[inline(always)]
fn message(start: Ptr, linear: u64) -> Option<(u16, u16)> {
    if linear < HEADER {
        return None;
    }
    let h: [u8; 6] = at(start);
    if u16::from_be_bytes([h[4], h[5]]) != 1 {
        return None;
    }
    Some((u16::from_be_bytes([h[0], h[1]]), u16::from_be_bytes([h[2], h[3]])))
}

/// A datagram from or to a DNS port is sent.
#[inline(always)]
fn sent(scratch: u32, skb: Ptr, tuple: &Tuple) -> Option<()> {
    let (start, linear) = payload(skb)?;
    let (id, flags) = message(start, linear)?;
    if flags & OPCODE != 0 {
        return None;
    }
    if flags & QR != 0 {
        if is_dns_port(tuple.sport) {
            answer_sent(skb, tuple, id, flags);
        }
        return None;
    }
    if !is_dns_port(tuple.dport) || is_multicast(tuple) {
        return None;
    }
    let sk: Ptr = field(skb, offset!(skb_sk));
    if sk == 0 {
        return None;
    }
    let scratch = DNS_SCRATCH.get_ptr_mut(scratch)?;
    // SAFETY: this CPU's own value, which only this hook uses.
    let scratch = unsafe { &mut *scratch };
    question(start, linear, id, scratch)?;
    asked(sk, tuple, scratch)
}

/// Multicast DNS (RFC 6762) asks everybody and often nobody answers: no lookup waits for that.
#[inline(always)]
fn is_multicast(tuple: &Tuple) -> bool {
    if tuple.family == FAMILY_V4 { tuple.dst[0] >= 224 } else { tuple.dst[0] == 0xff }
}

/// Reads the question at `start` (RFC 1035 4.1.2) into the scratch space.
#[inline(always)]
fn question(start: Ptr, linear: u64, id: u16, scratch: &mut DnsScratch) -> Option<()> {
    let len = linear.checked_sub(HEADER)?;
    let len = if len > 259 { 259 } else { len as u32 };
    let low = if len > 255 { 255 } else { len };
    // SAFETY: the buffer has room for 255 + 4 bytes.
    if !unsafe { read::bytes(start + HEADER, scratch.bytes.as_mut_ptr(), low, 255) } {
        return None;
    }
    let q: &mut Question = &mut scratch.dns.question;
    q.id = id;
    q._pad = 0;
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut label = 0u8;
    let mut end = 0u32;
    for i in 0..255u32 {
        if i >= low {
            return None;
        }
        let b = scratch.bytes[i as usize];
        hash = (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
        if label == 0 {
            if b == 0 {
                end = i + 1;
                break;
            }
            // A compression pointer has no place in a question.
            if b & 0xc0 != 0 {
                return None;
            }
            label = b;
        } else {
            label -= 1;
        }
        // The mask tells the verifier that all iterations look alike.
        label &= 0x3f;
    }
    if end == 0 {
        return None;
    }
    let qtype: u16 = at(start + HEADER + u64::from(end));
    q.hash = hash;
    q.qtype = u16::from_be(qtype);
    q.name_len = end as u16;
    // Bytes behind the name are of an earlier question; `name_len` tells where it ends.
    // SAFETY: the name has room for 128 bytes.
    unsafe { read::bytes(start + HEADER, q.name.as_mut_ptr(), end, 127) };
    Some(())
}

/// A client asks. `scratch.dns.question` is filled.
#[inline(always)]
fn asked(sk: Ptr, tuple: &Tuple, scratch: &mut DnsScratch) -> Option<()> {
    let now = emit::now();
    stats(|s| s.dns_queries += 1);
    let dns = &mut scratch.dns;
    let key = QueryKey { sk, id: dns.question.id, _pad: [0; 3] };
    let net = read::sock_net(sk);
    if let Some(known) = QUERIES.get_ptr_mut(&key) {
        // SAFETY: a live map value; the socket's own id is asked by one thread at a time.
        let known = unsafe { &mut *known };
        if known.question.hash == dns.question.hash
            && known.question.qtype == dns.question.qtype
            && known.answered == 0
        {
            return asked_again(known, tuple, now, net);
        }
        // Another question under the same id: the earlier one is over.
        if known.answered == 0 {
            outstanding(sk, -1);
        }
    }
    let (pid, comm) = socket::current();
    dns.header = emit::header(kind::DNS_UNANSWERED, now, net);
    dns.tuple = *tuple;
    dns.sk = sk;
    dns.first = now;
    dns.last = now;
    dns.answered = 0;
    dns.pid = pid;
    dns.comm = comm;
    dns.attempts = 1;
    dns.servers = 1;
    dns.rcode = NO_ANSWER;
    dns.reported = 0;
    dns.server = [tuple.dst, [0; 16], [0; 16]];
    dns._pad = 0;
    // The count first: the loader takes a question of a socket without one for a closed socket's.
    if !outstanding(sk, 1) {
        stats(|s| s.dns_unpaired += 1);
        return None;
    }
    if QUERIES.insert(&key, &*dns, 0).is_err() {
        outstanding(sk, -1);
        stats(|s| s.dns_unpaired += 1);
    }
    Some(())
}

#[inline(always)]
fn asked_again(known: &mut Dns, tuple: &Tuple, now: u64, net: Ptr) -> Option<()> {
    let again = asked_server(known, &tuple.dst);
    let waited = now.saturating_sub(known.last);
    known.last = now;
    known.tuple = *tuple;
    if !again && usize::from(known.servers) < SERVERS {
        if known.servers == 1 {
            known.server[1] = tuple.dst;
        } else {
            known.server[2] = tuple.dst;
        }
        known.servers += 1;
    }
    if waited < RETRY_AFTER {
        return None;
    }
    known.attempts += 1;
    seen(kind::DNS_RETRY);
    send(kind::DNS_RETRY, known, now, net);
    Some(())
}

#[inline(always)]
fn asked_server(known: &Dns, address: &[u8; 16]) -> bool {
    same(&known.server[0], address)
        || (known.servers > 1 && same(&known.server[1], address))
        || (known.servers > 2 && same(&known.server[2], address))
}

/// Compares addresses as two words each.
#[inline(always)]
fn same(a: &[u8; 16], b: &[u8; 16]) -> bool {
    let mut different = 0;
    for i in 0..16 {
        different |= a[i] ^ b[i];
    }
    different == 0
}

/// Changes the number of unanswered questions of a socket; false when there is no room for it.
#[inline(always)]
fn outstanding(sk: Ptr, by: i32) -> bool {
    match ASKING.get_ptr_mut(&sk) {
        // SAFETY: a live map value.
        Some(n) => unsafe {
            let count = *n & !UNREADABLE;
            if by > 0 {
                *n += 1;
            } else if count > 0 {
                *n -= 1;
            }
            true
        },
        None => by < 0 || ASKING.insert(&sk, &1, 0).is_ok(),
    }
}

/// A datagram arrived at a socket.
#[inline(always)]
fn arrive(sk: Ptr, skb: Ptr) -> Option<()> {
    // Every datagram of the node passes here: look at the ports before anything else.
    let head: Ptr = field(skb, offset!(skb_head));
    let transport: u16 = field(skb, offset!(skb_transport_header));
    let ports: [u8; 4] = at(head + u64::from(transport));
    let from_server = is_dns_port(u16::from_be_bytes([ports[0], ports[1]]));
    let to_server = is_dns_port(u16::from_be_bytes([ports[2], ports[3]]));
    if !from_server && !to_server {
        return None;
    }
    let last = LAST_ARRIVAL.get_ptr_mut(0)?;
    // SAFETY: this CPU's own value.
    unsafe { (*last).sk = 0 };
    let packet = packet::parse(skb)?;
    let (start, linear) = payload(skb)?;
    if linear < HEADER {
        stats(|s| s.dns_unreadable += 1);
        if let Some(n) = ASKING.get_ptr_mut(&sk) {
            // SAFETY: a live map value.
            unsafe { *n |= UNREADABLE };
        }
        return None;
    }
    let (id, flags) = message(start, linear)?;
    if flags & QR != 0 {
        if from_server { answered(sk, &packet.tuple, id, flags, last) } else { None }
    } else if to_server && flags & OPCODE == 0 && !is_multicast(&packet.tuple) {
        served(sk, &packet.tuple, start, linear, id, last)
    } else {
        None
    }
}

/// An answer arrived at a client's socket.
#[inline(always)]
fn answered(sk: Ptr, tuple: &Tuple, id: u16, flags: u16, last: *mut Arrival) -> Option<()> {
    let now = emit::now();
    let key = QueryKey { sk, id, _pad: [0; 3] };
    // SAFETY: a live map value; arrivals at one socket are one at a time.
    let known = unsafe { &mut *QUERIES.get_ptr_mut(&key)? };
    if known.answered != 0 {
        return None;
    }
    let net = read::sock_net(sk);
    let rcode = flags & 0xf;
    if !asked_server(known, &tuple.src) || known.tuple.dport != tuple.sport {
        seen(kind::DNS_WRONG_SOURCE);
        let header = emit::header(kind::DNS_WRONG_SOURCE, now, net);
        let source = tuple.src;
        let port = tuple.sport;
        emit::send(kind::DNS_WRONG_SOURCE, u64::from(header.netns), now, |event: *mut Dns| {
            // SAFETY: the entry is reserved for exactly this type and written whole.
            unsafe {
                event.write(*known);
                (*event).header = header;
                (*event).rcode = rcode;
                (*event).tuple.dst = source;
                (*event).tuple.dport = port;
            }
        });
        return None;
    }
    known.answered = now;
    known.rcode = rcode;
    // SAFETY: this CPU's own value.
    unsafe {
        (*last).id = id;
        (*last).is_answer = 1;
        (*last).sk = sk;
    }
    let took = now.saturating_sub(known.first);
    stats(|s| {
        s.dns_answers += 1;
        if rcode == 3 {
            s.dns_nxdomain += 1;
        }
        if took > s.dns_slowest {
            s.dns_slowest = took;
        }
    });
    outstanding(sk, -1);
    if took >= setting!(min_stall) || known.attempts > 1 || known.reported != 0 {
        seen(kind::DNS_ANSWER);
        send(kind::DNS_ANSWER, known, now, net);
    }
    Some(())
}

/// A question arrived at a server's socket.
#[inline(always)]
fn served(
    sk: Ptr,
    tuple: &Tuple,
    start: Ptr,
    linear: u64,
    id: u16,
    last: *mut Arrival,
) -> Option<()> {
    let now = emit::now();
    let scratch = DNS_SCRATCH.get_ptr_mut(SCRATCH_ARRIVE)?;
    // SAFETY: this CPU's own value, which only this hook uses.
    let scratch = unsafe { &mut *scratch };
    question(start, linear, id, scratch)?;
    let net = read::sock_net(sk);
    let dns = &mut scratch.dns;
    dns.header = emit::header(kind::DNS_SERVER_PENDING, now, net);
    let key = ServedKey {
        client: tuple.src,
        port: tuple.sport,
        server_port: tuple.dport,
        id,
        _pad: 0,
        netns: dns.header.netns,
        _pad2: 0,
    };
    if let Some(known) = SERVED.get_ptr_mut(&key) {
        // SAFETY: a live map value.
        let known = unsafe { &mut *known };
        if known.question.hash == dns.question.hash && known.question.qtype == dns.question.qtype {
            known.last = now;
            known.attempts += 1;
            return None;
        }
    }
    dns.tuple = *tuple;
    dns.sk = sk;
    dns.first = now;
    dns.last = now;
    dns.answered = 0;
    dns.pid = 0;
    dns.comm = [0; 16];
    dns.attempts = 1;
    dns.servers = 1;
    dns.rcode = NO_ANSWER;
    dns.reported = 0;
    dns.server = [tuple.dst, [0; 16], [0; 16]];
    dns._pad = 0;
    if SERVED.insert(&key, &*dns, 0).is_err() {
        stats(|s| s.server_unpaired += 1);
        return None;
    }
    // SAFETY: this CPU's own value.
    unsafe {
        (*last).served = key;
        (*last).is_answer = 0;
        (*last).sk = sk;
    }
    Some(())
}

/// The socket refused the datagram that arrived on this CPU just now (its buffer is full): it did
/// not arrive.
#[inline(always)]
fn refused(sk: Ptr) -> Option<()> {
    // SAFETY: this CPU's own value.
    let last = unsafe { &mut *LAST_ARRIVAL.get_ptr_mut(0)? };
    if last.sk != sk || sk == 0 {
        return None;
    }
    last.sk = 0;
    if last.is_answer == 0 {
        let _ = SERVED.remove(&last.served);
        return None;
    }
    let key = QueryKey { sk, id: last.id, _pad: [0; 3] };
    // SAFETY: a live map value.
    let known = unsafe { &mut *QUERIES.get_ptr_mut(&key)? };
    known.answered = 0;
    known.rcode = NO_ANSWER;
    outstanding(sk, 1);
    Some(())
}

/// A server sends an answer. `tuple` is server → client.
#[inline(always)]
fn answer_sent(skb: Ptr, tuple: &Tuple, id: u16, flags: u16) -> Option<()> {
    let now = emit::now();
    let sk: Ptr = field(skb, offset!(skb_sk));
    let net = read::sock_net(sk);
    let (netns, _) = read::net(net);
    let key = ServedKey {
        client: tuple.dst,
        port: tuple.dport,
        server_port: tuple.sport,
        id,
        _pad: 0,
        netns,
        _pad2: 0,
    };
    // SAFETY: a live map value.
    let known = unsafe { &mut *SERVED.get_ptr_mut(&key)? };
    let took = now.saturating_sub(known.first);
    if took >= setting!(min_stall) / 2 {
        let (pid, comm) = socket::current();
        known.answered = now;
        known.rcode = flags & 0xf;
        known.pid = pid;
        known.comm = comm;
        seen(kind::DNS_SERVER_ANSWER);
        send(kind::DNS_SERVER_ANSWER, known, now, net);
    }
    let _ = SERVED.remove(&key);
    Some(())
}

/// A program read a datagram.
#[inline(always)]
fn consumed(sk: Ptr, skb: Ptr) -> Option<()> {
    // Most datagrams go to sockets that never asked: look no further then.
    // SAFETY: a live map value.
    unsafe { ASKING.get(&sk) }?;
    let (start, linear) = payload(skb)?;
    let (id, flags) = message(start, linear)?;
    if flags & QR == 0 {
        return None;
    }
    let key = QueryKey { sk, id, _pad: [0; 3] };
    // SAFETY: a live map value.
    let known = unsafe { &mut *QUERIES.get_ptr_mut(&key)? };
    if known.answered == 0 {
        return None;
    }
    let now = emit::now();
    if now.saturating_sub(known.answered) >= setting!(min_stall) {
        seen(kind::DNS_READ);
        send(kind::DNS_READ, known, now, read::sock_net(sk));
    }
    let _ = QUERIES.remove(&key);
    Some(())
}

/// A UDP socket is closed.
#[inline(always)]
fn closed(sk: Ptr) -> Option<()> {
    // SAFETY: a live map value.
    let left = unsafe { ASKING.get(&sk) }.copied()?;
    let _ = ASKING.remove(&sk);
    if left == 0 || left & UNREADABLE != 0 {
        return None;
    }
    seen(kind::DNS_CLOSE);
    let now = emit::now();
    let header = emit::header(kind::DNS_CLOSE, now, read::sock_net(sk));
    emit::send(kind::DNS_CLOSE, u64::from(header.netns), now, |event: *mut Dns| {
        // SAFETY: the entry is reserved for exactly this type; all bytes zero is a valid value.
        unsafe {
            core::ptr::write_bytes(event, 0, 1);
            (*event).header = header;
            (*event).sk = sk;
        }
    });
    Some(())
}

/// Sends what is known of a question.
#[inline(always)]
fn send(kind: u16, known: &Dns, now: u64, net: Ptr) {
    let header = emit::header(kind, now, net);
    emit::send(kind, u64::from(header.netns), now, |event: *mut Dns| {
        // SAFETY: the entry is reserved for exactly this type and written whole.
        unsafe {
            event.write(*known);
            (*event).header = header;
        }
    });
}
