//! Debian's containerd on the lab's node: its configuration, its start, its images.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{command::run, cri, wait::until};

pub const SOCKET: &str = "/run/containerd/containerd.sock";

/// An image with a program alone that does nothing: of pods' sandboxes, and of the lab's containers,
/// which have the node's programs mounted.
pub const PAUSE: &str = concat!("docker.io/library/pause:", env!("CARGO_PKG_VERSION"));
/// What `cargo xtask dist` makes.
pub const STALLPROBE: &str = concat!("docker.io/library/stallprobe:", env!("CARGO_PKG_VERSION"));
const IMAGES: &str = "/usr/share/images";
/// There once containerd has the images.
const READY: &str = "/run/containerd-has-images";

const LOG: &str = "/run/containerd.log";
const START: Duration = Duration::from_secs(120);

/// Debian's own has the folder of the CNI plugins in it too. There is no AppArmor parser here.
const CONFIG: &str = r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "PAUSE"
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
"#;

/// A bridge, as the simplest of networks has it.
const CNI: &str = r#"{
  "cniVersion": "1.0.0", "name": "lab",
  "plugins": [{
    "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
    "ipam": {
      "type": "host-local",
      "ranges": [[{ "subnet": "10.246.0.0/16" }]],
      "routes": [{ "dst": "0.0.0.0/0" }]
    }
  }]
}
"#;

/// Starts containerd, with its images, unless it runs: it stays for the cases that follow.
pub fn provide() -> Result<()> {
    if Path::new(READY).exists() && cri::answers() {
        return Ok(());
    }
    if !(Path::new(SOCKET).exists() && cri::answers()) {
        start()?;
    }
    for name in ["pause", "stallprobe"] {
        run("ctr", &["-n", "k8s.io", "images", "import", &format!("{IMAGES}/{name}.tar")])?;
    }
    fs::write(READY, "").with_context(|| format!("cannot write {READY}"))
}

fn start() -> Result<()> {
    for (path, text) in [
        ("/etc/containerd/config.toml", CONFIG.replace("PAUSE", PAUSE).as_str()),
        ("/etc/cni/net.d/10-lab.conflist", CNI),
    ] {
        let dir = Path::new(path).parent().context("a file without a folder")?;
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::write(path, text).with_context(|| format!("cannot write {path}"))?;
    }
    // As systemd has it, and with it container runtimes on every node.
    run("mount", &["--make-rshared", "/"])?;
    // iproute2 makes /run/netns a mount of its own with the first name; what was mounted there before
    // could not be removed any more (netns_add() in ip/ipnetns.c).
    run("ip", &["netns", "add", "first"])?;
    run("ip", &["netns", "del", "first"])?;
    let log = fs::File::create(LOG).with_context(|| format!("cannot create {LOG}"))?;
    let out = log.try_clone().with_context(|| format!("cannot share {LOG}"))?;
    // In a group of its own: a case's group ends with the case.
    let mut child = Command::new("containerd")
        .args(["--log-level", "warn"])
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("cannot start containerd")?;
    until("containerd answers", START, || {
        if let Some(status) = child.try_wait().context("cannot wait for containerd")? {
            bail!("containerd ended with {status}\n{}", last_words());
        }
        Ok(cri::answers().then_some(()))
    })
    .with_context(last_words)
}

/// Removes all pods.
pub fn clean() -> Result<()> {
    if cri::answers() { cri::clean().with_context(last_words) } else { Ok(()) }
}

/// The end of its log.
pub fn last_words() -> String {
    let text = fs::read_to_string(LOG).unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().rev().take(12).collect();
    lines.reverse();
    format!("containerd said:\n{}", lines.join("\n"))
}
