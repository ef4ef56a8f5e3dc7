//! The client's side: which questions a socket asked, and what became of them.

use probe_common::{
    event::{Dns, SERVERS, kind},
    net::Tuple,
};

use super::{
    NO_ANSWER, fill,
    message::{QR, message, payload},
    send,
};
use crate::{
    capture::{self, Beside},
    emit,
    maps::{ASKING, Arrival, DnsScratch, QUERIES, QueryKey, UNREADABLE, seen, setting, stats},
    packet::Packet,
    read::{self, Ptr},
    socket,
};

/// Time after which the same question to the same server is a retry rather than a burst.
pub const RETRY_AFTER: u64 = 200_000_000;

/// A client asks. `scratch.dns.question` is filled.
#[inline(always)]
pub fn asked(sk: Ptr, tuple: &Tuple, scratch: &mut DnsScratch) -> Option<()> {
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
    fill(dns, emit::header(kind::DNS_UNANSWERED, now, net), tuple, sk);
    (dns.pid, dns.comm) = socket::current();
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

/// An answer arrived at a client's socket.
#[inline(always)]
pub fn answered(
    sk: Ptr,
    skb: Ptr,
    packet: &Packet,
    id: u16,
    flags: u16,
    last: *mut Arrival,
) -> Option<()> {
    let tuple = &packet.tuple;
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
        let sent =
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
        capture::send(skb, packet, Beside::event(header, sent));
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
    if took >= setting!(min_stall) || known.attempts > 1 {
        seen(kind::DNS_ANSWER);
        let beside = send(kind::DNS_ANSWER, known, now, net);
        capture::send(skb, packet, beside);
    }
    Some(())
}

/// A program read a datagram.
#[inline(always)]
pub fn consumed(sk: Ptr, skb: Ptr) -> Option<()> {
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
        let beside = send(kind::DNS_READ, known, now, read::sock_net(sk));
        // A late answer's packet was sent when it arrived.
        let at = known.answered;
        if known.attempts == 1 && at.saturating_sub(known.first) < setting!(min_stall) {
            capture::skb(skb, None, Beside { at, ..beside });
        }
    }
    let _ = QUERIES.remove(&key);
    Some(())
}

/// A UDP socket is closed.
#[inline(always)]
pub fn closed(sk: Ptr) -> Option<()> {
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

/// What was taken for an answer did not reach the socket: its question waits again.
#[inline(always)]
pub fn unanswered(sk: Ptr, id: u16) -> Option<()> {
    let key = QueryKey { sk, id, _pad: [0; 3] };
    // SAFETY: a live map value.
    let known = unsafe { &mut *QUERIES.get_ptr_mut(&key)? };
    known.answered = 0;
    known.rcode = NO_ANSWER;
    outstanding(sk, 1);
    Some(())
}

/// An answer to this socket could not be read: nothing can be said of what it asked.
#[inline(always)]
pub fn unreadable(sk: Ptr) {
    stats(|s| s.dns_unreadable += 1);
    if let Some(n) = ASKING.get_ptr_mut(&sk) {
        // SAFETY: a live map value.
        unsafe { *n |= UNREADABLE };
    }
}
