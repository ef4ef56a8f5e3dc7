//! Recordings that the lab's cases made in virtual machines: what is concluded from them must stay the
//! same, on any machine and without one. `cargo xtask test` leaves those of its last run below
//! `target/recordings`; a case whose recording is copied from there is tested here too.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::Path};

use probe_user::{
    correlate::Options,
    finding::{Finding, Output},
    nodes::{Ids, Merge, Nodes},
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

/// Of two machines that were connected (tests/src/two_nodes.rs). The queue that kept two clients of the one
/// waiting was on the other.
#[test]
fn what_two_nodes_recorded_explains_each_other() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/two-nodes");
    let [client, server] =
        ["client", "server"].map(|name| folder.join(format!("{name}.pcapng.zst")));
    let said = together(&[&client, &server]);
    assert_eq!(said, together(&[&server, &client]));
    // Alone the client's node knows where its SYN went, and no more.
    insta::assert_snapshot!([concluded(&client), vec![String::new()], said].concat().join("\n"));
}

/// The same of recordings that are played side by side, in the order of the lines.
fn together(paths: &[&Path]) -> Vec<String> {
    let inputs = paths.iter().map(|path| (path.to_path_buf(), open(path, None).unwrap())).collect();
    let mut chains = Chain::all(inputs).unwrap();
    let mut merge = Merge::new(chains.len());
    let mut nodes = Nodes::new(chains.len(), Ids::ByName, &Options::default());
    let mut outputs = Vec::new();
    loop {
        while let Some(node) = merge.wants() {
            match chains[node].next().unwrap() {
                Some(Next::Event(event)) => merge.put(node, Some(event)),
                Some(Next::Notice(text)) => outputs.extend(unexpected(&text)),
                Some(Next::End(_)) => {}
                None => merge.put(node, None),
            }
        }
        let Some((node, event)) = merge.take() else { break };
        outputs.extend(nodes.take(node, &event).into_iter().map(|(_, output)| output));
    }
    outputs.extend(nodes.end().into_iter().map(|(_, output)| output));
    let mut lines = last(outputs);
    lines.sort();
    lines
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
    last(outputs)
}

fn last(outputs: Vec<Output>) -> Vec<String> {
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
