//! Whole lookups in a pod, by the resolvers that programs on a node use.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    A, AAAA,
    client::{self, Outcome},
};
use crate::netns::Pod;

/// What a lookup gave: whether there is an address, and the time it took.
pub struct Lookup {
    pub found: bool,
    pub took: Duration,
}

/// By glibc's `getaddrinfo`: one connected socket for A and AAAA.
pub fn glibc(pod: &Pod, name: &str) -> Result<Lookup> {
    program(pod, &["getent", "ahosts", name])
}

/// By musl's `getaddrinfo`: one unconnected socket for A and AAAA and all nameservers.
pub fn musl(pod: &Pod, name: &str) -> Result<Lookup> {
    program(pod, &["resolve", name])
}

/// `ip netns exec` lays the pod's resolv.conf over the node's.
fn program(pod: &Pod, words: &[&str]) -> Result<Lookup> {
    let start = Instant::now();
    let status = Command::new("ip")
        .args(["netns", "exec", &pod.name])
        .args(words)
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot run `ip netns exec … {}`", words.join(" ")))?;
    let found = match status.code() {
        Some(0) => true,
        // getent(1), and our own helper: there is no such name.
        Some(2) => false,
        _ => bail!("`{}` in {} ended with {status}", words.join(" "), pod.name),
    };
    Ok(Lookup { found, took: start.elapsed() })
}

/// As Go's own resolver does it: a socket and an id of its own for A and for AAAA and for every
/// attempt, two attempts.
pub fn go(pod: &Pod, server: SocketAddr, name: &str, patience: Duration) -> Result<Lookup> {
    let start = Instant::now();
    let ask = |qtype| {
        for attempt in 0u16..2 {
            let socket = client::connect(server, 0)?;
            let id = client::id_of(name, qtype).wrapping_add(attempt.wrapping_mul(257));
            client::send(&socket, id, name, qtype)?;
            if client::wait(&socket, id, patience)? == Outcome::Answered {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let found = std::thread::scope(|scope| {
        let lanes = [A, AAAA].map(|qtype| scope.spawn(move || pod.inside(|| ask(qtype))));
        let mut found = false;
        for lane in lanes {
            found |= lane.join().map_err(|_| anyhow::anyhow!("a lookup panicked"))??;
        }
        Ok::<_, anyhow::Error>(found)
    })?;
    Ok(Lookup { found, took: start.elapsed() })
}
