//! Sysctls, with a journal so that whatever a case changed is put back, even if it was killed.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::netns::Pod;

const JOURNAL: &str = "/run/lab-sysctls";

fn path(name: &str) -> PathBuf {
    // Dots in interface names do not occur here, so the usual notation is unambiguous.
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

/// Reads a sysctl of the node.
pub fn get(name: &str) -> Result<String> {
    let path = path(name);
    Ok(fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?
        .trim()
        .to_owned())
}

/// Sets a sysctl of the node until the case ends.
pub fn set(name: &str, value: &str) -> Result<()> {
    let old = get(name)?;
    let mut journal = OpenOptions::new()
        .create(true)
        .append(true)
        .open(JOURNAL)
        .with_context(|| format!("cannot open {JOURNAL}"))?;
    writeln!(journal, "{name}\t{old}").with_context(|| format!("cannot write {JOURNAL}"))?;
    write(name, value)
}

/// Sets a sysctl inside a pod; it goes with the pod.
pub fn set_in(pod: &Pod, name: &str, value: &str) -> Result<()> {
    pod.inside(|| write(name, value)).with_context(|| format!("in pod {}", pod.name))
}

fn write(name: &str, value: &str) -> Result<()> {
    let path = path(name);
    fs::write(&path, value).with_context(|| format!("cannot write {value:?} to {}", path.display()))
}

/// Puts back what [`set`] changed, newest first.
pub fn restore() -> Result<()> {
    let Ok(journal) = fs::read_to_string(JOURNAL) else {
        return Ok(());
    };
    for (name, old) in journal.lines().rev().filter_map(|line| line.split_once('\t')) {
        // The module that owned it may be gone, and its sysctl with it.
        if path(name).exists() {
            write(name, old)?;
        }
    }
    fs::remove_file(JOURNAL).with_context(|| format!("cannot remove {JOURNAL}"))
}
