//! One look into many namespaces, where no hook tells: their counters, connects whose SYN was sent
//! again, accept queues. Tables of sockets are read only where a counter says that there is
//! something to see, so a quiet namespace costs one small file.

use std::{collections::HashMap, net::SocketAddr, path::Path, time::Duration};

use anyhow::Result;
use log::debug;

use super::{
    counters::{TableSize, read_net},
    lines::Budget,
    sockets::{self, LISTEN, SYN_SENT, Socket, Table},
};
use crate::{
    event::Counters,
    pods::{
        Target,
        enter::{Inside, visit_while},
        procfs::{TEXT_MAX, read_optional},
    },
};

/// About what `netstat` and `stat/nf_conntrack` have together.
const COUNTERS_BYTES: u64 = 6_000;

/// A connect by its two ends, as its client sees them.
pub type Ends = (SocketAddr, SocketAddr);

/// What is known from before.
#[derive(Debug, Default)]
pub struct Before {
    /// Whether connects are looked for.
    pub connects: bool,
    pub counters: HashMap<u32, Counters>,
    /// Connects whose end is waited for, by namespace.
    pub followed: HashMap<u32, Vec<Ends>>,
}

/// What one namespace shows.
#[derive(Debug, Default)]
pub struct Seen {
    pub counters: Counters,
    /// Connects that were sent again, and those that are followed; `None`: not looked for.
    pub connects: Option<Table>,
    /// Listeners that have not accepted everything; `None`: not looked for.
    pub queues: Option<Table>,
    pub somaxconn: Option<u32>,
}

/// What was seen, and how much was not.
#[derive(Debug, Default)]
pub struct Round {
    pub seen: Vec<(u32, Seen)>,
    /// The namespace that would have been next when the budget was used up.
    pub next: Option<u32>,
    /// Namespaces not reached, and tables cut.
    pub not_read: u64,
    /// Bytes read, and processor time that it took.
    pub bytes: u64,
    pub time: Duration,
}

/// Looks into `targets` in their order until `bytes` or `time` (of a processor) are used up.
pub fn read(root: &Path, targets: &[Target], before: &Before, bytes: u64, time: Duration) -> Round {
    let size = TableSize::read(root);
    let budget = Budget::new(bytes, time);
    let answers = visit_while(
        root,
        targets,
        || !budget.is_over(),
        |inside| {
            let seen = one(root, inside, size, before, &budget);
            budget.is_over();
            seen
        },
    );
    let (bytes, time) = (bytes - budget.left(), budget.used());
    let mut round = Round { bytes, time, ..Round::default() };
    let reached = answers.len();
    if let Some(next) = targets.get(reached) {
        round.next = Some(next.netns);
        round.not_read = u64::try_from(targets.len() - reached).unwrap_or(u64::MAX);
    }
    for (netns, answer) in answers {
        match answer {
            Ok(seen) => {
                let cut = |table: &Option<Table>| table.as_ref().is_some_and(|t| t.cut);
                round.not_read += u64::from(cut(&seen.connects) || cut(&seen.queues));
                let counters = Counters { netns, ..seen.counters };
                round.seen.push((netns, Seen { counters, ..seen }));
            }
            Err(error) => debug!("cannot look into network namespace {netns}: {error:#}"),
        }
    }
    round
}

fn one(
    root: &Path,
    inside: &Inside,
    size: TableSize,
    before: &Before,
    budget: &Budget,
) -> Result<Seen> {
    let counters = read_net(&inside.net, size)?;
    budget.spend(COUNTERS_BYTES);
    let known = before.counters.get(&inside.netns);
    // Of a namespace that was not there before everything is new.
    let rose = |of: fn(&Counters) -> Option<u64>| {
        of(&counters).unwrap_or(0) > known.and_then(of).unwrap_or(0)
    };
    let none = Vec::new();
    let followed = before.followed.get(&inside.netns).unwrap_or(&none);
    let connects = before.connects && (rose(|c| c.syn_retransmits) || !followed.is_empty());
    let queues = known.is_some() && rose(|c| c.listen_overflows);
    let mut seen = Seen { counters, ..Seen::default() };
    if connects {
        let wanted = |s: &Socket| {
            (s.state == SYN_SENT && s.retransmits > 0)
                || followed.contains(&(s.local, s.remote))
                || (queues && is_waiting(s))
        };
        let table = tables(&inside.net, false, budget, wanted)?;
        if queues {
            let of = table.sockets.iter().filter(|s| is_waiting(s)).copied().collect();
            seen.queues = Some(Table { sockets: of, cut: table.cut });
        }
        let of = table.sockets.iter().filter(|s| s.state != LISTEN).copied().collect();
        seen.connects = Some(Table { sockets: of, cut: table.cut });
    } else if queues {
        seen.queues = Some(tables(&inside.net, true, budget, is_waiting)?);
    }
    if queues && inside.entered {
        let text = read_optional(&root.join("proc/sys/net/core/somaxconn"), TEXT_MAX)?;
        seen.somaxconn = text.and_then(|text| text.trim().parse().ok());
    }
    Ok(seen)
}

fn is_waiting(socket: &Socket) -> bool {
    socket.state == LISTEN && socket.rx_queue > 0
}

