//! Connects that were sent again, followed from one look at their namespace to the next.

use std::collections::{HashMap, HashSet};

use super::MOST;
use crate::{
    event::{Body, Outcome, SynSent},
    snapshot::{
        round::Ends,
        sockets::{ESTABLISHED, SYN_SENT, Table},
    },
};

/// A connect takes 127 s at most, with the 6 retransmits that are the default of
/// `net.ipv4.tcp_syn_retries`. One that was not seen for longer is over, even if its table is never
/// read to its end.
const GONE: u64 = 130_000_000_000;

/// Each connect that is followed.
#[derive(Debug, Default)]
pub struct Connects {
    told: HashMap<(u32, Ends), Told>,
}

/// What was told of a connect.
#[derive(Clone, Copy, Debug)]
struct Told {
    retransmits: u32,
    /// When it was seen last.
    seen: u64,
}

/// One look at a namespace.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    pub netns: u32,
    /// When it was looked at before; 0: never.
    pub since: u64,
    pub now: u64,
    pub table: &'a Table,
}

impl Connects {
    /// Tells what became of the connects of a namespace and keeps `followed`, those that the next
    /// look has to find, in line. Gives how many there was no room for.
    pub fn follow(
        &mut self,
        look: Look<'_>,
        followed: &mut Vec<Ends>,
        mut tell: impl FnMut(Body),
    ) -> u64 {
        let Look { netns, since, now, table } = look;
        let mut left_out = 0;
        let mut say = |ends: Ends, retransmits, outcome| {
            let (client, server) = ends;
            tell(Body::SynSent(SynSent { netns, client, server, retransmits, since, outcome }));
        };
        // Before others take their places.
        let here: HashSet<Ends> = table.sockets.iter().map(|s| (s.local, s.remote)).collect();
        for ends in followed.iter().filter(|ends| !here.contains(ends)) {
            let key = (netns, *ends);
            let Some(told) = self.told.get(&key).copied() else { continue };
            if !table.cut || now.saturating_sub(told.seen) > GONE {
                self.told.remove(&key);
                say(*ends, told.retransmits, Outcome::Gone);
            }
        }
        followed.retain(|ends| self.told.contains_key(&(netns, *ends)));
        for socket in &table.sockets {
            let ends = (socket.local, socket.remote);
            let known = self.told.get(&(netns, ends)).copied();
            if socket.state == SYN_SENT {
                if known.is_none() && followed.len() >= MOST {
                    left_out += 1;
                    continue;
                }
                let retransmits = socket.retransmits;
                if known.is_none() {
                    followed.push(ends);
                }
                let most = known.map_or(0, |told| told.retransmits).max(retransmits);
                self.told.insert((netns, ends), Told { retransmits: most, seen: now });
                if known.is_none_or(|told| told.retransmits < retransmits) {
                    say(ends, retransmits, Outcome::Trying);
                }
            } else if let Some(told) = self.told.remove(&(netns, ends)) {
                let is_done = socket.state == ESTABLISHED;
                let outcome = if is_done { Outcome::Established } else { Outcome::Gone };
                say(ends, told.retransmits, outcome);
            }
        }
        followed.retain(|ends| self.told.contains_key(&(netns, *ends)));
        left_out
    }

    /// The namespace is gone.
    pub fn forget(&mut self, netns: u32) {
        self.told.retain(|(of, _), _| *of != netns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::sockets::Socket;

    const POD: u32 = 42;
    const S: u64 = 1_000_000_000;

    fn from(port: u16) -> Socket {
        let (local, remote) = (([10, 0, 0, 1], port).into(), ([10, 0, 0, 2], 80).into());
        Socket { local, remote, state: SYN_SENT, rx_queue: 0, retransmits: 1, ino: 9 }
    }

    fn socket(state: u8, retransmits: u32) -> Socket {
        Socket { state, retransmits, ..from(4000) }
    }

    /// Looks at one namespace again and again.
    #[derive(Default)]
    struct Looks {
        connects: Connects,
        followed: Vec<Ends>,
        looked: u64,
        left_out: u64,
    }

    impl Looks {
        fn look(&mut self, now: u64, sockets: &[Socket], cut: bool) -> Vec<(u32, Outcome, u64)> {
            let table = Table { sockets: sockets.to_vec(), cut };
            let look = Look { netns: POD, since: self.looked, now, table: &table };
            self.looked = now;
            let mut told = Vec::new();
            self.left_out += self.connects.follow(look, &mut self.followed, |body| {
                let Body::SynSent(e) = body else { unreachable!("{body:?}") };
                told.push((e.retransmits, e.outcome, e.since));
            });
            told
        }

        fn is_empty(&self) -> bool {
            self.followed.is_empty() && self.connects.told.is_empty()
        }
    }

    #[test]
    fn a_connect_is_told_when_it_changes() {
        let mut looks = Looks::default();
        assert_eq!(looks.look(S, &[socket(SYN_SENT, 1)], false), [(1, Outcome::Trying, 0)]);
        assert_eq!(looks.look(2 * S, &[socket(SYN_SENT, 1)], false), []);
        let again = looks.look(3 * S, &[socket(SYN_SENT, 2)], false);
        assert_eq!(again, [(2, Outcome::Trying, 2 * S)]);
        assert_eq!(looks.followed.len(), 1);
        let done = looks.look(4 * S, &[socket(ESTABLISHED, 0)], false);
        assert_eq!(done, [(2, Outcome::Established, 3 * S)]);
        assert!(looks.is_empty());
    }

    #[test]
    fn a_socket_missing_in_a_cut_table_is_not_gone() {
        let mut looks = Looks::default();
        looks.look(S, &[socket(SYN_SENT, 1)], false);
        assert_eq!(looks.look(2 * S, &[], true), []);
        assert_eq!(looks.look(3 * S, &[], false), [(1, Outcome::Gone, 2 * S)]);
    }

    #[test]
    fn a_connect_not_seen_for_long_is_gone_even_if_the_table_is_always_cut() {
        let mut looks = Looks::default();
        looks.look(S, &[socket(SYN_SENT, 1)], true);
        looks.look(31 * S, &[socket(SYN_SENT, 1)], true);
        assert_eq!(looks.look(30 * S + GONE, &[], true), []);
        let gone = looks.look(32 * S + GONE, &[], true);
        assert!(matches!(gone[..], [(1, Outcome::Gone, _)]), "{gone:?}");
        assert!(looks.is_empty());
    }

    #[test]
    fn connects_that_are_gone_make_room_for_others() {
        let mut looks = Looks::default();
        let all: Vec<Socket> = (1..).map(from).take(MOST).collect();
        looks.look(S, &all, true);
        assert_eq!(looks.look(2 * S, &[from(4000)], true), []);
        assert_eq!(looks.left_out, 1);
        let later = looks.look(2 * S + GONE, &[from(4000)], true);
        assert_eq!(later.len(), MOST + 1);
        assert!(matches!(later.last(), Some((1, Outcome::Trying, _))));
        assert_eq!(looks.followed.len(), 1);
    }

    #[test]
    fn a_namespace_that_is_gone_is_forgotten() {
        let mut looks = Looks::default();
        looks.look(S, &[socket(SYN_SENT, 1)], false);
        looks.connects.forget(POD + 1);
        assert!(!looks.is_empty());
        looks.connects.forget(POD);
        looks.followed.clear();
        assert!(looks.is_empty());
    }
}
