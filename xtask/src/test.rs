//! `cargo xtask test`: everything. Unit and snapshot tests here, then the lab's scenarios in a
//! virtual machine per kernel, and the table of causes and kernels that they prove.
use std::{
    collections::BTreeSet,
    io::Read as _,
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    arch::Arch,
    artifacts::{self, Artifacts},
    guest::Report,
    kernels::Series,
    kills::{self, Kills},
    lab::{self, Done, Job},
    ladder::{self, MAIN},
    progress::note,
    readme, recordings,
    setup::{self, Kernels},
    tables::Tables,
    tally::Tally,
    two_nodes,
    vm::{self, MachineOptions},
};

#[derive(clap::Args)]
pub struct Options {
    /// Only this kernel series; all by default. May be repeated.
    #[arg(long = "kernel", value_name = "KERNEL")]
    pub kernels: Vec<String>,
    /// Only scenarios whose name contains this, and no tests outside virtual machines. May be
    /// repeated.
    #[arg(long = "filter", value_name = "NAME")]
    pub filters: Vec<String>,
    /// How many kernels run at the same time.
    #[arg(long, default_value_t = lab::AT_ONCE, value_name = "NUMBER")]
    pub at_once: usize,
    /// All cases on every kernel, as for a release. Without it 6.12 runs everything, 6.1 what may
    /// differ between kernels, and the others the cases that show a cause. Either way 6.12 is booted
    /// for each lower rung of the ladder too.
    #[arg(long)]
    pub everything: bool,
    /// Put the tables of causes, kernels and rungs into README.md when nothing failed.
    #[arg(long, conflicts_with_all = ["kernels", "filters"])]
    pub write_readme: bool,
    #[command(flatten)]
    pub machine: MachineOptions,
}

/// One line of the closing table.
#[derive(Default)]
struct Row {
    name: String,
    tally: Tally,
    /// Boots that died before their verdict, or whose clock went wrong.
    retries: u32,
    time: Duration,
    /// Why the run as a whole is not good, whatever its cases say.
    trouble: Option<String>,
    /// What else a reader should know.
    remarks: Vec<String>,
}

pub fn run(options: Options) -> Result<ExitCode> {
    let start = Instant::now();
    let mut kernels = setup::prepare_named(&options.kernels)?;
    if options.kernels.is_empty() && !options.filters.is_empty() {
        // Not every program that a scenario needs is there.
        kernels.ready.retain(|series| series.arch == Arch::X86_64);
    }
    if options.write_readme {
        readme::every_kernel(&options.kernels, &kernels.left_out)?;
    }
    let mut rows = Vec::new();
    match options.filters.as_slice() {
        [] => rows.push(host()?),
        some => note(&format!("only scenarios called *{}*, no host tests", some.join("*, *"))),
    }
    let artifacts = build(&mut kernels)?;
    let Kernels { ready, left_out } = kernels;
    let nodes = nodes(&ready, &options);
    let mut jobs = jobs(ready, &options);
    if options.filters.is_empty() {
        let row = kills(&artifacts);
        if row.tally.skipped > 0 {
            more_kills(&mut jobs);
        }
        rows.push(row);
    }
    let no_runtimes = setup::left_out_runtimes(jobs.iter().any(|job| job.runtimes));
    if no_runtimes.is_some() {
        jobs.retain(|job| !job.runtimes);
    }
    let done = lab::run(&jobs, &artifacts, &options.machine, options.at_once);

    let mut tables = Tables::default();
    for (job, done) in jobs.iter().zip(&done) {
        tables.add_done(job, done.as_ref());
        rows.push(match done {
            Ok(done) => row(job, done, !options.filters.is_empty()),
            Err(error) => broken(&job.name, error),
        });
        if let (Ok(done), true) = (done, job.recordings) {
            rows.push(recordings(job, done, !options.filters.is_empty()));
        }
    }
    if let Some(kernels) = nodes {
        rows.push(two_nodes(kernels, &artifacts, &options.machine));
    }
    for (series, why) in left_out {
        tables.add_left_out(series);
        rows.push(not_run(series.name, &why));
    }
    if let Some(why) = no_runtimes {
        rows.push(not_run("containerd", &why));
    }
    vm::pass_on(format!("\n{}", tables.text()).as_bytes());
    let good = close(&rows, start.elapsed());
    if good && options.write_readme {
        tables.write_readme()?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds what the guests run. An architecture for which that cannot be done here costs its kernels, if
/// none of them is required.
fn build(kernels: &mut Kernels) -> Result<Artifacts> {
    let mut artifacts = Artifacts::default();
    let archs: BTreeSet<Arch> = kernels.ready.iter().map(|series| series.arch).collect();
    for arch in archs {
        let Err(error) = artifacts.build_too(arch) else { continue };
        let (without, with): (Vec<_>, Vec<_>) =
            kernels.ready.iter().copied().partition(|series| series.arch == arch);
        if without.iter().any(|series| series.required) {
            return Err(error);
        }
        kernels.ready = with;
        for series in without {
            kernels.leave_out(series, &error);
        }
    }
    Ok(artifacts)
}

/// How much of the lab runs on a kernel; the longest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Everything,
    CausesOnly,
    /// These cases.
    Named(&'static [&'static str]),
}

