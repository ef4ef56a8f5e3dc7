//! A node in a folder, and what the table tells of it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
};

use proptest::prelude::*;

use super::*;
use crate::event::{Container, Sandbox};

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
        PodTable::unhurried(self.0.path(), Duration::from_secs(60))
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

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

/// A process of a pod: the pod's UID is made of this digit.
fn cgroup(digit: char) -> String {
    format!("0::/kubepods/pod{}/{}\n", digit.to_string().repeat(32), id(digit))
}

impl Fixture {
    fn in_pod(&self, pid: u32, digit: char) {
        fs::write(self.path(&format!("proc/{pid}/cgroup")), cgroup(digit)).unwrap();
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
    }

    fn log_folder(&self, pod: &str, digit: char) {
        let uid: String = std::iter::repeat_n(digit, 32).collect();
        fs::create_dir_all(self.path(&format!("var/log/pods/shop_{pod}_{uid}"))).unwrap();
    }
}

#[test]
fn a_pod_is_called_by_its_name() {
    let node = Fixture::new();
    let mut table = node.table();
    node.process(30, 500, "10.0.0.5");
    node.in_pod(30, 'a');
    // Its log folder is there before its first process; if not, it is found later.
    let uid = "a".repeat(32);
    assert!(scan(&mut table, true).contains(&up(500, &format!("pod:{uid}"), &["10.0.0.5"])));
    node.log_folder("web-1", 'a');
    assert_eq!(scan(&mut table, true), [up(500, "shop/web-1", &["10.0.0.5"])]);
    assert_eq!(scan(&mut table, true), []);
}

#[test]
fn containers_come_and_go() {
    let node = Fixture::new();
    let mut table = node.table();
    node.process(30, 200, "10.0.0.2");
    node.in_pod(30, 'a');
    let config = r#"{"annotations":{"io.kubernetes.cri.container-name":"web",
        "io.kubernetes.cri.sandbox-name":"web-1","io.kubernetes.cri.sandbox-namespace":"shop"}}"#;
    let task = "run/containerd/io.containerd.runtime.v2.task/k8s.io";
    let containers = |table: &PodTable| {
        let name = |one: &Container| one.name.clone().unwrap_or_else(|| one.id[..2].to_owned());
        table.get(200).unwrap().containers.iter().map(name).collect::<Vec<_>>().join(" ")
    };
    scan(&mut table, true);
    assert_eq!(containers(&table), "aa", "the sandbox");
    fs::create_dir_all(node.path(&format!("{task}/{}", id('b')))).unwrap();
    node.write(&format!("{task}/{}/config.json", id('b')), config);
    node.process(31, 200, "10.0.0.2");
    node.write("proc/31/cgroup", &cgroup('a').replace(&id('a'), &id('b')));
    assert_eq!(scan(&mut table, true).len(), 1, "that is news");
    assert_eq!(containers(&table), "aa web");
    assert_eq!(scan(&mut table, true), []);
    node.exit(31);
    scan(&mut table, true);
    assert_eq!(containers(&table), "aa");
}

