//! Two clocks read at the same moment.

use std::{io, mem::MaybeUninit, time::Duration};

use anyhow::{Context as _, Result};

use crate::event::Clock;

/// `CLOCK_BOOTTIME` in nanoseconds and the wall clock at that moment. The wall clock is read
/// between two readings of boot time, the closest of a few tries is taken: off by a microsecond at
/// most on a machine that is not overloaded.
///
/// # Errors
/// When the kernel has no such clock.
pub fn now() -> Result<(u64, Clock)> {
    let mut best: Option<(u64, u64, u64)> = None;
    for _ in 0..5 {
        let before = read(libc::CLOCK_BOOTTIME).context("cannot read CLOCK_BOOTTIME")?;
        let wall = read(libc::CLOCK_REALTIME).context("cannot read CLOCK_REALTIME")?;
        let after = read(libc::CLOCK_BOOTTIME).context("cannot read CLOCK_BOOTTIME")?;
        let gap = after.saturating_sub(before);
        if best.is_none_or(|(least, ..)| gap < least) {
            best = Some((gap, before + gap / 2, wall));
        }
    }
    let (_, boot, wall) = best.context("no clock was read")?;
    Ok((boot, Clock { wall }))
}

/// Processor time that the calling thread has used; 0 where the kernel does not tell.
pub fn of_thread() -> Duration {
    Duration::from_nanos(read(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or(0))
}

/// One clock in nanoseconds. A wall clock before 1970 reads as 0.
fn read(clock: libc::clockid_t) -> io::Result<u64> {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `time` has room for a timespec and outlives the call.
    if unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a timespec of zeros is valid, and the kernel has filled it in.
    let time = unsafe { time.assume_init() };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    fn wall() -> u64 {
        u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
    }

    #[test]
    fn lies_between_two_other_readings() {
        let (before, boot_before) = (wall(), read(libc::CLOCK_BOOTTIME).unwrap());
        let (boot, clock) = now().unwrap();
        let (after, boot_after) = (wall(), read(libc::CLOCK_BOOTTIME).unwrap());
        assert!(boot_before <= boot && boot <= boot_after);
        // Holds unless the wall clock is set back at this very moment.
        assert!(before <= clock.wall && clock.wall <= after);
    }
}
