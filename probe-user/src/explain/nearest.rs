//! What somebody may have meant who mistyped an id.

use crate::finding::Cause;

/// How many are offered.
const OFFERED: usize = 3;

/// The causes whose ids are most like `typed`, best first: those that contain it or a word of it,
/// then those with the fewest letters changed.
#[must_use]
pub fn nearest(typed: &str) -> Vec<Cause> {
    let typed = typed.to_ascii_lowercase().replace([' ', '_'], "-");
    let words: Vec<&str> = typed.split('-').filter(|word| word.len() > 2).collect();
    let mut causes: Vec<Cause> = Cause::ALL.to_vec();
    causes.sort_by_key(|cause| {
        let shared = words.iter().filter(|word| cause.id().contains(*word)).count();
        (std::cmp::Reverse(shared), changes(&typed, cause.id()))
    });
    causes.truncate(OFFERED);
    causes
}

/// Letters to change, add or take away to make one text of the other (Levenshtein).
fn changes(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(to.bytes()) {
            let here = (diagonal + usize::from(a != b)).min(*cell + 1).min(left + 1);
            diagonal = std::mem::replace(cell, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(from.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_changed() {
        for (a, b, n) in
            [("", "abc", 3), ("abc", "abc", 0), ("abc", "abd", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(changes(a, b), n, "{a} {b}");
            assert_eq!(changes(b, a), n, "{b} {a}");
        }
    }

    #[test]
    fn what_was_meant_comes_first() {
        for (typed, meant) in [
            ("accept-queue-overflw", Cause::AcceptQueueOverflow),
            ("table_full", Cause::ConntrackTableFull),
            ("SNAT clash", Cause::ConntrackSnatClash),
            ("mtu", Cause::MtuBlackhole),
            ("nolistener", Cause::NoListener),
        ] {
            assert_eq!(nearest(typed).first(), Some(&meant), "{typed}");
        }
        assert_eq!(nearest("").len(), OFFERED);
    }
}
