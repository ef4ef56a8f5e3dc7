//! Reads a recording, as it comes: block by block, with no more of it in memory than one block.

use std::{
    collections::HashSet,
    fmt,
    io::{self, Read},
};

use thiserror::Error;

use super::{
    End, Head, SCHEMA,
    block::{self, Damage, Parsed},
    codec::{self, Record, Skipped},
    layout::Translator,
};
use crate::{
    event::{Body, Event},
    output::time::short,
    pipeline::WallClock,
};

/// Bytes that are asked for at once.
const CHUNK: usize = 64 << 10;
/// Different notices that are told; the rest are counted.
const NOTICES: usize = 32;

/// What a recording goes on with.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Head(Box<Head>),
    Event {
        event: Event,
        /// It tells what was known when this file began. Who has read the part before skips it.
        state: bool,
    },
    End(End),
    /// What a person should know of the file. Said once for each kind of trouble.
    Notice(String),
}

/// Why a recording cannot be read on.
#[derive(Debug, Error)]
pub enum ReadError {
    #[error("cannot read it")]
    Io(#[from] io::Error),
    #[error("it is no recording: it does not begin as a pcapng file does")]
    NotPcapng,
    #[error("it is damaged at byte {at}: {why}")]
    Damaged { at: u64, why: Damage },
    #[error("it is damaged at byte {at}: what it says of itself there is garbled")]
    Garbled { at: u64 },
    #[error("it is damaged at byte {at}: events come before the head that says how to read them")]
    NoHead { at: u64 },
}

/// A recording that is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Bytes of whole blocks.
    pub at: u64,
    /// Bytes after them.
    pub left_over: u64,
    /// When the last event was, as [`short`] has it; `None` without any.
    pub after: Option<String>,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.left_over {
            0 => write!(f, "the recording was not ended")?,
            1 => write!(f, "the recording ends in the middle of a block (1 byte of it is there)")?,
            n => write!(
                f,
                "the recording ends in the middle of a block ({n} bytes of it are there)"
            )?,
        }
        match &self.after {
            Some(after) => write!(f, ": what came after {after} is missing"),
            None => write!(f, ": no event is in it"),
        }
    }
}

/// Records of the block that `Reader::buffer` has at `start`.
#[derive(Clone, Copy, Debug)]
struct Records {
    /// Where in the buffer the next one is, and where they end.
    next: usize,
    end: usize,
    state: bool,
    /// Of the block.
    length: usize,
}

/// A recording that is read.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    buffer: Vec<u8>,
    /// Where in the buffer the block is that comes next, or whose records are being read.
    start: usize,
    /// Its place in the file.
    at: u64,
    records: Option<Records>,
    /// As the head wants it; `None` before there was one.
    translator: Option<Translator>,
    /// What is to be told next.
    waiting: Option<Item>,
    ended: bool,
    failed: bool,
    clock: WallClock,
    last: Option<u64>,
    told: HashSet<Skipped>,
    skipped: u64,
}

impl<R: Read> Reader<R> {
    pub fn new(input: R) -> Self {
        Self {
            input,
            buffer: Vec::new(),
            start: 0,
            at: 0,
            records: None,
            translator: None,
            waiting: None,
            ended: false,
            failed: false,
            clock: WallClock::default(),
            last: None,
            told: HashSet::new(),
            skipped: 0,
        }
    }

    /// What comes next; `None` at the end of what is there. Where a file still grows, it may be asked
    /// again. After an error there is nothing more.
    ///
    /// # Errors
    /// When the input cannot be read, or is damaged in a way that hides what comes after.
    #[expect(clippy::should_implement_trait, reason = "an iterator's `None` is for good")]
    pub fn next(&mut self) -> Result<Option<Item>, ReadError> {
        if self.failed {
            return Ok(None);
        }
        let item = self.item();
        self.failed = item.is_err();
        item
    }

    /// Whether a head was read: without one, at the end of what is there, the file is no recording.
    pub fn has_head(&self) -> bool {
        self.translator.is_some()
    }

    /// Records and blocks that were skipped.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// At the end of what is there: how the file is cut; `None` when it ended as it should.
    pub fn cut(&self) -> Option<Cut> {
        let left_over = self.buffer.len().saturating_sub(self.start) as u64;
        if self.failed || (self.ended && left_over == 0) {
            return None;
        }
        let after = self.last.map(|last| short(self.clock, last));
        Some(Cut { at: self.at, left_over, after })
    }

    pub fn get_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// Bytes that are held.
    #[cfg(test)]
    pub fn memory(&self) -> usize {
        self.buffer.capacity()
    }

    fn item(&mut self) -> Result<Option<Item>, ReadError> {
        if let Some(item) = self.waiting.take() {
            return Ok(Some(item));
        }
        loop {
            if let Some(item) = self.record() {
                return Ok(Some(item));
            }
            let Some(block) = self.block()? else { return Ok(None) };
            if let Some(item) = self.take(block)? {
                return Ok(Some(item));
            }
        }
    }

