//! Recordings that end badly: killed, on a full disk, removed. What is in the file is read, and nothing
//! that was there a second before is missing.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    background::Background,
    command,
    lab::Lab,
    probe::STALLPROBE,
    tcp::Attempt,
    wait::{SOON, until},
};

/// Recordings that are killed; `RECORD_KILLS` asks for more. One takes about ten seconds.
const KILLS: u64 = 4;
/// Lines after which one is killed, at most: some seconds.
const LINES: u64 = 150;
/// What may be missing, in milliseconds of the stream: a flush comes each second with the next tick,
/// which is 100 ms away at most on a machine with time.
const FLUSH_MS: i64 = 1500;
const PORT: u16 = 8080;

/// SIGKILL at any moment, many times.
pub fn killed(lab: &Lab) -> Result<()> {
    lab.needs_stallprobe()?;
    let _refused = refusals(lab)?;
    let kills = std::env::var("RECORD_KILLS").ok().and_then(|text| text.parse().ok());
    let mut random = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64 | 1;
    for round in 0..kills.unwrap_or(KILLS) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let (lines, compress) = (random % LINES, round % 4 == 3);
        killed_after(lines, compress).with_context(|| format!("killed after {lines} lines"))?;
    }
    Ok(())
}

fn killed_after(lines: u64, compress: bool) -> Result<()> {
    let file = Scratch::new("killed.pcapng");
    let mut watch = Command::new(STALLPROBE);
    watch.args(["watch", "-o", "json", "--events", "--record"]).arg(&file.0);
    if compress {
        watch.arg("--compress");
    }
    let mut run = Run::start(watch)?;
    run.wait_watching()?;
    let mut live: Vec<String> = Vec::new();
    while (live.len() as u64) < lines {
        live.extend(run.line()?);
    }
    run.child.kill().context("cannot kill stallprobe")?;
    run.child.wait().context("cannot wait for stallprobe")?;
    live.extend(run.lines.iter());

    let replay = replay(&[&file.0], &["--events"])?;
    let said = String::from_utf8_lossy(&replay.stderr);
    ensure!(replay.status.success(), "the replay ended with {}: {said}", replay.status);
    ensure!(said.contains("what came after"), "that something is missing is not said: {said}");
    let events = |line: &Value| line["type"] == "event";
    let replayed: Vec<Value> = parsed(&String::from_utf8_lossy(&replay.stdout), events)?;
    let live: Vec<Value> = parsed(&(run.before.clone() + &live.join("\n")), events)?;
    ensure!(live.len() >= replayed.len(), "more was replayed than was seen");
    if let Some((live, replayed)) = live.iter().zip(&replayed).find(|(live, re)| live != re) {
        bail!("the replay says otherwise\n  live:   {live}\n  replay: {replayed}");
    }
    let Some(missing) = live.get(replayed.len()) else { return Ok(()) };
    let last = live.last().context("no events")?;
    let lost = millis(last)? - millis(missing)?;
    ensure!(lost <= FLUSH_MS, "{lost} ms are missing of what was seen, from {missing} to {last}");
    Ok(())
}

/// A file system of a megabyte, nearly full.
pub fn disk_full(lab: &Lab) -> Result<()> {
    lab.needs_stallprobe()?;
    let dir = Scratch::new("small");
    fs::create_dir_all(&dir.0)?;
    let place = dir.0.display().to_string();
    command::run("mount", &["-t", "tmpfs", "-o", "size=1m", "none", &place])?;
    let tried = disk_full_at(lab, &dir.0);
    command::run("umount", &[&place])?;
    tried
}

fn disk_full_at(lab: &Lab, dir: &Path) -> Result<()> {
    let _refused = refusals(lab)?;
    // What is left is soon used up, but not by the events of the first second.
    fs::write(dir.join("ballast"), vec![1; 760 * 1024]).context("cannot fill the small disk")?;
    let file = dir.join("full.pcapng");
    let output = Command::new(STALLPROBE)
        .args(["record", "--duration", "120s", "-o"])
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .context("cannot start stallprobe record")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "it ended with {}: {said}", output.status);
    ensure!(said.contains("the recording ended early") && said.contains("No space"), "{said}");
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600, "others may read it");
    let read = replay(&[&file], &["--events"])?;
    let said = String::from_utf8_lossy(&read.stderr);
    ensure!(read.status.success() && said.contains("was not ended"), "{}: {said}", read.status);
    let events = parsed(&String::from_utf8_lossy(&read.stdout), |line| line["type"] == "event")?;
    ensure!(!events.is_empty(), "no event is in it");

    // Live findings go on: with the file gone, too.
    let probe = lab.probe(&["--record", &file.display().to_string()])?;
    until("the recording ends early", 6 * SOON, || {
        Ok((probe.errors("the recording ended early") > 0).then_some(()))
    })?;
    let before = probe.lines("status").len();
    until("it goes on", SOON, || Ok((probe.lines("status").len() > before).then_some(())))?;
    let status = probe.end(libc::SIGTERM)?;
    ensure!(status.code() == Some(1), "it ended with {status}");
    ensure!(!probe.lines("summary").is_empty(), "it gave no summary");
    Ok(())
}

