//! As many pods as a full node has, at once. Each pod of containerd's starts some ten Go programs, which
//! takes two seconds and more under emulation: in a short run a part is made by it, the others as it and
//! the kubelet would leave them.

use std::{fs, net::Ipv4Addr, process::Command, time::Instant};

use anyhow::{Context, Result, ensure};

use super::pods_command::rows;
use crate::{
    cli::say,
    containerd,
    cri::{Folders, Kind, Pod, in_parallel},
    lab::Lab,
    probe::STALLPROBE,
    process::Process,
};

const PODS: u32 = 200;
/// Of them containerd makes so many in a short run.
const SOME: u32 = 12;

/// All of them by containerd.
pub fn full(lab: &Lab) -> Result<()> {
    names(lab, PODS)
}

pub fn mixed(lab: &Lab) -> Result<()> {
    names(lab, SOME)
}

fn names(lab: &Lab, by_runtime: u32) -> Result<()> {
    lab.needs_stallprobe()?;
    containerd::provide()?;
    let mut verbose = Command::new(STALLPROBE);
    verbose.env("RUST_LOG", "probe_user=debug");
    let probe = lab.probe_by(verbose, &[])?;
    let start = Instant::now();
    let numbers: Vec<u32> = (1..=by_runtime).collect();
    let of_runtime = in_parallel(&numbers, |&number| {
        let pod = Pod::run("many", &name(number), number, Kind::Plain)?;
        Ok((number, pod.netns()?.v4))
    })?;
    let took = start.elapsed();
    let mut alike = Vec::new();
    for number in by_runtime + 1..=PODS {
        let (process, address) = like_runtime(lab, number)?;
        alike.push((process, (number, address)));
    }
    say(&format!(
        "{} pods by containerd in {:.1} s, {} like them in {:.1} s",
        of_runtime.len(),
        took.as_secs_f32(),
        alike.len(),
        (start.elapsed() - took).as_secs_f32()
    ))?;

    let start = Instant::now();
    let all = rows(&[])?;
    say(&format!("stallprobe pods: {:.1} s", start.elapsed().as_secs_f32()))?;
    let made: Vec<(u32, Ipv4Addr)> =
        of_runtime.into_iter().chain(alike.iter().map(|(_, made)| *made)).collect();
    ensure!(made.len() == PODS as usize, "{} pods were made", made.len());
    for (number, address) in made {
        let (name, address) = (format!("many/{}", name(number)), address.to_string());
        let mut named = all.iter().filter(|row| row["pod"] == name.as_str());
        let row = named.next().with_context(|| format!("{name} is not listed"))?;
        ensure!(named.next().is_none(), "{name} is listed twice");
        let addresses = row["addresses"].as_array().into_iter().flatten();
        ensure!(
            addresses.clone().any(|one| *one == address.as_str()),
            "{name} is not the pod with {address}\n  {row}"
        );
    }
    let ticks = cpu(probe.pid().context("stallprobe does not run")?)?;
    let summary = probe.stop()?;
    let passes = probe.errors("a pass over /proc");
    let seconds = summary["elapsed_ms"].as_u64().context("no time in the summary")? / 1000;
    say(&format!(
        "stallprobe watch: {passes} passes over /proc in {seconds} s, {:.1} s of processor time",
        ticks as f64 / 100.0
    ))?;
    // One as it starts, one each five seconds, and no more than one for each pod that did something.
    let most = seconds / 5 + 2 + u64::from(PODS);
    ensure!(passes > 0 && passes as u64 <= most, "{passes} passes in {seconds} s");
    probe.only(&[])
}

fn name(number: u32) -> String {
    format!("web-{number}")
}

/// A pod with a process in a network namespace of its own, cgroup and log folder.
fn like_runtime(lab: &Lab, number: u32) -> Result<(Process, Ipv4Addr)> {
    let folders = Folders::make("many", &name(number), number)?;
    let pod = lab.pod(&format!("cni-{}", folders.uid))?;
    let pause = Process::helper(&pod, &["idle", "--name", "pause"])?;
    let procs = format!("{}/cgroup.procs", folders.container(&format!("{number:064x}"))?);
    fs::write(&procs, pause.pid().to_string()).with_context(|| format!("cannot write {procs}"))?;
    Ok((pause, pod.v4))
}

/// User and system time of a process so far, in hundredths of a second (proc_pid_stat(5)).
fn cpu(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // After the name in brackets, which may have blanks, come the third field and the others.
    let (_, rest) = text.rsplit_once(')').context("odd stat")?;
    let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse::<u64>().ok();
    field(14).zip(field(15)).map(|(user, system)| user + system).context("odd stat")
}
