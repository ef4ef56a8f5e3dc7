//! What the kubelet and containerd leave on a node of a pod: its cgroups, its log folder, the
//! runtime's files, and what its network namespace is called.

use std::{
    fs, io,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    args::Flags,
    netns::Pod,
    process::{Process, READY, set_name},
    wait::{SOON, until},
    web::Request,
};

const CGROUP: &str = "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice";
/// Where Docker puts containers.
const CONTAINERS: &str = "/sys/fs/cgroup/system.slice";
/// Whoever writes a process id here moves the process; 0 is the writer.
const PROCS: &str = "cgroup.procs";
const LOGS: &str = "/var/log/pods";
const CONTAINERD: &str = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";

/// A pod as the API knows it.
pub struct Kubernetes {
    pub namespace: &'static str,
    pub name: &'static str,
    /// Told from others by this digit, in all its ids.
    digit: char,
    cgroup: PathBuf,
}

impl Kubernetes {
    /// Makes the pod's folders; nothing is in it yet.
    pub fn new(namespace: &'static str, name: &'static str, digit: char) -> Result<Self> {
        let underscored = uid(digit).replace('-', "_");
        let cgroup =
            PathBuf::from(CGROUP).join(format!("kubepods-burstable-pod{underscored}.slice"));
        let pod = Self { namespace, name, digit, cgroup };
        make(&PathBuf::from(LOGS).join(format!("{namespace}_{name}_{}", uid(digit))))?;
        Ok(pod)
    }

    /// Puts a process into a container of the pod, as runc does it.
    pub fn add(&self, container: &str, process: &Process) -> Result<()> {
        write(&self.container(container)?.join(PROCS), &process.pid().to_string())
    }

    /// Says that its containers were started by this program of a runtime.
    pub fn started_by(&self, container: &str, shim: &str) -> Result<()> {
        self.container(container)?;
        let bundle = PathBuf::from(CONTAINERD).join(self.id());
        write(&bundle.join("shim-binary-path"), &format!("/usr/local/bin/{shim}"))
    }

    fn id(&self) -> String {
        std::iter::repeat_n(self.digit, 64).collect()
    }

    /// Like [`probe`], by a process of a container of the pod in the node's network.
    pub fn connect(&self, container: &str, name: &str, to: SocketAddr) -> Result<Process> {
        let scope = self.container(container)?;
        let scope = scope.to_str().context("odd path")?;
        Process::on_node(&["connect", "--name", name, "--to", &to.to_string(), "--cgroup", scope])
    }

    /// A container's cgroup.
    pub fn scope(&self, container: &str) -> Result<PathBuf> {
        self.container(container)
    }

    /// Makes a container's cgroup and files.
    fn container(&self, container: &str) -> Result<PathBuf> {
        let id = self.id();
        let scope = self.cgroup.join(format!("cri-containerd-{id}.scope"));
        make(&scope)?;
        let bundle = PathBuf::from(CONTAINERD).join(&id);
        make(&bundle)?;
        let annotations = format!(
            r#"{{"annotations":{{"io.kubernetes.cri.sandbox-namespace":"{}",
            "io.kubernetes.cri.sandbox-name":"{}","io.kubernetes.cri.container-name":"{container}"}}}}"#,
            self.namespace, self.name
        );
        write(&bundle.join("config.json"), &annotations)?;
        Ok(scope)
    }

    /// What the runtime calls the pod's network namespace.
    pub fn netns(&self) -> String {
        format!("cni-{}", uid(self.digit))
    }
}

/// A program on the node that connects once and gives up a moment before a second is over, as the
/// kubelet's probes do by default, and then stays. Ready when the connect is over.
pub fn probe(name: &str, to: SocketAddr) -> Result<Process> {
    Process::on_node(&["connect", "--name", name, "--to", &to.to_string()])
}

