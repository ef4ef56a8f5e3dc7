//! Debian's container runtimes for one of the virtual machines: containerd, runc and the CNI plugins,
//! and podman. Nothing of them is installed on this machine.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{
    arch::Arch,
    artifacts::{Artifacts, LAB_IMAGE},
    cache::Cache,
    cpio::Tree,
    initramfs,
    oci::{self, Program},
    setup::unpacked,
};

/// Memory of the machine in MB: each pod has a shim, a Go program of some 10 MB.
pub const MEMORY: u32 = 6144;

/// A package and what is taken of it.
struct Kit {
    package: &'static str,
    files: &'static [&'static str],
}

const KITS: &[Kit] = &[
    Kit {
        package: "containerd",
        files: &["usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/bin/ctr"],
    },
    Kit { package: "runc", files: &["usr/sbin/runc"] },
    Kit {
        package: "containernetworking-plugins",
        files: &["usr/lib/cni/bridge", "usr/lib/cni/host-local", "usr/lib/cni/loopback"],
    },
    Kit { package: "podman", files: &["usr/bin/podman"] },
    Kit { package: "conmon", files: &["usr/bin/conmon"] },
    Kit { package: "netavark", files: &["usr/lib/podman/netavark"] },
    Kit {
        package: "golang-github-containers-common",
        files: &[
            "etc/containers/policy.json",
            "usr/share/containers/containers.conf",
            "usr/share/containers/seccomp.json",
        ],
    },
];

/// Libraries of podman that a machine of a developer may lack.
const LIBRARIES: &[Kit] = &[
    Kit { package: "libsubid4", files: &["usr/lib/x86_64-linux-gnu/libsubid.so.4"] },
    Kit { package: "libgpgme11", files: &["usr/lib/x86_64-linux-gnu/libgpgme.so.11"] },
    Kit { package: "libassuan0", files: &["usr/lib/x86_64-linux-gnu/libassuan.so.0"] },
    Kit { package: "libdevmapper1.02.1", files: &["lib/x86_64-linux-gnu/libdevmapper.so.1.02.1"] },
];

/// Fetches what is missing.
pub fn ensure_present() -> Result<()> {
    let cache = Cache::open()?;
    for kit in KITS.iter().chain(LIBRARIES) {
        unpacked::ensure(&cache, kit.package, kit.files)?;
    }
    Ok(())
}

/// Puts the runtimes into a guest, and the images that the lab runs in them.
pub fn add(tree: &mut Tree, cache: &Cache, artifacts: &Artifacts) -> Result<()> {
    let unpacked = cache.unpacked()?;
    let folders: Vec<PathBuf> = LIBRARIES
        .iter()
        .flat_map(|kit| kit.files.iter().map(|file| unpacked.join(kit.package).join(file)))
        .filter_map(|file| file.parent().map(PathBuf::from))
        .collect();
    for kit in KITS {
        for file in kit.files {
            let path = unpacked.join(kit.package).join(file);
            let is_program = !file.ends_with(".json") && !file.ends_with(".conf");
            tree.host_file(file, if is_program { 0o755 } else { 0o644 }, &path);
            if is_program {
                initramfs::libraries_from(tree, &path, &folders)?;
            }
        }
    }
    for name in ["stallprobe", LAB_IMAGE] {
        let program = artifacts
            .programs(Arch::X86_64)
            .find(|path| path.file_name().is_some_and(|file| file == name))
            .with_context(|| format!("{name} was not built"))?;
        let bytes =
            std::fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        let programs = [Program { architecture: "amd64", bytes }];
        let archive = oci::archive(name, env!("CARGO_PKG_VERSION"), &programs)?;
        tree.bytes(&format!("usr/share/images/{name}.tar"), 0o644, archive);
    }
    Ok(())
}
