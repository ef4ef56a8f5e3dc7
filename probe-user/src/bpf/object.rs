//! The kernel object: what it is told, and how it gets into the kernel.

use anyhow::{Context as _, Result};
use aya::{Btf, Ebpf, EbpfLoader};
use probe_common::{Plain, config::Config, offsets::Offsets};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probe-ebpf"));

/// A wire struct as a value or key of a map.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Wire<T>(pub T);

// SAFETY: Plain types have no padding and any bit pattern is valid; the wrapper is transparent.
unsafe impl<T: Plain> aya::Pod for Wire<T> {}

/// Creates the maps. Programs are loaded one by one when they are attached.
pub fn load(offsets: &Offsets, config: &Config, btf: Option<&Btf>) -> Result<Ebpf> {
    raise_memlock();
    let level = log_level();
    EbpfLoader::new()
        .btf(btf)
        .override_global("OFFSETS", bytes_of(offsets), true)
        .override_global("CONFIG", bytes_of(config), true)
        .override_global(aya_log::LEVEL, &level, true)
        .load(OBJECT)
        .context("cannot create the BPF maps")
}

/// Level of the programs' own log: a constant for the verifier, which removes what is off.
pub fn log_level() -> u8 {
    if log::log_enabled!(target: "probe_ebpf", log::Level::Debug) {
        log::Level::Debug as u8
    } else {
        0
    }
}

/// Kernels before 5.11 count BPF memory against RLIMIT_MEMLOCK, whose default is far too small.
fn raise_memlock() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a valid pointer to a struct on the stack.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) } != 0 {
        log::debug!("cannot raise RLIMIT_MEMLOCK: {}", std::io::Error::last_os_error());
    }
}

fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: Plain types have no padding, so all their bytes are initialised.
    unsafe { std::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) }
}
