//! Debian's packages as the file system of a guest of another architecture: the host's own programs
//! do not run there. They are downloaded with all they need and unpacked into the cache, once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    apt::{
        archive::{Archive, Mirrors},
        fetch::{self, Wanted},
        index,
    },
    arch::Arch,
    cache::{Cache, Staging, run_quietly},
    cpio::Tree,
    progress::Step,
};

/// The suite of the kernel that is booted.
const SUITE: &str = "trixie";
/// What the lab's cases of addresses, queues and conntrack need.
const PACKAGES: &[&str] = &[
    "bash",
    "busybox-static",
    "conntrack",
    "iproute2",
    "ipset",
    "iptables",
    "ipvsadm",
    "kmod",
    "nftables",
    "util-linux",
];
/// Needed by installed systems only.
const WITHOUT: &[&str] = &[
    "base-files",
    "debconf",
    "debianutils",
    "libpam-modules",
    "libpam-runtime",
    "netbase",
    "openssl-provider-legacy",
];
/// Programs and libraries are there, documentation is not. The guest's init makes modprobe.
const FOLDERS: [&str; 3] = ["usr/bin", "usr/sbin", "usr/lib"];
const MODPROBE: &str = "usr/sbin/modprobe";
/// Links that a package's installation would make: `iptables` and its kin.
const ALTERNATIVES: [&str; 6] = [
    "iptables",
    "iptables-restore",
    "iptables-save",
    "ip6tables",
    "ip6tables-restore",
    "ip6tables-save",
];

/// The unpacked packages; downloaded when they are not there.
pub fn folder(cache: &Cache, arch: Arch) -> Result<PathBuf> {
    let name = format!("{}-{SUITE}-{}", arch.debian(), PACKAGES.join("-"));
    let target = cache.unpacked()?.join(name);
    if target.is_dir() {
        return Ok(target);
    }
    let _lock = cache.lock()?;
    if !target.is_dir() {
        let mirrors = Mirrors::from_apt()?;
        let debs = cache.debs()?;
        let index = fetch::packages_index(&mirrors, Archive::Main, arch, SUITE, &debs)?;
        let packages = index::closure(&index, PACKAGES, WITHOUT)?;
        let staging = Staging::beside(&target)?;
        for package in &packages {
            let wanted =
                Wanted { archive: Archive::Main, path: &package.path, sha256: &package.sha256 };
            let deb = fetch::package(&mirrors, &wanted, &debs)?;
            run_quietly(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(staging.path()))?;
        }
        staging.publish()?;
    }
    Ok(target)
}

pub fn add(tree: &mut Tree, cache: &Cache, arch: Arch) -> Result<()> {
    let step = Step::start(format!("Debian's {} programs for the guest", arch.debian()));
    let root = folder(cache, arch)?;
    for name in FOLDERS {
        add_folder(tree, &root.join(name), name)?;
    }
    for name in ALTERNATIVES {
        let (family, rest) =
            name.split_once('-').map_or((name, ""), |(family, rest)| (family, rest));
        let dash = if rest.is_empty() { "" } else { "-" };
        tree.symlink(&format!("usr/sbin/{name}"), &format!("{family}-nft{dash}{rest}"));
    }
    super::tools::applets(tree, "usr/bin/busybox")?;
    step.done("done");
    Ok(())
}

fn add_folder(tree: &mut Tree, folder: &Path, guest: &str) -> Result<()> {
    let list = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in list {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let path = entry.path();
        let guest = format!("{guest}/{}", entry.file_name().to_string_lossy());
        let kind =
            entry.file_type().with_context(|| format!("cannot look at {}", path.display()))?;
        if guest == MODPROBE {
            continue;
        }
        if kind.is_symlink() {
            let target = fs::read_link(&path)
                .with_context(|| format!("cannot read the link {}", path.display()))?;
            tree.symlink(&guest, &target.to_string_lossy());
        } else if kind.is_dir() {
            add_folder(tree, &path, &guest)?;
        } else {
            tree.host_file(&guest, 0o755, &path);
        }
    }
    Ok(())
}