/// The process lives on, and is no other one when the runtime's file comes.
#[test]
fn a_container_seen_before_its_runtimes_file_gets_its_name() {
    let node = Fixture::new();
    let mut table = node.table();
    let task = "run/containerd/io.containerd.runtime.v2.task/k8s.io";
    for (pid, digit) in [(30, 'a'), (31, 'b')] {
        node.process(pid, 200, "10.0.0.2");
        node.write(&format!("proc/{pid}/cgroup"), &cgroup('a').replace(&id('a'), &id(digit)));
        fs::create_dir_all(node.path(&format!("{task}/{}", id(digit)))).unwrap();
    }
    let of_pod =
        r#""io.kubernetes.cri.sandbox-name":"web-1","io.kubernetes.cri.sandbox-namespace":"shop""#;
    node.write(
        &format!("{task}/{}/config.json", id('a')),
        &format!(r#"{{"annotations":{{{of_pod}}}}}"#),
    );
    let known = |table: &PodTable| {
        let pod = table.get(200).unwrap();
        (pod.containers[1].name.clone(), pod.more_containers)
    };
    scan(&mut table, true);
    assert_eq!(known(&table), (None, true));
    let of_web =
        format!(r#"{{"annotations":{{{of_pod},"io.kubernetes.cri.container-name":"web"}}}}"#);
    node.write(&format!("{task}/{}/config.json", id('b')), &of_web);
    scan(&mut table, true);
    assert_eq!(known(&table), (Some("web".to_owned()), false), "a sandbox has no name");
}

/// gVisor takes the addresses off the device: libcni has kept them.
#[test]
fn a_sandboxed_pod_has_the_addresses_that_cni_gave() {
    let node = Fixture::new();
    let mut table = node.table();
    let task = format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{}", id('a'));
    for dir in [&task, "var/lib/cni/results"] {
        fs::create_dir_all(node.path(dir)).unwrap();
    }
    let config = r#"{"annotations":{"io.kubernetes.cri.sandbox-name":"safe-0",
        "io.kubernetes.cri.sandbox-namespace":"shop"}}"#;
    node.write(&format!("{task}/config.json"), config);
    node.write(&format!("{task}/shim-binary-path"), "/usr/local/bin/containerd-shim-runsc-v1");
    let result = r#"{"kind":"cniCacheV1","result":{"ips":[{"address":"10.0.0.7/24"}]}}"#;
    node.write(&format!("var/lib/cni/results/cbr0-{}-eth0", id('a')), result);
    for (pid, netns, address) in [(30, 200, "127.0.0.1"), (31, 201, "10.0.0.5")] {
        node.process(pid, netns, address);
        node.in_pod(pid, 'a');
    }
    scan(&mut table, true);
    let pod = table.get(200).unwrap();
    assert_eq!((pod.name.as_str(), pod.sandbox), ("shop/safe-0", Some(Sandbox::GVisor)));
    assert_eq!(pod.addresses, ["10.0.0.7".parse::<IpAddr>().unwrap()]);
    let other = &table.get(201).unwrap().addresses;
    assert_eq!(*other, ["10.0.0.5".parse::<IpAddr>().unwrap()], "it has its own");
}

#[test]
fn a_name_made_up_by_the_runtime_gives_way() {
    let node = Fixture::new();
    let mut table = node.table();
    node.log_folder("web-1", 'a');
    let netns = node.name("cni-0b8a9e1c-5a3f-4c6e-9d2b-7f1e2a3b4c5d");
    let made_up = "netns:cni-0b8a9e1c-5a3f-4c6e-9d2b-7f1e2a3b4c5d";
    assert!(scan(&mut table, false).contains(&up(netns, made_up, &[])));
    // Somebody looks into it, before the pod's first process is there.
    node.process(3, netns, "10.0.0.5");
    scan(&mut table, true);
    assert_eq!(table.get(netns).unwrap().name, made_up);
    node.process(30, netns, "10.0.0.5");
    node.in_pod(30, 'a');
    assert_eq!(scan(&mut table, true), [up(netns, "shop/web-1", &["10.0.0.5"])]);
}

/// An event tells of a process in it before any pass.
#[test]
fn a_process_tells_the_name_of_its_namespace() {
    let node = Fixture::new();
    let mut table = node.table();
    node.log_folder("web-1", 'a');
    let netns = node.name("cni-0b8a9e1c-5a3f-4c6e-9d2b-7f1e2a3b4c5d");
    scan(&mut table, false);
    node.process(3, 100, "10.0.0.1");
    node.in_pod(3, 'a');
    assert_eq!(table.meet(netns, 3), [], "it is somewhere else");
    assert_eq!(table.meet(netns, 4), [], "it has ended");
    node.process(30, netns, "10.0.0.5");
    node.in_pod(30, 'a');
    assert_eq!(plain(table.meet(netns, 30)), [up(netns, "shop/web-1", &[])]);
    node.process(31, 700, "10.0.0.6");
    node.in_pod(31, 'a');
    assert_eq!(plain(table.meet(700, 31)), [up(700, "shop/web-1", &[])], "never heard of before");
    assert_eq!(table.passes(), 0);
}

