//! What must be told of the recordings of two nodes. The server's node has a full accept queue, which the
//! client's node cannot see; a rule there drops what a third pod sends, which nobody sees.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

const FULL: &str = "accept-queue-overflow";
/// What a node may say of a stall whose reason is on another one.
const NOT_HERE: [&str; 2] = ["unknown", "left-the-node"];
/// Pods of the client's node (tests/src/two_nodes.rs): those that the full queue keeps waiting, and the
/// one for which it is not the reason.
const REFUSED: [&str; 2] = ["client", "client-nodeport"];
const OTHER: &str = "client-other";

type Look = (&'static str, Result<()>);

/// Every look at them, with what came of it.
pub fn all(stallprobe: &Path, client: &Path, server: &Path) -> Result<Vec<Look>> {
    let probe = Stallprobe(stallprobe);
    let alone = probe.replay(&[client])?;
    let both = probe.replay(&[client, server])?;
    let turned = probe.replay(&[server, client])?;
    Ok(vec![
        ("the client's node alone does not know", not_here(&alone)),
        ("together the cause is told", named(&both)),
        ("in the other order, too", named(&turned)),
        ("and nothing else is told then", same(&both, &turned)),
    ])
}

struct Stallprobe<'a>(&'a Path);

/// Findings as they were last told, by their ids.
type Told = BTreeMap<String, Value>;

impl Stallprobe<'_> {
    fn replay(&self, files: &[&Path]) -> Result<Told> {
        let text = self.run(&["replay", "-o", "json"], files)?;
        let mut told = Told::new();
        for line in text.lines() {
            let value: Value =
                serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
            if value["type"] == "finding" || value["type"] == "update" {
                told.insert(value["id"].to_string(), value);
            }
        }
        Ok(told)
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
    let mut found = told.values().filter(|f| f["victim"]["pod"] == pod);
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
    let word = |f: &Value| {
        ["node", "symptom", "cause", "confidence"].map(|name| f[name].to_string()).join(" ")
    };
    let mut words: Vec<String> = told.values().map(word).collect();
    words.sort();
    words
}

fn same(a: &Told, b: &Told) -> Result<()> {
    let (a, b) = (words(a), words(b));
    ensure!(a == b, "{a:?}, then {b:?}");
    Ok(())
}
