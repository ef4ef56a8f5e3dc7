//! Senders of DNS queries that behave as a resolver does: same socket and id when they send again.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::message;
use crate::netns::Pod;

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    /// ICMP said that nobody listens there.
    Refused,
    Silent,
}

/// A socket connected to a server; call it inside a pod. `port` 0 lets the kernel choose.
pub fn connect(server: SocketAddr, port: u16) -> Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket =
        UdpSocket::bind((any, port)).with_context(|| format!("cannot bind port {port}"))?;
    socket.connect(server).with_context(|| format!("cannot connect to {server}"))?;
    Ok(socket)
}

/// Waits for the answer to a query; answers to other ids are read and forgotten.
pub fn wait(socket: &UdpSocket, id: u16, limit: Duration) -> Result<Outcome> {
    let end = Instant::now() + limit;
    loop {
        match receive(socket, end)? {
            Received::Answer(got) if got == id => return Ok(Outcome::Answered),
            Received::Answer(_) => {}
            Received::Refused => return Ok(Outcome::Refused),
            Received::Nothing => return Ok(Outcome::Silent),
        }
    }
}

/// Waits for the answers to several queries; gives the ids that were answered.
pub fn wait_all(socket: &UdpSocket, ids: &[u16], limit: Duration) -> Result<Vec<u16>> {
    let end = Instant::now() + limit;
    let mut got = Vec::new();
    while ids.iter().any(|id| !got.contains(id)) {
        match receive(socket, end)? {
            Received::Answer(id) => got.push(id),
            Received::Refused => {}
            Received::Nothing => break,
        }
    }
    Ok(got)
}

enum Received {
    Answer(u16),
    Refused,
    Nothing,
}

fn receive(socket: &UdpSocket, end: Instant) -> Result<Received> {
    let mut buffer = [0; 1500];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Received::Nothing);
        }
        socket.set_read_timeout(Some(left)).context("cannot set a timeout")?;
        match socket.recv(&mut buffer) {
            Ok(len) => {
                if let Some(id) = message::answer_id(buffer.get(..len).unwrap_or_default()) {
                    return Ok(Received::Answer(id));
                }
            }
            Err(e) => match e.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                ErrorKind::ConnectionRefused => return Ok(Received::Refused),
                _ => return Err(e).context("cannot receive an answer"),
            },
        }
    }
}

/// Sends a query; a refusal of an earlier packet that the kernel still had to tell counts.
pub fn send(socket: &UdpSocket, id: u16, name: &str, qtype: u16) -> Result<Outcome> {
    match socket.send(&message::query(id, name, qtype)) {
        Ok(_) => Ok(Outcome::Silent),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Ok(Outcome::Refused),
        Err(e) => Err(e).context("cannot send a query"),
    }
}

/// Asks once for each time given, on one socket with one id, until an answer comes in that time.
pub fn ask(
    pod: &Pod,
    server: SocketAddr,
    name: &str,
    qtype: u16,
    patience: &[Duration],
) -> Result<Outcome> {
    let socket = pod.inside(|| connect(server, 0))?;
    let id = id_of(name, qtype);
    let mut outcome = Outcome::Silent;
    for limit in patience {
        outcome = match send(&socket, id, name, qtype)? {
            Outcome::Silent => wait(&socket, id, *limit)?,
            refused => refused,
        };
        if outcome == Outcome::Answered {
            break;
        }
    }
    Ok(outcome)
}

/// Some id for a question, different for most questions.
pub fn id_of(name: &str, qtype: u16) -> u16 {
    name.bytes().fold(qtype.wrapping_mul(7919), |h, b| h.wrapping_mul(31).wrapping_add(b.into()))
}
