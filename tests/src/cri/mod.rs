//! Pods by the CRI, as the kubelet asks a container runtime for them.

mod grpc;
mod messages;

use std::{collections::HashMap, fs, io, net::Ipv6Addr};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::messages::{
    AskStatus, CONTAINER, Capabilities, ContainerConfig, ContainerMetadata, ContainerSecurity,
    CreateContainer, Id, Image, LinuxContainer, LinuxSandbox, Mount, NODE, NamespaceOption,
    Nothing, POD, RunPodSandbox, SandboxConfig, SandboxMetadata, SandboxSecurity, SandboxStatus,
    Sandboxes, SecurityProfile, StopContainer,
};
use crate::{containerd::SOCKET, netns};

/// Where the kubelet makes a folder for each pod.
const LOGS: &str = "/var/log/pods";
const CGROUPS: &str = "/sys/fs/cgroup";

fn call<A: prost::Message + Default>(method: &str, ask: &impl prost::Message) -> Result<A> {
    grpc::call(SOCKET, &format!("/runtime.v1.RuntimeService/{method}"), ask)
}

/// Whether the runtime answers.
pub fn answers() -> bool {
    call::<Nothing>("Version", &Nothing {}).is_ok()
}

/// What of the node a pod shares, and may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    HostNetwork,
    /// As `kubectl debug node --profile=sysadmin` makes it.
    Debug,
}

impl Kind {
    fn namespaces(self) -> NamespaceOption {
        match self {
            Self::Plain => NamespaceOption { network: POD, pid: CONTAINER, ipc: POD },
            Self::HostNetwork => NamespaceOption { network: NODE, pid: CONTAINER, ipc: POD },
            Self::Debug => NamespaceOption { network: NODE, pid: NODE, ipc: NODE },
        }
    }
}

/// What the kubelet makes for a pod before its sandbox is started, with the cgroupfs driver
/// (`pkg/kubelet/cm/pod_container_manager_linux.go`).
pub struct Folders {
    pub uid: String,
    pub log_directory: String,
    /// Below the mount of the cgroups.
    pub cgroup_parent: String,
}

impl Folders {
    /// `number` tells the pod's UID from others.
    pub fn make(namespace: &str, name: &str, number: u32) -> Result<Self> {
        let uid = format!("{number:08x}-5a3f-4c6e-9d2b-7f1e2a3b4c5d");
        let log_directory = format!("{LOGS}/{namespace}_{name}_{uid}");
        make(&log_directory)?;
        let cgroup_parent = format!("/kubepods/burstable/pod{uid}");
        make(&format!("{CGROUPS}{cgroup_parent}"))?;
        Ok(Self { uid, log_directory, cgroup_parent })
    }

    /// The cgroup of one of its containers, which cgroupfs names by the container's id.
    pub fn container(&self, id: &str) -> Result<String> {
        let cgroup = format!("{CGROUPS}{}/{id}", self.cgroup_parent);
        make(&cgroup)?;
        Ok(cgroup)
    }
}

/// A pod whose sandbox runs.
#[derive(Clone, Debug)]
pub struct Pod {
    pub id: String,
    config: SandboxConfig,
}

/// A container of it that runs.
pub struct Container {
    pub id: String,
}

/// What the kubelet has hidden and made read-only in a container that is not privileged
/// (`pkg/securitycontext/util.go`).
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 6] =
    ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const HOST_TO_CONTAINER: i32 = 1;

/// What a container runs.
pub struct Program<'a> {
    /// Its name in the pod, and which try this is.
    pub name: &'a str,
    pub attempt: u32,
    pub image: &'a str,
    pub command: &'a [&'a str],
    pub mounts: &'a [(&'a str, &'a str)],
}

