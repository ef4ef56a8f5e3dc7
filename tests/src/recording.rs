//! The recording of a case's stallprobe, and what its replay must say: to the byte what was said live.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::{cli::say, probe::STALLPROBE, recorder::parsed};

/// Set where recordings are wanted outside of the machine.
pub const WANTED: &str = "LAB_RECORDINGS";

/// Recordings of this process so far.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A file that a stallprobe writes.
pub struct Recording {
    path: PathBuf,
    /// What a replay is asked to show.
    shown: Vec<String>,
}

impl Recording {
    /// Of a `stallprobe watch` with these arguments; none when it records already, or shows what a replay
    /// cannot be asked for.
    pub fn of_watch(args: &[&str]) -> Option<Self> {
        if args.iter().any(|arg| ["--record", "--netns"].contains(arg)) {
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("stallprobe-{}-{number}.pcapng", std::process::id());
        let path = std::env::temp_dir().join(name);
        Some(Self { path, shown: shown(args) })
    }

    pub fn arguments(&self) -> Vec<String> {
        vec!["--record".to_owned(), self.path.display().to_string()]
    }

    /// Replays it, and compares with what was said live; a report has all that was found. Where recordings
    /// are wanted, it is written again, compressed, that copy must say the same, and goes to standard output.
    pub fn says(&self, live: &str) -> Result<()> {
        replays(&self.path, &self.shown, live)?;
        reports(&self.path, live)?;
        if std::env::var_os(WANTED).is_some() {
            let copy = self.path.with_extension("pcapng.zst");
            let to = copy.display().to_string();
            replay(&self.path, &["--compress", "--record", &to].map(str::to_owned))?;
            replays(&copy, &self.shown, live).context("of the copy")?;
            let bytes = fs::read(&copy).with_context(|| format!("cannot read {to}"))?;
            say(&format!("recording {}", BASE64_STANDARD.encode(bytes)))?;
            fs::remove_file(&copy).with_context(|| format!("cannot remove {to}"))?;
        }
        let path = self.path.display();
        fs::remove_file(&self.path).with_context(|| format!("cannot remove {path}"))
    }
}

/// A replay with these arguments says this.
fn replays(file: &Path, arguments: &[String], live: &str) -> Result<()> {
    let (replayed, stderr) = replay(file, arguments)?;
    if let Some((live, replayed)) = first_difference(live, &replayed) {
        bail!("the replay says otherwise\n  live:   {live}\n  replay: {replayed}\n{stderr}");
    }
    Ok(())
}

/// A report has each finding, by its name.
fn reports(file: &Path, live: &str) -> Result<()> {
    let path = file.display();
    let output = Command::new(STALLPROBE)
        .args(["report", "--md"])
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {STALLPROBE} report {path}"))?;
    let [text, stderr] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    ensure!(output.status.success(), "the report ended with {}\n{stderr}", output.status);
    match not_in(&text, live)? {
        Some(id) => bail!("{id} is not in the report\n{text}"),
        None => Ok(()),
    }
}

/// The first finding that was told and is not in a text by its name.
fn not_in(text: &str, live: &str) -> Result<Option<String>> {
    let words: BTreeSet<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    for finding in parsed(live, |line| line["type"] == "finding")? {
        let id = finding["id"].as_str().context("a finding without id")?;
        if !words.contains(id) {
            return Ok(Some(id.to_owned()));
        }
    }
    Ok(None)
}

/// What a replay with these arguments writes to standard output and standard error.
fn replay(file: &Path, arguments: &[String]) -> Result<(String, String)> {
    let path = file.display();
    let output = Command::new(STALLPROBE)
        .args(["replay", "-o", "json"])
        .args(arguments)
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {STALLPROBE} replay {path}"))?;
    let [replayed, stderr] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    ensure!(output.status.success(), "the replay ended with {}\n{stderr}", output.status);
    Ok((replayed, stderr))
}

impl Drop for Recording {
    fn drop(&mut self) {
        // It is gone already when it was replayed.
        let _ = fs::remove_file(&self.path);
    }
}

/// Of the arguments of `watch` those that choose what is shown.
fn shown(args: &[&str]) -> Vec<String> {
    let mut shown = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match *arg {
            "--events" => shown.push((*arg).to_owned()),
            "-n" | "--namespace" | "-p" | "--pod" | "--container" | "--cause" => {
                shown.push((*arg).to_owned());
                shown.extend(args.next().map(|value| (*value).to_owned()));
            }
            _ => {}
        }
    }
    shown
}

fn first_difference<'a>(a: &'a str, b: &'a str) -> Option<(&'a str, &'a str)> {
    let (mut a, mut b) = (a.lines(), b.lines());
    loop {
        match (a.next(), b.next()) {
            (None, None) => return None,
            (a, b) if a == b => {}
            (a, b) => return Some((a.unwrap_or("(no more)"), b.unwrap_or("(no more)"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_found_and_shown_arguments_are_kept() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some(("b", "c")));
        assert_eq!(first_difference("a\n", "a\nc\n"), Some(("(no more)", "c")));
        let args = ["--min-stall", "300ms", "-p", "web", "--events", "--rungs", "kprobe"];
        assert_eq!(shown(&args), ["-p", "web", "--events"]);
    }
    #[test]
    fn a_finding_that_a_report_lacks_is_found() {
        let live = "{\"type\":\"finding\",\"id\":\"f1\"}\n{\"type\":\"finding\",\"id\":\"f12\"}\n\
                    {\"type\":\"update\",\"id\":\"f3\"}\n";
        let lacks = |text: &str| not_in(text, live).ok().flatten();
        assert_eq!(lacks("## f1 x\n## `f12` y\n"), None);
        assert_eq!(lacks("## f12 y\n").as_deref(), Some("f1"));
        assert_eq!(lacks("f1, f2").as_deref(), Some("f12"));
    }
}
