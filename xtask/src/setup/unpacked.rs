//! Debian packages that the guest needs and this machine must not have installed: they would start
//! a server here. Downloaded by apt and unpacked into the cache.
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::packages;
use crate::{
    cache::{Cache, Staging, run_quietly},
    progress::Step,
};

/// Package, and the program that is taken from it.
const PROGRAMS: [(&str, &str); 1] = [("nginx", "usr/sbin/nginx")];

/// Where the programs are, with their path in the guest; those that were fetched.
pub fn programs(cache: &Cache) -> Result<Vec<(&'static str, PathBuf)>> {
    let folder = cache.unpacked()?;
    let at = PROGRAMS.iter().map(|(package, path)| (*path, folder.join(package).join(path)));
    Ok(at.filter(|(_, path)| path.is_file()).collect())
}

pub fn ensure_present(cache: &Cache) -> Result<()> {
    PROGRAMS.iter().try_for_each(|(package, program)| ensure(cache, package, &[program]))
}

/// Fetches a package unless these files of it are there.
pub fn ensure(cache: &Cache, package: &str, files: &[&str]) -> Result<()> {
    let target = cache.unpacked()?.join(package);
    let is_there = || files.iter().all(|file| target.join(file).is_file());
    if is_there() {
        return Ok(());
    }
    let _lock = cache.lock()?;
    if is_there() {
        return Ok(());
    }
    let mut step = Step::start(format!("fetching Debian's {package} for the guest"));
    step.during(|| fetch(package, &target)).with_context(|| {
        format!(
            "Way out: `apt-get download {package}`, and unpack it with `dpkg-deb -x` into {}",
            target.display()
        )
    })?;
    ensure!(is_there(), "Debian's {package} has not all of {}", files.join(", "));
    step.done("done");
    Ok(())
}

fn fetch(package: &str, target: &Path) -> Result<()> {
    let staging = Staging::beside(target)?;
    let debs = Staging::beside(&target.with_extension("deb"))?;
    // The indexes may be missing or old: refresh them when it does not work without.
    if download(package, debs.path()).is_err() {
        packages::refresh_indexes()?;
        download(package, debs.path())?;
    }
    for entry in std::fs::read_dir(debs.path()).context("cannot list what was downloaded")? {
        let deb = entry.context("cannot list what was downloaded")?.path();
        run_quietly(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(staging.path()))?;
    }
    // What is there of it lacks a file that is wanted by now.
    let _removed = std::fs::remove_dir_all(target);
    staging.publish()
}

fn download(package: &str, folder: &Path) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["-q", "download", package]).current_dir(folder).stdin(Stdio::null());
    run_quietly(&mut command).map(drop)
}
