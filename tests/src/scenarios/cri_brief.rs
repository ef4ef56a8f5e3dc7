//! Pods that are gone when somebody reads of them: the name is that of the pod that did it, and no other
//! pod has it after it.

use std::{fs, net::SocketAddr, time::Instant};

use anyhow::{Context, Result, ensure};

use super::{
    cri_pods::{OF_NODE, listener},
    pods_command::{of, rows},
};
use crate::{
    case::Skip,
    cli::say,
    containerd::{self, PAUSE},
    cri::{Folders, Kind, Pod, Program},
    kubelet,
    lab::Lab,
    probe::Probe,
    tcp::{Attempt, State},
    wait::{SOON, until},
};

/// Nobody listens there.
const CLOSED: u16 = 9;
/// How many pods may be made until a namespace's number comes again.
const PODS: u32 = 8;

/// A pod whose only process connects to a port that nobody listens on, and ends 300 ms after it began;
/// and one of containerd's whose sandbox is removed as soon as its container has run.
pub fn run_case(lab: &Lab) -> Result<()> {
    containerd::provide()?;
    let api = Pod::run("shop", "api-7d4f9c-x2x5k", 21, Kind::Plain)?;
    let to = (api.netns()?.v4, CLOSED).into();
    let probe = lab.probe(&[])?;

    let folders = Folders::make("jobs", "brief", 51)?;
    let brief = lab.pod(&format!("cni-{}", folders.uid))?;
    let cgroup = folders.container(&"b".repeat(64))?;
    let lived = kubelet::brief(&brief, "brief", to, &cgroup)?;
    say(&format!("the process of jobs/brief lived {} ms", lived.as_millis()))?;
    crate::command::run("ip", &["netns", "del", &brief.name])?;
    let address = brief.v4.to_string();
    let what = "what the brief pod did";
    probe
        .finding(what, SOON, |f| f["victim"]["address"] == address.as_str())?
        .is("/cause", "no-listener")?
        .is("/culprit/pod", "shop/api-7d4f9c-x2x5k")?
        .is("/victim/pod", "jobs/brief")?;

    runs_and_goes(&probe, to)?;
    probe.stop()?;
    probe.only(&["no-listener"])
}

/// A pod of containerd's is removed as soon as its container has connected.
fn runs_and_goes(probe: &Probe, to: SocketAddr) -> Result<()> {
    let start = Instant::now();
    let pod = Pod::run("jobs", "job", 61, Kind::Plain)?;
    let client = pod.netns()?.v4.to_string();
    let to = to.to_string();
    let command = ["/usr/local/bin/lab", "brief", "--name", "job", "--to", &to];
    let program =
        Program { name: "job", attempt: 0, image: PAUSE, command: &command, mounts: OF_NODE };
    pod.start(&program)?;
    let log = pod.log(&program);
    until("the container has connected", SOON, || {
        let text = fs::read_to_string(&log).with_context(|| format!("cannot read {log}"))?;
        Ok((!text.is_empty()).then_some(()))
    })?;
    pod.delete()?;
    say(&format!("containerd's job lived {:.1} s", start.elapsed().as_secs_f32()))?;
    probe
        .finding("what the job did", SOON, |f| f["victim"]["address"] == client.as_str())?
        .is("/cause", "no-listener")?
        .is("/victim/pod", "jobs/job")?;
    Ok(())
}

/// A pod is deleted, and another gets its namespace's number.
pub fn deleted(lab: &Lab) -> Result<()> {
    containerd::provide()?;
    let api = Pod::run("shop", "api-7d4f9c-x2x5k", 31, Kind::Plain)?;
    listener(&api, "api", 0, "5")?;
    let to = (api.netns()?.v4, CLOSED).into();
    let probe = lab.probe(&[])?;
    let old = Pod::run("jobs", "old", 32, Kind::Plain)?;
    let number = inode(&old)?;
    refused(&probe, &old, "jobs/old", to)?;
    let of_old = || probe.stalls(|f| f["victim"]["pod"] == "jobs/old");
    let before = of_old();
    old.delete()?;

    let new = (0..PODS).find_map(|at| match another(at, number) {
        Ok(None) => None,
        found => found.transpose(),
    });
    let Some(new) = new.transpose()? else {
        let why = format!("the namespace's number {number} did not come again with {PODS} pods");
        return Err(Skip(why).into());
    };
    refused(&probe, &new.pod, &format!("jobs/{}", new.name), to)?;
    if !lab.faults_only() {
        let rows = rows(&[])?;
        of(&rows, &format!("jobs/{}", new.name))?;
        ensure!(rows.iter().all(|row| row["pod"] != "jobs/old"), "the old pod is listed");
    }
    probe.stop()?;
    let after = of_old();
    ensure!(before == after, "{after} stalls of the old pod, {before} when it was deleted");
    probe.only(&["no-listener"])
}

/// The pod's connect is refused, and the finding names the pod.
fn refused(probe: &Probe, pod: &Pod, name: &str, to: SocketAddr) -> Result<()> {
    let client = pod.netns()?;
    let address = client.v4.to_string();
    let state = Attempt::start(&client, to)?.wait(SOON)?;
    ensure!(state == State::Failed(libc::ECONNREFUSED), "the connect was {state:?}");
    probe
        .finding("a refused connect", SOON, |f| f["victim"]["address"] == address.as_str())?
        .is("/cause", "no-listener")?
        .is("/victim/pod", name)?;
    Ok(())
}

struct Another {
    pod: Pod,
    name: String,
}

/// One more pod; none if its namespace has another number.
fn another(at: u32, number: u64) -> Result<Option<Another>> {
    let name = format!("new-{at}");
    let pod = Pod::run("jobs", &name, 40 + at, Kind::Plain)?;
    Ok((inode(&pod)? == number).then_some(Another { pod, name }))
}

fn inode(pod: &Pod) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let file = pod.netns()?.open()?;
    Ok(file.metadata().context("cannot look at a network namespace")?.ino())
}
