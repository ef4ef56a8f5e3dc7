//! stallprobe's lab: pods as network namespaces, faults made for real, findings checked.
//!
//! Runs as root inside a throw-away virtual machine; `cargo xtask test` starts it there.

mod args;
mod bpf;
mod case;
mod cleanup;
mod command;
mod counters;
mod demo;
mod dns;
mod finding;
mod lab;
mod netns;
mod nfqueue;
mod probe;
mod process;
mod race;
mod raw;
mod runner;
mod scenarios;
mod services;
mod snapshot;
mod sysctl;
mod tcp;
mod wait;

use std::{io::Write, process::ExitCode};

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: lab list
       lab test [PART]... [--faults-only]      cases whose name has one of the parts
       lab demo";

fn main() -> ExitCode {
    match run() {
        Ok(status) => status,
        Err(error) => {
            // Nothing is left to do when even this cannot be written.
            let _ = writeln!(std::io::stderr(), "lab: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut words = std::env::args().skip(1);
    let command = words.next().context(USAGE)?;
    let flags = args::Flags::new(words);
    match command.as_str() {
        "list" => runner::list()?,
        "test" => return Ok(ExitCode::from(u8::from(!runner::test(&flags)?))),
        "demo" => demo::run()?,
        "case" => {
            let name = *flags.words().first().context("lab case NAME")?;
            let status = case::main(name, flags.has("--faults-only"))?;
            return Ok(ExitCode::from(u8::try_from(status)?));
        }
        "dns-server" => dns::server::main(&flags)?,
        "tcp-server" => tcp::main(&flags)?,
        _ => bail!("no sub-command {command:?}\n{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes one line for the person, or the program, that started the lab.
fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot write to standard output")
}
