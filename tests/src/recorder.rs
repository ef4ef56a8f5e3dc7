//! A stallprobe that records and is read line by line, and what is read of its recording.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{probe::STALLPROBE, wait::SOON};

/// One that runs. It ends with this, whatever becomes of it.
pub struct Run {
    pub child: Child,
    lines: Receiver<String>,
    /// What came until it watched.
    pub before: String,
    stderr: Arc<Mutex<String>>,
}

impl Run {
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start stallprobe")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let errors = child.stderr.take().context("no standard error")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = String::new();
            // One that was killed may leave half a line.
            while stdout.read_line(&mut line).is_ok() && line.ends_with('\n') {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    break;
                }
            }
        });
        let stderr = Arc::<Mutex<String>>::default();
        let said = Arc::clone(&stderr);
        thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                said.lock().unwrap_or_else(PoisonError::into_inner).push_str(&format!("{line}\n"));
            }
        });
        Ok(Self { child, lines, before: String::new(), stderr })
    }

    /// The next line of its standard output, with its end.
    pub fn line(&mut self) -> Result<String> {
        match self.lines.recv_timeout(6 * SOON) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                bail!("stallprobe said nothing for a long time: {}", self.errors().trim_end())
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("stallprobe's output ended: {}", self.errors().trim_end())
            }
        }
    }

    /// All whole lines that are left of its standard output, once it has ended.
    pub fn rest(&self) -> String {
        self.lines.iter().collect()
    }

    /// What it wrote to standard error so far.
    pub fn errors(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn wait_watching(&mut self) -> Result<()> {
        loop {
            let line = self.line()?;
            let is_it = line.contains("\"state\":\"watching\"");
            self.before.push_str(&line);
            if is_it {
                return Ok(());
            }
        }
    }

    /// SIGTERM, and its end.
    pub fn end(&mut self) -> Result<ExitStatus> {
        // SAFETY: a signal to our own child, which was not waited for yet.
        unsafe { libc::kill(i32::try_from(self.child.id())?, libc::SIGTERM) };
        self.child.wait().context("cannot wait for stallprobe")
    }

    /// SIGKILL, and its end.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill().context("cannot kill stallprobe")?;
        self.child.wait().context("cannot wait for stallprobe")
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a replay of these files says as JSON.
pub fn replay(files: &[&Path], args: &[&str]) -> Result<Output> {
    let mut command = Command::new(STALLPROBE);
    command.args(["replay", "-o", "json"]).args(args).args(files).stdin(Stdio::null());
    command.output().context("cannot start stallprobe replay")
}

/// The lines that are wanted.
pub fn parsed(text: &str, wanted: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        lines.push(value);
    }
    lines.retain(wanted);
    Ok(lines)
}

/// A path of our own, with nothing there before and after.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = format!("stallprobe-lab-{process}-{number}-{name}");
        let scratch = Self(std::env::temp_dir().join(name));
        scratch.clear();
        scratch
    }

    /// A folder.
    pub fn folder(name: &str) -> Result<Self> {
        let scratch = Self::new(name);
        let path = scratch.0.display().to_string();
        fs::create_dir_all(&scratch.0).with_context(|| format!("cannot make {path}"))?;
        Ok(scratch)
    }

    /// What is in the folder, sorted by name.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let path = self.0.display();
        let list = fs::read_dir(&self.0).with_context(|| format!("cannot list {path}"))?;
        let files: std::io::Result<Vec<PathBuf>> =
            list.map(|entry| entry.map(|entry| entry.path())).collect();
        let mut files = files.with_context(|| format!("cannot list {path}"))?;
        files.sort();
        Ok(files)
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
