#![expect(clippy::unwrap_used, reason = "tests")]

use crate::{
    event::{Body, Container, Pod, PodChange, Process},
    finding::Party,
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
    let of_process =
        Process { pid: PID, pod: None, container: Some(container("b")), kubelet: false };
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
