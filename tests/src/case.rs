//! What a case is, which there are, and what its process does.

use std::{fs, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use crate::{lab::Lab, probe::Heed, rung::Rung, scenarios};

/// One scenario: a fault made for real and what stallprobe must say of it.
pub struct Case {
    pub name: &'static str,
    /// Kernel series it applies to, such as `6.1`; empty for all.
    pub kernels: &'static [&'static str],
    /// Why it cannot be made on the others.
    pub elsewhere: &'static str,
    /// The cause that it is there to show, with how sure stallprobe must be of it.
    pub names: Option<Names>,
    /// Rungs without hooks on functions on which it runs although it shows no cause.
    pub also_at: &'static [Rung],
    /// Rungs on which its fault is named by another cause (see [`Self::taken_for`]).
    pub taken_for: &'static [(Rung, &'static str)],
    /// It shows the same on every kernel, so that a short run leaves it out.
    pub same_everywhere: bool,
    /// It needs Debian's container runtimes, which one virtual machine has; the others run without it.
    pub runtimes: bool,
    /// A case still running then has failed.
    pub limit: Duration,
    pub run: fn(&Lab) -> Result<()>,
}

impl Case {
    pub const fn new(name: &'static str, run: fn(&Lab) -> Result<()>) -> Self {
        Self {
            name,
            kernels: &[],
            elsewhere: "",
            names: None,
            also_at: &[],
            taken_for: &[],
            same_everywhere: false,
            runtimes: false,
            limit: Duration::from_secs(240),
            run,
        }
    }

    pub const fn kernels(mut self, kernels: &'static [&'static str]) -> Self {
        self.kernels = kernels;
        self
    }

    /// Why it cannot be made on other kernels than [`Self::kernels`].
    pub const fn elsewhere(mut self, why: &'static str) -> Self {
        self.elsewhere = why;
        self
    }

    /// Shows this cause, which must be named with this confidence, no more and no less.
    pub const fn names(mut self, cause: &'static str, expect: Expect) -> Self {
        self.names = Some(Names { cause, expect, but: &[], low: &[] });
        self
    }

    /// Kernel series on which something else is expected than [`Self::names`] says.
    pub const fn but(mut self, but: &'static [(&'static str, Expect)]) -> Self {
        if let Some(names) = &mut self.names {
            names.but = but;
        }
        self
    }

    /// What is expected on the rungs without hooks on functions, where it is not said that the
    /// cause cannot be named.
    pub const fn low(mut self, low: &'static [(Rung, Expect)]) -> Self {
        if let Some(names) = &mut self.names {
            names.low = low;
        }
        self
    }

    /// For look-alikes of what is named without hooks on functions: they run on these rungs too.
    pub const fn also_at(mut self, rungs: &'static [Rung]) -> Self {
        self.also_at = rungs;
        self
    }

    /// On these rungs little tells its fault from another cause's: that is what must be named, or its
    /// own, and neither as certain.
    pub const fn taken_for(mut self, causes: &'static [(Rung, &'static str)]) -> Self {
        self.taken_for = causes;
        self
    }

    /// For cases of resolvers, loads and manners, and for one more form of what another case shows:
    /// `lab test --short` and `--causes-only` leave them out.
    pub const fn same_everywhere(mut self) -> Self {
        self.same_everywhere = true;
        self
    }

    /// For pods that containerd or podman makes.
    pub const fn runtimes(mut self) -> Self {
        self.runtimes = true;
        self
    }

    pub const fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Whether it applies to a kernel release such as `6.1.0-40-cloud-amd64`.
    pub fn applies(&self, release: &str) -> bool {
        self.kernels.is_empty() || is_of(self.kernels, release)
    }

    /// What it shows on a kernel release when stallprobe begins at a rung. A kprobe tells what
    /// fentry tells; lower rungs have no hooks on functions.
    pub fn expects(&self, release: &str, rung: Rung) -> Option<(&'static str, Expect)> {
        let names = self.names?;
        let other = names.but.iter().find(|(series, _)| is_of(&[series], release));
        let by_functions = other.map_or(names.expect, |(_, expect)| *expect);
        let expect = match by_functions {
            Expect::Unseen(_) => by_functions,
            _ if rung.is_low() => {
                let low = names.low.iter().find(|(at, _)| *at == rung);
                low.map_or(Expect::Unseen(NO_HOOKS), |(_, expect)| *expect)
            }
            _ => by_functions,
        };
        Some((names.cause, expect))
    }

    /// What it may ask of a stallprobe on this rung.
    fn heed(&self, release: &str, rung: Rung) -> Heed {
        match self.expects(release, rung) {
            _ if !rung.is_low() => Heed::All,
            Some((_, Expect::Unseen(_))) => Heed::Blind,
            _ => Heed::Less,
        }
    }
}

/// The cause that a case shows.
#[derive(Clone, Copy)]
pub struct Names {
    pub cause: &'static str,
    expect: Expect,
    but: &'static [(&'static str, Expect)],
    low: &'static [(Rung, Expect)],
}

/// Why most causes are not named on a low rung.
const NO_HOOKS: &str = "it needs hooks that this rung does not have";

/// What must become of a cause's fault on a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Certain,
    Likely,
    /// It cannot be seen there, and why.
    Unseen(&'static str),
}

impl Expect {
    /// The confidence as findings have it.
    pub const fn confidence(self) -> &'static str {
        match self {
            Self::Certain => "certain",
            Self::Likely => "likely",
            Self::Unseen(_) => "unseen",
        }
    }
}

