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
    rung::{self, Rung},
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

/// What a run of the lab takes of the cases.
struct Choice {
    release: String,
    rung: Rung,
    /// Only the cases that show a cause.
    causes_only: bool,
    /// Each thing once, where it would show the same again.
    short: bool,
    /// Faults that were made where they cannot be named.
    blind: Vec<Blind>,
}

/// A cause that cannot be named and why, with what its fault is: `ipvs_gone` and `ipvs_gone_v6` are
/// the same.
#[derive(PartialEq, Eq)]
struct Blind {
    cause: &'static str,
    why: &'static str,
    mechanism: &'static str,
}

impl Blind {
    /// What a case shows there, if it cannot be named.
    fn of(case: &Case, expected: Option<(&'static str, Expect)>) -> Option<Self> {
        let (cause, Expect::Unseen(why)) = expected? else { return None };
        // The name up to its second `_`.
        let end = case.name.match_indices('_').nth(1).map_or(case.name.len(), |(at, _)| at);
        Some(Self { cause, why, mechanism: case.name.get(..end).unwrap_or(case.name) })
    }
}

/// A case that is not run.
#[derive(Debug, PartialEq, Eq)]
struct LeftOut {
    why: String,
    /// What programs are told: nothing, where another case tells it.
    told: String,
}

impl LeftOut {
    fn because(why: &str) -> Option<Self> {
        Some(Self { why: why.to_owned(), told: String::new() })
    }
}

impl Choice {
    fn new(flags: &Flags) -> Result<Self> {
        let locked_down = flags.has("--lockdown");
        ensure!(
            !locked_down || rung::locked_down(),
            "this kernel is not locked down: boot it with lockdown=confidentiality"
        );
        let rung = match flags.optional("--rungs") {
            _ if locked_down => Rung::Snapshot,
            Some(name) => Rung::parse(name)?,
            None => Rung::Fentry,
        };
        let (causes_only, short) = (flags.has("--causes-only"), flags.has("--short"));
        Ok(Self { release: kernel_release()?, rung, causes_only, short, blind: Vec::new() })
    }

    /// Whether and why a case is not run.
    fn leaves_out(&self, case: &Case) -> Option<LeftOut> {
        let expected = case.expects(&self.release, self.rung);
        let with_all_hooks = case.expects(&self.release, Rung::Fentry);
        match expected {
            _ if !case.applies(&self.release) => {
                let kernels = case.kernels.join(", ");
                let told = expected.map(|(cause, _)| format!("absent {cause} {}", case.elsewhere));
                Some(LeftOut {
                    why: format!("for kernel {kernels} only: {}", case.elsewhere),
                    told: told.unwrap_or_default(),
                })
            }
            _ if case.same_everywhere && (self.short || self.causes_only) => {
                LeftOut::because("a short run leaves it out: it shows the same anywhere")
            }
            None if self.causes_only => {
                LeftOut::because("only the cases that show a cause are run here")
            }
            Some((cause, Expect::Unseen(why))) if expected == with_all_hooks => Some(LeftOut {
                why: format!("cannot be seen: {why}"),
                told: format!("unseen {cause} {why}"),
            }),
            _ if self.short && self.has_been_blind_to(case) => {
                LeftOut::because("a short run leaves it out: its like has been left unnamed")
            }
            _ => None,
        }
    }

