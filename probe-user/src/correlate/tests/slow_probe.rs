use probe_common::event::{
    PROBE_CLOSED, PROBE_GAVE_UP, PROBE_LATE, Probe, ProbeServer, STAGE_ACK, kind,
};

use super::text;
use crate::{
    event::{Body, Listener, NamedBy, Pod, PodChange, Process},
    finding::{
        Cause, Confidence, Details, Finding, NotNamed, SymptomKind,
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
    for (ino, pid, comm) in [(4711, 76, "master"), (4712, 77, "health")] {
        run.at(1500, Body::Listener(Listener { ino, pid, comm: comm.to_owned() }));
    }
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

/// TLS and HTTP/2 say something when they close: a server that sends after the FIN need not answer.
#[test]
fn what_the_server_sends_when_the_kubelet_is_gone_need_not_be_an_answer() {
    let mut run = gave_up(server(0, 0));
    run.at(2100, serving(probe_server(kind::PROBE_SERVED, GET, 0, 64)));
    run.until(9000);
    assert_eq!(run.only().confidence, Confidence::Likely);
    assert_eq!(details(run.only()).late, Late::Answer);
    insta::assert_snapshot!(text(&run));
}

/// Go's TLS sends a record right before the FIN, and HTTP/2 a frame.
#[test]
fn a_last_record_that_is_not_read_is_no_unread_request() {
    let mut run = gave_up(server(24, 0));
    run.until(9000);
    assert_eq!((run.only().cause, run.only().confidence), (Cause::ServerSlow, Confidence::Likely));
    assert_eq!(details(run.only()).late, Late::Unknown);
    assert!(!run.only().title.contains("read"), "{}", run.only().title);
}

/// A connection of a lifecycle hook waits for the next request.
#[test]
fn a_connection_that_was_answered_may_be_closed_at_any_time() {
    let mut run = Run::new();
    run.at(31_700, kubelet(PID));
    run.at(31_700, probed(probe(PROBE_GAVE_UP, GET.len() as u64, 180)));
    run.at(31_700, serving(server(0, 180)));
    run.until(39_000);
    assert!(run.out.is_empty(), "{:?}", run.out);
}

#[test]
fn a_lifecycle_hook_is_no_probe() {
    let hook: &[u8] =
        b"GET /bye HTTP/1.1\r\nHost: 10.244.4.2:8080\r\nUser-Agent: kube-lifecycle/1.31\r\n";
    let mut run = Run::new();
    run.at(1500, kubelet(PID));
    run.at(1500, probed(probe(PROBE_GAVE_UP, hook.len() as u64, 0)));
    run.at(1500, serving(probe_server(kind::PROBE_SERVER, hook, hook.len() as u32, 0)));
    run.until(9000);
    assert!(run.out.is_empty(), "{:?}", run.out);
}

#[test]
fn only_a_request_tells_a_probe_from_a_lifecycle_hook() {
    for (unread, words) in [(GET.len(), "kubelet's probe of"), (0, "probe or lifecycle hook of")] {
        let mut run = gave_up(server(unread, 0));
        run.until(9000);
        assert!(run.only().headline.contains(words), "{}", run.only().headline);
    }
}

#[test]
fn a_server_that_accepts_is_named_and_not_who_listens() {
    for (ino, accepted, name) in [(4712, 1, "health"), (0, 0, "master"), (9, 1, "")] {
        let mut run = gave_up(ProbeServer { ino, accepted, ..server(GET.len(), 0) });
        run.until(9000);
        let culprit = run.only().culprit.clone().unwrap_or_default();
        assert_eq!(culprit.process.unwrap_or_default(), name);
    }
}

/// Not those of the node itself, where it is a container.
#[test]
fn only_pods_of_kubernetes_are_probed() {
    for (named_by, is_probe) in [
        (NamedBy::Pod, true),
        (NamedBy::Uid, true),
        (NamedBy::Container, false),
        (NamedBy::Netns, false),
        (NamedBy::Number, false),
    ] {
        let mut run = Run::new();
        let Body::Pod(PodChange::Up(pod)) = up(WEB, "web", "10.244.4.2") else { unreachable!() };
        let pod = Pod { named_by: Some(named_by), ..pod };
        run.at(100, Body::Pod(PodChange::Up(pod)));
        run.at(1500, kubelet(PID));
        run.at(1500, probed(probe(PROBE_CLOSED, GET.len() as u64, 0)));
        run.until(9000);
        assert_eq!(run.out.len(), usize::from(is_probe), "{named_by:?} {:?}", run.out);
    }
}

#[test]
fn a_kubelet_that_is_told_of_later() {
    let mut run = Run::new();
    run.at(1500, probed(probe(PROBE_GAVE_UP, GET.len() as u64, 0)));
    run.at(1500, serving(server(GET.len(), 0)));
    run.at(1900, kubelet(PID));
    run.until(9000);
    assert_eq!(
        (run.only().symptom, run.only().cause),
        (SymptomKind::ProbeFailure, Cause::ServerSlow)
    );
}

#[test]
fn a_server_whose_socket_is_not_found_is_not_ruled_out() {
    let mut run = Run::new();
    run.at(1500, kubelet(PID));
    run.at(1500, probed(probe(PROBE_GAVE_UP, GET.len() as u64, 0)));
    run.until(9000);
    let found = run.only();
    let of = |all: &[NotNamed]| all.iter().any(|n| n.cause == Cause::ServerSlow);
    assert_eq!(found.cause, Cause::Unknown);
    assert!(of(&found.not_seen) && !of(&found.ruled_out), "{found:?}");
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
fn an_answer_that_was_dropped_on_its_way_is_not_the_servers_fault() {
    for (at, cause) in [(1400, Cause::Unknown), (1600, Cause::ServerSlow)] {
        let mut run = Run::new();
        let back = dropped(HOST, tcp(WEB_END, NODE_PORT), 99, NETFILTER_DROP, 0x100);
        if at < 1500 {
            run.at(at, drop_event(back));
        }
        run.at(1500, kubelet(PID));
        run.at(1500, probed(probe(PROBE_GAVE_UP, GET.len() as u64, 0)));
        run.at(1500, serving(server(0, 0)));
        if at > 1500 {
            run.at(at, drop_event(back));
        }
        run.until(9000);
        assert_eq!((run.only().symptom, run.only().cause), (SymptomKind::ProbeFailure, cause));
    }
}

/// The last bytes are acknowledged a moment later.
#[test]
fn packets_sent_again_are_not_the_servers_fault() {
    let all = GET.len() as u64;
    for (again, missing, cause) in
        [(1, 0, Cause::Unknown), (0, 1, Cause::Unknown), (0, 0, Cause::ServerSlow)]
    {
        let mut run = Run::new();
        run.at(1500, kubelet(PID));
        let event = probe(PROBE_GAVE_UP, all, 0);
        run.at(1500, probed(Probe { retransmits: again, unacked: 1, ..event }));
        run.at(1500, serving(ProbeServer { received: all - missing, ..server(0, 0) }));
        run.until(9000);
        assert_eq!(run.only().cause, cause);
        let why = run.only().ruled_out.iter().find(|n| n.cause == Cause::ServerSlow);
        let why = why.map_or("", |n| n.why.as_str());
        let want = match (again, missing) {
            (1, _) => "packets of it were sent again",
            (_, 1) => "not all that the kubelet sent had come to the server's socket",
            _ => "",
        };
        assert_eq!(why, want);
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
    assert_eq!((found.cause, found.confidence), (Cause::ServerSlow, Confidence::Possible));
    assert_eq!(details(found).late, Late::Unknown);
    assert!(found.headline.contains("answered only after 3.0 s"), "{}", found.headline);
}

/// A lifecycle hook may take that long.
#[test]
fn an_answer_later_than_any_probe_waits() {
    let mut run = Run::new();
    run.at(70_500, kubelet(PID));
    let event = probe(PROBE_LATE, GET.len() as u64, 64);
    run.at(70_500, probed(Probe { silence: 0, ..event }));
    run.until(79_000);
    assert!(run.out.is_empty(), "{:?}", run.out);
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
fn a_server_that_hangs_up_at_once_is_not_slow() {
    for (err, how) in [(0, "closed"), (104, "reset")] {
        let mut run = Run::new();
        run.at(503, kubelet(PID));
        let event = probe(PROBE_CLOSED, GET.len() as u64, 0);
        run.at(503, probed(Probe { err, ..event }));
        run.until(9000);
        let told = run.only();
        assert_eq!((told.symptom, told.cause), (SymptomKind::ProbeFailure, Cause::Unknown));
        let headline = format!("was {how} by the server without an answer after 3 ms");
        assert!(told.headline.contains(&headline), "{}", told.headline);
        assert!(told.title.starts_with("the server's side ended"), "{}", told.title);
        let slow = told.ruled_out.iter().find(|other| other.cause == Cause::ServerSlow);
        assert!(slow.is_some_and(|other| other.why.contains("at once")) == (err == 0), "{slow:?}");
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
