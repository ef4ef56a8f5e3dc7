//! Whose process is it: pod and container, without asking the kube API. The process's cgroup path has
//! the pod's UID and the container's id; the kubelet's log folders and the runtimes' files on disk have
//! the names. All below a root path; nothing here talks to a runtime.

mod cgroup;
mod log_folder;
mod runtimes;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
};

use anyhow::Result;
use log::debug;

pub use self::cgroup::Place;
use super::{naming, procfs::read_optional};
use crate::event::{Container, Sandbox};

/// A path of 4 KB for each of v1's hierarchies, and then some.
const CGROUP_MAX: u64 = 128 << 10;
/// Containers whose files are remembered: those of a full node, many times over.
const MOST: usize = 4096;
/// Pods whose names are remembered.
const MOST_PODS: usize = 65536;

/// A pod as people know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
}

impl PodName {
    /// `None` unless both are names that Kubernetes allows: lower-case letters, digits, `-` and, in the
    /// pod's name, `.`. So they are safe to print.
    pub fn new(namespace: &str, name: &str) -> Option<Self> {
        let is_label = |text: &str, and: &[u8]| {
            let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || and.contains(&b);
            !text.is_empty() && text.len() <= 253 && text.bytes().all(fits)
        };
        (is_label(namespace, b"-") && is_label(name, b"-."))
            .then(|| Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Whom a process belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub id: Id,
    /// `None` for a container that is no pod's, and for a pod whose name is nowhere on this node (any
    /// more).
    pub pod: Option<PodName>,
    /// `None` for what the kubelet or a runtime has in a pod's cgroup but in no container.
    pub container: Option<Container>,
    pub sandbox: Option<Sandbox>,
}

/// What no other pod or container ever has again, unlike a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Id {
    /// A pod's UID.
    Pod(String),
    /// A container's id, where its pod is not known.
    Container(String),
}

impl Owner {
    /// What its network namespace is called.
    pub fn name(&self) -> String {
        let name = self.container.as_ref().and_then(|container| container.name.as_deref());
        match (&self.pod, &self.id, name) {
            (Some(pod), ..) => pod.to_string(),
            (None, Id::Pod(uid), _) => format!("pod:{uid}"),
            (None, Id::Container(_), Some(name)) => naming::not_host(name),
            (None, Id::Container(id), None) => id.chars().take(12).collect(),
        }
    }
}

/// Owners of processes, and what was read to know them.
#[derive(Debug)]
pub struct Owners {
    root: PathBuf,
    /// Pods by UID.
    pods: HashMap<String, PodName>,
    /// Whether the log folders were listed in this pass already.
    listed: bool,
    /// What the runtimes wrote of containers, by id.
    containers: HashMap<String, runtimes::Container>,
    /// Containers of which no runtime wrote anything, in this pass: each look costs some ten files.
    missed: HashSet<String>,
}

impl Owners {
    /// Of the node whose files are below `root`. Touches nothing yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            pods: HashMap::new(),
            listed: false,
            containers: HashMap::new(),
            missed: HashSet::new(),
        }
    }

    /// A new pass: what is unknown may be looked for once more, log folders and runtimes' files.
    pub fn begin(&mut self) {
        self.listed = false;
        self.missed.clear();
    }

    /// Whom the process belongs to; `None` when it is in no container, or gone.
    ///
    /// # Errors
    /// When a file that is there cannot be read; then another process of the same pod may still tell.
    pub fn of(&mut self, pid: u32) -> Result<Option<Owner>> {
        self.in_cgroup(pid, &cgroup_of(&self.root, pid)?)
    }

    /// The same of a process with this `/proc/PID/cgroup`.
    fn in_cgroup(&mut self, pid: u32, cgroup: &str) -> Result<Option<Owner>> {
        let Place { pod: uid, container, doubtful, kata } = cgroup::place(cgroup);
        let mut known = match container.as_deref() {
            Some(id) if !doubtful => self.container(id),
            _ => runtimes::Container::default(),
        };
        if uid.is_some() && known.uid.is_some() && known.uid != uid {
            debug!("the cgroup of process {pid} and its runtime's files have different pods");
            known = runtimes::Container::default();
        }
        let by_log_folder = match &uid {
            Some(uid) if known.pod.is_none() => self.by_uid(uid)?,
            _ => None,
        };
        let owner = uid.or(known.uid).map(Id::Pod);
        let owner = owner.or_else(|| container.clone().map(Id::Container));
        let pod = known.pod.or(by_log_folder);
        // Any user could have made up a doubtful one.
        let container = container.filter(|_| !doubtful);
        let container = container.map(|id| Container { id, name: known.name });
        let sandbox = known.sandbox.or(kata.then_some(Sandbox::Kata));
        Ok(owner.map(|id| Owner { id, pod, container, sandbox }))
    }

    /// The same, where what cannot be read is only worth a line of debug output.
    pub fn known(&mut self, pid: u32) -> Option<Owner> {
        nobody_by_error(pid, self.of(pid))
    }

    /// Whom the process belongs to, or if nobody the systemd unit that it is in.
    pub fn known_or_unit(&mut self, pid: u32) -> (Option<Owner>, Option<String>) {
        let cgroup = cgroup_of(&self.root, pid).unwrap_or_else(|error| {
            debug!("the cgroup of process {pid}: {error:#}");
            String::new()
        });
        let owner = self.in_cgroup(pid, &cgroup);
        let owner = nobody_by_error(pid, owner);
        let unit = if owner.is_none() { cgroup::unit(&cgroup) } else { None };
        (owner, unit)
    }

    /// Whether no runtime wrote anything of this container, as far as this pass has looked.
    pub fn misses(&self, container: &Container) -> bool {
        self.missed.contains(&container.id)
    }

    fn container(&mut self, id: &str) -> runtimes::Container {
        if let Some(known) = self.containers.get(id) {
            return known.clone();
        }
        if self.missed.contains(id) {
            return runtimes::Container::default();
        }
        let found = runtimes::container(&self.root, id);
        if self.containers.len() >= MOST {
            self.containers.clear();
        }
        // One that just starts is not written down yet.
        if found == runtimes::Container::default() {
            self.missed.insert(id.to_owned());
        } else {
            self.containers.insert(id.to_owned(), found.clone());
        }
        found
    }

    fn by_uid(&mut self, uid: &str) -> Result<Option<PodName>> {
        if !self.pods.contains_key(uid) && !self.listed {
            self.listed = true;
            let listed = log_folder::pods(&self.root)?;
            // The folder of a pod that is being deleted may be gone before its processes are.
            if self.pods.len() + listed.len() > MOST_PODS {
                self.pods.clear();
            }
            self.pods.extend(listed);
            debug!("{} pods have log folders", self.pods.len());
        }
        Ok(self.pods.get(uid).cloned())
    }
}

