//! Pods that containerd makes, asked by the CRI as the kubelet asks it: what `stallprobe pods` calls
//! them.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::pods_command::{is, of, rows};
use crate::{
    containerd::{self, PAUSE},
    cri::{Container, Kind, Pod, Program},
    lab::Lab,
    wait::{SOON, until},
};

/// The lab's own program and its libraries, from the node.
pub const OF_NODE: &[(&str, &str)] =
    &[("/usr", "/usr"), ("/usr/lib", "/lib"), ("/usr/lib64", "/lib64")];
const LAB: &str = "/usr/local/bin/lab";
pub const PORT: u16 = 8080;

/// Starts a container that listens, never accepts, and is called by its own name.
pub fn listener(pod: &Pod, name: &str, attempt: u32, backlog: &str) -> Result<Container> {
    let any = SocketAddr::from(([0, 0, 0, 0], PORT)).to_string();
    let command = [LAB, "tcp-server", "--listen", &any, "--name", name, "--backlog", backlog];
    pod.start(&Program { name, attempt, image: PAUSE, command: &command, mounts: OF_NODE })
}

fn idle(pod: &Pod, name: &str) -> Result<Container> {
    let command = [LAB, "idle", "--name", name];
    pod.start(&Program { name, attempt: 0, image: PAUSE, command: &command, mounts: OF_NODE })
}

/// A pod with two containers, one in the node's network, a container that is restarted, a pod that is
/// deleted.
pub fn names(lab: &Lab) -> Result<()> {
    lab.needs_stallprobe()?;
    containerd::provide()?;
    let api = Pod::run("shop", "api-7d4f9c-x2x5k", 1, Kind::Plain)?;
    let first = listener(&api, "api", 0, "5")?;
    idle(&api, "sidecar")?;
    let proxy = Pod::run("kube-system", "kube-proxy-x1", 2, Kind::HostNetwork)?;
    idle(&proxy, "kube-proxy")?;

    let all = settled(&["api", "sidecar", "kube-proxy"])?;
    let row = of(&all, "shop/api-7d4f9c-x2x5k")?;
    is(row, "/addresses/0", api.netns()?.v4.to_string())?;
    ensure!(row["veth"].as_array().is_some_and(|veth| veth.len() == 1), "no veth: {row}");
    is(row, "/listeners/0/address", format!("0.0.0.0:{PORT}"))?;
    let server = process(row, "api")?;
    is(row, "/listeners/0/pid", server["pid"].clone())?;
    is(server, "/container", "api")?;
    is(process(row, "sidecar")?, "/container", "sidecar")?;
    is(process(row, "pause")?, "/container", Value::Null)?;
    for process in row["processes"].as_array().into_iter().flatten() {
        is(process, "/contained", true)?;
        is(process, "/pod", Value::Null)?;
    }
    let proxy = process(of(&all, "host")?, "kube-proxy")?;
    is(proxy, "/pod", "kube-system/kube-proxy-x1")?;
    is(proxy, "/container", "kube-proxy")?;

    first.remove()?;
    listener(&api, "api", 1, "5")?;
    let all = settled(&["api", "sidecar"])?;
    let again = of(&all, "shop/api-7d4f9c-x2x5k")?;
    is(again, "/netns", row["netns"].clone())?;
    let restarted = process(again, "api")?;
    is(restarted, "/container", "api")?;
    ensure!(restarted["pid"] != server["pid"], "the container was not restarted: {again}");

    api.delete()?;
    let left = rows(&[])?;
    let is_left = left.iter().any(|row| row["pod"] == "shop/api-7d4f9c-x2x5k");
    ensure!(!is_left, "a pod that was deleted is listed");
    Ok(())
}

/// The rows, as soon as the processes called so are listed: a program takes its name once it runs.
pub fn settled(programs: &[&str]) -> Result<Vec<Value>> {
    until(&format!("{programs:?} are listed"), SOON, || {
        let rows = rows(&[])?;
        let has = |name: &&str| rows.iter().any(|row| process(row, name).is_ok());
        Ok(programs.iter().all(has).then_some(rows))
    })
}

pub fn process<'a>(row: &'a Value, comm: &str) -> Result<&'a Value> {
    let mut processes = row["processes"].as_array().context("no processes")?.iter();
    processes.find(|process| process["comm"] == comm).with_context(|| format!("no {comm}: {row}"))
}
