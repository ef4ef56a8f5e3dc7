use probe_common::event::{Connect, OUTCOME_FAILED, kind};

use super::{json, text};
use crate::{
    event::Body,
    finding::{Cause, Confidence, SymptomKind},
    testing::*,
};

const OUTSIDE: &str = "198.51.100.7:443";
const EADDRNOTAVAIL: u32 = 99;

fn failed(at: u64, err: u32, source: &str) -> Body {
    let e = connect(kind::CONNECT_END, OUTSIDE, at, 0);
    Body::Connect(Box::new(Connect {
        tuple: tcp(source, OUTSIDE),
        isn: 0,
        outcome: OUTCOME_FAILED,
        err,
        port_range: 60999 << 16 | 32768,
        ..e
    }))
}

#[test]
fn every_local_port_is_taken() {
    let mut run = Run::new();
    run.at(500, failed(500, EADDRNOTAVAIL, "10.244.1.2:0"));
    run.until(9000);
    assert_eq!(run.only().confidence, Confidence::Certain);
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
}

#[test]
fn each_failure_counts() {
    let mut run = Run::new();
    for i in 0..20 {
        run.at(500 + i, failed(500 + i, EADDRNOTAVAIL, "10.244.1.2:0"));
    }
    run.until(30_000);
    assert_eq!(run.pipeline.status().stalls, 20);
    assert!(run.causes().iter().all(|c| *c == Cause::ClientPortsExhausted));
    assert_eq!(run.causes().len(), 1);
}

#[test]
fn a_port_of_its_own_or_another_error_is_something_else() {
    // The kernel side does not send the first; it would not be believed either.
    for (err, source) in [(EADDRNOTAVAIL, CLIENT_END), (110, "10.244.1.2:0")] {
        let mut run = Run::new();
        run.at(500, failed(500, err, source));
        run.until(9000);
        assert_eq!(run.only().cause, Cause::Unknown);
    }
    let mut run = Run::new();
    run.at(500, failed(500, 111, "10.244.1.2:0"));
    run.until(9000);
    assert!(run.findings().iter().all(|f| f.symptom == SymptomKind::ConnectRefused));
    assert!(!run.causes().contains(&Cause::ClientPortsExhausted));
}
