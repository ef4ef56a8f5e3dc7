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
    let found = run_quietly(Command::new("bpf-linker").arg("--version"));
    if let Ok(text) = found {
        if String::from_utf8_lossy(&text).trim() == format!("bpf-linker {VERSION}") {
            return Ok(());
        }
        note("another version of bpf-linker is replaced by the pinned one");
    }
    let step =
        Step::start(format!("installing bpf-linker {VERSION} (a minute or two on two cores)"));
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
    step.done("done");
    Ok(())
}
