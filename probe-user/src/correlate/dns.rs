//! The few bytes of a DNS message that join it with what the kernel side saw of it (RFC 1035
//! section 4.1). The bytes come from the network: every length is checked.

use probe_common::net::IPPROTO_UDP;

/// FNV-1a, 64 bits: offset basis and prime, as the kernel side uses them for
/// [`probe_common::event::Question::hash`].
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

const HEADER: usize = 12;
const LONGEST_NAME: usize = 255;
const LONGEST_LABEL: u8 = 63;

/// Hash of a name's bytes as sent: lengths, labels and the root label.
pub fn hash(wire: &[u8]) -> u64 {
    wire.iter().fold(FNV_BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// What a packet's bytes say of the DNS message in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub id: u16,
    /// The QR bit: a response, not a query.
    pub answer: bool,
    /// `None` when the message has no question, or it is malformed or cut.
    pub question: Option<Question>,
}

/// The first question of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub hash: u64,
    pub qtype: u16,
}

/// Reads the DNS message of a UDP packet that begins with its IP header. `None` when it is not
/// UDP, is a later fragment, or is cut before the end of the DNS header.
pub fn of_packet(packet: &[u8]) -> Option<Message> {
    let version = packet.first()? >> 4;
    let udp = match version {
        4 => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff;
            if header < 20 || fragment != 0 || *packet.get(9)? != IPPROTO_UDP {
                return None;
            }
            packet.get(header..)?
        }
        6 if *packet.get(6)? == IPPROTO_UDP => packet.get(40..)?,
        _ => return None,
    };
    parse(udp.get(8..)?)
}

/// Reads a DNS message. `None` when it is shorter than a DNS header.
pub fn parse(message: &[u8]) -> Option<Message> {
    let header = message.get(..HEADER)?;
    let &[id0, id1, flags, _, count0, count1, ..] = header else { return None };
    let questions = u16::from_be_bytes([count0, count1]);
    let question = if questions == 0 { None } else { question(message.get(HEADER..)?) };
    Some(Message { id: u16::from_be_bytes([id0, id1]), answer: flags & 0x80 != 0, question })
}

/// A question has no earlier name to point to: a compression pointer in it is refused.
fn question(bytes: &[u8]) -> Option<Question> {
    let mut end = 0;
    loop {
        let len = *bytes.get(end)?;
        if len > LONGEST_LABEL {
            return None;
        }
        end += 1 + usize::from(len);
        if end > LONGEST_NAME {
            return None;
        }
        if len == 0 {
            break;
        }
    }
    let name = bytes.get(..end)?;
    let qtype = u16::from_be_bytes([*bytes.get(end)?, *bytes.get(end + 1)?]);
    Some(Question { hash: hash(name), qtype })
}

/// `A`, `AAAA`, …, or `TYPE65280`.
pub fn qtype_name(qtype: u16) -> String {
    let name = match qtype {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        64 => "SVCB",
        65 => "HTTPS",
        255 => "ANY",
        other => return format!("TYPE{other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    const NAME: &[u8] = b"\x03svc\x07cluster\x05local\0";

    fn message(flags: u8, questions: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, flags, 0, 0, questions, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(rest);
        bytes
    }

    #[test]
    fn a_query_and_its_answer() {
        let rest = [NAME, &[0, 28, 0, 1]].concat();
        let question = Some(Question { hash: hash(NAME), qtype: 28 });
        let want = Message { id: 0x1234, answer: false, question };
        assert_eq!(parse(&message(0x01, 1, &rest)), Some(want));
        let want = Message { answer: true, ..want };
        assert_eq!(parse(&message(0x81, 1, &rest)), Some(want));
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn hostile_questions_are_no_question() {
        let hostile: [&[u8]; 6] = [
            b"\xc0\x0c\0\x01\0\x01",
            b"\x3fshort",
            b"\x40aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\0\0\x01",
            b"\x01a",
            b"\x01a\0\0",
            b"",
        ];
        for rest in hostile {
            assert_eq!(parse(&message(0, 1, rest)).unwrap().question, None, "{rest:?}");
        }
        let long = [b"\x01a".repeat(128).as_slice(), &[0, 0, 1]].concat();
        assert_eq!(parse(&message(0, 1, &long)).unwrap().question, None);
        assert_eq!(parse(&message(0, 0, NAME)).unwrap().question, None);
        assert_eq!(parse(&[0; 11]), None);
    }

    #[test]
    fn packets_of_both_families() {
        let dns = message(0, 1, &[NAME, &[0, 1, 0, 1]].concat());
        let mut v4 = vec![0u8; 28];
        v4[0] = 0x45;
        v4[9] = IPPROTO_UDP;
        v4.extend_from_slice(&dns);
        assert_eq!(of_packet(&v4), parse(&dns));
        v4[9] = 6;
        assert_eq!(of_packet(&v4), None);
        let mut v6 = vec![0u8; 48];
        v6[0] = 0x60;
        v6[6] = IPPROTO_UDP;
        v6.extend_from_slice(&dns);
        assert_eq!(of_packet(&v6), parse(&dns));
        assert_eq!(of_packet(&v6[..50]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = of_packet(&bytes);
            let _ = parse(&bytes);
        }

        #[test]
        fn a_well_formed_name_is_always_found(
            labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..10),
            qtype in any::<u16>(),
        ) {
            let mut name = Vec::new();
            for label in &labels {
                name.push(label.len() as u8);
                name.extend_from_slice(label);
            }
            name.push(0);
            let rest = [name.as_slice(), &qtype.to_be_bytes(), &[0, 1]].concat();
            let want = Some(Question { hash: hash(&name), qtype });
            prop_assert_eq!(parse(&message(0, 1, &rest)).unwrap().question, want);
        }
    }
}
