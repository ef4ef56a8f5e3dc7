//! `cargo xtask check`: formatting, lints, dependencies.
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};

use crate::{artifacts, progress::note, setup};

#[derive(clap::Args)]
pub struct Options {}

pub fn run(Options {}: Options) -> Result<ExitCode> {
    setup::build_tools()?;
    let mut failed = Vec::new();
    let mut step = |name: &'static str, command: &mut Command| -> Result<()> {
        note(name);
        let status = command.status().context("cannot run cargo")?;
        if !status.success() {
            failed.push(name);
        }
        Ok(())
    };
    let cargo = artifacts::cargo_command;
    step("formatting", cargo().args(["fmt", "--all", "--check"]))?;
    let deny_warnings = ["--", "-D", "warnings"];
    step("lints", cargo().args(["clippy", "--all-targets"]).args(deny_warnings))?;
    // As aya-build builds it: `core` from source, for the bpf target.
    step(
        "lints of the kernel side",
        cargo()
            .args(["clippy", "--release", "--package", "probe-ebpf"])
            .args(["--target", "bpfel-unknown-none", "-Zbuild-std=core"])
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", "--cfg=bpf_target_arch=\"x86_64\"")
            .args(deny_warnings),
    )?;
    if cargo_deny_is_there() {
        step("dependencies", cargo().args(["deny", "check"]))?;
    } else {
        note("SKIPPED: dependencies. Way out: `cargo install cargo-deny --locked`");
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    note(&format!("failed: {}", failed.join(", ")));
    Ok(ExitCode::FAILURE)
}

fn cargo_deny_is_there() -> bool {
    let mut command = Command::new("cargo-deny");
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
