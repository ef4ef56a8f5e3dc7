//! Builds what runs in the guest.
use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{arch::Arch, cross, progress::note};

/// The helper that a pod's sandbox and the lab's containers run by themselves, and its image.
pub const LAB_IMAGE: &str = "pause";

/// Programs for the guest, for each architecture.
#[derive(Default)]
pub struct Artifacts {
    programs: BTreeMap<Arch, Vec<PathBuf>>,
}

impl Artifacts {
    /// Builds what guests of these architectures run.
    pub fn build(archs: impl IntoIterator<Item = Arch>) -> Result<Self> {
        Self::each(archs, build)
    }

    /// Built now, or as they were last built.
    pub fn provide(as_built: bool, archs: impl IntoIterator<Item = Arch>) -> Result<Self> {
        Self::each(archs, if as_built { self::as_built } else { build })
    }

    fn each(
        archs: impl IntoIterator<Item = Arch>,
        programs: impl Fn(Arch) -> Result<Vec<PathBuf>>,
    ) -> Result<Self> {
        let archs: BTreeSet<Arch> = archs.into_iter().collect();
        let all = archs.into_iter().map(|arch| Ok((arch, programs(arch)?)));
        Ok(Self { programs: all.collect::<Result<_>>()? })
    }

    /// Builds what guests of one more architecture run.
    pub fn build_too(&mut self, arch: Arch) -> Result<()> {
        self.programs.insert(arch, build(arch)?);
        Ok(())
    }

    pub fn programs(&self, arch: Arch) -> impl Iterator<Item = &Path> {
        self.programs.get(&arch).into_iter().flatten().map(PathBuf::as_path)
    }
}

/// stallprobe as one static binary, and the lab: here linked to glibc because its resolver is what is
/// tested, across static, since the guest's glibc may be older than the cross compiler's.
fn build(arch: Arch) -> Result<Vec<PathBuf>> {
    match arch {
        Arch::X86_64 => {
            let target = target_dir();
            let mut programs = vec![stallprobe(arch)?];
            cargo(&["build", "--release", "-p", "lab", "--bin", "lab"], None)?;
            programs.push(target.join("release/lab"));
            programs.extend(helpers(&target)?);
            Ok(programs)
        }
        Arch::Aarch64 => {
            let folder = cross::build()?;
            Ok(vec![folder.join("stallprobe"), folder.join("lab")])
        }
    }
}

/// What an earlier build left, which may be nothing.
fn as_built(arch: Arch) -> Result<Vec<PathBuf>> {
    let target = target_dir();
    let across = cross_dir().join(arch.target()).join("release");
    let places = match arch {
        Arch::X86_64 => {
            [target.join(arch.target()).join("release/stallprobe"), target.join("release/lab")]
        }
        Arch::Aarch64 => [across.join("stallprobe"), across.join("lab")],
    };
    let (mut programs, missing): (Vec<_>, Vec<_>) = places.into_iter().partition(|p| p.is_file());
    for path in missing {
        note(&format!("not built, so not in the guest: {}", path.display()));
    }
    if arch == Arch::X86_64 {
        programs.extend(helpers(&target)?);
    }
    Ok(programs)
}

/// Builds stallprobe as one static binary.
pub fn stallprobe(arch: Arch) -> Result<PathBuf> {
    if arch == Arch::Aarch64 {
        return Ok(cross::build()?.join("stallprobe"));
    }
    // The target is named so that build scripts keep their own flags.
    let target = arch.target();
    let package = ["-p", "probe-user", "--bin", "stallprobe"];
    cargo(
        &[&["build", "--release", "--target", target], &package[..]].concat(),
        Some("-Ctarget-feature=+crt-static"),
    )?;
    Ok(target_dir().join(target).join("release/stallprobe"))
}

/// The workspace's root.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(path) => root().join(path),
        None => root().join("target"),
    }
}

/// What is built for other machines: RUSTC_BOOTSTRAP, which that may need, makes cargo build everything
/// anew that is for this machine.
pub fn cross_dir() -> PathBuf {
    target_dir().join("cross")
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
