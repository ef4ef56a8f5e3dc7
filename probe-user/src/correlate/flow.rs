//! Tuples of the wire as addresses one can compare, print and look up.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use probe_common::net::{
    FAMILY_V4, FAMILY_V6, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, Tuple,
};

use crate::finding::Flow;

impl Flow {
    /// An IPv4 address inside an IPv6 socket (`::ffff:10.0.0.1`) becomes the IPv4 address that is
    /// on the wire, so that the socket's view and the packet's compare equal.
    pub fn of(tuple: &Tuple) -> Self {
        Self {
            proto: tuple.proto,
            src: SocketAddr::new(address(&tuple.src, tuple.family), tuple.sport),
            dst: SocketAddr::new(address(&tuple.dst, tuple.family), tuple.dport),
        }
    }

    /// The same flow seen from the other end.
    pub fn reversed(self) -> Self {
        Self { proto: self.proto, src: self.dst, dst: self.src }
    }

    /// Whether the tuple held any address at all.
    pub fn is_known(self) -> bool {
        !self.src.ip().is_unspecified() || !self.dst.ip().is_unspecified()
    }
}

/// `tcp 10.244.1.2:40312 -> 10.96.0.10:53`
impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", proto_name(self.proto), self.src, self.dst)
    }
}

/// An address of the wire; unspecified when the family is not known.
pub fn address(bytes: &[u8; 16], family: u8) -> IpAddr {
    match family {
        FAMILY_V4 => {
            let [a, b, c, d, ..] = *bytes;
            Ipv4Addr::new(a, b, c, d).into()
        }
        FAMILY_V6 => Ipv6Addr::from(*bytes).to_canonical(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// `tcp`, `udp`, `icmp`, or `ip-proto-132`.
pub fn proto_name(proto: u8) -> String {
    match proto {
        IPPROTO_TCP => "tcp".to_owned(),
        IPPROTO_UDP => "udp".to_owned(),
        IPPROTO_ICMP | IPPROTO_ICMPV6 => "icmp".to_owned(),
        other => format!("ip-proto-{other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_equals_the_one_on_the_wire() {
        let mut src = [0; 16];
        src[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
        let socket = Tuple { src, sport: 5, family: FAMILY_V6, proto: 6, ..Tuple::default() };
        let mut src = [0; 16];
        src[..4].copy_from_slice(&[10, 0, 0, 1]);
        let packet = Tuple { src, sport: 5, family: FAMILY_V4, proto: 6, ..Tuple::default() };
        assert_eq!(Flow::of(&socket).src, Flow::of(&packet).src);
        assert_eq!(Flow::of(&packet).to_string(), "tcp 10.0.0.1:5 -> 0.0.0.0:0");
    }
}
