//! The lab's command line: what people start, and the helpers that it starts in pods itself.

use std::{io::Write, process::ExitCode};

use anyhow::{Context, Result, bail};

use crate::{args::Flags, case, demo, dns, kube_proxy, kubelet, rung::Rung, runner, tcp};

const USAGE: &str = "usage: lab list
       lab test [PART]... [--faults-only] [--causes-only] [--short] [--rungs RUNG] [--lockdown]
                [--runtimes]
                    cases whose name has one of the parts; those that show a cause; those
                    that may differ between kernels; as on a kernel without the rungs above
                    kprobe, tracepoint or snapshot; on a kernel that was booted with
                    lockdown=confidentiality; those of pods that container runtimes make
       lab demo";

/// Runs the sub-command that the arguments name.
pub fn run() -> Result<ExitCode> {
    let mut words = std::env::args().skip(1);
    let command = words.next().context(USAGE)?;
    let flags = Flags::new(words);
    match command.as_str() {
        "list" => runner::list()?,
        "test" => return Ok(ExitCode::from(u8::from(!runner::test(&flags)?))),
        "demo" => demo::run()?,
        "case" => {
            let name = *flags.words(&["--rungs"]).first().context("lab case NAME")?;
            let rung = Rung::parse(flags.value("--rungs")?)?;
            let status = case::main(name, flags.has("--faults-only"), rung)?;
            return Ok(ExitCode::from(u8::try_from(status)?));
        }
        "dns-server" => dns::server::main(&flags)?,
        "idle" => kube_proxy::idle_main(&flags)?,
        "kube-proxy" => kube_proxy::main(&flags)?,
        "brief" => kubelet::brief_main(&flags)?,
        "connect" => kubelet::connect_main(&flags)?,
        "tcp-server" => tcp::main(&flags)?,
        _ => bail!("no sub-command {command:?}\n{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes one line for the person, or the program, that started the lab.
pub fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot write to standard output")
}
