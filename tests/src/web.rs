//! Servers that take their time in one step or another, and clients that wait for them as the kubelet's
//! probes do.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    args::Flags,
    netns::Pod,
    process::{Process, READY, set_name},
};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// Empty SETTINGS (RFC 9113 6.5).
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// How long a client takes from a server's first bytes to its request: some jiffies of any kernel.
const WORKS: Duration = Duration::from_millis(50);

/// As long as a close_notify of TLS 1.3 (RFC 8446 5.2, 6.1).
const LAST_RECORD: [u8; 24] = [0x17; 24];

/// What a server does with each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Nothing: it stays in the accept queue, which has room.
    Ignores,
    /// Accepts it, and no more.
    Accepts,
    /// Reads the request, answers so much later, and closes the connection.
    Answers(Duration),
    /// The same, and it leaves the connection open.
    Keeps(Duration),
    /// Reads the request and closes the connection so much later without an answer.
    Closes(Duration),
    /// Leaves it in the accept queue for so long, then answers at once.
    AcceptsLate(Duration),
    /// Accepts it, reads the request so much later, and answers at once.
    ReadsLate(Duration),
    /// Sends some bytes at once, as TLS and HTTP/2 begin, reads the request, and sends no more.
    Begins,
}

impl Server {
    /// Its arguments for the helper, and how late it is.
    fn args(self) -> (&'static [&'static str], Option<Duration>) {
        match self {
            Self::Ignores => (&[], None),
            Self::Accepts => (&["--accept"], None),
            Self::Answers(after) => (&[], Some(after)),
            Self::Keeps(after) => (&["--keep"], Some(after)),
            Self::Closes(after) => (&["--silent"], Some(after)),
            Self::AcceptsLate(after) => (&["--late", "accept"], Some(after)),
            Self::ReadsLate(after) => (&["--late", "read"], Some(after)),
            Self::Begins => (&["--begin", "--silent", "--keep"], Some(Duration::ZERO)),
        }
    }
}

/// Starts a server of the given name, in a pod or on the node itself.
pub fn serve(pod: Option<&Pod>, name: &str, at: SocketAddr, server: Server) -> Result<Process> {
    let at = at.to_string();
    let (how, delay) = server.args();
    let delay = delay.map(|after| after.as_millis().to_string());
    let mut args = vec!["web-server", "--listen", &at, "--name", name];
    args.extend(how);
    if let Some(delay) = &delay {
        args.extend(["--answer", delay]);
    }
    match pod {
        Some(pod) => Process::helper(pod, &args),
        None => Process::on_node(&args),
    }
}

/// The helper `lab web-server`.
pub fn main(flags: &Flags) -> Result<()> {
    let at: SocketAddr = flags.parse("--listen")?;
    let answer = match flags.optional("--answer") {
        Some(_) => Some(Duration::from_millis(flags.parse("--answer")?)),
        None => None,
    };
    let accepts = flags.has("--accept") || answer.is_some();
    let late = match flags.optional("--late") {
        Some("accept") => Late::Accept,
        Some("read") => Late::Read,
        _ => Late::Answer,
    };
    let (keeps, silent, begins) =
        (flags.has("--keep"), flags.has("--silent"), flags.has("--begin"));
    set_name(flags.value("--name")?)?;
    let listener = TcpListener::bind(at).with_context(|| format!("cannot listen on {at}"))?;
    crate::cli::say(READY)?;
    if !accepts {
        loop {
            thread::park();
        }
    }
    let mut kept = Vec::new();
    loop {
        if let (Some(after), Late::Accept) = (answer, late) {
            wait_for_a_client(&listener).context("cannot wait for a client")?;
            thread::sleep(after);
        }
        // A client that went away before it was accepted is no error of the listener's.
        let Ok((stream, _)) = listener.accept() else { continue };
        match answer {
            Some(after) => {
                let how = How { after, late, keeps, silent, begins };
                thread::Builder::new()
                    .spawn(move || how.answer(stream))
                    .context("cannot start a thread")?;
            }
            None => kept.push(stream),
        }
    }
}

/// The step in which it is late.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Late {
    Accept,
    Read,
    Answer,
}

/// How a connection is answered.
struct How {
    after: Duration,
    late: Late,
    keeps: bool,
    silent: bool,
    begins: bool,
}

impl How {
    fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut request = [0u8; 4096];
        if self.begins {
            stream.write_all(SETTINGS)?;
        }
        if self.late == Late::Read {
            thread::sleep(self.after);
        }
        if stream.read(&mut request)? > 0 {
            if self.late == Late::Answer {
                thread::sleep(self.after);
            }
            if !self.silent {
                stream.write_all(ANSWER)?;
            }
            if self.keeps {
                // Until the client closes.
                while stream.read(&mut request)? > 0 {}
            }
        }
        Ok(())
    }
}

/// Returns when a connection is in the accept queue.
fn wait_for_a_client(listener: &TcpListener) -> io::Result<()> {
    let mut waits = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd on the stack, whose descriptor the listener keeps open.
    match unsafe { libc::poll(&raw mut waits, 1, -1) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// What a client sends once it is connected; then it waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing, and it closes the connection at the end of its time: a slow TCP probe.
    None,
    Http,
    /// And at the end of its time some bytes more, as TLS does.
    LastRecord,
    Grpc,
    /// The same, when the server has sent its first bytes.
    GrpcCall,
}

impl Request {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Http => "http",
            Self::LastRecord => "last-record",
            Self::Grpc => "grpc",
            Self::GrpcCall => "grpc-call",
        }
    }

    pub fn parse(name: &str) -> Result<Self> {
        let all = [Self::None, Self::Http, Self::LastRecord, Self::Grpc, Self::GrpcCall];
        let found = all.into_iter().find(|r| r.name() == name);
        found.with_context(|| format!("no request {name:?}"))
    }

    fn bytes(self, to: SocketAddr) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Http | Self::LastRecord => format!(
                "GET /healthz HTTP/1.1\r\nHost: {to}\r\nUser-Agent: kube-probe/1.31\r\n\
                 Accept: */*\r\nConnection: close\r\n\r\n"
            )
            .into_bytes(),
            // The preface and empty SETTINGS, as grpc-go begins.
            Self::Grpc | Self::GrpcCall => {
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec()
            }
        }
    }
}

/// Connects, sends and waits for the answer's end; gives whether an answer came. `limit` counts from the
/// moment at which it is connected: a machine that is slow to begin does not shorten what the kernel sees.
pub fn ask(to: SocketAddr, request: Request, limit: Duration) -> Result<bool> {
    let mut stream = TcpStream::connect_timeout(&to, limit).context("cannot connect")?;
    let end = Instant::now() + limit;
    if request == Request::GrpcCall {
        stream.set_read_timeout(Some(limit)).context("cannot set a time limit")?;
        stream.read_exact(&mut [0; SETTINGS.len()]).context("cannot read the first bytes")?;
        thread::sleep(WORKS);
    }
    stream.write_all(&request.bytes(to)).context("cannot send")?;
    if request == Request::None {
        thread::sleep(end.saturating_duration_since(Instant::now()));
        return Ok(false);
    }
    let mut answer = Vec::new();
    let mut some = [0u8; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        stream.set_read_timeout(Some(left)).context("cannot set a time limit")?;
        match stream.read(&mut some) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(some.get(..n).unwrap_or_default()),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                break;
            }
            Err(e) => bail!("cannot read from {to}: {e}"),
        }
    }
    if request == Request::LastRecord {
        stream.write_all(&LAST_RECORD).context("cannot send the last record")?;
    }
    Ok(!answer.is_empty())
}
