//! The fields of the wire structs, by event kind. A recording has them in its head, so that one whose
//! structs had other fields is read by the names of its fields: what it lacks is zero, what is not
//! known today is skipped.

use std::{collections::HashMap, sync::OnceLock};

use probe_common::{
    event::{
        Clash, Connect, CtEntry, Departure, Dns, Drop, Ipvs, Listen, Packet, Probe, ProbeServer,
        ProbeSteps, Reject, SynAck, TableFull, kind,
    },
    layout::{Shape, Shaped},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most a struct of a recording may have, in bytes and in fields. Ours have a tenth of it.
const LONGEST: u32 = 16 << 10;
const MOST_FIELDS: usize = 1024;

/// One field: an unsigned little-endian integer, or several in a row. Fields of nested structs have
/// names such as `tuple.sport`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    pub name: String,
    /// Bytes from the start of the struct.
    pub at: u32,
    /// Bytes of one integer: 1, 2, 4 or 8.
    pub unit: u32,
    pub count: u32,
}

/// A wire struct, and the event kinds whose records are one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    pub kinds: Vec<u16>,
    /// In bytes.
    pub size: u32,
    pub fields: Vec<Field>,
}

/// Whether records of this kind have a struct today.
pub fn is_known(kind: u16) -> bool {
    static KINDS: OnceLock<Vec<u16>> = OnceLock::new();
    let known = KINDS.get_or_init(|| ours().into_iter().flat_map(|layout| layout.kinds).collect());
    known.contains(&kind)
}

/// Why a layout in a recording is of no use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unusable {
    #[error("it has {0} bytes")]
    Size(u32),
    #[error("it has {0} fields")]
    Fields(usize),
    #[error("one of its fields does not lie inside of it")]
    Field,
}

/// The layouts of this version.
pub fn ours() -> Vec<Layout> {
    vec![
        of::<Listen>(&[kind::LISTEN_DROP]),
        of::<Connect>(&[kind::SYN_RETRANSMIT, kind::CONNECT_END]),
        of::<SynAck>(&[kind::SYNACK_RETRANSMIT]),
        of::<Clash>(&[kind::CLASH]),
        of::<TableFull>(&[kind::TABLE_FULL]),
        of::<Drop>(&[kind::DROP]),
        of::<Dns>(&[
            kind::DNS_RETRY,
            kind::DNS_ANSWER,
            kind::DNS_READ,
            kind::DNS_WRONG_SOURCE,
            kind::DNS_CLOSE,
            kind::DNS_SERVER_ANSWER,
            kind::DNS_UNANSWERED,
            kind::DNS_SERVER_PENDING,
        ]),
        of::<Ipvs>(&[
            kind::IPVS_HIJACK,
            kind::IPVS_NO_SERVER,
            kind::IPVS_STALE,
            kind::IPVS_EXPIRED,
            kind::IPVS_VERDICT,
        ]),
        of::<CtEntry>(&[kind::CT_ENTRY]),
        of::<Packet>(&[kind::PACKET]),
        of::<Reject>(&[kind::REJECT]),
        of::<Probe>(&[kind::PROBE_END]),
        of::<ProbeServer>(&[kind::PROBE_SERVER, kind::PROBE_SERVED, kind::PROBE_SEEN]),
        of::<ProbeSteps>(&[kind::PROBE_STEPS]),
        of::<Departure>(&[kind::DEPARTURE]),
    ]
}

fn of<T: Shaped>(kinds: &[u16]) -> Layout {
    let mut fields = Vec::new();
    flatten(&mut fields, String::new(), 0, T::SHAPE);
    Layout { kinds: kinds.to_vec(), size: number(T::SHAPE.size()), fields }
}

fn flatten(fields: &mut Vec<Field>, name: String, at: usize, shape: &Shape) {
    match shape {
        Shape::Struct(inner) => {
            let dot = if name.is_empty() { "" } else { "." };
            for field in *inner {
                let name = format!("{name}{dot}{}", field.name);
                flatten(fields, name, at + field.offset, field.shape);
            }
        }
        Shape::Array(of, count) if innermost(of).is_none() => {
            for n in 0..*count {
                flatten(fields, format!("{name}.{n}"), at + n * of.size(), of);
            }
        }
        shape => {
            let unit = innermost(shape).unwrap_or(1);
            fields.push(Field {
                name,
                at: number(at),
                unit: number(unit),
                count: number(shape.size() / unit),
            });
        }
    }
}

