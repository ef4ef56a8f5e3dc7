//! What looking may cost: bytes of `/proc`, and time of a processor.

use std::time::Duration;

/// What a second of rounds may cost: bytes, and nanoseconds of a processor.
const BYTES: u64 = 4 << 20;
const TIME: i64 = 50_000_000;
/// The least time that a round is begun with.
const WORTH_IT: i64 = 2_000_000;

/// What may still be spent. A look is not broken off, so the time may be overdrawn.
#[derive(Debug, Default)]
pub struct Budget {
    bytes: u64,
    time: i64,
    refilled: u64,
}

impl Budget {
    /// What may be spent now: what a second costs at most, and no more than that at once. `None`
    /// when nearly all of it is spent.
    pub fn refill(&mut self, now: u64) -> Option<(u64, Duration)> {
        const SECOND: u64 = 1_000_000_000;
        let ms = now.saturating_sub(self.refilled).min(SECOND) / 1_000_000;
        self.refilled = now;
        self.bytes = BYTES.min(self.bytes + BYTES * ms / 1000);
        let time = TIME / 1000 * i64::try_from(ms).unwrap_or(0);
        self.time = TIME.min(self.time.saturating_add(time));
        let time = u64::try_from(self.time).ok().filter(|_| self.time >= WORTH_IT)?;
        Some((self.bytes, Duration::from_nanos(time)))
    }

    pub fn spend(&mut self, bytes: u64, time: Duration) {
        self.bytes = self.bytes.saturating_sub(bytes);
        let time = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        // A second pays for it at most: a machine that stood still does not cost sight for long.
        self.time = self.time.saturating_sub(time).max(-TIME);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_second_costs_no_more_however_often_it_is_looked() {
        let mut budget = Budget::default();
        let (mut bytes, mut time) = (0, Duration::ZERO);
        let mut rounds = 0;
        for tick in 0..=100 {
            if let Some((b, t)) = budget.refill(10 * S + tick * S / 10) {
                // Each look takes all it may, and a little more.
                budget.spend(b, t + Duration::from_millis(1));
                (bytes, time, rounds) = (bytes + b, time + t, rounds + 1);
            }
        }
        assert!(rounds > 50, "{rounds}");
        // Ten seconds, and one saved up.
        assert!(bytes <= 11 * BYTES, "{bytes}");
        assert!(time <= Duration::from_millis(11 * 50), "{time:?}");
        budget.refill(1000 * S);
        assert_eq!(budget.refill(2000 * S), Some((BYTES, Duration::from_millis(50))));
    }

    #[test]
    fn a_look_that_took_long_is_paid_for_within_two_seconds() {
        let mut budget = Budget::default();
        budget.refill(10 * S);
        budget.spend(0, Duration::from_secs(60));
        assert_eq!(budget.refill(10 * S + S / 2), None);
        assert!(budget.refill(12 * S).is_some());
    }
}
