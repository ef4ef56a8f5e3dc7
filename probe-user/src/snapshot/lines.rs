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

    /// Half of what is left, for one file: one long table does not keep others from being read.
    fn half(&self) -> Self {
        let now = Instant::now();
        let (time, used) = (self.time, self.used());
        Self {
            bytes: AtomicU64::new(self.left() / 2),
            time: used + time.saturating_sub(used) / 2,
            deadline: now + self.deadline.saturating_duration_since(now) / 2,
            used: AtomicU64::new(self.used.load(Ordering::Relaxed)),
        }
    }

    /// Calls `read` with half of what is left, and takes off what that used.
    pub fn with_half<T>(&self, read: impl FnOnce(&Self) -> T) -> T {
        let half = self.half();
        let given = half.left();
        let answer = read(&half);
        self.spend(given - half.left());
        self.used.store(half.used.load(Ordering::Relaxed), Ordering::Relaxed);
        answer
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
        // Half a line may look like a whole one: a number in it is shorter than it was.
        if budget.left() == 0 && line.last() != Some(&b'\n') {
            return Ok(true);
        }
        if std::str::from_utf8(&line).is_ok_and(|line| !each(line)) {
            return Ok(false);
        }
    }
    Ok(budget.left() == 0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::fs;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn lines(text: &str, budget: &Budget) -> (Vec<String>, bool) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table");
        fs::write(&path, text).unwrap();
        let mut lines = Vec::new();
        let keep = |line: &str| {
            lines.push(line.trim_end().to_owned());
            true
        };
        let cut = read(&path, budget, keep).unwrap();
        (lines, cut)
    }

    #[test]
    fn half_a_line_is_not_handed_on() {
        let read = |bytes| lines("one\ntwo 4711\n", &Budget::new(bytes, LONG));
        assert_eq!(read(10), (vec!["one".to_owned()], true));
        assert_eq!(read(4), (vec!["one".to_owned()], true), "between two lines");
        let all = (vec!["one".to_owned(), "two 4711".to_owned()], false);
        assert_eq!(read(100), all);
        // A last line without an end is whole when the budget was not used up.
        assert_eq!(lines("one\ntwo 4711", &Budget::new(100, LONG)), all);
    }

    #[test]
    fn one_file_may_take_half_of_what_is_left() {
        let budget = Budget::new(1000, LONG);
        let long = "123456789\n".repeat(1000);
        let count = |budget: &Budget| budget.with_half(|half| lines(&long, half)).0.len();
        assert_eq!((count(&budget), budget.left()), (50, 500));
        assert_eq!((count(&budget), budget.left()), (25, 250));
        budget.with_half(|half| lines("short\n", half));
        assert_eq!(budget.left(), 244, "what it did not use is left");
    }
}
