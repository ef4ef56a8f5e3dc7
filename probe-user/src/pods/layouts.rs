//! Nodes that cannot be run here, as trees of files: each is laid out as its runtime and the kubelet do
//! it, and looked at as a whole. Paths are those of `pkg/kubelet/cm` (`cgroup_manager_linux.go`,
//! `pod_container_manager_linux.go`), CRI-O's `internal/config/cgmgr`, Docker's `daemon`, kind's entrypoint
//! and podman's `libpod`.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use super::PodTable;

const UID: &str = "98005c3b-b650-4efe-8b91-2164d784397f";
/// A static pod's: the hash of its manifest.
const HASH: &str = "c704ef4c297ab11032b83ce52cbfc87b";
const POD: &str = "shop/web-0";
const QOS: [&str; 3] = ["", "burstable", "besteffort"];

/// A container's.
fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

/// A pod's cgroup with the cgroupfs driver.
fn cgroupfs(qos: &str, uid: &str) -> String {
    let qos = if qos.is_empty() { String::new() } else { format!("/{qos}") };
    format!("/kubepods{qos}/pod{uid}")
}

/// The same with the systemd driver, below the kubelet's `--cgroup-root` if there is one.
fn systemd(root: &str, qos: &str, uid: &str) -> String {
    let mut path = String::new();
    let mut name = String::new();
    let uid = format!("pod{}", uid.replace('-', "_"));
    for part in [root, "kubepods", qos, &uid].into_iter().filter(|part| !part.is_empty()) {
        let dash = if name.is_empty() { "" } else { "-" };
        name = format!("{name}{dash}{part}");
        path = format!("{path}/{name}.slice");
    }
    path
}

/// The three kinds of `/proc/PID/cgroup`.
fn v2(path: &str) -> String {
    format!("0::{path}\n")
}

fn v1(path: &str) -> String {
    let controllers = ["cpuset", "cpu,cpuacct", "blkio", "memory", "devices", "freezer", "pids"];
    let mut text = format!("12:rdma:/\n11:net_cls,net_prio:{path}\n");
    for (number, controllers) in controllers.iter().enumerate() {
        text.push_str(&format!("{}:{controllers}:{path}\n", 10 - number));
    }
    format!("{text}1:name=systemd:{path}\n")
}

fn hybrid(path: &str) -> String {
    format!("{}0::/system.slice/containerd.service\n", v1(path))
}

/// A node in a folder.
struct Tree(tempfile::TempDir);

impl Tree {
    /// With its first process.
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        // A plain file counts as a namespace if this is one too.
        tree.write("proc/self/ns/net", "");
        tree.process(1, 4_026_531_840, "systemd", &v2("/init.scope"));
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn process(&self, pid: u32, netns: u32, comm: &str, cgroup: &str) {
        self.write(&format!("proc/{pid}/cgroup"), cgroup);
        self.write(&format!("proc/{pid}/comm"), &format!("{comm}\n"));
        let trie = "Local:\n  |-- 10.244.1.7\n     /32 host LOCAL\n";
        self.write(&format!("proc/{pid}/net/fib_trie"), trie);
        let ns = self.path(&format!("proc/{pid}/ns"));
        fs::create_dir_all(&ns).unwrap();
        symlink(format!("net:[{netns}]"), ns.join("net")).unwrap();
    }

    /// A namespace with a name, as CNI's plugins or podman mount it.
    fn netns(&self, name: &str) -> u32 {
        let path = format!("run/netns/{name}");
        self.write(&path, "");
        u32::try_from(fs::metadata(self.path(&path)).unwrap().ino()).unwrap()
    }

    /// The sandbox and a container of the pod in it, below that pod's cgroup.
    fn pod(&self, netns: u32, kind: fn(&str) -> String, pod: &str, leaf: fn(&str) -> String) {
        let path = |digit: char| kind(&format!("{pod}/{}", leaf(&id(digit))));
        self.process(30, netns, "pause", &path('a'));
        self.process(31, netns, "nginx", &path('b'));
        self.process(32, netns, "nginx", &path('b'));
    }

