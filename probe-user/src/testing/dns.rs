//! Queries and answers.

use super::*;

pub fn question(id: u16, qtype: u16, wire: &[u8]) -> Question {
    let mut name = [0; QNAME_BYTES];
    let kept = wire.len().min(QNAME_BYTES - 1);
    name[..kept].copy_from_slice(&wire[..kept]);
    let name_len = u16::try_from(wire.len()).unwrap();
    Question { hash: hash(wire), id, qtype, name_len, _pad: 0, name }
}

/// A query of the client for [`NAME`] to the service, `first` ms after the start.
pub fn query(kind: u16, id: u16, qtype: u16, first: u64) -> Dns {
    let tuple = udp(CLIENT_END, SERVICE);
    let first = START + first * MS;
    let mut server = [[0; 16]; SERVERS];
    server[0] = tuple.dst;
    Dns {
        header: header(kind, CLIENT),
        tuple,
        sk: 0xffff_8880_0000_1000,
        first,
        last: first,
        answered: 0,
        pid: 812,
        comm: comm("getent"),
        attempts: 1,
        servers: 1,
        rcode: 0xffff,
        server,
        _pad: [0; 3],
        question: question(id, qtype, NAME),
    }
}

pub fn unanswered(id: u16, qtype: u16, first: u64) -> Body {
    Body::Dns(Box::new(query(kind::DNS_UNANSWERED, id, qtype, first)))
}

pub fn retry(id: u16, qtype: u16, first: u64, again: u64) -> Body {
    let last = START + again * MS;
    let query = query(kind::DNS_RETRY, id, qtype, first);
    Body::Dns(Box::new(Dns { attempts: 2, last, ..query }))
}

pub fn answer(id: u16, qtype: u16, first: u64, answered: u64, attempts: u16) -> Body {
    let query = query(kind::DNS_ANSWER, id, qtype, first);
    let answered = START + answered * MS;
    Body::Dns(Box::new(Dns { answered, attempts, rcode: 0, ..query }))
}

/// The query as the server in `netns` saw it.
pub fn served(kind: u16, id: u16, netns: u32, end: &str, first: u64, answered: u64) -> Body {
    Body::Dns(Box::new(Dns {
        header: header(kind, netns),
        tuple: udp(CLIENT_END, end),
        sk: 0xffff_8880_0000_2000,
        answered: if answered == 0 { 0 } else { START + answered * MS },
        pid: if answered == 0 { 0 } else { 700 },
        comm: if answered == 0 { [0; 16] } else { comm("dnsmasq") },
        ..query(kind, id, AAAA, first)
    }))
}
