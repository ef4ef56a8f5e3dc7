//! The pod table itself: what was known, what is there now, and the difference as events.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use log::{debug, warn};

use super::{
    addresses,
    enter::{Target, cookie, visit},
    netns::{self, HOST, Inhabited, Named},
    procfs::netns_of,
};
use crate::event::{Pod, PodChange};

/// Longest time a scan spends in reading addresses. What is left over comes with the next scans.
const READ_BUDGET: Duration = Duration::from_millis(40);
/// Longest time of a pass over all processes (about 3 µs each).
const PROC_BUDGET: Duration = Duration::from_millis(150);
/// Namespaces without news that a deep scan reads again, those read longest ago first.
const REREAD: usize = 32;
/// Namespaces without a name that are followed at most: any user of the node can make them.
const MOST_UNNAMED: usize = 4096;

/// All network namespaces of the node, with names and addresses.
#[derive(Debug)]
pub struct PodTable {
    root: PathBuf,
    known: BTreeMap<u32, Known>,
    /// Counts scans, to know what was read longest ago.
    scans: u64,
    read_budget: Duration,
    proc_budget: Duration,
    warned: bool,
}

#[derive(Debug, Default)]
struct Known {
    pod: Pod,
    target: Target,
    stamp: (i64, i64),
    /// Scans since it appeared or was replaced. Addresses come some time after the namespace, so
    /// it is read again at ages 1, 2, 4 … 64.
    age: u32,
    /// [`PodTable::scans`] when it was read last; 0 when it never was.
    read_at: u64,
}

impl Known {
    fn is_due(&self) -> bool {
        self.read_at == 0 || (self.age <= 64 && self.age.is_power_of_two())
    }
}

