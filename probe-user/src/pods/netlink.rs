//! Dumps by netlink, from the network namespace that the calling thread is in.

use std::{io, os::fd::AsRawFd as _, time::Duration};

use anyhow::{Context as _, Result, bail};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// The kernel fills one packet at most (`NLMSG_GOODSIZE`, or what the reader offers up to 32 KB).
const PACKET: usize = 32 << 10;
/// Packets of one dump.
const MOST: usize = 4096;
/// The kernel answers at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends `request` as a dump and passes each answer on. `protocol` is one of `NETLINK_*`.
///
/// # Errors
/// When there is no such protocol or right, or the answer cannot be understood.
pub fn dump<T>(protocol: isize, request: T, mut each: impl FnMut(T)) -> Result<()>
where
    T: NetlinkSerializable + NetlinkDeserializable,
    NetlinkPayload<T>: From<T>,
{
    let mut socket = Socket::new(protocol).context("cannot make a netlink socket")?;
    socket.bind_auto().context("cannot bind a netlink socket")?;
    socket.connect(&SocketAddr::new(0, 0)).context("cannot connect to the kernel by netlink")?;
    limit(&socket).context("cannot limit the time to wait for netlink")?;
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_DUMP | NLM_F_REQUEST;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).context("cannot ask by netlink")?;

    let mut buffer = Vec::with_capacity(PACKET);
    for _ in 0..MOST {
        buffer.clear();
        let length = socket.recv(&mut buffer, 0).context("no answer by netlink")?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let answer = NetlinkMessage::<T>::deserialize(rest)
                .map_err(|error| anyhow::anyhow!("odd answer by netlink: {error}"))?;
            let used = usize::try_from(answer.header.length).unwrap_or(usize::MAX);
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => {
                    return Err(error.to_io()).context("the kernel refuses by netlink");
                }
                NetlinkPayload::InnerMessage(one) => each(one),
                _ => {}
            }
            // Messages begin at multiples of four.
            rest = rest.get(used.next_multiple_of(4).max(16)..).unwrap_or_default();
        }
    }
    bail!("the answer by netlink has no end")
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
