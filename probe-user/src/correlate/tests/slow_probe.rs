use probe_common::event::{
    PROBE_CLOSED, PROBE_GAVE_UP, PROBE_LATE, Probe, ProbeServer, STAGE_ACK, kind,
};

use super::text;
use crate::{
    event::{Body, Listener, Process},
    finding::{
        Cause, Confidence, Details, Finding, SymptomKind,
        details::{Late, SlowProbe},
    },
    testing::*,
};

const PID: u32 = 901;
const GET: &[u8] =
    b"GET /healthz HTTP/1.1\r\nHost: 10.244.4.2:8080\r\nUser-Agent: kube-probe/1.31\r\n";

fn details(found: &Finding) -> &SlowProbe {
    let Details::ServerSlow(details) = &found.details else { panic!("{:?}", found.details) };
    let Some(probe) = &details.probe else { panic!("{details:?}") };
    probe
}

/// A server that accepted the request.
fn server(unread: usize, sent: u64) -> ProbeServer {
    probe_server(kind::PROBE_SERVER, GET, unread as u32, sent)
}

/// A run in which the kubelet gives up at 1500 ms, with a server of that state then.
fn gave_up(server: ProbeServer) -> Run {
    let mut run = Run::new();
    run.at(1500, kubelet(PID));
    run.at(1500, probed(probe(PROBE_GAVE_UP, GET.len() as u64, 0)));
    run.at(1500, serving(server));
    let (ino, pid, comm) = (4711, 77, "health".to_owned());
    run.at(1500, Body::Listener(Listener { ino, pid, comm }));
    run.at(1500, server_queue(3));
    run
}

#[test]
fn a_connection_that_nobody_accepts() {
    let mut run = gave_up(ProbeServer { accepted: 0, ino: 0, ..server(GET.len(), 0) });
    run.until(9000);
    let found = run.only();
    assert_eq!((found.symptom, found.cause), (SymptomKind::ProbeFailure, Cause::ServerSlow));
    assert_eq!(found.confidence, Confidence::Certain);
    assert_eq!(found.victim.pod.as_deref(), Some("web"));
    let told = details(found);
    assert_eq!((told.late, told.protocol), (Late::Accept, Some("http")));
    assert_eq!(told.request.as_deref(), Some("GET /healthz"));
    insta::assert_snapshot!(text(&run));
}

#[test]
fn a_request_that_is_not_read() {
    let mut run = gave_up(server(GET.len(), 0));
    run.until(9000);
    assert_eq!(run.only().confidence, Confidence::Certain);
    assert_eq!(details(run.only()).late, Late::Read);
}

#[test]
fn an_answer_that_comes_when_the_kubelet_is_gone() {
    let mut run = gave_up(server(0, 0));
    run.at(2100, serving(probe_server(kind::PROBE_SERVED, GET, 0, 64)));
    run.until(9000);
    assert_eq!(run.only().confidence, Confidence::Certain);
    assert_eq!(details(run.only()).late, Late::Answer);
    insta::assert_snapshot!(text(&run));
}

#[test]
fn no_answer_at_all() {
    let mut run = gave_up(server(0, 0));
    run.until(9000);
    assert_eq!(run.only().confidence, Confidence::Likely);
    assert_eq!(details(run.only()).late, Late::Answer);
}

#[test]
fn an_answer_that_was_lost_is_not_the_servers_fault() {
    let mut run = gave_up(server(0, 64));
    run.until(9000);
    assert_eq!((run.only().symptom, run.only().cause), (SymptomKind::ProbeFailure, Cause::Unknown));
}

#[test]
fn packets_sent_again_are_not_the_servers_fault() {
    for change in [|p: &mut Probe| p.retransmits = 1, |p: &mut Probe| p.unacked = 1] {
        let mut run = Run::new();
        run.at(1500, kubelet(PID));
        let mut event = probe(PROBE_GAVE_UP, GET.len() as u64, 0);
        change(&mut event);
        run.at(1500, probed(event));
        run.at(1500, serving(server(0, 0)));
        run.until(9000);
        assert_eq!(run.only().cause, Cause::Unknown);
    }
}