impl PodTable {
    /// An empty table of the node whose files are below `root`, mostly `/`. Touches nothing yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            known: BTreeMap::new(),
            scans: 0,
            read_budget: READ_BUDGET,
            proc_budget: PROC_BUDGET,
            warned: false,
        }
    }

    /// Looks again and tells what changed since the last call; everything at the first call.
    ///
    /// Without `deep` this lists `/run/netns` and looks into namespaces that are new: cheap enough
    /// for every tick. With `deep` it also passes over all processes, for namespaces without a
    /// name, and reads some of the known namespaces again: every few seconds, and when an event
    /// names a namespace that [`Self::knows`] does not.
    pub fn scan(&mut self, deep: bool) -> Vec<PodChange> {
        self.scans += 1;
        let named = match netns::named(&self.root) {
            Ok(named) => named,
            Err(error) => {
                self.warn(&error);
                return Vec::new();
            }
        };
        let inhabited = match deep.then(|| netns::inhabited(&self.root, self.proc_budget)) {
            None => None,
            Some(Ok(inhabited)) => Some(inhabited),
            Some(Err(error)) => {
                self.warn(&error);
                None
            }
        };
        let host = netns::host(&self.root);
        let mut changes = Changes::default();
        self.apply(host, named, inhabited.as_ref(), &mut changes);
        let due = self.due(deep);
        self.read(&due, self.read_budget, &mut changes.up);
        self.report(changes)
    }

    /// Reads the addresses of one namespace again, for example when an unknown address was seen in
    /// it. The caller limits how often.
    pub fn refresh(&mut self, netns: u32) -> Option<PodChange> {
        let target = self.target(netns)?;
        let mut up = BTreeSet::new();
        self.read(&[target], self.read_budget, &mut up);
        self.report(Changes { up, gone: BTreeSet::new() }).pop()
    }

    /// Reads the addresses of all namespaces again, those read longest ago first, for as long as
    /// `budget` lasts: an unknown address does not tell whose it is. The caller limits how often.
    pub fn refresh_all(&mut self, budget: Duration) -> Vec<PodChange> {
        self.scans += 1;
        let targets = self.oldest(usize::MAX);
        let mut up = BTreeSet::new();
        self.read(&targets, budget, &mut up);
        self.report(Changes { up, gone: BTreeSet::new() })
    }

    /// Whether the namespace is in the table.
    pub fn knows(&self, netns: u32) -> bool {
        self.known.contains_key(&netns)
    }

    /// What is known of a namespace.
    pub fn get(&self, netns: u32) -> Option<&Pod> {
        self.known.get(&netns).map(|known| &known.pod)
    }

    /// How to reach a namespace, for its counters.
    pub fn target(&self, netns: u32) -> Option<Target> {
        self.known.get(&netns).map(|known| known.target.clone())
    }

    /// How to reach all of them.
    pub fn targets(&self) -> Vec<Target> {
        self.known.values().map(|known| known.target.clone()).collect()
    }

    /// Brings `known` in line with what was found.
    fn apply(
        &mut self,
        host: Option<u32>,
        mut named: BTreeMap<u32, Named>,
        inhabited: Option<&Inhabited>,
        changes: &mut Changes,
    ) {
        for known in self.known.values_mut() {
            known.age = known.age.saturating_add(1);
        }
        if let Some(host) = host {
            let path = named.remove(&host).map(|named| named.path);
            let pid = if netns_of(&self.root, "1") == Some(host) { 1 } else { std::process::id() };
            let known = self.known.entry(host).or_default();
            if known.pod.name != HOST {
                *known = Known { pod: pod(host, HOST), ..Known::default() };
                changes.up.insert(host);
            }
            known.target = Target { netns: host, path, pid: Some(pid) };
        }
        for (&netns, named) in &named {
            let known = self.known.entry(netns).or_default();
            if known.pod.netns != netns || known.stamp != named.stamp {
                // New, or another namespace under a number used before: nothing of the old holds.
                *known = Known { stamp: named.stamp, ..Known::default() };
            }
            if known.pod.name != named.name {
                known.pod.netns = netns;
                known.pod.name.clone_from(&named.name);
                changes.up.insert(netns);
            }
            known.target.netns = netns;
            known.target.path = Some(named.path.clone());
        }
        if let Some(inhabited) = inhabited {
            self.apply_processes(inhabited, changes);
        }
        self.remove_gone(host, &named, inhabited, changes);
    }

    /// Notes which process lives where, and adds namespaces that only processes show.
    fn apply_processes(&mut self, inhabited: &Inhabited, changes: &mut Changes) {
        let mut unnamed = self.known.values().filter(|known| known.target.path.is_none()).count();
        for (&netns, &pid) in &inhabited.pids {
            if let Some(known) = self.known.get_mut(&netns) {
                known.target.pid = Some(pid);
            } else if unnamed < MOST_UNNAMED {
                unnamed += 1;
                let target = Target { netns, path: None, pid: Some(pid) };
                let pod = pod(netns, &format!("netns:{netns}"));
                self.known.insert(netns, Known { pod, target, ..Known::default() });
                changes.up.insert(netns);
            }
        }
    }

    /// A namespace is gone when it has no name and no process any more. A name that was removed
    /// while processes live on is kept: it is what people know the pod by.
    fn remove_gone(
        &mut self,
        host: Option<u32>,
        named: &BTreeMap<u32, Named>,
        inhabited: Option<&Inhabited>,
        changes: &mut Changes,
    ) {
        let root = &self.root;
        self.known.retain(|&netns, known| {
            if Some(netns) == host || named.contains_key(&netns) {
                return true;
            }
            let lost_its_name = known.target.path.take().is_some();
            let stays = match inhabited {
                Some(inhabited) if inhabited.complete => inhabited.pids.contains_key(&netns),
                // Only the process known to live there is looked at, and only now: others, and
                // its end, show in the next deep scan.
                _ if lost_its_name => known
                    .target
                    .pid
                    .is_some_and(|pid| netns_of(root, &pid.to_string()) == Some(netns)),
                _ => true,
            };
            if !stays {
                changes.up.remove(&netns);
                changes.gone.insert(netns);
            }
            stays
        });
    }

    /// What has to be read in this scan, never-read ones first.
    fn due(&self, deep: bool) -> Vec<Target> {
        let mut due: Vec<&Known> = self.known.values().filter(|known| known.is_due()).collect();
        due.sort_by_key(|known| known.read_at);
        let mut targets: Vec<Target> = due.iter().map(|known| known.target.clone()).collect();
        if deep {
            let more = self.oldest(REREAD);
            targets.extend(more.into_iter().filter(|target| {
                self.known.get(&target.netns).is_some_and(|known| !known.is_due())
            }));
        }
        targets
    }

    /// Those read longest ago.
    fn oldest(&self, most: usize) -> Vec<Target> {
        let mut all: Vec<&Known> = self.known.values().collect();
        all.sort_by_key(|known| known.read_at);
        all.into_iter().take(most).map(|known| known.target.clone()).collect()
    }

    /// Reads addresses and cookie; what changed is added to `up`.
    fn read(&mut self, targets: &[Target], budget: Duration, up: &mut BTreeSet<u32>) {
        let answers = visit(&self.root, targets, budget, |inside| {
            let cookie = if inside.entered { cookie() } else { 0 };
            Ok((addresses::read(inside)?, cookie))
        });
        for (netns, answer) in answers {
            let Some(known) = self.known.get_mut(&netns) else { continue };
            // Also after an error: it must not be first in the row for ever.
            known.read_at = self.scans;
            match answer {
                Ok((addresses, cookie)) => {
                    if known.update(addresses, cookie) {
                        up.insert(netns);
                    }
                }
                // It may just have gone; the next scan tells.
                Err(error) if known.target.path.as_ref().is_some_and(|path| !path.exists()) => {
                    debug!("addresses of {}: {error:#}", known.pod.name);
                }
                Err(error) => {
                    let error = error.context(format!(
                        "the addresses of network namespace {} stay unknown",
                        known.pod.name
                    ));
                    self.warn(&error);
                }
            }
        }
    }

    /// Says the first problem aloud and later ones only in debug output: a scan comes every tick.
    fn warn(&mut self, error: &anyhow::Error) {
        if self.warned {
            debug!("{error:#}");
        } else {
            self.warned = true;
            warn!("{error:#}");
        }
    }

    fn report(&self, changes: Changes) -> Vec<PodChange> {
        let gone = changes.gone.into_iter().map(|netns| PodChange::Gone { netns });
        let up = changes.up.iter().filter_map(|netns| self.get(*netns).cloned()).map(PodChange::Up);
        gone.chain(up).collect()
    }
}

