//! Whose turn it is: namespaces in which a stall is open, and all the others in a ring.

use std::collections::HashMap;

use super::MOST;
use crate::pods::Target;

/// How long the namespaces of a stall are looked at first.
const FIRST: u64 = 5_000_000_000;

#[derive(Debug, Default)]
pub struct Turns {
    /// The namespace a round begins with.
    next: u32,
    /// Namespaces looked at before all others, until then: a stall is open there.
    first: HashMap<u32, u64>,
    /// Whether they led the last round.
    led: bool,
}

impl Turns {
    /// A stall is open between these namespaces: they are looked at first.
    pub fn attend(&mut self, namespaces: impl IntoIterator<Item = u32>, now: u64) {
        for netns in namespaces {
            if self.first.len() < MOST || self.first.contains_key(&netns) {
                self.first.insert(netns, now.saturating_add(FIRST));
            }
        }
    }

    /// Whether a stall is open anywhere.
    pub fn is_attending(&self) -> bool {
        !self.first.is_empty()
    }

    /// Those not looked at for the longest time first; in every other round after those of an open
    /// stall. If these alone use up what a round may cost, the others still have their turn.
    pub fn order(&mut self, mut targets: Vec<Target>, now: u64) -> Vec<Target> {
        let first = targets.iter().position(|t| t.netns >= self.next).unwrap_or(0);
        targets.rotate_left(first);
        self.first.retain(|_, until| *until > now);
        self.led = !self.led && !self.first.is_empty();
        if self.led {
            targets.sort_by_key(|target| !self.first.contains_key(&target.netns));
        }
        targets
    }

    /// A round came as far as this namespace, which was not reached; `None`: all were.
    pub fn came_to(&mut self, next: Option<u32>) {
        let next = next.unwrap_or(0);
        // Not even all that led were reached: the others' turn is where it was.
        if !(self.led && self.first.contains_key(&next)) {
            self.next = next;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "tests")]

    use std::collections::HashSet;

    use super::*;

    const S: u64 = 1_000_000_000;

    fn order(turns: &mut Turns, most: u32, now: u64) -> Vec<u32> {
        let all = (1..=most).map(|netns| Target { netns, ..Target::default() }).collect();
        turns.order(all, now).iter().map(|target| target.netns).collect()
    }

    #[test]
    fn what_was_not_reached_comes_first_in_the_next_round() {
        let mut turns = Turns::default();
        turns.came_to(Some(2));
        assert_eq!(order(&mut turns, 3, S), [2, 3, 1]);
    }

    #[test]
    fn namespaces_of_a_stall_come_first() {
        let mut turns = Turns::default();
        turns.attend([3], S);
        assert_eq!(order(&mut turns, 3, 2 * S), [3, 1, 2]);
        assert_eq!(order(&mut turns, 3, 2 * S), [1, 2, 3], "every other round");
        assert_eq!(order(&mut turns, 3, 2 * S), [3, 1, 2]);
        order(&mut turns, 3, 2 * S);
        assert!(turns.is_attending());
        assert_eq!(order(&mut turns, 3, 2 * S + FIRST), [1, 2, 3]);
        assert!(!turns.is_attending());
    }

    #[test]
    fn namespaces_of_a_stall_that_take_all_do_not_starve_the_others() {
        let mut turns = Turns::default();
        turns.attend([4, 7], S);
        let mut reached = HashSet::new();
        let mut led = 0;
        for _ in 0..24 {
            // One look uses up the round.
            let order = order(&mut turns, 10, 2 * S);
            reached.insert(order[0]);
            led += usize::from(turns.led);
            turns.came_to(Some(order[1]));
        }
        assert_eq!(reached.len(), 10, "{reached:?}");
        assert_eq!(led, 12);
    }
}
