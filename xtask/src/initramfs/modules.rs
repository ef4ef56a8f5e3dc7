//! Which kernel modules the guest gets: networking as a Kubernetes node uses it, with everything
//! they depend on, decompressed. They are loaded on demand by the kernel's own modprobe calls.
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    cache::{Staging, create_dir, run_quietly},
    cpio::Tree,
    kernel::Kernel,
};

/// Paths below `lib/modules/<release>/kernel/`: whole folders end with a slash.
const WANTED: &[&str] = &[
    "net/802/",
    "net/8021q/",
    "net/bridge/",
    "net/core/",
    "net/ipv4/",
    "net/ipv6/",
    "net/key/",
    "net/llc/",
    "net/mptcp/",
    "net/netfilter/",
    "net/netlink/",
    "net/packet/",
    "net/psample/",
    "net/sched/",
    "net/tls/",
    "net/unix/",
    "net/xfrm/",
    "drivers/char/hw_random/virtio-rng",
    "drivers/net/bonding/",
    "drivers/net/dummy",
    "drivers/net/geneve",
    "drivers/net/ifb",
    "drivers/net/ipvlan/",
    "drivers/net/macvlan",
    "drivers/net/macvtap",
    "drivers/net/net_failover",
    "drivers/net/nlmon",
    "drivers/net/tap",
    "drivers/net/tun",
    "drivers/net/veth",
    "drivers/net/virtio_net",
    "drivers/net/vrf",
    "drivers/net/vxlan",
    "drivers/net/wireguard/",
    "drivers/virtio/",
    "fs/overlayfs/",
];

/// For the cache key.
pub fn rules() -> String {
    WANTED.join(" ")
}

/// A folder with `lib/modules/<release>` of the chosen modules, plain `.ko`, and depmod's tables.
pub fn stage(kernel: &Kernel, beside: &Path) -> Result<Staging> {
    let source = kernel.modules();
    let table = source.join("modules.dep");
    let table =
        fs::read_to_string(&table).with_context(|| format!("cannot read {}", table.display()))?;
    let staging = Staging::beside(&beside.join(format!("{}.modules", kernel.release)))?;
    let target = staging.path().join("lib/modules").join(&kernel.release);

    let mut compressed: HashMap<&str, Vec<PathBuf>> = HashMap::new();
    for module in select(&table) {
        let to = target.join(module);
        if let Some(folder) = to.parent() {
            create_dir(folder)?;
        }
        let from = source.join(module);
        fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        for (suffix, program) in [(".xz", "xz"), (".zst", "zstd"), (".gz", "gzip")] {
            if module.ends_with(suffix) {
                compressed.entry(program).or_default().push(to.clone());
            }
        }
    }
    for (program, files) in compressed {
        let mut command = Command::new(program);
        command.arg("-d").arg("-q").args(&files);
        if program == "zstd" {
            command.arg("--rm");
        }
        run_quietly(&mut command)?;
    }
    for name in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        let from = source.join(name);
        if from.is_file() {
            let to = target.join(name);
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    run_quietly(
        Command::new("/usr/sbin/depmod").arg("-b").arg(staging.path()).arg(&kernel.release),
    )?;
    Ok(staging)
}

/// The wanted modules and what they need. `modules.dep` has one line a module with *all* its
/// dependencies: `kernel/a.ko: kernel/b.ko kernel/c.ko`.
fn select(table: &str) -> BTreeSet<&str> {
    let mut chosen = BTreeSet::new();
    for line in table.lines() {
        let Some((module, needs)) = line.split_once(':') else {
            continue;
        };
        if is_wanted(module) {
            chosen.insert(module);
            chosen.extend(needs.split_whitespace());
        }
    }
    chosen
}

fn is_wanted(module: &str) -> bool {
    let Some(path) = module.strip_prefix("kernel/") else {
        return false;
    };
    WANTED.iter().any(|wanted| match path.strip_prefix(wanted) {
        Some(rest) => wanted.ends_with('/') || rest.starts_with(['.', '/']),
        None => false,
    })
}

/// Puts everything below `staged/lib/modules/<release>` into the guest.
pub fn add(tree: &mut Tree, staged: &Path, release: &str) -> Result<()> {
    let guest = format!("usr/lib/modules/{release}");
    add_folder(tree, &staged.join("lib/modules").join(release), &guest)
}

fn add_folder(tree: &mut Tree, folder: &Path, guest: &str) -> Result<()> {
    let list = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in list {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let path = entry.path();
        let guest = format!("{guest}/{}", entry.file_name().to_string_lossy());
        if path.is_dir() {
            add_folder(tree, &path, &guest)?;
        } else {
            let bytes =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            tree.bytes(&guest, 0o644, bytes);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_along() {
        let table = "kernel/net/netfilter/nf_conntrack.ko.xz: kernel/lib/libcrc32c.ko.xz\n\
            kernel/net/rds/rds.ko.xz:\n\
            kernel/drivers/net/veth.ko.xz:\n\
            kernel/drivers/net/vethx.ko.xz:\n\
            kernel/drivers/net/vxlan/vxlan.ko.xz: kernel/net/ipv4/udp_tunnel.ko.xz\n\
            kernel/lib/libcrc32c.ko.xz:\n";
        let chosen: Vec<&str> = select(table).into_iter().collect();
        assert_eq!(
            chosen,
            [
                "kernel/drivers/net/veth.ko.xz",
                "kernel/drivers/net/vxlan/vxlan.ko.xz",
                "kernel/lib/libcrc32c.ko.xz",
                "kernel/net/ipv4/udp_tunnel.ko.xz",
                "kernel/net/netfilter/nf_conntrack.ko.xz",
            ]
        );
    }
}
