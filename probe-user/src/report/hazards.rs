//! What of the node endangers connections, as far as the stream tells: how full conntrack tables
//! were, what the kernel's own counters counted, where source ports meet NodePorts.

use std::collections::{BTreeMap, HashMap};

use crate::{
    correlate::{
        Correlator,
        rules::ipvs_nodeport_collision::{NODE_PORTS, holds},
    },
    event::{Body, Counters, Event, LocalPorts},
    output::time::number,
};

/// Namespaces that are followed.
const NETNS: usize = 4096;
/// Counters that are shown, those that grew most first.
const COUNTS: usize = 20;
/// Tables that are shown, the fullest first.
const TABLES: usize = 5;
/// Settings that are shown: all that are read, and more from a file that nobody should believe.
const SETTINGS: usize = 100;
/// From how many thousandths of its limit on a table is a hazard.
const NEARLY_FULL: u64 = 800;

/// What is known of each namespace.
#[derive(Debug, Default)]
pub struct Hazards {
    seen: HashMap<u32, Seen>,
    ports: BTreeMap<u32, (String, LocalPorts)>,
    /// Settings of the kernel and their values.
    pub settings: Vec<(String, String)>,
}

#[derive(Debug)]
struct Seen {
    place: String,
    first: Counters,
    latest: Counters,
    /// Most entries of the conntrack table, and its limit then.
    entries: u64,
    max: u64,
}

/// One of the kernel's counters in one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    pub place: String,
    pub what: &'static str,
    /// From the namespace's start to the first reading.
    pub before: u64,
    /// From there to the last.
    pub during: u64,
}

impl Hazards {
    pub fn note(&mut self, known: &Correlator, event: &Event) {
        match &event.body {
            Body::Counters(now)
                if self.seen.len() < NETNS || self.seen.contains_key(&now.netns) =>
            {
                let place = known.place(now.netns, 0, event.ts);
                let seen = self.seen.entry(now.netns).or_insert_with(|| Seen {
                    place: String::new(),
                    first: now.clone(),
                    latest: Counters::default(),
                    entries: 0,
                    max: 0,
                });
                seen.place = place;
                seen.latest = now.clone();
                if let Some(conntrack) = now.conntrack
                    && conntrack.entries >= seen.entries
                {
                    (seen.entries, seen.max) = (conntrack.entries, conntrack.max);
                }
            }
            Body::LocalPorts(ports) if self.ports.len() < NETNS => {
                let place = known.place(ports.netns, 0, event.ts);
                self.ports.insert(ports.netns, (place, ports.clone()));
            }
            Body::Sysctls(told) => {
                self.settings = told.values.iter().take(SETTINGS).cloned().collect();
            }
            _ => {}
        }
    }

    /// How full conntrack tables were at most: sentences, and whether that is a hazard.
    pub fn tables(&self) -> Vec<(bool, String)> {
        let mut all: Vec<(u64, &Seen)> = self
            .seen
            .values()
            .filter(|seen| seen.max > 0)
            .map(|seen| (seen.entries.saturating_mul(1000) / seen.max, seen))
            .collect();
        all.sort_by(|a, b| {
            (b.0, b.1.entries).cmp(&(a.0, a.1.entries)).then(a.1.place.cmp(&b.1.place))
        });
        // One is enough to show that none is full.
        let shown = all.iter().filter(|(full, _)| *full >= NEARLY_FULL).count().clamp(1, TABLES);
        let sentence = |(full, seen): &(u64, &Seen)| {
            let is_hazard = *full >= NEARLY_FULL;
            let then =
                if is_hazard { "; in a full table no new connection is entered" } else { "" };
            let text = format!(
                "conntrack table of {}: at most {}.{} % full ({} of {} entries){then}",
                seen.place,
                full / 10,
                full % 10,
                number(seen.entries),
                number(seen.max)
            );
            (is_hazard, text)
        };
        all.iter().take(shown).map(sentence).collect()
    }

    /// Namespaces whose own source ports can be NodePorts, which is a hazard with IPVS.
    pub fn ports(&self) -> Vec<String> {
        let meets = |ports: &LocalPorts| {
            let (low, high) = (ports.low.max(NODE_PORTS.0), ports.high.min(NODE_PORTS.1));
            (low..=high).any(|port| !holds(&ports.reserved, port))
        };
        let all = self.ports.values().filter(|(_, ports)| meets(ports));
        let sentence = |(place, ports): &(String, LocalPorts)| {
            format!(
                "source ports of {place} are {}-{} (net.ipv4.ip_local_port_range), NodePorts by default {}-{}, \
                 and net.ipv4.ip_local_reserved_ports does not keep them apart",
                ports.low, ports.high, NODE_PORTS.0, NODE_PORTS.1
            )
        };
        all.take(TABLES).map(sentence).collect()
    }

