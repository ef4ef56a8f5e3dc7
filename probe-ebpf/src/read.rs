//! The only place that reads kernel memory.
//!
//! Offsets come from the running kernel's BTF ([`crate::maps::OFFSETS`]); every read goes through
//! `bpf_probe_read_kernel`, so a wrong pointer gives `None`, never a fault.

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated};
use probe_common::offsets::ABSENT;

use crate::maps::offset;

/// A pointer into kernel memory.
pub type Ptr = u64;

/// Reads a plain value at `base + offset`; `None` when the member does not exist, the base is null
/// or the memory cannot be read.
#[inline(always)]
pub fn field<T: Copy>(base: Ptr, offset: u16) -> Option<T> {
    if offset == ABSENT || base == 0 {
        return None;
    }
    at(base + u64::from(offset))
}

/// Reads a plain value.
#[inline(always)]
pub fn at<T: Copy>(address: Ptr) -> Option<T> {
    // SAFETY: the helper checks the address; T is a plain integer type or an array of them.
    unsafe { bpf_probe_read_kernel(address as *const T).ok() }
}

/// Reads `len` (at most `max`, a power of two minus one) bytes into `to`; false when they cannot be
/// read.
///
/// # Safety
/// `to` points to at least `max` writable bytes.
#[inline(always)]
pub unsafe fn bytes(from: Ptr, to: *mut u8, len: u32, max: u32) -> bool {
    let mut len = len;
    if len > max {
        len = max;
    }
    // The mask keeps the bound in the register that is passed, whatever the compiler moves.
    // SAFETY: the caller guarantees max writable bytes; the helper checks the source.
    unsafe { generated::bpf_probe_read_kernel(to.cast(), len & max, from as *const _) == 0 }
}

/// Inode number and cookie of a `struct net`.
#[inline(always)]
pub fn net(net: Ptr) -> (u32, u64) {
    (field(net, offset!(net_inum)).unwrap_or(0), field(net, offset!(net_cookie)).unwrap_or(0))
}

/// `sock->__sk_common.skc_net.net`; `sk` may be any kind of `sock_common`.
#[inline(always)]
pub fn sock_net(sk: Ptr) -> Ptr {
    field(sk, offset!(sk_net)).unwrap_or(0)
}

/// `net_device->nd_net.net`.
#[inline(always)]
pub fn dev_net(dev: Ptr) -> Ptr {
    field(dev, offset!(dev_net)).unwrap_or(0)
}

/// Inode of the socket's file: `sk->sk_socket` is the first member of `struct socket_alloc`, whose
/// other one is the inode (include/net/sock.h).
#[inline(always)]
pub fn sock_ino(sk: Ptr) -> u64 {
    let socket: Ptr = field(sk, offset!(sk_socket)).unwrap_or(0);
    field(socket, offset!(socket_ino)).unwrap_or(0)
}
