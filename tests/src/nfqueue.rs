//! Holds the first packet of every source port until the second has come, then lets both pass.
//!
//! With rules that queue only new flows after DNAT, both packets of a resolver have unconfirmed
//! conntrack entries when they go on, so the second surely clashes: what two CPUs do now and then
//! happens every time. Speaks nfnetlink_queue (include/uapi/linux/netfilter/nfnetlink_queue.h)
//! over a plain netlink socket.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// The queue's number in the rules.
pub const QUEUE: u16 = 53;

/// A packet whose second never comes is let go after this time.
const PATIENCE: Duration = Duration::from_secs(2);

/// Message types: subsystem in the high byte.
const PACKET: u16 = (libc::NFNL_SUBSYS_QUEUE as u16) << 8;
const VERDICT: u16 = PACKET | 1;
const CONFIG: u16 = PACKET | 2;

/// Attributes of the three messages.
const CFG_CMD: u16 = 1;
const CFG_PARAMS: u16 = 2;
const PACKET_HDR: u16 = 1;
const VERDICT_HDR: u16 = 2;
const PAYLOAD: u16 = 10;

/// Source address and port of an IPv4 packet: what makes two packets a pair.
type Source = [u8; 6];

/// What was held so far.
#[derive(Default)]
pub struct Held {
    /// Packets that were let go together with the second one.
    pub pairs: AtomicU64,
    /// Longest time in milliseconds that a packet waited.
    pub longest_ms: AtomicU64,
}

/// Starts holding packets of [`QUEUE`], until this process ends.
pub fn hold_first() -> Result<Arc<Held>> {
    let socket = open()?;
    // Bind the queue (command 1), then ask for the first 64 bytes of each packet (mode 2).
    request(&socket, CONFIG, &[(CFG_CMD, &[1, 0, 0, 0])])?;
    request(&socket, CONFIG, &[(CFG_PARAMS, &[0, 0, 0, 64, 2])])?;
    let held = Arc::<Held>::default();
    let told = Arc::clone(&held);
    thread::spawn(move || {
        // The rule's packets wait for ever then, and the case says which answer did not come.
        let _ = serve(&socket, &told);
    });
    Ok(held)
}

fn serve(socket: &OwnedFd, told: &Held) -> Result<()> {
    let waited = |since: Instant| {
        let ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        told.longest_ms.fetch_max(ms, Ordering::SeqCst);
    };
    let mut held: HashMap<Source, (u32, Instant)> = HashMap::new();
    let mut buffer = [0u8; 8192];
    loop {
        for (id, payload) in receive(socket, &mut buffer)? {
            match source(&payload) {
                Some(from) => match held.remove(&from) {
                    Some((first, since)) => {
                        accept(socket, first)?;
                        accept(socket, id)?;
                        waited(since);
                        told.pairs.fetch_add(1, Ordering::SeqCst);
                    }
                    None => {
                        held.insert(from, (id, Instant::now()));
                    }
                },
                None => accept(socket, id)?,
            }
        }
        let late: Vec<Source> =
            held.iter().filter(|(_, h)| h.1.elapsed() > PATIENCE).map(|(k, _)| *k).collect();
        for from in late {
            if let Some((id, since)) = held.remove(&from) {
                accept(socket, id)?;
                waited(since);
            }
        }
    }
}

/// A netlink socket whose reads end after a short while, so that held packets can be let go.
fn open() -> Result<OwnedFd> {
    // SAFETY: a plain system call.
    let fd = unsafe {
        libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_NETFILTER)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("cannot open a netfilter socket");
    }
    // SAFETY: just made, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let timeout = libc::timeval { tv_sec: 0, tv_usec: 200_000 };
    // SAFETY: a valid timeval and its size.
    let r = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const timeout).cast(),
            size_of::<libc::timeval>() as libc::socklen_t,
        )
    };
    match r {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()).context("cannot set a timeout"),
    }
}

/// Sends a message and waits for the kernel's acknowledgement.
fn request(socket: &OwnedFd, kind: u16, attributes: &[(u16, &[u8])]) -> Result<()> {
    send(socket, &message(kind, libc::NLM_F_REQUEST | libc::NLM_F_ACK, attributes))?;
    let mut buffer = [0u8; 1024];
    let len = recv(socket, &mut buffer)?.context("no answer from nfnetlink_queue")?;
    match messages(buffer.get(..len).unwrap_or_default()).next() {
        Some((kind, body)) if i32::from(kind) == libc::NLMSG_ERROR => match ne32(body, 0) {
            Some(0) => Ok(()),
            Some(error) => {
                let error = io::Error::from_raw_os_error((error as i32).wrapping_neg());
                Err(error).context("nfnetlink_queue refused its set-up")
            }
            None => bail!("nfnetlink_queue gave a short answer"),
        },
        other => bail!("nfnetlink_queue gave an odd answer: {other:?}"),
    }
}