/// Bytes of the integers that an array is made of, however deep; `None` of structs.
fn innermost(shape: &Shape) -> Option<usize> {
    match shape {
        Shape::Integer(size) => Some(*size),
        Shape::Array(of, _) => innermost(of),
        Shape::Struct(_) => None,
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Integers that go from a struct of a recording to today's.
#[derive(Clone, Copy, Debug)]
struct Move {
    from: usize,
    from_unit: usize,
    to: usize,
    to_unit: usize,
    count: usize,
}

/// How records of one kind are read.
#[derive(Clone, Debug)]
enum Way {
    /// The struct is today's.
    Same,
    Moves {
        size: usize,
        today: usize,
        moves: Vec<Move>,
    },
}

/// Reads records of a recording by its own layouts.
#[derive(Debug, Default)]
pub struct Translator {
    ways: HashMap<u16, Way>,
    bytes: Vec<u8>,
}

impl Translator {
    /// # Errors
    /// When a layout of a known kind is none.
    pub fn new(theirs: &[Layout]) -> Result<Self, Unusable> {
        let mut ways = HashMap::new();
        let ours = ours();
        for their in theirs {
            for kind in &their.kinds {
                let Some(our) = ours.iter().find(|our| our.kinds.contains(kind)) else { continue };
                if !ways.contains_key(kind) {
                    ways.insert(*kind, way(their, our)?);
                }
            }
        }
        Ok(Self { ways, bytes: Vec::new() })
    }

    /// The record as today's struct; `None` of a kind that the recording has no layout of, or that is
    /// not known today, and when it has not its struct's size.
    pub fn today<'a>(&'a mut self, kind: u16, record: &'a [u8]) -> Option<&'a [u8]> {
        match self.ways.get(&kind)? {
            Way::Same => Some(record),
            Way::Moves { size, .. } if *size != record.len() => None,
            Way::Moves { today, moves, .. } => {
                self.bytes.clear();
                self.bytes.resize(*today, 0);
                for one in moves {
                    one.copy(record, &mut self.bytes);
                }
                Some(&self.bytes)
            }
        }
    }
}

impl Move {
    /// The lower bytes of each integer; a longer one is filled with zeros.
    fn copy(&self, record: &[u8], out: &mut [u8]) {
        let width = self.from_unit.min(self.to_unit);
        for n in 0..self.count {
            let from = self.from + n * self.from_unit;
            let to = self.to + n * self.to_unit;
            if let (Some(from), Some(to)) =
                (record.get(from..from + width), out.get_mut(to..to + width))
            {
                to.copy_from_slice(from);
            }
        }
    }
}

fn way(their: &Layout, our: &Layout) -> Result<Way, Unusable> {
    if their.size == our.size && their.fields == our.fields {
        return Ok(Way::Same);
    }
    if their.size > LONGEST {
        return Err(Unusable::Size(their.size));
    }
    if their.fields.len() > MOST_FIELDS {
        return Err(Unusable::Fields(their.fields.len()));
    }
    let by_name: HashMap<&str, &Field> =
        their.fields.iter().map(|field| (field.name.as_str(), field)).collect();
    let mut moves = Vec::new();
    for our in &our.fields {
        let Some(their_field) = by_name.get(our.name.as_str()) else { continue };
        if !lies_inside(their_field, their.size) {
            return Err(Unusable::Field);
        }
        moves.push(Move {
            from: their_field.at as usize,
            from_unit: their_field.unit as usize,
            to: our.at as usize,
            to_unit: our.unit as usize,
            count: our.count.min(their_field.count) as usize,
        });
    }
    Ok(Way::Moves { size: their.size as usize, today: our.size as usize, moves })
}

fn lies_inside(field: &Field, size: u32) -> bool {
    let length = field.unit.checked_mul(field.count);
    let end = length.and_then(|length| field.at.checked_add(length));
    matches!(field.unit, 1 | 2 | 4 | 8) && end.is_some_and(|end| end <= size)
}
