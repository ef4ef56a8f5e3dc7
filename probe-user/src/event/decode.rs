//! Ring-buffer records to events: one wire struct for each kind, picked by the header.

use std::mem::size_of;

use probe_common::{
    Plain,
    event::{Header, kind},
};
use thiserror::Error;

use super::{Body, Event};

/// Why a record is not an event. Seen only when the kernel side and the loader disagree, or when a
/// recording is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    #[error("a record of {len} bytes is shorter than the header of {need} bytes every event has")]
    NoHeader { len: usize, need: usize },
    #[error("a record is of kind {kind}, which this version does not know")]
    UnknownKind { kind: u16 },
    #[error("a record of kind {kind} has {len} bytes where {need} are due")]
    WrongSize { kind: u16, len: usize, need: usize },
}

/// Copies one ring-buffer record into the event it is. The record needs no alignment.
///
/// # Errors
/// When the record is too short for a header, its kind is unknown, or its size is not exactly that
/// of the kind's struct.
pub fn decode(record: &[u8]) -> Result<Event, DecodeError> {
    let need = size_of::<Header>();
    let header: Header = record
        .get(..need)
        .and_then(from_bytes)
        .ok_or(DecodeError::NoHeader { len: record.len(), need })?;
    let body = match header.kind {
        kind::LISTEN_DROP => Body::Listen(exactly(header.kind, record)?),
        kind::SYN_RETRANSMIT | kind::CONNECT_END => Body::Connect(exactly(header.kind, record)?),
        kind::SYNACK_RETRANSMIT => Body::SynAck(exactly(header.kind, record)?),
        kind::CLASH => Body::Clash(exactly(header.kind, record)?),
        kind::TABLE_FULL => Body::TableFull(exactly(header.kind, record)?),
        kind::DROP => Body::Drop(exactly(header.kind, record)?),
        kind::DNS_RETRY
        | kind::DNS_ANSWER
        | kind::DNS_READ
        | kind::DNS_WRONG_SOURCE
        | kind::DNS_CLOSE
        | kind::DNS_SERVER_ANSWER
        | kind::DNS_UNANSWERED
        | kind::DNS_SERVER_PENDING => Body::Dns(exactly(header.kind, record)?),
        kind::IPVS_HIJACK
        | kind::IPVS_NO_SERVER
        | kind::IPVS_STALE
        | kind::IPVS_EXPIRED
        | kind::IPVS_VERDICT => Body::Ipvs(exactly(header.kind, record)?),
        kind::CT_ENTRY => Body::CtEntry(exactly(header.kind, record)?),
        kind::REJECT => Body::Reject(exactly(header.kind, record)?),
        kind::PROBE_END => Body::Probe(exactly(header.kind, record)?),
        kind::PROBE_SERVER | kind::PROBE_SERVED | kind::PROBE_SEEN => {
            Body::ProbeServer(exactly(header.kind, record)?)
        }
        kind::PROBE_STEPS => Body::ProbeSteps(exactly(header.kind, record)?),
        kind::DEPARTURE => Body::Departure(exactly(header.kind, record)?),
        kind::PACKET => Body::Packet(exactly(header.kind, record)?),
        kind => return Err(DecodeError::UnknownKind { kind }),
    };
    Ok(Event { ts: header.ts, body })
}

/// The record an event came from; `None` for what the loader itself put into the stream.
pub fn encode(event: &Event) -> Option<Vec<u8>> {
    record(event).map(<[u8]>::to_vec)
}

/// As [`encode`], without a copy.
pub fn record(event: &Event) -> Option<&[u8]> {
    Some(match &event.body {
        Body::Listen(e) => bytes_of(&**e),
        Body::Connect(e) => bytes_of(&**e),
        Body::SynAck(e) => bytes_of(&**e),
        Body::Clash(e) => bytes_of(&**e),
        Body::TableFull(e) => bytes_of(&**e),
        Body::Drop(e) => bytes_of(&**e),
        Body::Dns(e) => bytes_of(&**e),
        Body::Ipvs(e) => bytes_of(&**e),
        Body::CtEntry(e) => bytes_of(&**e),
        Body::Reject(e) => bytes_of(&**e),
        Body::Probe(e) => bytes_of(&**e),
        Body::ProbeServer(e) => bytes_of(&**e),
        Body::Packet(e) => bytes_of(&**e),
        Body::ProbeSteps(e) => bytes_of(&**e),
        Body::Departure(e) => bytes_of(&**e),
        _ => return None,
    })
}

fn exactly<T: Plain>(kind: u16, record: &[u8]) -> Result<Box<T>, DecodeError> {
    let wrong = DecodeError::WrongSize { kind, len: record.len(), need: size_of::<T>() };
    from_bytes(record).map(Box::new).ok_or(wrong)
}

