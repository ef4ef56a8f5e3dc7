//! `cargo xtask test`: everything. Unit and snapshot tests here, then the lab's scenarios in a
//! virtual machine per kernel.
use std::{
    io::{Read as _, Write as _},
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    artifacts::{self, Artifacts},
    guest::{Guest, Task, command_line},
    kernel,
    kernels::Series,
    progress::note,
    setup,
    tally::Tally,
    vm::{self, MachineOptions},
};

#[derive(clap::Args)]
pub struct Options {
    /// Only this kernel series; 6.12 and 6.1 by default. May be repeated.
    #[arg(long = "kernel", value_name = "KERNEL")]
    pub kernels: Vec<String>,
    /// Only scenarios whose name contains this, and no tests outside virtual machines.
    #[arg(long, value_name = "NAME")]
    pub filter: Option<String>,
    #[command(flatten)]
    pub machine: MachineOptions,
}

/// One line of the closing table.
struct Row {
    name: String,
    tally: Tally,
    /// Boots that died before their verdict.
    retries: u32,
    time: Duration,
    /// Why the run as a whole is not good, whatever its cases say.
    trouble: Option<String>,
}

pub fn run(options: Options) -> Result<ExitCode> {
    let kernels: Vec<&'static Series> = if options.kernels.is_empty() {
        setup::default_kernels()
    } else {
        let names = options.kernels.iter();
        names.map(|name| kernel::series(name)).collect::<Result<_>>()?
    };
    setup::prepare(&kernels)?;

    let mut rows = Vec::new();
    match &options.filter {
        None => rows.push(host()?),
        Some(filter) => note(&format!("only scenarios called *{filter}*, no host tests")),
    }
    let artifacts = Artifacts::build()?;
    for series in kernels {
        note(&format!("scenarios on kernel {}", series.name));
        rows.push(scenarios(series, &artifacts, &options)?);
    }
    if options.kernels.is_empty() && options.filter.is_none() {
        rows.push(locked_down(&artifacts, &options)?);
    }
    Ok(close(&rows))
}

