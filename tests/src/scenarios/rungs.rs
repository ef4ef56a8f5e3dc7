//! The ladder: the same faults with fentry left out, as on kernels that do not have it. Conntrack's
//! functions are in a module and stand on kprobes in any case.

use anyhow::{Result, ensure};

use super::{accept_queue, snat_clash, table_full};
use crate::{lab::Lab, probe::Probe, wait::SOON};

const RUNGS: &[&str] = &["--rungs", "kprobe,tracepoint"];

pub fn accept_queue_syn(lab: &Lab) -> Result<()> {
    without_fentry(lab, accept_queue::syn)
}

pub fn accept_queue_ack(lab: &Lab) -> Result<()> {
    without_fentry(lab, accept_queue::ack)
}

pub fn snat_clash(lab: &Lab) -> Result<()> {
    without_fentry(lab, snat_clash::udp)
}

pub fn table_full(lab: &Lab) -> Result<()> {
    without_fentry(lab, table_full::v4)
}

fn without_fentry(lab: &Lab, scenario: fn(&Lab) -> Result<()>) -> Result<()> {
    lab.with_arguments(RUNGS);
    scenario(lab)?;
    lab.started().map_or(Ok(()), |probe| check(&probe))
}

/// No hook stands on a rung that was left out, and functions stand on kprobes.
fn check(probe: &Probe) -> Result<()> {
    let header = probe.wait_line("the list of hooks", SOON, |line| line["hooks"].is_array())?;
    let mut kprobes = 0;
    for hook in header["hooks"].as_array().into_iter().flatten() {
        ensure!(hook["detail"] != "fentry", "a hook stands on fentry\n  {hook}");
        kprobes += usize::from(hook["detail"] == "kprobe");
    }
    ensure!(kprobes > 0, "no hook stands on a kprobe\n  {}", header["hooks"]);
    Ok(())
}
