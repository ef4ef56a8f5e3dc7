//! Recordings that end badly: killed, on a full disk, removed. What is in the file is read, and nothing
//! that was there a second before is missing.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    background::Background,
    command, kills,
    lab::Lab,
    probe::STALLPROBE,
    recorder::{Run, Scratch, parsed, replay},
    tcp::Attempt,
    wait::{SOON, until},
};

/// Recordings that are killed; `RECORD_KILLS` asks for more. One takes about ten seconds, and
/// `lab kills` does a hundred without a machine around them.
const KILLS: u64 = 4;
/// Lines after which one is killed, at most: some seconds.
const LINES: u64 = 150;
const PORT: u16 = 8080;

/// SIGKILL at any moment, many times.
pub fn killed(lab: &Lab) -> Result<()> {
    lab.needs_stallprobe()?;
    let _refused = refusals(lab)?;
    let kills = std::env::var("RECORD_KILLS").ok().and_then(|text| text.parse().ok());
    kills::each(kills.unwrap_or(KILLS), 1, LINES)?;
    Ok(())
}

/// A file system of a megabyte, nearly full.
pub fn disk_full(lab: &Lab) -> Result<()> {
    lab.needs_stallprobe()?;
    let dir = Scratch::folder("small")?;
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
    let dir = Scratch::folder("parts")?;
    let mut watch = Command::new(STALLPROBE);
    watch.args(["watch", "-o", "json", "--max-size", "100kB", "--rotate", "3", "--record"]);
    watch.arg(dir.0.join("a.pcapng"));
    let mut run = Run::start(watch)?;
    run.wait_watching()?;
    let part = |number: u32| dir.0.join(format!("a.{number:05}.pcapng"));
    until("a fifth part is begun", 6 * SOON, || Ok(part(5).exists().then_some(())))?;
    let status = run.end()?;
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

/// As a person sees it: text, byte for byte, from the file while it is being written too.
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
    let mut follow = Command::new(STALLPROBE);
    follow.args(["replay", "-f"]).arg(&file.0);
    let mut follow = Run::start(follow)?;
    let attempt = Attempt::start(&client, SocketAddr::new(server.v4.into(), PORT))?;
    attempt.wait(SOON)?;
    let first = run.line()?;
    // While the other still writes.
    let followed = follow.line()?;
    let status = run.end()?;
    ensure!(status.success(), "it ended with {status}");
    let live = first + &run.rest();
    ensure!(live.contains("no-listener (certain)"), "{live}");
    let replayed = Command::new(STALLPROBE).arg("replay").arg(&file.0).output()?;
    let text = String::from_utf8_lossy(&replayed.stdout);
    ensure!(text == live, "live:\n{live}\nreplay:\n{text}");
    // It ends with the recording.
    let followed = followed + &follow.rest();
    let status = follow.child.wait().context("cannot wait for stallprobe replay -f")?;
    ensure!(status.success() && followed == live, "{status}, live:\n{live}\n-f:\n{followed}");
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
