//! Servers that take their time in one step or another, and clients that wait for them as the kubelet's
//! probes do.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
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
}

/// Starts a server of the given name, in a pod or on the node itself.
pub fn serve(pod: Option<&Pod>, name: &str, at: SocketAddr, server: Server) -> Result<Process> {
    let at = at.to_string();
    let delay = match server {
        Server::Answers(after) | Server::Keeps(after) | Server::Closes(after) => {
            after.as_millis().to_string()
        }
        Server::Ignores | Server::Accepts => String::new(),
    };
    let mut args = vec!["web-server", "--listen", &at, "--name", name];
    match server {
        Server::Ignores => {}
        Server::Accepts => args.push("--accept"),
        Server::Answers(_) => args.extend(["--answer", &delay]),
        Server::Keeps(_) => args.extend(["--answer", &delay, "--keep"]),
        Server::Closes(_) => args.extend(["--answer", &delay, "--silent"]),
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
    let (keeps, silent) = (flags.has("--keep"), flags.has("--silent"));
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
        // A client that went away before it was accepted is no error of the listener's.
        let Ok((stream, _)) = listener.accept() else { continue };
        match answer {
            Some(after) => {
                thread::Builder::new()
                    .spawn(move || answer_one(stream, after, keeps, silent))
                    .context("cannot start a thread")?;
            }
            None => kept.push(stream),
        }
    }
}

fn answer_one(mut stream: TcpStream, after: Duration, keeps: bool, silent: bool) -> io::Result<()> {
    let mut request = [0u8; 4096];
    if stream.read(&mut request)? > 0 {
        thread::sleep(after);
        if !silent {
            stream.write_all(ANSWER)?;
        }
        if keeps {
            // Until the client closes.
            let _ = stream.read(&mut request)?;
        }
    }
    Ok(())
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
}

impl Request {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Http => "http",
            Self::LastRecord => "last-record",
            Self::Grpc => "grpc",
        }
    }

    pub fn parse(name: &str) -> Result<Self> {
        let all = [Self::None, Self::Http, Self::LastRecord, Self::Grpc];
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
            Self::Grpc => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        }
    }
}

/// Connects, sends and waits for the answer's end; gives whether an answer came. `limit` counts from the
/// moment at which it is connected: a machine that is slow to begin does not shorten what the kernel sees.
pub fn ask(to: SocketAddr, request: Request, limit: Duration) -> Result<bool> {
    let mut stream = TcpStream::connect_timeout(&to, limit).context("cannot connect")?;
    let end = Instant::now() + limit;
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
