//! The lab on several kernels, some virtual machines at a time: they wait more than they compute.
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

use crate::{
    artifacts::Artifacts,
    guest::{Guest, Report, Task, command_line},
    kernels::Series,
    ladder::Rung,
    progress::note,
    recordings,
    tally::Tally,
    vm::{self, MachineOptions},
};

/// Machines at the same time, by default: one more than the processors of the machine that the tests
/// are made for, since each waits a good part of its time.
pub const AT_ONCE: usize = 3;

/// What the lab is to do on a kernel.
pub struct Job {
    /// What the run is called.
    pub name: String,
    pub series: &'static Series,
    /// The rung of the ladder at which stallprobe begins.
    pub rung: Rung,
    /// Arguments of `lab test`.
    pub arguments: Vec<String>,
    /// More for the kernel's command line.
    pub append: &'static str,
    /// Whether it is the machine with container runtimes, and their cases.
    pub runtimes: bool,
    /// Whether the recordings of its cases are wanted here.
    pub recordings: bool,
    /// Variables for `lab test`, `NAME=VALUE`.
    pub environment: Vec<&'static str>,
    /// Which part of the lab that is, for a reader.
    pub part: &'static str,
}

impl Job {
    /// A run on a kernel as it is.
    pub fn on(series: &'static Series, arguments: Vec<String>, part: &'static str) -> Self {
        let (name, rung) = (series.name.to_owned(), Rung::Fentry);
        Self {
            name,
            series,
            rung,
            arguments,
            append: "",
            runtimes: false,
            recordings: false,
            environment: Vec::new(),
            part,
        }
    }

    /// The cases of pods that container runtimes make; a short run has no node full of them.
    pub fn with_runtimes(series: &'static Series, short: bool) -> Self {
        let flags = [Some("--runtimes"), short.then_some("--short")];
        let arguments = flags.into_iter().flatten().map(str::to_owned).collect();
        Self {
            name: format!("{} containerd", series.name),
            runtimes: true,
            ..Self::on(series, arguments, "pods made by containerd and podman")
        }
    }

    /// Only the cases that show a cause.
    pub fn causes_only(mut self) -> Self {
        let flag = "--causes-only";
        if !self.arguments.iter().any(|argument| argument == flag) {
            self.arguments.push(flag.to_owned());
        }
        self
    }
}

/// What came of a job.
pub struct Done {
    /// What `uname -r` said.
    pub release: String,
    pub report: Report,
    pub time: Duration,
}

/// Does the jobs, at most `at_once` at the same time, in their order, and gives what came of each.
/// What the machines print is passed on by whole lines, each after its kernel's name if there are
/// several. One kernel's error leaves the others' results as they are.
pub fn run(
    jobs: &[Job],
    artifacts: &Artifacts,
    machine: &MachineOptions,
    at_once: usize,
) -> Vec<Result<Done>> {
    let waiting: Mutex<VecDeque<usize>> = Mutex::new((0..jobs.len()).collect());
    let done: Mutex<Vec<Option<Result<Done>>>> = Mutex::new(jobs.iter().map(|_| None).collect());
    let lane = || {
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((index, job)) = next.and_then(|i| Some((i, jobs.get(i)?))) else { break };
            let result = one(job, artifacts, machine, jobs.len() > 1);
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = done.get_mut(index) {
                *slot = Some(result);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..at_once.min(jobs.len()) {
            scope.spawn(lane);
        }
        lane();
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let done = done.into_iter();
    done.map(|result| result.unwrap_or_else(|| Err(anyhow!("this kernel was not run")))).collect()
}

fn one(job: &Job, artifacts: &Artifacts, machine: &MachineOptions, labelled: bool) -> Result<Done> {
    let start = Instant::now();
    let name = job.name.as_str();
    let words = ["env"].iter().chain(&job.environment).chain(&["lab", "test"]);
    let words = words.skip(usize::from(job.environment.is_empty())).map(|&word| word.to_owned());
    let words: Vec<_> = words.chain(job.arguments.iter().cloned()).collect();
    note(&format!("kernel {name}: {}", words.join(" ")));
    let mut guest = Guest::prepare(job.series.name, artifacts)?;
    if job.runtimes {
        guest.add_runtimes(artifacts)?;
    }
    let task = Task { line: command_line(&words), terminal: false };
    let mut lines = Lines::after(if labelled { format!("{name:<15} ") } else { String::new() });
    let append = format!("{} {}", job.append, machine.append).trim().to_owned();
    let machine = MachineOptions { append, ..machine.clone() };
    let report = guest.run(&machine, &task, &mut |chunk| vm::pass_on(&lines.take(chunk)));
    vm::pass_on(&lines.rest());
    let report = report?;
    let time = start.elapsed();
    let (status, seconds) = (report.status, time.as_secs());
    note(&format!("kernel {name}: the lab ended with status {status} after {seconds} s"));
    Ok(Done { release: guest.release().to_owned(), report, time })
}

impl Done {
    /// Whether cases ran and none failed.
    pub fn is_good(&self) -> bool {
        let told = Tally::from_lab(&String::from_utf8_lossy(&self.report.output));
        let passed = told.is_some_and(|tally| tally.passed > 0);
        self.report.status == 0 && self.report.trouble.is_none() && passed
    }

    /// The series that was run, which is another than the one wanted when nothing was left of that.
    pub fn series(&self) -> String {
        let mut parts = self.release.split(['.', '-', '+']);
        [parts.next(), parts.next()].into_iter().flatten().collect::<Vec<_>>().join(".")
    }
}

/// Makes whole lines of what comes in pieces, each after a label.
pub struct Lines {
    label: String,
    part: Vec<u8>,
}

impl Lines {
    pub fn after(label: String) -> Self {
        Self { label, part: Vec::new() }
    }

    /// The lines that are whole with this piece.
    pub fn take(&mut self, piece: &[u8]) -> Vec<u8> {
        self.part.extend_from_slice(piece);
        let end = self.part.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let rest = self.part.split_off(end);
        let whole = std::mem::replace(&mut self.part, rest);
        let mut out = Vec::new();
        for line in whole.split_inclusive(|&byte| byte == b'\n') {
            if recordings::is_line(line) {
                continue;
            }
            out.extend_from_slice(self.label.as_bytes());
            out.extend_from_slice(line);
        }
        out
    }

    /// What is left without an end of line.
    pub fn rest(&mut self) -> Vec<u8> {
        if self.part.is_empty() { Vec::new() } else { self.take(b"\n") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_two_machines_do_not_mix() {
        let mut lines = Lines::after("6.1   ".to_owned());
        assert_eq!(lines.take(b"case a ... "), b"");
        assert_eq!(lines.take(b"ok\n\ncase"), b"6.1   case a ... ok\n6.1   \n");
        assert_eq!(lines.take(b" b\nc"), b"6.1   case b\n");
        assert_eq!(lines.rest(), b"6.1   c\n");
        assert_eq!(lines.rest(), b"");
        assert_eq!(Lines::after(String::new()).take(b"a\nb"), b"a\n");
    }

    #[test]
    fn a_release_is_of_a_series() {
        let of = |release: &str| {
            let (report, time) = (Report::default(), Duration::ZERO);
            Done { release: release.to_owned(), report, time }.series()
        };
        assert_eq!(of("6.1.0-56-cloud-amd64"), "6.1");
        assert_eq!(of("6.12.117+deb13-cloud-amd64"), "6.12");
        assert_eq!(of("7.3-cloud-amd64"), "7.3");
    }
}
