//! Two packets at the same moment: two threads, each bound to a CPU of its own, that leave a spin
//! barrier together.

use std::{
    hint::spin_loop,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

type Shot = Box<dyn FnOnce() -> Result<()> + Send>;

/// Two threads that wait for something to do at once.
pub struct Race {
    lanes: [Lane; 2],
    gate: Arc<AtomicU32>,
}

struct Lane {
    shots: mpsc::Sender<Shot>,
    done: mpsc::Receiver<Result<()>>,
}

impl Race {
    pub fn new() -> Result<Self> {
        let gate = Arc::new(AtomicU32::new(0));
        Ok(Self { lanes: [lane(0, &gate)?, lane(1, &gate)?], gate })
    }

    /// Runs both closures at the same moment, as closely as the two CPUs allow.
    pub fn fire(
        &self,
        a: impl FnOnce() -> Result<()> + Send + 'static,
        b: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<()> {
        self.gate.store(0, Ordering::SeqCst);
        let shots: [Shot; 2] = [Box::new(a), Box::new(b)];
        for (lane, shot) in self.lanes.iter().zip(shots) {
            lane.shots.send(shot).ok().context("a racing thread is gone")?;
        }
        for lane in &self.lanes {
            lane.done.recv().context("a racing thread is gone")??;
        }
        Ok(())
    }
}

fn lane(cpu: usize, gate: &Arc<AtomicU32>) -> Result<Lane> {
    let (shots, orders) = mpsc::channel::<Shot>();
    let (report, done) = mpsc::channel();
    let gate = Arc::clone(gate);
    thread::Builder::new()
        .spawn(move || {
            let pinned = pin(cpu);
            for shot in orders {
                gate.fetch_add(1, Ordering::SeqCst);
                // A lane that never starts must not hold the other one for ever.
                let end = Instant::now() + Duration::from_secs(5);
                while gate.load(Ordering::SeqCst) < 2 && Instant::now() < end {
                    spin_loop();
                }
                let result = match &pinned {
                    Ok(()) => shot(),
                    Err(e) => Err(anyhow::anyhow!("{e:#}")),
                };
                if report.send(result).is_err() {
                    break;
                }
            }
        })
        .context("cannot start a thread")?;
    Ok(Lane { shots, done })
}

/// Binds the calling thread to one CPU.
pub fn pin(cpu: usize) -> Result<()> {
    // SAFETY: all zeros is an empty set; CPU_SET stays inside it for the CPUs of the guest.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error())
            .with_context(|| format!("cannot bind a thread to CPU {cpu}: the race needs two")),
    }
}