/// What shows that the aarch64 programs work: hooks by fentry and tracepoints, both ends of a function in
/// a module, and all of it with a manifest's rights.
const ON_AARCH64: &[&str] = &[
    "accept_queue_syn",
    "dnat_clash_two_threads_v6",
    "table_full_v6",
    "no_listener_v6",
    "syn_queue_backlog_v6",
    "debug_pod",
];

impl Part {
    /// Named kernels and scenarios are run as asked for; else time is saved where it costs least.
    fn on(series: &Series, options: &Options) -> Self {
        let named = !options.filters.is_empty() || !options.kernels.is_empty();
        match series.name {
            _ if series.arch == Arch::Aarch64 && options.filters.is_empty() => {
                Self::Named(ON_AARCH64)
            }
            _ if named || options.everything => Self::Everything,
            MAIN => Self::Everything,
            _ => Self::CausesOnly,
        }
    }

    /// For `lab test`.
    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Everything => &[],
            Self::CausesOnly => &["--causes-only"],
            Self::Named(cases) => cases,
        }
    }

    const fn remark(self, options: &Options) -> &'static str {
        match self {
            Self::Everything if !options.filters.is_empty() => "what was asked for",
            Self::Everything => "everything",
            Self::CausesOnly => "causes only",
            Self::Named(_) => "some causes on another architecture",
        }
    }
}

/// The longest first, so that no machine waits for one that started late.
fn jobs(mut ready: Vec<&'static Series>, options: &Options) -> Vec<Job> {
    ready.sort_by_key(|series| Part::on(series, options));
    let whole = options.kernels.is_empty() && options.filters.is_empty();
    let main = ready.iter().copied().find(|series| whole && series.name == MAIN);
    let job = |series: &'static Series| {
        let part = Part::on(series, options);
        let part_of = part.arguments().iter().map(|&argument| argument.to_owned());
        let arguments = part_of.chain(options.filters.iter().cloned()).collect();
        let recordings = series.name == MAIN;
        let environment = if recordings { vec![recordings::WANTED] } else { Vec::new() };
        Job { recordings, environment, ..Job::on(series, arguments, part.remark(options)) }
    };
    let ladder = |series| ladder::jobs(series, !options.everything);
    let runtimes = main.into_iter().map(|series| Job::with_runtimes(series, !options.everything));
    let ladder = main.into_iter().flat_map(ladder);
    ready.into_iter().map(job).chain(runtimes).chain(ladder).collect()
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
    let time = start.elapsed();
    Ok(Row { name: "host".to_owned(), tally, time, trouble, ..Row::default() })
}

fn row(job: &Job, done: &Done, filtered: bool) -> Row {
    let Report { status, trouble, remark, .. } = &done.report;
    let part = Some(job.part.to_owned());
    let told = Tally::from_lab(&String::from_utf8_lossy(&done.report.output));
    let other =
        (!job.series.is_called(&done.series())).then(|| format!("on {} instead", done.release));
    Row {
        name: job.name.clone(),
        tally: told.unwrap_or_default(),
        retries: done.report.infrastructure_failures,
        time: done.time,
        trouble: trouble.clone().or_else(|| lab_trouble(told, *status, filtered)),
        remarks: [part, other, remark.clone()].into_iter().flatten().collect(),
    }
}

/// Recordings that are killed on this machine.
fn kills(artifacts: &Artifacts) -> Row {
    let (start, name) = (Instant::now(), "kills".to_owned());
    note("recordings that are killed, on this machine");
    let row = match kills::run(artifacts) {
        Ok(Kills::Good(said)) => {
            let tally = Tally { passed: 1, ..Tally::default() };
            Row { name, tally, remarks: vec![said], ..Row::default() }
        }
        Ok(Kills::Skipped(why)) => not_run(&name, &why),
        Ok(Kills::Failed(why)) => {
            Row { name, tally: Tally::ONE_FAILED, remarks: vec![why], ..Row::default() }
        }
        Err(error) => broken(&name, &error),
    };
    row.remarks.iter().for_each(|remark| note(remark));
    Row { time: start.elapsed(), ..row }
}

