//! `cargo xtask check`: formatting, lints, dependencies.
use std::process::{Command, ExitCode, Stdio};

use anyhow::Result;

use crate::{artifacts, progress::note, setup};

#[derive(clap::Args)]
pub struct Options {}

pub fn run(Options {}: Options) -> Result<ExitCode> {
    setup::build_tools()?;
    let mut failed = Vec::new();
    let mut step = |name: &'static str, arguments: &[&str]| {
        note(name);
        if let Err(error) = artifacts::cargo(arguments, None) {
            note(&format!("{error:#}"));
            failed.push(name);
        }
    };
    step("formatting", &["fmt", "--all", "--check"]);
    let deny_warnings = ["--", "-D", "warnings"];
    let clippy = ["clippy", "--all-targets"];
    step("lints", &[&clippy[..], &deny_warnings].concat());
    if cargo_deny_is_there() {
        step("dependencies", &["deny", "check"]);
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
