//! Recordings that are killed, a hundred times: `lab kills` on this machine's own kernel, in a network of its
//! own. In a virtual machine one takes ten seconds.

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{arch::Arch, artifacts::Artifacts};

const TIMES: &str = "100";
/// For the lab's case in a virtual machine (tests/src/scenarios/recordings.rs), where none are killed here.
pub const INSTEAD: &str = "RECORD_KILLS=20";
/// The exit status of `lab kills` where it cannot run (tests/src/case.rs).
const SKIPPED: i32 = 77;

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Kills {
    /// With what was seen.
    Good(String),
    /// It cannot be done here, and why.
    Skipped(String),
    Failed(String),
}

/// Kills them. It takes one to three minutes.
///
/// # Errors
/// When the lab cannot be started.
pub fn run(artifacts: &Artifacts) -> Result<Kills> {
    let programs: Vec<&Path> = artifacts.programs(Arch::X86_64).collect();
    let called = |name: &str| programs.iter().find(|path| path.ends_with(name));
    let (Some(lab), Some(_)) = (called("lab"), called("stallprobe")) else {
        return Ok(Kills::Skipped("nothing was built for this machine".to_owned()));
    };
    // The lab starts stallprobe by its name.
    let folders: BTreeSet<PathBuf> =
        programs.iter().filter_map(|path| path.parent()).map(Path::to_owned).collect();
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(folders.into_iter().chain(env::split_paths(&path)))
        .context("a folder's name cannot stand in PATH")?;
    let output = Command::new(lab)
        .args(["kills", "--times", TIMES])
        .env("PATH", path)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", lab.display()))?;
    Ok(told(output.status.code(), String::from_utf8_lossy(&output.stdout).trim()))
}

fn told(status: Option<i32>, said: &str) -> Kills {
    match status {
        Some(0) if said.starts_with(&format!("{TIMES} kills:")) => Kills::Good(said.to_owned()),
        Some(SKIPPED) => Kills::Skipped(said.trim_start_matches("skipped: ").to_owned()),
        status => Kills::Failed(format!("lab kills ended with {status:?}: {said}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_hundred_kills_are_good() {
        let good = "100 kills: 9 events, 8 of them in the recordings";
        assert_eq!(told(Some(0), good), Kills::Good(good.to_owned()));
        assert_eq!(told(Some(77), "skipped: no BPF"), Kills::Skipped("no BPF".to_owned()));
        for (status, said) in [(Some(0), ""), (Some(0), "4 kills: x"), (Some(1), good), (None, "")]
        {
            assert!(matches!(told(status, said), Kills::Failed(_)), "{status:?} {said}");
        }
    }
}
