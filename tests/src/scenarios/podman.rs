//! Containers of podman: without a pod of Kubernetes, they are called as people called them.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    cri_pods::{process, settled},
    pods_command::{is, of},
};
use crate::{command::run, lab::Lab};

/// Made by the first container.
const STORAGE: &str = "/var/lib/containers/storage";
const CONFIG: (&str, &str) = (
    "/etc/containers/containers.conf",
    "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
     [network]\nnetwork_backend = \"netavark\"\n",
);
const IMAGE: &str = "/usr/share/images/pause.tar";

/// A container by itself, and two in a pod.
pub fn names(lab: &Lab) -> Result<()> {
    lab.needs_stallprobe()?;
    configure()?;
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
    // podman 4.3 denies all devices, also /dev/null, to what is below a pod's own cgroup on cgroupfs.
    let apart = "--share-parent=false";
    podman(&["pod", "create", "--name", "blue", apart, "--infra-image", &image])?;
    start("web", &["--pod", "blue"])?;
    start("db", &["--pod", "blue"])?;

    let rows = settled(&["registry", "web", "db"])?;
    // The namespace of a container without a pod is called as the container.
    let row = of(&rows, "registry")?;
    is(process(row, "registry")?, "/contained", true)?;
    is(process(row, "registry")?, "/pod", Value::Null)?;
    ensure!(row["veth"].as_array().is_some_and(|veth| veth.len() == 1), "no veth: {row}");
    // That of a pod of podman is called as the container that holds it; the others are told apart.
    let has_web = |row: &&Value| process(row, "web").is_ok();
    let blue = rows.iter().find(has_web).context("web is not listed")?;
    ensure!(blue["pod"].as_str().is_some_and(|name| name.ends_with("-infra")), "odd name: {blue}");
    is(process(blue, "pause")?, "/pod", Value::Null)?;
    for name in ["web", "db"] {
        is(process(blue, name)?, "/contained", true)?;
        is(process(blue, name)?, "/pod", name)?;
    }
    Ok(())
}

/// Without systemd; and the node's CNI configuration is containerd's.
fn configure() -> Result<()> {
    // podman unpacks images in the first.
    for dir in ["/var/tmp", "/etc/containers"] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {dir}"))?;
    }
    fs::write(CONFIG.0, CONFIG.1).with_context(|| format!("cannot write {}", CONFIG.0))
}

fn podman(args: &[&str]) -> Result<String> {
    run("podman", args)
}

/// Removes all containers and pods, if there have been some.
pub fn clean() -> Result<()> {
    if !Path::new(STORAGE).exists() {
        return Ok(());
    }
    podman(&["pod", "rm", "--all", "--force", "--time", "0"])?;
    podman(&["rm", "--all", "--force", "--time", "0"]).map(drop)
}
