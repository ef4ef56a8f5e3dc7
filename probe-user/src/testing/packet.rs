//! Flows and headers as the kernel side writes them.

use super::*;

pub fn bytes(ip: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&ip.octets());
    bytes
}

pub fn tuple(proto: u8, src: &str, dst: &str) -> Tuple {
    let (src, dst): (SocketAddrV4, SocketAddrV4) = (src.parse().unwrap(), dst.parse().unwrap());
    Tuple {
        src: bytes(*src.ip()),
        dst: bytes(*dst.ip()),
        sport: src.port(),
        dport: dst.port(),
        proto,
        family: FAMILY_V4,
        _pad: [0; 2],
    }
}

pub fn udp(src: &str, dst: &str) -> Tuple {
    tuple(IPPROTO_UDP, src, dst)
}

pub fn tcp(src: &str, dst: &str) -> Tuple {
    tuple(IPPROTO_TCP, src, dst)
}

pub fn comm(name: &str) -> [u8; 16] {
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name.as_bytes());
    comm
}

pub fn header(kind: u16, netns: u32) -> Header {
    Header { netns, kind, ..Header::default() }
}
