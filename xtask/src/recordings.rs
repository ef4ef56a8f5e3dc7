//! The recordings that the lab's cases made: they come out of the machine as lines among its output, and
//! tshark reads each of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::{artifacts::target_dir, tally::Tally};

/// Asks the lab for them (`WANTED` of tests/src/recording.rs).
pub const WANTED: &str = "LAB_RECORDINGS=1";
/// With which a line of a recording begins. What follows is base64.
const MARK: &str = "recording ";
const CASE: &str = "case ";
/// With which a case tells that it had stallprobe name its cause: so stallprobe ran, and recorded.
const NAMED: &str = "named ";

/// Whether a line is for a program, and too long for a person.
pub fn is_line(line: &[u8]) -> bool {
    line.starts_with(MARK.as_bytes())
}

/// Writes the recordings of a lab's output to files, and gives these.
///
/// # Errors
/// When one is garbled or cannot be written.
pub fn save(job: &str, output: &[u8]) -> Result<Vec<PathBuf>> {
    let folder = folder(job)?;
    let mut files = Vec::new();
    for (name, bytes) in named(&String::from_utf8_lossy(output))? {
        let path = folder.join(format!("{name}.pcapng.zst"));
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        files.push(path);
    }
    Ok(files)
}

/// An empty folder for the recordings of a job: those of the run before say nothing of this one.
///
/// # Errors
/// When it cannot be made, or emptied.
pub fn folder(job: &str) -> Result<PathBuf> {
    let folder = target_dir().join("recordings").join(job.replace(' ', "-"));
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Cases that had a cause named and yet gave no recording.
pub fn without(output: &str) -> Vec<&str> {
    let mut without = Vec::new();
    let (mut case, mut names, mut records) = ("", false, false);
    // The last case ends with the output.
    for line in output.lines().chain([CASE]) {
        if let Some(line) = line.strip_prefix(CASE) {
            if names && !records {
                without.push(case);
            }
            case = line.split(' ').next().unwrap_or_default();
            (names, records) = (false, false);
        }
        names |= line.starts_with(NAMED);
        records |= line.starts_with(MARK);
    }
    without
}

/// Name and bytes of each recording: the lines come after that of their case.
fn named(output: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let mut named: Vec<(String, Vec<u8>)> = Vec::new();
    let mut case = "";
    for line in output.lines() {
        if let Some(line) = line.strip_prefix(CASE) {
            case = line.split(' ').next().unwrap_or_default();
        } else if let Some(text) = line.strip_prefix(MARK) {
            let bytes = BASE64_STANDARD
                .decode(text.trim_end())
                .with_context(|| format!("the recording of case {case} is garbled"))?;
            let before = named.iter().filter(|(name, _)| is_of(name, case)).count();
            let number = if before == 0 { String::new() } else { format!("-{}", before + 1) };
            named.push((format!("{case}{number}"), bytes));
        }
    }
    Ok(named)
}

fn is_of(name: &str, case: &str) -> bool {
    name == case || name.strip_prefix(case).is_some_and(|rest| rest.starts_with('-'))
}

/// Reads each with tshark, which must have nothing to complain of, and finds the comments that say why a
/// packet is in it. Gives how many it read, how many packets were in them, and what was wrong.
pub fn read_by_tshark(files: &[PathBuf]) -> (Tally, usize, Vec<String>) {
    let mut tally = Tally::default();
    let (mut wrong, mut packets) = (Vec::new(), 0);
    for file in files {
        match packets_with_comments(file) {
            Ok(found) => {
                tally.passed += 1;
                packets += found;
            }
            Err(err) => {
                tally.failed += 1;
                wrong.push(format!("{}: {err:#}", file.display()));
            }
        }
    }
    (tally, packets, wrong)
}

fn packets_with_comments(file: &Path) -> Result<usize> {
    let output = Command::new("tshark")
        .args(["-n", "-T", "fields", "-e", "frame.number", "-e", "frame.comment"])
        .args(["-e", "frame.interface_name", "-r"])
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .context("cannot start tshark: `cargo xtask setup` installs it")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    // It says so whenever it is run by root, whatever it reads.
    let said: Vec<&str> = stderr
        .lines()
        .filter(|line| !line.is_empty() && !line.contains("as user \"root\""))
        .collect();
    if !output.status.success() || !said.is_empty() {
        bail!("tshark ended with {} and said: {}", output.status, said.join("; "));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text.lines() {
        let mut fields = line.split('\t').skip(1);
        if fields.next().is_none_or(str::is_empty) {
            bail!("a packet has no comment: {line}");
        }
        if fields.next().is_none_or(str::is_empty) {
            bail!("a packet is of no interface: {line}");
        }
    }
    Ok(text.lines().count())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn recordings_are_named_after_their_cases() {
        let output = "case one ... ok (1.0 s)\nnamed x certain\nrecording YQ==\ncase two ... \
                      ok\ncase three ... ok\nrecording Yg==\nrecording Yw==\n2 passed\n";
        let named = named(output).unwrap();
        let want = [("one", "a"), ("three", "b"), ("three-2", "c")];
        let want = want.map(|(name, bytes)| (name.to_owned(), bytes.as_bytes().to_vec()));
        assert_eq!(named, want);
        assert!(super::named("case one ... ok\nrecording !\n").is_err());
        assert!(is_line(b"recording YQ==\n") && !is_line(b"case one"));
    }
    #[test]
    fn a_case_that_named_a_cause_gives_a_recording() {
        let output = "case one ... ok (1.0 s)\nnamed x certain\nrecording YQ==\ncase two ... ok\n\
                      named y likely\ncase three ... ok\ncase four ... FAILED: x\nfailed x\n\
                      case five ... ok\nnamed z certain\n";
        assert_eq!(without(output), ["two", "five"]);
        assert!(without("").is_empty());
    }
}
