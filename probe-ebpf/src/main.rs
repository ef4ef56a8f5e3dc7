//! stallprobe's kernel programs: one file for each hook family, all memory reads in `read`, all
//! events through `emit`, every map in `maps`.
#![no_std]
#![no_main]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "later versions of aya-ebpf take keys and values by reference only"
)]

mod armed;
mod capture;
mod emit;
mod hooks;
mod maps;
mod packet;
mod read;
mod socket;

/// The helpers used here are GPL-only; the object is dual licensed as the kernel asks for it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
