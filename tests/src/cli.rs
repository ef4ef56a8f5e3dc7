//! The lab's command line: what people start, and the helpers that it starts in pods itself.

use std::{io::Write, process::ExitCode};

use anyhow::{Context, Result, bail};

use crate::{
    args::Flags, case, demo, dns, in_pod, kills, kube_proxy, kubelet, rung::Rung, runner, tcp,
    two_nodes, web,
};

const USAGE: &str = "usage: lab list
       lab test [PART]... [--faults-only] [--causes-only] [--short] [--rungs RUNG] [--lockdown]
                [--runtimes]
                    cases whose name has one of the parts; those that show a cause; those
                    that may differ between kernels; as on a kernel without the rungs above
                    kprobe, tracepoint or snapshot; on a kernel that was booted with
                    lockdown=confidentiality; those of pods that container runtimes make
       lab demo
       lab kills --times NUMBER
                    recordings that are killed, on this machine as it is
       lab node server|client
                    one of two machines that are connected: `cargo xtask vm --two-nodes`";

/// Runs the sub-command that the arguments name.
pub fn run() -> Result<ExitCode> {
    let mut words = std::env::args().skip(1);
    let command = words.next().context(USAGE)?;
    let words: Vec<String> = words.collect();
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let (words, rest) = words.split_at(end);
    let flags = Flags::new(words.iter().cloned());
    match command.as_str() {
        "list" => runner::list()?,
        "test" => return Ok(ExitCode::from(u8::from(!runner::test(&flags)?))),
        "demo" => demo::run()?,
        "node" => two_nodes::main(&flags)?,
        "case" => {
            let name = *flags.words(&["--rungs"]).first().context("lab case NAME")?;
            let rung = Rung::parse(flags.value("--rungs")?)?;
            let status = case::main(name, flags.has("--faults-only"), rung)?;
            return Ok(ExitCode::from(u8::try_from(status)?));
        }
        "dns-server" => dns::server::main(&flags)?,
        "idle" => kube_proxy::idle_main(&flags)?,
        "kills" => return Ok(ExitCode::from(kills::main(&flags)?)),
        "kube-proxy" => kube_proxy::main(&flags)?,
        "brief" => kubelet::brief_main(&flags)?,
        "in-pod" => {
            let status = in_pod::main(&flags, rest.get(1..).unwrap_or_default())?;
            return Ok(ExitCode::from(status));
        }
        "without-bpf" => {
            let status = in_pod::without_bpf(rest.get(1..).unwrap_or_default())?;
            return Ok(ExitCode::from(status));
        }
        "connect" => kubelet::connect_main(&flags)?,
        "tcp-server" => tcp::main(&flags)?,
        "web-server" => web::main(&flags)?,
        _ => bail!("no sub-command {command:?}\n{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes one line for the person, or the program, that started the lab.
pub fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot write to standard output")
}
