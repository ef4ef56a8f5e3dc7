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

/// What a server does with each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Nothing: it stays in the accept queue, which has room.
    Ignores,
    /// Accepts it, and no more.
    Accepts,
    /// Reads the request and answers so much later.
    Answers(Duration),
}

/// Starts a server of the given name, in a pod or on the node itself.
pub fn serve(pod: Option<&Pod>, name: &str, at: SocketAddr, server: Server) -> Result<Process> {
    let at = at.to_string();
    let delay = match server {
        Server::Answers(after) => after.as_millis().to_string(),
        Server::Ignores | Server::Accepts => String::new(),
    };
    let mut args = vec!["web-server", "--listen", &at, "--name", name];
    match server {
        Server::Ignores => {}
        Server::Accepts => args.push("--accept"),
        Server::Answers(_) => args.extend(["--answer", &delay]),
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
                    .spawn(move || answer_one(stream, after))
                    .context("cannot start a thread")?;
            }
            None => kept.push(stream),
        }
    }
}

fn answer_one(mut stream: TcpStream, after: Duration) -> io::Result<()> {
    let mut request = [0u8; 4096];
    if stream.read(&mut request)? > 0 {
        thread::sleep(after);
        stream.write_all(ANSWER)?;
    }
    Ok(())
}

/// What a client sends once it is connected; then it waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing, and it waits for nothing: a TCP probe.
    None,
    Http,
    Grpc,
}

impl Request {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }

    pub fn parse(name: &str) -> Result<Self> {
        let found = [Self::None, Self::Http, Self::Grpc].into_iter().find(|r| r.name() == name);
        found.with_context(|| format!("no request {name:?}"))
    }

    fn bytes(self, to: SocketAddr) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Http => format!(
                "GET /healthz HTTP/1.1\r\nHost: {to}\r\nUser-Agent: kube-probe/1.31\r\n\
                 Accept: */*\r\nConnection: close\r\n\r\n"
            )
            .into_bytes(),
            // The preface and empty SETTINGS, as grpc-go begins.
            Self::Grpc => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        }
    }
}

/// Connects, sends and waits for the answer's end, all within `limit`; gives whether an answer came.
pub fn ask(to: SocketAddr, request: Request, limit: Duration) -> Result<bool> {
    let end = Instant::now() + limit;
    let mut stream = TcpStream::connect_timeout(&to, limit).context("cannot connect")?;
    stream.write_all(&request.bytes(to)).context("cannot send")?;
    if request == Request::None {
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
    Ok(!answer.is_empty())
}