#[test]
fn a_refused_final_ack_is_a_full_accept_queue() {
    let mut run = Run::new();
    let mut refusal = refusal(NODE_PORT, ISN);
    refusal.stage = STAGE_ACK;
    run.at(502, Body::Listen(Box::new(refusal)));
    run.at(1500, kubelet(PID));
    let event = probe(PROBE_GAVE_UP, GET.len() as u64, 0);
    run.at(1500, probed(Probe { retransmits: 2, unacked: 1, ..event }));
    run.until(9000);
    let found = run.only();
    assert_eq!(
        (found.symptom, found.cause),
        (SymptomKind::ProbeFailure, Cause::AcceptQueueOverflow)
    );
    assert_eq!(found.confidence, Confidence::Certain);
}

#[test]
fn an_answer_late_but_in_time_for_the_kubelet() {
    let mut run = Run::new();
    run.at(3500, kubelet(PID));
    let event = probe(PROBE_LATE, GET.len() as u64, 64);
    run.at(3500, probed(Probe { silence: 0, ..event }));
    run.until(9000);
    let found = run.only();
    assert_eq!((found.cause, found.confidence), (Cause::ServerSlow, Confidence::Likely));
    assert_eq!(details(found).late, Late::Unknown);
    assert!(found.headline.contains("answered only after 3.0 s"), "{}", found.headline);
}

#[test]
fn a_server_that_hangs_up_and_one_that_resets() {
    for (err, cause) in [(0, Cause::ServerSlow), (104, Cause::Unknown)] {
        let mut run = Run::new();
        run.at(3500, kubelet(PID));
        let event = probe(PROBE_CLOSED, GET.len() as u64, 0);
        run.at(3500, probed(Probe { err, ..event }));
        run.until(9000);
        assert_eq!((run.only().symptom, run.only().cause), (SymptomKind::ProbeFailure, cause));
    }
}

#[test]
fn another_program_may_wait_as_long_as_it_likes() {
    for process in [kubelet(PID + 1), process_of(PID, "kube-system/agent")] {
        let mut run = Run::new();
        run.at(1500, process);
        run.at(1500, probed(probe(PROBE_GAVE_UP, 64, 0)));
        run.at(1500, serving(server(0, 0)));
        run.until(9000);
        assert!(run.out.is_empty(), "{:?}", run.out);
    }
}

#[test]
fn what_the_kubelet_asks_elsewhere_is_no_probe() {
    for to in ["10.0.3.17:6443", "10.0.9.9:6443", "127.0.0.1:6443"] {
        let mut run = Run::new();
        run.at(1500, kubelet(PID));
        let event = probe(PROBE_GAVE_UP, 64, 0);
        run.at(1500, probed(Probe { tuple: tcp(NODE_PORT, to), ..event }));
        run.until(9000);
        assert!(run.out.is_empty(), "{to}: {:?}", run.out);
    }
}

#[test]
fn a_program_with_an_api_server_probes_where_the_request_says_so() {
    let other = b"GET /metrics HTTP/1.1\r\nUser-Agent: Go-http-client/1.1\r\n";
    for (request, is_probe) in [(GET, true), (&other[..], false)] {
        let mut run = Run::new();
        run.at(1500, Body::Process(Process { has_kubelet: true, ..process(PID) }));
        run.at(1500, probed(probe(PROBE_GAVE_UP, request.len() as u64, 0)));
        let unread = request.len() as u32;
        run.at(1500, serving(probe_server(kind::PROBE_SERVER, request, unread, 0)));
        run.until(9000);
        assert_eq!(run.causes() == [Cause::ServerSlow], is_probe, "{:?}", run.out);
        assert_eq!(run.out.is_empty(), !is_probe);
    }
}

#[test]
fn the_kubelet_of_a_node_that_is_a_container() {
    for (netns, is_probe) in [(CLIENT, true), (DNS_A, false)] {
        let mut run = Run::new();
        run.at(1500, Body::Process(Process { kubelet: true, netns, ..process(PID) }));
        let event = probe(PROBE_GAVE_UP, GET.len() as u64, 0);
        let tuple = tcp(CLIENT_END, WEB_END);
        let header = header(kind::PROBE_END, CLIENT);
        run.at(1500, probed(Probe { header, tuple, ..event }));
        run.until(9000);
        assert_eq!(run.out.len(), usize::from(is_probe), "{:?}", run.out);
    }
}
