//! TCP listeners with a chosen backlog, and connects that do not block.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    args::Flags,
    counters,
    netns::Pod,
    process::{Process, READY, set_name},
    wait::{SOON, until},
};

/// Starts a listener in a pod as a process of the given name. One that does not accept lets its
/// queue fill.
pub fn listen(
    pod: &Pod,
    name: &str,
    address: SocketAddr,
    backlog: u32,
    accepts: bool,
) -> Result<Process> {
    let (address, backlog) = (address.to_string(), backlog.to_string());
    let mut args = vec!["tcp-server", "--listen", &address, "--name", name, "--backlog", &backlog];
    if accepts {
        args.push("--accept");
    }
    Process::helper(pod, &args)
}

/// Waits until a pod that had no trouble before has sent a SYN again.
pub fn sent_again(client: &Pod) -> Result<()> {
    until("the SYN is sent again", SOON, || {
        Ok((counters::net(client, "TCPSynRetrans")? > 0).then_some(()))
    })
}

/// The helper `lab tcp-server`: listens until it is killed.
pub fn main(flags: &Flags) -> Result<()> {
    let address: SocketAddr = flags.parse("--listen")?;
    let backlog: i32 = flags.parse("--backlog")?;
    set_name(flags.value("--name")?)?;
    let listener =
        TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    // The standard library chooses a backlog of its own; a second listen() replaces it
    // (inet_listen, net/ipv4/af_inet.c).
    // SAFETY: a valid listening socket.
    if unsafe { libc::listen(listener.as_raw_fd(), backlog) } != 0 {
        return Err(io::Error::last_os_error()).context("cannot set the backlog");
    }
    crate::cli::say(READY)?;
    if flags.has("--accept") {
        loop {
            // A client that went away before it was accepted is no error of the listener's.
            drop(listener.accept());
        }
    }
    loop {
        thread::park();
    }
}

/// A connect under way.
pub struct Attempt {
    socket: OwnedFd,
}

/// How far a connect has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Connected,
    Pending,
    /// The error number it failed with.
    Failed(i32),
}

impl Attempt {
    /// A socket bound to a source port (0: the kernel chooses) and not yet connected; call it
    /// inside a pod.
    pub fn bind(v6: bool, port: u16) -> Result<Self> {
        let any = if v6 {
            SocketAddr::from(([0u16; 8], port))
        } else {
            SocketAddr::from(([0u8; 4], port))
        };
        let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: a plain system call.
        let fd = unsafe { libc::socket(family, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("cannot make a socket");
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        if port != 0 {
            set_option(&socket, libc::SO_REUSEADDR, &1i32)?;
            let (address, len) = raw_address(any);
            // SAFETY: the address is valid for its length.
            if unsafe { libc::bind(fd, (&raw const address).cast(), len) } != 0 {
                let e = io::Error::last_os_error();
                return Err(e).with_context(|| format!("cannot bind port {port}"));
            }
        }
        Ok(Self { socket })
    }

    /// Sends the SYN. An error shows up in [`Attempt::wait`].
    pub fn fire(&self, to: SocketAddr) -> Result<()> {
        let (address, len) = raw_address(to);
        // SAFETY: the address is valid for its length.
        let r = unsafe { libc::connect(self.socket.as_raw_fd(), (&raw const address).cast(), len) };
        let e = io::Error::last_os_error();
        match e.raw_os_error() {
            _ if r == 0 => Ok(()),
            Some(libc::EINPROGRESS | libc::ECONNREFUSED) => Ok(()),
            _ => Err(e).with_context(|| format!("cannot connect to {to}")),
        }
    }

    /// Starts a connect from inside a pod.
    pub fn start(pod: &Pod, to: SocketAddr) -> Result<Self> {
        pod.inside(|| {
            let attempt = Self::bind(to.is_ipv6(), 0)?;
            attempt.fire(to)?;
            Ok(attempt)
        })
    }

    /// Waits until the peer, having accepted it, closes the connection.
    pub fn wait_closed(&self, limit: Duration) -> Result<()> {
        ensure!(self.poll(libc::POLLRDHUP, limit)?, "the peer does not close the connection");
        Ok(())
    }

    fn poll(&self, events: i16, limit: Duration) -> Result<bool> {
        let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events, revents: 0 };
        let millis = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one valid pollfd.
        if unsafe { libc::poll(&raw mut poll, 1, millis) } < 0 {
            bail!("cannot poll: {}", io::Error::last_os_error());
        }
        Ok(poll.revents != 0)
    }

    /// Waits until the connect has succeeded or failed, at most for `limit`.
    pub fn wait(&self, limit: Duration) -> Result<State> {
        if !self.poll(libc::POLLOUT, limit)? {
            return Ok(State::Pending);
        }
        let mut error = 0i32;
        let mut len = size_of::<i32>() as libc::socklen_t;
        // SAFETY: an int and its length.
        let r = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ERROR,
                (&raw mut error).cast(),
                &raw mut len,
            )
        };
        if r != 0 {
            bail!("cannot read SO_ERROR: {}", io::Error::last_os_error());
        }
        Ok(if error == 0 { State::Connected } else { State::Failed(error) })
    }

    /// Lets the close that follows be a reset, so that no TIME_WAIT is left behind.
    pub fn abort(&self) -> Result<()> {
        set_option(&self.socket, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 })
    }
}

fn set_option<T>(socket: &OwnedFd, option: i32, value: &T) -> Result<()> {
    // SAFETY: a valid value and its size.
    let r = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    match r {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context("cannot set a socket option"),
    }
}

/// A socket address in the kernel's form, and its length.
fn raw_address(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zeros is a valid sockaddr_storage.
    let mut raw: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let at = &raw mut raw;
    let len = match address {
        SocketAddr::V4(a) => {
            let v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: a.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(a.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is large enough and aligned for every family.
            unsafe { at.cast::<libc::sockaddr_in>().write(v4) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(a) => {
            let v6 = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: a.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: a.ip().octets() },
                sin6_scope_id: a.scope_id(),
            };
            // SAFETY: as above.
            unsafe { at.cast::<libc::sockaddr_in6>().write(v6) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (raw, len as libc::socklen_t)
}
