//! Runs cases one after the other, each in a process of its own, and cleans up after each whatever
//! became of it.

use std::{
    io::Read,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    args::Flags,
    case::{Case, EXIT_SKIPPED, Expect, kernel_release},
    cleanup,
    cli::say,
    scenarios,
};

enum Verdict {
    /// With what the case said, such as `named CAUSE CONFIDENCE`.
    Ok(String),
    Skipped(String),
    Failed(String),
}

/// `lab list`.
pub fn list() -> Result<()> {
    for case in scenarios::ALL {
        let kernels = if case.kernels.is_empty() { "all".into() } else { case.kernels.join(", ") };
        let names = case.names.map_or(String::new(), |names| format!("  {}", names.cause));
        say(&format!("{:<28} {kernels}{names}", case.name))?;
    }
    Ok(())
}

/// `lab test [--causes-only] [--short] [--faults-only] [NAME...]`: true when no case failed.
pub fn test(flags: &Flags) -> Result<bool> {
    throw_away_only()?;
    let release = kernel_release()?;
    let filters = flags.words();
    let chosen = |case: &&Case| filters.is_empty() || filters.iter().any(|f| case.name.contains(f));
    let locked_down = flags.has("--lockdown");
    ensure!(
        !locked_down || scenarios::snapshots::locked_down(),
        "this kernel is not locked down: boot it with lockdown=confidentiality"
    );
    let wanted = |case: &&Case| !locked_down || case.locked_down;
    let cases: Vec<&Case> = scenarios::ALL.iter().filter(chosen).filter(wanted).collect();
    if cases.is_empty() {
        bail!("no case matches; `lab list` shows them");
    }
    let short = flags.has("--short") || flags.has("--causes-only");
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for case in cases {
        let started = Instant::now();
        let expected = case.expects(&release);
        let verdict = match expected {
            _ if !case.applies(&release) => {
                let kernels = case.kernels.join(", ");
                Verdict::Skipped(format!("for kernel {kernels} only: {}", case.elsewhere))
            }
            _ if case.same_everywhere && short => {
                Verdict::Skipped("a short run leaves it out: it shows the same anywhere".to_owned())
            }
            None if flags.has("--causes-only") => {
                Verdict::Skipped("only the cases that show a cause are run here".to_owned())
            }
            Some((_, Expect::Unseen(why))) => Verdict::Skipped(format!("cannot be seen: {why}")),
            _ => run(case, flags.has("--faults-only")),
        };
        let seconds = started.elapsed().as_secs_f32();
        // For programs: `named CAUSE CONFIDENCE`, `unseen CAUSE WHY`, `absent CAUSE WHY`,
        // `failed CAUSE`.
        let mut told = match (&verdict, expected) {
            (Verdict::Failed(_), Some((cause, _))) => format!("failed {cause}"),
            (Verdict::Skipped(_), Some((cause, _))) if !case.applies(&release) => {
                format!("absent {cause} {}", case.elsewhere)
            }
            (Verdict::Skipped(_), Some((cause, Expect::Unseen(why)))) => {
                format!("unseen {cause} {why}")
            }
            _ => String::new(),
        };
        let word = match verdict {
            Verdict::Ok(said) => {
                passed += 1;
                told = said;
                format!("ok ({seconds:.1} s)")
            }
            Verdict::Skipped(why) => {
                skipped += 1;
                format!("skipped: {why}")
            }
            Verdict::Failed(why) => {
                failed += 1;
                format!("FAILED: {} ({seconds:.1} s)", why.trim_end().replace('\n', "\n    "))
            }
        };
        say(&format!("case {} ... {word}", case.name))?;
        if !told.trim().is_empty() {
            say(told.trim_end())?;
        }
    }
    say(&format!("{passed} passed, {failed} failed, {skipped} skipped"))?;
    Ok(failed == 0)
}

/// Runs one case and cleans up; a node that cannot be cleaned is a failure too.
fn run(case: &Case, faults_only: bool) -> Verdict {
    let verdict = run_in_process(case, faults_only)
        .unwrap_or_else(|e| Verdict::Failed(format!("the case could not be run: {e:#}")));
    match (cleanup::node(), verdict) {
        (Ok(()), verdict) => verdict,
        (Err(e), Verdict::Failed(why)) => Verdict::Failed(format!("{why}\nclean-up: {e:#}")),
        (Err(e), _) => Verdict::Failed(format!("cannot clean up: {e:#}")),
    }
}

fn run_in_process(case: &Case, faults_only: bool) -> Result<Verdict> {
    let lab = std::env::current_exe().context("cannot tell where the lab's binary is")?;
    let mut command = Command::new(lab);
    command.args(["case", case.name]).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    if faults_only {
        command.arg("--faults-only");
    }
    let mut child = command.spawn().context("cannot start its process")?;
    let group = i32::try_from(child.id()).context("odd process id")?;
    let mut stdout = child.stdout.take().context("no standard output")?;
    let reader = thread::spawn(move || {
        let mut text = String::new();
        // A case killed at its limit may leave half a line; what there is, is shown.
        let _ = stdout.read_to_string(&mut text);
        text
    });
    let end = Instant::now() + case.limit;
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for its process")? {
            break Some(status);
        }
        if Instant::now() > end {
            break None;
        }
        thread::sleep(std::time::Duration::from_millis(20));
    };
    // Whatever it started, ends with it: helpers, dnsmasq, stallprobe.
    // SAFETY: signals our own child's process group.
    unsafe { libc::kill(-group, libc::SIGKILL) };
    let _ = child.wait();
    let text = reader.join().unwrap_or_default();
    Ok(match status.map(|s| s.code()) {
        Some(Some(0)) => Verdict::Ok(text),
        Some(Some(EXIT_SKIPPED)) => Verdict::Skipped(text.trim_end().to_owned()),
        Some(Some(_)) => Verdict::Failed(text),
        Some(None) => Verdict::Failed(format!("its process was killed\n{text}")),
        None => Verdict::Failed(format!("not done after {} s\n{text}", case.limit.as_secs())),
    })
}

/// The lab deletes every network namespace, rule and connection: only a machine that runs from
/// memory and is thrown away may be treated so.
pub fn throw_away_only() -> Result<()> {
    // SAFETY: all zeros is a valid statfs, and the path is NUL-terminated.
    let (result, magic) = unsafe {
        let mut fs: libc::statfs = std::mem::zeroed();
        (libc::statfs(c"/".as_ptr(), &raw mut fs), fs.f_type)
    };
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    if result != 0 || !(magic == RAMFS_MAGIC || magic == libc::TMPFS_MAGIC) {
        bail!(
            "the lab deletes every pod, rule and connection of the machine it runs on: \
             start it in a virtual machine with `cargo xtask vm -- lab …`"
        );
    }
    Ok(())
}
