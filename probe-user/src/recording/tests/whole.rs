//! Whole files: what was written, and what Wireshark sees.

use std::{fs, process::Command};

use proptest::prelude::*;

use super::*;
use crate::{
    event::{Body, Symbol},
    output::sanitize::again,
    recording::codec,
    testing::*,
};

#[test]
fn packets_state_and_part_come_with_the_events() {
    let mut writer = Writer::new(Vec::new(), &head(), 96).unwrap();
    let tick = |ts| Event { ts, body: Body::Tick };
    writer.state(&[tick(1), tick(2)]).unwrap();
    writer.event(&tick(3)).unwrap();
    writer.packet(&packet(7, "shop/web", &[0x45; 20], &[])).unwrap();
    writer.event(&tick(4)).unwrap();
    writer.end(&End::default()).unwrap();
    assert_eq!(writer.written(), writer.get_ref().len() as u64);
    let read = read(writer.get_ref());
    assert_eq!((read.state, read.events), (vec![tick(1), tick(2)], vec![tick(3), tick(4)]));
    assert_eq!(read.ends, [End { packets: 1, ..End::default() }]);
    assert_eq!((read.heads, read.notices, read.error, read.cut), (1, vec![], None, None));
}

pub fn packet<'a>(
    netns: u32,
    name: &'a str,
    bytes: &'a [u8],
    comments: &'a [String],
) -> Packet<'a> {
    let wall = 1_763_726_400_123_456_789;
    Packet { netns, name, description: "netns", wall, bytes, length: 60, comments }
}

#[test]
fn a_file_that_grows_is_read_on() {
    let events: Vec<Event> = (0..50).map(|n| Event { ts: n, body: Body::Tick }).collect();
    let bytes = file(&events, 1);
    let (mut reader, mut seen) = (Reader::new(Growing::default()), Vec::new());
    for part in bytes.chunks(7) {
        reader.get_mut().0.extend(part);
        while let Some(item) = reader.next().unwrap() {
            if let Item::Event { event, .. } = item {
                seen.push(event);
            }
        }
    }
    assert_eq!((seen, reader.cut()), (events, None));
}

#[derive(Default)]
struct Growing(std::collections::VecDeque<u8>);

impl std::io::Read for Growing {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(out)
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_is_written_after_it() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            match self.0.min(bytes.len()) {
                0 => Err(std::io::ErrorKind::StorageFull.into()),
                room => {
                    self.0 -= room;
                    Ok(room)
                }
            }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut writer = Writer::new(Full(60_000), &head(), 0).unwrap();
    let before = writer.written();
    for ts in 0..10_000 {
        writer.event(&Event { ts, body: Body::Tick }).unwrap();
    }
    let err = writer.flush().unwrap_err();
    assert_eq!((err.kind(), writer.written()), (std::io::ErrorKind::StorageFull, before));
}

/// Live never sees such a thing; a recording that held it would take memory without bound.
#[test]
fn what_is_too_long_is_counted() {
    let symbol = |length| Body::Symbol(Symbol { address: 1, name: "x".repeat(length) });
    let events = [symbol(30_000), Body::Tick, symbol(300)].map(|body| Event { ts: 1, body });
    let read = read(&file(&events, 1));
    assert_eq!((&read.events[..], read.ends[0].left_out), (&events[1..], 1));
}

/// Names in a recording were printable when live told them; whoever wrote another file may have put
/// anything there.
#[test]
fn names_cannot_send_control_sequences() {
    let name = "a\u{1b}[2J\u{202e}\n\\x1b\"gr\u{fc}n";
    let event = Event { ts: 1, body: Body::Symbol(Symbol { address: 1, name: name.to_owned() }) };
    let read = read(&file(&[event], 1));
    let [Event { body: Body::Symbol(symbol), .. }] = &read.events[..] else { panic!("no symbol") };
    assert_eq!(symbol.name, "a\\u{1b}[2J\\u{202e}\\n\\x1b\"gr\u{fc}n");
}

