//! What is written is read back; what is cut, damaged or newer is told.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod any;
mod damage;
mod hostile;
mod newer;
mod parts;
mod render;
mod rewrite;
mod speed;
mod versions;
mod whole;

use std::io::Cursor;

use self::any::*;
use super::{
    reader::{Item, Reader},
    writer::{Packet, Writer},
    *,
};
use crate::event::Event;

pub fn head() -> Head {
    Head {
        version: "0.1.0".to_owned(),
        node: "ip-10-0-3-17".to_owned(),
        kernel: "6.12.117".to_owned(),
        machine: "x86_64".to_owned(),
        part: 1,
        ..Head::default()
    }
}

/// A file with these events, flushed after each `every`, and an end.
pub fn file(events: &[Event], every: usize) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &head(), 0).unwrap();
    for (n, event) in events.iter().enumerate() {
        writer.event(event).unwrap();
        if (n + 1) % every == 0 {
            writer.flush().unwrap();
        }
    }
    writer.end(&End { how: "it was asked to".to_owned(), ..End::default() }).unwrap();
    writer.into_inner()
}

/// All that a file says, and how its reading ended.
pub struct Read {
    pub heads: usize,
    pub events: Vec<Event>,
    pub state: Vec<Event>,
    pub ends: Vec<End>,
    pub notices: Vec<String>,
    pub error: Option<String>,
    pub cut: Option<String>,
}

pub fn read(bytes: &[u8]) -> Read {
    let mut reader = Reader::new(Cursor::new(bytes));
    let mut read = Read {
        heads: 0,
        events: Vec::new(),
        state: Vec::new(),
        ends: Vec::new(),
        notices: Vec::new(),
        error: None,
        cut: None,
    };
    loop {
        match reader.next() {
            Ok(Some(Item::Head(_))) => read.heads += 1,
            Ok(Some(Item::Event { event, state: false })) => read.events.push(event),
            Ok(Some(Item::Event { event, state: true })) => read.state.push(event),
            Ok(Some(Item::End(end))) => read.ends.push(end),
            Ok(Some(Item::Notice(notice))) => read.notices.push(notice),
            Ok(None) => break,
            Err(err) => read.error = Some(err.to_string()),
        }
    }
    read.cut = reader.cut().map(|cut| cut.to_string());
    read
}
