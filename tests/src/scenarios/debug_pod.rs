//! stallprobe in a debug pod: a root with its binary alone, the node's at `/host`, and a network
//! namespace of its own.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    accept_queue::{LISTENER, refuse_syn},
    pod_names::Api,
};
use crate::{
    case::Skip,
    lab::Lab,
    probe::STALLPROBE,
    wait::{SOON, until},
};

const STALL: Duration = Duration::from_secs(20);
/// The image's root: the binary, and where the kubelet mounts the node's file system.
const ROOT: &str = "/run/debug-pod";
const DIRS: [&str; 3] = ["host", "proc", "sys"];

pub fn run_case(lab: &Lab) -> Result<()> {
    if lab.faults_only() {
        return Err(Skip("looks at stallprobe itself".to_owned()).into());
    }
    let Api { server, to, listener } = Api::new(lab)?;
    let client = lab.pod("client")?;
    let probe = lab.probe_by(in_pod()?, &[])?;

    let _connects = refuse_syn(&client, &server, to)?;

    probe
        .cause("accept-queue-overflow", "client", STALL)?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "shop/api-7d4f9c-x2x5k")?
        .is("/culprit/process", LISTENER)?
        .is("/culprit/pid", listener.pid())?;
    let header = probe.wait_line("the list of hooks", SOON, |line| line["hooks"].is_array())?;
    ensure!(header["no_ebpf"].is_null(), "no programs are loaded: {header}");
    probe.stop()?;
    probe.only(&["accept-queue-overflow"])?;
    remove()
}

/// One by one: should anything be mounted there still, nothing of it is removed.
fn remove() -> Result<()> {
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

/// Becomes stallprobe in such a pod; the mounts go with its namespace.
fn in_pod() -> Result<Command> {
    for dir in DIRS {
        let dir = format!("{ROOT}/{dir}");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {dir}"))?;
    }
    let found = crate::command::run("which", &[STALLPROBE])?;
    let binary = format!("{ROOT}/{STALLPROBE}");
    fs::copy(found.trim(), &binary).with_context(|| format!("cannot copy {found} to {binary}"))?;
    let script = format!(
        "mount --rbind / {ROOT}/host && mount -t proc proc {ROOT}/proc && \
         mount -t sysfs sysfs {ROOT}/sys && exec chroot {ROOT} /{STALLPROBE} \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--uts", "sh", "-c", &script, "sh"]);
    Ok(command)
}
