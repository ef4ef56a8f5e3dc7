//! Downloads from Debian mirrors, by apt's own helper so that its proxy settings count.
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    archive::{Archive, Mirrors},
    index::{self, Package},
    release,
};
use crate::{
    arch::Arch,
    cache::run_quietly,
    progress::{Step, megabytes},
};

const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// A package at its place in the archive, with the digest it must have.
pub struct Wanted<'a> {
    pub archive: Archive,
    pub path: &'a str,
    pub sha256: &'a str,
}

/// Downloads a package into `folder` unless it is there. Under its own name there are only files
/// whose digest was right.
pub fn package(mirrors: &Mirrors, wanted: &Wanted<'_>, folder: &Path) -> Result<PathBuf> {
    let name = wanted.path.rsplit('/').next().unwrap_or(wanted.path);
    let target = folder.join(name);
    if target.is_file() {
        return Ok(target);
    }
    let mut failures = Vec::new();
    for base in mirrors.of(wanted.archive) {
        let uri = format!("{base}/{}", wanted.path);
        match download(&uri, Some(wanted.sha256), &target) {
            Ok(()) => return Ok(target),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    bail!("cannot download {name}: {}", failures.join("; "))
}

/// The `Packages` index of one suite's `main` component, as text, checked against Debian's keys.
pub fn packages_index(
    mirrors: &Mirrors,
    archive: Archive,
    arch: Arch,
    suite: &str,
    folder: &Path,
) -> Result<String> {
    let mut failures = Vec::new();
    for base in mirrors.of(archive) {
        match index_from(&format!("{base}/dists/{suite}"), arch, suite, folder) {
            Ok(text) => return Ok(text),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    bail!("no package index of {suite}: {}", failures.join("; "))
}

fn index_from(uri: &str, arch: Arch, suite: &str, folder: &Path) -> Result<String> {
    let index = format!("main/binary-{}/Packages.xz", arch.debian());
    let signed = folder.join(format!("{suite}.InRelease"));
    download(&format!("{uri}/InRelease"), None, &signed)?;
    let release = release::verify(&signed)?;
    let digest = release::digest(&release, &index)
        .with_context(|| format!("{} does not list {index}", signed.display()))?;
    let packed = folder.join(format!("{suite}.Packages.xz"));
    download(&format!("{uri}/{index}"), Some(&digest), &packed)?;
    let text = run_quietly(Command::new("xz").arg("-dc").arg(&packed))?;
    for path in [signed, packed] {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    String::from_utf8(text).context("the package index is not text")
}

/// The newest package that `wanted` accepts, from the first of the given suites that has one.
pub fn search(
    mirrors: &Mirrors,
    arch: Arch,
    suites: &[(Archive, &str)],
    folder: &Path,
    wanted: impl Fn(&str, &str) -> bool,
) -> Result<(Archive, Package)> {
    let mut failures = Vec::new();
    for &(archive, suite) in suites {
        match packages_index(mirrors, archive, arch, suite, folder) {
            Ok(text) => {
                let found = index::find(&text, &wanted);
                if let Some(package) = found.into_iter().max_by_key(|p| index::numbers(&p.version))
                {
                    return Ok((archive, package));
                }
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    let names: Vec<&str> = suites.iter().map(|(_, suite)| *suite).collect();
    if failures.is_empty() {
        bail!("no such package in {}", names.join(", "));
    }
    bail!("no such package in {}; {}", names.join(", "), failures.join("; "))
}

/// Downloads to a name beside `target` and renames when the digest (checked by the helper) is right.
fn download(uri: &str, sha256: Option<&str>, target: &Path) -> Result<()> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let part = target.with_file_name(format!("{name}.part"));
    if part.exists() {
        fs::remove_file(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    }
    let mut step = Step::start(format!("downloading {name}"));
    let mut command = Command::new(APT_HELPER);
    command.arg("download-file").arg(uri).arg(&part);
    if let Some(sha256) = sha256 {
        command.arg(format!("SHA256:{sha256}"));
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {APT_HELPER}"))?;
    let size = || fs::metadata(&part).map_or(0, |meta| meta.len());
    while child.try_wait().with_context(|| format!("cannot wait for {APT_HELPER}"))?.is_none() {
        step.at(&megabytes(size()));
        thread::sleep(Duration::from_millis(20));
    }
    let output =
        child.wait_with_output().with_context(|| format!("cannot wait for {APT_HELPER}"))?;
    if !output.status.success() {
        step.done("failed");
        // A file with the wrong content is kept by the helper under another name.
        let _removed = fs::remove_file(part.with_file_name(format!("{name}.part.FAILED")));
        let text = String::from_utf8_lossy(&output.stderr);
        let reason =
            text.lines().find_map(|line| line.strip_prefix("E: ")).unwrap_or("the download failed");
        bail!("{reason}");
    }
    ensure!(part.is_file(), "{APT_HELPER} wrote no file for {uri}");
    step.done(&megabytes(size()));
    fs::rename(&part, target).with_context(|| format!("cannot rename {}", part.display()))
}
