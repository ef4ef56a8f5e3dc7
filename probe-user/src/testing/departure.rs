//! What was seen of the client's SYN at devices.

use super::*;
use probe_common::event::{DIRECTION_OUT, Departure};

/// A host beyond the node, and the client's end as the node's address takes its place.
pub const OUTSIDE: &str = "198.51.100.7:443";
pub const NODE_END: &str = "10.0.3.17:40312";

fn device_text(text: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    bytes
}

/// The SYN as it went out by a device, translated.
pub fn syn_out(name: &str, link: &str) -> Departure {
    Departure {
        header: header(kind::DEPARTURE, HOST),
        tuple: tcp(NODE_END, OUTSIDE),
        skb: 0xffff_8880_0000_a000,
        ident: ISN,
        tcp_flags: 2,
        direction: DIRECTION_OUT,
        inner: 0,
        ifindex: name.bytes().map(u32::from).sum(),
        dev_flags: 0,
        name: device_text(name),
        link: device_text(link),
    }
}

pub fn at_device(e: Departure) -> Body {
    Body::Departure(Box::new(e))
}
