//! What a case is, which there are, and what its process does.

use std::{fs, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{lab::Lab, scenarios};

/// One scenario: a fault made for real and what stallprobe must say of it.
pub struct Case {
    pub name: &'static str,
    /// Kernel series it applies to, such as `6.1`; empty for all.
    pub kernels: &'static [&'static str],
    /// A case still running then has failed.
    pub limit: Duration,
    pub run: fn(&Lab) -> Result<()>,
}

impl Case {
    pub const fn new(name: &'static str, run: fn(&Lab) -> Result<()>) -> Self {
        Self { name, kernels: &[], limit: Duration::from_secs(120), run }
    }

    pub const fn kernels(mut self, kernels: &'static [&'static str]) -> Self {
        self.kernels = kernels;
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
pub fn main(name: &str, faults_only: bool) -> Result<i32> {
    let Some(case) = scenarios::ALL.iter().find(|case| case.name == name) else {
        bail!("no case {name:?}; `lab list` shows them");
    };
    let lab = Lab::new(faults_only)?;
    let Err(error) = (case.run)(&lab) else { return Ok(0) };
    if let Some(Skip(why)) = error.downcast_ref() {
        crate::cli::say(why)?;
        return Ok(EXIT_SKIPPED);
    }
    crate::cli::say(&format!("{error:#}\n{}", lab.report()))?;
    Ok(EXIT_FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_no_prefix_of_another() {
        let case = Case::new("x", |_| Ok(())).kernels(&["6.1"]);
        assert!(case.applies("6.1.0-40-cloud-amd64"));
        assert!(!case.applies("6.12.57+deb13-cloud-amd64"));
    }
}
