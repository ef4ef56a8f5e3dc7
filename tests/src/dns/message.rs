//! DNS messages, as much as the lab needs: one question, one answer (RFC 1035, section 4).

/// A question as it was read from a query.
#[derive(Debug, PartialEq, Eq)]
pub struct Question {
    pub id: u16,
    pub name: String,
    pub qtype: u16,
    /// Where the question ends in the message.
    end: usize,
}

const RESPONSE: u16 = 0x8180;
const NXDOMAIN: u16 = 3;

/// A query with one question, recursion desired.
pub fn query(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + name.len());
    out.extend(id.to_be_bytes());
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        out.push(u8::try_from(label.len()).unwrap_or(63));
        out.extend(label.as_bytes());
    }
    out.push(0);
    out.extend(qtype.to_be_bytes());
    out.extend([0, 1]);
    out
}

/// Reads the first question of a message.
pub fn question(message: &[u8]) -> Option<Question> {
    let id = be16(message, 0)?;
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let len = usize::from(*message.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        let label = message.get(at..at.checked_add(len)?)?;
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        at += len;
    }
    Some(Question { id, name: labels.join("."), qtype: be16(message, at)?, end: at + 4 })
}

/// The id of an answer; nothing for a query or a fragment.
pub fn answer_id(message: &[u8]) -> Option<u16> {
    (be16(message, 2)? & 0x8000 != 0).then(|| be16(message, 0))?
}

/// An answer with one record holding `data`, or none when `data` is empty.
pub fn answer(query: &[u8], question: &Question, data: &[u8]) -> Vec<u8> {
    let mut out = head(query, question, RESPONSE, !data.is_empty());
    if !data.is_empty() {
        // The name by a pointer to the question, type, class IN, a lifetime of 0 s.
        out.extend([0xc0, 12]);
        out.extend(question.qtype.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 0]);
        out.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        out.extend(data);
    }
    out
}

/// An answer that says there is no such name.
pub fn nxdomain(query: &[u8], question: &Question) -> Vec<u8> {
    head(query, question, RESPONSE | NXDOMAIN, false)
}

fn head(query: &[u8], question: &Question, flags: u16, one: bool) -> Vec<u8> {
    let mut out = question.id.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend([0, 1, 0, u8::from(one), 0, 0, 0, 0]);
    out.extend(query.get(12..question.end).unwrap_or_default());
    out
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_query_is_read_back_and_answered() {
        let q = query(0x1234, "Example.com.", 28);
        let read = question(&q).unwrap();
        assert_eq!((read.id, read.name.as_str(), read.qtype), (0x1234, "example.com", 28));
        assert_eq!(read.end, q.len());
        assert_eq!(answer_id(&q), None);
        let a = answer(&q, &read, &[192, 0, 2, 1]);
        assert_eq!(answer_id(&a), Some(0x1234));
        assert_eq!(&a[a.len() - 6..], [0, 4, 192, 0, 2, 1]);
        assert_eq!(nxdomain(&q, &read)[3] & 15, 3);
    }

    #[test]
    fn a_cut_message_is_no_question() {
        let q = query(1, "example.com", 1);
        assert!((0..q.len() - 2).all(|n| question(&q[..n]).is_none()));
    }
}
