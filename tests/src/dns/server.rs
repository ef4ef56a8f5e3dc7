//! The helper `lab dns-server`: a UDP server whose answers come late, not at all, or only to the
//! second try.

use std::{
    collections::HashSet,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{A, message};
use crate::{
    args::Flags,
    netns::Pod,
    process::{Process, READY, set_name},
};

/// How a server behaves.
#[derive(Clone, Copy, Default)]
pub struct Behaviour {
    /// Every answer is this late.
    pub delay: Duration,
    /// The first query for each name is never answered.
    pub drop_first: bool,
    /// Nothing is ever answered.
    pub silent: bool,
}

/// Starts a server on port 53 of a pod, as a process of the given name.
pub fn start(pod: &Pod, name: &str, behaviour: Behaviour) -> Result<Process> {
    let delay = behaviour.delay.as_millis().to_string();
    let mut args = vec!["dns-server", "--listen", "[::]:53", "--name", name, "--delay-ms", &delay];
    if behaviour.drop_first {
        args.push("--drop-first");
    }
    if behaviour.silent {
        args.push("--silent");
    }
    Process::helper(pod, &args)
}

/// The helper itself: serves until it is killed.
pub fn main(flags: &Flags) -> Result<()> {
    let listen: SocketAddr = flags.parse("--listen")?;
    let delay = Duration::from_millis(flags.parse("--delay-ms")?);
    let (drop_first, silent) = (flags.has("--drop-first"), flags.has("--silent"));
    set_name(flags.value("--name")?)?;
    let socket =
        Arc::new(UdpSocket::bind(listen).with_context(|| format!("cannot bind {listen}"))?);
    crate::cli::say(READY)?;
    let mut seen = HashSet::new();
    let mut buffer = [0; 1500];
    loop {
        let (len, from) = socket.recv_from(&mut buffer).context("cannot receive")?;
        let query = buffer.get(..len).unwrap_or_default();
        let Some(question) = message::question(query) else { continue };
        if silent || (drop_first && seen.insert(question.name.clone())) {
            continue;
        }
        let answer = answer(query, &question);
        if delay.is_zero() {
            // The client may be gone; that is its own affair.
            let _ = socket.send_to(&answer, from);
        } else {
            let socket = Arc::clone(&socket);
            thread::spawn(move || {
                thread::sleep(delay);
                let _ = socket.send_to(&answer, from);
            });
        }
    }
}

/// Names under `cluster.local` do not exist, so that search lists are walked as in a cluster; all
/// others do.
fn answer(query: &[u8], question: &message::Question) -> Vec<u8> {
    if question.name.ends_with("cluster.local") {
        return message::nxdomain(query, question);
    }
    let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let data: &[u8] = if question.qtype == A { &[192, 0, 2, 1] } else { &v6 };
    message::answer(query, question, data)
}
