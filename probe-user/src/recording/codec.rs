//! Our own blocks, and events as the records in them.
//!
//! A record: length of the payload (u32), tag (u16), event kind (u16), [`Event::ts`] (u64), payload.
//! Of a tick nothing follows; of a kernel event the bytes of its wire struct; of the loader's own
//! JSON. A file is untrusted: nothing of it reaches the stream that could not have come from live.

use probe_common::event::Header;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;

use super::{
    block::{self, u16_at, u32_at, u64_at},
    layout::{self, Translator},
};
use crate::{
    event::{
        Body, Event,
        decode::{self, from_bytes},
    },
    output::sanitize,
};

/// Version of our blocks' form.
pub const VERSION: u16 = 1;
/// With which the body of a block of ours begins.
const MAGIC: &[u8; 8] = b"stallprb";
/// Magic, version, kind, length.
const FRAME: usize = 16;
/// The longest JSON that is read or written, in bytes: an array in memory is a multiple of it.
const LONGEST_JSON: usize = 4 << 20;
/// From here on a time since boot is nonsense: 146 years.
const NEVER: u64 = 1 << 62;

/// Kinds of our blocks.
pub mod kind {
    /// JSON: [`crate::recording::Head`].
    pub const HEAD: u16 = 1;
    /// Records.
    pub const EVENTS: u16 = 2;
    /// Records that tell what was known when this file began: who comes from the part before skips
    /// them.
    pub const STATE: u16 = 3;
    /// JSON: [`crate::recording::End`].
    pub const END: u16 = 4;
}

/// Tags of records.
mod tag {
    pub const TICK: u16 = 0;
    pub const WIRE: u16 = 1;
    pub const JSON: u16 = 2;
}

/// Bytes of a record before its payload.
const RECORD: usize = 16;

/// Begins a block of ours.
pub fn begin(out: &mut Vec<u8>, kind: u16) -> usize {
    let at = block::begin(out, block::OURS);
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    at
}

/// Ends the block of ours that began at `at`.
pub fn finish(out: &mut Vec<u8>, at: usize) {
    let start = at + 8 + FRAME;
    set_length(out, start);
    block::finish(out, at);
}

/// Writes how many bytes there are from `start` on right before it, as a u32.
fn set_length(out: &mut [u8], start: usize) {
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(start - 4..start) {
        place.copy_from_slice(&length.to_le_bytes());
    }
}

/// A whole block of JSON.
///
/// # Errors
/// When it is too long.
pub fn json_block(out: &mut Vec<u8>, kind: u16, value: &impl Serialize) -> Result<(), TooLong> {
    let at = begin(out, kind);
    let start = out.len();
    let written = serde_json::to_writer(&mut *out, value);
    if written.is_err() || out.len() - start > LONGEST_JSON {
        out.truncate(at);
        return Err(TooLong);
    }
    finish(out, at);
    Ok(())
}

/// More JSON than a reader takes, or none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("too long for a recording")]
pub struct TooLong;

/// Appends one event's record.
///
/// # Errors
/// When it is too long; then nothing is appended.
pub fn push(out: &mut Vec<u8>, event: &Event) -> Result<(), TooLong> {
    let at = out.len();
    let (tag, kind) = match event.header() {
        Some(header) => (tag::WIRE, header.kind),
        None if matches!(event.body, Body::Tick) => (tag::TICK, 0),
        None => (tag::JSON, 0),
    };
    out.extend([0; 4]);
    out.extend(tag.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend(event.ts.to_le_bytes());
    let start = out.len();
    if let Some(record) = decode::record(event) {
        out.extend(record);
    } else if tag == tag::JSON
        && (serde_json::to_writer(&mut *out, &event.body).is_err()
            || out.len() - start > longest(&event.body))
    {
        out.truncate(at);
        return Err(TooLong);
    }
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&length.to_le_bytes());
    }
    Ok(())
}

/// A block of ours as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ours<'a> {
    pub version: u16,
    pub kind: u16,
    pub payload: &'a [u8],
}

/// The block of ours that a local-use block's body is; `None` of another program's.
pub fn ours(body: &[u8]) -> Option<Ours<'_>> {
    let rest = body.strip_prefix(MAGIC)?;
    let (version, kind, length) = (u16_at(rest, 0)?, u16_at(rest, 2)?, u32_at(rest, 4)?);
    let payload = rest.get(8..)?.get(..length as usize)?;
    Some(Ours { version, kind, payload })
}

/// Bytes of a local-use block's body before the payload.
pub const BEFORE_PAYLOAD: usize = FRAME;

/// A record as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    tag: u16,
    kind: u16,
    ts: u64,
    payload: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record that `bytes` begin with, and its length in all; `None` when it goes beyond them.
    pub fn parse(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let length = RECORD.checked_add(u32_at(bytes, 0)? as usize)?;
        let (tag, kind, ts) = (u16_at(bytes, 4)?, u16_at(bytes, 6)?, u64_at(bytes, 8)?);
        Some((Self { tag, kind, ts, payload: bytes.get(RECORD..length)? }, length))
    }
}

