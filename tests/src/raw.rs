//! SYNs without a socket behind them, thousands of them.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};

/// A raw socket that sends whole IPv4 packets.
pub struct SynSender {
    socket: OwnedFd,
    from: Ipv4Addr,
    to: Ipv4Addr,
    port: u16,
}

impl SynSender {
    /// Call it inside the pod that is to send.
    pub fn new(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: a plain system call.
        let fd = unsafe { libc::socket(libc::AF_INET, kind, libc::IPPROTO_RAW) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("cannot open a raw socket");
        }
        // SAFETY: just made, owned by nobody else.
        Ok(Self { socket: unsafe { OwnedFd::from_raw_fd(fd) }, from, to, port })
    }

    /// Sends the SYN with this number: another source port for each of 60,000.
    pub fn send(&self, number: u32) -> Result<()> {
        let packet = syn(self.from, self.to, 5000 + (number % 60_000) as u16, self.port, number);
        let to = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(self.to.octets()) },
            sin_zero: [0; 8],
        };
        // SAFETY: the packet and the address are valid for their lengths.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const to).cast(),
                size_of_val(&to) as libc::socklen_t,
            )
        };
        match sent {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()).context("cannot send a raw SYN"),
        }
    }
}

/// An IPv4 header (RFC 791; the kernel fills in length, id and checksum) and a TCP SYN without
/// options (RFC 9293).
fn syn(from: Ipv4Addr, to: Ipv4Addr, sport: u16, dport: u16, seq: u32) -> [u8; 40] {
    let mut p = [0u8; 40];
    p[0] = 0x45;
    p[8] = 64;
    p[9] = 6;
    p[12..16].copy_from_slice(&from.octets());
    p[16..20].copy_from_slice(&to.octets());
    p[20..22].copy_from_slice(&sport.to_be_bytes());
    p[22..24].copy_from_slice(&dport.to_be_bytes());
    p[24..28].copy_from_slice(&seq.to_be_bytes());
    p[32] = 5 << 4;
    p[33] = 2;
    p[34..36].copy_from_slice(&64240u16.to_be_bytes());
    let sum = checksum(&p);
    p[36..38].copy_from_slice(&sum.to_be_bytes());
    p
}

/// TCP's checksum over pseudo header and segment: addresses, protocol, length, the segment itself.
fn checksum(packet: &[u8; 40]) -> u16 {
    let words = packet[12..].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let mut sum: u32 = words.sum::<u32>() + 6 + 20;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_over_a_good_packet_is_zero() {
        let packet =
            syn(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), 5, 80, 0xdead_beef);
        assert_ne!(packet[36..38], [0, 0]);
        assert_eq!(checksum(&packet), 0);
    }
}