/// Whether a kernel release is of one of these series.
pub fn is_of(series: &[&str], release: &str) -> bool {
    let of = |s: &&str| {
        release.strip_prefix(s).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    series.iter().any(of)
}

/// A reason not to run a case here; given as the error of its function.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// How a case's process tells its runner what became of it.
pub const EXIT_FAILED: i32 = 1;
pub const EXIT_SKIPPED: i32 = 77;

/// The running kernel's release.
pub fn kernel_release() -> Result<String> {
    let path = "/proc/sys/kernel/osrelease";
    Ok(fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?.trim().to_owned())
}

/// The sub-command `lab case NAME`: runs one case in this process and gives the exit status. The
/// runner cleans up after it.
pub fn main(name: &str, faults_only: bool, rung: Rung) -> Result<i32> {
    let Some(case) = scenarios::ALL.iter().find(|case| case.name == name) else {
        bail!("no case {name:?}; `lab list` shows them");
    };
    let release = kernel_release()?;
    let heed = if faults_only { Heed::Absent } else { case.heed(&release, rung) };
    let taken_for = case.taken_for.iter().find(|(at, _)| *at == rung).map(|(_, cause)| *cause);
    let lab = Lab::new(heed, rung, taken_for)?;
    let checks = || -> Result<()> {
        lab.on_its_rung()?;
        match taken_for {
            Some(cause) => mistaken(&lab, cause, case.names.map(|names| names.cause)),
            None => named(&lab, case.expects(&release, rung)),
        }
    };
    let Err(error) = (case.run)(&lab).and_then(|()| checks()) else { return Ok(0) };
    if let Some(Skip(why)) = error.downcast_ref() {
        crate::cli::say(why)?;
        return Ok(EXIT_SKIPPED);
    }
    crate::cli::say(&format!("{error:#}\n{}", lab.report()))?;
    Ok(EXIT_FAILED)
}

/// Checks that the cause which the fault is taken for was named, or its own where it happens to show,
/// nothing else, and nothing for certain.
fn mistaken(lab: &Lab, cause: &str, own: Option<&str>) -> Result<()> {
    let Some(probe) = lab.started() else { return Ok(()) };
    probe.only(own.as_slice())?;
    let mut told = false;
    for (is, cause) in [("named", own), ("taken for", Some(cause))] {
        let Some((cause, best)) = cause.and_then(|c| Some((c, lab.best_confidence(c)?))) else {
            continue;
        };
        ensure!(best != Expect::Certain.confidence(), "{cause} was named as {best}");
        crate::cli::say(&format!("{is} {cause} {best}"))?;
        told = true;
    }
    ensure!(told, "{cause} was not named, for which it is taken here");
    Ok(())
}

/// Checks with which confidence the case's cause was named, and says it: `named CAUSE CONFIDENCE`.
/// Where it cannot be seen it must not be named: `unseen CAUSE WHY`.
fn named(lab: &Lab, expected: Option<(&str, Expect)>) -> Result<()> {
    let (Some((cause, expect)), Some(probe)) = (expected, lab.started()) else { return Ok(()) };
    if let Expect::Unseen(why) = expect {
        probe.only(&[])?;
        return crate::cli::say(&format!("unseen {cause} {why}"));
    }
    let best = lab.best_confidence(cause).with_context(|| format!("{cause} was not named"))?;
    ensure!(
        best == expect.confidence(),
        "{cause} was named as {best}, the case table expects {}",
        expect.confidence()
    );
    crate::cli::say(&format!("named {cause} {best}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_depends_on_the_kernel() {
        let case = Case::new("x", |_| Ok(()))
            .names("no-listener", Expect::Certain)
            .but(&[("5.10", Expect::Likely)]);
        let expects = |release| case.expects(release, Rung::Kprobe).map(|(_, expect)| expect);
        assert_eq!(expects("5.10.0-43-cloud-amd64"), Some(Expect::Likely));
        assert_eq!(expects("6.1.0-56-cloud-amd64"), Some(Expect::Certain));
        assert_eq!(Case::new("x", |_| Ok(())).expects("6.1.0", Rung::Kprobe), None);
    }

    #[test]
    fn what_is_expected_depends_on_the_rung() {
        let case = Case::new("x", |_| Ok(()))
            .names("no-listener", Expect::Certain)
            .but(&[("5.10", Expect::Unseen("too old"))])
            .low(&[(Rung::Tracepoint, Expect::Likely)]);
        let expects = |release, rung| case.expects(release, rung).map(|(_, expect)| expect);
        assert_eq!(expects("6.12.1", Rung::Kprobe), Some(Expect::Certain));
        assert_eq!(expects("6.12.1", Rung::Tracepoint), Some(Expect::Likely));
        assert_eq!(expects("6.12.1", Rung::Snapshot), Some(Expect::Unseen(NO_HOOKS)));
        assert_eq!(expects("5.10.1", Rung::Tracepoint), Some(Expect::Unseen("too old")));
        assert_eq!(case.heed("6.12.1", Rung::Kprobe), Heed::All);
        assert_eq!(case.heed("6.12.1", Rung::Tracepoint), Heed::Less);
        assert_eq!(case.heed("6.12.1", Rung::Snapshot), Heed::Blind);
    }

    #[test]
    fn a_series_is_no_prefix_of_another() {
        let case = Case::new("x", |_| Ok(())).kernels(&["6.1"]);
        assert!(case.applies("6.1.0-40-cloud-amd64"));
        assert!(!case.applies("6.12.57+deb13-cloud-amd64"));
    }
}
