//! How fast events are written and read. Measured, never asserted:
//! `cargo test --release -p probe-user --lib recording::tests::speed -- --ignored --nocapture`.

use std::{hint::black_box, io::Write, time::Instant};

use super::*;
use crate::{
    event::Body,
    recording::{
        file::{Part, Target},
        open::open,
    },
    testing::*,
};

const EVENTS: usize = 1_000_000;
/// More of them than zstd looks back on.
const DISTINCT: u64 = 50_000;

/// Counts only: the disk is not what is measured.
struct Sink(u64);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += black_box(bytes).len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes them all, and gives how many a second.
fn write<W: Write>(events: &[Event], out: W) -> (f64, W) {
    let began = Instant::now();
    let mut writer = Writer::new(out, &head(), 0).unwrap();
    for event in events.iter().cycle().take(EVENTS) {
        writer.event(event).unwrap();
    }
    writer.end(&End::default()).unwrap();
    (per_second(began), writer.into_inner())
}

fn per_second(since: Instant) -> f64 {
    EVENTS as f64 / since.elapsed().as_secs_f64()
}

#[expect(clippy::print_stderr, reason = "a measurement is told")]
#[test]
#[ignore = "measures"]
fn events_per_second() {
    // No two are the same, or a compressor would have nothing to do.
    let events: Vec<Event> = (0..DISTINCT)
        .map(|n| {
            // A step of a multiplicative hash: the high bits look random.
            let odd = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let body = match n % 4 {
                0 => refused(CLIENT_END, odd as u32),
                1 => syn_drop(WEB, WEB_END, NO_SOCKET, odd),
                2 => answer(odd as u16, AAAA, 500, odd % 5000, 1),
                _ => Body::Tick,
            };
            Event { ts: START + n * 1000 + odd % 1000, body }
        })
        .collect();
    let (written, Sink(bytes)) = write(&events, Sink(0));
    eprintln!("encoded: {written:.0} events/s, {} bytes each", bytes / EVENTS as u64);

    let folder = tempfile::tempdir().unwrap();
    for compress in [false, true] {
        let path = folder.path().join(if compress { "compressed" } else { "plain" });
        let part = Part::create(&Target::File(path.clone()), compress).unwrap();
        let (written, part) = write(&events, part);
        let bytes = part.finish().unwrap();
        let began = Instant::now();
        let (mut reader, mut seen) = (Reader::new(open(&path, None).unwrap()), 0);
        while let Some(item) = reader.next().unwrap() {
            black_box(&item);
            seen += usize::from(matches!(item, Item::Event { .. }));
        }
        let read = per_second(began);
        assert_eq!(seen, EVENTS);
        eprintln!(
            "{}: written: {written:.0} events/s, {:.1} bytes each; read: {read:.0} events/s",
            if compress { "compressed" } else { "plain" },
            bytes as f64 / EVENTS as f64
        );
    }
}
