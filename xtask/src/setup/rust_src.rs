//! The standard library's source, from which `core` is built for the bpf target.
//!
//! From rustup, else from Debian: its `rust-src` package of exactly the compiler's version.
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    apt::{
        archive::{Archive, Mirrors},
        fetch::{self, Wanted},
    },
    arch::Arch,
    cache::{Cache, Staging, create_dir, run_quietly},
    progress::{Step, note},
};

/// Suites that may have a Rust of this age, the likeliest first.
const SUITES: &[(Archive, &str)] = &[
    (Archive::Main, "trixie-backports"),
    (Archive::Main, "sid"),
    (Archive::Main, "trixie"),
    (Archive::Main, "forky"),
    (Archive::Main, "bookworm-backports"),
    (Archive::Main, "bookworm"),
];

pub fn ensure_present() -> Result<()> {
    let sysroot = run_quietly(Command::new("rustc").args(["--print", "sysroot"]))?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot).trim());
    ensure_in(&sysroot)
}

/// As above, into this sysroot.
fn ensure_in(sysroot: &Path) -> Result<()> {
    let library = sysroot.join("lib/rustlib/src/rust/library");
    if library.join("core/src/lib.rs").is_file() {
        return Ok(());
    }
    let mut step = Step::start("installing rust-src by rustup");
    let added =
        step.during(|| run_quietly(Command::new("rustup").args(["component", "add", "rust-src"])));
    if added.is_ok() && library.join("core/src/lib.rs").is_file() {
        step.done("done");
        return Ok(());
    }
    step.done("cannot be had, trying Debian's package");
    from_debian(&library)
}

fn from_debian(library: &Path) -> Result<()> {
    let version = rustc_version()?;
    let way_out = || {
        format!(
            "rust-src {version} cannot be had. Way out: `rustup component add rust-src`, or put \
             the compiler's library sources at {}",
            library.display()
        )
    };
    let cache = Cache::open()?;
    let _lock = cache.lock()?;
    let debs = cache.debs()?;
    let deb = match cached(&debs, &version) {
        Some(deb) => deb,
        None => download(&debs, &version).with_context(way_out)?,
    };
    let mut step = Step::start(format!("unpacking rust-src {version}"));
    let parent = library.parent().context("a sysroot without folders")?;
    create_dir(parent)?;
    let staging = Staging::beside(library)?;
    // The package has the whole compiler; only the library is needed.
    let wanted = format!("./usr/src/rustc-{version}/library");
    step.during(|| extract(&deb, &wanted, staging.path()))?;
    let source = staging.path().join(wanted);
    ensure!(source.join("core/src/lib.rs").is_file(), "{} has no standard library", deb.display());
    if library.exists() {
        bail!("{} is incomplete: remove it and run this again", library.display());
    }
    std::fs::rename(&source, library)
        .with_context(|| format!("cannot move the sources to {}", library.display()))?;
    step.done("done");
    Ok(())
}

/// Unpacks one folder of a package.
fn extract(deb: &Path, folder: &str, target: &Path) -> Result<()> {
    let mut unpack = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let archive = unpack.stdout.take().context("no pipe from dpkg-deb")?;
    let mut tar = Command::new("tar");
    tar.arg("-x").arg("-C").arg(target).arg(folder);
    let extracted = run_quietly(tar.stdin(archive));
    let status = unpack.wait().context("cannot wait for dpkg-deb")?;
    extracted.with_context(|| format!("cannot unpack {}", deb.display()))?;
    ensure!(status.success(), "dpkg-deb failed on {}", deb.display());
    Ok(())
}

/// The package from an earlier run; its name starts with the version.
fn cached(debs: &Path, version: &str) -> Option<PathBuf> {
    let start = format!("rust-src_{version}+dfsg");
    let mut files = debs.read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&start) && name.ends_with(".deb")
    })
}

fn download(debs: &Path, version: &str) -> Result<PathBuf> {
    let mirrors = Mirrors::from_apt()?;
    let start = format!("{version}+dfsg");
    let (archive, package) =
        fetch::search(&mirrors, Arch::X86_64, SUITES, debs, |name, version| {
            name == "rust-src" && version.starts_with(&start)
        })?;
    let wanted = Wanted { archive, path: &package.path, sha256: &package.sha256 };
    fetch::package(&mirrors, &wanted, debs)
}

/// The release of the active compiler, such as 1.95.0.
fn rustc_version() -> Result<String> {
    let text = run_quietly(Command::new("rustc").arg("-vV"))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let release = text.lines().find_map(|line| line.strip_prefix("release: "));
    let release = release.context("rustc -vV says no release")?;
    if release.contains('-') {
        note(&format!("{release} is no stable release: Debian will not have its sources"));
    }
    Ok(release.to_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_present_library_is_left_alone() {
        let folder = std::env::temp_dir().join(format!("rust-src-test-{}", std::process::id()));
        let core = folder.join("lib/rustlib/src/rust/library/core/src");
        std::fs::create_dir_all(&core).unwrap();
        std::fs::write(core.join("lib.rs"), "").unwrap();
        ensure_in(&folder).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
