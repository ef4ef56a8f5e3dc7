//! How fast this machine's time stamp counter runs. An emulated machine has the same counter, and
//! measures it against emulated timers while it boots: on an overloaded host it gets that wrong, and
//! its clock is wrong from then on.
use std::{
    thread,
    time::{Duration, Instant},
};

/// Long enough that a reading's error does not count.
const WINDOW: Duration = Duration::from_millis(50);
/// A reading took place between two looks at the clock this close to each other.
const EXACT: Duration = Duration::from_micros(20);

/// In kHz, to a tenth of a percent; nothing when the machine is too busy to tell, or its counter
/// does not run at one rate.
pub fn khz() -> Option<u64> {
    (0..5).find_map(|_| {
        let rates = [rate(reading()?, later()?)?, rate(reading()?, later()?)?];
        agreed(rates)
    })
}

/// A moment, and what the counter was at it.
type Reading = (Instant, u64);

fn later() -> Option<Reading> {
    thread::sleep(WINDOW);
    reading()
}

fn reading() -> Option<Reading> {
    (0..1000).find_map(|_| {
        let before = Instant::now();
        // SAFETY: every x86-64 processor has the instruction, and Linux lets programs use it.
        let counter = unsafe { core::arch::x86_64::_rdtsc() };
        (before.elapsed() < EXACT).then_some((before, counter))
    })
}

fn rate(from: Reading, to: Reading) -> Option<u64> {
    let nanoseconds = to.0.duration_since(from.0).as_nanos();
    let ticks = u128::from(to.1.checked_sub(from.1)?);
    u64::try_from(ticks.checked_mul(1_000_000)?.checked_div(nanoseconds)?).ok()
}

/// The middle of two measurements that agree.
fn agreed([a, b]: [u64; 2]) -> Option<u64> {
    (a.abs_diff(b) <= a / 1000 && a > 0).then(|| a.midpoint(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_time_give_a_rate() {
        let start = Instant::now();
        let end = start + Duration::from_millis(50);
        assert_eq!(rate((start, 1000), (end, 130_001_000)), Some(2_600_000));
        assert_eq!(rate((start, 1000), (end, 999)), None);
        assert_eq!(rate((start, 1000), (start, 2000)), None);
    }

    #[test]
    fn only_measurements_that_agree_count() {
        assert_eq!(agreed([2_600_000, 2_600_200]), Some(2_600_100));
        assert_eq!(agreed([2_600_000, 2_700_000]), None);
        assert_eq!(agreed([0, 0]), None);
    }
}
