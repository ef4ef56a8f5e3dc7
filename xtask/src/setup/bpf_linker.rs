//! The linker that turns rustc's output into eBPF objects, in the version this project is built with.
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{
    artifacts,
    cache::run_quietly,
    progress::{Step, note},
};

/// Its LLVM must not be older than rustc's.
const VERSION: &str = "0.10.3";

pub fn ensure_installed() -> Result<()> {
    match version() {
        Some(version) if version == VERSION => return Ok(()),
        Some(version) => note(&format!("bpf-linker {version} is replaced by the pinned one")),
        None => {}
    }
    let step = Step::start(format!("installing bpf-linker {VERSION} (minutes on two cores)"));
    let status = artifacts::cargo_command()
        // The user's own target folder and flags are for the workspace.
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .args(["install", "--locked", "--force"])
        .arg(format!("bpf-linker@{VERSION}"))
        .status()
        .context("cannot run cargo install")?;
    ensure!(
        status.success(),
        "bpf-linker {VERSION} cannot be installed. Way out: put that version on PATH yourself"
    );
    ensure!(
        version().is_some_and(|version| version == VERSION),
        "bpf-linker {VERSION} is installed but not found: put cargo's bin folder (~/.cargo/bin) \
         first on PATH"
    );
    step.done("done");
    Ok(())
}

/// The version on PATH.
fn version() -> Option<String> {
    let text = run_quietly(Command::new("bpf-linker").arg("--version")).ok()?;
    let text = String::from_utf8(text).ok()?;
    Some(text.trim().strip_prefix("bpf-linker ")?.to_owned())
}
