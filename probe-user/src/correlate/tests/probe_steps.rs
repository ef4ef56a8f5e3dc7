//! Which step of a probe's server was late, by what its socket showed while the kubelet waited.

use probe_common::event::{
    PROBE_GAVE_UP, PROBE_LATE, Probe, ProbeServer, STEP_ACCEPT, STEP_ANSWER, STEP_NONE, STEP_READ,
    kind,
};

use super::text;
use crate::{
    event::{Body, Listener},
    finding::{Cause, Confidence, Details, Finding, SymptomKind, details::Late},
    testing::*,
};

const PID: u32 = 901;
const GET: &[u8] =
    b"GET /healthz HTTP/1.1\r\nHost: 10.244.4.2:8080\r\nUser-Agent: kube-probe/1.31\r\n";
const HOOK: &[u8] =
    b"GET /bye HTTP/1.1\r\nHost: 10.244.4.2:8080\r\nUser-Agent: kube-lifecycle/1.31\r\n";

/// A step, from when to when in milliseconds, and how often it was seen.
type Seen = (usize, u64, u64, u32);

fn late(found: &Finding) -> (Late, Confidence) {
    let Details::ServerSlow(details) = &found.details else { panic!("{:?}", found.details) };
    let Some(probe) = &details.probe else { panic!("{details:?}") };
    (probe.late, found.confidence)
}

/// The kubelet connects at 501 ms and gets its answer at 3500 ms; `steps` were seen meanwhile.
fn answered(steps: &[Seen], again: u32) -> Run {
    let mut run = Run::new();
    run.at(3500, kubelet(PID));
    run.at(3500, seen_at(steps));
    let event = probe(PROBE_LATE, GET.len() as u64, 64);
    run.at(3500, probed(Probe { silence: 0, retransmits: again, ..event }));
    run.until(9000);
    run
}

const NEVER_ACCEPTED: Seen = (STEP_ACCEPT, 760, 3300, 11);

#[test]
fn the_step_of_most_of_the_wait() {
    for (steps, step) in [
        (&[NEVER_ACCEPTED][..], Late::Accept),
        (&[(STEP_READ, 760, 3300, 11)], Late::Read),
        (&[(STEP_ANSWER, 760, 3300, 11)], Late::Answer),
        (&[(STEP_ACCEPT, 760, 1010, 2), (STEP_READ, 1260, 3300, 8)], Late::Read),
        (&[(STEP_ACCEPT, 760, 2510, 8), (STEP_ANSWER, 2760, 3300, 3)], Late::Accept),
        (
            &[(STEP_ACCEPT, 760, 760, 1), (STEP_READ, 1010, 1260, 2), (STEP_ANSWER, 1510, 3300, 8)],
            Late::Answer,
        ),
    ] {
        let run = answered(steps, 0);
        let found = run.only();
        assert_eq!((found.symptom, found.cause), (SymptomKind::ProbeFailure, Cause::ServerSlow));
        assert_eq!(late(found), (step, Confidence::Likely), "{steps:?}");
    }
}

#[test]
fn what_is_seen_seldom_or_does_not_fit_names_no_step() {
    for (why, steps) in [
        ("twice is not often", &[(STEP_READ, 760, 3300, 2)][..]),
        ("half a second of three", &[(STEP_READ, 760, 1260, 3)]),
        ("two steps of a third each", &[(STEP_READ, 760, 1800, 4), (STEP_ANSWER, 2200, 3300, 5)]),
        ("nothing is accepted twice", &[(STEP_ACCEPT, 760, 3300, 8), (STEP_READ, 1010, 1260, 2)]),
        ("it was done", &[(STEP_READ, 760, 2760, 8), (STEP_NONE, 3010, 3300, 2)]),
        ("a request in two parts", &[(STEP_ANSWER, 760, 2510, 8), (STEP_READ, 1010, 1260, 2)]),
        ("after the answer", &[(STEP_READ, 760, 3600, 11)]),
        ("before it was connected", &[(STEP_READ, 400, 3300, 11)]),
    ] {
        let run = answered(steps, 0);
        assert_eq!(late(run.only()), (Late::Unknown, Confidence::Possible), "{why}");
    }
}

