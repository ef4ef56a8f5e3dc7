//! Files that were cut or damaged.

use proptest::prelude::*;

use super::*;
use crate::{
    event::{Body, Clock},
    testing::START,
};

fn ticks(count: u64) -> Vec<Event> {
    let clock = Body::Clock(Clock { wall: 1_763_726_400_000_000_000 });
    let ticks = (1..count).map(|n| Event { ts: START + n * 1_000_000_000, body: Body::Tick });
    [Event { ts: START, body: clock }].into_iter().chain(ticks).collect()
}

#[test]
fn a_cut_says_what_is_missing() {
    let bytes = file(&ticks(5), 1);
    let whole = read(&bytes);
    assert_eq!((whole.cut, whole.events.len()), (None, 5));
    // The end block is gone, and then a part of the block before.
    let end = last_block(&bytes);
    let cut = read(&bytes[..end]);
    assert_eq!(cut.events.len(), 5);
    let text = "the recording was not ended: what came after 12:00:04 is missing";
    assert_eq!(cut.cut.as_deref(), Some(text));
    let cut = read(&bytes[..end - 5]);
    assert_eq!(cut.events.len(), 4);
    let text = "the recording ends in the middle of a block (39 bytes of it are there): what came \
                after 12:00:03 is missing";
    assert_eq!(cut.cut.as_deref(), Some(text));
    let text = "the recording was not ended: no event is in it";
    assert_eq!(read(b"").cut.as_deref(), Some(text));
}

fn last_block(bytes: &[u8]) -> usize {
    let length = u32::from_le_bytes(*bytes.last_chunk().unwrap());
    bytes.len() - length as usize
}

#[test]
fn what_is_no_recording_is_told() {
    let error = |bytes: &[u8]| read(bytes).error.unwrap_or_default();
    let text = "it is no recording: it does not begin as a pcapng file does";
    assert_eq!(error(b"PK\x03\x04 and so on"), text);
    let bytes = file(&ticks(3), 1);
    let mut swapped = bytes.clone();
    swapped[8..12].reverse();
    let text = "it is damaged at byte 0: it was written by a big-endian machine, which is not \
                supported";
    assert_eq!(error(&swapped), text);
    let end = last_block(&bytes);
    let mut long = bytes.clone();
    long[end + 4..end + 8].copy_from_slice(&0x7fff_fff0u32.to_le_bytes());
    let text = format!(
        "it is damaged at byte {end}: a block says that it is 2147483632 bytes long, which cannot be"
    );
    assert_eq!(error(&long), text);
    // A section, and then what is not preceded by a head.
    let section = u32::from_le_bytes(*bytes[4..].first_chunk().unwrap()) as usize;
    let head = u32::from_le_bytes(*bytes[section + 4..].first_chunk().unwrap()) as usize;
    let headless = [&bytes[..section], &bytes[section + head..]].concat();
    let text = format!(
        "it is damaged at byte {section}: events come before the head that says how to read them"
    );
    assert_eq!(error(&headless), text);
}

#[test]
fn a_block_that_is_not_there_takes_no_memory() {
    let mut bytes = file(&ticks(3), 1);
    bytes.extend(6u32.to_le_bytes());
    bytes.extend((16u32 << 20).to_le_bytes());
    let mut reader = Reader::new(Cursor::new(bytes));
    while reader.next().unwrap().is_some() {}
    assert!(reader.memory() < 256 << 10, "{}", reader.memory());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_gives_a_prefix(events in events(12), every in 1usize..4, at in any::<prop::sample::Index>()) {
        let bytes = file(&events, every);
        let all = read(&bytes).events;
        let at = at.index(bytes.len());
        let cut = read(&bytes[..at]);
        prop_assert!(cut.error.is_none());
        prop_assert!(cut.cut.is_some());
        prop_assert!(all.starts_with(&cut.events));
        let missing = all.len() - cut.events.len();
        prop_assert!(at < last_block(&bytes) || missing == 0);
    }

    #[test]
    fn any_byte_may_be_another(
        events in events(12),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = file(&events, 3);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let read = read(&bytes);
        prop_assert!(read.events.len() <= events.len() + 1);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400), valid in any::<bool>()) {
        let mut file = if valid { file(&[], 1) } else { Vec::new() };
        file.extend(bytes);
        read(&file);
    }
}
