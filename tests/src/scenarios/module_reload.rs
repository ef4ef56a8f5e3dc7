//! nf_conntrack is unloaded and loaded again while stallprobe runs: a finding comes before and
//! after.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};

use super::snat_clash::lose_query;
use crate::{
    cleanup,
    command::run,
    dns::server::{self, Behaviour},
    lab::Lab,
    probe::Probe,
    race::Race,
    services,
    wait::{SOON, until},
};

const KPROBES: &str = "/sys/kernel/debug/kprobes/list";

pub fn run_case(lab: &Lab) -> Result<()> {
    let clients = [lab.pod("client-a")?, lab.pod("client-b")?];
    let resolver = lab.outside("resolver")?;
    let _server = server::start(&resolver, "resolver", Behaviour::default())?;
    let to = SocketAddr::new(resolver.v4.into(), 53);
    services::masquerade(None)?;
    let probe = lab.probe(&[])?;
    let race = Race::new()?;

    lose_query(&race, &clients, to)?.context("no clash before the modules were unloaded")?;
    stalls(lab, &probe, 1)?;

    cleanup::rules()?;
    until("nf_conntrack is unloaded", SOON, || {
        // Rules are destroyed some time after they were deleted; until then modules are in use.
        unload("nf_conntrack");
        Ok((!Path::new("/sys/module/nf_conntrack").exists()).then_some(()))
    })?;
    services::masquerade(None)?;
    if !lab.faults_only() {
        until("stallprobe is attached to the new nf_conntrack", SOON, || {
            let text =
                fs::read_to_string(KPROBES).with_context(|| format!("cannot read {KPROBES}"))?;
            // Entry and return are two probes, attached one after the other.
            let is_live = |l: &&str| l.contains("nf_ct_resolve_clash") && !l.contains("GONE");
            Ok((text.lines().filter(is_live).count() >= 2).then_some(()))
        })?;
    }
    lose_query(&race, &clients, to)?.context("no clash after the modules were loaded again")?;
    stalls(lab, &probe, 2)?;
    probe.stop()?;
    probe.only(&["conntrack-snat-clash"])
}

/// Waits until so many stalls were told, by findings or by updates of one.
fn stalls(lab: &Lab, probe: &Probe, wanted: u64) -> Result<()> {
    if lab.faults_only() {
        return Ok(());
    }
    until(&format!("{wanted} conntrack-snat-clash"), Duration::from_secs(20), || {
        Ok((probe.stalls(|f| f["cause"] == "conntrack-snat-clash") >= wanted).then_some(()))
    })
}

/// Unloads a module and first those that use it, as far as that is possible now.
fn unload(module: &str) {
    let holders = fs::read_dir(format!("/sys/module/{module}/holders"));
    for holder in holders.into_iter().flatten().flatten() {
        unload(&holder.file_name().to_string_lossy());
    }
    // In use still: tried again by the caller.
    let _ = run("rmmod", &[module]);
}
