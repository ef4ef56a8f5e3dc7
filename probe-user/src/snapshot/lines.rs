//! Long files of `/proc`, line by line and no further than a budget allows.

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Read as _},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::clock;
use crate::pods::procfs::open;

/// Lines between two looks at the clock; 256 take the kernel well below a millisecond.
const LINES: usize = 256;

/// How much longer than the processor time it may take by the clock on the wall: on a busy machine
/// the reader waits for its turn.
const PATIENCE: u32 = 4;

/// What may still be read, by a thread that was started for it: bytes, and processor time.
#[derive(Debug)]
pub struct Budget {
    bytes: AtomicU64,
    time: Duration,
    deadline: Instant,
    used: AtomicU64,
}

impl Budget {
    pub fn new(bytes: u64, time: Duration) -> Self {
        let deadline = Instant::now() + time.saturating_mul(PATIENCE);
        Self { bytes: AtomicU64::new(bytes), time, deadline, used: AtomicU64::new(0) }
    }

    pub fn spend(&self, bytes: u64) {
        let left = self.left().saturating_sub(bytes);
        self.bytes.store(left, Ordering::Relaxed);
    }

    /// Bytes.
    pub fn left(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Processor time used, as of the last look.
    pub fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Ordering::Relaxed))
    }

    /// Looks at the clocks. By the thread that reads.
    pub fn is_over(&self) -> bool {
        let used = clock::of_thread();
        let nanos = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
        self.used.store(nanos, Ordering::Relaxed);
        self.left() == 0 || used >= self.time || Instant::now() >= self.deadline
    }
}

/// Hands each line to `each` until it says false; lines that are no text are passed over. Tells
/// whether the budget ended before the file did. A file that does not exist has no lines.
///
/// # Errors
/// When the file cannot be read.
pub fn read(path: &Path, budget: &Budget, mut each: impl FnMut(&str) -> bool) -> Result<bool> {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let mut reader = BufReader::with_capacity(1 << 16, file.take(budget.left()));
    let mut line = Vec::new();
    for number in 0.. {
        // A short file is read whole: what is left out of it would cost more than it saves.
        if number > 0 && number % LINES == 0 && budget.is_over() {
            return Ok(true);
        }
        line.clear();
        let length = reader
            .read_until(b'\n', &mut line)
            .with_context(|| format!("cannot read {}", path.display()))?;
        if length == 0 {
            break;
        }
        budget.spend(u64::try_from(length).unwrap_or(u64::MAX));
        if std::str::from_utf8(&line).is_ok_and(|line| !each(line)) {
            return Ok(false);
        }
    }
    Ok(budget.left() == 0)
}
