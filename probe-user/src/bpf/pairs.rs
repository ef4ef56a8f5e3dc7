//! The pairing maps: questions without an answer, on the client's and on the server's side.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
};
use probe_common::event::{Dns, kind};

use super::object::Wire;

/// After this time nobody waits for an answer any more.
const FORGET: u64 = 30_000_000_000;
/// An answer that nobody reads.
const FORGET_ANSWERED: u64 = 10_000_000_000;

/// As in the kernel programs: set in a socket's count of open questions.
const UNREADABLE: u32 = 1 << 31;

/// As `QueryKey` in the kernel programs.
#[repr(C)]
#[derive(Clone, Copy)]
struct QueryKey {
    sk: u64,
    id: u16,
    pad: [u16; 3],
}

/// As `ServedKey` in the kernel programs.
#[repr(C)]
#[derive(Clone, Copy)]
struct ServedKey {
    client: [u8; 16],
    port: u16,
    server_port: u16,
    id: u16,
    pad: u16,
    netns: u32,
    pad2: u32,
}

// SAFETY: integers only, no padding.
unsafe impl aya::Pod for QueryKey {}
// SAFETY: integers only, no padding.
unsafe impl aya::Pod for ServedKey {}

/// What is known of a client's socket.
enum Socket {
    /// It waits for answers.
    Asking,
    /// An answer came that could not be read: nobody knows which of its questions are still open.
    Unreadable,
    /// It is closed.
    Gone,
}

/// Both maps, and which of their entries were told of already.
pub struct Pairs {
    queries: HashMap<MapData, QueryKey, Wire<Dns>>,
    served: HashMap<MapData, ServedKey, Wire<Dns>>,
    asking: HashMap<MapData, u64, u32>,
    told: HashSet<(u64, u16, u64)>,
    /// Questions whose socket was gone at the last sweep.
    gone: HashSet<(u64, u16, u64)>,
    min_stall: u64,
}

impl Pairs {
    pub fn take(ebpf: &mut Ebpf, min_stall: u64) -> Result<Self> {
        let mut map = |name| ebpf.take_map(name).with_context(|| format!("no map {name}"));
        Ok(Self {
            queries: HashMap::try_from(map("QUERIES")?).context("map QUERIES")?,
            served: HashMap::try_from(map("SERVED")?).context("map SERVED")?,
            asking: HashMap::try_from(map("ASKING")?).context("map ASKING")?,
            told: HashSet::new(),
            gone: HashSet::new(),
            min_stall,
        })
    }

    /// Questions that have waited for `min_stall` by now, each told once, and questions that a
    /// server has kept for half of that; clears away what nobody waits for.
    pub fn sweep(&mut self, now: u64) -> Result<Vec<Dns>> {
        let mut due = Vec::new();
        let (mut told, mut gone) = (HashSet::new(), HashSet::new());
        for (key, mut dns) in entries(&self.queries)? {
            let age = now.saturating_sub(dns.first);
            let over = if dns.answered == 0 { FORGET } else { FORGET_ANSWERED };
            if now.saturating_sub(dns.last) > over {
                forget(self.queries.remove(&key))?;
                continue;
            }
            if dns.answered != 0 || age < self.min_stall {
                continue;
            }
            let id = (key.sk, key.id, dns.first);
            match self.socket(key.sk) {
                // Its close may still be on its way to us; if not by the next sweep, it is lost.
                Socket::Gone if !self.gone.contains(&id) => {
                    gone.insert(id);
                }
                Socket::Gone => forget(self.queries.remove(&key))?,
                Socket::Unreadable => {}
                Socket::Asking => {
                    if !self.told.contains(&id) {
                        dns.header.ts = now;
                        dns.header.kind = kind::DNS_UNANSWERED;
                        due.push(dns);
                    }
                    told.insert(id);
                }
            }
        }
        for (key, mut dns) in entries(&self.served)? {
            let age = now.saturating_sub(dns.first);
            if age > FORGET {
                forget(self.served.remove(&key))?;
            } else if age >= self.min_stall / 2 {
                let id = (dns.sk, key.id, dns.first);
                if !self.told.contains(&id) {
                    dns.header.ts = now;
                    dns.header.kind = kind::DNS_SERVER_PENDING;
                    due.push(dns);
                }
                told.insert(id);
            }
        }
        self.told = told;
        self.gone = gone;
        Ok(due)
    }

    fn socket(&self, sk: u64) -> Socket {
        match self.asking.get(&sk, 0) {
            Ok(asking) if asking & UNREADABLE != 0 => Socket::Unreadable,
            Err(MapError::KeyNotFound) => Socket::Gone,
            _ => Socket::Asking,
        }
    }

    /// These sockets were closed: their questions without an answer, as events of that moment.
    pub fn closed(&mut self, closed: &[Dns]) -> Result<Vec<Dns>> {
        let mut due = Vec::new();
        if closed.is_empty() {
            return Ok(due);
        }
        for (key, mut dns) in entries(&self.queries)? {
            // An address may serve several sockets in a row: the first close after the question.
            let of_this = |c: &&Dns| c.sk == key.sk && dns.first <= c.header.ts;
            let Some(close) = closed.iter().filter(of_this).min_by_key(|c| c.header.ts) else {
                continue;
            };
            forget(self.queries.remove(&key))?;
            if dns.answered == 0 {
                dns.header = close.header;
                due.push(dns);
            }
        }
        Ok(due)
    }
}

/// A copy of a map that programs change meanwhile: entries may come and go under the iterator,
/// which then skips or starts over, so the number of steps is bounded.
fn entries<K: aya::Pod>(map: &HashMap<MapData, K, Wire<Dns>>) -> Result<Vec<(K, Dns)>> {
    const STEPS: usize = 3 * 8192;
    let mut all = Vec::new();
    for entry in map.iter().take(STEPS) {
        match entry {
            Ok((key, Wire(dns))) => all.push((key, dns)),
            Err(MapError::KeyNotFound) => {}
            Err(err) => return Err(err).context("cannot walk a pairing map"),
        }
    }
    Ok(all)
}

/// An entry that a program removed first is no error.
fn forget(removed: Result<(), MapError>) -> Result<()> {
    match removed {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(err)) if err.io_error.raw_os_error() == Some(libc::ENOENT) => {
            Ok(())
        }
        Err(err) => Err(err).context("cannot remove from a pairing map"),
    }
}
