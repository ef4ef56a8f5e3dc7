//! The server's side: which questions reached a server's socket, and when it answered them.

use probe_common::{
    event::{Header, kind},
    net::Tuple,
};

use super::{client::RETRY_AFTER, fill, message::question, send};
use crate::{
    capture::{self, Beside},
    emit,
    maps::{Arrival, DNS_SCRATCH, SCRATCH_ARRIVE, SERVED, ServedKey, offset, seen, setting, stats},
    packet::Packet,
    read::{self, Ptr, field},
    socket,
};

/// A question arrived at a server's socket.
#[inline(always)]
pub fn served(
    sk: Ptr,
    skb: Ptr,
    packet: &Packet,
    (start, linear, id): (Ptr, u64, u16),
    last: *mut Arrival,
) -> Option<()> {
    let tuple = &packet.tuple;
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
            if now.saturating_sub(known.last) >= RETRY_AFTER {
                let header = Header { kind: kind::DNS_RETRY, ..dns.header };
                let allowed = capture::wanted() && emit::node_allows(kind::PACKET, now);
                capture::send(skb, packet, Beside::event(header, allowed));
            }
            known.last = now;
            known.attempts += 1;
            return None;
        }
    }
    fill(dns, dns.header, tuple, sk);
    (dns.pid, dns.comm) = (0, [0; 16]);
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

/// A server sends an answer. `tuple` is server → client.
#[inline(always)]
pub fn answer_sent(skb: Ptr, tuple: &Tuple, id: u16, flags: u16) -> Option<()> {
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
