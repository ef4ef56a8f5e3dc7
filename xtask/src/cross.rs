//! Building for aarch64 on an x86-64 machine: Debian's cross compiler links, and the standard library
//! is rustup's, else built from the source that the kernel programs need too.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{arch::Arch, artifacts, cache::run_quietly, progress::Step};

/// Builds stallprobe and the lab as static programs and gives the folder they are in. Always both: what
/// is built alone has dependencies with other features, and the next build would begin anew.
pub fn build() -> Result<PathBuf> {
    let target = Arch::Aarch64.target();
    let folder = artifacts::cross_dir();
    let mut command = artifacts::cargo_command();
    command
        .args(["build", "--release", "--target", target])
        .args(["-p", "probe-user", "--bin", "stallprobe", "-p", "lab", "--bin", "lab"])
        .env("CARGO_TARGET_DIR", &folder)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc")
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    if !std_is_there(target)? {
        command.arg("-Zbuild-std=std,panic_abort").env("RUSTC_BOOTSTRAP", "1");
    }
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "cargo build --target {target} failed");
    Ok(folder.join(target).join("release"))
}

/// Asks rustup for the target's standard library, once; without it `build` makes its own.
pub fn add_target() -> Result<()> {
    let target = Arch::Aarch64.target();
    let marker = artifacts::cross_dir().join("no-target-by-rustup");
    if std_is_there(target)? || marker.is_file() {
        return Ok(());
    }
    let mut step = Step::start(format!("adding rustup's target {target}"));
    let added = step.during(|| run_quietly(Command::new("rustup").args(["target", "add", target])));
    if added.is_ok() && std_is_there(target)? {
        step.done("done");
        return Ok(());
    }
    step.done("cannot be had: the standard library is built from source");
    if let Some(folder) = marker.parent() {
        crate::cache::create_dir(folder)?;
    }
    std::fs::write(&marker, "").with_context(|| format!("cannot write {}", marker.display()))
}

fn std_is_there(target: &str) -> Result<bool> {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", target]);
    let folder = run_quietly(&mut rustc)?;
    let folder = String::from_utf8_lossy(&folder).trim().to_owned();
    let files = Path::new(&folder).read_dir().into_iter().flatten().flatten();
    let mut names = files.map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.any(|name| name.starts_with("libstd-")))
}