    /// containerd's files of both.
    fn containerd(&self, state: &str, uid: &str) {
        for (digit, name) in [('a', ""), ('b', r#""io.kubernetes.cri.container-name":"web","#)] {
            let path = format!("{state}/io.containerd.runtime.v2.task/k8s.io/{}", id(digit));
            let config = format!(
                r#"{{"ociVersion":"1.1.0","annotations":{{{name}
                "io.kubernetes.cri.sandbox-namespace":"shop","io.kubernetes.cri.sandbox-name":"web-0",
                "io.kubernetes.cri.sandbox-uid":"{uid}"}}}}"#
            );
            self.write(&format!("{path}/config.json"), &config);
            self.write(&format!("{path}/shim-binary-path"), "/usr/bin/containerd-shim-runc-v2");
        }
    }

    /// The kubelet's.
    fn log_folder(&self, uid: &str) {
        self.write(&format!("var/log/pods/shop_web-0_{uid}/web/0.log"), "");
    }

    fn table(&self) -> PodTable {
        let mut table = PodTable::unhurried(self.0.path(), Duration::from_secs(60));
        table.scan(true);
        table
    }

    /// What the namespace is called, and the containers in it.
    fn told(&self, netns: u32) -> (String, String) {
        let table = self.table();
        let pod = table.get(netns).unwrap();
        let names = pod.containers.iter().map(|one| one.name.clone().unwrap_or("-".to_owned()));
        (pod.name.clone(), names.collect::<Vec<_>>().join(" "))
    }
}

fn called(pod: &str, containers: &str) -> (String, String) {
    (pod.to_owned(), containers.to_owned())
}

const CNI: &str = "cni-3c9d1b5e-7a0f-4c2d-8e6b-1f2a3b4c5d6e";

#[test]
fn containerd_with_either_driver_on_each_kind_of_cgroups() {
    for kind in [v1, v2, hybrid] {
        for (qos, uid) in QOS.iter().flat_map(|qos| [(qos, UID), (qos, HASH)]) {
            for (pod, leaf) in [
                (cgroupfs(qos, uid), (|id| id.to_owned()) as fn(&str) -> String),
                (systemd("", qos, uid), |id| format!("cri-containerd-{id}.scope")),
            ] {
                let tree = Tree::new();
                let netns = tree.netns(CNI);
                tree.pod(netns, kind, &pod, leaf);
                assert_eq!(tree.told(netns), called(&format!("pod:{uid}"), "- -"), "{pod}");
                tree.log_folder(uid);
                assert_eq!(tree.told(netns), called(POD, "- -"), "{pod}");
                tree.containerd("run/containerd", uid);
                assert_eq!(tree.told(netns), called(POD, "- web"), "{pod}");
            }
        }
    }
}

/// containerd with `SystemdCgroup = false` under a kubelet with the systemd driver: runc takes what systemd
/// would understand for the name of one folder.
#[test]
fn containerd_with_the_wrong_driver() {
    let tree = Tree::new();
    let netns = tree.netns(CNI);
    let slice = format!("kubepods-burstable-pod{}.slice", UID.replace('-', "_"));
    for (pid, digit) in [(30, 'a'), (31, 'b')] {
        let path = format!("/system.slice/containerd.service/{slice}:cri-containerd:{}", id(digit));
        tree.process(pid, netns, "nginx", &hybrid(&path));
    }
    tree.containerd("run/containerd", UID);
    assert_eq!(tree.told(netns), called(POD, "- web"));
}

/// CRI-O names namespaces by a bare UUID; its monitors are in the pod's cgroup and the node's network. crun
/// puts the container one level below its scope.
#[test]
fn cri_o() {
    for (pod, scope) in [
        (systemd("", "burstable", UID), ".scope"),
        (systemd("", "", HASH), ".scope/container"),
        (cgroupfs("besteffort", UID), ""),
    ] {
        let tree = Tree::new();
        let netns = tree.netns("0b8a9e1c-5a3f-4c6e-9d2b-7f1e2a3b4c5d");
        for (pid, digit, keys) in [
            (
                30,
                'a',
                r#""io.kubernetes.container.name":"POD","io.kubernetes.cri-o.KubeName":"web-0",
                "io.kubernetes.cri-o.Namespace":"shop","#,
            ),
            (
                31,
                'b',
                r#""io.kubernetes.container.name":"web","io.kubernetes.pod.name":"web-0",
                "io.kubernetes.pod.namespace":"shop","#,
            ),
        ] {
            tree.process(pid, netns, "nginx", &v2(&format!("{pod}/crio-{}{scope}", id(digit))));
            let monitor =
                v2(&format!("{pod}/crio-conmon-{}{}", id(digit), scope.replace("/container", "")));
            tree.process(pid - 10, 4_026_531_840, "conmon", &monitor);
            let config = format!(
                r#"{{"annotations":{{{keys}"io.kubernetes.cri-o.RuntimeHandler":"",
                "io.container.manager":"cri-o"}}}}"#
            );
            let dir = format!("run/containers/storage/overlay-containers/{}/userdata", id(digit));
            tree.write(&format!("{dir}/config.json"), &config);
        }
        assert_eq!(tree.told(netns), called(POD, "- web"), "{pod}");
        assert_eq!(tree.table().owner_of(20).unwrap().container, None, "a monitor");
    }
}

