//! The table of stalls: open ones, and those told lately, so that one stall is counted once.

use std::collections::{BTreeMap, HashMap};

use super::{
    rules::Verdict,
    symptom::{Side, Symptom, Worth},
};
use crate::finding::Flow;

/// Stalls kept at once.
const CAPACITY: usize = 2048;
/// A stall that was told is kept this long after the last event of it: TCP sends a SYN again
/// after 1, 3, 7, 15 and 31 seconds.
const KEEP: u64 = 35_000_000_000;

/// What finds a stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A query of one socket.
    Dns { netns: u32, sk: u64, id: u16, hash: u64 },
    /// A handshake, by the client's initial sequence number.
    Isn(u32),
    /// A flow, and the DNS id in its packet (0: none).
    Flow(Flow, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Open,
    /// Reported, as this finding (or folded into it).
    Told {
        finding: u64,
        unknown: bool,
    },
    /// Looked at and not worth a report.
    Dismissed,
}

#[derive(Debug)]
pub struct Stall {
    pub symptom: Symptom,
    pub state: State,
    /// A packet of it is known to have been refused: a stall, however early it was given up.
    pub is_refused: bool,
    keys: Vec<Key>,
    /// Latest event of it.
    pub touched: u64,
    /// [`Side::Packet`]: when it is judged, once and for all.
    pub judge_at: u64,
    /// Generation of the evidence it was judged by last.
    pub checked: Option<u64>,
    pub certain_since: Option<u64>,
    /// What was certain when it opened: in a flood the evidence may be pushed out before it is
    /// judged.
    pub at_first: Option<Box<Verdict>>,
    /// Evidence pushed out before this one began.
    pub evicted_before: u64,
}

impl Stall {
    pub fn new(symptom: Symptom, evicted_before: u64) -> Self {
        Self {
            touched: symptom.opened,
            judge_at: symptom.opened,
            symptom,
            state: State::Open,
            is_refused: false,
            keys: Vec::new(),
            checked: None,
            certain_since: None,
            at_first: None,
            evicted_before,
        }
    }
}

impl Stall {
    /// Whether it is a query of this socket.
    pub fn is_of_socket(&self, of_netns: u32, of_sk: u64) -> bool {
        matches!(self.keys.first(), Some(Key::Dns { netns, sk, .. })
            if *netns == of_netns && *sk == of_sk)
    }
}

#[derive(Debug, Default)]
pub struct Stalls {
    all: BTreeMap<u64, Stall>,
    by_key: HashMap<Key, u64>,
    next: u64,
    /// How many are no longer open.
    closed: usize,
    /// Stalls there was no room for.
    pub left_out: u64,
}

impl Stalls {
    pub fn id(&self, key: Key) -> Option<u64> {
        self.by_key.get(&key).copied()
    }

    pub fn get(&self, id: u64) -> Option<&Stall> {
        self.all.get(&id)
    }

    pub fn get_mut(&mut self, id: u64) -> Option<&mut Stall> {
        self.all.get_mut(&id)
    }

    /// The stall with this key, when it was seen from the client's side.
    pub fn client(&self, key: Key) -> Option<u64> {
        let id = self.id(key)?;
        (self.get(id)?.symptom.side == Side::Client).then_some(id)
    }

    /// Adds a stall under its keys. What was known from the packet's side under one of them is
    /// taken over: if it was told already, so is this one. `None` when there is no room.
    pub fn add(&mut self, mut stall: Stall, keys: Vec<Key>) -> Option<u64> {
        for key in &keys {
            let id = self.id(*key);
            let is_packet = |old: &Stall| old.symptom.side == Side::Packet;
            let id = id.filter(|id| self.get(*id).is_some_and(is_packet));
            let Some(old) = id.and_then(|id| self.remove(id)) else { continue };
            match old.state {
                State::Told { .. } => stall.state = old.state,
                _ => stall.is_refused |= old.symptom.worth == Worth::Stall,
            }
        }
        if self.all.len() >= CAPACITY && !self.make_room() {
            self.left_out += 1;
            return None;
        }
        let id = self.next;
        self.next += 1;
        self.by_key.extend(keys.iter().map(|key| (*key, id)));
        stall.keys = keys;
        self.closed += usize::from(stall.state != State::Open);
        self.all.insert(id, stall);
        Some(id)
    }

    fn make_room(&mut self) -> bool {
        if self.closed == 0 {
            return false;
        }
        let oldest = self.all.iter().find(|(_, s)| s.state != State::Open).map(|(id, _)| *id);
        oldest.and_then(|id| self.remove(id)).is_some()
    }

    fn remove(&mut self, id: u64) -> Option<Stall> {
        let stall = self.all.remove(&id)?;
        for key in &stall.keys {
            if self.by_key.get(key) == Some(&id) {
                self.by_key.remove(key);
            }
        }
        self.closed -= usize::from(stall.state != State::Open);
        Some(stall)
    }

    pub fn set_state(&mut self, id: u64, state: State) {
        if let Some(stall) = self.all.get_mut(&id) {
            self.closed -= usize::from(stall.state != State::Open);
            self.closed += usize::from(state != State::Open);
            stall.state = state;
        }
    }

    pub fn forget(&mut self, now: u64) {
        let old: Vec<u64> = self
            .all
            .iter()
            .filter(|(_, s)| s.state != State::Open && s.touched.saturating_add(KEEP) < now)
            .map(|(id, _)| *id)
            .collect();
        for id in old {
            self.remove(id);
        }
    }

    /// All stalls, those that began first at the front.
    pub fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<(u64, u64)> =
            self.all.iter().map(|(id, stall)| (stall.symptom.first, *id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Stall> {
        self.all.values()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stall> {
        self.all.values_mut()
    }

    pub fn open(&self) -> usize {
        self.all.len() - self.closed
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}
