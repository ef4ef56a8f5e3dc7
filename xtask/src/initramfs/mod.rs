//! The guest's root file system: an initramfs made of the host's own tools and a kernel's modules.
//!
//! The base is the same for every run with one kernel and is cached; what belongs to one run is a
//! second archive that follows it.
mod foreign;
mod modules;
mod tools;

pub use tools::{libraries, libraries_from};

use std::{
    fmt::Write as _,
    fs,
    fs::File,
    io::{BufWriter, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::{
    arch::Arch,
    cache::Cache,
    cpio::Tree,
    kernel::Kernel,
    progress::{Step, megabytes},
};

/// The guest's first process.
const INIT: &str = include_str!("init.sh");
/// Raised when what `base` puts into the archive changes in a way the key below does not see.
const FORMAT: u32 = 1;

const FILES: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost node\n::1 localhost\n"),
    ("etc/host.conf", "multi on\n"),
    ("etc/resolv.conf", ""),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    ),
    (
        "etc/protocols",
        "ip 0 IP\nicmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\nsctp 132 SCTP\n",
    ),
    ("etc/services", "domain 53/tcp\ndomain 53/udp\nhttp 80/tcp\nhttps 443/tcp\n"),
];

/// The archive every run with this kernel starts from; made when it is not in the cache.
pub fn base(cache: &Cache, kernel: &Kernel) -> Result<PathBuf> {
    // Machines of one kernel may be prepared side by side, and would use one staging folder.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = cache.initramfs()?;
    let path = folder.join(format!("{}-{}.cpio", kernel.release, key(cache, kernel)?));
    if path.is_file() {
        return Ok(path);
    }
    let step = Step::start(format!("making the guest's file system for {}", kernel.release));
    let mut tree = Tree::default();
    for dir in ["proc", "sys", "dev", "run", "tmp", "root", "work", "etc/netns", "var/lib/misc"] {
        tree.dir(dir);
    }
    for dir in ["bin", "sbin", "lib", "lib64"] {
        tree.dir(&format!("usr/{dir}"));
        tree.symlink(dir, &format!("usr/{dir}"));
    }
    tree.dir("usr/local/bin");
    tree.symlink("var/run", "/run");
    // The kernel opens it for init before anything is mounted.
    tree.char_device("dev/console", 0o600, 5, 1);
    tree.bytes("init", 0o755, INIT);
    for (file, text) in FILES {
        tree.bytes(file, 0o644, *text);
    }
    match kernel.arch {
        Arch::X86_64 => tools::add(&mut tree, cache)?,
        arch => foreign::add(&mut tree, cache, arch)?,
    }
    let staging = modules::stage(kernel, &folder)?;
    modules::add(&mut tree, staging.path(), &kernel.release)?;

    let part = path.with_extension(format!("part-{}", std::process::id()));
    write(&tree, &part)?;
    fs::rename(&part, &path).with_context(|| format!("cannot rename {}", part.display()))?;
    prune(&folder);
    let size = fs::metadata(&path).map_or(0, |meta| meta.len());
    step.done(&megabytes(size));
    Ok(path)
}

/// Removes archives older than a week: other inputs have taken their place, and one that is still
/// wanted is made again in seconds.
fn prune(folder: &Path) {
    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|meta| meta.modified());
        let age = modified.ok().and_then(|time| time.elapsed().ok());
        if entry.path().is_file() && age.is_some_and(|age| age > WEEK) {
            let _removed = fs::remove_file(entry.path());
        }
    }
}

/// Writes `tree` behind a copy of `base`.
pub fn with_run(base: &Path, tree: &Tree, target: &Path) -> Result<()> {
    fs::copy(base, target)
        .with_context(|| format!("cannot copy {} to {}", base.display(), target.display()))?;
    let mut open = File::options();
    let file = open
        .append(true)
        .open(target)
        .with_context(|| format!("cannot open {}", target.display()))?;
    write_into(tree, file, target)
}

fn write(tree: &Tree, path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    write_into(tree, file, path)
}

fn write_into(tree: &Tree, file: File, path: &Path) -> Result<()> {
    let mut out = BufWriter::new(file);
    tree.write_to(&mut out)?;
    out.flush().with_context(|| format!("cannot write {}", path.display()))
}

/// What the base depends on. The host's shared libraries are seen through dpkg's status file, which
/// changes with every upgrade.
fn key(cache: &Cache, kernel: &Kernel) -> Result<String> {
    let mut inputs = format!("{FORMAT} {} {INIT} {FILES:?} ", kernel.release);
    inputs.push_str(&modules::rules());
    let status = PathBuf::from("/var/lib/dpkg/status");
    let tools = match kernel.arch {
        Arch::X86_64 => tools::inputs(cache)?,
        arch => vec![foreign::folder(cache, arch)?],
    };
    for path in tools.into_iter().chain([status]) {
        if let Ok(meta) = fs::metadata(&path) {
            let (size, time) = (meta.len(), (meta.mtime(), meta.mtime_nsec()));
            write!(inputs, "{} {size} {time:?} ", path.display()).context("cannot format")?;
        }
    }
    let digest = Sha256::digest(inputs.as_bytes());
    Ok(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}
