use probe_common::event::{IPVS_GONE, Ipvs, OUTCOME_FAILED};

use super::{json, text};
use crate::{
    event::{Body, IpvsEntry},
    finding::{
        Cause, Confidence, Details,
        details::{ServerIs, SynWas},
    },
    testing::*,
};

const NO_ROUTE: u32 = 113;

#[test]
fn the_syn_goes_to_a_drained_server_without_a_route() {
    let mut run = Run::new();
    run.at(500, decided(stale()));
    run.at(501, syn_drop(HOST, IPVS_SERVICE, 2, 0x200));
    run.at(502, connect_end(IPVS_SERVICE, 500, 0, OUTCOME_FAILED, NO_ROUTE));
    assert_eq!(run.first_finding_at(5000), Some(900));
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
}

#[test]
fn the_syn_is_dropped_for_the_server_is_not_listed_any_more() {
    let mut run = Run::new();
    run.at(500, syn_drop(HOST, IPVS_SERVICE, NETFILTER_DROP, 0x100));
    run.at(600, ipvs_entry(None));
    run.at(1520, syn_again(IPVS_SERVICE, 500, 1));
    run.until(9000);
    insta::assert_snapshot!(text(&run));
    let Details::IpvsStale(details) = &run.only().details else { panic!("details") };
    assert_eq!((details.server_is, details.syn_was), (ServerIs::Removed, SynWas::Dropped));
    assert_eq!(run.only().confidence, Confidence::Likely);
}

#[test]
fn a_server_that_was_taken_out_is_said_so() {
    let mut run = Run::new();
    run.at(500, decided(Ipvs { flags: IPVS_GONE, weight: 1, ..stale() }));
    run.at(1520, syn_again(IPVS_SERVICE, 500, 1));
    run.until(9000);
    let Details::IpvsStale(details) = &run.only().details else { panic!("details") };
    assert_eq!((details.server_is, details.syn_was), (ServerIs::Removed, SynWas::Sent));
}

#[test]
fn the_connection_of_this_very_connect_is_not_an_old_one() {
    let mut run = Run::new();
    // Scheduled, then drained, then sent again.
    run.at(1520, syn_again(IPVS_SERVICE, 500, 1));
    run.at(1520, decided(Ipvs { in_pkts: 1, ..stale() }));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn another_clients_syn_says_nothing() {
    let mut run = Run::new();
    run.at(500, decided(Ipvs { ident: ISN + 1, ..stale() }));
    run.at(1520, syn_again(IPVS_SERVICE, 500, 1));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn an_old_connection_to_a_server_that_is_well_is_not_to_blame() {
    let mut run = Run::new();
    run.at(500, syn_drop(HOST, IPVS_SERVICE, NETFILTER_DROP, 0x100));
    run.at(600, ipvs_entry(Some(1)));
    run.at(1520, syn_again(IPVS_SERVICE, 500, 1));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
    let why = run.only().ruled_out.iter().find(|n| n.cause == Cause::IpvsStaleConnection);
    assert!(why.is_some_and(|n| n.why.contains("takes connections")));
}

#[test]
fn a_connection_that_was_never_answered_may_be_this_connects_own() {
    let mut run = Run::new();
    let Body::IpvsEntry(entry) = ipvs_entry(None) else { panic!("an entry") };
    run.at(1520, syn_again(IPVS_SERVICE, 500, 1));
    run.at(1520, syn_drop(HOST, IPVS_SERVICE, NETFILTER_DROP, 0x100));
    run.at(1600, Body::IpvsEntry(IpvsEntry { state: "SYN_RECV".to_owned(), ..entry }));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn a_drop_by_an_nft_rule_is_not_ipvs() {
    let mut run = Run::new();
    run.at(500, syn_drop(HOST, IPVS_SERVICE, NETFILTER_DROP, 0x200));
    run.at(600, ipvs_entry(None));
    run.at(1520, syn_again(IPVS_SERVICE, 500, 1));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}