    /// The next record of the block that is being read.
    fn record(&mut self) -> Option<Item> {
        while let Some(records) = &mut self.records {
            let left = self.buffer.get(records.next..records.end).unwrap_or_default();
            if left.is_empty() {
                let length = records.length;
                self.records = None;
                self.pass(length);
                return None;
            }
            let (state, event) = match (Record::parse(left), &mut self.translator) {
                (Some((record, length)), Some(translator)) => {
                    records.next += length;
                    (records.state, codec::event(&record, translator))
                }
                _ => {
                    records.next = records.end;
                    (records.state, Err(Skipped::Beyond))
                }
            };
            match event {
                Ok(event) => {
                    if let Body::Clock(clock) = &event.body {
                        self.clock = WallClock::new(event.ts, clock.wall);
                    }
                    self.last = self.last.max(Some(event.ts));
                    return Some(Item::Event { event, state });
                }
                Err(why) => {
                    if let Some(notice) = self.skip(why) {
                        return Some(notice);
                    }
                }
            }
        }
        None
    }

    /// Kind, and where its body is in the buffer, of the next whole block.
    fn block(&mut self) -> Result<Option<Place>, ReadError> {
        loop {
            let rest = self.buffer.get(self.start..).unwrap_or_default();
            if self.at == 0
                && rest.len() >= 4
                && block::u32_at(rest, 0).is_some_and(|kind| kind != block::SECTION)
            {
                return Err(ReadError::NotPcapng);
            }
            match block::parse(rest) {
                Ok(Parsed::Block(block)) => {
                    let body = self.start + 8;
                    let (kind, length) = (block.kind, block.length);
                    return Ok(Some(Place { kind, body, length }));
                }
                Ok(Parsed::Needs(_)) => {
                    if !self.fill()? {
                        return Ok(None);
                    }
                }
                Err(why) => return Err(ReadError::Damaged { at: self.at, why }),
            }
        }
    }

    /// Reads some more; `false` when there is no more now.
    fn fill(&mut self) -> Result<bool, ReadError> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let length = self.buffer.len();
        self.buffer.resize(length + CHUNK, 0);
        let read = loop {
            let free = self.buffer.get_mut(length..).unwrap_or_default();
            match self.input.read(free) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        let more = *read.as_ref().unwrap_or(&0);
        self.buffer.truncate(length + more.min(CHUNK));
        read?;
        Ok(more > 0)
    }

    /// The block is done with.
    fn pass(&mut self, length: usize) {
        self.start += length;
        self.at += length as u64;
    }

    /// What a block says at once. Its records come after that.
    fn take(&mut self, place: Place) -> Result<Option<Item>, ReadError> {
        self.ended = false;
        let Place { kind, body, length } = place;
        let bytes = self.buffer.get(body..body + length - 12).unwrap_or_default();
        let ours = if kind == block::OURS { codec::ours(bytes) } else { None };
        let Some(ours) = ours else {
            self.pass(length);
            return Ok(None);
        };
        let at = self.at;
        let item = match (ours.version, ours.kind) {
            (codec::VERSION, codec::kind::EVENTS | codec::kind::STATE) => {
                if self.translator.is_none() {
                    return Err(ReadError::NoHead { at });
                }
                let next = body + codec::BEFORE_PAYLOAD;
                let end = next + ours.payload.len();
                let state = ours.kind == codec::kind::STATE;
                self.records = Some(Records { next, end, state, length });
                return Ok(None);
            }
            (codec::VERSION, codec::kind::HEAD) => {
                let garbled = ReadError::Garbled { at };
                let Ok(head) = codec::from_json::<Head>(ours.payload) else { return Err(garbled) };
                let Ok(translator) = Translator::new(&head.layouts) else { return Err(garbled) };
                self.translator = Some(translator);
                if head.schema > SCHEMA {
                    self.waiting = self.skip(Skipped::Schema(head.schema));
                }
                Some(Item::Head(Box::new(head)))
            }
            (codec::VERSION, codec::kind::END) => {
                let Ok(end) = codec::from_json(ours.payload) else {
                    return Err(ReadError::Garbled { at });
                };
                self.ended = true;
                Some(Item::End(end))
            }
            (codec::VERSION, kind) => self.skip(Skipped::Block(kind)),
            (version, _) => self.skip(Skipped::Version(version)),
        };
        self.pass(length);
        Ok(item)
    }

    fn skip(&mut self, why: Skipped) -> Option<Item> {
        self.skipped += 1;
        if self.told.len() >= NOTICES || self.told.contains(&why) {
            return None;
        }
        let notice = why.to_string();
        self.told.insert(why);
        Some(Item::Notice(notice))
    }
}

/// A whole block in the buffer.
#[derive(Clone, Copy, Debug)]
struct Place {
    kind: u32,
    body: usize,
    /// Of the whole block.
    length: usize,
}
