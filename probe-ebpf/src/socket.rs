//! What is read from a `struct sock`, `struct request_sock` or `struct nf_conn`.

use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid};
use probe_common::{
    net::{Conntrack, FAMILY_V4, FAMILY_V6, IPPROTO_TCP, IPPROTO_UDP, Tuple},
    offsets::ABSENT,
};

use crate::{
    maps::offset,
    read::{Ptr, field},
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// `enum` in include/net/tcp_states.h.
pub const TCP_ESTABLISHED: u8 = 1;
pub const TCP_SYN_SENT: u8 = 2;
pub const TCP_SYN_RECV: u8 = 3;
pub const TCP_FIN_WAIT1: u8 = 4;
pub const TCP_CLOSE_WAIT: u8 = 8;

/// Thread group id and name of the current process.
#[inline(always)]
pub fn current() -> (u32, [u8; 16]) {
    ((bpf_get_current_pid_tgid() >> 32) as u32, bpf_get_current_comm().unwrap_or([0; 16]))
}

/// IPv4 address in the form of [`Tuple::src`].
#[inline(always)]
pub fn v4(address: [u8; 4]) -> [u8; 16] {
    [address[0], address[1], address[2], address[3], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// `::ffff:a.b.c.d`
#[inline(always)]
fn is_mapped(a: &[u8; 16]) -> bool {
    a[0] | a[1] | a[2] | a[3] | a[4] | a[5] | a[6] | a[7] | a[8] | a[9] == 0
        && a[10] == 0xff
        && a[11] == 0xff
}

/// local → remote of a `sock_common` (a full socket or a request socket). The local port is
/// `skc_num`, which is 0 once a socket is closed: pass another one then.
#[inline(always)]
pub fn tuple(sk: Ptr, proto: u8, port: Option<u16>) -> Option<Tuple> {
    let family: u16 = field(sk, offset!(sk_family));
    let sport = match port {
        Some(port) => port,
        None => field(sk, offset!(sk_num)),
    };
    let dport: u16 = field(sk, offset!(sk_dport));
    let mut tuple = Tuple { sport, dport: u16::from_be(dport), proto, ..Tuple::default() };
    if family == AF_INET6 {
        let dst: [u8; 16] = field(sk, offset!(sk_v6_daddr));
        if !is_mapped(&dst) {
            tuple.dst = dst;
            tuple.src = field(sk, offset!(sk_v6_rcv_saddr));
            tuple.family = FAMILY_V6;
            return Some(tuple);
        }
    } else if family != AF_INET {
        return None;
    }
    tuple.src = v4(field(sk, offset!(sk_rcv_saddr)));
    tuple.dst = v4(field(sk, offset!(sk_daddr)));
    tuple.family = FAMILY_V4;
    Some(tuple)
}

/// The same flow seen from the other end.
#[inline(always)]
pub fn reversed(t: &Tuple) -> Tuple {
    Tuple {
        src: t.dst,
        dst: t.src,
        sport: t.dport,
        dport: t.sport,
        proto: t.proto,
        family: t.family,
        _pad: [0; 2],
    }
}

/// A key for the pod at the source of a flow.
#[inline(always)]
pub fn source_key(t: &Tuple) -> u64 {
    let a = u64::from_ne_bytes([
        t.src[0], t.src[1], t.src[2], t.src[3], t.src[4], t.src[5], t.src[6], t.src[7],
    ]);
    let b = u64::from_ne_bytes([
        t.src[8], t.src[9], t.src[10], t.src[11], t.src[12], t.src[13], t.src[14], t.src[15],
    ]);
    a ^ b.rotate_left(32)
}

/// One direction of an entry: `struct nf_conntrack_tuple`
/// (include/net/netfilter/nf_conntrack_tuple.h). Written field by field: the stack is small.
#[inline(always)]
fn ct_tuple(tuple: Ptr, to: &mut Tuple) {
    let l3: u16 = field(tuple, offset!(tuple_l3num));
    to.family = if l3 == AF_INET6 { FAMILY_V6 } else { FAMILY_V4 };
    to.proto = field(tuple, offset!(tuple_protonum));
    to.sport = u16::from_be(field(tuple, offset!(tuple_sport)));
    to.dport = u16::from_be(field(tuple, offset!(tuple_dport)));
    to.src = field(tuple, offset!(tuple_src));
    to.dst = field(tuple, offset!(tuple_dst));
    to._pad = [0; 2];
}

/// Fills `to` from a `struct nf_conn`, zero when there is none. `info` is the low bits of
/// `skb->_nfct`.
///
/// # Safety
/// `to` points to writable memory for a `Conntrack`.
#[inline(always)]
pub unsafe fn conntrack(ct: Ptr, info: u8, to: *mut Conntrack) {
    // SAFETY: writable as the caller promises; all bytes zero is a valid value.
    let to = unsafe {
        core::ptr::write_bytes(to, 0, 1);
        &mut *to
    };
    if ct == 0
        || offset!(ct_status) == ABSENT
        || offset!(ct_tuplehash) == ABSENT
        || offset!(tuplehash_size) == ABSENT
    {
        return;
    }
    let orig = ct + u64::from(offset!(ct_tuplehash)) + u64::from(offset!(tuplehash_tuple));
    ct_tuple(orig, &mut to.orig);
    ct_tuple(orig + u64::from(offset!(tuplehash_size)), &mut to.reply);
    to.status = field(ct, offset!(ct_status));
    to.timeout = field(ct, offset!(ct_timeout));
    match to.orig.proto {
        IPPROTO_TCP => to.tcp_state = field(ct, offset!(ct_tcp_state)),
        IPPROTO_UDP => to.born = field(ct, offset!(ct_udp_stream_ts)),
        _ => {}
    }
    to.info = info;
    to.present = 1;
}

/// Entry and low bits of `skb->_nfct` (include/linux/skbuff.h: `NFCT_PTRMASK`).
#[inline(always)]
pub fn nfct(skb: Ptr) -> (Ptr, u8) {
    let nfct: u64 = field(skb, offset!(skb_nfct));
    (nfct & !7, (nfct & 7) as u8)
}

/// Accept queue and its limit: `sk_ack_backlog`, `sk_max_ack_backlog` (both u32).
#[inline(always)]
pub fn accept_queue(sk: Ptr) -> (u32, u32) {
    (field(sk, offset!(sk_ack_backlog)), field(sk, offset!(sk_max_ack_backlog)))
}

/// local → remote of a TCP socket whatever its state: `inet_sport` keeps the port after close.
#[inline(always)]
pub fn tcp_tuple(sk: Ptr) -> Option<Tuple> {
    let port: u16 = field(sk, offset!(inet_sport));
    tuple(sk, IPPROTO_TCP, Some(u16::from_be(port)))
}
