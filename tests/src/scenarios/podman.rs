//! Containers of podman: without a pod of Kubernetes, they are called as people called them.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    cri_pods::{process, settled},
    pods_command::{is, of},
};
use crate::{case::Skip, command::run, lab::Lab};

/// Made by the first container.
const STORAGE: &str = "/var/lib/containers/storage";
const IMAGE: &str = "/usr/share/images/pause.tar";

/// A container by itself, and two in a pod.
pub fn names(lab: &Lab) -> Result<()> {
    if lab.faults_only() {
        return Err(Skip("looks at stallprobe itself".to_owned()).into());
    }
    // podman unpacks images there.
    fs::create_dir_all("/var/tmp").context("cannot make /var/tmp")?;
    let loaded = podman(&["load", "--input", IMAGE])?;
    let image = loaded.trim().rsplit(' ').next().context("podman names no image")?.to_owned();
    let start = |name: &str, more: &[&str]| {
        let lab = ["/usr/local/bin/lab", "idle", "--name", name];
        let volumes =
            ["-v", "/usr:/usr:ro", "-v", "/usr/lib:/lib:ro", "-v", "/usr/lib64:/lib64:ro"];
        let run = ["run", "--detach", "--name", name, "--entrypoint", "[]"];
        podman(&[&run, more, &volumes, &[&image], &lab].concat())
    };
    start("registry", &[])?;
    podman(&["pod", "create", "--name", "blue", "--infra-image", &image])?;
    start("web", &["--pod", "blue"])?;
    start("db", &["--pod", "blue"])?;

    let rows = settled(&["registry", "web", "db"])?;
    let row = of(&rows, "registry")?;
    is(process(row, "registry")?, "/container", "registry")?;
    ensure!(row["veth"].as_array().is_some_and(|veth| veth.len() == 1), "no veth: {row}");
    let has_web = |row: &&Value| process(row, "web").is_ok();
    let blue = rows.iter().find(has_web).context("web is not listed")?;
    is(process(blue, "web")?, "/container", "web")?;
    is(process(blue, "db")?, "/container", "db")?;
    crate::cli::say(&format!("the pod is called {}", blue["pod"]))
}

fn podman(args: &[&str]) -> Result<String> {
    run("podman", &[&["--cgroup-manager=cgroupfs"], args].concat())
}

/// Removes all containers and pods, if there have been some.
pub fn clean() -> Result<()> {
    if !Path::new(STORAGE).exists() {
        return Ok(());
    }
    podman(&["pod", "rm", "--all", "--force", "--time", "0"])?;
    podman(&["rm", "--all", "--force", "--time", "0"]).map(drop)
}
