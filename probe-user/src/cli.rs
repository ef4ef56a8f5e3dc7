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
    /// Watch, and write what is seen to a file: for Wireshark, and to be explained anywhere.
    Record(Record),
    /// Explain what was recorded: says what the live run said, without root, on any machine.
    Replay(Replay),
    /// What recordings say, in one piece: Markdown for a ticket, or a page for a browser.
    Report(Report),
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
    #[command(flatten)]
    pub filter: FindingFilter,
    /// Print the raw events as well.
    #[arg(long)]
    pub events: bool,
    #[command(flatten)]
    pub source: Source,
    /// Write all that is seen to this file too; - is standard output, and findings are then not printed.
    #[arg(long, value_name = "FILE", help_heading = RECORDING)]
    pub record: Option<PathBuf>,
    #[command(flatten)]
    pub recording: Recording,
}

/// What `record` takes.
#[derive(Clone, Debug, Args)]
pub struct Record {
    /// Where to; - is standard output, and findings are then not printed.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    #[command(flatten)]
    pub filter: PodFilter,
    #[command(flatten)]
    pub source: Source,
    #[command(flatten)]
    pub recording: Recording,
}

/// What `replay` takes.
#[derive(Clone, Debug, Args)]
pub struct Replay {
    /// Recordings; - is standard input. Those of several nodes become one stream, the parts of one
    /// recording follow each other.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Findings for a person, or JSON Lines for a program.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// Go on while the file is being written.
    #[arg(short, long)]
    pub follow: bool,
    #[command(flatten)]
    pub filter: FindingFilter,
    /// Print the raw events as well.
    #[arg(long)]
    pub events: bool,
    /// Write a recording of the replay: with --redact one that may be given away.
    #[arg(long, value_name = "FILE", help_heading = RECORDING)]
    pub record: Option<PathBuf>,
    #[command(flatten)]
    pub recording: Recording,
}

/// What `report` takes.
#[derive(Clone, Debug, Args)]
pub struct Report {
    /// Recordings; - is standard input. Each node gets a section, and all share one timeline; the parts of
    /// one recording follow each other.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Markdown, for a ticket; the default, unless --output ends in .html.
    #[arg(long, conflicts_with = "html")]
    pub md: bool,
    /// One page that needs nothing else, with a timeline.
    #[arg(long)]
    pub html: bool,
    /// Write it to this file, which only its owner may read; without it, to standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub filter: FindingFilter,
}

/// How the node is watched.
#[derive(Clone, Debug, Args)]
pub struct Source {
    /// Stop after this time, for example 30s or 10m; without it, run until Ctrl-C.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// A lookup or handshake that takes this long is a stall. A health probe that was given up a
    /// moment before is one too.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub min_stall: Duration,
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
}

/// Where the help lists how a recording is written.
const RECORDING: &str = "Recording";

/// How a recording is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Recording {
    /// End the recording at about this size, for example 100MB; with --rotate, begin the next part.
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = RECORDING)]
    pub max_size: Option<u64>,
    /// Write parts, FILE.00001.pcapng and so on, and keep this many of them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), requires = "max_size", help_heading = RECORDING)]
    pub rotate: Option<u32>,
    /// Keep this many bytes of each packet, from its IP header on.
    #[arg(long, value_name = "BYTES", help_heading = RECORDING)]
    pub snaplen: Option<u32>,
    /// Compress it (zstd); Wireshark opens it as it is.
    #[arg(long, help_heading = RECORDING)]
    pub compress: bool,
    /// Replace the names of pods, processes and hosts, addresses (those in the kernel's memory too) and DNS
    /// names; the same name or address always by the same. Times, ports, process ids and counters stay.
    #[arg(long, help_heading = RECORDING)]
    pub redact: bool,
    /// Redact with the key in this file, which is made if it is not there: in all recordings that are
    /// redacted with it, of several nodes too, a name is replaced by the same. Keep it from whoever gets
    /// them.
    #[arg(long, value_name = "FILE", help_heading = RECORDING)]
    pub redact_key: Option<PathBuf>,
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
    /// This network namespace: its inode number, a process in it, its path or its name. Of a recording: its
    /// inode number, or its name where it has no pod's.
    #[arg(long, value_name = "NETNS", help_heading = FILTERS)]
    pub netns: Vec<String>,
}

/// Which findings are shown.
#[derive(Clone, Debug, Default, Args)]
pub struct FindingFilter {
    #[command(flatten)]
    pub pods: PodFilter,
    /// Findings of this cause.
    #[arg(long = "cause", value_name = "ID", value_parser = cause, help_heading = FILTERS)]
    pub causes: Vec<Cause>,
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

/// The least a recording may be limited to: what is known at its start takes some of it.
const LEAST_SIZE: u64 = 100_000;

/// `100MB`, `1GiB`, `500k` (1024 bytes), or plain bytes.
fn size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let bytes: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err(format!("'{unit}' is no unit of size; use kB, MB, GB, KiB, MiB or GiB")),
    };
    let number: u64 = number.parse().map_err(|_| format!("'{text}' is no size; try 100MB"))?;
    let size = number.checked_mul(bytes).ok_or_else(|| format!("'{text}' is too much"))?;
    if size < LEAST_SIZE {
        return Err(format!("'{text}' is too little: 100kB is the least"));
    }
    Ok(size)
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
        assert_eq!(cli.watch.source.min_stall, Duration::from_millis(300));
        assert_eq!(
            cli.watch.source.rungs,
            [Rung::Fentry, Rung::Kprobe, Rung::Tracepoint, Rung::Snapshot]
        );
    }

    #[test]
    fn rungs() {
        let cli = Cli::try_parse_from(["stallprobe", "--rungs", "kprobe,tracepoint"]).unwrap();
        assert_eq!(cli.watch.source.rungs, [Rung::Kprobe, Rung::Tracepoint]);
        let cli = Cli::try_parse_from(["stallprobe", "--rungs", "snapshot"]).unwrap();
        assert_eq!(cli.watch.source.rungs, [Rung::Snapshot]);
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
    #[test]
    fn sizes() {
        assert_eq!(size("100MB").unwrap(), 100_000_000);
        assert_eq!(size("1GiB").unwrap(), 1 << 30);
        assert_eq!(size("500k").unwrap(), 512_000);
        assert_eq!(size("100000").unwrap(), 100_000);
        for bad in
            ["", "MB", "99999", "1.5MB", "-1", "1TB", "99999999999999999999", "99999999999GB"]
        {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn recordings() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        let line = "stallprobe record -o a.pcapng --max-size 1MB --rotate 3 --compress";
        let record = match parse(line).unwrap().command {
            Some(Command::Record(record)) => Some(record),
            _ => None,
        };
        let record = record.unwrap();
        assert_eq!(record.output, PathBuf::from("a.pcapng"));
        assert_eq!(record.recording.rotate, Some(3));
        assert!(parse("stallprobe record").is_err());
        assert!(parse("stallprobe record -o a --rotate 3").is_err());
        assert!(parse("stallprobe record -o a --max-size 1MB --rotate 0").is_err());
        assert!(parse("stallprobe replay").is_err());
        assert!(parse("stallprobe replay a b -f -o json --record c --redact").is_ok());
        assert!(parse("stallprobe replay a --record c --redact-key k").is_ok());
        let cli = parse("stallprobe --record a.pcapng").unwrap();
        assert_eq!(cli.watch.record, Some(PathBuf::from("a.pcapng")));
    }
}