/// Where the process's cgroup is.
///
/// # Errors
/// When its file is there and cannot be read.
pub fn place(root: &Path, pid: u32) -> Result<Place> {
    cgroup_of(root, pid).map(|text| cgroup::place(&text))
}

/// Empty when the process is gone.
fn cgroup_of(root: &Path, pid: u32) -> Result<String> {
    let text = read_optional(&root.join(format!("proc/{pid}/cgroup")), CGROUP_MAX)?;
    Ok(text.unwrap_or_default())
}

fn nobody_by_error(pid: u32, owner: Result<Option<Owner>>) -> Option<Owner> {
    owner.unwrap_or_else(|error| {
        debug!("whom process {pid} belongs to: {error:#}");
        None
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::fs;

    use super::*;

    const UID: &str = "0b8a9e1c-5a3f-4c6e-9d2b-7f1e2a3b4c5d";

    struct Node(tempfile::TempDir);

    impl Node {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn process(&self, pid: u32, cgroup: &str) {
            self.write(&format!("proc/{pid}/cgroup"), &format!("0::{cgroup}\n"));
        }

        fn owners(&self) -> Owners {
            Owners::new(self.0.path())
        }
    }

    fn id(digit: char) -> String {
        std::iter::repeat_n(digit, 64).collect()
    }

    /// A pod of which only the UID is known.
    fn nameless() -> Owner {
        let container = Some(Container { id: id('a'), name: None });
        Owner { id: Id::Pod(UID.to_owned()), pod: None, container, sandbox: None }
    }

    fn in_pod(digit: char) -> String {
        format!("/kubepods/burstable/pod{UID}/{}", id(digit))
    }

    #[test]
    fn a_pod_by_its_log_folder() {
        let node = Node::new();
        node.process(7, &in_pod('a'));
        let mut owners = node.owners();
        assert_eq!(owners.of(7).unwrap(), Some(nameless()));
        fs::create_dir_all(node.0.path().join(format!("var/log/pods/shop_web-1_{UID}"))).unwrap();
        assert_eq!(owners.of(7).unwrap().unwrap().name(), format!("pod:{UID}"), "one look a pass");
        owners.begin();
        let owner = owners.of(7).unwrap().unwrap();
        assert_eq!(owner.name(), "shop/web-1");
    }

    #[test]
    fn a_pod_and_its_container_by_the_runtime() {
        let node = Node::new();
        node.process(7, &in_pod('a'));
        node.write(
            &format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{}/config.json", id('a')),
            r#"{"annotations":{"io.kubernetes.cri.sandbox-namespace":"shop",
                "io.kubernetes.cri.sandbox-name":"web-1","io.kubernetes.cri.container-name":"nginx"}}"#,
        );
        let pod = PodName::new("shop", "web-1");
        let container = Some(Container { id: id('a'), name: Some("nginx".to_owned()) });
        let owner = Owner { pod, container, ..nameless() };
        assert_eq!(node.owners().of(7).unwrap(), Some(owner));
    }

    #[test]
    fn a_container_is_looked_for_once_a_pass() {
        let node = Node::new();
        node.process(7, &format!("/docker/{}", id('b')));
        let mut owners = node.owners();
        let called = |owners: &mut Owners| owners.of(7).unwrap().unwrap().name();
        assert_eq!(called(&mut owners), "bbbbbbbbbbbb");
        let path = format!("var/lib/docker/containers/{}/config.v2.json", id('b'));
        node.write(&path, r#"{"Name":"/registry","Config":{}}"#);
        assert_eq!(called(&mut owners), "bbbbbbbbbbbb", "one look a pass");
        owners.begin();
        assert_eq!(called(&mut owners), "registry");
        fs::remove_file(node.0.path().join(path)).unwrap();
        owners.begin();
        assert_eq!(called(&mut owners), "registry", "what was found is kept");
    }

    #[test]
    fn a_runtime_that_names_another_pod_is_not_believed() {
        let node = Node::new();
        node.process(7, &in_pod('a'));
        node.process(8, &format!("/docker/{}", id('b')));
        node.process(9, &format!("/user.slice/user-7.slice/docker-{}.scope", id('b')));
        fs::create_dir_all(node.0.path().join(format!("var/log/pods/shop_web-1_{UID}"))).unwrap();
        for (path, keys) in [
            ("run/containerd/io.containerd.runtime.v2.task/k8s.io/ID/config.json", "cri.sandbox"),
            ("run/containers/storage/overlay-containers/ID/userdata/config.json", "pod"),
        ] {
            let sep = if keys == "pod" { '.' } else { '-' };
            let config = |uid: &str| {
                let key = |what: &str| format!("\"io.kubernetes.{keys}{sep}{what}\"");
                let [namespace, name, id] = [key("namespace"), key("name"), key("uid")];
                format!(r#"{{"annotations":{{{namespace}:"bank",{name}:"db-0",{id}:"{uid}"}}}}"#)
            };
            for (uid, called) in [(UID, "bank/db-0"), ("another", "shop/web-1")] {
                node.write(&path.replace("ID", &id('a')), &config(uid));
                assert_eq!(node.owners().of(7).unwrap().unwrap().name(), called, "{path}");
            }
            node.write(&path.replace("ID", &id('b')), &config(UID));
            let owner = node.owners().of(8).unwrap().unwrap();
            assert_eq!((owner.name().as_str(), owner.id), ("bank/db-0", nameless().id));
            let owner = node.owners().of(9).unwrap().unwrap();
            assert_eq!(owner.name(), "bbbbbbbbbbbb", "any user can make that path");
            for digit in ['a', 'b'] {
                fs::remove_file(node.0.path().join(path.replace("ID", &id(digit)))).unwrap();
            }
        }
    }

    #[test]
    fn processes_that_are_no_pods() {
        let node = Node::new();
        node.process(1, "/init.scope");
        node.process(2, &format!("/docker/{}", id('b')));
        let mut owners = node.owners();
        assert_eq!(owners.of(1).unwrap(), None);
        let owner = owners.of(2).unwrap().unwrap();
        assert_eq!((owner.name().as_str(), owner.id), ("bbbbbbbbbbbb", Id::Container(id('b'))));
        assert_eq!(owners.of(3).unwrap(), None, "gone");
    }

    #[test]
    fn names_that_kubernetes_does_not_allow() {
        assert!(PodName::new("kube-system", "etcd-node.example").is_some());
        for (namespace, name) in
            [("", "a"), ("a", ""), ("a.b", "c"), ("a", "\u{1b}[2J"), ("A", "b"), ("a", "b/c")]
        {
            assert_eq!(PodName::new(namespace, name), None, "{namespace:?} {name:?}");
        }
    }

    #[test]
    fn a_path_of_four_kilobytes_is_harmless() {
        let node = Node::new();
        node.process(7, &format!("/{}{}", "x/".repeat(2048), in_pod('a')));
        assert_eq!(node.owners().of(7).unwrap(), Some(nameless()));
        node.process(8, &"/y".repeat(100_000));
        assert!(node.owners().of(8).is_err(), "no kernel writes that");
    }
}