/// What of a recording is nothing for this version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Error)]
pub enum Skipped {
    #[error(
        "it was written by a newer version of stallprobe (schema {0}): use that one, or one as new; this \
         one may take something for what it is not"
    )]
    Schema(u32),
    #[error("blocks of the unknown kind {0} are skipped")]
    Block(u16),
    #[error("blocks of format version {0}, which this version does not know, are skipped")]
    Version(u16),
    #[error("records of the unknown tag {0} are skipped")]
    Tag(u16),
    #[error("kernel events of kind {0}, which this version does not know, are skipped")]
    Kind(u16),
    #[error("kernel events of kind {0} that cannot be read are skipped")]
    Record(u16),
    #[error("events `{0}`, which this version does not know, are skipped")]
    Name(String),
    #[error("events `{0}` that cannot be read are skipped")]
    Body(String),
    #[error("events at impossible times are skipped")]
    Time,
    #[error("what follows a record that goes beyond its block is skipped")]
    Beyond,
}

/// The event that a record is.
///
/// # Errors
/// When it is none that this version knows.
pub fn event(record: &Record<'_>, translator: &mut Translator) -> Result<Event, Skipped> {
    if record.ts >= NEVER {
        return Err(Skipped::Time);
    }
    let body = match record.tag {
        tag::TICK => Body::Tick,
        tag::WIRE => wire(record, translator)?,
        tag::JSON => json_body(record.payload)?,
        tag => return Err(Skipped::Tag(tag)),
    };
    Ok(Event { ts: record.ts, body })
}

fn wire(record: &Record<'_>, translator: &mut Translator) -> Result<Body, Skipped> {
    let kind = record.kind;
    let bytes = translator.today(kind, record.payload).ok_or_else(|| {
        if layout::is_known(kind) { Skipped::Record(kind) } else { Skipped::Kind(kind) }
    })?;
    let header: Option<Header> = bytes.get(..size_of::<Header>()).and_then(from_bytes);
    if header.is_none_or(|header| header.kind != kind) {
        return Err(Skipped::Record(kind));
    }
    decode::decode(bytes).map(|event| event.body).map_err(|_| Skipped::Record(kind))
}

fn json_body(payload: &[u8]) -> Result<Body, Skipped> {
    let body: Result<Body, _> = from_json(payload);
    body.ok().filter(|body| payload.len() <= longest(body)).ok_or_else(|| {
        let name = name_of(payload).unwrap_or_default();
        if is_known(&name) { Skipped::Body(name) } else { Skipped::Name(name) }
    })
}

/// The longest JSON of an event, in bytes: correlation keeps thousands of most kinds, but only the
/// latest of those that are long.
fn longest(body: &Body) -> usize {
    match body {
        Body::Node(_) | Body::Hooks(_) => LONGEST_JSON,
        // Their sum is bounded where they are kept.
        Body::Pod(_) => 1 << 20,
        Body::ListenQueues(_) | Body::LocalPorts(_) => 64 << 10,
        _ => 16 << 10,
    }
}

/// The name of the variant, fit to be printed; `None` when it has not even that.
fn name_of(payload: &[u8]) -> Option<String> {
    const LONGEST: usize = 40;
    let value: Value = from_json(payload).ok()?;
    let name = match &value {
        Value::Object(fields) => fields.keys().next()?,
        Value::String(name) => name,
        _ => return None,
    };
    Some(name.chars().take(LONGEST).collect())
}

/// Whether serde knows the variant, whatever it thinks of its content.
fn is_known(name: &str) -> bool {
    let empty = Value::Object([(name.to_owned(), Value::Null)].into_iter().collect());
    match serde_json::from_value::<Body>(empty) {
        Ok(_) => true,
        Err(err) => !err.to_string().starts_with("unknown variant"),
    }
}

/// Reads JSON of a file. Its strings come out fit to be printed; those that were so are not changed.
///
/// # Errors
/// When it is too long, or not what is asked for.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    if bytes.len() > LONGEST_JSON {
        return Err(serde::de::Error::custom(TooLong));
    }
    if is_plain(bytes) {
        return serde_json::from_slice(bytes);
    }
    let mut value = serde_json::from_slice(bytes)?;
    make_printable(&mut value);
    serde_json::from_value(value)
}

/// Whether no string in it can have anything but printable ASCII.
fn is_plain(json: &[u8]) -> bool {
    let mut escaped = false;
    json.iter().all(|byte| match byte {
        b'"' | b'\\' | b'/' if escaped => {
            escaped = false;
            true
        }
        _ if escaped => false,
        b'\\' => {
            escaped = true;
            true
        }
        byte => matches!(byte, 0x20..=0x7e),
    })
}

fn make_printable(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(better) = sanitize::again(text) {
                *text = better;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(make_printable),
        Value::Object(fields) => {
            fields.values_mut().for_each(make_printable);
            if fields.keys().any(|name| sanitize::again(name).is_some()) {
                let old = std::mem::take(fields);
                let better = old.into_iter();
                fields.extend(better.map(|(k, v)| (sanitize::again(&k).unwrap_or(k), v)));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