/// Parts, of which the newest are kept: each can be read alone, and all together.
pub fn rotated(lab: &Lab) -> Result<()> {
    lab.needs_stallprobe()?;
    let _refused = refusals(lab)?;
    let dir = Scratch::new("parts");
    fs::create_dir_all(&dir.0)?;
    let mut watch = Command::new(STALLPROBE);
    watch.args(["watch", "-o", "json", "--max-size", "100kB", "--rotate", "3", "--record"]);
    watch.arg(dir.0.join("a.pcapng"));
    let mut run = Run::start(watch)?;
    run.wait_watching()?;
    let part = |number: u32| dir.0.join(format!("a.{number:05}.pcapng"));
    until("a fifth part is begun", 6 * SOON, || Ok(part(5).exists().then_some(())))?;
    // SAFETY: a signal to our own child, which was not waited for yet.
    unsafe { libc::kill(i32::try_from(run.child.id())?, libc::SIGTERM) };
    let status = run.child.wait().context("cannot wait for stallprobe")?;
    ensure!(status.success(), "it ended with {status}");
    ensure!(!part(1).exists() && !part(2).exists(), "more than three parts are kept");
    let parts: Vec<PathBuf> = (3..=5).map(part).collect();
    // In any order.
    let all: Vec<&Path> =
        [1, 2, 0].iter().filter_map(|n| parts.get(*n)).map(PathBuf::as_path).collect();
    let whole = replay(&all, &[])?;
    let said = String::from_utf8_lossy(&whole.stderr);
    ensure!(whole.status.success() && !said.contains("stallprobe:"), "{}: {said}", whole.status);
    for path in &parts {
        let alone = replay(&[path], &[])?;
        let text = String::from_utf8_lossy(&alone.stdout);
        let headers = parsed(&text, |line| line["type"] == "header")?;
        let hooks = headers.first().and_then(|header| header["hooks"].as_array());
        ensure!(hooks.is_some_and(|hooks| !hooks.is_empty()), "{}: no header", path.display());
        let findings = parsed(&text, |line| line["type"] == "finding")?;
        let named = findings.iter().any(|f| f["victim"]["pod"] == "client");
        ensure!(named, "{}: no finding names the client\n{text}", path.display());
    }
    Ok(())
}

/// As a person sees it: text, byte for byte.
pub fn as_text(lab: &Lab) -> Result<()> {
    lab.needs_stallprobe()?;
    let file = Scratch::new("text.pcapng");
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let mut watch = Command::new(STALLPROBE);
    watch.args(["watch", "--record"]).arg(&file.0);
    let ready = Scratch::new("ready");
    watch.arg("--ready-file").arg(&ready.0);
    let mut run = Run::start(watch)?;
    until("stallprobe watches", 6 * SOON, || Ok(ready.0.exists().then_some(())))?;
    let attempt = Attempt::start(&client, SocketAddr::new(server.v4.into(), PORT))?;
    attempt.wait(SOON)?;
    let first = run.line()?.context("no finding")?;
    // SAFETY: a signal to our own child, which was not waited for yet.
    unsafe { libc::kill(i32::try_from(run.child.id())?, libc::SIGTERM) };
    let status = run.child.wait().context("cannot wait for stallprobe")?;
    ensure!(status.success(), "it ended with {status}");
    let rest: Vec<String> = run.lines.iter().collect();
    let live = [vec![first], rest].concat().join("\n");
    ensure!(live.contains("no-listener (certain)"), "{live}");
    let replayed = Command::new(STALLPROBE).arg("replay").arg(&file.0).output()?;
    let text = String::from_utf8_lossy(&replayed.stdout);
    ensure!(text.trim_end() == live.trim_end(), "live:\n{live}\nreplay:\n{text}");
    Ok(())
}

/// A client that is refused again and again, so that there is something to record.
fn refusals(lab: &Lab) -> Result<Background> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let to = SocketAddr::new(server.v4.into(), PORT);
    Background::start("connects that are refused", move |wanted| {
        while wanted.still() {
            Attempt::start(&client, to)?.wait(SOON)?;
        }
        Ok(())
    })
}

fn replay(files: &[&Path], args: &[&str]) -> Result<Output> {
    let mut command = Command::new(STALLPROBE);
    command.args(["replay", "-o", "json"]).args(args).args(files).stdin(Stdio::null());
    command.output().context("cannot start stallprobe replay")
}

fn parsed(text: &str, wanted: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    // One that was killed may have left half a line.
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        lines.push(value);
    }
    lines.retain(wanted);
    Ok(lines)
}

/// Milliseconds of the day of a line's time, `2026-01-02T03:04:05.678901Z`.
fn millis(line: &Value) -> Result<i64> {
    let time = line["time"].as_str().and_then(|time| time.get(11..23));
    let fields = time.map(|time| time.split([':', '.']).map(str::parse::<i64>).collect::<Vec<_>>());
    match fields.as_deref() {
        Some([Ok(h), Ok(m), Ok(s), Ok(ms)]) => Ok(((h * 60 + m) * 60 + s) * 1000 + ms),
        _ => bail!("no time: {line}"),
    }
}

/// A stallprobe whose standard output is read line by line.
struct Run {
    child: Child,
    lines: Receiver<String>,
    /// What came until it watched.
    before: String,
}

impl Run {
    fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("cannot start stallprobe")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines, before: String::new() })
    }

    fn line(&mut self) -> Result<Option<String>> {
        match self.lines.recv_timeout(6 * SOON) {
            Ok(line) => Ok(Some(line)),
            Err(_) => bail!("stallprobe says no more"),
        }
    }

    fn wait_watching(&mut self) -> Result<()> {
        loop {
            let line = self.line()?.unwrap_or_default();
            let is_it = line.contains("\"state\":\"watching\"");
            self.before.push_str(&line);
            self.before.push('\n');
            if is_it {
                return Ok(());
            }
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A path of this case's own, with nothing there before and after.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let scratch = Self(std::env::temp_dir().join(format!("recordings-{name}")));
        scratch.clear();
        scratch
    }

    fn clear(&self) {
        // Mostly there is nothing.
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.clear();
    }
}
