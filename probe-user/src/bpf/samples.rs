//! Looks at the servers of probes that wait, by running a program that is attached to nothing.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, Pod, RawTracePointRunOptions, TestRun as _,
    maps::{HashMap, MapData, MapError},
    programs::RawTracePoint,
};
use probe_common::event::STEPS;

use super::attach::{typed, without_log};

/// Looks at a server, and tells of it.
const LOOK: &str = "probe_sample";
const TELL: &str = "probe_seen";
/// How many connections are looked at in one call: each costs three system calls, of some microseconds.
const AT_ONCE: usize = 256;

/// As `Sampled` in the kernel programs.
#[repr(C)]
#[derive(Clone, Copy)]
struct Sampled {
    server: u64,
    is_news: u64,
    received: u64,
    first: [u64; STEPS],
    last: [u64; STEPS],
    count: [u32; STEPS],
}

// SAFETY: integers only, no padding.
unsafe impl Pod for Sampled {}

/// Connections of the kubelet to servers of this node, by the client's socket.
pub struct Samples {
    open: HashMap<MapData, u64, Sampled>,
    is_loaded: bool,
}

impl Samples {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let open = ebpf.take_map("SAMPLED").context("no map SAMPLED")?;
        let open = HashMap::try_from(open).context("map SAMPLED")?;
        Ok(Self { open, is_loaded: false })
    }

    /// Loads the program; without it nothing is looked at.
    pub fn load(&mut self, ebpf: &mut Ebpf) {
        let mut load = |name| {
            let program = typed::<RawTracePoint>(ebpf, name)?;
            program.load().with_context(|| format!("cannot load {name}"))
        };
        let loaded = load(LOOK).and_then(|()| load(TELL));
        match loaded {
            Ok(()) => self.is_loaded = true,
            Err(err) => {
                log::info!("servers are not looked at while probes wait: {}", without_log(&err))
            }
        }
    }

    /// Looks at each once; gives how many there are. Without any it costs one system call.
    pub fn look(&mut self, ebpf: &mut Ebpf) -> Result<usize> {
        if !self.is_loaded {
            return Ok(0);
        }
        let mut open = Vec::new();
        for key in self.open.keys().take(AT_ONCE) {
            match key {
                Ok(sk) => open.push(sk),
                // It ended meanwhile.
                Err(MapError::KeyNotFound) => {}
                Err(err) => return Err(err).context("cannot walk the map SAMPLED"),
            }
        }
        for sk in &open {
            let told = run(ebpf, LOOK, *sk).and_then(|()| run(ebpf, TELL, *sk));
            if let Err(err) = told {
                // It will not go another time either.
                self.is_loaded = false;
                return Err(err);
            }
        }
        Ok(open.len())
    }
}

/// Runs a program with one argument.
fn run(ebpf: &mut Ebpf, name: &str, sk: u64) -> Result<()> {
    let mut with = RawTracePointRunOptions::new();
    with.args[0] = sk;
    let ran = typed::<RawTracePoint>(ebpf, name)?.test_run(with);
    ran.with_context(|| format!("cannot run {name}"))?;
    Ok(())
}
