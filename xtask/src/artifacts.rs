//! Builds what runs in the guest.
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::progress::note;

/// The one target that is supported; named so that build scripts keep their own flags.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The helper that a pod's sandbox and the lab's containers run by themselves, and its image.
pub const LAB_IMAGE: &str = "pause";

/// Programs for the guest.
pub struct Artifacts {
    programs: Vec<PathBuf>,
}

impl Artifacts {
    /// stallprobe as one static binary, and the lab, which is linked to glibc because its resolver
    /// is what is tested.
    pub fn build() -> Result<Self> {
        let target = target_dir();
        let mut programs = vec![stallprobe()?];
        cargo(&["build", "--release", "-p", "lab", "--bin", "lab"], None)?;
        programs.push(target.join("release/lab"));
        programs.extend(helpers(&target)?);
        Ok(Self { programs })
    }

    /// Built now, or as they were last built.
    pub fn provide(as_built: bool) -> Result<Self> {
        if as_built { Self::as_built() } else { Self::build() }
    }

    /// What an earlier build left, which may be nothing.
    pub fn as_built() -> Result<Self> {
        let target = target_dir();
        let mut programs = Vec::new();
        for path in [target.join(TARGET).join("release/stallprobe"), target.join("release/lab")] {
            if path.is_file() {
                programs.push(path);
            } else {
                note(&format!("not built, so not in the guest: {}", path.display()));
            }
        }
        programs.extend(helpers(&target)?);
        Ok(Self { programs })
    }

    pub fn programs(&self) -> impl Iterator<Item = &Path> {
        self.programs.iter().map(PathBuf::as_path)
    }
}

/// Builds stallprobe as one static binary.
pub fn stallprobe() -> Result<PathBuf> {
    let package = ["-p", "probe-user", "--bin", "stallprobe"];
    cargo(
        &[&["build", "--release", "--target", TARGET], &package[..]].concat(),
        Some("-Ctarget-feature=+crt-static"),
    )?;
    Ok(target_dir().join(TARGET).join("release/stallprobe"))
}

/// The workspace's root.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(path) => root().join(path),
        None => root().join("target"),
    }
}

/// Runs cargo in the workspace, its messages passed on.
pub fn cargo(arguments: &[&str], rustflags: Option<&str>) -> Result<()> {
    let mut command = cargo_command();
    command.args(arguments);
    if let Some(flags) = rustflags {
        command.env("RUSTFLAGS", flags);
    }
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "cargo {} failed", arguments.join(" "));
    Ok(())
}

/// cargo, as this xtask was started by it, with the target folder said explicitly.
pub fn cargo_command() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(root())
        .env("CARGO_TARGET_DIR", target_dir())
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

/// Small C programs of the lab, static with musl: its resolver behaves unlike glibc's.
fn helpers(target: &Path) -> Result<Vec<PathBuf>> {
    let sources = root().join("tests/guest");
    if !sources.is_dir() {
        return Ok(Vec::new());
    }
    let folder = target.join("guest");
    crate::cache::create_dir(&folder)?;
    let mut programs = Vec::new();
    let list = sources.read_dir().with_context(|| format!("cannot list {}", sources.display()))?;
    for entry in list {
        let source = entry.with_context(|| format!("cannot list {}", sources.display()))?.path();
        if source.extension().is_none_or(|extension| extension != "c") {
            continue;
        }
        let program = folder.join(source.file_stem().unwrap_or_default());
        if is_older(&program, &source) {
            let status = Command::new("musl-gcc")
                .args(["-static", "-O2", "-Wall", "-Wextra", "-pthread", "-o"])
                .args([&program, &source])
                .status()
                .context("cannot run musl-gcc: run `cargo xtask setup`")?;
            ensure!(status.success(), "musl-gcc failed on {}", source.display());
        }
        programs.push(program);
    }
    programs.sort();
    Ok(programs)
}

fn is_older(product: &Path, source: &Path) -> bool {
    let time = |path: &Path| path.metadata().and_then(|meta| meta.modified());
    match (time(product), time(source)) {
        (Ok(product), Ok(source)) => product < source,
        _ => true,
    }
}
