//! Two machines, each a node: one knows why connects of the other stall. Both record, and what their
//! recordings say, alone and together, is looked at here.

mod told;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::{
    arch::Arch,
    artifacts::Artifacts,
    guest::{Guest, Report, Task, command_line},
    kernel,
    kernels::Series,
    lab::Lines,
    ladder::MAIN,
    progress::note,
    recordings,
    tally::Tally,
    vm::{self, MachineOptions, Options},
    wire::Folder,
};

/// What the run is called.
pub const NAME: &str = "two nodes";
/// Where the server's node has another kernel than the client's, it is this one.
pub const SERVER: &str = "6.1";
const ROLES: [&str; 2] = ["client", "server"];
/// Seconds for the lab in each machine.
const LIMIT: u64 = 240;
/// Both machines are started again when one of them broke: the other has waited for it in vain.
const TRIES: u32 = 2;

/// What came of it.
pub struct Done {
    pub tally: Tally,
    /// What was wrong.
    pub wrong: Vec<String>,
    /// Boots that died.
    pub retries: u32,
    pub time: Duration,
}

/// `cargo xtask vm --two-nodes`.
pub fn run(options: &Options) -> Result<ExitCode> {
    let kernels: [&str; 2] = match options.kernels.as_slice() {
        [] => [MAIN, SERVER],
        [both] => [both; 2],
        [client, server] => [client, server],
        _ => bail!("two nodes have two kernels at most"),
    };
    let [client, server] = kernels.map(kernel::series);
    let kernels = [client?, server?];
    ensure!(
        kernels.iter().all(|series| series.arch == Arch::X86_64),
        "what the nodes record is replayed here: they must have x86_64 kernels"
    );
    let artifacts = Artifacts::provide(options.no_build, [Arch::X86_64])?;
    let done = record_and_look(kernels, &artifacts, &options.machine)?;
    let Tally { passed, failed, .. } = done.tally;
    note(&format!("{NAME}: {passed} passed, {failed} failed in {} s", done.time.as_secs()));
    Ok(if done.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Kernels: the client's and the server's.
///
/// # Errors
/// When a machine cannot be run, or a recording is not there.
pub fn record_and_look(
    kernels: [&'static Series; 2],
    artifacts: &Artifacts,
    machine: &MachineOptions,
) -> Result<Done> {
    let (start, mut retries) = (Instant::now(), 0);
    let [client, server] = kernels.map(|series| series.name);
    note(&format!("{NAME}: the client's with kernel {client}, the server's with {server}"));
    let mut reports = Vec::new();
    for _ in 0..TRIES {
        reports = boot(kernels, artifacts, machine)?;
        let died: u32 = reports.iter().map(|report| report.infrastructure_failures).sum();
        retries += died;
        if died == 0 || reports.iter().all(is_good) {
            break;
        }
    }
    let mut files = Vec::new();
    for (role, report) in ROLES.iter().zip(&reports) {
        let trouble = report.trouble.as_deref().unwrap_or_default();
        ensure!(is_good(report), "the {role}'s node: status {} {trouble}", report.status);
        let saved = recordings::save(&format!("{NAME} {role}"), &report.output)?;
        let [file] = saved.try_into().map_err(|files: Vec<PathBuf>| {
            anyhow!("the {role}'s node made {} recordings, not one", files.len())
        })?;
        files.push(file);
    }
    let [client, server] = files.as_slice() else { bail!("not two recordings") };
    // Nothing of the run before may be there: its key would do, and its copies.
    let folder = recordings::folder(&format!("{NAME} redacted"))?;
    let looks = told::all(&program(artifacts)?, client, server, &folder)?;
    let mut tally = Tally::default();
    let mut wrong = Vec::new();
    for (what, told) in looks {
        let word = match told {
            Ok(()) => {
                tally.passed += 1;
                "ok".to_owned()
            }
            Err(err) => {
                tally.failed += 1;
                wrong.push(format!("{what}: {err:#}"));
                format!("FAILED: {err:#}")
            }
        };
        vm::pass_on(format!("{NAME:<15} {what} ... {word}\n").as_bytes());
    }
    Ok(Done { tally, wrong, retries, time: start.elapsed() })
}

fn is_good(report: &Report) -> bool {
    report.status == 0 && report.trouble.is_none()
}

/// Runs both machines to their ends.
fn boot(
    kernels: [&'static Series; 2],
    artifacts: &Artifacts,
    machine: &MachineOptions,
) -> Result<Vec<Report>> {
    let folder = Folder::make()?;
    let machine = MachineOptions { timeout: machine.timeout.min(LIMIT), ..machine.clone() };
    let mut guests = Vec::new();
    for ((series, wire), role) in kernels.into_iter().zip(folder.ends()?).zip(ROLES) {
        let mut guest = Guest::prepare(series.name, artifacts)?;
        guest.connect(wire);
        guests.push((guest, role));
    }
    let one = |mut guest: Guest, role: &str| -> Result<Report> {
        let words = ["env", recordings::WANTED, "lab", "node", role].map(str::to_owned);
        let task = Task { line: command_line(&words), terminal: false };
        let mut lines = Lines::after(format!("{role:<15} "));
        let report = guest.run(&machine, &task, &mut |chunk| vm::pass_on(&lines.take(chunk)));
        vm::pass_on(&lines.rest());
        report
    };
    let one = &one;
    thread::scope(|scope| {
        let running: Vec<_> =
            guests.into_iter().map(|(guest, role)| scope.spawn(move || one(guest, role))).collect();
        let ended = running.into_iter();
        ended.map(|run| run.join().map_err(|_| anyhow!("a machine's thread panicked"))?).collect()
    })
}

/// The stallprobe that the machines ran, which runs here, too.
fn program(artifacts: &Artifacts) -> Result<PathBuf> {
    let is_it = |path: &&Path| path.file_name().is_some_and(|name| name == "stallprobe");
    let path = artifacts.programs(Arch::X86_64).find(is_it);
    fs::canonicalize(path.context("stallprobe was not built")?).context("cannot find stallprobe")
}