/// The same for a probe that then asks: `limit` is what it waits at most, in all. `cgroup` is where it
/// runs, when not among the node's own processes.
pub fn ask(
    name: &str,
    to: SocketAddr,
    request: Request,
    limit: Duration,
    cgroup: Option<&Path>,
) -> Result<Process> {
    let (to, limit) = (to.to_string(), limit.as_millis().to_string());
    let mut args = vec!["connect", "--name", name, "--to", &to, "--request", request.name()];
    args.extend(["--limit", &limit]);
    if let Some(cgroup) = cgroup {
        make(&cgroup.to_path_buf())?;
        args.extend(["--cgroup", cgroup.to_str().context("odd path")?]);
    }
    Process::on_node(&args)
}

/// The cgroup of a container that is no pod's.
pub fn docker() -> PathBuf {
    Path::new(CONTAINERS).join(format!("docker-{}.scope", "ab".repeat(32)))
}

/// What the kubelet waits for a probe's answer, and a bit less: it looks at its clock before.
pub const PATIENCE: Duration = Duration::from_millis(950);

/// The helper `lab connect`.
pub fn connect_main(flags: &Flags) -> Result<()> {
    let to: SocketAddr = flags.parse("--to")?;
    set_name(flags.value("--name")?)?;
    if let Some(cgroup) = flags.optional("--cgroup") {
        write(&Path::new(cgroup).join(PROCS), "0")?;
    }
    if let Some(request) = flags.optional("--request") {
        let limit = Duration::from_millis(flags.parse("--limit")?);
        crate::web::ask(to, Request::parse(request)?, limit)?;
        crate::cli::say(READY)?;
        loop {
            thread::park();
        }
    }
    // What becomes of it is for stallprobe to tell.
    drop(TcpStream::connect_timeout(&to, Duration::from_millis(900)));
    crate::cli::say(READY)?;
    loop {
        thread::park();
    }
}

/// How long the process of [`brief`] lives.
const BRIEF: Duration = Duration::from_millis(300);

/// Runs a process in a pod's namespace and in this cgroup that connects once and ends 300 ms after it
/// began. Gives how long that took.
pub fn brief(pod: &Pod, name: &str, to: SocketAddr, cgroup: &str) -> Result<Duration> {
    let to = to.to_string();
    let args = ["brief", "--name", name, "--to", &to, "--cgroup", cgroup];
    let mut command = pod.command("/proc/self/exe")?;
    let start = Instant::now();
    crate::command::finish(command.args(args), "lab", &args)?;
    Ok(start.elapsed())
}

/// The helper `lab brief`.
pub fn brief_main(flags: &Flags) -> Result<()> {
    let end = Instant::now() + BRIEF;
    let to: SocketAddr = flags.parse("--to")?;
    set_name(flags.value("--name")?)?;
    if let Some(cgroup) = flags.optional("--cgroup") {
        write(&Path::new(cgroup).join(PROCS), "0")?;
    }
    drop(TcpStream::connect_timeout(&to, Duration::from_millis(200)));
    crate::cli::say(READY)?;
    thread::sleep(end.saturating_duration_since(Instant::now()));
    Ok(())
}

/// Removes what the pods of a case left behind.
pub fn clean() -> Result<()> {
    for dir in [LOGS, "/run/containerd"] {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {dir}"));
            }
            _ => {}
        }
    }
    let Some(top) = PathBuf::from(CGROUP).parent().map(PathBuf::from) else { return Ok(()) };
    until("the cgroups are empty and gone", SOON, || {
        let gone = remove(&top).and_then(|()| remove(Path::new(CONTAINERS)));
        Ok(gone.is_ok().then_some(()))
    })
}

/// A cgroup goes by `rmdir`, innermost first; its files cannot be removed.
fn remove(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

fn uid(digit: char) -> String {
    let part = |n| std::iter::repeat_n(digit, n).collect::<String>();
    [8, 4, 4, 4, 12].map(part).join("-")
}

fn make(dir: &PathBuf) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
