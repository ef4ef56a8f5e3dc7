//! Recordings: one stream of events in a file that Wireshark opens too. pcapng, in which packets are
//! packets and all of our own are local-use blocks.
//!
//! A block of ours has a body of a magic, a format version (u16), a kind (u16) and the length of what
//! follows (u32): a head, events, state or an end, see [`codec`]. What a reader does not know it skips,
//! and says so.

pub mod block;
pub mod chain;
pub mod codec;
pub mod file;
pub mod layout;
pub mod memory;
pub mod open;
pub mod packets;
pub mod reader;
pub mod recorder;
pub mod writer;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

/// Version of what a head and the events say. It rises when a reader of the version before would take
/// something for what it is not; new fields, event kinds and blocks do not need it.
pub const SCHEMA: u32 = 1;

/// What a recording says of itself first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Head {
    /// stallprobe's own version.
    pub version: String,
    /// [`SCHEMA`] of the version that wrote it.
    pub schema: u32,
    /// `uname -n`, `-r` and `-m`.
    pub node: String,
    pub kernel: String,
    pub machine: String,
    /// The same in all parts of a recording, and in no other.
    pub run: String,
    /// 1, and more where a recording goes on in another file.
    pub part: u32,
    /// What the records of kernel events look like. The writer fills it in.
    pub layouts: Vec<layout::Layout>,
}

/// How a part ends after which there is another.
pub const GOES_ON: &str = "it goes on in the next part";

/// What a recording says last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct End {
    /// In words that end a sentence.
    pub how: String,
    /// Events that came too late to be put in order, and events passed on early.
    pub late: u64,
    pub early: u64,
    /// Events lost in the ring buffer, left out by its limits, and calls that the kernel missed.
    pub lost: u64,
    pub limited: u64,
    pub missed: u64,
    /// Packets in the file, and events that were too long for one. The writer fills them in.
    pub packets: u64,
    pub left_out: u64,
}