/// `cargo test` of the workspace's default members.
fn host() -> Result<Row> {
    let start = Instant::now();
    note("tests on this machine");
    let mut child = artifacts::cargo_command()
        .args(["test", "--no-fail-fast"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo test")?;
    let mut stdout = child.stdout.take().context("no pipe from cargo test")?;
    let mut output = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let length = stdout.read(&mut buffer).context("cannot read from cargo test")?;
        let chunk = buffer.get(..length).unwrap_or_default();
        if chunk.is_empty() {
            break;
        }
        vm::pass_on(chunk);
        output.extend_from_slice(chunk);
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    let tally = Tally::from_cargo(&String::from_utf8_lossy(&output));
    let trouble = if status.success() && tally.passed == 0 {
        Some("cargo test ran no test".to_owned())
    } else if !status.success() && tally.failed == 0 {
        Some(format!("cargo test ended with {status}"))
    } else {
        None
    };
    Ok(Row { name: "host".to_owned(), tally, retries: 0, time: start.elapsed(), trouble })
}

fn scenarios(series: &Series, artifacts: &Artifacts, options: &Options) -> Result<Row> {
    let start = Instant::now();
    let mut guest = Guest::prepare(series.name, artifacts)?;
    let mut words = vec!["lab".to_owned(), "test".to_owned()];
    if let Some(filter) = &options.filter {
        words.extend(["--filter".to_owned(), filter.clone()]);
    }
    let task = Task { line: command_line(&words), terminal: false };
    let report = guest.run(&options.machine, &task, &mut vm::pass_on)?;
    let told = Tally::from_lab(&String::from_utf8_lossy(&report.output));
    Ok(Row {
        name: series.name.to_owned(),
        tally: told.unwrap_or_default(),
        retries: report.infrastructure_failures,
        time: start.elapsed(),
        trouble: lab_trouble(told, report.status, options.filter.is_some()),
    })
}

/// The cases that a kernel serves which refuses programs that read its memory: one more boot of
/// 6.12.
fn locked_down(artifacts: &Artifacts, options: &Options) -> Result<Row> {
    let series = kernel::series("6.12")?;
    note(&format!("scenarios on kernel {}, locked down", series.name));
    let machine = MachineOptions {
        append: format!("lockdown=confidentiality {}", options.machine.append),
        ..options.machine.clone()
    };
    let start = Instant::now();
    let mut guest = Guest::prepare(series.name, artifacts)?;
    let words = ["lab", "test", "--lockdown"].map(str::to_owned);
    let task = Task { line: command_line(&words), terminal: false };
    let report = guest.run(&machine, &task, &mut vm::pass_on)?;
    let told = Tally::from_lab(&String::from_utf8_lossy(&report.output));
    Ok(Row {
        name: "lockdown".to_owned(),
        tally: told.unwrap_or_default(),
        retries: report.infrastructure_failures,
        time: start.elapsed(),
        trouble: lab_trouble(told, report.status, false),
    })
}

/// What is wrong with a lab run beyond its failed cases. A filter may leave only cases that another
/// kernel is for.
fn lab_trouble(told: Option<Tally>, status: i32, filtered: bool) -> Option<String> {
    match (told, status) {
        (_, 124) => Some("ran out of time".to_owned()),
        (_, 125) => Some("no boot reached a verdict".to_owned()),
        (None, status) => Some(format!("the lab ended without its closing line, status {status}")),
        (Some(tally), _)
            if tally.passed + tally.failed == 0 && !(filtered && tally.skipped > 0) =>
        {
            Some("the lab ran no case".to_owned())
        }
        (Some(tally), 0) if tally.failed > 0 => Some("failed cases, yet status 0".to_owned()),
        (Some(tally), status) if status != 0 && tally.failed == 0 => {
            Some(format!("no failed case, yet status {status}"))
        }
        _ => None,
    }
}

/// The table, and the closing line that sums it up.
fn close(rows: &[Row]) -> ExitCode {
    let mut text = format!(
        "\n{:<8} {:>7} {:>7} {:>8} {:>8} {:>8}\n",
        "", "passed", "failed", "skipped", "retries", "time"
    );
    let mut sum = Tally::default();
    for row in rows {
        let Tally { passed, failed, skipped } = row.tally;
        let (retries, time) = (row.retries, row.time.as_secs());
        let trouble = row.trouble.as_deref().unwrap_or_default();
        text.push_str(&format!(
            "{:<8} {passed:>7} {failed:>7} {skipped:>8} {retries:>8} {time:>6} s  {trouble}\n",
            row.name
        ));
        sum += row.tally;
        if row.trouble.is_some() {
            sum += Tally::ONE_FAILED;
        }
    }
    let Tally { passed, failed, skipped } = sum;
    text.push_str(&format!("\nstallprobe: {passed} passed, {failed} failed, {skipped} skipped\n"));
    let mut stdout = std::io::stdout().lock();
    let _written = stdout.write_all(text.as_bytes());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64, skipped: u64) -> Option<Tally> {
        Some(Tally { passed, failed, skipped })
    }

    #[test]
    fn a_lab_that_did_not_do_its_work_is_trouble() {
        assert_eq!(lab_trouble(tally(3, 0, 1), 0, false), None);
        assert_eq!(lab_trouble(tally(3, 1, 0), 1, false), None);
        assert_eq!(lab_trouble(tally(0, 0, 5), 0, true), None);
        assert!(lab_trouble(tally(0, 0, 0), 0, true).is_some());
        for (told, status) in [
            (None, 0),
            (tally(0, 0, 0), 0),
            (tally(0, 0, 5), 0),
            (tally(1, 1, 0), 0),
            (tally(1, 0, 0), 1),
            (tally(1, 0, 0), 124),
            (tally(1, 0, 0), 125),
        ] {
            assert!(lab_trouble(told, status, false).is_some(), "{told:?} {status}");
        }
    }
}
