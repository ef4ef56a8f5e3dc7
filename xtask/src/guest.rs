//! A virtual machine ready to run things: kernel, file system, retries.
use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    arch::Arch,
    artifacts::Artifacts,
    cache::{Cache, Staging, run_quietly},
    cpio::Tree,
    initramfs,
    judge::{self, Judgement, NO_VERDICT},
    kernel, progress,
    qemu::{self, Machine, Outcome},
    runtimes,
    vm::MachineOptions,
    wire::Wire,
};

/// A machine that dies before its verdict, or whose clock went wrong, is booted again, up to this
/// many boots in all: see [`judge::judge`].
const BOOTS: u32 = 3;
/// Variables of the caller that count in the guest too.
const PASSED_ON: [&str; 4] = ["TERM", "NO_COLOR", "RUST_LOG", "RUST_BACKTRACE"];

/// Runs begun by this process.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// What a guest is to do.
pub struct Task {
    /// A line for bash.
    pub line: String,
    /// Whether its output is a terminal's; it gets a pipe otherwise.
    pub terminal: bool,
}

/// A kernel and a file system, ready to boot.
pub struct Guest {
    arch: Arch,
    image: PathBuf,
    base: PathBuf,
    run: Tree,
    kernel: String,
    release: String,
    runs: PathBuf,
    /// In MB.
    memory: u32,
    wire: Wire,
}

/// What came of a run.
#[derive(Default)]
pub struct Report {
    /// The command's exit status; 124 when it ran out of time, 125 when no boot had a verdict.
    pub status: i32,
    /// Boots that died before their verdict, or whose clock went wrong.
    pub infrastructure_failures: u32,
    /// What broke the machine, or may have: a failure whatever the status.
    pub trouble: Option<String>,
    /// What else a reader should know.
    pub remark: Option<String>,
    /// The output of the last boot.
    pub output: Vec<u8>,
}

impl Guest {
    pub fn prepare(kernel: &str, artifacts: &Artifacts) -> Result<Self> {
        let cache = Cache::open()?;
        let kernel = kernel::provide(&cache, kernel::series(kernel)?)?;
        let base = initramfs::base(&cache, &kernel)?;
        let mut guest = Self {
            arch: kernel.arch,
            image: kernel.image(),
            base,
            run: Tree::default(),
            kernel: kernel.name.to_owned(),
            release: kernel.release.clone(),
            runs: cache.runs()?,
            memory: qemu::MEMORY,
            wire: Wire::Hub,
        };
        for program in artifacts.programs(kernel.arch) {
            let name = file_name(program)?;
            let path = format!("usr/local/bin/{name}");
            guest.run.host_file(&path, 0o755, program);
            initramfs::libraries(&mut guest.run, program)?;
        }
        Ok(guest)
    }

    /// Puts Debian's container runtimes into the guest.
    pub fn add_runtimes(&mut self, artifacts: &Artifacts) -> Result<()> {
        runtimes::ensure_present()?;
        runtimes::add(&mut self.run, &Cache::open()?, artifacts)?;
        // See init.sh.
        self.run.bytes("vm/pivot", 0o644, "");
        self.memory = runtimes::MEMORY;
        Ok(())
    }

    /// Connects its first network card with another machine's.
    pub fn connect(&mut self, wire: Wire) {
        self.wire = wire;
    }

    /// What `uname -r` says.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Puts a file into the guest's /work, and on its PATH when it is executable.
    pub fn add_file(&mut self, path: &Path) -> Result<()> {
        let meta = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(meta.is_file(), "{} is not a file", path.display());
        let name = file_name(path)?;
        let mode = meta.permissions().mode() & 0o777;
        self.run.host_file(&format!("work/{name}"), mode, path);
        if mode & 0o100 != 0 {
            let link = format!("usr/local/bin/{name}");
            self.run.symlink(&link, &format!("/work/{name}"));
            initramfs::libraries(&mut self.run, path)?;
        }
        Ok(())
    }