/// Has the virtual machine kill more of them, since none were killed here.
fn more_kills(jobs: &mut [Job]) {
    for job in jobs.iter_mut().filter(|job| job.recordings) {
        job.environment.push(kills::INSTEAD);
    }
}

/// What tshark says of the recordings of a job's cases.
fn recordings(job: &Job, done: &Done, filtered: bool) -> Row {
    let (start, name) = (Instant::now(), "recordings".to_owned());
    let files = match recordings::save(&job.name, &done.report.output) {
        Ok(files) => files,
        Err(error) => return broken(&name, &error),
    };
    let (tally, packets, wrong) = recordings::read_by_tshark(&files);
    wrong.iter().for_each(|wrong| note(wrong));
    let output = String::from_utf8_lossy(&done.report.output);
    let without = recordings::without(&output);
    let trouble = recordings_trouble(files.len(), packets, &without, filtered);
    let remarks = vec![format!("{} of {}, read by tshark", files.len(), job.name)];
    let trouble = wrong.first().cloned().or(trouble);
    Row { name, tally, trouble, remarks, time: start.elapsed(), ..Row::default() }
}

/// The kernels of two connected machines, in a run of everything: the client's and the server's.
fn nodes(ready: &[&'static Series], options: &Options) -> Option<[&'static Series; 2]> {
    let find = |name| ready.iter().copied().find(|series| series.name == name);
    let main = find(MAIN).filter(|_| options.kernels.is_empty() && options.filters.is_empty())?;
    Some([main, find(two_nodes::SERVER).unwrap_or(main)])
}

/// What the recordings of two connected machines say together.
fn two_nodes(
    kernels: [&'static Series; 2],
    artifacts: &Artifacts,
    machine: &MachineOptions,
) -> Row {
    let name = two_nodes::NAME;
    match two_nodes::record_and_look(kernels, artifacts, machine) {
        Ok(done) => Row {
            name: name.to_owned(),
            tally: done.tally,
            retries: done.retries,
            time: done.time,
            remarks: vec![format!("{} asks {}", kernels[0].name, kernels[1].name)],
            trouble: done.wrong.into_iter().next(),
        },
        Err(error) => broken(name, &error),
    }
}

/// What is wrong with a run's recordings as a whole. A filter may leave only cases without one, or
/// without a packet in it.
fn recordings_trouble(
    files: usize,
    packets: usize,
    without: &[&str],
    filtered: bool,
) -> Option<String> {
    match (files, packets) {
        _ if !without.is_empty() => Some(format!("no recording of {}", without.join(", "))),
        (0, _) if !filtered => Some("no case gave a recording".to_owned()),
        (_, 0) if !filtered => Some("no recording has a packet".to_owned()),
        _ => None,
    }
}

/// A kernel whose run could not be started or followed.
fn broken(name: &str, error: &anyhow::Error) -> Row {
    Row { name: name.to_owned(), trouble: Some(format!("{error:#}")), ..Row::default() }
}

/// A kernel that cannot be had counts as one skipped case.
fn not_run(name: &str, why: &str) -> Row {
    let tally = Tally { skipped: 1, ..Tally::default() };
    let remarks = vec![format!("NOT RUN: {why}")];
    Row { name: name.to_owned(), tally, remarks, ..Row::default() }
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

/// Prints the table and the closing line that sums it up; false when something failed.
fn close(rows: &[Row], time: Duration) -> bool {
    let (text, good) = summary(rows, time);
    vm::pass_on(text.as_bytes());
    good
}

fn summary(rows: &[Row], time: Duration) -> (String, bool) {
    let mut text = format!(
        "\n{:<15} {:>7} {:>7} {:>8} {:>8} {:>8}\n",
        "", "passed", "failed", "skipped", "retries", "time"
    );
    let mut sum = Tally::default();
    for row in rows {
        let Tally { passed, failed, skipped } = row.tally;
        let (retries, time) = (row.retries, row.time.as_secs());
        let said: Vec<&str> = row.trouble.iter().chain(&row.remarks).map(String::as_str).collect();
        let line = format!(
            "{:<15} {passed:>7} {failed:>7} {skipped:>8} {retries:>8} {time:>6} s  {}",
            row.name,
            said.join("; ")
        );
        text.push_str(&format!("{}\n", line.trim_end()));
        sum += row.tally;
        if row.trouble.is_some() {
            sum += Tally::ONE_FAILED;
        }
    }
    let Tally { passed, failed, skipped } = sum;
    text.push_str(&format!(
        "{:<15} {:>43} s\n\nstallprobe: {passed} passed, {failed} failed, {skipped} skipped\n",
        "in all",
        time.as_secs()
    ));
    (text, failed == 0)
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

    #[test]
    fn where_none_are_killed_here_a_machine_kills_more() {
        let ready = ["6.1", "6.12"].iter().filter_map(|name| crate::kernels::by_name(name));
        let mut jobs = jobs(ready.collect(), &options(&[]));
        more_kills(&mut jobs);
        let with = jobs.iter().filter(|job| job.environment.contains(&kills::INSTEAD));
        assert_eq!(with.map(|job| job.name.as_str()).collect::<Vec<_>>(), ["6.12"]);
    }

    #[test]
    fn recordings_that_do_not_come_out_are_trouble() {
        assert_eq!(recordings_trouble(146, 700, &[], false), None);
        assert_eq!(recordings_trouble(0, 0, &[], true), None);
        assert_eq!(recordings_trouble(1, 0, &[], true), None);
        assert!(recordings_trouble(0, 0, &[], false).is_some());
        assert!(recordings_trouble(146, 0, &[], false).is_some());
        for filtered in [false, true] {
            let trouble = recordings_trouble(1, 3, &["flood", "nft_drop"], filtered);
            assert_eq!(trouble.as_deref(), Some("no recording of flood, nft_drop"));
        }
    }

    fn options(arguments: &[&str]) -> Options {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }
        <Line as clap::Parser>::parse_from([&["test"], arguments].concat()).options
    }

    /// Names and arguments, in the order in which they start.
    fn planned(arguments: &[&str], kernels: &[&str]) -> Vec<String> {
        let ready = kernels.iter().filter_map(|name| crate::kernels::by_name(name)).collect();
        let jobs = jobs(ready, &options(arguments));
        jobs.iter().map(|job| [job.name.as_str(), &job.arguments.join(" ")].join(" ")).collect()
    }

    #[test]
    fn the_longest_run_starts_first() {
        assert_eq!(
            planned(&[], &["5.10", "6.1", "6.12", "7.2"]),
            [
                "6.12 ",
                "5.10 --causes-only",
                "6.1 --causes-only",
                "7.2 --causes-only",
                "6.12 containerd --runtimes --short",
                "6.12 kprobe --rungs kprobe --causes-only",
                "6.12 tracepoint --rungs tracepoint --short",
                "6.12 locked --lockdown --short"
            ]
        );
        assert_eq!(
            planned(&["--everything"], &["5.10", "6.12"]),
            [
                "5.10 ",
                "6.12 ",
                "6.12 containerd --runtimes",
                "6.12 kprobe --rungs kprobe --causes-only",
                "6.12 tracepoint --rungs tracepoint",
                "6.12 locked --lockdown"
            ]
        );
        assert_eq!(planned(&[], &["5.10"]), ["5.10 --causes-only"]);
        let across = planned(&["--kernel", "6.12-arm64"], &["6.12-arm64"]).concat();
        assert!(across.starts_with("6.12-arm64 accept_queue_syn "), "{across}");
        let across = planned(&["--filter", "ipvs"], &["6.12-arm64"]);
        assert_eq!(across, ["6.12-arm64 ipvs"]);
        assert_eq!(planned(&["--kernel", "6.12"], &["6.12"]), ["6.12 "]);
        assert_eq!(planned(&["--kernel", "5.10", "--filter", "ipvs"], &["5.10"]), ["5.10 ipvs"]);
    }

    #[test]
    fn a_kernel_that_cannot_be_had_is_seen_in_the_table() {
        let host = Row { name: "host".to_owned(), ..Row::default() };
        let (text, good) = summary(&[host, not_run("7.2", "no mirror")], Duration::from_secs(61));
        assert!(good);
        assert!(text.contains("NOT RUN: no mirror"), "{text}");
        assert!(text.ends_with("stallprobe: 0 passed, 0 failed, 1 skipped\n"));
        let row = broken("6.1", &anyhow::anyhow!("no disk").context("cannot write x"));
        let (text, good) = summary(&[row], Duration::ZERO);
        assert!(!good);
        assert!(text.contains("cannot write x: no disk"), "{text}");
    }
}
