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

mod client;
mod message;
mod server;

use aya_ebpf::{
    macros::{fentry, kprobe, raw_tracepoint},
    programs::{FEntryContext, ProbeContext, RawTracePointContext},
};
use probe_common::{
    event::{Dns, Header},
    net::{FAMILY_V4, FAMILY_V6, IPPROTO_UDP, Tuple},
};

use self::message::{HEADER, OPCODE, QR, is_multicast, message, payload, question};
use crate::{
    capture::Beside,
    emit,
    maps::{DNS_SCRATCH, LAST_ARRIVAL, SCRATCH_SEND4, SCRATCH_SEND6, SERVED, offset, setting},
    packet,
    read::{Ptr, at, field},
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
rungs!(dns_read_fe, dns_read_kp, |sk @ 0, skb @ 1| client::consumed(sk, skb));
rungs!(dns_close4_fe, dns_close4_kp, |sk @ 0| client::closed(sk));
rungs!(dns_close6_fe, dns_close6_kp, |sk @ 0| client::closed(sk));

/// The tracepoint `udp:udp_fail_queue_rcv_skb(int rc, struct sock *sk[, struct sk_buff *skb])`: the
/// same first arguments on 5.10, 6.1, 6.12, 6.18 and 7.2. It fires right after the arrival.
#[raw_tracepoint]
pub fn dns_refused(ctx: RawTracePointContext) -> i32 {
    refused(ctx.arg(1));
    0
}

/// [`Dns::rcode`] of a question without an answer.
const NO_ANSWER: u16 = u16::MAX;

#[inline(always)]
pub fn is_dns_port(port: u16) -> bool {
    port != 0
        && (port == setting!(dns_ports[0])
            || port == setting!(dns_ports[1])
            || port == setting!(dns_ports[2])
            || port == setting!(dns_ports[3]))
}

/// `struct flowi4` has the ports that the header of the datagram will get.
#[inline(always)]
fn send4(skb: Ptr, flow: Ptr) -> Option<()> {
    let (sport, dport) = ports(flow, offset!(fl4_sport), offset!(fl4_dport))?;
    let (src, dst) = (field(flow, offset!(fl4_saddr)), field(flow, offset!(fl4_daddr)));
    sent(SCRATCH_SEND4, skb, &udp(FAMILY_V4, socket::v4(src), sport, socket::v4(dst), dport))
}

/// The same of `struct flowi6`.
#[inline(always)]
fn send6(skb: Ptr, flow: Ptr) -> Option<()> {
    let (sport, dport) = ports(flow, offset!(fl6_sport), offset!(fl6_dport))?;
    let (src, dst) = (field(flow, offset!(fl6_saddr)), field(flow, offset!(fl6_daddr)));
    sent(SCRATCH_SEND6, skb, &udp(FAMILY_V6, src, sport, dst, dport))
}

/// Source and destination port of a flow; `None` when neither is one of DNS.
#[inline(always)]
fn ports(flow: Ptr, sport: u16, dport: u16) -> Option<(u16, u16)> {
    let (sport, dport) = (u16::from_be(field(flow, sport)), u16::from_be(field(flow, dport)));
    (is_dns_port(dport) || is_dns_port(sport)).then_some((sport, dport))
}

#[inline(always)]
fn udp(family: u8, src: [u8; 16], sport: u16, dst: [u8; 16], dport: u16) -> Tuple {
    Tuple { src, dst, sport, dport, proto: IPPROTO_UDP, family, _pad: [0; 2] }
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
            server::answer_sent(skb, tuple, id, flags);
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
    client::asked(sk, tuple, scratch)
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
        client::unreadable(sk);
        return None;
    }
    let (id, flags) = message(start, linear)?;
    if flags & QR != 0 {
        if from_server { client::answered(sk, skb, &packet, id, flags, last) } else { None }
    } else if to_server && flags & OPCODE == 0 && !is_multicast(&packet.tuple) {
        server::served(sk, skb, &packet, (start, linear, id), last)
    } else {
        None
    }
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
    if last.is_answer != 0 {
        return client::unanswered(sk, last.id);
    }
    let _ = SERVED.remove(&last.served);
    None
}

/// Begins a record of a question; the question itself and the process are the caller's to fill in.
#[inline(always)]
fn fill(dns: &mut Dns, header: Header, tuple: &Tuple, sk: Ptr) {
    dns.header = header;
    dns.tuple = *tuple;
    dns.sk = sk;
    dns.first = header.ts;
    dns.last = header.ts;
    dns.answered = 0;
    dns.attempts = 1;
    dns.servers = 1;
    dns.rcode = NO_ANSWER;
    dns.server = [tuple.dst, [0; 16], [0; 16]];
    dns._pad = [0; 3];
}

/// Sends what is known of a question.
#[inline(always)]
fn send(kind: u16, known: &Dns, now: u64, net: Ptr) -> Beside<'static> {
    let header = emit::header(kind, now, net);
    let sent = emit::send(kind, u64::from(header.netns), now, |event: *mut Dns| {
        // SAFETY: the entry is reserved for exactly this type and written whole.
        unsafe {
            event.write(*known);
            (*event).header = header;
        }
    });
    Beside::event(header, sent)
}
