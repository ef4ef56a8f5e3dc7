//! `cargo xtask demo`: stallprobe at work while the lab makes things go wrong.
use std::{io::IsTerminal as _, process::ExitCode};

use anyhow::Result;

use crate::{
    artifacts::Artifacts,
    guest::{Guest, Task},
    kernel, setup,
    vm::{self, MachineOptions},
};

#[derive(clap::Args)]
pub struct Options {
    /// Kernel series, such as 6.12 or 6.1.
    #[arg(long, default_value = "6.12")]
    pub kernel: String,
    #[command(flatten)]
    pub machine: MachineOptions,
}

pub fn run(options: Options) -> Result<ExitCode> {
    let series = kernel::series(&options.kernel)?;
    setup::prepare(&[series])?;
    let artifacts = Artifacts::build([series.arch])?;
    let mut guest = Guest::prepare(&options.kernel, &artifacts)?;
    let task = Task { line: "exec lab demo".to_owned(), terminal: std::io::stdout().is_terminal() };
    let report = guest.run(&options.machine, &task, &mut vm::pass_on)?;
    Ok(vm::exit_code(report.status))
}
