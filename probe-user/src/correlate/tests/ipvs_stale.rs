use probe_common::event::{
    IPVS_FOUND, IPVS_GONE, IPVS_LOOKED, Ipvs, NF_ACCEPT, NF_DROP, NF_STOLEN, OUTCOME_FAILED,
};

use super::{json, text};
use crate::{
    event::{Body, IpvsEntry, armed::Outcome},
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
fn an_old_state_of_a_drained_servers_connection_shows_that_ipvs_never_got_the_syn() {
    for (state, cause) in
        [("TIME_WAIT", Cause::Unknown), ("ESTABLISHED", Cause::IpvsStaleConnection)]
    {
        let mut run = Run::new();
        let Body::IpvsEntry(entry) = ipvs_entry(Some(0)) else { panic!("an entry") };
        run.at(500, syn_drop(HOST, IPVS_SERVICE, NETFILTER_DROP, 0x100));
        run.at(600, Body::IpvsEntry(IpvsEntry { state: state.to_owned(), ..entry }));
        run.at(1520, syn_again(IPVS_SERVICE, 500, 1));
        run.until(9000);
        assert_eq!(run.only().cause, cause, "{state}");
    }
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

/// The SYN was dropped, the old connection was read, and its SYN came again after a second.
fn dropped_and_read() -> Run {
    let mut run = Run::new();
    run.at(500, syn_drop(HOST, IPVS_SERVICE, NETFILTER_DROP, 0x100));
    run.at(600, ipvs_entry(None));
    run.at(700, armed_now());
    run.at(1520, syn_again(IPVS_SERVICE, 500, 1));
    run
}

fn why_not(run: &Run) -> &str {
    let why = run.only().ruled_out.iter().find(|n| n.cause == Cause::IpvsStaleConnection);
    why.map_or("", |n| n.why.as_str())
}

#[test]
fn the_armed_hook_makes_a_dropped_syn_certain() {
    let mut run = dropped_and_read();
    run.at(1521, decided(ipvs_verdict(NF_DROP)));
    run.at(1522, syn_drop(HOST, IPVS_SERVICE, NETFILTER_DROP, 0x100));
    run.at(1600, let_go(Outcome::Seen, 900));
    run.until(9000);
    insta::assert_snapshot!(text(&run));
    assert_eq!(run.only().confidence, Confidence::Certain);
    let Details::IpvsStale(details) = &run.only().details else { panic!("details") };
    assert_eq!((details.server_is, details.syn_was), (ServerIs::Removed, SynWas::Dropped));
    assert_eq!((details.state.as_deref(), details.packets_before), (Some("TIME_WAIT"), Some(4)));
}

#[test]
fn a_syn_that_ipvs_let_pass_was_dropped_elsewhere() {
    for verdict in [NF_ACCEPT, NF_STOLEN] {
        let mut run = dropped_and_read();
        run.at(1521, decided(ipvs_verdict(verdict)));
        run.at(1522, syn_drop(HOST, IPVS_SERVICE, NETFILTER_DROP, 0x100));
        run.until(9000);
        assert_eq!(run.only().cause, Cause::Unknown);
        assert!(why_not(&run).contains("did not drop its SYN"), "{}", why_not(&run));
    }
}

#[test]
fn a_drop_for_another_reason_is_not_a_stale_connection() {
    let found = ipvs_verdict(NF_DROP);
    let none = Ipvs { flags: IPVS_LOOKED, ..found };
    let available = Ipvs { flags: IPVS_LOOKED | IPVS_FOUND, weight: 1, ..found };
    // The connection that this connect's own first SYN made.
    let own = Ipvs { state: 3, ..found };
    for decision in [none, available, own] {
        let mut run = dropped_and_read();
        run.at(1521, decided(decision));
        run.until(9000);
        assert_eq!(run.only().cause, Cause::Unknown);
        assert!(why_not(&run).contains("not for an old connection"), "{}", why_not(&run));
    }
}

#[test]
fn a_syn_that_never_came_to_ipvs_was_dropped_before_it() {
    let mut run = dropped_and_read();
    run.at(1522, syn_drop(HOST, IPVS_SERVICE, NETFILTER_DROP, 0x100));
    run.at(4700, let_go(Outcome::NothingSeen, 4000));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
    assert!(why_not(&run).contains("never got it"), "{}", why_not(&run));
}

#[test]
fn an_arming_that_saw_nothing_takes_nothing_away_and_says_so() {
    let mut run = dropped_and_read();
    run.at(4700, let_go(Outcome::NothingSeen, 4000));
    run.until(9000);
    assert_eq!(run.only().confidence, Confidence::Likely);
    let lines: Vec<&str> = run.only().evidence.iter().map(|e| e.text.as_str()).collect();
    assert!(lines.iter().any(|line| line.ends_with("for 4.0 s: nothing seen")), "{lines:?}");
}

#[test]
fn a_time_without_budget_rules_nothing_out() {
    let mut run = dropped_and_read();
    run.at(1522, syn_drop(HOST, IPVS_SERVICE, NETFILTER_DROP, 0x100));
    run.at(1600, let_go(Outcome::OverBudget, 900));
    run.until(9000);
    assert_eq!(run.only().confidence, Confidence::Likely);
    let lines: Vec<&str> = run.only().evidence.iter().map(|e| e.text.as_str()).collect();
    assert!(lines.iter().any(|line| line.ends_with("for 900 ms: over budget")), "{lines:?}");
}

#[test]
fn another_connects_verdict_says_nothing() {
    let mut run = dropped_and_read();
    run.at(1521, decided(Ipvs { ident: ISN + 1, ..ipvs_verdict(NF_DROP) }));
    run.until(9000);
    assert_eq!(run.only().confidence, Confidence::Likely);
}