#[test]
fn an_answer_that_was_sent_again_is_not_the_servers_fault() {
    assert_eq!(answered(&[NEVER_ACCEPTED], 1).only().cause, Cause::Unknown);
}

#[test]
fn the_request_that_waits_tells_what_it_is_for() {
    for (request, is_probe) in [(GET, true), (HOOK, false)] {
        let mut run = Run::new();
        let waits = probe_server(kind::PROBE_SEEN, request, request.len() as u32, 0);
        run.at(760, serving(ProbeServer { accepted: 0, ino: 0, ..waits }));
        run.at(760, Body::Listener(Listener { ino: 4711, pid: 76, comm: "master".to_owned() }));
        run.at(760, server_queue(1));
        run.at(3500, kubelet(PID));
        run.at(3500, seen_at(&[NEVER_ACCEPTED]));
        let event = probe(PROBE_LATE, request.len() as u64, 64);
        run.at(3500, probed(Probe { silence: 0, ..event }));
        run.until(9000);
        assert_eq!(run.out.is_empty(), !is_probe, "{:?}", run.out);
        if is_probe {
            let found = run.only();
            assert!(found.headline.contains("kubelet's probe of"), "{}", found.headline);
            let culprit = found.culprit.clone().unwrap_or_default();
            assert_eq!(culprit.process.as_deref(), Some("master"));
            insta::assert_snapshot!(text(&run));
        }
    }
}

/// The kubelet got `received` bytes at once, of `sent`, then none, and closes at `end`.
fn partly(end: u64, (received, sent): (u64, u64), steps: &[Seen]) -> Run {
    let mut run = Run::new();
    run.at(end, kubelet(PID));
    if !steps.is_empty() {
        run.at(end, seen_at(steps));
    }
    let event = probe(PROBE_GAVE_UP, GET.len() as u64, received);
    run.at(end, probed(Probe { silence: (end - 510) * MS, ..event }));
    run.at(end, serving(probe_server(kind::PROBE_SERVER, GET, 0, sent)));
    run.until(end + 8000);
    run
}

#[test]
fn some_bytes_and_then_none() {
    for (step, told) in [(STEP_READ, Late::Read), (STEP_ANSWER, Late::Answer)] {
        // No whole seconds: that it waited was seen.
        let run = partly(2800, (1200, 1200), &[(step, 760, 2300, 7)]);
        let found = run.only();
        assert_eq!((found.symptom, found.cause), (SymptomKind::ProbeFailure, Cause::ServerSlow));
        assert_eq!(late(found), (told, Confidence::Likely));
        assert!(found.title.contains("had sent 1200 bytes"), "{}", found.title);
        assert!(found.headline.contains("got 1200 bytes, then none for"), "{}", found.headline);
        if told == Late::Answer {
            insta::assert_snapshot!(text(&run));
        }
    }
}

/// `timeoutSeconds` are whole; a connection that is kept is closed at any time.
#[test]
fn some_bytes_and_given_up_after_whole_seconds() {
    for (end, is_told) in
        [(2505, true), (2485, true), (2540, true), (2570, false), (2470, false), (2000, false)]
    {
        for steps in [&[][..], &[(STEP_NONE, 760, 2300, 7)]] {
            let run = partly(end, (180, 180), steps);
            assert_eq!(!run.out.is_empty(), is_told, "{end} {:?}", run.out);
            if is_told {
                assert_eq!(late(run.only()), (Late::Unknown, Confidence::Possible));
                assert!(run.only().title.contains("only kept"), "{}", run.only().title);
            }
        }
    }
}

/// One that a lifecycle hook left behind, until the kubelet ends, or for 90 s.
#[test]
fn a_connection_that_is_kept() {
    for (end, last) in [(31_800, 31_600), (90_500, 60_400)] {
        let run = partly(end, (180, 180), &[(STEP_NONE, 760, last, 120)]);
        assert!(run.out.is_empty(), "{:?}", run.out);
    }
}

#[test]
fn a_part_of_an_answer_that_was_lost_is_not_the_servers_fault() {
    let run = partly(2500, (100, 164), &[(STEP_READ, 760, 2300, 7)]);
    assert_eq!(run.only().cause, Cause::Unknown);
}
