//! `cargo xtask`: everything cargo cannot do.
mod apt;
mod arch;
mod artifacts;
mod cache;
mod check;
mod cpio;
mod cross;
mod demo;
mod dist;
mod guest;
mod initramfs;
mod judge;
mod kernel;
mod kernels;
mod kills;
mod lab;
mod ladder;
mod matrix;
mod oci;
mod progress;
mod qemu;
mod readme;
mod recordings;
mod run;
mod runtimes;
mod setup;
mod tables;
mod tally;
mod test;
mod tsc;
mod two_nodes;
mod verdict;
mod vm;
mod vmlinux;
mod wire;

use std::process::ExitCode;

use clap::Parser;

/// Set-up, virtual machines, demo and tests of stallprobe.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Install and download everything the other commands need.
    Setup(setup::Options),
    /// Watch stallprobe find faults that are made for real in a virtual machine.
    Demo(demo::Options),
    /// Run all tests: on this machine, then in virtual machines.
    Test(test::Options),
    /// Run stallprobe on this machine's own kernel.
    Run(run::Options),
    /// Run a command in a virtual machine.
    Vm(vm::Options),
    /// Build what is given to people: static binaries for x86-64 and aarch64, and an image with them.
    Dist(dist::Options),
    /// Check formatting, lints and dependencies.
    Check(check::Options),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Setup(options) => setup::run(options),
        Command::Demo(options) => demo::run(options),
        Command::Test(options) => test::run(options),
        Command::Run(options) => run::run(options),
        Command::Vm(options) => vm::run(options),
        Command::Dist(options) => dist::run(options),
        Command::Check(options) => check::run(options),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            progress::note(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