/// cri-dockerd: Docker's own namespaces have no names below `/run/netns`.
#[test]
fn docker() {
    let netns = 4_026_532_500;
    for (kind, pod, scope) in [
        (v1 as fn(&str) -> String, cgroupfs("burstable", UID), false),
        (v2, systemd("", "burstable", UID), true),
        (hybrid, systemd("", "", UID), true),
    ] {
        let tree = Tree::new();
        for (pid, digit, name) in [(30, 'a', "POD"), (31, 'b', "web")] {
            let leaf = if scope { format!("docker-{}.scope", id(digit)) } else { id(digit) };
            tree.process(pid, netns, "nginx", &kind(&format!("{pod}/{leaf}")));
            let config = format!(
                r#"{{"ID":"{}","Name":"/k8s_{name}_web-0_shop_{UID}_0","Config":{{"Hostname":"web-0",
                "Labels":{{"io.kubernetes.container.name":"{name}","io.kubernetes.pod.name":"web-0",
                "io.kubernetes.pod.namespace":"shop","io.kubernetes.pod.uid":"{UID}"}}}}}}"#,
                id(digit)
            );
            tree.write(&format!("var/lib/docker/containers/{}/config.v2.json", id(digit)), &config);
        }
        assert_eq!(tree.told(netns), called(POD, "- web"), "{pod}");
    }
}

/// k3s has its own containerd; in Docker (k3d) its cgroups begin below the node's container.
#[test]
fn k3s() {
    for (kind, node) in [
        (v1 as fn(&str) -> String, String::new()),
        (v2, String::new()),
        (v1, format!("/docker/{}", id('f'))),
        (v2, format!("/system.slice/docker-{}.scope", id('f'))),
    ] {
        let tree = Tree::new();
        let netns = tree.netns(CNI);
        let pod = node.clone() + &cgroupfs("burstable", UID);
        tree.pod(netns, kind, &pod, str::to_owned);
        tree.process(2, 4_026_531_840, "k3s-server", &kind(&format!("{node}/k3s.service")));
        tree.containerd("run/k3s/containerd", UID);
        assert_eq!(tree.told(netns), called(POD, "- web"), "{pod}");
    }
}

/// kind: the kubelet's cgroups begin at `/kubelet`, inside those of a container that is the node. Seen from
/// that node, with and without a cgroup namespace, and from the machine, where the names are out of sight.
#[test]
fn kind() {
    let leaf = |id: &str| format!("cri-containerd-{id}.scope");
    for (kind, pod) in [
        (v2 as fn(&str) -> String, systemd("kubelet", "burstable", UID)),
        (v2, format!("/system.slice/docker-{}.scope{}", id('f'), systemd("kubelet", "", UID))),
        (
            v2,
            format!(
                "/machine.slice/libpod-{}.scope/container{}",
                id('f'),
                systemd("kubelet", "", UID)
            ),
        ),
        (v1, format!("/docker/{}/kubelet{}", id('f'), cgroupfs("besteffort", UID))),
    ] {
        let tree = Tree::new();
        let netns = tree.netns(CNI);
        let leaf = if pod.contains(".slice/kubelet-") || pod.starts_with("/kubelet.slice") {
            leaf as fn(&str) -> String
        } else {
            str::to_owned
        };
        tree.pod(netns, kind, &pod, leaf);
        let kubelet = kind(&format!("/system.slice/docker-{}.scope/kubelet.slice", id('f')));
        tree.process(2, 4_026_531_840, "kubelet", &kubelet);
        assert_eq!(
            tree.told(netns),
            called(&format!("pod:{UID}"), "- -"),
            "from the machine: {pod}"
        );
        tree.log_folder(UID);
        tree.containerd("run/containerd", UID);
        assert_eq!(tree.told(netns), called(POD, "- web"), "{pod}");
    }
}

