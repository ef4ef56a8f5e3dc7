//! Writes a recording. What is written is whole blocks, many at once: the file is readable up to the
//! last [`Writer::flush`], whatever comes after it.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use super::{End, Head, SCHEMA, block, codec, layout};
use crate::event::Event;

/// Bytes of blocks that are collected before they are written.
const BATCH: usize = 256 << 10;
/// Bytes of a packet that are kept at most: as many as an IP packet may have.
const LONGEST_PACKET: usize = 65_535;
/// Comments of one packet that are kept; a block has room for all of them.
const MOST_COMMENTS: usize = 64;

/// A packet, beginning with its IP header.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The network namespace it was seen in: an interface of its own.
    pub netns: u32,
    /// What that is called.
    pub name: &'a str,
    /// Said of the interface besides.
    pub description: &'a str,
    /// Nanoseconds since the Unix epoch, UTC.
    pub wall: u64,
    /// As far as it was captured.
    pub bytes: &'a [u8],
    /// How long it was, in bytes.
    pub length: u32,
    pub comments: &'a [String],
}

/// One file of a recording.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    /// Blocks that are not written yet. The last one is open when `open` says where it began.
    pending: Vec<u8>,
    open: Option<usize>,
    /// Number and name of the interface of each network namespace.
    interfaces: HashMap<u32, (u32, String)>,
    next_interface: u32,
    snaplen: u32,
    /// Bytes handed to `out`.
    written: u64,
    /// Packets so far, and events that were too long.
    packets: u64,
    left_out: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a file. The head's schema and layouts are filled in here. `snaplen` is how many bytes of a
    /// packet are kept at most; 0: all there are.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(out: W, head: &Head, snaplen: u32) -> io::Result<Self> {
        let mut writer = Self {
            out,
            pending: Vec::with_capacity(BATCH + (BATCH >> 2)),
            open: None,
            interfaces: HashMap::new(),
            next_interface: 0,
            snaplen,
            written: 0,
            packets: 0,
            left_out: 0,
        };
        let os = format!("Linux {}", head.kernel);
        let application = format!("stallprobe {}", head.version);
        block::section(&mut writer.pending, &head.machine, &os, &application);
        let head = Head { schema: SCHEMA, layouts: layout::ours(), ..head.clone() };
        codec::json_block(&mut writer.pending, codec::kind::HEAD, &head)
            .map_err(io::Error::other)?;
        writer.flush()?;
        Ok(writer)
    }

    /// Adds one event, in the order of the stream.
    ///
    /// # Errors
    /// When what was collected cannot be written.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        if self.open.is_none() {
            self.open = Some(codec::begin(&mut self.pending, codec::kind::EVENTS));
        }
        if codec::push(&mut self.pending, event).is_err() {
            self.left_out += 1;
        }
        self.write_when_full()
    }

    /// Adds what is known when the file begins, for a reader that has not the part before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn state(&mut self, events: &[Event]) -> io::Result<()> {
        self.close();
        let mut open = None;
        for event in events {
            let at =
                *open.get_or_insert_with(|| codec::begin(&mut self.pending, codec::kind::STATE));
            if codec::push(&mut self.pending, event).is_err() {
                self.left_out += 1;
            }
            if self.pending.len() - at >= BATCH {
                codec::finish(&mut self.pending, at);
                open = None;
                self.write()?;
            }
        }
        if let Some(at) = open {
            codec::finish(&mut self.pending, at);
        }
        self.write_when_full()
    }

    /// Adds a packet, with its interface when that was not told yet or is called otherwise now.
    ///
    /// # Errors
    /// When what was collected cannot be written.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        self.close();
        let known = self.interfaces.get(&packet.netns).filter(|(_, name)| name == packet.name);
        let interface = match known {
            Some((number, _)) => *number,
            None => {
                let (name, description) = (packet.name, packet.description);
                block::interface(&mut self.pending, name, description, self.snaplen);
                let number = self.next_interface;
                self.next_interface += 1;
                self.interfaces.insert(packet.netns, (number, name.to_owned()));
                number
            }
        };
        let longest = match self.snaplen {
            0 => LONGEST_PACKET,
            snaplen => LONGEST_PACKET.min(snaplen as usize),
        };
        let bytes = packet.bytes.get(..longest).unwrap_or(packet.bytes);
        let comments = packet.comments.get(..MOST_COMMENTS).unwrap_or(packet.comments);
        block::packet(
            &mut self.pending,
            interface,
            packet.wall,
            bytes,
            packet.length.max(u32::try_from(packet.bytes.len()).unwrap_or(u32::MAX)),
            comments,
        );
        self.packets += 1;
        self.write_when_full()
    }

    /// Says how it ended, and writes everything.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(&mut self, end: &End) -> io::Result<()> {
        self.close();
        let end = End { packets: self.packets, left_out: self.left_out, ..end.clone() };
        codec::json_block(&mut self.pending, codec::kind::END, &end).map_err(io::Error::other)?;
        self.flush()
    }

    /// Writes everything, and lets the file below do the same.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.write()?;
        self.out.flush()
    }

    /// Bytes of whole blocks that were handed on: a file whose end could not be written is whole up to
    /// here.
    pub fn written(&self) -> u64 {
        self.written
    }

    pub fn get_ref(&self) -> &W {
        &self.out
    }

    pub fn into_inner(self) -> W {
        self.out
    }

    fn close(&mut self) {
        if let Some(at) = self.open.take() {
            codec::finish(&mut self.pending, at);
        }
    }

    fn write_when_full(&mut self) -> io::Result<()> {
        if self.pending.len() >= BATCH { self.write() } else { Ok(()) }
    }

    /// What could not be written is not tried again: nobody knows how much of it arrived.
    fn write(&mut self) -> io::Result<()> {
        self.close();
        let done = self.out.write_all(&self.pending);
        if done.is_ok() {
            self.written += self.pending.len() as u64;
        }
        self.pending.clear();
        done
    }
}