impl Pod {
    /// Has the pod's sandbox started (`pkg/kubelet/kuberuntime/kuberuntime_sandbox.go`). `number` tells
    /// its UID from others.
    pub fn run(namespace: &str, name: &str, number: u32, kind: Kind) -> Result<Self> {
        let Folders { uid, log_directory, cgroup_parent } = Folders::make(namespace, name, number)?;
        let security = SandboxSecurity {
            namespaces: Some(kind.namespaces()),
            privileged: kind == Kind::Debug,
        };
        let config = SandboxConfig {
            metadata: Some(SandboxMetadata {
                name: name.to_owned(),
                uid: uid.clone(),
                namespace: namespace.to_owned(),
                attempt: 0,
            }),
            hostname: if kind == Kind::Plain { name.to_owned() } else { String::new() },
            log_directory,
            labels: pod_labels(namespace, name, &uid),
            annotations: strings(&[("kubernetes.io/config.source", "api")]),
            linux: Some(LinuxSandbox { cgroup_parent, security: Some(security) }),
        };
        let ask = RunPodSandbox { config: Some(config.clone()) };
        let Id { id } = call("RunPodSandbox", &ask)?;
        Ok(Self { id, config })
    }

    fn linux(&self) -> LinuxSandbox {
        self.config.linux.clone().unwrap_or_default()
    }

    /// Its network namespace, with its address in it. A pod in the node's network has none.
    pub fn netns(&self) -> Result<netns::Pod> {
        let ask = AskStatus { id: self.id.clone(), verbose: true };
        let SandboxStatus { status, info } = call("PodSandboxStatus", &ask)?;
        let ip = status.and_then(|status| status.network).unwrap_or_default().ip;
        let v4 = ip.parse().with_context(|| format!("the pod's address is {ip:?}"))?;
        let info = info.get("info").context("no verbose status")?;
        let info: Value = serde_json::from_str(info).context("the verbose status is no JSON")?;
        let mut namespaces =
            info["runtimeSpec"]["linux"]["namespaces"].as_array().into_iter().flatten();
        let path = namespaces.find(|one| one["type"] == "network").and_then(|n| n["path"].as_str());
        let name = path.and_then(|path| path.rsplit('/').next()).context("no network namespace")?;
        Ok(netns::Pod { name: name.to_owned(), v4, v6: Ipv6Addr::UNSPECIFIED })
    }

    /// Makes and starts a container (`kuberuntime_container.go`).
    pub fn start(&self, program: &Program<'_>) -> Result<Container> {
        let SandboxSecurity { namespaces, privileged } = self.linux().security.unwrap_or_default();
        let security = ContainerSecurity { privileged, namespaces, ..ContainerSecurity::default() };
        self.start_with(program, security)
    }

    /// The same with no more rights than the manifests of this project ask for: these capabilities,
    /// the runtime's default seccomp profile, an image that cannot be written to.
    pub fn start_restricted(
        &self,
        program: &Program<'_>,
        capabilities: &[&str],
    ) -> Result<Container> {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let security = ContainerSecurity {
            capabilities: Some(Capabilities { add: words(capabilities), drop: words(&["ALL"]) }),
            privileged: false,
            namespaces: self.linux().security.unwrap_or_default().namespaces,
            readonly_rootfs: true,
            masked_paths: words(&MASKED),
            readonly_paths: words(&READ_ONLY),
            seccomp: Some(SecurityProfile::default()),
        };
        self.start_with(program, security)
    }

