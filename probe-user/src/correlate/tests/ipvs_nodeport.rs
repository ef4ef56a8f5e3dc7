use probe_common::event::Ipvs;

use super::{json, text};
use crate::{
    finding::{Cause, Confidence, Details},
    testing::*,
};

#[test]
fn the_syn_ack_goes_to_another_pod() {
    let mut run = Run::new();
    run.at(501, decided(hijack()));
    run.at(600, local_ports(1024, 60999, &[(8080, 8080)]));
    run.at(1520, host_syn_again(500, 1));
    run.at(1521, decided(hijack()));
    run.until(5000);
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
}

#[test]
fn ports_that_could_not_be_read_and_a_service_without_servers() {
    let mut run = Run::new();
    run.at(501, decided(Ipvs { server: [0; 16], server_port: 0, weight: u32::MAX, ..hijack() }));
    run.at(1520, host_syn_again(500, 1));
    run.until(5000);
    assert_eq!(run.only().confidence, Confidence::Certain);
    let Details::NodePort(details) = &run.only().details else { panic!("details") };
    assert_eq!((details.sent_to, details.port_is_reserved), (None, None));
    assert_eq!(details.reserve, "30000-32767");
}

#[test]
fn a_port_that_is_reserved_was_chosen_by_the_program() {
    let mut run = Run::new();
    run.at(501, decided(hijack()));
    run.at(502, local_ports(32768, 60999, &[(30000, 32767)]));
    run.at(1520, host_syn_again(500, 1));
    run.until(5000);
    let Details::NodePort(details) = &run.only().details else { panic!("details") };
    assert_eq!(details.port_is_reserved, Some(true));
    assert_eq!(details.range_overlaps_node_ports, Some(false));
    assert!(run.only().fix[0].caveat.as_deref().is_some_and(|c| c.contains("bind()")));
}

#[test]
fn a_syn_ack_of_another_handshake_says_nothing() {
    let mut run = Run::new();
    run.at(501, decided(Ipvs { ident: ISN + 1, ..hijack() }));
    run.at(1520, host_syn_again(500, 1));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn a_dropped_syn_ack_is_not_a_collision() {
    let mut run = Run::new();
    let mut drop = dropped(HOST, tcp(WEB_END, NODE_PORT), ISN, NETFILTER_DROP, 0x200);
    drop.tcp_flags = 0x12;
    run.at(501, drop_event(drop));
    run.at(1520, host_syn_again(500, 1));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}
