//! `cargo xtask`: everything cargo cannot do.
mod apt;
mod artifacts;
mod cache;
mod cpio;
mod guest;
mod initramfs;
mod kernel;
mod kernels;
mod progress;
mod qemu;
mod verdict;
mod vm;
mod vmlinux;

use std::process::ExitCode;

use clap::Parser;

/// Set-up, virtual machines, demo and tests of stallprobe.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Run a command in a virtual machine.
    Vm(vm::Options),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Vm(options) => vm::run(options),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            progress::note(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
