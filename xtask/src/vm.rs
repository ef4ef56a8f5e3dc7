//! `cargo xtask vm`: any command in a virtual machine that has stallprobe and the lab on its PATH.
use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Result, bail};

use crate::{
    arch::Arch,
    artifacts::Artifacts,
    guest::{Guest, Task, command_line},
    kernel, lab, matrix,
    qemu::Accel,
    two_nodes,
};

#[derive(clap::Args)]
pub struct Options {
    /// Kernel series, such as 6.12 (the default) or 6.1. May be repeated with --matrix and
    /// --two-nodes.
    #[arg(long = "kernel", value_name = "KERNEL")]
    pub kernels: Vec<String>,
    /// Make every cause's fault on every kernel and print which was named where.
    #[arg(long, conflicts_with_all = ["command", "files"])]
    pub matrix: bool,
    /// Put the matrix into README.md when nothing failed.
    #[arg(long, requires = "matrix", conflicts_with = "kernels")]
    pub write_readme: bool,
    /// How many kernels run at the same time with --matrix.
    #[arg(long, default_value_t = lab::AT_ONCE, value_name = "NUMBER", requires = "matrix")]
    pub at_once: usize,
    /// Two connected machines that record, one of which knows why connects of the other stall: the
    /// first --kernel is the client's, the second the server's.
    #[arg(long, conflicts_with_all = ["command", "files", "matrix", "runtimes"])]
    pub two_nodes: bool,
    #[command(flatten)]
    pub machine: MachineOptions,
    /// With Debian's container runtimes in the guest.
    #[arg(long, conflicts_with = "matrix")]
    pub runtimes: bool,
    /// A file for the guest's /work; programs are put on its PATH. May be repeated.
    #[arg(short, long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Take stallprobe and the lab as they were last built, or leave them out.
    #[arg(long)]
    pub no_build: bool,
    /// What to run: one argument is a line for bash, several are a program and its arguments.
    #[arg(last = true, required_unless_present_any = ["matrix", "two_nodes"], value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// What `vm`, `demo` and `test` have in common.
#[derive(clap::Args, Clone)]
pub struct MachineOptions {
    /// Seconds the command may take in the guest.
    #[arg(long, default_value_t = 4500, value_name = "SECONDS")]
    pub timeout: u64,
    /// More arguments for the guest's kernel.
    #[arg(long, default_value = "", value_name = "ARGUMENTS", allow_hyphen_values = true)]
    pub append: String,
    /// How the processor is emulated.
    #[arg(long, value_enum, default_value = "tcg")]
    pub accel: Accel,
}

pub fn run(options: Options) -> Result<ExitCode> {
    if options.matrix {
        return matrix::run(&options);
    }
    if options.two_nodes {
        return two_nodes::run(&options);
    }
    let kernel = match options.kernels.as_slice() {
        [] => "6.12",
        [kernel] => kernel,
        _ => bail!("a command runs on one kernel: give one --kernel, or --matrix"),
    };
    let arch = kernel::series(kernel)?.arch;
    if options.runtimes && arch != Arch::X86_64 {
        bail!("the container runtimes are there for x86_64 kernels only");
    }
    let artifacts = Artifacts::provide(options.no_build, [arch])?;
    let mut guest = Guest::prepare(kernel, &artifacts)?;
    if options.runtimes {
        guest.add_runtimes(&artifacts)?;
    }
    for file in &options.files {
        guest.add_file(file)?;
    }
    let task =
        Task { line: command_line(&options.command), terminal: std::io::stdout().is_terminal() };
    let report = guest.run(&options.machine, &task, &mut pass_on)?;
    Ok(exit_code(report.status))
}

/// Output of the guest goes to stdout as it is.
pub fn pass_on(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    // A reader that went away (`| head`) is no reason to fail.
    let _written = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// A status that does not fit (there is none today) is a plain failure.
pub fn exit_code(status: i32) -> ExitCode {
    u8::try_from(status).map_or(ExitCode::FAILURE, ExitCode::from)
}
