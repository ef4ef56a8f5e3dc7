//! What fixtures cannot show: real namespaces, and what a look at many of them costs. Needs root
//! and makes namespaces on this machine, so it runs only when asked for:
//! `cargo test -p probe-user --release -- --ignored --nocapture pods::live`.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::{
    path::Path,
    process::{Child, Command},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{PodTable, inspect, netns, procfs::netns_of};
use crate::{
    event::PodChange,
    snapshot::{
        Sources,
        round::{self, Before},
    },
};

const LONG: Duration = Duration::from_secs(60);

/// One test at a time: each sees all namespaces of this machine.
static ALONE: Mutex<()> = Mutex::new(());

/// Named namespaces and processes that go away with it.
struct Lab {
    names: Vec<String>,
    processes: Vec<Child>,
    _alone: MutexGuard<'static, ()>,
}

impl Lab {
    fn new() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Self { names: Vec::new(), processes: Vec::new(), _alone: alone }
    }

    fn ip(args: &str) {
        assert!(Command::new("ip").args(args.split(' ')).status().unwrap().success(), "ip {args}");
    }

    /// A namespace `stallprobe-test-PID-N` with an address.
    fn pod(&mut self) -> String {
        let number = self.names.len();
        let name = format!("stallprobe-test-{}-{number}", std::process::id());
        Self::ip(&format!("netns add {name}"));
        self.names.push(name.clone());
        Self::ip(&format!("-n {name} link set lo up"));
        Self::ip(&format!("-n {name} addr add 10.99.{}.{}/32 dev lo", number / 250, number % 250));
        Self::ip(&format!("-n {name} addr add fd99::{number}/128 dev lo nodad"));
        name
    }

    fn sleeper(&mut self, command: &str) -> u32 {
        let mut words = command.split(' ').chain(["sleep", "600"]);
        let child = Command::new(words.next().unwrap()).args(words).spawn().unwrap();
        let pid = child.id();
        self.processes.push(child);
        pid
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn timed<T>(what: &str, call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let answer = call();
    eprintln!("{what}: {:?}", start.elapsed());
    answer
}

#[test]
#[ignore = "needs root, makes network namespaces"]
fn real_namespaces() {
    let mut lab = Lab::new();
    let own = netns_of(Path::new("/"), "self").unwrap();
    let mut table = PodTable::new("/");
    table.scan(true);

    let name = lab.pod();
    let changes = table.scan(false);
    let [PodChange::Up(pod)] = changes.as_slice() else { unreachable!("{changes:?}") };
    assert_eq!(pod.name, name);
    let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.99.0.0", "fd99::"]);
    assert_eq!(netns::find(Path::new("/"), &format!("/run/netns/{name}")).unwrap(), pod.netns);
    let target = table.target(pod.netns).unwrap();
    let counters = Sources::new("/").counters(&[target], LONG);
    assert_eq!(counters.len(), 1);
    assert_eq!(counters[0].listen_overflows, Some(0));
    assert_eq!(netns_of(Path::new("/"), "self"), Some(own), "we never left");

    Lab::ip(&format!("-n {name} link add kube-ipvs0 type bridge"));
    Lab::ip(&format!("-n {name} link set kube-ipvs0 up"));
    Lab::ip(&format!("-n {name} addr add 10.96.0.10/32 dev kube-ipvs0"));
    assert_eq!(table.refresh(pod.netns), [], "addresses of services are not the pod's");
    Lab::ip(&format!("-n {name} addr add 10.96.0.10/32 dev lo"));
    assert_eq!(table.refresh(pod.netns).len(), 1, "unless it has them itself");

    // A namespace without a name shows as soon as `unshare` has made it.
    let pid = lab.sleeper("unshare --net");
    let deadline = Instant::now() + LONG;
    let hidden = loop {
        let netns = netns_of(Path::new("/"), &pid.to_string());
        match netns {
            Some(netns) if netns != own => break netns,
            _ => assert!(Instant::now() < deadline, "unshare made no namespace"),
        }
    };
    table.scan(true);
    assert_eq!(table.get(hidden).unwrap().name, format!("netns:{hidden}"));

    let netns = pod.netns;
    Lab::ip(&format!("netns del {name}"));
    lab.names.clear();
    assert_eq!(table.scan(false), [PodChange::Gone { netns }]);
}

/// Two pairs of devices with the same indices: one links a pod with the node, one a pod with a third.
/// Another pair links that pod with the node too.
#[test]
#[ignore = "needs root, makes network namespaces"]
fn veth_pairs() {
    let mut lab = Lab::new();
    let [linked, other, third] = [lab.pod(), lab.pod(), lab.pod()];
    let pair = "index 9001 type veth peer name eth0 index 77 netns";
    Lab::ip(&format!("link add sp-test9001 {pair} {linked}"));
    Lab::ip(&format!("-n {third} link add sp-test9001 {pair} {other}"));
    let another = "index 9002 type veth peer name eth1 index 78 netns";
    Lab::ip(&format!("link add sp-test9002 {another} {other}"));
    let look = inspect::all(Path::new("/")).unwrap();
    let mut table = PodTable::new("/");
    table.scan(true);
    table.refresh_all(LONG);
    for (name, veth) in [(linked, "sp-test9001"), (other, "sp-test9002"), (third, "")] {
        let row = look.rows.iter().find(|row| row.pod == name).unwrap();
        assert_eq!((row.veth.join(" "), &row.unread), (veth.to_owned(), &None), "{name}");
        let indices =
            row.veth.iter().map(|name| name.trim_start_matches("sp-test").parse().unwrap());
        assert_eq!(table.get(row.netns).unwrap().veth, indices.collect::<Vec<u32>>(), "{name}");
    }
}

#[test]
#[ignore = "needs root, makes 200 network namespaces and 500 processes, prints times"]
fn cost() {
    let mut lab = Lab::new();
    for _ in 0..200 {
        lab.pod();
    }
    for index in 0..500 {
        let name = lab.names[index % 200].clone();
        lab.sleeper(&format!("ip netns exec {name}"));
    }
    let mut table = PodTable::new("/");
    timed("first deep scan", || table.scan(true));
    for _ in 0..5 {
        timed("next shallow scan", || table.scan(false));
    }
    for _ in 0..130 {
        table.scan(false);
    }
    timed("shallow scan, nothing new", || table.scan(false));
    timed("deep scan, nothing new", || table.scan(true));
    timed("refresh all", || table.refresh_all(LONG));
    let sources = Sources::new("/");
    let targets = table.targets();
    let counters = timed("counters of all", || sources.counters(&targets, LONG));
    assert_eq!(counters.len(), targets.len());
    let mut before = Before { connects: true, ..Before::default() };
    let look = |before: &Before| round::read(Path::new("/"), &targets, before, u64::MAX, LONG);
    let first = timed("first round over all", || look(&before));
    assert_eq!(first.seen.len(), targets.len());
    before.counters = first.seen.into_iter().map(|(netns, seen)| (netns, seen.counters)).collect();
    timed("next round, nothing new", || look(&before));
    timed("node", || sources.node());
    let own = netns_of(Path::new("/"), "self").unwrap();
    timed("listener that nobody holds", || {
        super::process::listener_process(Path::new("/"), u64::MAX, own, LONG).unwrap()
    });
    assert!(table.targets().iter().filter(|t| t.path.is_some()).count() >= 200);
}
