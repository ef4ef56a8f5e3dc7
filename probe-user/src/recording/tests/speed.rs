//! How fast events are written and read. Measured, never asserted:
//! `cargo test --release -p probe-user --lib recording::tests::speed -- --ignored --nocapture`.

use std::{hint::black_box, io::Write, time::Instant};

use super::*;
use crate::{event::Body, testing::*};

#[expect(clippy::print_stderr, reason = "a measurement is told")]
#[test]
#[ignore = "measures"]
fn events_per_second() {
    const EVENTS: usize = 1_000_000;
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
    let bodies = [
        refused(CLIENT_END, ISN),
        syn_drop(WEB, WEB_END, NO_SOCKET, 0x400),
        answer(0x2222, AAAA, 500, 900, 1),
        Body::Tick,
    ];
    let events: Vec<Event> = bodies
        .into_iter()
        .enumerate()
        .map(|(n, body)| Event { ts: START + n as u64, body })
        .collect();
    let per_second = |since: Instant| EVENTS as f64 / since.elapsed().as_secs_f64();

    let began = Instant::now();
    let mut writer = Writer::new(Sink(0), &head(), 0).unwrap();
    for event in events.iter().cycle().take(EVENTS) {
        writer.event(event).unwrap();
    }
    writer.end(&End::default()).unwrap();
    let written = per_second(began);
    let bytes = writer.bytes();

    let mut writer = Writer::new(Vec::new(), &head(), 0).unwrap();
    for event in events.iter().cycle().take(EVENTS) {
        writer.event(event).unwrap();
    }
    writer.end(&End::default()).unwrap();
    let file = writer.into_inner();
    let began = Instant::now();
    let (mut reader, mut seen) = (Reader::new(&file[..]), 0);
    while let Some(item) = reader.next().unwrap() {
        black_box(&item);
        seen += usize::from(matches!(item, Item::Event { .. }));
    }
    let read = per_second(began);
    assert_eq!(seen, EVENTS);
    eprintln!(
        "written: {written:.0} events/s, {} bytes each; read: {read:.0} events/s, {:.2} of writing",
        bytes / EVENTS as u64,
        read / written
    );
}
