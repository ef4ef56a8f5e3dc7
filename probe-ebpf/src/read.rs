//! The only place that reads kernel memory.
//!
//! Offsets come from the running kernel's BTF ([`crate::maps::OFFSETS`]); every read goes through
//! `bpf_probe_read_kernel`, so a wrong pointer gives `None`, never a fault.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated;
use probe_common::offsets::ABSENT;

use crate::maps::offset;

/// A pointer into kernel memory.
pub type Ptr = u64;

/// Reads a plain value at `base + offset`; zero when the member does not exist or cannot be read.
///
/// No error is told apart from zero on purpose: each check would double the paths the verifier has
/// to walk, and the kernel allows a million steps.
#[inline(always)]
pub fn field<T: Number>(base: Ptr, offset: u16) -> T {
    if offset == ABSENT { T::ZERO } else { at(base + u64::from(offset)) }
}

/// Reads a plain value; zero when it cannot be read.
#[inline(always)]
pub fn at<T: Number>(address: Ptr) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the source address and writes all of the destination, zeros when
    // it fails (bpf_probe_read_kernel_common in kernel/trace/bpf_trace.c).
    unsafe {
        generated::bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const _,
        );
        value.assume_init()
    }
}

/// What can be read whole: any bit pattern is a value.
pub trait Number: Copy {
    const ZERO: Self;
}

macro_rules! number {
    ($($t:ty),+) => { $(impl Number for $t { const ZERO: Self = 0; })+ };
}
number!(u8, u16, u32, u64);

impl<const N: usize> Number for [u8; N] {
    const ZERO: Self = [0; N];
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

/// As [`bytes`], for a `len` that is known to be no more than `max`, but not to the compiler: so the mask
/// stays, on the very register that is passed. Verifiers before 5.15 know no bounds of a spilled one.
///
/// # Safety
/// `to` points to at least `max` writable bytes.
#[inline(always)]
pub unsafe fn masked(from: Ptr, to: *mut u8, len: u32, max: u32) -> bool {
    // SAFETY: the caller guarantees max writable bytes; the helper checks the source.
    unsafe { generated::bpf_probe_read_kernel(to.cast(), len & max, from as *const _) == 0 }
}

/// Reads a short string and the zero at its end; nothing when it cannot be read.
///
/// # Safety
/// `to` points to 16 writable bytes.
#[inline(always)]
pub unsafe fn string(from: Ptr, to: *mut [u8; 16]) {
    // SAFETY: the helper writes at most 16 bytes, and checks the source.
    unsafe { generated::bpf_probe_read_kernel_str(to.cast(), 16, from as *const _) };
}

/// Inode number and cookie of a `struct net`.
#[inline(always)]
pub fn net(net: Ptr) -> (u32, u64) {
    (field(net, offset!(net_inum)), field(net, offset!(net_cookie)))
}

/// `sock->__sk_common.skc_net.net`; `sk` may be any kind of `sock_common`.
#[inline(always)]
pub fn sock_net(sk: Ptr) -> Ptr {
    field(sk, offset!(sk_net))
}

/// `net_device->nd_net.net`.
#[inline(always)]
pub fn dev_net(dev: Ptr) -> Ptr {
    field(dev, offset!(dev_net))
}

/// Inode of the socket's file: `sk->sk_socket` is the first member of `struct socket_alloc`, whose
/// other one is the inode (include/net/sock.h).
#[inline(always)]
pub fn sock_ino(sk: Ptr) -> u64 {
    let socket: Ptr = field(sk, offset!(sk_socket));
    field(socket, offset!(socket_ino))
}
