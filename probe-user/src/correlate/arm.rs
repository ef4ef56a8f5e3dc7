//! What correlation would like to see more closely: requests for armed hooks. They change nothing
//! in what is correlated, and a replay leaves them where they are.

use std::collections::{HashSet, VecDeque};

use crate::event::armed::{Request, Set};
use crate::finding::Flow;

/// Requests kept until they are taken, and remembered so that each is made once.
const WAITING: usize = 16;
const REMEMBERED: usize = 1024;

/// One symptom's wish: set, flow, and what tells two connects of the same flow apart (the initial
/// sequence number, the DNS id).
type Key = (Set, Flow, u32);

#[derive(Debug, Default)]
pub struct Wishes {
    waiting: VecDeque<Request>,
    made: HashSet<Key>,
    order: VecDeque<Key>,
}

impl Wishes {
    /// Asks for a set, once for each symptom. What nobody takes makes way for what is newer.
    pub fn ask(&mut self, request: Request, ident: u32) {
        let key = (request.set, request.flow, ident);
        if !self.made.insert(key) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.made.remove(&oldest);
        }
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(request);
    }

    pub fn take(&mut self) -> Vec<Request> {
        self.waiting.drain(..).collect()
    }
}
