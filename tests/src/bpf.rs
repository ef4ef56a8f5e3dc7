//! The kernel's BPF interface, as much as the lab needs: which programs and links there are, and a
//! busy kprobe such as another tool may have.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};

/// Commands of bpf(2), include/uapi/linux/bpf.h.
const PROG_LOAD: i64 = 5;
const PROG_GET_NEXT_ID: i64 = 11;
const PROG_GET_FD_BY_ID: i64 = 13;
const OBJ_GET_INFO_BY_FD: i64 = 15;
const LINK_GET_NEXT_ID: i64 = 31;

const PROG_TYPE_KPROBE: u32 = 2;

/// One instruction of BPF.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Ids of the programs that are loaded.
pub fn programs() -> Result<Vec<u32>> {
    ids(PROG_GET_NEXT_ID).context("cannot list BPF programs")
}

/// Ids of the links by which programs are attached.
pub fn links() -> Result<Vec<u32>> {
    ids(LINK_GET_NEXT_ID).context("cannot list BPF links")
}

/// Names of the programs that are loaded, as the kernel keeps them: at most 15 bytes.
pub fn program_names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for id in programs()? {
        match name(id) {
            Ok(name) => names.push(name),
            // Unloaded since.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            Err(e) => return Err(e).with_context(|| format!("cannot read BPF program {id}")),
        }
    }
    Ok(names)
}

/// Reads `struct bpf_prog_info` up to its name, 16 bytes at 64.
fn name(id: u32) -> io::Result<String> {
    // prog_id, next_id, open_flags.
    let fd = bpf(PROG_GET_FD_BY_ID, &mut [id, 0, 0])?;
    // SAFETY: just made, owned by nobody else.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = [0u8; 80];
    // bpf_fd, info_len, info.
    let mut attributes = [0u32; 4];
    attributes[0] = program.as_raw_fd() as u32;
    attributes[1] = info.len() as u32;
    put64(&mut attributes, 2, info.as_mut_ptr() as u64);
    bpf(OBJ_GET_INFO_BY_FD, &mut attributes)?;
    let name = info[64..].split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

fn ids(command: i64) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    // start_id in, next_id out, open_flags.
    let mut attributes = [0u32; 3];
    loop {
        match bpf(command, &mut attributes) {
            Ok(_) => {
                all.push(attributes[1]);
                attributes[0] = attributes[1];
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(all),
            Err(e) => return Err(e.into()),
        }
    }
}

/// A kprobe on a function whose program does nothing for a while each time; gone when dropped.
pub struct BusyKprobe {
    _event: OwnedFd,
    _program: OwnedFd,
}

impl BusyKprobe {
    /// `loops` times two instructions each time the function is entered.
    pub fn attach(function: &str, loops: i32) -> Result<Self> {
        let program = load(&[
            instruction(0xb7, 1, 0, loops), // r1 = loops
            instruction(0x07, 1, 0, -1),    // r1 += -1
            instruction(0x55, 1, -2, 0),    // if r1 != 0 goto -2
            instruction(0xb7, 0, 0, 0),     // r0 = 0
            instruction(0x95, 0, 0, 0),     // exit
        ])?;
        let event = kprobe(function)?;
        // SAFETY: a perf event and a program, both open.
        let attached = unsafe {
            libc::ioctl(event.as_raw_fd(), IOC_SET_BPF, program.as_raw_fd()) == 0
                && libc::ioctl(event.as_raw_fd(), IOC_ENABLE, 0) == 0
        };
        if !attached {
            let e = io::Error::last_os_error();
            return Err(e).with_context(|| format!("cannot attach to {function}"));
        }
        Ok(Self { _event: event, _program: program })
    }
}

/// ioctls of perf events, include/uapi/linux/perf_event.h.
const IOC_ENABLE: libc::Ioctl = 0x2400;
const IOC_SET_BPF: libc::Ioctl = 0x4004_2408;

fn instruction(code: u8, register: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: register, offset, immediate }
}

fn load(program: &[Instruction]) -> Result<OwnedFd> {
    let license = c"GPL";
    // prog_type, insn_cnt, insns, license, and zeros: no log.
    let mut attributes = [0u32; 36];
    attributes[0] = PROG_TYPE_KPROBE;
    attributes[1] = program.len() as u32;
    put64(&mut attributes, 2, program.as_ptr() as u64);
    put64(&mut attributes, 4, license.as_ptr() as u64);
    let fd = bpf(PROG_LOAD, &mut attributes).context("cannot load a kprobe program")?;
    // SAFETY: just made, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A perf event of the kprobe unit on a function's entry (kernel/events/core.c,
/// `perf_kprobe_event_init`).
fn kprobe(function: &str) -> Result<OwnedFd> {
    let path = "/sys/bus/event_source/devices/kprobe/type";
    let kind = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let name = CString::new(function).context("a function's name has no NUL byte")?;
    // type, size, …, and kprobe_func at byte 56, probe_offset at 64; 112 bytes is version 5.
    let mut attributes = [0u32; 28];
    attributes[0] = kind.trim().parse().with_context(|| format!("odd number in {path}"))?;
    attributes[1] = size_of_val(&attributes) as u32;
    put64(&mut attributes, 14, name.as_ptr() as u64);
    // SAFETY: attributes and the name they point to are valid during the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), -1i32, 0i32, -1i32, 8u64)
    };
    if fd < 0 {
        let e = io::Error::last_os_error();
        return Err(e).with_context(|| format!("cannot make a kprobe on {function}"));
    }
    // SAFETY: just made, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn put64(words: &mut [u32], at: usize, value: u64) {
    if let [low, high] = &mut words[at..at + 2] {
        (*low, *high) = (value as u32, (value >> 32) as u32);
    }
}

fn bpf(command: i64, attributes: &mut [u32]) -> io::Result<i32> {
    // SAFETY: the attributes are valid for their size, and so is what they point to.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes))
    };
    match result {
        0.. => Ok(result as i32),
        _ => Err(io::Error::last_os_error()),
    }
}