/// Each of the two files takes at most half of what is left of the budget, so that the namespaces
/// after this one are looked at too however many sockets are here.
fn tables(
    net: &Path,
    listening: bool,
    budget: &Budget,
    wanted: impl Fn(&Socket) -> bool,
) -> Result<Table> {
    let read =
        |name| budget.with_half(|half| sockets::read(&net.join(name), listening, half, &wanted));
    let mut table = read("tcp")?;
    let v6 = read("tcp6")?;
    table.sockets.extend(v6.sockets);
    table.cut |= v6.cut;
    Ok(table)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use std::{fs, os::unix::fs::symlink};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const LISTENER: &str = "0: 00000000:1F90 00000000:0000 0A 0:00000002 0:0 00000000 0 0 11\n";
    const CONNECT: &str = "1: 0201F40A:9C40 0202F40A:1F90 02 1:0 01:A6 00000001 0 0 12\n";
    const FRESH: &str = "2: 0201F40A:9C41 0202F40A:1F90 02 1:0 01:A6 00000000 0 0 13\n";

    /// Processes 100, 101, … each in a namespace of its own with that number.
    fn fixture(count: u32) -> (tempfile::TempDir, Vec<Target>) {
        let dir = tempfile::tempdir().unwrap();
        let mut targets = Vec::new();
        for netns in 100..100 + count {
            let proc = dir.path().join(format!("proc/{netns}"));
            fs::create_dir_all(proc.join("ns")).unwrap();
            fs::create_dir_all(proc.join("net")).unwrap();
            symlink(format!("net:[{netns}]"), proc.join("ns/net")).unwrap();
            write(dir.path(), netns, 0, 0);
            fs::write(proc.join("net/tcp"), [LISTENER, CONNECT, FRESH].concat()).unwrap();
            targets.push(Target { netns, path: None, pid: Some(netns) });
        }
        (dir, targets)
    }

    fn write(root: &Path, netns: u32, overflows: u32, resent: u32) {
        let text = format!("TcpExt: ListenOverflows TCPSynRetrans\nTcpExt: {overflows} {resent}\n");
        fs::write(root.join(format!("proc/{netns}/net/netstat")), text).unwrap();
    }

    fn before(round: &Round, connects: bool) -> Before {
        let counters = round.seen.iter().map(|(netns, seen)| (*netns, seen.counters.clone()));
        Before { connects, counters: counters.collect(), followed: HashMap::new() }
    }

    #[test]
    fn tables_are_read_only_where_a_counter_rose() {
        let (dir, targets) = fixture(3);
        let look = |before: &Before| read(dir.path(), &targets, before, 1 << 20, LONG);
        let first = look(&Before { connects: true, ..Before::default() });
        assert_eq!(first.seen.len(), 3);
        assert!(first.seen.iter().all(|(_, s)| s.connects.is_none() && s.queues.is_none()));

        write(dir.path(), 101, 1, 0);
        write(dir.path(), 102, 0, 1);
        let second = look(&before(&first, true));
        let [(_, quiet), (_, full), (_, trying)] = second.seen.as_slice() else { unreachable!() };
        assert!(quiet.connects.is_none() && quiet.queues.is_none());
        assert!(full.connects.is_none());
        assert_eq!(full.queues.as_ref().unwrap().sockets[0].rx_queue, 2);
        assert!(trying.queues.is_none());
        let connects = &trying.connects.as_ref().unwrap().sockets;
        assert_eq!(connects.iter().map(|s| s.ino).collect::<Vec<_>>(), [12], "sent again");

        let mut hooked = before(&first, false);
        assert!(look(&hooked).seen[2].1.connects.is_none(), "a hook tells of connects");
        hooked = Before { connects: true, ..before(&second, true) };
        let ends = ("10.244.1.2:40001".parse().unwrap(), "10.244.2.2:8080".parse().unwrap());
        hooked.followed.insert(100, vec![ends]);
        let followed = look(&hooked).seen[0].1.connects.as_ref().unwrap().sockets.clone();
        assert_eq!(followed.iter().map(|s| s.ino).collect::<Vec<_>>(), [12, 13]);
    }

    #[test]
    fn the_budget_leaves_namespaces_out_and_says_which_is_next() {
        let (dir, targets) = fixture(4);
        let none = Before::default();
        let round = read(dir.path(), &targets, &none, 2 * COUNTERS_BYTES, LONG);
        assert_eq!((round.seen.len(), round.next, round.not_read), (2, Some(102), 2));
        let round = read(dir.path(), &targets, &none, 1 << 20, Duration::ZERO);
        assert_eq!((round.seen.len(), round.next, round.not_read), (1, Some(101), 3));
    }

    #[test]
    fn a_huge_table_leaves_something_for_the_others() {
        let (dir, targets) = fixture(3);
        fs::write(dir.path().join("proc/100/net/tcp"), FRESH.repeat(10_000)).unwrap();
        let none = Before { connects: true, ..Before::default() };
        let first = read(dir.path(), &targets, &none, 1 << 20, LONG);
        for netns in [100, 102] {
            write(dir.path(), netns, 0, 1);
        }
        let round = read(dir.path(), &targets, &before(&first, true), 200_000, LONG);
        assert_eq!((round.seen.len(), round.next), (3, None));
        let table = |at: usize| round.seen[at].1.connects.as_ref().unwrap();
        assert!(table(0).cut && !table(2).cut);
        assert_eq!(table(2).sockets.iter().map(|s| s.ino).collect::<Vec<_>>(), [12]);
        assert_eq!(round.not_read, 1);
    }

    #[test]
    fn a_namespace_that_cannot_be_read_does_not_stop_the_others() {
        let (dir, targets) = fixture(3);
        fs::write(dir.path().join("proc/100/net/netstat"), "garbled").unwrap();
        fs::remove_dir_all(dir.path().join("proc/101")).unwrap();
        let round = read(dir.path(), &targets, &Before::default(), 1 << 20, LONG);
        assert_eq!(round.seen.iter().map(|(netns, _)| *netns).collect::<Vec<_>>(), [102]);
        assert_eq!(round.next, None);
    }
}
