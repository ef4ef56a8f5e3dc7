//! What a flood of events costs: a pass over all processes for each namespace that is new, at most.

use std::time::Duration;

use super::asked::{Asked, Search};
use crate::event::{Pod, PodChange};

const MS: u64 = 1_000_000;

fn up(netns: u32, name: &str) -> PodChange {
    PodChange::Up(Pod { netns, name: name.to_owned(), ..Pod::default() })
}

/// Passes made while each of these namespaces has an event every millisecond, for a minute. `finds`: what a
/// pass then tells of one of them.
fn passes(namespaces: &[u32], finds: impl Fn(u32) -> Option<PodChange>) -> usize {
    let mut asked = Asked::default();
    let mut passes = 0;
    for now in (1000 * MS..61_000 * MS).step_by(1_000_000) {
        for &netns in namespaces {
            asked.netns(netns, (now, now));
        }
        if asked.due(now).is_some() {
            passes += 1;
            for &netns in namespaces {
                if let Some(change) = finds(netns) {
                    asked.pod(&change);
                }
            }
            asked.searched(Search::Namespaces, true, Duration::ZERO);
        }
    }
    passes
}

#[test]
fn one_for_each_new_namespace_at_most() {
    assert_eq!(passes(&[], |_| None), 0);
    assert_eq!(passes(&[7], |netns| Some(up(netns, "shop/web-0"))), 1);
    assert_eq!(passes(&[7], |netns| Some(up(netns, "netns:7"))), 1, "it stays nameless");
    assert_eq!(passes(&[7, 8, 9], |netns| Some(up(netns, "shop/web-0"))), 1, "new together");
    // One that comes each second.
    let mut asked = Asked::default();
    let mut passes = 0;
    for now in 1..=60_u64 {
        let netns = u32::try_from(now).unwrap_or(0);
        for _ in 0..1000 {
            asked.netns(netns, (now, now));
            if asked.due(now * 1000 * MS).is_some() {
                passes += 1;
                asked.pod(&up(netns, "shop/web-0"));
                asked.searched(Search::Namespaces, true, Duration::ZERO);
            }
        }
        asked.pod(&PodChange::Gone { netns });
    }
    assert_eq!(passes, 60);
}

/// No pass finds one that was gone before, or that only threads or open files are in.
#[test]
fn a_namespace_that_is_gone_is_not_searched_for_with_each_event() {
    assert_eq!(passes(&[7], |_| None), 1);
}