    /// Boots and runs `task`. Every boot's output goes to `output`.
    pub fn run(
        &mut self,
        options: &MachineOptions,
        task: &Task,
        output: &mut dyn FnMut(&[u8]),
    ) -> Result<Report> {
        let environment = environment(&self.kernel, task.terminal);
        self.run.bytes("vm/environment", 0o644, environment);
        let script = format!("#!/bin/bash\n{}\n", task.line);
        self.run.bytes("vm/command", 0o755, script);

        // Machines of one process run side by side, also several of one kernel.
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let folder = Staging::beside(&self.runs.join(format!("vm-{}-{number}", self.kernel)))?;
        let initramfs = folder.path().join("initramfs.cpio");
        initramfs::with_run(&self.base, &self.run, &initramfs)?;
        let machine = Machine {
            arch: self.arch,
            image: &self.image,
            initramfs: &initramfs,
            append: &options.append,
            accel: options.accel,
            memory: self.memory,
            wire: &self.wire,
            time_limit: Duration::from_secs(options.timeout),
        };
        let mut report = Report { status: NO_VERDICT, ..Report::default() };
        for boot in 1..=BOOTS {
            report.output.clear();
            let ended = qemu::boot(&machine, folder.path(), &mut |chunk| {
                report.output.extend_from_slice(chunk);
                output(chunk);
            })?;
            if let Some(crash) = &ended.crash {
                self.note(&format!("the console tells of a crash:\n{}", crash.text));
            }
            let failure = match judge::judge(&ended, &report.output) {
                Judgement::Counts { status, remark } => {
                    if ended.outcome == Outcome::TimedOut {
                        self.note(&format!(
                            "the command was ended after {} s (--timeout)",
                            options.timeout
                        ));
                    }
                    report.status = status;
                    report.remark = remark;
                    break;
                }
                Judgement::Broken { status, why } => {
                    self.note(&why);
                    report.status = status;
                    report.trouble = Some(why);
                    break;
                }
                Judgement::Again(failure) => failure,
            };
            // The next boot's output begins on a line of its own.
            if report.output.last().is_some_and(|&byte| byte != b'\n') {
                output(b"\n");
            }
            report.infrastructure_failures = boot;
            self.note(&format!("infrastructure failure {boot} of {BOOTS}: {failure}"));
        }
        Ok(report)
    }

    fn note(&self, text: &str) {
        progress::note(&format!("kernel {}: {text}", self.kernel));
    }
}

fn file_name(path: &Path) -> Result<&str> {
    path.file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("{} has no usable file name", path.display()))
}

/// A shell line for a command from the command line: one word is a line already, several are a
/// program and its arguments.
pub fn command_line(words: &[String]) -> String {
    match words {
        [line] => line.clone(),
        words => {
            let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
            quoted.join(" ")
        }
    }
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Shell assignments for the guest's init and command.
fn environment(kernel: &str, terminal: bool) -> String {
    let (lines, columns) = terminal_size().unwrap_or((24, 80));
    let mut text = format!(
        "export LINES={lines} COLUMNS={columns} STALLPROBE_KERNEL={}\nVM_TERMINAL={}\n",
        quote(kernel),
        i32::from(terminal)
    );
    for name in PASSED_ON {
        if let Ok(value) = env::var(name) {
            text.push_str(&format!("export {name}={}\n", quote(&value)));
        }
    }
    text
}

/// Rows and columns of the terminal, if there is one.
fn terminal_size() -> Option<(u32, u32)> {
    let mut stty = Command::new("stty");
    stty.args(["-F", "/dev/tty", "size"]).stdin(Stdio::null());
    let text = String::from_utf8(run_quietly(&mut stty).ok()?).ok()?;
    let (rows, columns) = text.trim().split_once(' ')?;
    match (rows.parse().ok()?, columns.parse().ok()?) {
        (0, _) | (_, 0) => None,
        size => Some(size),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn words_reach_the_guest_as_they_are() {
        let words = ["printf", "%s|", "a b", "it's", "$HOME", ""].map(str::to_owned);
        let output = Command::new("sh").args(["-c", &command_line(&words)]).output().unwrap();
        assert_eq!(output.stdout, b"a b|it's|$HOME||");
        assert_eq!(command_line(&["a | b".to_owned()]), "a | b");
    }
}
