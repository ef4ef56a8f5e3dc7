//! The one secret: what a name becomes depends on it and on the name alone, so recordings of several
//! nodes that are redacted with the same key still fit together.

use sha2::{Digest as _, Sha256};

/// What is replaced. The same text becomes something else as a pod's name than as a host's.
#[derive(Clone, Copy, Debug)]
pub enum Domain {
    V4 = 1,
    V6 = 2,
    Label = 3,
    LabelBack = 4,
    Hash = 5,
    Namespace = 6,
    Pod = 7,
    Name = 8,
    Host = 9,
    Container = 10,
    ContainerId = 11,
    Process = 12,
    Service = 13,
    Node = 14,
    Pointer = 15,
}

/// Letters and digits of words, without those that look alike.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// How many of them: five bits each, 40 in all.
const WORD: usize = 8;

#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    pub fn new(secret: &[u8]) -> Self {
        let mut hasher = Sha256::new_with_prefix(b"stallprobe redact 1\0");
        hasher.update(secret);
        Self(hasher.finalize().into())
    }

    /// Key, domain and length come first: no two inputs hash the same bytes.
    pub fn hash(&self, domain: Domain, number: u64, bytes: &[u8]) -> [u8; 32] {
        let mut hasher = Sha256::new_with_prefix(self.0);
        hasher.update([domain as u8]);
        hasher.update(number.to_le_bytes());
        hasher.update(bytes);
        hasher.finalize().into()
    }

    pub fn number(&self, domain: Domain, number: u64, bytes: &[u8]) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.hash(domain, number, bytes);
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// A word of eight letters and digits.
    pub fn word(&self, domain: Domain, text: &[u8]) -> String {
        let hash = self.hash(domain, 0, text);
        let letter =
            |byte: &u8| LETTERS.get(usize::from(byte & 31)).copied().map_or('a', char::from);
        hash.iter().take(WORD).map(letter).collect()
    }
}

/// The secret stays out of logs.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}
