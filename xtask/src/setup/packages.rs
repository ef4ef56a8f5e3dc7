//! Debian packages the virtual machines and the lab need, installed by apt.
use std::{
    collections::HashSet,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{cache::run_quietly, progress::Step};

const PACKAGES: &[&str] = &[
    "bash",
    "busybox-static",
    "conntrack",
    "cpio",
    "dnsmasq-base",
    "iproute2",
    "ipset",
    "iptables",
    "ipvsadm",
    "kmod",
    "lz4",
    "musl-tools",
    "nftables",
    "qemu-system-x86",
    "tshark",
    "util-linux",
    "xz-utils",
    "zstd",
];

/// More of them for aarch64: its compiler and its machine.
const CROSS_COMPILER: &[&str] = &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];
const CROSS_MACHINE: &[&str] = &["qemu-system-arm"];

pub fn ensure_installed() -> Result<()> {
    ensure(PACKAGES)
}

/// What building for aarch64 needs.
pub fn ensure_cross_compiler() -> Result<()> {
    ensure(CROSS_COMPILER)
}

/// What running it needs.
pub fn ensure_cross_machine() -> Result<()> {
    ensure(CROSS_MACHINE)
}

fn ensure(packages: &[&'static str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let mut step = Step::start(format!("installing Debian packages: {list}"));
    let install = || {
        let mut arguments = vec!["install", "-y", "--no-install-recommends"];
        arguments.extend(&missing);
        apt_get(&arguments)
    };
    // The indexes may be missing or old: refresh them when it does not work without.
    let installed = step.during(|| {
        if install().is_ok() {
            return Ok(());
        }
        refresh_indexes().and_then(|()| install())
    });
    if let Err(error) = installed {
        bail!("{error:#}. Way out: install these yourself and run this again: {list}");
    }
    step.done("done");
    Ok(())
}

pub fn refresh_indexes() -> Result<()> {
    apt_get(&["update"])
}

fn missing(packages: &[&'static str]) -> Result<Vec<&'static str>> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("cannot run dpkg-query: set-up knows Debian and its relatives only")?;
    // It fails when one of them is unknown, and still tells about the others.
    let text = String::from_utf8_lossy(&output.stdout);
    let installed: HashSet<&str> =
        text.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    let all = packages.iter().copied();
    Ok(all.filter(|name| !installed.contains(name)).collect())
}

/// apt-get as root; without a terminal to ask at.
fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = as_root("apt-get");
    command
        .args(["-q", "-o", "DPkg::Lock::Timeout=120"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    run_quietly(&mut command)
        .map(|_output| ())
        .with_context(|| format!("apt-get {}", arguments.join(" ")))
}

/// A command that runs as root, by sudo if need be.
pub fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-E", program]);
    command
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    // The owner of a process's /proc entry is its effective user.
    Path::new("/proc/self").metadata().is_ok_and(|meta| meta.uid() == 0)
}
