//! The command `stallprobe`: parse, run, print an error once, choose the exit status.

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use log::LevelFilter;
use probe_user::{
    cli::{Cli, Command},
    cmd, exit,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    init_log(cli.verbose);
    let result = match cli.command {
        Some(Command::Watch(args)) => cmd::watch::run(&args),
        Some(Command::Record(args)) => cmd::record::run(&args),
        Some(Command::Replay(args)) => cmd::replay::run(&args),
        Some(Command::Report(args)) => cmd::report::run(&args),
        Some(Command::Explain(args)) => cmd::explain::run(&args),
        Some(Command::Pods(args)) => cmd::pods::run(&args),
        Some(Command::Cat(args)) => cmd::cat::run(&args),
        None => cmd::watch::run(&cli.watch),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            // Nobody may be left to read it.
            let _ = writeln!(std::io::stderr(), "stallprobe: {err:#}");
            exit::status(&err)
        }
    }
}

fn init_log(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::Error,
        1 => LevelFilter::Info,
        _ => LevelFilter::Debug,
    };
    env_logger::Builder::new()
        .filter_level(LevelFilter::Error)
        .filter_module("probe_user", level)
        .filter_module("probe_ebpf", level)
        .parse_default_env()
        .init();
}
