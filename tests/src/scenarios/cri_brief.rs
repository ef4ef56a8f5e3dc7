//! Pods that are gone when somebody reads of them: the name is that of the pod that did it, and no other
//! pod has it after it.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::{
    cri_pods::{OF_NODE, listener},
    pods_command::{of, rows},
};
use crate::{
    cli::say,
    containerd::{self, PAUSE},
    cri::{Folders, Kind, Pod, Program},
    kubelet,
    lab::Lab,
    tcp::{Attempt, State},
    wait::SOON,
};

/// Nobody listens there.
const CLOSED: u16 = 9;
/// How often a namespace's number is waited for to come again.
const TRIES: u32 = 8;

/// A pod whose only process connects to a port that nobody listens on, and ends 300 ms after it began;
/// and one of containerd's whose sandbox is removed as soon as its container has run.
pub fn run_case(lab: &Lab) -> Result<()> {
    containerd::provide()?;
    let api = Pod::run("shop", "api-7d4f9c-x2x5k", 21, Kind::Plain)?;
    let to = (api.netns()?.v4, CLOSED).into();
    let probe = lab.probe(&[])?;

    let folders = Folders::make("jobs", "brief-1", 22)?;
    let cgroup = folders.container(&"b".repeat(64))?;
    let brief = lab.pod(&format!("cni-{}", folders.uid))?;
    let lived = kubelet::brief(&brief, "brief", to, &cgroup)?;
    say(&format!("its process lived {} ms", lived.as_millis()))?;
    crate::command::run("ip", &["netns", "del", &brief.name])?;
    probe
        .cause("no-listener", "jobs/brief-1", SOON)?
        .is("/culprit/pod", "shop/api-7d4f9c-x2x5k")?
        .is("/victim/process", "brief")?;

    let start = Instant::now();
    let job = Pod::run("jobs", "brief-2", 23, Kind::Plain)?;
    let address = to.to_string();
    let command = ["/usr/local/bin/lab", "brief", "--name", "job", "--to", &address];
    let name = "job";
    job.start(&Program { name, attempt: 0, image: PAUSE, command: &command, mounts: OF_NODE })?;
    job.delete()?;
    say(&format!("containerd's pod lived {:.1} s", start.elapsed().as_secs_f32()))?;
    probe
        .cause("no-listener", "jobs/brief-2", SOON)?
        .is("/culprit/pod", "shop/api-7d4f9c-x2x5k")?;
    probe.stop()?;
    probe.only(&["no-listener"])
}

/// A pod is deleted, and another gets its namespace's number.
pub fn deleted(lab: &Lab) -> Result<()> {
    containerd::provide()?;
    let api = Pod::run("shop", "api-7d4f9c-x2x5k", 31, Kind::Plain)?;
    listener(&api, "api", 0, "5")?;
    let to = (api.netns()?.v4, CLOSED).into();
    let probe = lab.probe(&[])?;
    let refused = |pod: &Pod| -> Result<()> {
        let state = Attempt::start(&pod.netns()?, to)?.wait(SOON)?;
        ensure!(state == State::Failed(libc::ECONNREFUSED), "the connect was {state:?}");
        Ok(())
    };

    let old = Pod::run("jobs", "old", 32, Kind::Plain)?;
    let number = inode(&old)?;
    refused(&old)?;
    old.delete()?;
    probe.cause("no-listener", "jobs/old", SOON)?;

    let new = (0..TRIES).find_map(|at| match another(at, number) {
        Ok(None) => None,
        found => found.transpose(),
    });
    let Some(new) = new.transpose()? else {
        bail!("the number {number} did not come again with {TRIES} pods");
    };
    refused(&new.pod)?;
    probe.cause("no-listener", &format!("jobs/{}", new.name), SOON)?;
    if !lab.faults_only() {
        let rows = rows(&[])?;
        of(&rows, &format!("jobs/{}", new.name))?;
        ensure!(rows.iter().all(|row| row["pod"] != "jobs/old"), "the old pod is listed");
    }
    probe.stop()?;
    let told = probe.stalls(|f| f["victim"]["pod"] == "jobs/old");
    ensure!(lab.faults_only() || told == 1, "{told} stalls of the old pod");
    probe.only(&["no-listener"])
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
