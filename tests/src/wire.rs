//! The packets that pass a pod's interfaces, as any capture there sees them.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};

use crate::netns::Pod;

/// A packet socket (packet(7)) on all interfaces of a pod.
pub struct Tap {
    socket: OwnedFd,
}

impl Tap {
    pub fn open(pod: &Pod) -> Result<Self> {
        pod.inside(|| {
            // SOCK_DGRAM: packets begin with the IP header.
            let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            let all = i32::from((libc::ETH_P_ALL as u16).to_be());
            // SAFETY: a plain system call.
            let fd = unsafe { libc::socket(libc::AF_PACKET, kind, all) };
            if fd < 0 {
                return Err(io::Error::last_os_error()).context("cannot open a packet socket");
            }
            // SAFETY: just made, owned by nobody else.
            Ok(Self { socket: unsafe { OwnedFd::from_raw_fd(fd) } })
        })
        .with_context(|| format!("in pod {}", pod.name))
    }

    /// What passed since the last call and found room in the socket's buffer.
    pub fn packets(&self) -> Result<Vec<Vec<u8>>> {
        let mut packets = Vec::new();
        let mut buffer = vec![0; 65536];
        loop {
            // SAFETY: the buffer is valid for its length.
            let read = unsafe {
                libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0)
            };
            match usize::try_from(read) {
                Ok(len) => packets.push(buffer[..len].to_vec()),
                Err(_) => {
                    let err = io::Error::last_os_error();
                    if err.kind() == io::ErrorKind::WouldBlock {
                        return Ok(packets);
                    }
                    return Err(err).context("cannot read a packet socket");
                }
            }
        }
    }
}