/// Copies a wire struct out of exactly its own number of bytes.
pub fn from_bytes<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() != size_of::<T>() {
        return None;
    }
    // SAFETY: the slice is valid for size_of::<T>() bytes (checked above), read_unaligned needs no
    // alignment, and any bit pattern is a valid `Plain` value.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The bytes of a wire struct.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: the reference is valid for size_of::<T>() bytes and `Plain` types have no padding, so
    // every byte is initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use probe_common::event::{
        Clash, Connect, CtEntry, Departure, Dns, Drop, Ipvs, Listen, Packet, Probe, ProbeServer,
        ProbeSteps, Reject, SynAck, TableFull,
    };
    use proptest::prelude::*;

    use super::*;

    /// All but [`kind::ARMED`], which has no record.
    const SIZES: &[(u16, usize)] = &[
        (kind::LISTEN_DROP, size_of::<Listen>()),
        (kind::SYN_RETRANSMIT, size_of::<Connect>()),
        (kind::CONNECT_END, size_of::<Connect>()),
        (kind::SYNACK_RETRANSMIT, size_of::<SynAck>()),
        (kind::CLASH, size_of::<Clash>()),
        (kind::TABLE_FULL, size_of::<TableFull>()),
        (kind::DROP, size_of::<Drop>()),
        (kind::DNS_RETRY, size_of::<Dns>()),
        (kind::DNS_ANSWER, size_of::<Dns>()),
        (kind::DNS_READ, size_of::<Dns>()),
        (kind::DNS_WRONG_SOURCE, size_of::<Dns>()),
        (kind::DNS_CLOSE, size_of::<Dns>()),
        (kind::DNS_SERVER_ANSWER, size_of::<Dns>()),
        (kind::DNS_UNANSWERED, size_of::<Dns>()),
        (kind::DNS_SERVER_PENDING, size_of::<Dns>()),
        (kind::IPVS_HIJACK, size_of::<Ipvs>()),
        (kind::IPVS_NO_SERVER, size_of::<Ipvs>()),
        (kind::IPVS_STALE, size_of::<Ipvs>()),
        (kind::IPVS_EXPIRED, size_of::<Ipvs>()),
        (kind::IPVS_VERDICT, size_of::<Ipvs>()),
        (kind::CT_ENTRY, size_of::<CtEntry>()),
        (kind::REJECT, size_of::<Reject>()),
        (kind::PROBE_END, size_of::<Probe>()),
        (kind::PROBE_SERVER, size_of::<ProbeServer>()),
        (kind::PROBE_SERVED, size_of::<ProbeServer>()),
        (kind::PACKET, size_of::<Packet>()),
        (kind::PROBE_SEEN, size_of::<ProbeServer>()),
        (kind::PROBE_STEPS, size_of::<ProbeSteps>()),
        (kind::DEPARTURE, size_of::<Departure>()),
    ];

    fn bytes_of_kind(kind: u16, len: usize) -> Vec<u8> {
        let header = Header { ts: 77, cookie: 3, netns: 9, kind, cpu: 1 };
        let mut bytes = bytes_of(&header).to_vec();
        bytes.extend((0..255u8).cycle().take(len.saturating_sub(bytes.len())));
        bytes
    }

    #[test]
    fn every_kind_decodes_and_encodes_to_the_same_bytes() {
        for &(kind, size) in SIZES {
            let bytes = bytes_of_kind(kind, size);
            let event = decode(&bytes).unwrap();
            assert_eq!(event.ts, 77, "kind {kind}");
            assert_eq!(encode(&event).unwrap(), bytes, "kind {kind}");
        }
    }

    #[test]
    fn one_byte_more_or_less_is_an_error() {
        for &(kind, size) in SIZES {
            for len in [size - 1, size + 1] {
                let got = decode(&bytes_of_kind(kind, len));
                assert_eq!(got, Err(DecodeError::WrongSize { kind, len, need: size }));
            }
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        assert_eq!(decode(&[0; 23]).unwrap_err(), DecodeError::NoHeader { len: 23, need: 24 });
        let unknown = decode(&bytes_of_kind(99, 300)).unwrap_err();
        assert_eq!(unknown.to_string(), "a record is of kind 99, which this version does not know");
    }

    #[test]
    fn what_the_loader_made_has_no_record() {
        assert_eq!(encode(&Event { ts: 1, body: Body::Tick }), None);
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_event_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(event) = decode(&bytes) {
                prop_assert_eq!(encode(&event), Some(bytes));
            }
        }

        #[test]
        fn any_body_of_a_known_kind_decodes(which in 0..SIZES.len(), fill in any::<u8>()) {
            let (kind, size) = SIZES[which];
            let mut bytes = bytes_of_kind(kind, size);
            bytes[size_of::<Header>()..].fill(fill);
            prop_assert!(decode(&bytes).is_ok());
        }
    }
}
