use probe_common::event::{OUTCOME_FAILED, kind};

use super::text;
use crate::{
    event::{Body, Container, Process},
    finding::{Cause, Confidence, SymptomKind},
    testing::*,
};

/// The pid of [`connect`]'s client.
const PID: u32 = 901;

/// A connect of the host to the web pod that the program gave up after so many ms.
fn given_up(ms: u64) -> Body {
    let Body::Connect(mut connect) = host_syn_again(500, 0) else { unreachable!() };
    connect.header.kind = kind::CONNECT_END;
    connect.outcome = OUTCOME_FAILED;
    connect.header.ts = START + (500 + ms) * MS;
    Body::Connect(connect)
}

#[test]
fn a_probe_that_lost_its_only_syn() {
    let mut run = Run::new();
    run.at(501, refused(NODE_PORT, ISN));
    run.at(1499, kubelet(PID));
    run.at(1499, given_up(999));
    run.until(9000);
    let found = run.only();
    assert_eq!(
        (found.symptom, found.cause),
        (SymptomKind::ProbeFailure, Cause::AcceptQueueOverflow)
    );
    assert_eq!(found.victim.pod.as_deref(), Some("web"));
    insta::assert_snapshot!(text(&run));
}

#[test]
fn a_probe_whose_syn_vanished() {
    let mut run = Run::new();
    run.at(1499, kubelet(PID));
    run.at(1499, given_up(999));
    run.until(9000);
    let found = run.only();
    assert_eq!((found.symptom, found.cause), (SymptomKind::ProbeFailure, Cause::Unknown));
    assert_eq!(found.confidence, Confidence::Possible);
    assert!(found.headline.contains("gave up after"), "{}", found.headline);
}

#[test]
fn another_program_of_the_node_does_not_probe() {
    let mut run = Run::new();
    run.at(1498, kubelet(PID + 1));
    run.at(1501, given_up(1001));
    run.until(9000);
    assert_eq!(run.only().symptom, SymptomKind::ConnectStall);
    assert_eq!(run.only().victim.pod.as_deref(), Some("host"));
}

#[test]
fn below_the_least_stall_another_program_is_told_only_with_a_cause() {
    let mut run = Run::new();
    run.at(1499, given_up(999));
    run.until(9000);
    assert!(run.out.is_empty(), "{:?}", run.out);
    let mut run = Run::new();
    run.at(501, refused(NODE_PORT, ISN));
    run.at(1499, given_up(999));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::AcceptQueueOverflow);
}

#[test]
fn a_node_without_a_port_did_not_probe() {
    let mut run = Run::new();
    run.at(499, kubelet(PID));
    let Body::Connect(mut connect) = given_up(0) else { unreachable!() };
    (connect.err, connect.tuple.sport) = (99, 0);
    run.at(500, Body::Connect(connect));
    run.until(9000);
    let found = run.only();
    assert_eq!(
        (found.symptom, found.cause),
        (SymptomKind::ConnectStall, Cause::ClientPortsExhausted)
    );
    assert_eq!(found.victim.pod.as_deref(), Some("host"));
}

#[test]
fn a_number_that_is_another_process_now() {
    let mut run = Run::new();
    run.at(400, kubelet(PID));
    run.at(500, process_of(PID, "kube-system/agent"));
    run.at(1501, given_up(1001));
    run.until(9000);
    assert_eq!(run.only().symptom, SymptomKind::ConnectStall);
    assert_eq!(run.only().victim.pod.as_deref(), Some("kube-system/agent"));
}

#[test]
fn the_kubelet_of_another_network_does_not_probe_here() {
    let mut run = Run::new();
    run.at(1498, kubelet(PID));
    run.at(1520, syn_again(WEB_END, 500, 1));
    run.until(9000);
    assert_eq!(run.only().symptom, SymptomKind::ConnectStall);
    assert_eq!(run.only().victim.pod.as_deref(), Some("client"));
}

#[test]
fn what_is_given_up_early_is_no_stall() {
    let mut run = Run::new();
    run.at(1200, kubelet(PID));
    run.at(1300, given_up(800));
    run.until(9000);
    assert!(run.out.is_empty(), "{:?}", run.out);
}

/// Processes of pods are many, and must not push out what was told once.
#[test]
fn the_kubelet_is_not_forgotten_among_processes_of_pods() {
    let mut run = Run::new();
    run.at(1, kubelet(PID));
    for pid in 10_000..30_000 {
        let container = Some(Container { id: "a".repeat(64), name: None });
        run.at(2, Body::Process(Process { pid, container, ..Process::default() }));
    }
    run.at(1520, host_syn_again(500, 1));
    run.until(9000);
    assert_eq!(run.only().symptom, SymptomKind::ProbeFailure);
}
