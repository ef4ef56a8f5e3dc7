//! What must be told of the recordings of two nodes. The server's node has a full accept queue, which the
//! client's node cannot see; a rule there drops what a third pod sends, which nobody sees.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

const FULL: &str = "accept-queue-overflow";
/// What a node may say of a stall whose reason is on another one.
const NOT_HERE: [&str; 2] = ["unknown", "left-the-node"];
/// Pods of the client's node (tests/src/two_nodes.rs): those that the full queue keeps waiting, and the
/// one for which it is not the reason.
const REFUSED: [&str; 2] = ["client", "client-nodeport"];
const OTHER: &str = "client-other";

/// Names and addresses that must not be in what is redacted.
const NAMES: [&str; 6] =
    ["client-node", "client-other", "server-node", "shop", "10.244.", "172.30."];

type Look = (&'static str, Result<()>);

/// Every look at them, with what came of it. `folder` is for the redacted ones.
pub fn all(stallprobe: &Path, client: &Path, server: &Path, folder: &Path) -> Result<Vec<Look>> {
    let probe = Stallprobe(stallprobe);
    let alone = probe.replay(&[client])?;
    let both = probe.replay(&[client, server])?;
    let turned = probe.replay(&[server, client])?;
    let hidden =
        [probe.redacted(client, folder, "client")?, probe.redacted(server, folder, "server")?];
    let [ours, theirs] = &hidden;
    let redacted = probe.replay(&[ours, theirs])?;
    let twice = probe.run(&["replay"], &[client, server, client]);
    let reports = [[client, server], [server, client]].map(|files| probe.report(&files));
    let [report, turned_report] = reports;
    Ok(vec![
        ("the client's node alone does not know", not_here(&alone)),
        ("together the cause is told", named(&both)),
        ("in the other order, too", named(&turned)),
        ("and nothing else is told then", same(&both, &turned)),
        ("the summary counts it so", counted(&both)),
        ("redacted with one key they say the same", same(&both, &redacted)),
        ("one name is replaced by one", one_name(&redacted)),
        ("the report tells it", reported(&report?)),
        ("in the other order, too", reported(&turned_report?)),
        ("a recording is not read twice", refused(twice)),
    ])
}

struct Stallprobe<'a>(&'a Path);

/// What a replay says.
struct Told {
    /// Findings as they were last told, by their ids.
    findings: BTreeMap<String, Value>,
    summaries: Vec<Value>,
    text: String,
}

impl Stallprobe<'_> {
    fn replay(&self, files: &[&Path]) -> Result<Told> {
        let text = self.run(&["replay", "-o", "json"], files)?;
        let (mut findings, mut summaries) = (BTreeMap::new(), Vec::new());
        for line in text.lines() {
            let value: Value =
                serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
            if value["type"] == "finding" || value["type"] == "update" {
                findings.insert(value["id"].to_string(), value);
            } else if value["type"] == "summary" {
                summaries.push(value);
            }
        }
        Ok(Told { findings, summaries, text })
    }

    fn report(&self, files: &[&Path]) -> Result<String> {
        self.run(&["report", "--md"], files)
    }

    /// A copy that may be given away; the first makes the key.
    fn redacted(&self, file: &Path, folder: &Path, name: &str) -> Result<PathBuf> {
        let (key, to) = (folder.join("key"), folder.join(name));
        let [key, copy] = [&key, &to].map(|path| path.display().to_string());
        self.run(&["replay", "--redact-key", &key, "--record", &copy], &[file])?;
        Ok(to)
    }

    fn run(&self, arguments: &[&str], files: &[&Path]) -> Result<String> {
        let output = Command::new(self.0)
            .args(arguments)
            .args(files)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", self.0.display()))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let what = arguments.join(" ");
        ensure!(output.status.success(), "stallprobe {what}: {}: {stderr}", output.status);
        String::from_utf8(output.stdout).context("stallprobe wrote no UTF-8")
    }
}

/// The only finding whose victim is this pod.
fn of<'a>(told: &'a Told, pod: &str) -> Result<&'a Value> {
    let mut found = told.findings.values().filter(|f| f["victim"]["pod"] == pod);
    let first = found.next().with_context(|| format!("no finding of {pod}"))?;
    ensure!(found.next().is_none(), "more than one finding of {pod}");
    Ok(first)
}

