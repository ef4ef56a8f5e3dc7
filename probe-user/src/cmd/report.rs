//! `stallprobe report`: what recordings say, for a ticket or as a page.

use std::{
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Error, Result, bail};

use super::{
    filter,
    screen::{Screen, reader_gone},
    streams::{Said, Streams},
};
use crate::{
    cli::Report as Args,
    output::{filter::Filter, sanitize},
    recording::{
        chain::Chain,
        file::{Part, Target},
        open::open,
    },
    report::{self, Collector, Report, Source},
};

/// Writes the report. Of a damaged recording it tells what comes before the damage.
///
/// # Errors
/// When a file cannot be read, is no recording or is damaged, or when the report cannot be written.
pub fn run(args: &Args) -> Result<()> {
    match write(args) {
        Err(err) if reader_gone(&err) => Ok(()),
        result => result,
    }
}

fn write(args: &Args) -> Result<()> {
    let target = args.output.as_deref().map(Target::new);
    if let Some(Target::File(path)) = &target {
        not_over(path, &args.files)?;
    }
    let inputs = args.files.iter().map(|path| Ok((path.clone(), open(path, None)?)));
    let chains = Chain::all(inputs.collect::<Result<_>>()?)?;
    let mut screen = Screen::new();
    for text in Chain::namesakes(&chains) {
        screen.note(&sanitize::text(&text));
    }
    let (report, damage) = played(chains, filtered(args), &mut screen);
    let text = if is_html(args) { report::page(&report) } else { report::markdown(&report) };
    match target {
        Some(target) => {
            let mut part = Part::create(&target, false)?;
            part.write_all(text.as_bytes())?;
            part.finish()?;
        }
        None => {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes())
                .and_then(|()| out.flush())
                .context("cannot write to standard output")?;
        }
    }
    damage.map_or(Ok(()), Err)
}

fn filtered(args: &Args) -> Filter {
    filter::of_recorded_findings(&args.filter)
}

/// The recordings to their ends, or to where they are damaged.
fn played(chains: Vec<Chain>, filter: Filter, screen: &mut Screen) -> (Report, Option<Error>) {
    let mut sources: Vec<Source> = chains.iter().map(source).collect();
    let mut collector = Collector::new(chains.len(), &filter);
    let mut damage = None;
    for (node, said) in Streams::new(chains) {
        let mut note = |text| {
            if let Some(source) = sources.get_mut(node) {
                source.notices.push(text);
            }
        };
        match said {
            Said::Event(event) => collector.take(node, &event),
            Said::End(end) => collector.was_ordered(node, end.late, end.early),
            Said::Notice(text) => {
                screen.note(&sanitize::text(&text));
                note(text);
            }
            Said::Damage(err) => {
                note(format!("{err:#}; what follows is not in this report"));
                damage = damage.or(Some(err));
            }
        }
    }
    (collector.finish(sources), damage)
}

fn source(chain: &Chain) -> Source {
    let paths: Vec<_> = chain.paths().map(|path| path.display().to_string()).collect();
    Source { name: paths.join(", "), notices: Vec::new() }
}

/// A page if that is said, or if the file is called so.
fn is_html(args: &Args) -> bool {
    let name = args.output.as_deref().and_then(Path::extension);
    let is_page = name.is_some_and(|name| name == "html" || name == "htm");
    args.html || (is_page && !args.md)
}

