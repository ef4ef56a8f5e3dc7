//! The rungs of stallprobe's ladder, and the runs of the lab that leave out those above one.

use crate::{kernels::Series, lab::Job};

/// The kernel on which each rung is run, and on which `cargo xtask test` runs everything.
pub const MAIN: &str = "6.12";

/// The argument of `lab test` that saves time.
const SHORT: &str = "--short";

/// A way of attaching hooks, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Nothing is left out.
    Fentry,
    Kprobe,
    Tracepoint,
    Snapshot,
}

impl Rung {
    pub const ALL: [Self; 4] = [Self::Fentry, Self::Kprobe, Self::Tracepoint, Self::Snapshot];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
            Self::Snapshot => "snapshot",
        }
    }
}

/// A run of the lab on each rung below the topmost. The lowest is a boot on which the kernel itself
/// refuses programs. A short one makes one fault of each kind that cannot be named.
pub fn jobs(series: &'static Series, short: bool) -> [Job; 3] {
    let job = |rung, name: &str, arguments: &[&str], append, part| Job {
        name: format!("{} {name}", series.name),
        series,
        rung,
        arguments: arguments
            .iter()
            .filter(|&&argument| short || argument != SHORT)
            .map(|&argument| argument.to_owned())
            .collect(),
        append,
        runtimes: false,
        recordings: false,
        environment: Vec::new(),
        part,
    };
    [
        // A kprobe is to tell what fentry tells: its look-alikes would be the same again.
        job(
            Rung::Kprobe,
            "kprobe",
            &["--rungs", "kprobe", "--causes-only"],
            "",
            "causes only, without fentry",
        ),
        job(
            Rung::Tracepoint,
            "tracepoint",
            &["--rungs", "tracepoint", SHORT],
            "",
            "what is told without hooks on functions",
        ),
        job(
            Rung::Snapshot,
            "locked",
            &["--lockdown", SHORT],
            "lockdown=confidentiality",
            "what is told on a locked kernel",
        ),
    ]
}
