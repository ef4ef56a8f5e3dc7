#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;

use crate::{
    event::{Body, Container, Pod, PodChange, Process, Sandbox},
    finding::{Cause, NotNamed, Party},
    testing::*,
};

/// The pid of [`connect`]'s client.
const PID: u32 = 901;

#[test]
fn a_process_of_the_nodes_network_is_its_pods() {
    let mut run = Run::new();
    run.at(1519, process_of(PID, "kube-system/node-local-dns-x1"));
    run.at(1520, host_syn_again(500, 1));
    run.until(9000);
    let found = run.only();
    assert_eq!(found.victim.pod.as_deref(), Some("kube-system/node-local-dns-x1"));
    assert_eq!(found.victim.netns, Some(HOST));
    assert!(
        found.headline.starts_with("pod kube-system/node-local-dns-x1 ("),
        "{}",
        found.headline
    );
}

#[test]
fn other_processes_of_it_are_the_nodes_own() {
    let mut run = Run::new();
    run.at(1519, process_of(PID + 1, "kube-system/node-local-dns-x1"));
    run.at(1520, host_syn_again(500, 1));
    run.until(9000);
    assert_eq!(run.only().victim.pod.as_deref(), Some("host"));
    assert!(run.only().headline.starts_with("the node itself ("), "{}", run.only().headline);
}

#[test]
fn a_pod_with_a_network_of_its_own_is_called_by_that() {
    let mut run = Run::new();
    run.at(1519, process_of(PID, "kube-system/other"));
    run.at(1520, syn_again(WEB_END, 500, 1));
    run.until(9000);
    assert_eq!(run.only().victim.pod.as_deref(), Some("client"));
}

fn container(name: &str) -> Container {
    Container { id: name.repeat(64), name: Some(name.to_owned()) }
}

fn names(party: &Party) -> Vec<&str> {
    party.containers.iter().filter_map(|container| container.name.as_deref()).collect()
}

#[test]
fn the_container_of_the_process_else_those_of_the_pod() {
    let of_process = Process { container: Some(container("b")), ..process(PID) };
    let (pod, addresses) = ("shop/client".to_owned(), vec!["10.244.1.2".parse().unwrap()]);
    let containers = vec![container("a"), container("b")];
    let pod = Pod { netns: CLIENT, name: pod, addresses, containers, ..Pod::default() };
    for (told, expected) in [(None, vec!["a", "b"]), (Some(of_process), vec!["b"])] {
        let mut run = Run::new();
        run.at(0, Body::Pod(PodChange::Up(pod.clone())));
        if let Some(process) = told {
            run.at(1519, Body::Process(process));
        }
        run.at(1520, syn_again(WEB_END, 500, 1));
        run.until(9000);
        assert_eq!(names(&run.only().victim), expected);
    }
}

/// What happens at the sockets of a sandboxed pod is not ruled out, for nobody looks at them.
#[test]
fn the_sockets_of_a_sandboxed_pod_are_not_seen() {
    let at_sockets =
        [Cause::AcceptQueueOverflow, Cause::SynQueueOverflow, Cause::NoListener].map(Cause::id);
    for sandbox in [None, Some(Sandbox::Kata)] {
        let mut run = Run::new();
        let (name, addresses) =
            ("shop/safe-0".to_owned(), vec![WEB_END.parse::<SocketAddr>().unwrap().ip()]);
        let pod = Pod { netns: WEB, name, addresses, sandbox, ..Pod::default() };
        run.at(0, Body::Pod(PodChange::Up(pod)));
        run.at(1520, syn_again(WEB_END, 500, 1));
        run.until(90_000);
        let found = run.only();
        let of = |all: &[NotNamed]| -> Vec<&str> {
            let ids = all.iter().map(|n| n.cause.id());
            ids.filter(|id| at_sockets.contains(id)).collect()
        };
        let (ruled_out, not_seen) = (of(&found.ruled_out), of(&found.not_seen));
        match sandbox {
            None => assert_eq!((ruled_out.len(), not_seen.len()), (3, 0)),
            Some(_) => assert_eq!((ruled_out.len(), not_seen.len()), (0, 3)),
        }
        let why = "the sockets of shop/safe-0 are invisible: it runs in Kata";
        assert_eq!(found.not_seen.iter().any(|n| n.why == why), sandbox.is_some());
    }
}
