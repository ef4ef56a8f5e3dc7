//! `cargo xtask run`: stallprobe on this machine's own kernel.
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::{arch::Arch, artifacts, setup};

#[derive(clap::Args)]
pub struct Options {
    /// Arguments for stallprobe.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub arguments: Vec<String>,
}

pub fn run(options: Options) -> Result<ExitCode> {
    setup::build_tools()?;
    let program = artifacts::stallprobe(Arch::X86_64)?;
    let program = program.to_string_lossy();
    let status = setup::as_root(&program)
        .args(&options.arguments)
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    Ok(crate::vm::exit_code(status.code().unwrap_or(1)))
}
