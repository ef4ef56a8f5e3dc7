//! pcapng blocks as bytes, by the IETF draft "PCAP Next Generation (pcapng) Capture File Format"
//! (draft-ietf-opsawg-pcapng). Little endian only; so is every machine stallprobe runs on.
//!
//! Section 3.1, the general block: type (u32), total length (u32), body padded to four bytes, total
//! length again. Section 3.5, an option: code (u16), length (u16), value padded to four bytes; the
//! list ends with code 0.

use thiserror::Error;

/// Block types: section 4.1, 4.2 and 4.3.
pub const SECTION: u32 = 0x0a0d_0d0a;
pub const INTERFACE: u32 = 1;
pub const PACKET: u32 = 6;
/// Our own: types with the highest bit set are reserved for local use (section 11.1), which other
/// programs skip. Its body says whose it is (see `super::codec`).
pub const OURS: u32 = 0x8057_a110;

/// The longest block, in bytes, that is read or written; Wireshark has the same limit
/// (`MAX_BLOCK_SIZE` in wiretap/pcapng.c).
pub const LONGEST: usize = 16 << 20;
/// `LINKTYPE_RAW`: a packet begins with its IP header, whose first four bits tell the version.
pub const LINKTYPE_RAW: u16 = 101;

/// Type and both lengths.
const FRAME: usize = 12;
/// Section 4.1: tells the byte order.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// An option's value is no longer than its u16 of length says.
const LONGEST_OPTION: usize = u16::MAX as usize;

/// Codes of options: section 3.5 (comment), 4.1 and 4.2.
const COMMENT: u16 = 1;
const SHB_HARDWARE: u16 = 2;
const SHB_OS: u16 = 3;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_TSRESOL: u16 = 9;

/// Begins a block at the end of `out`; what is pushed up to [`finish`] is its body.
pub fn begin(out: &mut Vec<u8>, kind: u32) -> usize {
    let at = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    at
}

/// Ends the block that began at `at`.
pub fn finish(out: &mut Vec<u8>, at: usize) {
    pad(out, at);
    let length = u32::try_from(out.len() - at + 4).unwrap_or(u32::MAX).to_le_bytes();
    if let Some(place) = out.get_mut(at + 4..at + 8) {
        place.copy_from_slice(&length);
    }
    out.extend(length);
}

/// A Section Header Block of unknown section length, with which a file begins.
pub fn section(out: &mut Vec<u8>, hardware: &str, os: &str, application: &str) {
    let at = begin(out, SECTION);
    out.extend(BYTE_ORDER.to_le_bytes());
    // Version 1.0.
    out.extend(1u16.to_le_bytes());
    out.extend(0u16.to_le_bytes());
    out.extend(u64::MAX.to_le_bytes());
    option(out, SHB_HARDWARE, hardware.as_bytes());
    option(out, SHB_OS, os.as_bytes());
    option(out, SHB_USERAPPL, application.as_bytes());
    end_options(out);
    finish(out, at);
}

/// An Interface Description Block: raw IP packets, times in nanoseconds. `snaplen` 0 is no limit.
pub fn interface(out: &mut Vec<u8>, name: &str, description: &str, snaplen: u32) {
    let at = begin(out, INTERFACE);
    out.extend(LINKTYPE_RAW.to_le_bytes());
    out.extend(0u16.to_le_bytes());
    out.extend(snaplen.to_le_bytes());
    option(out, IF_NAME, name.as_bytes());
    option(out, IF_DESCRIPTION, description.as_bytes());
    option(out, IF_TSRESOL, &[9]);
    end_options(out);
    finish(out, at);
}

/// An Enhanced Packet Block: nanoseconds since the Unix epoch, the packet's bytes as far as they were
/// captured, and how many it had.
pub fn packet<S: AsRef<str>>(
    out: &mut Vec<u8>,
    interface: u32,
    wall: u64,
    bytes: &[u8],
    length: u32,
    comments: &[S],
) {
    let at = begin(out, PACKET);
    let captured = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let [high, low] = [(wall >> 32) as u32, wall as u32];
    for number in [interface, high, low, captured, length.max(captured)] {
        out.extend(number.to_le_bytes());
    }
    out.extend(bytes);
    pad(out, at);
    for comment in comments {
        option(out, COMMENT, comment.as_ref().as_bytes());
    }
    if !comments.is_empty() {
        end_options(out);
    }
    finish(out, at);
}

/// Text that is too long is cut, between two characters.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    if value.is_empty() {
        return;
    }
    let mut length = value.len().min(LONGEST_OPTION);
    while length < value.len() && value.get(length).is_some_and(|byte| byte & 0xc0 == 0x80) {
        length -= 1;
    }
    let start = out.len();
    out.extend(code.to_le_bytes());
    out.extend(u16::try_from(length).unwrap_or_default().to_le_bytes());
    out.extend(value.get(..length).unwrap_or_default());
    pad(out, start);
}

fn end_options(out: &mut Vec<u8>) {
    out.extend([0; 4]);
}

/// Up to a multiple of four bytes from `start` on.
fn pad(out: &mut Vec<u8>, start: usize) {
    let length = (out.len() - start).next_multiple_of(4);
    out.resize(start + length, 0);
}

/// Why bytes are not a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Damage {
    #[error("it was written by a big-endian machine, which is not supported")]
    BigEndian,
    #[error("its section header has the unknown byte order mark {0:#010x}")]
    ByteOrder(u32),
    #[error("its section header has version {0}, which is not known")]
    Version(u16),
    #[error("a block says that it is {0} bytes long, which cannot be")]
    Length(u32),
    #[error("a block says at its start that it is {0} bytes long, and at its end {1}")]
    Lengths(u32, u32),
}

/// One whole block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    pub kind: u32,
    /// With its padding.
    pub body: &'a [u8],
    /// Of all of the block, in bytes.
    pub length: usize,
}

/// What a file goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    Block(Block<'a>),
    /// The block is not all there: so many bytes are needed before it is worth another look, at most
    /// [`LONGEST`].
    Needs(usize),
}

/// The block that `bytes` begin with.
///
/// # Errors
/// When its length cannot be, or it is a section that cannot be read.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, Damage> {
    let Some(kind) = u32_at(bytes, 0) else { return Ok(Parsed::Needs(FRAME)) };
    if kind == SECTION {
        // Before its length: this tells how numbers are written.
        let Some(mark) = u32_at(bytes, 8) else { return Ok(Parsed::Needs(FRAME)) };
        match mark {
            BYTE_ORDER => {}
            mark if mark == BYTE_ORDER.swap_bytes() => return Err(Damage::BigEndian),
            mark => return Err(Damage::ByteOrder(mark)),
        }
    }
    let Some(told) = u32_at(bytes, 4) else { return Ok(Parsed::Needs(FRAME)) };
    let least = if kind == SECTION { FRAME + 16 } else { FRAME };
    let length = told as usize;
    if length < least || length > LONGEST || !length.is_multiple_of(4) {
        return Err(Damage::Length(told));
    }
    let (Some(body), Some(again)) = (bytes.get(8..length - 4), u32_at(bytes, length - 4)) else {
        return Ok(Parsed::Needs(length));
    };
    if again != told {
        return Err(Damage::Lengths(told, again));
    }
    if kind == SECTION {
        match u16_at(body, 4) {
            Some(1) => {}
            version => return Err(Damage::Version(version.unwrap_or_default())),
        }
    }
    Ok(Parsed::Block(Block { kind, body, length }))
}

pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
