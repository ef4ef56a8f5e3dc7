//! Recordings that the lab's cases made in virtual machines: what is concluded from them must stay the
//! same, on any machine and without one. `cargo xtask test` leaves those of its last run below
//! `target/recordings`; a case whose recording is copied from there is tested here too.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::Path};

use probe_user::{
    correlate::Options,
    finding::{Finding, Output},
    pipeline::Pipeline,
    recording::{
        chain::{Chain, Next},
        open::open,
    },
};

#[test]
fn what_the_lab_recorded_is_named_as_it_was() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "zst"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no recording in {}", folder.display());
    let mut said = String::new();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        said.push_str(&format!("{}\n", name.split('.').next().unwrap()));
        for line in concluded(&path) {
            said.push_str(&format!("  {line}\n"));
        }
    }
    insta::assert_snapshot!(said);
}

/// A line for each finding as it was said last.
fn concluded(path: &Path) -> Vec<String> {
    let inputs = vec![(path.to_owned(), open(path, None).unwrap())];
    let mut chains = Chain::all(inputs).unwrap();
    let mut pipeline = Pipeline::new(Options::default());
    let mut outputs = Vec::new();
    while let Some(next) = chains[0].next().unwrap() {
        match next {
            Next::Event(event) => outputs.extend(pipeline.take(&event)),
            Next::Notice(text) => outputs.extend(unexpected(&text)),
            Next::End(_) => {}
        }
    }
    outputs.extend(pipeline.end());
    let mut findings: Vec<Finding> = Vec::new();
    for output in outputs {
        let (Output::Finding(f) | Output::Update(_, f)) = output;
        match findings.iter_mut().find(|known| known.id == f.id) {
            Some(known) => *known = *f,
            None => findings.push(*f),
        }
    }
    findings.iter().map(line).collect()
}

/// A recording that is whole and of this version has nothing to be noticed.
fn unexpected(text: &str) -> Vec<Output> {
    assert!(text.is_empty(), "{text}");
    Vec::new()
}

fn line(f: &Finding) -> String {
    let name = |pod: Option<&String>| pod.map_or("-", String::as_str).to_owned();
    format!(
        "{} {} {} {} {} <- {} x{}",
        f.id,
        f.symptom.id(),
        f.cause.id(),
        f.confidence.id(),
        name(f.victim.pod.as_ref()),
        name(f.culprit.as_ref().and_then(|culprit| culprit.pod.as_ref())),
        f.count,
    )
}
