//! Counters of network namespaces, read inside of them.

use std::{path::Path, time::Duration};

use anyhow::Result;
use log::debug;

use super::{conntrack, netstat};
use crate::{
    event::{ConntrackCounters, Counters},
    pods::{
        Target,
        enter::visit,
        procfs::{TEXT_MAX, read_optional, read_text},
    },
};

/// Reads the counters of as many of `targets` as `budget` allows, in their order. A namespace that
/// cannot be read (gone, no rights) is left out; conntrack counters that cannot be read are `None`.
pub fn read(root: &Path, targets: &[Target], budget: Duration) -> Vec<Counters> {
    let size = TableSize::read(root);
    let answers = visit(root, targets, budget, |inside| read_net(&inside.net, size));
    answers
        .into_iter()
        .filter_map(|(netns, answer)| match answer {
            Ok(counters) => Some(Counters { netns, ..counters }),
            Err(error) => {
                debug!("no counters of network namespace {netns}: {error:#}");
                None
            }
        })
        .collect()
}

/// Limit and buckets of conntrack's table, the same for all namespaces, as the thread's own one
/// shows them; 0 when conntrack is not loaded.
#[derive(Clone, Copy)]
pub(super) struct TableSize {
    max: u64,
    buckets: u64,
}

impl TableSize {
    pub(super) fn read(root: &Path) -> Self {
        let read = |name| sysctl(root, name).unwrap_or(0);
        Self { max: read("nf_conntrack_max"), buckets: read("nf_conntrack_buckets") }
    }
}

fn sysctl(root: &Path, name: &str) -> Option<u64> {
    let path = root.join("proc/sys/net/netfilter").join(name);
    match read_optional(&path, TEXT_MAX)
        .and_then(|text| text.as_deref().map(conntrack::parse_max).transpose())
    {
        Ok(max) => max,
        Err(error) => {
            debug!("{}: {error:#}", path.display());
            None
        }
    }
}

/// Reads the counters that a folder such as `/proc/PID/net` shows; `netns` is left 0.
pub(super) fn read_net(net: &Path, size: TableSize) -> Result<Counters> {
    let tcp = netstat::parse(&read_text(&net.join("netstat"), TEXT_MAX)?)?;
    let conntrack = read_conntrack(net, size).unwrap_or_else(|error| {
        debug!("{}: {error:#}", net.display());
        None
    });
    Ok(Counters {
        netns: 0,
        listen_overflows: tcp.listen_overflows,
        listen_drops: tcp.listen_drops,
        reqq_full_drop: tcp.reqq_full_drop,
        reqq_full_cookies: tcp.reqq_full_cookies,
        syn_retransmits: tcp.syn_retransmits,
        since: 0,
        conntrack,
    })
}

fn read_conntrack(net: &Path, size: TableSize) -> Result<Option<ConntrackCounters>> {
    let Some(text) = read_optional(&net.join("stat/nf_conntrack"), TEXT_MAX)? else {
        return Ok(None);
    };
    let TableSize { max, buckets } = size;
    Ok(Some(ConntrackCounters { max, buckets, ..conntrack::parse(&text)? }))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::pods::procfs::netns_of;

    fn fixture() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let net = dir.path().join("proc/7/net");
        fs::create_dir_all(dir.path().join("proc/7/ns")).unwrap();
        fs::create_dir_all(&net).unwrap();
        symlink("net:[42]", dir.path().join("proc/7/ns/net")).unwrap();
        let netstat = "TcpExt: ListenOverflows ListenDrops\nTcpExt: 5 6\n";
        fs::write(net.join("netstat"), netstat).unwrap();
        dir
    }

    fn read_one(root: &Path) -> Option<Counters> {
        let target = Target { netns: 42, path: None, pid: Some(7) };
        read(root, &[target], Duration::ZERO).pop()
    }

    #[test]
    fn conntrack_is_none_until_loaded() {
        let root = fixture();
        let mut expected = Counters {
            netns: 42,
            listen_overflows: Some(5),
            listen_drops: Some(6),
            ..Counters::default()
        };
        assert_eq!(read_one(root.path()).unwrap(), expected);

        fs::create_dir_all(root.path().join("proc/7/net/stat")).unwrap();
        let stat = root.path().join("proc/7/net/stat/nf_conntrack");
        fs::write(&stat, "entries drop\n00000010 00000001\n00000010 00000002\n").unwrap();
        let sys = root.path().join("proc/sys/net/netfilter");
        fs::create_dir_all(&sys).unwrap();
        fs::write(sys.join("nf_conntrack_max"), "262144\n").unwrap();
        expected.conntrack = Some(ConntrackCounters {
            entries: 16,
            max: 262_144,
            drop: 3,
            ..ConntrackCounters::default()
        });
        assert_eq!(read_one(root.path()).unwrap(), expected);

        fs::write(&stat, "garbled").unwrap();
        expected.conntrack = None;
        assert_eq!(read_one(root.path()).unwrap(), expected, "the rest is still good");
    }

    #[test]
    fn a_namespace_that_cannot_be_read_is_left_out() {
        let root = fixture();
        fs::write(root.path().join("proc/7/net/netstat"), "garbled").unwrap();
        assert_eq!(read_one(root.path()), None);
        fs::remove_dir_all(root.path().join("proc/7")).unwrap();
        assert_eq!(read_one(root.path()), None);
    }

    #[test]
    fn the_real_proc() {
        let root = Path::new("/");
        let netns = netns_of(root, "self").unwrap();
        let target = Target { netns, path: None, pid: Some(std::process::id()) };
        let found = read(root, &[target], Duration::ZERO).pop().unwrap();
        assert_eq!(found.netns, netns);
        assert!(found.listen_drops.is_some());
        let loaded = Path::new("/proc/self/net/stat/nf_conntrack").exists();
        assert_eq!(found.conntrack.is_some(), loaded);
    }
}
