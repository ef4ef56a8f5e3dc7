use probe_common::event::{Ipvs, OUTCOME_FAILED, kind};

use super::{json, text};
use crate::{
    finding::{Cause, Confidence, Details},
    testing::*,
};

const REFUSED: u32 = 111;

#[test]
fn a_service_without_servers() {
    let mut run = Run::new();
    run.at(500, decided(ipvs(kind::IPVS_NO_SERVER, None)));
    run.at(500, syn_drop(HOST, IPVS_SERVICE, NETFILTER_DROP, 0x100));
    run.at(501, connect_end(IPVS_SERVICE, 500, 0, OUTCOME_FAILED, REFUSED));
    assert_eq!(run.first_finding_at(5000), Some(900));
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
}

#[test]
fn a_service_whose_servers_are_all_drained() {
    let mut run = Run::new();
    run.at(500, decided(Ipvs { dests: 3, ..ipvs(kind::IPVS_NO_SERVER, None) }));
    run.at(501, connect_end(IPVS_SERVICE, 500, 0, OUTCOME_FAILED, REFUSED));
    run.until(5000);
    assert!(run.only().title.contains("(3 listed, all with weight 0)"));
    let Details::NoBackend(details) = &run.only().details else { panic!("details") };
    assert_eq!(details.servers, 3);
}

#[test]
fn a_query_to_a_dns_service_without_servers() {
    let mut run = Run::new();
    let mut told = ipvs(kind::IPVS_NO_SERVER, None);
    told.tuple = udp(CLIENT_END, SERVICE);
    (told.ident, told.tcp_flags) = (0x2222, 0);
    run.at(500, decided(told));
    run.at(5500, retry(0x2222, AAAA, 500, 5500));
    run.until(9000);
    let found = (run.only().cause, run.only().confidence);
    assert_eq!(found, (Cause::ServiceNoBackend, Confidence::Certain));
}

#[test]
fn the_same_dns_id_of_another_client_says_nothing() {
    let mut run = Run::new();
    let mut told = ipvs(kind::IPVS_NO_SERVER, None);
    told.tuple = udp("10.244.4.2:40312", SERVICE);
    (told.ident, told.tcp_flags) = (0x2222, 0);
    run.at(500, decided(told));
    run.at(5500, retry(0x2222, AAAA, 500, 5500));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn a_refusal_that_came_from_elsewhere_is_unknown() {
    let mut run = Run::new();
    run.at(500, decided(Ipvs { ident: ISN + 1, ..ipvs(kind::IPVS_NO_SERVER, None) }));
    run.at(501, connect_end(IPVS_SERVICE, 500, 0, OUTCOME_FAILED, REFUSED));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}