/// One of another pod that entered it, as a node's agents do, is what an event tells of first.
#[test]
fn what_one_process_tells_is_asked_of_all() {
    let node = Fixture::new();
    let mut table = node.table();
    node.log_folder("agent", 'a');
    node.log_folder("web-1", 'b');
    for (pid, digit) in [(40, 'a'), (30, 'b')] {
        node.process(pid, 500, "10.0.0.5");
        node.in_pod(pid, digit);
    }
    assert_eq!(plain(table.meet(500, 40)), [up(500, "shop/agent", &[])]);
    scan(&mut table, true);
    assert_eq!(table.get(500).unwrap().name, "shop/web-1");
}

#[test]
fn a_pass_without_time_forgets_nobody() {
    let node = Fixture::new();
    let mut table = node.table();
    node.log_folder("web-1", 'a');
    node.process(30, 500, "10.0.0.5");
    node.in_pod(30, 'a');
    scan(&mut table, true);
    // In the namespace too, and nobody's.
    node.process(900, 500, "10.0.0.5");
    (1000..1063).for_each(|pid| node.process(pid, 100, "10.0.0.1"));
    table.proc_budget = Duration::ZERO;
    assert_eq!(scan(&mut table, true), [], "neither is reached");
    node.exit(1000);
    assert_eq!(scan(&mut table, true), [], "900 is reached, 30 is not");
    assert!(!table.is_complete());
    node.exit(900);
    table.proc_budget = Duration::from_secs(60);
    assert_eq!(scan(&mut table, true), []);
    assert_eq!(table.get(500).unwrap().name, "shop/web-1");
}

/// A container's files come some time after its first process.
#[test]
fn a_name_that_is_written_late_is_found() {
    let node = Fixture::new();
    let mut table = node.table();
    node.process(30, 500, "10.0.0.5");
    node.in_pod(30, 'a');
    (0..5).for_each(|_| drop(scan(&mut table, true)));
    node.log_folder("web-1", 'a');
    let passes = (1..).find(|_| !scan(&mut table, true).is_empty());
    assert_eq!(passes, Some(3), "in the eighth pass");
    node.process(31, 600, "10.0.0.6");
    node.in_pod(31, 'b');
    (0..5).for_each(|_| drop(scan(&mut table, true)));
    node.log_folder("web-2", 'b');
    table.hurry(600);
    assert_eq!(scan(&mut table, true), [up(600, "shop/web-2", &["10.0.0.6"])]);
}

#[test]
fn a_number_used_again_inherits_no_name() {
    let node = Fixture::new();
    let mut table = node.table();
    node.log_folder("old", 'a');
    node.log_folder("new", 'b');
    node.process(30, 500, "10.0.0.5");
    node.in_pod(30, 'a');
    assert!(scan(&mut table, true).contains(&up(500, "shop/old", &["10.0.0.5"])));
    node.exit(30);
    node.process(31, 500, "10.0.0.6");
    node.in_pod(31, 'b');
    assert_eq!(scan(&mut table, true), [GONE, up(500, "shop/new", &["10.0.0.6"])]);
    // A container of the same pod that was started again is no other pod.
    node.exit(31);
    node.process(32, 500, "10.0.0.6");
    node.in_pod(32, 'b');
    assert_eq!(scan(&mut table, true), []);
    node.exit(32);
    node.process(33, 500, "10.0.0.6");
    assert_eq!(scan(&mut table, true), [GONE, up(500, "netns:500", &["10.0.0.6"])], "nobody's");
}

const GONE: PodChange = PodChange::Gone { netns: 500 };

#[test]
fn pods_and_containers_without_a_name_are_told_apart_by_their_ids() {
    let node = Fixture::new();
    let mut table = node.table();
    let uid = |digit: char| format!("pod:{}", digit.to_string().repeat(32));
    node.process(30, 500, "10.0.0.5");
    node.in_pod(30, 'a');
    scan(&mut table, true);
    node.exit(30);
    node.process(31, 500, "10.0.0.5");
    node.in_pod(31, 'b');
    assert_eq!(scan(&mut table, true), [GONE, up(500, &uid('b'), &["10.0.0.5"])]);
    node.exit(31);
    for (pid, digit) in [(32, 'c'), (33, 'd')] {
        node.process(pid, 500, "10.0.0.5");
        node.write(&format!("proc/{pid}/cgroup"), &format!("0::/docker/{}\n", id(digit)));
        let name = digit.to_string().repeat(12);
        assert_eq!(scan(&mut table, true), [GONE, up(500, &name, &["10.0.0.5"])]);
        node.exit(pid);
    }
}

