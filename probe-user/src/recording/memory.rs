//! What was told so far and still holds: a part of a recording that begins in the middle of a run
//! begins with it, so that it can be read alone.

use std::collections::BTreeMap;

use crate::event::{Body, Event, PodChange};

/// How many events of one kind are kept, more than correlation keeps of most.
const ROOM: usize = 8192;

/// What an event replaces when it comes again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Clock,
    Node,
    Hooks,
    Sysctls(u32),
    /// By inode number.
    Pod(u32),
    Symbol(u64),
    Listener(u64),
    Process(u32),
    Service(u8, std::net::SocketAddr),
    LocalPorts(u32),
    Counters(u32),
    Totals,
}

/// The latest event of each key, in the order in which keys came first.
#[derive(Debug, Default)]
pub struct Memory {
    /// By the number of its first arrival.
    events: BTreeMap<u64, (Key, Event)>,
    places: BTreeMap<Key, u64>,
    arrived: u64,
}

impl Memory {
    /// Keeps what the event tells, when it is of use to whoever did not see it come.
    pub fn note(&mut self, event: &Event) {
        let key = match &event.body {
            Body::Clock(_) => Key::Clock,
            Body::Node(_) => Key::Node,
            Body::Hooks(_) => Key::Hooks,
            Body::Sysctls(sysctls) => Key::Sysctls(sysctls.netns),
            Body::Pod(PodChange::Up(pod)) => Key::Pod(pod.netns),
            Body::Pod(PodChange::Gone { netns }) => return self.forget(&Key::Pod(*netns)),
            Body::Symbol(symbol) => Key::Symbol(symbol.address),
            Body::Listener(listener) => Key::Listener(listener.ino),
            Body::Process(process) => Key::Process(process.pid),
            Body::Service(service) => Key::Service(service.proto, service.address),
            Body::LocalPorts(ports) => Key::LocalPorts(ports.netns),
            Body::Counters(counters) => Key::Counters(counters.netns),
            Body::Totals(_) => Key::Totals,
            _ => return,
        };
        let place = *self.places.entry(key.clone()).or_insert_with(|| {
            self.arrived += 1;
            self.arrived
        });
        self.events.insert(place, (key, event.clone()));
        if self.events.len() > ROOM {
            let first = self.oldest();
            first.iter().for_each(|key| self.forget(key));
        }
    }

    /// What was told of the node stays, whatever else comes.
    fn oldest(&self) -> Option<Key> {
        let mut keys = self.events.values().map(|(key, _)| key);
        keys.find(|key| !matches!(key, Key::Clock | Key::Node | Key::Hooks | Key::Totals)).cloned()
    }

    fn forget(&mut self, key: &Key) {
        if let Some(place) = self.places.remove(key) {
            self.events.remove(&place);
        }
    }

    /// All of it.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.values().map(|(_, event)| event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Clock, Listener},
        testing::up,
    };

    fn listener(ino: u64, pid: u32) -> Event {
        let body = Body::Listener(Listener { ino, pid, comm: "web".to_owned() });
        Event { ts: ino, body }
    }

    #[test]
    fn the_latest_of_each_in_the_order_of_the_first() {
        let mut memory = Memory::default();
        let clock = Event { ts: 1, body: Body::Clock(Clock { wall: 5 }) };
        let pod = Event { ts: 1, body: up(7, "shop/web", "10.0.0.7") };
        for event in [&clock, &pod, &listener(3, 30), &listener(4, 40), &listener(3, 31)] {
            memory.note(event);
        }
        memory.note(&Event { ts: 2, body: Body::Tick });
        let kept: Vec<_> = memory.events().cloned().collect();
        assert_eq!(kept, [clock.clone(), pod, listener(3, 31), listener(4, 40)]);
        memory.note(&Event { ts: 9, body: Body::Pod(PodChange::Gone { netns: 7 }) });
        let kept: Vec<_> = memory.events().cloned().collect();
        assert_eq!(kept, [clock, listener(3, 31), listener(4, 40)]);
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_known_of_the_node() {
        let mut memory = Memory::default();
        let clock = Event { ts: 1, body: Body::Clock(Clock { wall: 5 }) };
        memory.note(&clock);
        for ino in 0..2 * ROOM as u64 {
            memory.note(&listener(ino, 1));
        }
        let kept: Vec<_> = memory.events().cloned().collect();
        assert_eq!(kept.len(), ROOM);
        assert_eq!(kept[0], clock);
        assert_eq!(kept[ROOM - 1], listener(2 * ROOM as u64 - 1, 1));
    }
}