/// What came from a file is what was in it, made printable.
fn printable(event: &Event) -> Event {
    let mut bytes = Vec::new();
    codec::push(&mut bytes, event).unwrap();
    let mut translator = layout::Translator::new(&layout::ours()).unwrap();
    let (record, _) = codec::Record::parse(&bytes).unwrap();
    codec::event(&record, &mut translator).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(events in events(20), every in 1usize..8) {
        let events: Vec<Event> = events.iter().map(printable).collect();
        let read = read(&file(&events, every));
        prop_assert_eq!(read.events, events);
        prop_assert_eq!((read.notices, read.error, read.cut), (vec![], None, None));
    }

    #[test]
    fn what_was_printable_stays(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let once = crate::pods::procfs::printable(&bytes);
        prop_assert_eq!(again(&once), None);
        let raw = String::from_utf8_lossy(&bytes).into_owned();
        let safe = again(&raw).unwrap_or(raw);
        prop_assert!(!safe.chars().any(char::is_control));
        prop_assert_eq!(again(&safe), None);
    }
}

/// Wireshark's own opinion, where it is installed.
#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
#[test]
fn tshark_opens_it_without_a_warning() {
    let Ok(version) = Command::new("tshark").arg("--version").output() else {
        eprintln!("skipped: tshark is not installed");
        return;
    };
    assert!(version.status.success());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pcapng");
    // UDP from 10.0.0.1:1000 to 10.0.0.2:2000 without payload.
    let udp = [
        0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0x66, 0xce, 10, 0, 0, 1, 10, 0, 0, 2, 3, 232, 7, 208,
        0, 8, 0, 0,
    ];
    let comments = ["no-listener (certain): web".to_owned(), "second".to_owned()];
    let mut writer = Writer::new(fs::File::create(&path).unwrap(), &head(), 0).unwrap();
    writer.event(&Event { ts: 1, body: Body::Tick }).unwrap();
    for (netns, name, comments) in
        [(1, "host", &comments[..0]), (7, "shop/web-1", &comments[..]), (1, "host", &comments[..1])]
    {
        let packet = Packet { length: 28, ..packet(netns, name, &udp, comments) };
        writer.packet(&packet).unwrap();
    }
    writer.end(&End::default()).unwrap();
    let output = Command::new("tshark")
        .args(["-r", path.to_str().unwrap(), "-T", "fields", "-E", "separator=|"])
        .args(["-e", "frame.time_epoch", "-e", "frame.interface_name", "-e", "ip.dst"])
        .args(["-e", "udp.dstport", "-e", "frame.comment"])
        .output()
        .unwrap();
    assert!(output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    let warnings: Vec<&str> =
        errors.lines().filter(|l| !l.is_empty() && !l.starts_with("Running as user")).collect();
    assert!(warnings.is_empty(), "{errors}");
    let lines = String::from_utf8_lossy(&output.stdout);
    let at = "1763726400.123456789";
    let due = [
        format!("{at}|host|10.0.0.2|2000|"),
        format!("{at}|shop/web-1|10.0.0.2|2000|no-listener (certain): web,second"),
        format!("{at}|host|10.0.0.2|2000|no-listener (certain): web"),
    ];
    assert_eq!(lines.lines().collect::<Vec<_>>(), due);
}

/// More than one batch, and more than is read at once.
#[test]
fn nothing_is_lost_between_blocks() {
    let bodies = [refused(CLIENT_END, ISN), syn_drop(WEB, WEB_END, NO_SOCKET, 0x400), Body::Tick];
    let events: Vec<Event> =
        (0..9000).map(|n| Event { ts: n as u64, body: bodies[n % 3].clone() }).collect();
    let mut writer = Writer::new(Vec::new(), &head(), 0).unwrap();
    events.iter().for_each(|event| writer.event(event).unwrap());
    writer.end(&End::default()).unwrap();
    assert!(writer.written() > 1 << 20);
    let read = read(writer.get_ref());
    assert_eq!((read.notices, read.error, read.cut), (vec![], None, None));
    let lost = events.iter().zip(&read.events).position(|(a, b)| a != b);
    assert_eq!((lost, read.events.len()), (None, events.len()));
}