#[test]
fn a_name_is_not_passed_on() {
    for deep_between in [true, false] {
        let node = Fixture::new();
        let mut table = node.table();
        let netns = node.name("blue");
        node.process(30, netns, "10.0.0.5");
        assert!(scan(&mut table, true).contains(&up(netns, "blue", &["10.0.0.5"])));
        node.unname("blue");
        if deep_between {
            assert_eq!(scan(&mut table, true), [], "its process lives on");
            assert_eq!(table.get(netns).unwrap().name, "blue");
        }
        node.exit(30);
        node.process(31, netns, "10.0.0.6");
        let another = up(netns, &format!("netns:{netns}"), &["10.0.0.6"]);
        assert_eq!(scan(&mut table, true), [PodChange::Gone { netns }, another]);
    }
}

#[test]
fn the_name_of_a_pod_whose_file_was_removed_is_not_passed_on() {
    let node = Fixture::new();
    let mut table = node.table();
    node.log_folder("old", 'a');
    let netns = node.name("cni-0b8a9e1c-5a3f-4c6e-9d2b-7f1e2a3b4c5d");
    node.process(30, netns, "10.0.0.5");
    node.in_pod(30, 'a');
    assert!(scan(&mut table, true).contains(&up(netns, "shop/old", &["10.0.0.5"])));
    // The file, the process and the next user of the number: all between two deep scans.
    node.unname("cni-0b8a9e1c-5a3f-4c6e-9d2b-7f1e2a3b4c5d");
    node.exit(30);
    node.process(31, netns, "10.0.0.6");
    let another = up(netns, &format!("netns:{netns}"), &["10.0.0.6"]);
    assert_eq!(scan(&mut table, true), [PodChange::Gone { netns }, another]);
}

#[test]
fn another_cookie_is_another_namespace() {
    let node = Fixture::new();
    let mut table = node.table();
    node.log_folder("old", 'a');
    node.process(30, 500, "10.0.0.5");
    node.in_pod(30, 'a');
    scan(&mut table, true);
    let known = table.known.get_mut(&500).unwrap();
    let mut changes = Changes::default();
    known.update(vec![], 7, &mut changes);
    assert_eq!(known.pod.name, "shop/old", "its cookie was not known");
    known.update(vec![], 0, &mut changes);
    assert!(changes.gone.is_empty());
    known.update(vec![], 8, &mut changes);
    assert!(changes.gone.contains(&500) && changes.up.contains(&500));
    assert_eq!((known.pod.name.as_str(), known.pod.cookie), ("netns:500", 8));
}

fn inode(path: &Path) -> u32 {
    u32::try_from(fs::metadata(path).unwrap().ino()).unwrap()
}

/// What a scan tells, but for containers and sources of names: few tests are about these.
fn scan(table: &mut PodTable, deep: bool) -> Vec<PodChange> {
    plain(table.scan(deep))
}

fn plain(mut changes: Vec<PodChange>) -> Vec<PodChange> {
    for change in &mut changes {
        if let PodChange::Up(pod) = change {
            pod.containers.clear();
            pod.more_containers = false;
            pod.named_by = None;
        }
    }
    changes
}

fn up(netns: u32, name: &str, addresses: &[&str]) -> PodChange {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    PodChange::Up(Pod { netns, name: name.to_owned(), addresses, ..Pod::default() })
}

