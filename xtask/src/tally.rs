//! Counts of test cases, read from what cargo and the lab print.
use std::ops::AddAssign;

/// How many cases passed, failed, were skipped.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Tally {
    pub const ONE_FAILED: Self = Self { passed: 0, failed: 1, skipped: 0 };

    /// The sum of cargo's `test result: ok. 3 passed; 0 failed; 1 ignored; ...` lines.
    pub fn from_cargo(output: &str) -> Self {
        let mut sum = Self::default();
        for line in output.lines() {
            if let Some((_, counts)) =
                line.strip_prefix("test result: ").and_then(|line| line.split_once(". "))
            {
                sum += Self {
                    passed: count(counts, ';', "passed").unwrap_or(0),
                    failed: count(counts, ';', "failed").unwrap_or(0),
                    skipped: count(counts, ';', "ignored").unwrap_or(0),
                };
            }
        }
        sum
    }

    /// The lab's closing line, `3 passed, 0 failed, 1 skipped`: the last line that is one.
    pub fn from_lab(output: &str) -> Option<Self> {
        output.lines().rev().find_map(|line| {
            Some(Self {
                passed: count(line, ',', "passed")?,
                failed: count(line, ',', "failed")?,
                skipped: count(line, ',', "skipped")?,
            })
        })
    }
}

/// The number before `word` in a list such as `3 passed, 0 failed`.
fn count(list: &str, separator: char, word: &str) -> Option<u64> {
    list.split(separator).find_map(|item| {
        let (number, name) = item.trim().split_once(' ')?;
        (name == word).then(|| number.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64, skipped: u64) -> Tally {
        Tally { passed, failed, skipped }
    }

    #[test]
    fn cargo_results_are_summed() {
        let output = "running 2 tests\n..\n\
            test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: FAILED. 1 passed; 1 failed; 3 ignored; 0 measured; 0 filtered out\n\
            test result: nonsense\n\
            not a test result: ok. 9 passed; 9 failed; 9 ignored;\n";
        assert_eq!(Tally::from_cargo(output), tally(3, 1, 3));
        assert_eq!(Tally::from_cargo(""), Tally::default());
    }

    #[test]
    fn the_labs_closing_line_is_the_last_one() {
        let output = "case a ... ok\n1 passed, 1 failed, 1 skipped\ncase b ... FAILED: 2 passed\n\
            12 passed, 0 failed, 3 skipped\nleft over\n";
        assert_eq!(Tally::from_lab(output), Some(tally(12, 0, 3)));
        assert_eq!(Tally::from_lab("12 passed, 0 failed\n"), None);
        assert_eq!(Tally::from_lab("x passed, 0 failed, 1 skipped\n"), None);
        assert_eq!(Tally::from_lab(""), None);
    }
}