/// podman's own pods: they are no Kubernetes pods, and have the infra container's name, whose id is not
/// that of the pod.
#[test]
fn podman() {
    let pod = id('e');
    for parent in
        [format!("/machine.slice/machine-libpod_pod_{pod}.slice"), "/libpod_parent".to_owned()]
    {
        let tree = Tree::new();
        let netns = tree.netns("netns-0b8a9e1c-5a3f-4c6e-9d2b-7f1e2a3b4c5d");
        let scope = |digit: char| match parent.ends_with(".slice") {
            true => format!("{parent}/libpod-{}.scope/container", id(digit)),
            false => format!("{parent}/libpod-{}", id(digit)),
        };
        tree.process(30, netns, "catatonit", &v2(&scope('a')));
        tree.process(31, netns, "nginx", &v2(&scope('b')));
        let conmon = format!("/machine.slice/libpod-conmon-{}.scope", id('a'));
        tree.process(20, 4_026_531_840, "conmon", &v2(&conmon));
        let all = format!(
            r#"[{{"id":"{}","names":["shop-infra"]}},{{"id":"{}","names":["shop-web"]}}]"#,
            id('a'),
            id('b')
        );
        tree.write("var/lib/containers/storage/overlay-containers/containers.json", &all);
        assert_eq!(tree.told(netns), called("shop-infra", "shop-infra shop-web"), "{parent}");
        assert_eq!(tree.table().owner_of(20), None, "its monitor");
    }
}

/// A hostNetwork pod and a static pod are known by their processes alone: they share the node's network.
#[test]
fn host_network_and_static_pods() {
    for uid in [UID, HASH] {
        let tree = Tree::new();
        tree.process(40, 4_026_531_840, "etcd", &v2(&format!("{}/{}", cgroupfs("", uid), id('b'))));
        tree.containerd("run/containerd", uid);
        let mut table = tree.table();
        assert_eq!(table.get(4_026_531_840).unwrap().name, "host");
        let owner = table.owner_of(40).unwrap();
        assert_eq!(owner.name(), POD);
        assert_eq!(owner.container.unwrap().name.as_deref(), Some("web"));
    }
}

/// The kubelet removes a pod's log folder and the runtime its files before the last process is gone.
#[test]
fn a_pod_that_is_being_deleted() {
    let tree = Tree::new();
    let netns = tree.netns(CNI);
    let pod = systemd("", "burstable", UID);
    tree.pod(netns, v2, &pod, |id| format!("cri-containerd-{id}.scope"));
    tree.containerd("run/containerd", UID);
    tree.log_folder(UID);
    let mut table = tree.table();
    let name = |table: &PodTable| table.get(netns).unwrap().name.clone();
    assert_eq!(name(&table), POD);
    for gone in ["var/log/pods", "run/containerd", "proc/31", "proc/32"] {
        fs::remove_dir_all(tree.path(gone)).unwrap();
        table.scan(true);
        assert_eq!(name(&table), POD, "without {gone}");
    }
    assert_eq!(tree.told(netns).0, format!("pod:{UID}"), "who comes only now");
    // Its name goes with `ip netns`, the pause process is the last.
    fs::remove_file(tree.path(&format!("run/netns/{CNI}"))).unwrap();
    table.scan(true);
    assert_eq!(name(&table), POD);
    fs::remove_dir_all(tree.path("proc/30")).unwrap();
    table.scan(true);
    assert!(table.get(netns).is_none());
}