/// A recording cannot be had again.
fn not_over(output: &Path, files: &[PathBuf]) -> Result<()> {
    let id = |path: &Path| path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
    let Some(written) = id(output) else { return Ok(()) };
    if let Some(read) = files.iter().find(|path| id(path) == Some(written)) {
        bail!("{} is the recording itself; name another file with -o", read.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use std::{fs, os::unix::fs::PermissionsExt as _};

    use clap::Parser as _;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        correlate,
        pipeline::Pipeline,
        recording::recorder::{Options, Recorder},
        testing::*,
    };

    /// A recording of one stall that nothing explains.
    fn record(path: &Path, run: &str) {
        let mut stream = Run::new();
        stream.at(1500, unanswered(7, AAAA, 500));
        let mut recorder = Recorder::create(path, Options::default(), run.to_owned()).unwrap();
        let mut pipeline = Pipeline::new(correlate::Options::default());
        stream.until(9000);
        for event in stream.played() {
            pipeline.take(event);
            recorder.take(event, &pipeline).unwrap();
        }
        pipeline.end();
        recorder.end("it was over", &pipeline).unwrap();
    }

    /// What is written for these words; `{}` is the folder.
    fn report(dir: &Path, line: &str) -> (Result<()>, String) {
        let out = dir.join("out.html");
        let line = line.replace("{}", dir.to_str().unwrap());
        let mut words: Vec<&str> = line.split(' ').collect();
        words.extend(["-o", out.to_str().unwrap()]);
        let result = write(&args(&words));
        (result, fs::read_to_string(&out).unwrap_or_default())
    }

    #[test]
    fn a_page_and_markdown_that_only_the_owner_reads() {
        let dir = tempfile::tempdir().unwrap();
        record(&dir.path().join("a.pcapng"), "one");
        let (result, page) = report(dir.path(), "{}/a.pcapng");
        result.unwrap();
        assert!(page.starts_with("<!DOCTYPE html>") && page.contains("id=\"f1\""), "{page}");
        assert!(page.contains("a.pcapng"), "what it was read from");
        let mode = fs::metadata(dir.path().join("out.html")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (result, text) = report(dir.path(), "--md {}/a.pcapng");
        result.unwrap();
        assert!(text.contains("### f1: dns-stall, unknown"), "{text}");
        let (result, text) = report(dir.path(), "--md --cause no-listener {}/a.pcapng");
        result.unwrap();
        assert!(!text.contains("### f1") && text.contains("1 finding hidden"), "{text}");
    }

    #[test]
    fn recordings_of_two_nodes_are_one_report() {
        let dir = tempfile::tempdir().unwrap();
        record(&dir.path().join("a.pcapng"), "one");
        record(&dir.path().join("b.pcapng"), "two");
        let (result, text) = report(dir.path(), "--md {}/a.pcapng {}/b.pcapng");
        result.unwrap();
        assert!(text.contains("### n1-f1") && text.contains("### n2-f1"), "{text}");
        assert!(text.contains("2 stalls"), "{text}");
    }

    #[test]
    fn of_a_recording_that_was_cut_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcapng");
        record(&path, "one");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 30]).unwrap();
        let (result, text) = report(dir.path(), "--md {}/a.pcapng");
        result.unwrap();
        assert!(text.contains("### f1: dns-stall"), "{text}");
        assert!(text.contains("in the middle of a block"), "{text}");
        // What follows is no recording: the report is written, and the command fails.
        let mut bytes = bytes;
        bytes.extend([0xff; 64]);
        fs::write(&path, &bytes).unwrap();
        let (result, text) = report(dir.path(), "--md {}/a.pcapng");
        assert!(result.is_err() && text.contains("damaged"), "{result:?} {text}");
    }

    #[test]
    fn no_recording_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.html");
        record(&path, "one");
        let (result, after) = report(dir.path(), "{}/out.html");
        assert!(result.unwrap_err().to_string().contains("is the recording itself"));
        assert!(!after.starts_with("<!DOCTYPE"));
        assert!(fs::metadata(&path).unwrap().len() > 500);
        let (result, _) = report(dir.path(), "{}/not-there");
        assert!(result.is_err());
    }

    fn args(line: &[&str]) -> Args {
        let words = ["stallprobe", "report"].iter().chain(line);
        match Cli::try_parse_from(words).unwrap().command {
            Some(Command::Report(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_name_of_the_file_says_what_it_is() {
        assert!(!is_html(&args(&["a"])) && !is_html(&args(&["a", "-o", "b.md"])));
        assert!(is_html(&args(&["a", "-o", "b.html"])) && is_html(&args(&["a", "--html"])));
        assert!(!is_html(&args(&["a", "--md", "-o", "b.html"])));
        assert!(Cli::try_parse_from(["stallprobe", "report", "--md", "--html", "a"]).is_err());
        assert!(Cli::try_parse_from(["stallprobe", "report"]).is_err());
    }
}