fn is(finding: &Value, pointer: &str, want: &Value) -> Result<()> {
    let got = finding.pointer(pointer).unwrap_or(&Value::Null);
    ensure!(got == want, "{pointer} is {got}, not {want}: {finding}");
    Ok(())
}

fn not_here(told: &Told) -> Result<()> {
    // Its SYN was followed to the network card.
    is(of(told, REFUSED[0])?, "/cause", &"left-the-node".into())?;
    for pod in REFUSED.into_iter().chain([OTHER]) {
        unnamed(told, pod)?;
    }
    Ok(())
}

fn unnamed(told: &Told, pod: &str) -> Result<()> {
    let finding = of(told, pod)?;
    let is_so = finding["cause"].as_str().is_some_and(|cause| NOT_HERE.contains(&cause));
    ensure!(is_so, "{pod} has a cause: {finding}");
    Ok(())
}

fn named(told: &Told) -> Result<()> {
    for pod in REFUSED {
        let finding = of(told, pod)?;
        for (pointer, want) in [
            ("/cause", FULL.into()),
            ("/confidence", "certain".into()),
            ("/node", "client-node".into()),
            ("/culprit/pod", "shop".into()),
            ("/details/process", "shop-api".into()),
            ("/details/port", 8080.into()),
        ] {
            is(finding, pointer, &want)?;
        }
        let title = finding["title"].as_str().unwrap_or_default();
        ensure!(title.contains("node server-node"), "the title does not say where: {title}");
        let evidence = finding["evidence"].as_array().into_iter().flatten();
        let is_from_there = |line: &&Value| line["kind"] == "other-node";
        ensure!(evidence.filter(is_from_there).count() == 1, "not one line from the other node");
    }
    unnamed(told, OTHER)
}

/// Symptom, cause and confidence of every finding.
fn words(told: &Told) -> Vec<String> {
    let word =
        |f: &Value| ["symptom", "cause", "confidence"].map(|name| f[name].to_string()).join(" ");
    let mut words: Vec<String> = told.findings.values().map(word).collect();
    words.sort();
    words
}

fn same(a: &Told, b: &Told) -> Result<()> {
    let (a, b) = (words(a), words(b));
    ensure!(a == b, "{a:?}, then {b:?}");
    Ok(())
}

/// What another node explained is no stall that nobody knows of.
fn counted(told: &Told) -> Result<()> {
    let of = |node: &str| told.summaries.iter().find(|summary| summary["node"] == node);
    for (node, stalls) in [("client-node", REFUSED.len() + 1), ("server-node", REFUSED.len())] {
        let summary = of(node).with_context(|| format!("no summary of {node}"))?;
        is(summary, "/stalls", &stalls.into())?;
        is(summary, &format!("/by_cause/{FULL}"), &REFUSED.len().into())?;
    }
    Ok(())
}

/// Both nodes call the shop's address the same, and not what it was.
fn one_name(told: &Told) -> Result<()> {
    if let Some(name) = NAMES.iter().find(|name| told.text.contains(**name)) {
        bail!("{name} is still there");
    }
    // Of the listener's node it is the destination of both; of the client's one asked for a NodePort.
    let mut ends: BTreeMap<&str, u32> = BTreeMap::new();
    for finding in told.findings.values().filter(|f| f["cause"] == FULL) {
        *ends.entry(finding["flow"]["dst"].as_str().unwrap_or_default()).or_default() += 1;
    }
    let mut counts: Vec<u32> = ends.values().copied().collect();
    counts.sort_unstable();
    ensure!(counts == [1, 3], "destinations: {ends:?}");
    Ok(())
}

fn reported(text: &str) -> Result<()> {
    let count = 2 * REFUSED.len();
    let line = format!("| **{FULL}** | {count} |");
    ensure!(text.contains(&line), "no line {line}");
    let says_so = text.lines().filter(|line| line.contains("(seen on node server-node)")).count();
    ensure!(says_so == REFUSED.len(), "{says_so} findings are said to be seen on the other node");
    Ok(())
}

fn refused(told: Result<String>) -> Result<()> {
    let Err(err) = told else { bail!("it was read") };
    let said = err.to_string();
    ensure!(said.contains("the same part of one recording"), "{said}");
    Ok(())
}
