//! Recordings that nobody's stallprobe wrote: every line that follows from them is harmless.

use proptest::prelude::*;

use super::{render::render, rewrite::rewrite, *};

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_events_are_shown(mut events in events(120), sorted in any::<bool>()) {
        if sorted {
            events.sort_by_key(|event| event.ts);
        }
        render(&file(&events, 50));
        prop_assert_eq!(rewrite(&file(&events, 50)).unwrap(), events.len());
    }

    #[test]
    fn any_damage_is_survived(
        events in events(30),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut bytes = file(&events, 5);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        render(&bytes);
        rewrite(&bytes).unwrap();
    }
}
