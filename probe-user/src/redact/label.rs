//! Labels of DNS names, and other short words of which the shape is kept: a letter becomes a letter, a
//! digit a digit. So a name keeps its length, which packets and the search list depend on, and its
//! case, which some resolvers choose at random.

use super::key::{Domain, Key};

/// Labels that say where in a cluster, or in a reverse lookup, a name is. They stay.
const KEPT: &[&[u8]] = &[
    b"svc",
    b"pod",
    b"cluster",
    b"local",
    b"localhost",
    b"localdomain",
    b"arpa",
    b"in-addr",
    b"ip6",
    b"_tcp",
    b"_udp",
];

/// The same length, and no two labels become the same one.
pub fn label(key: &Key, label: &[u8]) -> Vec<u8> {
    let mut out = label.to_ascii_lowercase();
    if KEPT.contains(&out.as_slice()) {
        return label.to_vec();
    }
    shuffle(key, &mut out);
    // One that became a label that stays goes on, as its orbit does.
    while KEPT.contains(&out.as_slice()) {
        shuffle(key, &mut out);
    }
    for (new, old) in out.iter_mut().zip(label) {
        if old.is_ascii_uppercase() {
            new.make_ascii_uppercase();
        }
    }
    out
}

/// Once forward and once backward, so that each byte depends on all others. Each step can be undone:
/// it adds what only bytes that are known at that time decide.
fn shuffle(key: &Key, label: &mut [u8]) {
    let length = label.len() as u64;
    for at in 0..label.len() {
        let (before, rest) = label.split_at_mut(at);
        if let Some(byte) = rest.first_mut() {
            *byte = Class::of(*byte).add(*byte, key.number(Domain::Label, length, before));
        }
    }
    for at in (0..label.len()).rev() {
        let (rest, after) = label.split_at_mut(at + 1);
        if let Some(byte) = rest.last_mut() {
            *byte = Class::of(*byte).add(*byte, key.number(Domain::LabelBack, length, after));
        }
    }
}

/// Bytes that become each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Digit,
    /// Stays: what divides words.
    Sign,
    Other,
}

impl Class {
    fn of(byte: u8) -> Self {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => Self::Letter,
            b'0'..=b'9' => Self::Digit,
            b'-' | b'_' => Self::Sign,
            _ => Self::Other,
        }
    }

    /// The byte so many places further, within the class and round at its end.
    fn add(self, byte: u8, places: u64) -> u8 {
        let round = |first: u8, count: u64| {
            let place = (u64::from(byte - first) + places % count) % count;
            first + u8::try_from(place).unwrap_or(0)
        };
        match self {
            // Capitals are put in lower case before.
            Self::Letter => round(if byte.is_ascii_uppercase() { b'A' } else { b'a' }, 26),
            Self::Digit => round(b'0', 10),
            Self::Sign => byte,
            Self::Other => {
                let others = || (0..=u8::MAX).filter(|b| Self::of(*b) == Self::Other);
                let count = others().count();
                let at = others().position(|b| b == byte).unwrap_or(0);
                let further = usize::try_from(places % count as u64).unwrap_or(0);
                others().nth((at + further) % count).unwrap_or(byte)
            }
        }
    }
}