    fn start_with(&self, program: &Program<'_>, security: ContainerSecurity) -> Result<Container> {
        let meta = self.config.metadata.clone().unwrap_or_default();
        let mut labels = pod_labels(&meta.namespace, &meta.name, &meta.uid);
        labels.insert("io.kubernetes.container.name".to_owned(), program.name.to_owned());
        let attempt = program.attempt.to_string();
        make(&format!("{}/{}", self.config.log_directory, program.name))?;
        let mount = |(host, container): &(&str, &str)| Mount {
            container_path: (*container).to_owned(),
            host_path: (*host).to_owned(),
            readonly: !security.privileged,
            propagation: if security.readonly_rootfs { HOST_TO_CONTAINER } else { 0 },
        };
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: program.name.to_owned(),
                attempt: program.attempt,
            }),
            image: Some(Image { image: program.image.to_owned() }),
            command: program.command.iter().map(|&word| word.to_owned()).collect(),
            args: Vec::new(),
            mounts: program.mounts.iter().map(mount).collect(),
            labels,
            annotations: strings(&[("io.kubernetes.container.restartCount", &attempt)]),
            log_path: format!("{}/{attempt}.log", program.name),
            linux: Some(LinuxContainer { security: Some(security) }),
        };
        let ask = CreateContainer {
            sandbox: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let Id { id } = call("CreateContainer", &ask)?;
        let Nothing {} = call("StartContainer", &Id { id: id.clone() })?;
        Ok(Container { id })
    }

    /// Where a container's output is, a line each with time and stream before it.
    pub fn log(&self, program: &Program<'_>) -> String {
        format!("{}/{}/{}.log", self.config.log_directory, program.name, program.attempt)
    }

    /// Ends it and removes what there is of it, as the kubelet does when the pod is deleted.
    pub fn delete(&self) -> Result<()> {
        remove(&self.id)?;
        let logs = &self.config.log_directory;
        fs::remove_dir_all(logs).with_context(|| format!("cannot remove {logs}"))?;
        let cgroup = format!("{CGROUPS}{}", self.linux().cgroup_parent);
        fs::remove_dir(&cgroup).with_context(|| format!("cannot remove {cgroup}"))
    }
}

impl Container {
    /// Asks it to end, and kills it after some seconds.
    pub fn stop(&self) -> Result<()> {
        let Nothing {} =
            call("StopContainer", &StopContainer { id: self.id.clone(), timeout: 30 })?;
        Ok(())
    }

    /// Kills and removes it.
    pub fn remove(&self) -> Result<()> {
        let Nothing {} = call("StopContainer", &StopContainer { id: self.id.clone(), timeout: 0 })?;
        let Nothing {} = call("RemoveContainer", &Id { id: self.id.clone() })?;
        Ok(())
    }
}

fn remove(sandbox: &str) -> Result<()> {
    let ask = Id { id: sandbox.to_owned() };
    let Nothing {} = call("StopPodSandbox", &ask)?;
    let Nothing {} = call("RemovePodSandbox", &ask)?;
    Ok(())
}

/// Ends all pods of the runtime, some at a time, and removes what the kubelet makes for them.
pub fn clean() -> Result<()> {
    let Sandboxes { items } = call("ListPodSandbox", &Nothing {})?;
    let ids: Vec<String> = items.into_iter().map(|item| item.id).collect();
    in_parallel(&ids, |id| remove(id))?;
    let Sandboxes { items } = call("ListPodSandbox", &Nothing {})?;
    ensure!(items.is_empty(), "{} sandboxes are left", items.len());
    // A pod of the next case may have the UID of one of this, which no cluster ever gives twice.
    match fs::remove_dir_all(LOGS) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {LOGS}"))
        }
        _ => Ok(()),
    }
}

/// Does something with each, on as many threads as pay off.
pub fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    const THREADS: usize = 4;
    let size = items.len().div_ceil(THREADS).max(1);
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = items
            .chunks(size)
            .map(|part| scope.spawn(move || part.iter().map(work).collect::<Result<Vec<R>>>()))
            .collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??);
        }
        Ok(all)
    })
}

fn pod_labels(namespace: &str, name: &str, uid: &str) -> HashMap<String, String> {
    strings(&[
        ("io.kubernetes.pod.namespace", namespace),
        ("io.kubernetes.pod.name", name),
        ("io.kubernetes.pod.uid", uid),
    ])
}

fn strings(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn make(dir: &str) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {dir}"))
}