    /// The kernel's own counters that are not zero, and how many more of them there are.
    pub fn counts(&self) -> (Vec<Count>, usize) {
        let mut all: Vec<Count> = self.seen.values().flat_map(counts).collect();
        all.sort_by(|a, b| {
            let grown = (b.during, b.before).cmp(&(a.during, a.before));
            grown.then_with(|| (&a.place, a.what).cmp(&(&b.place, b.what)))
        });
        let more = all.len().saturating_sub(COUNTS);
        all.truncate(COUNTS);
        (all, more)
    }
}

fn counts(seen: &Seen) -> Vec<Count> {
    let of = |counters: &Counters| {
        let ct = counters.conntrack.unwrap_or_default();
        [
            ("ListenOverflows: connections refused, accept queue full", counters.listen_overflows),
            ("ListenDrops: SYNs and ACKs that listeners dropped", counters.listen_drops),
            (
                "TCPReqQFullDrop: SYNs dropped, half-open connections at the limit",
                counters.reqq_full_drop,
            ),
            ("conntrack insert_failed: new entries not entered", Some(ct.insert_failed)),
            ("conntrack drop: packets of connections not entered", Some(ct.drop)),
            ("conntrack early_drop: entries removed from a full table", Some(ct.early_drop)),
            ("conntrack chaintoolong: entries refused, hash chain too long", ct.chain_too_long),
        ]
    };
    let both = of(&seen.first).into_iter().zip(of(&seen.latest));
    let count = |((what, before), (_, now)): ((&'static str, Option<u64>), (_, Option<u64>))| {
        let (before, now) = (before?, now?);
        // Another namespace of the same number begins at zero.
        let (before, during) = if now >= before { (before, now - before) } else { (0, now) };
        let count = Count { place: seen.place.clone(), what, before, during };
        (before > 0 || during > 0).then_some(count)
    };
    both.filter_map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::ConntrackCounters, testing::*};

    fn counters(netns: u32, entries: u64, drop: u64) -> Counters {
        let conntrack =
            ConntrackCounters { entries, max: 1000, drop, ..ConntrackCounters::default() };
        Counters { netns, conntrack: Some(conntrack), ..Counters::default() }
    }

    fn noted(all: &[Body]) -> Hazards {
        let mut run = Run::new();
        run.until(1000);
        let mut hazards = Hazards::default();
        for body in all {
            let event = Event { ts: START + 1000 * MS, body: body.clone() };
            hazards.note(run.pipeline.correlator(), &event);
        }
        hazards
    }

    #[test]
    fn the_fullest_moment_of_a_table_counts() {
        let tables = |all: &[(u32, u64)]| {
            let all: Vec<Body> =
                all.iter().map(|&(ns, n)| Body::Counters(counters(ns, n, 0))).collect();
            noted(&all).tables()
        };
        let calm = tables(&[(HOST, 3), (HOST, 2), (CLIENT, 1)]);
        assert_eq!(calm.len(), 1, "{calm:?}");
        assert!(!calm[0].0 && calm[0].1.contains("host: at most 0.3 % full (3 of 1 000"));
        let full = tables(&[(CLIENT, 799), (HOST, 990), (HOST, 10), (WEB, 800)]);
        assert!(full.iter().all(|(is_hazard, _)| *is_hazard) && full.len() == 2, "{full:?}");
        assert!(
            full[0].1.contains("host: at most 99.0 %") && full[1].1.contains("web"),
            "{full:?}"
        );
        assert_eq!(tables(&[]), []);
    }

    #[test]
    fn counters_before_the_run_and_in_it() {
        let of = |netns, drop| Body::Counters(counters(netns, 0, drop));
        // The pod's namespace gives way to another of its number, whose counters begin at zero.
        let hazards = noted(&[of(HOST, 5), of(HOST, 7), of(CLIENT, 9), of(CLIENT, 1), of(WEB, 0)]);
        let (counts, more) = hazards.counts();
        let told: Vec<_> = counts.iter().map(|c| (&*c.place, c.before, c.during)).collect();
        assert_eq!((told, more), (vec![("host", 5, 2), ("client", 0, 1)], 0));
        let many: Vec<Body> = (0..30).map(|n| of(5000 + n, 1)).collect();
        let (counts, more) = noted(&many).counts();
        assert_eq!((counts.len(), more), (COUNTS, 10));
    }

    #[test]
    fn source_ports_that_can_be_node_ports() {
        let ports = |low, high, reserved: &[_]| noted(&[local_ports(low, high, reserved)]).ports();
        assert_eq!(ports(32_768, 60_999, &[]), [""; 0]);
        assert_eq!(ports(1024, 65_535, &[(30_000, 31_000), (31_001, 32_767)]), [""; 0]);
        let meets = ports(1024, 65_535, &[(30_000, 31_000)]);
        assert!(meets.len() == 1 && meets[0].contains("source ports of host are 1024-65535"));
    }
}