/// Lets a packet go on (NF_ACCEPT).
fn accept(socket: &OwnedFd, id: u32) -> Result<()> {
    let mut header = 1u32.to_be_bytes().to_vec();
    header.extend(id.to_be_bytes());
    send(socket, &message(VERDICT, libc::NLM_F_REQUEST, &[(VERDICT_HDR, &header)]))
}

/// A netlink message: nlmsghdr, nfgenmsg (AF_INET, version 0, queue number big-endian), attributes
/// padded to 4 bytes.
fn message(kind: u16, flags: i32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![libc::AF_INET as u8, 0];
    body.extend(QUEUE.to_be_bytes());
    for (kind, data) in attributes {
        body.extend((data.len() as u16 + 4).to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(*data);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let mut out = (body.len() as u32 + 16).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend((flags as u16).to_ne_bytes());
    out.extend([0; 8]);
    out.extend(body);
    out
}

fn send(socket: &OwnedFd, message: &[u8]) -> Result<()> {
    // SAFETY: a valid buffer and its length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    match sent {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()).context("cannot write to nfnetlink_queue"),
    }
}

/// Length of what was received, nothing after the timeout.
fn recv(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Option<usize>> {
    // SAFETY: a valid buffer and its length.
    let len =
        unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    match usize::try_from(len) {
        Ok(len) => Ok(Some(len)),
        Err(_) => match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            e => Err(e).context("cannot read from nfnetlink_queue"),
        },
    }
}

/// Packets that arrived: their id and their first bytes.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Vec<(u32, Vec<u8>)>> {
    let Some(len) = recv(socket, buffer)? else { return Ok(Vec::new()) };
    let mut packets = Vec::new();
    for (kind, body) in messages(buffer.get(..len).unwrap_or_default()) {
        if kind != PACKET {
            continue;
        }
        let (mut id, mut payload) = (None, Vec::new());
        for (kind, data) in attributes(body.get(4..).unwrap_or_default()) {
            match kind {
                PACKET_HDR => id = data.first_chunk().map(|id| u32::from_be_bytes(*id)),
                PAYLOAD => payload = data.to_vec(),
                _ => {}
            }
        }
        packets.extend(id.map(|id| (id, payload)));
    }
    Ok(packets)
}

/// Netlink messages in a buffer: type and what follows the header.
fn messages(buffer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    records(buffer, |b| Some((ne32(b, 0)? as usize, ne16(b, 4)?)), 16)
}

/// Attributes in a message: type without its flag bits, and data.
fn attributes(buffer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    records(buffer, |b| Some((ne16(b, 0)?.into(), ne16(b, 2)? & 0x3fff)), 4)
}

/// Records with a header of `header` bytes that `read` takes length and type from; a wrong length
/// ends the list.
fn records(
    mut rest: &[u8],
    read: impl Fn(&[u8]) -> Option<(usize, u16)>,
    header: usize,
) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = read(rest)?;
        let body = rest.get(header..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

fn source(packet: &[u8]) -> Option<Source> {
    let header = usize::from(packet.first()? & 15) * 4;
    let (address, port) = (packet.get(12..16)?, packet.get(header..header + 2)?);
    [address, port].concat().try_into().ok()
}

fn ne32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn ne16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_message_is_read_back() {
        let raw = message(VERDICT, libc::NLM_F_REQUEST, &[(1, &[9, 8, 7]), (10, &[1])]);
        let all: Vec<_> = messages(&raw).collect();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].0, VERDICT);
        let read: Vec<_> = attributes(&all[0].1[4..]).collect();
        assert_eq!(read, [(1, &[9u8, 8, 7][..]), (10, &[1][..])]);
    }

    #[test]
    fn a_cut_or_endless_record_ends_the_list() {
        assert_eq!(attributes(&[200, 0, 1, 0, 5]).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
        assert_eq!(messages(&[]).count(), 0);
    }

    #[test]
    fn the_source_is_behind_the_ip_header() {
        let mut packet = vec![0x46];
        packet.resize(24, 0);
        packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
        packet.extend([0x9c, 0x40]);
        assert_eq!(source(&packet).unwrap(), [10, 0, 0, 1, 0x9c, 0x40]);
        assert_eq!(source(&packet[..25]), None);
    }
}
