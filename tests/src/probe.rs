//! stallprobe itself, running on the node and read line by line.

use std::{
    cell::RefCell,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{finding::Finding, recording::Recording, wait};

/// Name of the binary, found on PATH.
pub const STALLPROBE: &str = "stallprobe";

/// How long stallprobe may take to attach, under emulation and beside other loads.
const START: Duration = Duration::from_secs(120);

/// How long a stallprobe on a low rung is listened to for a wrong name. A client that sends its SYN
/// again and again is judged again for longer: this is what a run has the time for.
const BLIND: Duration = Duration::from_secs(8);

#[derive(Default)]
struct Seen {
    /// Its standard output so far, as it came.
    text: String,
    /// And by lines.
    lines: Vec<Value>,
    /// Lines that are no JSON object.
    odd: Vec<String>,
    stderr: String,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    news: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a case may expect of stallprobe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heed {
    /// It is not there: faults only are made.
    Absent,
    /// It runs on a rung that cannot tell this fault: what the case says of findings is not asked,
    /// only that they name nothing wrong (see [`crate::case`]).
    Blind,
    /// It runs on a low rung: it names the same, maybe after the stall was told without a name, with
    /// fewer details.
    Less,
    All,
}

/// A running stallprobe, or none in a run that only makes faults.
pub struct Probe {
    child: RefCell<Option<Child>>,
    shared: Arc<Shared>,
    heed: Heed,
    /// What the fault is named on this rung, though it is another.
    taken_for: Option<&'static str>,
    /// What it writes besides, to be replayed when it has ended.
    recording: Option<Recording>,
}

impl Probe {
    /// A probe that agrees with everything.
    pub fn absent() -> Self {
        let (child, shared) = (RefCell::new(None), Arc::default());
        Self { child, shared, heed: Heed::Absent, taken_for: None, recording: None }
    }

    /// Starts stallprobe by this command and waits until it watches.
    pub fn start(
        mut command: Command,
        args: &[&str],
        heed: Heed,
        taken_for: Option<&'static str>,
        recording: Option<Recording>,
    ) -> Result<Self> {
        let mut child = command
            .args(["watch", "-o", "json"])
            .args(args)
            .args(recording.iter().flat_map(Recording::arguments))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {STALLPROBE}: is it on PATH?"))?;
        let shared = Arc::<Shared>::default();
        let stdout = child.stdout.take().context("no standard output")?;
        let stderr = child.stderr.take().context("no standard error")?;
        let reader = Arc::clone(&shared);
        thread::spawn(move || read_lines(stdout, &reader));
        let reader = Arc::clone(&shared);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                reader.lock().stderr.push_str(&format!("{line}\n"));
            }
        });
        let child = RefCell::new(Some(child));
        let probe = Self { child, shared, heed, taken_for, recording };
        probe.wait_line("stallprobe says that it watches", START, |line| {
            line["type"] == "status" && line["state"] == "watching"
        })?;
        Ok(probe)
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.borrow().as_ref().map(Child::id)
    }

    /// Waits for a finding for which `wanted` holds.
    pub fn finding(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Finding> {
        let late = self.heed == Heed::Less;
        self.told(what, limit, |line| (late || line["type"] == "finding") && wanted(line))
    }

    /// Waits for a finding, or an update of one, for which `wanted` holds.
    pub fn told(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Finding> {
        let is_finding = |line: &Value| line["type"] == "finding" || line["type"] == "update";
        self.line(&format!("a finding: {what}"), limit, |line| is_finding(line) && wanted(line))
    }

    /// Waits for a line to check. Of a stallprobe that is blind, or not there, there is none.
    fn line(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Finding> {
        let (line, less) = match self.heed {
            Heed::Absent | Heed::Blind => (None, false),
            Heed::Less => (Some(self.wait_line(what, limit, wanted)?), true),
            Heed::All => (Some(self.wait_line(what, limit, wanted)?), false),
        };
        Ok(Finding { line, less })
    }

    /// Waits for a finding of this cause whose victim is this pod.
    pub fn cause(&self, cause: &str, victim: &str, limit: Duration) -> Result<Finding> {
        self.finding(&format!("{cause} with victim {victim}"), limit, |f| {
            f["cause"] == cause && f["victim"]["pod"] == victim
        })
    }

    /// Waits for a raw event of an armed hook, by its name; needs `--events`. On a low rung nothing is
    /// armed.
    pub fn event(&self, name: &str, limit: Duration) -> Result<Finding> {
        if self.heed == Heed::Less {
            return Ok(Finding { line: None, less: true });
        }
        let is_it = |line: &Value| line["type"] == "event" && line["event"] == name;
        self.line(&format!("the event {name}"), limit, is_it)
    }

    /// Waits for a stall of this pod whose cause is not known: look-alikes end so, but where they
    /// cannot be told apart.
    pub fn unknown(&self, symptom: &str, victim: &str) -> Result<Finding> {
        let (cause, at_most) = match self.taken_for {
            Some(cause) => (cause, "likely"),
            None => ("unknown", "possible"),
        };
        let what = format!("{cause}: {symptom} of {victim}");
        let finding = self.finding(&what, wait::SOON, |f| {
            f["cause"] == cause && f["symptom"] == symptom && f["victim"]["pod"] == victim
        })?;
        finding.is("/confidence", at_most)?;
        Ok(finding)
    }

    /// Waits for a line for which `wanted` holds.
    pub fn wait_line(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let end = Instant::now() + limit;
        let mut seen = self.shared.lock();
        let mut next = 0;
        loop {
            if let Some(line) = seen.lines.iter().skip(next).find(|line| wanted(line)) {
                return Ok(line.clone());
            }
            next = seen.lines.len();
            let left = end.saturating_duration_since(Instant::now());
            if seen.closed {
                bail!("stallprobe ended before: {what}\n{}", seen.stderr.trim_end());
            }
            if left.is_zero() {
                bail!("waited {} s in vain for {what}", limit.as_secs());
            }
            seen =
                self.shared.news.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The mode of kube-proxy that stallprobe tells of at the start.
    pub fn kube_proxy_is(&self, mode: &str) -> Result<()> {
        if self.heed == Heed::Absent {
            return Ok(());
        }
        let header = self.header()?;
        let told = &header["kube_proxy"];
        ensure!(told == mode, "kube-proxy is told to work by {told}, not {mode}");
        Ok(())
    }

    /// All lines so far, in their order.
    pub fn said(&self) -> Vec<Value> {
        self.shared.lock().lines.clone()
    }

    /// What stallprobe says of itself and its hooks before it watches.
    pub fn header(&self) -> Result<Value> {
        self.wait_line("the header", wait::SOON, |line| line["type"] == "header")
    }

    /// All lines of a type so far.
    pub fn lines(&self, kind: &str) -> Vec<Value> {
        let seen = self.shared.lock();
        seen.lines.iter().filter(|line| line["type"] == kind).cloned().collect()
    }

    /// How many stalls the findings for which `wanted` holds stand for: updates carry the count
    /// on.
    pub fn stalls(&self, wanted: impl Fn(&Value) -> bool) -> u64 {
        let updates = self.lines("update");
        let last = |finding: &Value| {
            let of_it = updates.iter().rfind(|u| u["id"] == finding["id"]);
            of_it.unwrap_or(finding)["count"].as_u64().unwrap_or(1)
        };
        self.lines("finding").iter().filter(|f| wanted(f)).map(last).sum()
    }

    /// What was last said of the first finding of a cause: its last update, or itself.
    pub fn last_word(&self, cause: &str) -> Result<Finding> {
        if matches!(self.heed, Heed::Absent | Heed::Blind) {
            return Ok(Finding { line: None, less: false });
        }
        let findings = self.lines("finding");
        let finding = findings.iter().find(|f| f["cause"] == cause);
        let finding = finding.with_context(|| format!("no finding of {cause}"))?;
        let seen = self.shared.lock();
        let of_it = |l: &&Value| l["type"] == "update" && l["id"] == finding["id"];
        let update = seen.lines.iter().rfind(of_it).cloned();
        let line = Some(update.unwrap_or_else(|| finding.clone()));
        Ok(Finding { line, less: self.heed == Heed::Less })
    }

    /// No stall of this pod has a cause, from the beginning or by an update.
    pub fn unnamed(&self, victim: &str) -> Result<()> {
        let told = [self.lines("finding"), self.lines("update")].concat();
        let is_wrong = |f: &&Value| f["cause"] != "unknown" && f["victim"]["pod"] == victim;
        match told.iter().find(is_wrong) {
            Some(f) => bail!("{} was named for {victim}\n  {f}", f["cause"]),
            None => Ok(()),
        }
    }

    /// Every finding so far, and every update, names one of these causes, or the one that the fault
    /// is taken for here. On a low rung a stall may be told before it has a name.
    pub fn only(&self, causes: &[&str]) -> Result<()> {
        let unknown = matches!(self.heed, Heed::Blind | Heed::Less).then_some("unknown");
        let others = [unknown, self.taken_for];
        let allowed = |cause: &str| causes.contains(&cause) || others.contains(&Some(cause));
        let other = |f: &&Value| !f["cause"].as_str().is_some_and(allowed);
        let told = [self.lines("finding"), self.lines("update")].concat();
        match told.iter().find(other) {
            Some(f) => bail!("{} was named, expected only {causes:?}\n  {f}", f["cause"]),
            None => Ok(()),
        }
    }

    /// Names may come late on a low rung, where counters and tables are read now and then and an
    /// unknown stall is judged again: gives it the time for a wrong one. The checks that follow say
    /// what is wrong; this ends when there is something for them.
    fn listen(&self) {
        let is_told = |line: &Value| line["type"] == "finding" || line["type"] == "update";
        let is_named = |line: &Value| is_told(line) && line["cause"] != "unknown";
        // What the fault is taken for must not be certain.
        let is_mistaken = |line: &Value| self.taken_for.is_some_and(|cause| line["cause"] == cause);
        let is_wrong = |line: &Value| {
            is_named(line) && (!is_mistaken(line) || line["confidence"] == "certain")
        };
        match self.heed {
            Heed::Blind => {
                let _wrong = self.wait_line("a wrong name", BLIND, is_wrong);
            }
            Heed::Less => {
                let told: Vec<Value> = self.said().into_iter().filter(is_told).collect();
                let (named, unknown): (Vec<_>, Vec<_>) = told.iter().partition(|l| is_named(l));
                let has_name = |line: &Value| named.iter().any(|n| n["id"] == line["id"]);
                if self.taken_for.is_none() && unknown.iter().all(|line| has_name(line)) {
                    return;
                }
                let _wrong = self.wait_line("a wrong name", BLIND, |line| {
                    let is_new = named.iter().all(|n| n["cause"] != line["cause"]);
                    let was_unknown = unknown.iter().any(|u| u["id"] == line["id"]);
                    is_wrong(line)
                        && (is_new || is_mistaken(line) || (was_unknown && !has_name(line)))
                });
            }
            Heed::Absent | Heed::All => {}
        }
    }

    /// Ends stallprobe with SIGTERM and gives its summary line.
    pub fn stop(&self) -> Result<Value> {
        if self.heed == Heed::Absent {
            return Ok(Value::Null);
        }
        self.listen();
        let status = self.end(libc::SIGTERM)?;
        if !status.success() {
            bail!("stallprobe ended with {status}\n{}", self.shared.lock().stderr.trim_end());
        }
        let seen = self.shared.lock();
        if let Some(odd) = seen.odd.first() {
            bail!("stallprobe wrote a line that is no JSON object: {odd}");
        }
        let summary = seen.lines.iter().rfind(|line| line["type"] == "summary");
        let summary = summary.context("stallprobe wrote no summary")?.clone();
        if let Some(recording) = &self.recording {
            recording.says(&seen.text)?;
        }
        Ok(summary)
    }

    /// Sends a signal and waits for the end of the process and of its output.
    pub fn end(&self, signal: i32) -> Result<ExitStatus> {
        if let Some(child) = &*self.child.borrow() {
            let pid = i32::try_from(child.id()).context("odd process id")?;
            // SAFETY: a signal to our own child, which was not waited for yet.
            unsafe { libc::kill(pid, signal) };
        }
        self.exit(START)
    }

    /// Waits for the end of the process and of its output.
    pub fn exit(&self, limit: Duration) -> Result<ExitStatus> {
        let mut child = self.child.borrow_mut();
        let child = child.as_mut().context("stallprobe does not run")?;
        let status = wait::until("stallprobe ends", limit, || {
            child.try_wait().context("cannot wait for stallprobe")
        })?;
        wait::until("stallprobe's output ends", wait::SOON, || {
            Ok(self.shared.lock().closed.then_some(()))
        })?;
        Ok(status)
    }

    /// How many lines with these words it wrote to standard error.
    pub fn errors(&self, words: &str) -> usize {
        self.shared.lock().stderr.lines().filter(|line| line.contains(words)).count()
    }

    /// What stallprobe said, for the report of a failure.
    pub fn report(&self) -> String {
        let seen = self.shared.lock();
        let mut out = String::from("stallprobe said:");
        // The header's list of hooks is long and says little about a failure.
        let shown = |l: &&Value| l["type"] != "event" && l["hooks"].is_null();
        let lines: Vec<_> = seen.lines.iter().filter(shown).collect();
        for line in lines.iter().rev().take(30).rev() {
            out.push_str(&format!("\n  {line}"));
        }
        for odd in seen.odd.iter().take(10) {
            out.push_str(&format!("\n  (no JSON) {odd}"));
        }
        for line in seen.stderr.lines().rev().take(20).collect::<Vec<_>>().iter().rev() {
            out.push_str(&format!("\n  (stderr) {line}"));
        }
        out
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(child) = self.child.borrow_mut().as_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn read_lines(stdout: impl Read, shared: &Shared) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let mut seen = shared.lock();
        seen.text.push_str(&line);
        seen.text.push('\n');
        match serde_json::from_str(&line) {
            Ok(value @ Value::Object(_)) => seen.lines.push(value),
            _ => seen.odd.push(line),
        }
        shared.news.notify_all();
    }
    shared.lock().closed = true;
    shared.news.notify_all();
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    /// A probe that has said this and ended.
    fn said(lines: &[Value], heed: Heed, taken_for: Option<&'static str>) -> Probe {
        let (child, shared) = (RefCell::new(None), Arc::default());
        let probe = Probe { child, shared, heed, taken_for, recording: None };
        probe.shared.lock().lines = lines.to_vec();
        probe.shared.lock().closed = true;
        probe
    }

    fn line(kind: &str, cause: &str, confidence: &str) -> Value {
        json!({
            "type": kind, "id": "f1", "cause": cause, "confidence": confidence,
            "symptom": "connect-stall", "victim": {"pod": "client"},
        })
    }

    #[test]
    fn what_a_fault_is_taken_for_is_asked_for_instead_of_unknown() {
        let (cause, taken_for) = ("no-listener", Some("no-listener"));
        let unknown = line("finding", "unknown", "possible");
        let likely = [unknown.clone(), line("update", cause, "likely")];
        let probe = said(&likely, Heed::Less, taken_for);
        probe.unknown("connect-stall", "client").unwrap();
        probe.only(&["unknown"]).unwrap();
        let certain = [line("finding", cause, "certain")];
        assert!(said(&certain, Heed::Less, taken_for).unknown("connect-stall", "client").is_err());
        // It is that, or another thing is wrong.
        assert!(
            said(&[unknown], Heed::Less, taken_for).unknown("connect-stall", "client").is_err()
        );
        assert!(said(&likely, Heed::Less, None).only(&["unknown"]).is_err());
    }

    #[test]
    fn a_name_that_comes_late_is_seen() {
        let unknown = line("finding", "unknown", "possible");
        said(std::slice::from_ref(&unknown), Heed::Less, None).unnamed("client").unwrap();
        let late = [unknown, line("update", "accept-queue-overflow", "likely")];
        let probe = said(&late, Heed::Less, None);
        assert!(probe.unnamed("client").is_err());
        probe.unnamed("another").unwrap();
    }
}