#[test]
fn tells_differences_only() {
    let node = Fixture::new();
    let mut table = node.table();
    assert_eq!(scan(&mut table, false), [up(100, "host", &["10.0.0.1"])]);
    assert_eq!(scan(&mut table, true), []);

    let web = node.name("web");
    assert_eq!(scan(&mut table, false), [up(web, "web", &[])], "no process, cannot be entered");
    assert!(table.knows(web));
    node.process(20, web, "10.0.0.2");
    assert_eq!(scan(&mut table, true), [up(web, "web", &["10.0.0.2"])]);
    assert_eq!(scan(&mut table, true), []);
    assert_eq!(scan(&mut table, false), []);
    assert_eq!(table.get(web).unwrap().addresses.len(), 1);
    assert_eq!(table.target(web).unwrap().pid, Some(20));
}

#[test]
fn namespaces_without_a_name() {
    let node = Fixture::new();
    let mut table = node.table();
    scan(&mut table, true);
    node.process(30, 500, "10.0.0.5");
    assert_eq!(scan(&mut table, false), [], "only a deep scan passes over processes");
    assert_eq!(scan(&mut table, true), [up(500, "netns:500", &["10.0.0.5"])]);
    node.process(40, 500, "10.0.0.5");
    assert_eq!(scan(&mut table, true), [], "another process lives there");
    node.exit(30);
    assert_eq!(scan(&mut table, true), []);
    assert_eq!(table.target(500).unwrap().pid, Some(40));
    node.exit(40);
    assert_eq!(scan(&mut table, false), []);
    assert_eq!(scan(&mut table, true), [PodChange::Gone { netns: 500 }]);
    assert!(!table.knows(500));
}

#[test]
fn a_removed_name_is_gone_unless_a_process_lives_on() {
    let node = Fixture::new();
    let mut table = node.table();
    let (web, db) = (node.name("web"), node.name("db"));
    node.process(20, db, "10.0.0.2");
    scan(&mut table, true);
    node.unname("web");
    node.unname("db");
    assert_eq!(scan(&mut table, false), [PodChange::Gone { netns: web }]);
    assert_eq!(table.get(db).unwrap().name, "db");
    node.exit(20);
    assert_eq!(scan(&mut table, true), [PodChange::Gone { netns: db }]);
}

#[test]
fn another_name_for_the_same_number() {
    let node = Fixture::new();
    let mut table = node.table();
    let netns = node.name("old");
    node.process(20, netns, "10.0.0.2");
    scan(&mut table, true);
    fs::rename(node.path("run/netns/old"), node.path("run/netns/new")).unwrap();
    assert_eq!(inode(&node.path("run/netns/new")), netns);
    let changes = scan(&mut table, true);
    // A plain file has another change time now, which a mounted namespace would not have.
    assert_eq!(changes, [PodChange::Gone { netns }, up(netns, "new", &["10.0.0.2"])]);
}

#[test]
fn a_process_namespace_that_gets_a_name() {
    let node = Fixture::new();
    let mut table = node.table();
    let netns = node.name("later");
    let hidden = node.path("hidden");
    fs::rename(node.path("run/netns/later"), &hidden).unwrap();
    node.process(20, netns, "10.0.0.2");
    assert!(scan(&mut table, true).contains(&up(netns, &format!("netns:{netns}"), &["10.0.0.2"])));
    fs::rename(&hidden, node.path("run/netns/later")).unwrap();
    assert_eq!(scan(&mut table, true), [up(netns, "later", &["10.0.0.2"])]);

    // If nothing of the old is left, it is another under the same number.
    fs::rename(node.path("run/netns/later"), &hidden).unwrap();
    assert_eq!(scan(&mut table, true), []);
    node.exit(20);
    node.process(21, netns, "10.0.0.3");
    fs::rename(&hidden, node.path("run/netns/later")).unwrap();
    assert_eq!(
        scan(&mut table, true),
        [PodChange::Gone { netns }, up(netns, "later", &["10.0.0.3"])]
    );
}

#[test]
fn the_host_is_called_host_whatever_its_names() {
    let node = Fixture::new();
    let netns = node.name("default");
    node.exit(1);
    node.process(1, netns, "10.0.0.1");
    assert_eq!(scan(&mut node.table(), true), [up(netns, "host", &["10.0.0.1"])]);
}

