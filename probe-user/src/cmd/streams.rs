//! The recordings of several nodes, read as one: what happened at the same time stands together.

use anyhow::Error;

use crate::{
    event::Event,
    nodes::Merge,
    recording::{
        End,
        chain::{Chain, Next},
    },
};

/// Recordings on their way to their ends.
pub struct Streams {
    chains: Vec<Chain>,
    merge: Merge,
}

/// What comes next, and of which node.
pub enum Said {
    Event(Event),
    /// A file's last words.
    End(End),
    /// What a person should know.
    Notice(String),
    /// What follows cannot be read. The others are read to their ends.
    Damage(Error),
}

impl Streams {
    pub fn new(chains: Vec<Chain>) -> Self {
        Self { merge: Merge::new(chains.len()), chains }
    }
}

impl Iterator for Streams {
    type Item = (usize, Said);

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(node) = self.merge.wants() {
            let next = self.chains.get_mut(node).map(Chain::next);
            match next.unwrap_or(Ok(None)) {
                Ok(Some(Next::Event(event))) => self.merge.put(node, Some(event)),
                Ok(Some(Next::End(end))) => return Some((node, Said::End(end))),
                Ok(Some(Next::Notice(text))) => return Some((node, Said::Notice(text))),
                Ok(None) => self.merge.put(node, None),
                Err(err) => {
                    self.merge.put(node, None);
                    return Some((node, Said::Damage(err)));
                }
            }
        }
        self.merge.take().map(|(node, event)| (node, Said::Event(event)))
    }
}
