//! Dumps by netlink, from the network namespace that the calling thread is in.

use std::{io, os::fd::AsRawFd as _, time::Duration};

use anyhow::{Context as _, Result, bail};
use log::debug;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// The kernel fills one packet at most (`NLMSG_GOODSIZE`, or what the reader offers up to 32 KB).
const PACKET: usize = 32 << 10;
/// Packets of one dump.
const MOST: usize = 4096;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The kernel answers at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends `request` as a dump and passes each answer on. `protocol` is one of `NETLINK_*`. An answer
/// that cannot be understood is left out.
///
/// # Errors
/// When there is no such protocol or right, or the answers have no form or no end.
pub fn dump<T>(protocol: isize, request: T, mut each: impl FnMut(T)) -> Result<()>
where
    T: NetlinkSerializable + NetlinkDeserializable,
    NetlinkPayload<T>: From<T>,
{
    let socket = send(protocol, request, NLM_F_DUMP | NLM_F_REQUEST)?;
    let mut buffer = Vec::with_capacity(PACKET);
    for _ in 0..MOST {
        if take(receive(&socket, &mut buffer)?, &mut each)? {
            return Ok(());
        }
    }
    bail!("the answer by netlink has no end")
}

/// Sends `request` and gives the one answer to it.
///
/// # Errors
/// When there is no such protocol or right, or the answer cannot be understood.
pub fn ask<T>(protocol: isize, request: T) -> Result<T>
where
    T: NetlinkSerializable + NetlinkDeserializable,
    NetlinkPayload<T>: From<T>,
{
    let socket = send(protocol, request, NLM_F_REQUEST)?;
    let mut answer = None;
    take(receive(&socket, &mut Vec::with_capacity(PACKET))?, &mut |one| answer = Some(one))?;
    answer.context("no answer by netlink that could be understood")
}

fn send<T>(protocol: isize, request: T, flags: u16) -> Result<Socket>
where
    T: NetlinkSerializable + NetlinkDeserializable,
    NetlinkPayload<T>: From<T>,
{
    let mut socket = Socket::new(protocol).context("cannot make a netlink socket")?;
    socket.bind_auto().context("cannot bind a netlink socket")?;
    socket.connect(&SocketAddr::new(0, 0)).context("cannot connect to the kernel by netlink")?;
    limit(&socket).context("cannot limit the time to wait for netlink")?;
    let mut message = NetlinkMessage::from(request);
    message.header.flags = flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).context("cannot ask by netlink")?;
    Ok(socket)
}

fn receive<'a>(socket: &Socket, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
    buffer.clear();
    let length = socket.recv(buffer, 0).context("no answer by netlink")?;
    Ok(buffer.get(..length).unwrap_or_default())
}

/// Takes the messages of one packet; `true` at the end of a dump.
fn take<T: NetlinkDeserializable>(mut rest: &[u8], each: &mut impl FnMut(T)) -> Result<bool> {
    while !rest.is_empty() {
        // `struct nlmsghdr` begins with the length, the header's own 16 bytes included.
        let length = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
        let length = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        let Some(message) = rest.get(..length).filter(|message| message.len() >= HEADER) else {
            bail!("odd answer by netlink: a message of {length} bytes in {}", rest.len());
        };
        match NetlinkMessage::<T>::deserialize(message).map(|message| message.payload) {
            Ok(NetlinkPayload::Done(_)) => return Ok(true),
            Ok(NetlinkPayload::Error(error)) => {
                return Err(error.to_io()).context("the kernel refuses by netlink");
            }
            Ok(NetlinkPayload::InnerMessage(one)) => each(one),
            Ok(_) => {}
            Err(error) => debug!("an answer by netlink is left out: {error}"),
        }
        // Messages begin at multiples of four.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn limit(socket: &Socket) -> io::Result<()> {
    let time = libc::timeval { tv_sec: PATIENCE.as_secs().cast_signed(), tv_usec: 0 };
    let len = libc::socklen_t::try_from(size_of::<libc::timeval>()).unwrap_or(0);
    // SAFETY: `time` outlives the call and has the size that `len` says.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const time).cast(),
            len,
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use netlink_packet_route::{RouteNetlinkMessage, link::LinkMessage};

    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn link(index: u32) -> Vec<u8> {
        let mut one = LinkMessage::default();
        one.header.index = index;
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewLink(one));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn taken(packet: &[u8]) -> (Result<bool>, Vec<u32>) {
        let mut seen = Vec::new();
        let ended = take(packet, &mut |one| {
            if let RouteNetlinkMessage::NewLink(link) = one {
                seen.push(link.header.index);
            }
        });
        (ended, seen)
    }

    #[test]
    fn a_message_that_cannot_be_understood_is_left_out() {
        // RTM_NEWLINK is 16; half a `struct ifinfomsg`, and of a length that needs padding.
        let odd = message(16, &[0; 7]);
        let (ended, seen) = taken(&[link(1), odd.clone(), link(2)].concat());
        assert_eq!((ended.unwrap(), seen), (false, vec![1, 2]));
        // NLMSG_DONE is 3, with an error number of 0.
        let (ended, seen) = taken(&[odd, link(3), message(3, &[0; 4]), link(4)].concat());
        assert_eq!((ended.unwrap(), seen), (true, vec![3]));
    }

    #[test]
    fn lengths_that_are_none() {
        for length in [0_u32, 15, 17, u32::MAX] {
            let mut packet = link(1);
            let mut odd = length.to_ne_bytes().to_vec();
            odd.resize(HEADER, 0);
            packet.extend(odd);
            let (ended, seen) = taken(&packet);
            assert!(ended.unwrap_err().to_string().contains("odd answer"), "{length}");
            assert_eq!(seen, [1]);
        }
        assert!(taken(&[1, 0]).0.is_err());
    }
}
