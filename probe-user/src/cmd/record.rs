//! `stallprobe record`: watches as `watch` does, for the sake of the file.

use anyhow::Result;

use super::{
    filter, recording,
    watch::{Plan, follow},
};
use crate::{
    cli::{Format, Record},
    pods,
};

/// Records until the duration is over, SIGINT or SIGTERM comes, or the file has its size or cannot be
/// written.
///
/// # Errors
/// [`crate::live::NoRung`] when nothing can be watched; else what failed.
pub fn run(args: &Record) -> Result<()> {
    let root = pods::root(args.source.host_root.as_deref());
    let target = Some(args.output.as_path());
    follow(Plan {
        source: &args.source,
        filter: filter::of_pods(&args.filter, &root)?,
        format: Format::Text,
        events: false,
        recorder: recording::begin(target, &args.recording)?,
        snaplen: recording::snaplen(target, &args.recording),
        only_records: true,
        screen: recording::screen(target),
    })
}