impl Known {
    /// Takes what was read; `true` when it is news.
    fn update(&mut self, addresses: Vec<IpAddr>, cookie: u64) -> bool {
        // A namespace read through a process has no cookie: keep what is known.
        let cookie = if cookie == 0 { self.pod.cookie } else { cookie };
        let news = self.pod.addresses != addresses || self.pod.cookie != cookie;
        self.pod.addresses = addresses;
        self.pod.cookie = cookie;
        news
    }
}

#[derive(Debug, Default)]
struct Changes {
    up: BTreeSet<u32>,
    gone: BTreeSet<u32>,
}

fn pod(netns: u32, name: &str) -> Pod {
    Pod { netns, name: name.to_owned(), ..Pod::default() }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, symlink},
        path::Path,
    };

    use proptest::prelude::*;

    use super::*;

    /// A node in a folder. Plain files count as namespaces because `/proc/self/ns/net` is one.
    struct Fixture(tempfile::TempDir);

    impl Fixture {
        fn new() -> Self {
            let this = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(this.path("proc/self/ns")).unwrap();
            fs::write(this.path("proc/self/ns/net"), "").unwrap();
            fs::create_dir_all(this.path("run/netns")).unwrap();
            this.process(1, 100, "10.0.0.1");
            this
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn table(&self) -> PodTable {
            let long = Duration::from_secs(60);
            let table = PodTable::new(self.0.path());
            PodTable { read_budget: long, proc_budget: long, ..table }
        }

        fn name(&self, name: &str) -> u32 {
            let path = self.path("run/netns").join(name);
            fs::write(&path, "").unwrap();
            inode(&path)
        }

        fn unname(&self, name: &str) {
            fs::remove_file(self.path("run/netns").join(name)).unwrap();
        }

        fn process(&self, pid: u32, netns: u32, address: &str) {
            let dir = self.path(&format!("proc/{pid}"));
            fs::create_dir_all(dir.join("ns")).unwrap();
            fs::create_dir_all(dir.join("net")).unwrap();
            symlink(format!("net:[{netns}]"), dir.join("ns/net")).unwrap();
            let trie = format!("Local:\n  |-- {address}\n     /32 host LOCAL\n");
            fs::write(dir.join("net/fib_trie"), trie).unwrap();
        }

        fn exit(&self, pid: u32) {
            fs::remove_dir_all(self.path(&format!("proc/{pid}"))).unwrap();
        }
    }

    fn inode(path: &Path) -> u32 {
        u32::try_from(fs::metadata(path).unwrap().ino()).unwrap()
    }

    fn up(netns: u32, name: &str, addresses: &[&str]) -> PodChange {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        PodChange::Up(Pod { netns, cookie: 0, name: name.to_owned(), addresses })
    }

    #[test]
    fn tells_differences_only() {
        let node = Fixture::new();
        let mut table = node.table();
        assert_eq!(table.scan(false), [up(100, "host", &["10.0.0.1"])]);
        assert_eq!(table.scan(true), []);

        let web = node.name("web");
        assert_eq!(table.scan(false), [up(web, "web", &[])], "no process, cannot be entered");
        assert!(table.knows(web));
        node.process(20, web, "10.0.0.2");
        assert_eq!(table.scan(true), [up(web, "web", &["10.0.0.2"])]);
        assert_eq!(table.scan(true), []);
        assert_eq!(table.scan(false), []);
        assert_eq!(table.get(web).unwrap().addresses.len(), 1);
        assert_eq!(table.target(web).unwrap().pid, Some(20));
    }

    #[test]
    fn namespaces_without_a_name() {
        let node = Fixture::new();
        let mut table = node.table();
        table.scan(true);
        node.process(30, 500, "10.0.0.5");
        assert_eq!(table.scan(false), [], "only a deep scan passes over processes");
        assert_eq!(table.scan(true), [up(500, "netns:500", &["10.0.0.5"])]);
        node.process(40, 500, "10.0.0.5");
        node.exit(30);
        assert_eq!(table.scan(true), [], "another process lives there");
        assert_eq!(table.target(500).unwrap().pid, Some(40));
        node.exit(40);
        assert_eq!(table.scan(false), []);
        assert_eq!(table.scan(true), [PodChange::Gone { netns: 500 }]);
        assert!(!table.knows(500));
    }

    #[test]
    fn a_removed_name_is_gone_unless_a_process_lives_on() {
        let node = Fixture::new();
        let mut table = node.table();
        let (web, db) = (node.name("web"), node.name("db"));
        node.process(20, db, "10.0.0.2");
        table.scan(true);
        node.unname("web");
        node.unname("db");
        assert_eq!(table.scan(false), [PodChange::Gone { netns: web }]);
        assert_eq!(table.get(db).unwrap().name, "db");
        node.exit(20);
        assert_eq!(table.scan(true), [PodChange::Gone { netns: db }]);
    }

    #[test]
    fn another_name_for_the_same_number() {
        let node = Fixture::new();
        let mut table = node.table();
        let netns = node.name("old");
        node.process(20, netns, "10.0.0.2");
        table.scan(true);
        fs::rename(node.path("run/netns/old"), node.path("run/netns/new")).unwrap();
        assert_eq!(inode(&node.path("run/netns/new")), netns);
        let changes = table.scan(true);
        assert_eq!(changes, [up(netns, "new", &["10.0.0.2"])]);
    }

    #[test]
    fn a_process_namespace_that_gets_a_name() {
        let node = Fixture::new();
        let mut table = node.table();
        let netns = node.name("later");
        let hidden = node.path("hidden");
        fs::rename(node.path("run/netns/later"), &hidden).unwrap();
        node.process(20, netns, "10.0.0.2");
        assert!(table.scan(true).contains(&up(netns, &format!("netns:{netns}"), &["10.0.0.2"])));
        fs::rename(&hidden, node.path("run/netns/later")).unwrap();
        assert_eq!(table.scan(true), [up(netns, "later", &["10.0.0.2"])]);
    }

    #[test]
    fn the_host_is_called_host_whatever_its_names() {
        let node = Fixture::new();
        let netns = node.name("default");
        node.exit(1);
        node.process(1, netns, "10.0.0.1");
        assert_eq!(node.table().scan(true), [up(netns, "host", &["10.0.0.1"])]);
    }

    #[test]
    fn addresses_that_come_late_are_found_by_shallow_scans() {
        let node = Fixture::new();
        let mut table = node.table();
        let web = node.name("web");
        node.process(20, web, "127.0.0.1");
        assert!(table.scan(true).contains(&up(web, "web", &[])));
        node.exit(20);
        node.process(20, web, "10.0.0.2");
        assert_eq!(table.scan(false), [up(web, "web", &["10.0.0.2"])]);
    }

    #[test]
    fn changed_addresses_of_old_pods() {
        let node = Fixture::new();
        let mut table = node.table();
        let web = node.name("web");
        node.process(20, web, "10.0.0.2");
        table.scan(true);
        for _ in 0..70 {
            assert_eq!(table.scan(false), []);
        }
        node.exit(20);
        node.process(20, web, "10.0.0.3");
        assert_eq!(table.scan(false), [], "an old pod is not read in each tick");
        let news = up(web, "web", &["10.0.0.3"]);
        assert_eq!(table.refresh(web), Some(news.clone()));
        assert_eq!(table.refresh(web), None);
        assert_eq!(table.refresh(12345), None);

        node.exit(20);
        node.process(20, web, "10.0.0.4");
        assert_eq!(table.refresh_all(Duration::from_secs(60)), [up(web, "web", &["10.0.0.4"])]);
        node.exit(20);
        node.process(20, web, "10.0.0.3");
        assert_eq!(table.scan(true), [news], "a deep scan reads old ones again");
    }

    #[test]
    fn what_cannot_be_listed_is_not_gone() {
        let node = Fixture::new();
        let mut table = node.table();
        let web = node.name("web");
        table.scan(true);
        fs::rename(node.path("run/netns"), node.path("run/away")).unwrap();
        fs::write(node.path("run/netns"), "").unwrap();
        assert_eq!(table.scan(false), []);
        assert!(table.knows(web));
    }

    #[test]
    fn users_cannot_fill_the_table() {
        let node = Fixture::new();
        let mut table = node.table();
        let pids = (1_u32..=2 * u32::try_from(MOST_UNNAMED).unwrap()).map(|n| (n, n)).collect();
        let crowd = Inhabited { pids, complete: true };
        table.apply(None, BTreeMap::new(), Some(&crowd), &mut Changes::default());
        assert_eq!(table.targets().len(), MOST_UNNAMED);
    }

    proptest! {
        /// Whoever adds up the changes knows what is there.
        #[test]
        fn changes_add_up(steps in prop::collection::vec(
            (prop::collection::btree_map(1_u32..6, 0_u8..3, 0..5), any::<bool>()), 1..12,
        )) {
            let mut table = PodTable::new("/nonexistent");
            let mut seen: BTreeMap<u32, String> = BTreeMap::new();
            for (names, deep) in steps {
                let named = names.iter().map(|(&netns, name)| {
                    let (name, path) = (format!("pod{name}"), PathBuf::from("/nonexistent"));
                    (netns, Named { name, path, stamp: (i64::from(netns), 0) })
                });
                let inhabited = Inhabited { pids: BTreeMap::new(), complete: true };
                let mut changes = Changes::default();
                table.apply(None, named.collect(), deep.then_some(&inhabited), &mut changes);
                for change in table.report(changes) {
                    match change {
                        PodChange::Up(pod) => { seen.insert(pod.netns, pod.name); }
                        PodChange::Gone { netns } => { seen.remove(&netns); }
                    }
                }
                let truth: BTreeMap<u32, String> =
                    names.into_iter().map(|(netns, name)| (netns, format!("pod{name}"))).collect();
                prop_assert_eq!(&seen, &truth);
            }
        }
    }
}