#[test]
fn nothing_else_is_called_host() {
    let node = Fixture::new();
    let mut table = node.table();
    let netns = node.name("host");
    node.process(20, netns, "10.0.0.2");
    let changes = scan(&mut table, true);
    assert_eq!(changes.len(), 2);
    assert!(changes.contains(&up(netns, "netns:host", &["10.0.0.2"])), "{changes:?}");
    node.process(30, 500, "10.0.0.5");
    node.write("proc/30/cgroup", &format!("0::/docker/{}\n", id('c')));
    let config = format!("var/lib/docker/containers/{}/config.v2.json", id('c'));
    fs::create_dir_all(node.path(&config).parent().unwrap()).unwrap();
    node.write(&config, r#"{"Name":"/host","Config":{}}"#);
    assert_eq!(scan(&mut table, true), [up(500, "netns:host", &["10.0.0.5"])]);
    // It is followed as any other.
    node.exit(30);
    assert_eq!(scan(&mut table, true), [GONE]);
}

#[test]
fn addresses_that_come_late_are_found_by_shallow_scans() {
    let node = Fixture::new();
    let mut table = node.table();
    let web = node.name("web");
    node.process(20, web, "127.0.0.1");
    assert!(scan(&mut table, true).contains(&up(web, "web", &[])));
    node.exit(20);
    node.process(20, web, "10.0.0.2");
    assert_eq!(scan(&mut table, false), [up(web, "web", &["10.0.0.2"])]);
}

#[test]
fn changed_addresses_of_old_pods() {
    let node = Fixture::new();
    let mut table = node.table();
    let web = node.name("web");
    node.process(20, web, "10.0.0.2");
    scan(&mut table, true);
    for _ in 0..70 {
        assert_eq!(scan(&mut table, false), []);
    }
    node.exit(20);
    node.process(20, web, "10.0.0.3");
    assert_eq!(scan(&mut table, false), [], "an old pod is not read in each tick");
    let news = up(web, "web", &["10.0.0.3"]);
    assert_eq!(plain(table.refresh(web)), std::slice::from_ref(&news));
    assert_eq!(plain(table.refresh(web)), []);
    assert_eq!(plain(table.refresh(12345)), []);

    node.exit(20);
    node.process(20, web, "10.0.0.4");
    assert_eq!(plain(table.refresh_all(Duration::from_secs(60))), [up(web, "web", &["10.0.0.4"])]);
    node.exit(20);
    node.process(20, web, "10.0.0.3");
    assert_eq!(scan(&mut table, true), [news], "a deep scan reads old ones again");
}

#[test]
fn what_cannot_be_listed_is_not_gone() {
    let node = Fixture::new();
    let mut table = node.table();
    let web = node.name("web");
    scan(&mut table, true);
    fs::rename(node.path("run/netns"), node.path("run/away")).unwrap();
    fs::write(node.path("run/netns"), "").unwrap();
    assert_eq!(scan(&mut table, false), []);
    assert!(table.knows(web));
}

#[test]
fn users_cannot_fill_the_table() {
    let node = Fixture::new();
    let mut table = node.table();
    let pids = (1_u32..=2 * u32::try_from(MOST_UNNAMED).unwrap()).map(|n| (n, vec![n])).collect();
    let crowd = Inhabited { pids, complete: true, ..Inhabited::default() };
    table.apply(None, BTreeMap::new(), Some(&crowd), &mut Changes::default());
    assert_eq!(table.targets().len(), MOST_UNNAMED);
}

#[test]
fn what_was_not_read_is_said() {
    let node = Fixture::new();
    let mut table = node.table();
    for pid in 10..80 {
        node.process(pid, 400 + pid, "10.0.0.5");
    }
    fs::remove_file(node.path("proc/30/net/fib_trie")).unwrap();
    scan(&mut table, true);
    assert!(table.is_complete());
    assert_eq!(table.unread(431), None);
    assert!(table.unread(430).unwrap().contains("fib_trie"));
    let mut hurried = PodTable::unhurried(node.0.path(), Duration::ZERO);
    hurried.scan(true);
    assert!(!hurried.is_complete(), "63 of 71 processes");
    assert_eq!(hurried.unread(431).unwrap(), "no time was left for it");
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
            let inhabited = Inhabited { pids: BTreeMap::new(), complete: true, ..Inhabited::default() };
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
