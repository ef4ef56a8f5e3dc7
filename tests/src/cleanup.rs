//! Puts the node back as it was before a case, whatever state the case was left in.
//!
//! Nothing here may load a kernel module on a node that has none: `nft` and `conntrack` are asked
//! only when what they speak to is there.

use std::{fs, path::Path};

use anyhow::Result;

use crate::{
    command::run,
    containerd, ipvs, kubelet,
    netns::{BRIDGE, host_link},
    scenarios::podman,
    sysctl, uplink,
    wait::{SOON, until},
};

/// Deletes pods, links, rules, connections and journalled sysctls. Goes on after a failure, so
/// that one leftover does not keep the others; gives the first error.
pub fn node() -> Result<()> {
    let mut first = Ok(());
    for step in [
        ipvs::clean,
        routes,
        pods,
        links,
        uplink::clean,
        rules,
        ipvs::clean_modules,
        connections,
        kubelet::clean,
        sysctl::restore,
    ] {
        let done = step();
        if first.is_ok() {
            first = done;
        }
    }
    first
}

/// The same after a case with container runtimes, which stay and hold what is theirs.
pub fn runtimes() -> Result<()> {
    let cleaned = [containerd::clean(), podman::clean(), pods()];
    cleaned.into_iter().collect()
}

fn names(dir: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
}

fn pods() -> Result<()> {
    for pod in names("/run/netns") {
        // The link goes with its pod only some time later; its name is needed again at once.
        let link = host_link(&pod);
        if Path::new("/sys/class/net").join(&link).exists() {
            run("ip", &["link", "del", &link])?;
        }
        run("ip", &["netns", "del", &pod])?;
    }
    if Path::new("/etc/netns").exists() {
        fs::remove_dir_all("/etc/netns")?;
    }
    Ok(())
}

/// Routes that say that something cannot be reached go with no device.
fn routes() -> Result<()> {
    for family in ["-4", "-6"] {
        let shown = run("ip", &[family, "route", "show", "type", "unreachable"])?;
        for line in shown.lines() {
            // "unreachable fd00::2 dev lo metric 1 …"
            if let Some(to) = line.split_whitespace().nth(1) {
                run("ip", &[family, "route", "del", "unreachable", to])?;
            }
        }
    }
    Ok(())
}

fn links() -> Result<()> {
    if Path::new("/sys/class/net").join(BRIDGE).exists() {
        run("ip", &["link", "del", BRIDGE])?;
    }
    let ours = |name: &String| name.starts_with('v') && name != "vcan0";
    until("the pods' links are gone", SOON, || {
        Ok((!names("/sys/class/net").iter().any(ours)).then_some(()))
    })
}

/// Deletes every rule, of nft and of legacy iptables.
pub fn rules() -> Result<()> {
    if Path::new("/sys/module/nf_tables").exists() {
        run("nft", &["flush", "ruleset"])?;
    }
    for (tables, tool) in [
        ("/proc/net/ip_tables_names", "iptables-legacy"),
        ("/proc/net/ip6_tables_names", "ip6tables-legacy"),
    ] {
        for table in fs::read_to_string(tables).unwrap_or_default().lines() {
            run(tool, &["-w", "-t", table, "-F"])?;
            run(tool, &["-w", "-t", table, "-X"])?;
        }
    }
    Ok(())
}

fn connections() -> Result<()> {
    // A long table left behind would be a full one for the next case, whose limit is lower again.
    let count = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    let many = count.is_ok_and(|count| count.trim().parse().is_ok_and(|count: u64| count > 1000));
    if many || Path::new("/sys/module/nf_conntrack_netlink").exists() {
        run("conntrack", &["-F"])?;
    }
    Ok(())
}