/// Every file of a node with two pods, gone or something else: a pod is then known by less, and never by
/// the other's name.
#[test]
fn each_file_missing_or_odd() {
    let plant = || {
        let tree = Tree::new();
        let netns = tree.netns(CNI);
        tree.pod(netns, v2, &cgroupfs("", UID), str::to_owned);
        tree.containerd("run/containerd", UID);
        tree.log_folder(UID);
        let other = tree.netns("cni-4d9d1b5e-7a0f-4c2d-8e6b-1f2a3b4c5d6e");
        tree.process(50, other, "redis", &v2(&format!("{}/{}", cgroupfs("", HASH), id('c'))));
        tree.write(&format!("var/log/pods/bank_db-0_{HASH}/db/0.log"), "");
        (tree, netns, other)
    };
    let (whole, ..) = plant();
    let mut paths = Vec::new();
    let mut folders = vec![whole.path("")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                folders.push(path.clone());
            }
            paths.push(path.strip_prefix(whole.path("")).unwrap().to_owned());
        }
    }
    assert!(paths.len() > 50, "{}", paths.len());
    let long = "/x\u{1b}[2J".repeat(600);
    type Spoil<'a> = &'a dyn Fn(&Path);
    let spoils: [(&str, Spoil<'_>); 5] = [
        ("gone", &|_| {}),
        ("empty", &|path| fs::write(path, "").unwrap()),
        ("a folder", &|path| fs::create_dir(path).unwrap()),
        ("a link to nowhere", &|path| symlink("/nowhere/at/all", path).unwrap()),
        ("garbage", &|path| fs::write(path, &long).unwrap()),
    ];
    for (what, spoil) in spoils {
        for path in &paths {
            let (tree, netns, other) = plant();
            let at = tree.path(path.to_str().unwrap());
            let is_folder = fs::symlink_metadata(&at).unwrap().is_dir();
            if is_folder {
                fs::remove_dir_all(&at).unwrap()
            } else {
                fs::remove_file(&at).unwrap()
            }
            spoil(&at);
            let table = tree.table();
            let allowed = |netns: u32, pod: &str, uid: &str| {
                let Some(found) = table.get(netns) else { return };
                let weak = [format!("pod:{uid}"), format!("netns:{netns}")];
                let is_weak = weak.contains(&found.name) || found.name.starts_with("netns:cni-");
                let wheres = format!("{what}: {}", path.display());
                assert!(found.name == pod || is_weak, "{wheres} makes {pod} {}", found.name);
            };
            allowed(netns, POD, UID);
            allowed(other, "bank/db-0", HASH);
        }
    }
}

/// Links in the place of files are the node's own to make: those that lead nowhere or to the wrong thing tell
/// nothing, and nothing waits.
#[test]
fn odd_files() {
    let tree = Tree::new();
    let netns = tree.netns(CNI);
    tree.pod(netns, v2, &cgroupfs("", UID), str::to_owned);
    tree.log_folder("../../etc");
    let bundle = format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{}", id('a'));
    fs::create_dir_all(tree.path(&bundle)).unwrap();
    symlink("config.json", tree.path(&bundle).join("config.json")).unwrap();
    fs::create_dir_all(tree.path(&bundle.replace(&id('a'), &id('b'))).join("config.json")).unwrap();
    let fifo = std::ffi::CString::new(tree.path("proc/31/comm2").to_str().unwrap()).unwrap();
    // SAFETY: the path is a C string.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    fs::rename(tree.path("proc/31/comm2"), tree.path("proc/31/comm")).unwrap();
    for odd in ["shop_web-0", "shop__", "_", "a_\u{1b}[2J_b", "shop_web-0_u_v"] {
        tree.write(&format!("var/log/pods/{odd}/x"), "");
    }
    assert_eq!(tree.told(netns), called(&format!("pod:{UID}"), "- -"));
    assert_eq!(super::process::comm(Path::new(&tree.path("")), 31).as_deref(), Some(""));
}

/// What names cost on a full node, apart from the kernel's own part: prints, asserts nothing on time.
#[test]
#[ignore = "makes 5000 files, prints times"]
#[expect(clippy::print_stderr, reason = "for a person")]
fn cost() {
    let tree = Tree::new();
    for pod in 0..200_u32 {
        let netns = tree.netns(&format!("cni-{pod:08x}"));
        let uid = format!("{pod:032x}");
        let path = |container: u32| {
            v2(&format!("{}/{:064x}", cgroupfs("burstable", &uid), u64::from(pod * 8 + container)))
        };
        for process in 0..5 {
            tree.process(1000 + pod * 5 + process, netns, "app", &path(process.min(2)));
        }
        tree.write(&format!("var/log/pods/shop_web-{pod}_{uid}/web/0.log"), "");
    }
    let mut table = PodTable::unhurried(tree.0.path(), Duration::from_secs(60));
    for what in ["first pass", "second pass", "third pass"] {
        let start = std::time::Instant::now();
        let changes = table.scan(true).len();
        eprintln!("{what}: {changes} changes, {:?}", start.elapsed());
    }
    assert_eq!(table.passes(), 3);
}
