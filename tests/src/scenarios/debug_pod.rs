//! stallprobe in a pod as `deploy/` has it: a root with its binary alone, the node's at `/host`,
//! namespaces of its own, and the capabilities of the manifest.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    accept_queue::{LISTENER, refuse_syn},
    pod_names::Api,
};
use crate::{
    in_pod::{self, DAEMONSET},
    lab::Lab,
    probe::STALLPROBE,
    wait::{SOON, until},
};

const STALL: Duration = Duration::from_secs(20);
/// The image's root: the binary, and where the kubelet mounts the node's file system.
const ROOT: &str = "/run/debug-pod";
const DIRS: [&str; 3] = ["host", "proc", "sys"];

pub fn run_case(lab: &Lab) -> Result<()> {
    lab.needs_stallprobe()?;
    let Api { server, to, listener } = Api::new(lab)?;
    let client = lab.pod("client")?;
    let image = Image::new()?;
    let rights = in_pod::capabilities(DAEMONSET)?;
    let probe = lab.probe_by(image.pod(&rights.join(","))?, &[])?;

    let _connects = refuse_syn(&client, &server, to)?;

    probe
        .cause("accept-queue-overflow", "client", STALL)?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "shop/api-7d4f9c-x2x5k")?
        .is("/culprit/process", LISTENER)?
        .is("/culprit/pid", listener.pid())?;
    let header = probe.wait_line("the list of hooks", SOON, |line| line["hooks"].is_array())?;
    ensure!(header["no_ebpf"].is_null(), "no programs are loaded: {header}");
    // Only who has CAP_SETPCAP could take from the bounding set.
    has_only_kept(&rights, &ONCE)?;
    probe.stop()?;
    probe.only(&["accept-queue-overflow"])?;
    image.remove()
}

/// The image in the node's file system, with the places where the kubelet mounts things.
pub struct Image;

impl Image {
    pub fn new() -> Result<Self> {
        for dir in DIRS {
            let dir = format!("{ROOT}/{dir}");
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {dir}"))?;
        }
        let found = crate::command::run("which", &[STALLPROBE])?;
        let binary = format!("{ROOT}/{STALLPROBE}");
        fs::copy(found.trim(), &binary)
            .with_context(|| format!("cannot copy {found} to {binary}"))?;
        Ok(Self)
    }

    /// Becomes stallprobe in such a pod, with these capabilities; the mounts go with its namespace.
    pub fn pod(&self, capabilities: &str) -> Result<Command> {
        self.container(capabilities, &[])
    }

    /// The same without the node's files.
    pub fn pod_without_node(&self, capabilities: &str) -> Result<Command> {
        self.container(capabilities, &["--no-host"])
    }

    fn container(&self, capabilities: &str, more: &[&str]) -> Result<Command> {
        let lab = std::env::current_exe().context("cannot tell where the lab's binary is")?;
        let mut command = Command::new(lab);
        command.args(["in-pod", "--root", ROOT, "--capabilities", capabilities]).args(more);
        command.args(["--", &format!("/{STALLPROBE}")]);
        Ok(command)
    }

    /// One by one: should anything be mounted there still, nothing of it is removed.
    pub fn remove(self) -> Result<()> {
        let binary = format!("{ROOT}/{STALLPROBE}");
        fs::remove_file(&binary).with_context(|| format!("cannot remove {binary}"))?;
        let dirs = DIRS.iter().map(|dir| format!("{ROOT}/{dir}")).chain([ROOT.to_owned()]);
        for dir in dirs {
            until(&format!("{dir} can be removed"), SOON, || {
                Ok(fs::remove_dir(&dir).is_ok().then_some(()))
            })?;
        }
        Ok(())
    }
}

/// What of a manifest's rights is of use only until everything is attached.
const ONCE: [&str; 1] = ["SYS_RESOURCE"];

/// What `/proc/PID/status` says of stallprobe's rights after attaching: those that are used later, no
/// others, and no way to more.
fn has_only_kept(manifest: &[&str], bounding: &[&str]) -> Result<()> {
    let kept: Vec<&str> = manifest.iter().copied().filter(|name| !ONCE.contains(name)).collect();
    let kept = in_pod::mask(&kept)?;
    let bounding = kept | in_pod::mask(bounding)?;
    let status = status_of(STALLPROBE)?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.with_context(|| format!("no {name} in\n{status}"))
    };
    for (set, rights) in [("CapPrm", kept), ("CapEff", kept), ("CapInh", 0), ("CapBnd", bounding)] {
        let bits = u64::from_str_radix(field(set)?, 16).context("a set is no number")?;
        ensure!(bits == rights, "{set} is {bits:x}, expected {rights:x}");
    }
    ensure!(field("NoNewPrivs")? == "1", "it may get new rights\n{status}");
    Ok(())
}

/// The only process of this name.
fn status_of(name: &str) -> Result<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list /proc")? {
        let path = entry.context("cannot list /proc")?.path();
        // Processes end while the folder is read.
        let comm = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if comm.trim_end() == name {
            let path = path.join("status");
            let status = fs::read_to_string(&path);
            found.push(status.with_context(|| format!("cannot read {}", path.display()))?);
        }
    }
    ensure!(found.len() == 1, "{} processes are called {name}", found.len());
    found.pop().context("none")
}

/// Root on the node has every right, and gives up what is not used later.
pub fn rights_dropped(lab: &Lab) -> Result<()> {
    lab.needs_stallprobe()?;
    let probe = lab.probe(&[])?;
    has_only_kept(&in_pod::capabilities(DAEMONSET)?, &[])?;
    probe.stop().map(drop)
}