    fn has_been_blind_to(&self, case: &Case) -> bool {
        let fault = Blind::of(case, case.expects(&self.release, self.rung));
        fault.is_some_and(|fault| self.blind.contains(&fault))
    }
}

/// `lab test [--causes-only] [--short] [--faults-only] [--rungs RUNG] [--lockdown] [--runtimes]
/// [NAME...]`: true when no case failed.
pub fn test(flags: &Flags) -> Result<bool> {
    throw_away_only()?;
    let filters = flags.words(&["--rungs"]);
    let mut choice = Choice::new(flags)?;
    let (release, rung) = (choice.release.clone(), choice.rung);
    let chosen = |case: &&Case| filters.is_empty() || filters.iter().any(|f| case.name.contains(f));
    let wanted =
        |case: &&Case| !rung.is_low() || case.names.is_some() || case.also_at.contains(&rung);
    let with_runtimes = flags.has("--runtimes");
    let cases: Vec<&Case> = scenarios::ALL
        .iter()
        .filter(|case| case.runtimes == with_runtimes)
        .filter(chosen)
        .filter(wanted)
        .collect();
    if let Some(word) =
        filters.iter().find(|f| !scenarios::ALL.iter().any(|c| c.name.contains(**f)))
    {
        bail!("no case is called *{word}*; `lab list` shows them");
    }
    if cases.is_empty() {
        bail!(
            "no case matches here; those of container runtimes run by `cargo xtask vm --runtimes -- \
             lab test --runtimes NAME`"
        );
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (index, case) in cases.iter().enumerate() {
        // Where runtimes are, nothing else comes after the last case, and many pods take long to end.
        let is_over = case.runtimes && index + 1 == cases.len();
        let started = Instant::now();
        let expected = case.expects(&release, rung);
        let left_out = choice.leaves_out(case);
        let verdict = match &left_out {
            Some(left_out) => Verdict::Skipped(left_out.why.clone()),
            None if is_over => run_case(case, flags.has("--faults-only"), rung),
            None => run(case, flags.has("--faults-only"), rung),
        };
        if matches!(verdict, Verdict::Ok(_)) {
            choice.blind.extend(Blind::of(case, expected));
        }
        let seconds = started.elapsed().as_secs_f32();
        // For programs: `named CAUSE CONFIDENCE`, `unseen CAUSE WHY`, `absent CAUSE WHY`,
        // `failed CAUSE`.
        let mut told = match (&verdict, expected) {
            (Verdict::Failed(_), Some((cause, _))) => format!("failed {cause}"),
            _ => left_out.map_or(String::new(), |left_out| left_out.told),
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
fn run(case: &Case, faults_only: bool, rung: Rung) -> Verdict {
    let verdict = run_case(case, faults_only, rung);
    let clean = if case.runtimes { cleanup::runtimes } else { cleanup::node };
    match (clean(), verdict) {
        (Ok(()), verdict) => verdict,
        (Err(e), Verdict::Failed(why)) => Verdict::Failed(format!("{why}\nclean-up: {e:#}")),
        (Err(e), _) => Verdict::Failed(format!("cannot clean up: {e:#}")),
    }
}

fn run_case(case: &Case, faults_only: bool, rung: Rung) -> Verdict {
    run_in_process(case, faults_only, rung)
        .unwrap_or_else(|e| Verdict::Failed(format!("the case could not be run: {e:#}")))
}

fn run_in_process(case: &Case, faults_only: bool, rung: Rung) -> Result<Verdict> {
    let lab = std::env::current_exe().context("cannot tell where the lab's binary is")?;
    let mut command = Command::new(lab);
    command.args(["case", case.name, "--rungs", rung.name()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn choice(flags: &str) -> Choice {
        let flags = Flags::new(flags.split(' ').map(str::to_owned));
        Choice { release: "6.12.1".to_owned(), ..Choice::new(&flags).unwrap() }
    }

    #[test]
    fn a_run_takes_what_was_asked_for() {
        let plain = Case::new("x", |_| Ok(()));
        let cause = Case::new("x", |_| Ok(())).names("no-listener", Expect::Certain);
        let unseen = Case::new("x", |_| Ok(())).names("no-listener", Expect::Unseen("no hook"));
        let old = Case::new("x", |_| Ok(())).kernels(&["5.10"]).elsewhere("too new");
        let left_out = |flags, case: &Case| choice(flags).leaves_out(case).is_some();
        assert!(!left_out("", &plain) && !left_out("", &cause));
        assert!(left_out("", &unseen) && left_out("", &old));
        assert!(left_out("--causes-only", &plain) && !left_out("--causes-only", &cause));
        assert!(left_out("--short", &plain.same_everywhere()));
        assert!(left_out("--rungs snapshot", &unseen));
    }

    #[test]
    fn only_a_fault_that_was_made_is_told() {
        let told = |flags, case: &Case| choice(flags).leaves_out(case).map(|left| left.told);
        let absent = Case::new("x", |_| Ok(())).kernels(&["5.10"]).elsewhere("too new");
        assert_eq!(told("", &absent).as_deref(), Some(""));
        let absent = absent.names("no-listener", Expect::Certain);
        assert_eq!(told("", &absent).as_deref(), Some("absent no-listener too new"));
        let never = Case::new("x", |_| Ok(())).names("no-listener", Expect::Unseen("no hook"));
        assert_eq!(told("", &never).as_deref(), Some("unseen no-listener no hook"));
        let case = Case::new("x", |_| Ok(())).names("no-listener", Expect::Certain);
        let mut low = choice("--rungs snapshot --short");
        low.blind.extend(Blind::of(&case, case.expects("6.12.1", Rung::Snapshot)));
        assert_eq!(low.leaves_out(&case).unwrap().told, "");
    }

    #[test]
    fn a_short_run_leaves_each_fault_unnamed_once() {
        let case = |name| Case::new(name, |_| Ok(())).names("no-listener", Expect::Certain);
        let mut low = choice("--rungs snapshot --short");
        let first = case("ipvs_gone");
        assert_eq!(low.leaves_out(&first), None);
        low.blind.extend(Blind::of(&first, first.expects("6.12.1", Rung::Snapshot)));
        assert!(low.leaves_out(&case("ipvs_gone_v6")).is_some());
        // Another fault, another reason.
        assert_eq!(low.leaves_out(&case("ipvs_drained")), None);
        let other = case("ipvs_gone").low(&[(Rung::Snapshot, Expect::Unseen("something else"))]);
        assert_eq!(low.leaves_out(&other), None);
        let named = case("ipvs_gone").low(&[(Rung::Snapshot, Expect::Likely)]);
        assert_eq!(low.leaves_out(&named), None);
        low.short = false;
        assert_eq!(low.leaves_out(&first), None);
    }
}
