//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::{event, finding::Cause};

/// Says why connections and DNS lookups stall on this node: which pod, which kernel mechanism, the
/// evidence, and what fixes it.
///
/// Run it as root on a Kubernetes node, or in a privileged debug pod, while things go wrong.
#[derive(Debug, Parser)]
#[command(name = "stallprobe", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub watch: Watch,
    /// Tell what the loader decides (-v), and all it does (-vv), on stderr.
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch and explain, live; the default.
    Watch(Watch),
    /// Explain a cause: what happened, how it is known, how to confirm and how to fix it.
    Explain(Explain),
    /// List the pods of this node: addresses, devices, processes, listeners and their queues.
    Pods(Pods),
    /// Copy a file to standard output: to get a recording out of an image without shell and tar.
    Cat(Cat),
}

/// What `cat` takes.
#[derive(Clone, Debug, Args)]
pub struct Cat {
    /// A regular file.
    pub file: PathBuf,
}

/// What `explain` takes.
#[derive(Clone, Debug, Args)]
pub struct Explain {
    /// A cause as findings name it; without it, all causes are listed.
    pub id: Option<String>,
}

/// What `watch` takes.
#[derive(Clone, Debug, Args)]
pub struct Watch {
    /// Findings for a person, or JSON Lines for a program.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// Stop after this time, for example 30s or 10m; without it, run until Ctrl-C.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// A lookup or handshake that takes this long is a stall. A health probe that was given up a
    /// moment before is one too.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub min_stall: Duration,
    #[command(flatten)]
    pub filter: PodFilter,
    /// Findings of this cause.
    #[arg(long = "cause", value_name = "ID", value_parser = cause, help_heading = FILTERS)]
    pub causes: Vec<Cause>,
    /// Print the raw events as well.
    #[arg(long)]
    pub events: bool,
    /// Attach by these ways only, the best that works: to see what a kernel without the others
    /// shows. `snapshot` alone loads nothing into the kernel; it stands in for what the others leave
    /// out.
    #[arg(
        long,
        value_enum,
        value_name = "RUNG,...",
        value_delimiter = ',',
        default_value = "fentry,kprobe,tracepoint,snapshot"
    )]
    pub rungs: Vec<Rung>,
    /// Where the node's file system is; by default /host if it is there, as in a debug pod, else /.
    #[arg(long, value_name = "DIR")]
    pub host_root: Option<PathBuf>,
    /// Create this file once everything is attached.
    #[arg(long, value_name = "FILE", hide = true)]
    pub ready_file: Option<PathBuf>,
    /// Ask for the packets that events tell of, as many bytes of each at most.
    #[arg(long, value_name = "BYTES", default_value = "0", hide = true)]
    pub snaplen: u32,
}

/// Where the help lists what hides findings.
const FILTERS: &str = "Show only";

/// Which pods are shown, or findings whose victim or culprit is such a pod. Each option may be given
/// several times; then any of its values may fit.
#[derive(Clone, Debug, Default, Args)]
pub struct PodFilter {
    /// Pods of this Kubernetes namespace, as victim or culprit.
    #[arg(short, long = "namespace", value_name = "NAMESPACE", help_heading = FILTERS)]
    pub namespaces: Vec<String>,
    /// This pod, or those whose names begin so, as victim or culprit.
    #[arg(short, long = "pod", value_name = "[NAMESPACE/]POD", help_heading = FILTERS)]
    pub pods: Vec<String>,
    /// The container with this name, or whose id begins so (8 digits or more), as victim or culprit. Where
    /// its process is not known, all of a pod's containers count.
    #[arg(long = "container", value_name = "NAME|ID", help_heading = FILTERS)]
    pub containers: Vec<String>,
    /// This network namespace: its inode number, a process in it, its path or its name.
    #[arg(long, value_name = "NETNS", help_heading = FILTERS)]
    pub netns: Vec<String>,
}

/// What `pods` takes.
#[derive(Clone, Debug, Args)]
pub struct Pods {
    /// A table for a person, or JSON Lines for a program.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    #[command(flatten)]
    pub filter: PodFilter,
    /// Where the node's file system is; by default /host if it is there, as in a debug pod, else /.
    #[arg(long, value_name = "DIR")]
    pub host_root: Option<PathBuf>,
}

fn cause(id: &str) -> Result<Cause, String> {
    let known = Cause::ALL.iter().find(|cause| cause.id() == id).copied();
    known.ok_or_else(|| "no cause is called so; `stallprobe explain` lists them".to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// A way of attaching a hook, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rung {
    Fentry,
    Kprobe,
    Tracepoint,
    Snapshot,
}

impl From<Rung> for event::Rung {
    fn from(rung: Rung) -> Self {
        match rung {
            Rung::Fentry => Self::Fentry,
            Rung::Kprobe => Self::Kprobe,
            Rung::Tracepoint => Self::Tracepoint,
            Rung::Snapshot => Self::Snapshot,
        }
    }
}

/// `1s`, `1.5s`, `300ms`, `10m`, `1h`, or plain seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("'{unit}' is no unit of time; use ms, s, m or h")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("'{text}' is no time; try 1s or 300ms"))?;
    Duration::try_from_secs_f64(number * seconds)
        .ok()
        .filter(|time| !time.is_zero())
        .ok_or_else(|| format!("'{text}' is too short or too long"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn watch_is_the_default() {
        let cli =
            Cli::try_parse_from(["stallprobe", "-o", "json", "--min-stall", "300ms"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.watch.output, Format::Json);
        assert_eq!(cli.watch.min_stall, Duration::from_millis(300));
        assert_eq!(cli.watch.rungs, [Rung::Fentry, Rung::Kprobe, Rung::Tracepoint, Rung::Snapshot]);
    }

    #[test]
    fn rungs() {
        let cli = Cli::try_parse_from(["stallprobe", "--rungs", "kprobe,tracepoint"]).unwrap();
        assert_eq!(cli.watch.rungs, [Rung::Kprobe, Rung::Tracepoint]);
        let cli = Cli::try_parse_from(["stallprobe", "--rungs", "snapshot"]).unwrap();
        assert_eq!(cli.watch.rungs, [Rung::Snapshot]);
        for bad in ["", "kprobe,", "uprobe"] {
            assert!(Cli::try_parse_from(["stallprobe", "--rungs", bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(duration("1.5s").unwrap(), Duration::from_millis(1500));
        assert_eq!(duration("2").unwrap(), Duration::from_secs(2));
        assert_eq!(duration("1h").unwrap(), Duration::from_secs(3600));
        for bad in ["", "s", "1x", "0", "-1s", "1.2.3s", "99999999999999999999h", "NaN"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
