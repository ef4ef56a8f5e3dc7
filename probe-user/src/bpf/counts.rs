//! The kernel programs' counters, and how often programs were not run.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use probe_common::stats::Stats;

use super::object::Wire;
use crate::event::Totals;

/// Adds the CPUs' counters up.
pub fn totals(stats: &PerCpuArray<MapData, Wire<Stats>>) -> Result<Totals> {
    let mut t = Totals::default();
    for Wire(cpu) in stats.get(&0, 0).context("cannot read the counters")?.iter() {
        add(&mut t.seen, &cpu.seen);
        add(&mut t.limited, &cpu.limited);
        add(&mut t.lost, &cpu.lost);
        t.dns_queries += cpu.dns_queries;
        t.dns_answers += cpu.dns_answers;
        t.dns_nxdomain += cpu.dns_nxdomain;
        t.dns_slowest = t.dns_slowest.max(cpu.dns_slowest);
        t.connects += cpu.connects;
        t.established += cpu.established;
        t.connect_slowest = t.connect_slowest.max(cpu.connect_slowest);
        t.unpaired += cpu.dns_unpaired + cpu.server_unpaired + cpu.connect_unpaired;
        t.dns_unreadable += cpu.dns_unreadable;
        t.missed += cpu.unmatched_returns;
        t.table_full += cpu.table_full;
    }
    Ok(t)
}

fn add(sum: &mut Vec<u64>, of: &[u64]) {
    sum.resize(of.len().max(sum.len()), 0);
    for (sum, n) in sum.iter_mut().zip(of) {
        *sum += n;
    }
}

/// How often the programs were due and not run because another program ran on that CPU
/// (`bpf_prog_info.recursion_misses`, since 5.12; for kprobes since 6.7). What an older kernel does
/// not count, nobody knows.
pub fn recursion_misses(ebpf: &Ebpf, programs: impl Iterator<Item = &'static str>) -> u64 {
    programs
        .filter_map(|name| {
            let fd = ebpf.program(name)?.fd().ok()?;
            misses(fd.as_fd())
                .inspect_err(|err| log::debug!("{name}: cannot read its misses: {err}"))
                .ok()
        })
        .sum()
}

/// `BPF_OBJ_GET_INFO_BY_FD` (uapi/linux/bpf.h).
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// Offset of `recursion_misses` in `struct bpf_prog_info`, and the end of it.
const RECURSION_MISSES: usize = 208;

fn misses(program: BorrowedFd<'_>) -> std::io::Result<u64> {
    #[repr(C)]
    struct Attr {
        fd: u32,
        len: u32,
        info: u64,
    }
    let mut info = [0u64; RECURSION_MISSES / 8 + 1];
    let mut attr = Attr {
        fd: program.as_raw_fd() as u32,
        len: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the attributes are as the kernel expects them for this command, and the buffer they
    // point to is alive and has the length they tell.
    let ret = unsafe {
        libc::syscall(libc::SYS_bpf, OBJ_GET_INFO_BY_FD, &raw mut attr, size_of::<Attr>())
    };
    if ret < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(info.last().copied().unwrap_or(0))
}
