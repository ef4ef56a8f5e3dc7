//! A file that a later version may write one day: what is known today is read, the rest is told.

use probe_common::event::{Listen, kind};

use super::*;
use crate::{
    event::{Body, decode::bytes_of},
    recording::{block, codec, layout::Layout},
    testing::*,
};

/// The [`Listen`] of that day, with all numbers twice as wide, in the other order, one field more and
/// one less.
fn wider(listen: &Listen) -> (Layout, Vec<u8>) {
    let ours = layout::ours();
    let today = ours.iter().find(|l| l.kinds == [kind::LISTEN_DROP]).unwrap();
    let bytes = bytes_of(listen);
    let (mut fields, mut record) = (Vec::new(), vec![0xee; 24]);
    fields.push(layout::Field { name: "novel".to_owned(), at: 8, unit: 8, count: 2 });
    for field in today.fields.iter().rev().filter(|f| f.name != "qlen") {
        let (at, unit) = (field.at as usize, field.unit as usize);
        let wide = if field.count == 1 && unit < 8 { unit * 2 } else { unit };
        let place = u32::try_from(record.len()).unwrap();
        let unit_then = u32::try_from(wide).unwrap();
        fields.push(layout::Field { at: place, unit: unit_then, ..field.clone() });
        for integer in bytes[at..at + unit * field.count as usize].chunks(unit) {
            record.extend(integer);
            record.resize(record.len() + wide - unit, 0);
        }
    }
    let size = u32::try_from(record.len()).unwrap();
    (Layout { kinds: vec![kind::LISTEN_DROP, 300], size, fields }, record)
}

/// A record: its length, tag, kind, time and payload.
fn record(out: &mut Vec<u8>, tag: u16, kind: u16, ts: u64, payload: &[u8]) {
    out.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
    out.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
    out.extend(ts.to_le_bytes());
    out.extend(payload);
}

fn newer() -> (Vec<u8>, Listen) {
    let listen = Listen { qlen: 0, ..refusal("192.0.2.1:5000", 77) };
    let (layout, bytes) = wider(&listen);
    let mut out = Vec::new();
    block::section(&mut out, "riscv64", "Linux 9.1", "stallprobe 9.0.0");
    let mut head =
        serde_json::to_value(Head { schema: 9, layouts: vec![layout], ..head() }).unwrap();
    head["novel"] = serde_json::json!({"a": [1, 2]});
    codec::json_block(&mut out, codec::kind::HEAD, &head).unwrap();
    // A block of another program, and one of a kind of ours that is not known.
    let at = block::begin(&mut out, 0x8000_0001);
    out.extend(b"not ours");
    block::finish(&mut out, at);
    let at = codec::begin(&mut out, 77);
    out.extend(b"whatever");
    codec::finish(&mut out, at);
    let at = codec::begin(&mut out, codec::kind::EVENTS);
    record(&mut out, 1, kind::LISTEN_DROP, START, &bytes);
    record(&mut out, 1, kind::LISTEN_DROP, START, &bytes[1..]);
    record(&mut out, 1, 300, START, &bytes);
    record(&mut out, 1, kind::DROP, START, &[0; 64]);
    record(&mut out, 2, 0, START, br#"{"novel-\u001b[2J":{"x":1}}"#);
    record(&mut out, 2, 0, START, br#"{"pod":{"change":"moved","netns":1}}"#);
    record(&mut out, 2, 0, START, br#"{"listener":{"ino":5,"pid":6,"comm":"a","novel":0}}"#);
    record(&mut out, 9, 0, START, b"?");
    record(&mut out, 0, 0, u64::MAX, b"");
    record(&mut out, 0, 0, START + 1, b"");
    codec::finish(&mut out, at);
    // A block of a version of ours that is not known.
    let at = codec::begin(&mut out, codec::kind::EVENTS);
    out[at + 16..at + 18].copy_from_slice(&2u16.to_le_bytes());
    codec::finish(&mut out, at);
    codec::json_block(&mut out, codec::kind::END, &serde_json::json!({"how": "x", "novel": 1}))
        .unwrap();
    (out, listen)
}

#[test]
fn what_is_known_is_read_and_the_rest_is_told() {
    let (bytes, listen) = newer();
    let read = read(&bytes);
    let [first, second, third] = &read.events[..] else { panic!("{:?}", read.events) };
    assert_eq!(first.body, Body::Listen(Box::new(listen)));
    assert!(matches!(&second.body, Body::Listener(l) if l.ino == 5 && l.comm == "a"));
    assert_eq!(*third, Event { ts: START + 1, body: Body::Tick });
    assert_eq!((read.heads, read.ends.len(), read.error, read.cut), (1, 1, None, None));
    insta::assert_snapshot!(read.notices.join("\n"));
}

/// The layouts of a recording are as untrusted as the rest of it.
#[test]
fn layouts_that_cannot_be_are_refused() {
    let ours = || layout::ours().remove(0);
    let field = |at, unit, count| layout::Field { name: "isn".to_owned(), at, unit, count };
    for bad in [
        Layout { size: u32::MAX, ..ours() },
        Layout { fields: vec![field(0, 4, 1); 5000], ..ours() },
        Layout { fields: vec![field(u32::MAX, 4, 1)], ..ours() },
        Layout { fields: vec![field(0, 4, u32::MAX)], ..ours() },
        Layout { fields: vec![field(0, 3, 1)], ..ours() },
        Layout { fields: vec![field(ours().size - 3, 4, 1)], ..ours() },
    ] {
        assert!(layout::Translator::new(std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        let mut out = Vec::new();
        block::section(&mut out, "", "", "");
        let head = Head { layouts: vec![bad], ..head() };
        codec::json_block(&mut out, codec::kind::HEAD, &head).unwrap();
        assert!(read(&out).error.unwrap().ends_with("what it says of itself there is garbled"));
    }
}
