use probe_common::{
    event::{Ipvs, OUTCOME_FAILED, PORT_UNREACH_V4, Reject, kind},
    net::{IPPROTO_TCP, IPPROTO_UDP},
};

use super::{json, text};
use crate::{
    event::Node,
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

/// A connect to the service that a rule rejects, on a node with this kube-proxy.
fn rejected_on(proxy: &str, services: &[&str], reject: Reject) -> Run {
    let kube_proxy = proxy.to_owned();
    let all = hooks(|_| crate::event::HookState::Watched { rung: crate::event::Rung::Kprobe });
    let mut run = Run::with(Node { kube_proxy, ..node() }, all);
    for address in services {
        run.at(499, service(IPPROTO_TCP, address, Some("shop-api")));
    }
    run.at(500, rejected(reject));
    run.at(500, syn_drop(HOST, IPVS_SERVICE, NETFILTER_DROP, 0x100));
    run.at(501, connect_end(IPVS_SERVICE, 500, 0, OUTCOME_FAILED, REFUSED));
    run
}

fn to_service() -> Reject {
    reject(tcp(CLIENT_END, IPVS_SERVICE), ISN, PORT_UNREACH_V4)
}

fn named(run: &mut Run) -> (Cause, Confidence) {
    run.until(9000);
    (run.only().cause, run.only().confidence)
}

#[test]
fn a_rule_rejects_what_is_known_as_a_service() {
    let mut run = rejected_on("iptables", &[IPVS_SERVICE], to_service());
    assert_eq!(run.first_finding_at(5000), Some(900));
    insta::assert_snapshot!(text(&run));
    insta::assert_snapshot!(json(&run, &run.out[0]));
}

#[test]
fn in_nftables_mode_it_may_be_a_port_that_the_service_lost() {
    let mut run = rejected_on("nftables", &[IPVS_SERVICE], to_service());
    assert_eq!(named(&mut run), (Cause::ServiceNoBackend, Confidence::Likely));
}

#[test]
fn an_address_beside_known_services_is_likely_one() {
    let mut run = rejected_on("nftables", &["10.96.0.1:443"], to_service());
    assert_eq!(named(&mut run), (Cause::ServiceNoBackend, Confidence::Likely));
    let Details::NoBackend(details) = &run.only().details else { panic!("details") };
    assert_eq!((details.name.as_deref(), details.proxy), (None, "nftables"));
}

#[test]
fn either_kind_of_hook_is_enough_to_see_it() {
    use crate::{
        correlate::Watch,
        event::{HookState, Rung},
    };
    let gone = || HookState::CannotHappen { why: "not loaded".to_owned() };
    for (absent, expected) in [
        (&["ip_vs_leave"][..], Watch::Watched),
        (&["nf_send_unreach"], Watch::Watched),
        (&["ip_vs_leave", "nf_send_unreach"], Watch::CannotHappen("not loaded".to_owned())),
    ] {
        let hooks = hooks(|name| match absent.contains(&name) {
            true => gone(),
            false => HookState::Watched { rung: Rung::Kprobe },
        });
        let mut run = Run::with(node(), hooks);
        let pipeline = run.until(100).take();
        assert_eq!(pipeline.correlator().watch(Cause::ServiceNoBackend), expected, "{absent:?}");
    }
}

#[test]
fn other_rejects_are_not_a_service_without_backend() {
    let node_port = "10.0.3.17:80";
    let cases = [
        ("an address far from services", "iptables", "10.97.0.1:443", to_service()),
        ("another port of the service", "nftables", "10.96.0.20:443", to_service()),
        ("no kube-proxy known", "", IPVS_SERVICE, to_service()),
        ("IPVS has no such rule", "ipvs", IPVS_SERVICE, to_service()),
        ("host-prohibited", "iptables", IPVS_SERVICE, Reject { code: 10, ..to_service() }),
        ("before routing", "iptables", IPVS_SERVICE, Reject { hook: 0, ..to_service() }),
        ("another connect", "iptables", IPVS_SERVICE, Reject { ident: 7, ..to_service() }),
        (
            "an address of the host",
            "iptables",
            node_port,
            Reject { tuple: tcp(CLIENT_END, node_port), ..to_service() },
        ),
        ("a reply", "iptables", IPVS_SERVICE, Reject { tcp_flags: 0x12, ..to_service() }),
    ];
    for (what, proxy, known, reject) in cases {
        let mut run = rejected_on(proxy, &[known], reject);
        assert_eq!(named(&mut run).0, Cause::Unknown, "{what}");
    }
    let mut inside = to_service();
    inside.header.netns = CLIENT;
    let mut run = rejected_on("iptables", &[IPVS_SERVICE], inside);
    assert_eq!(named(&mut run).0, Cause::Unknown, "a rule in the pod itself");
    let said = "rejected the packet to 10.96.0.20:80 with icmp-port-unreachable";
    assert!(run.only().evidence.iter().any(|line| line.text.contains(said)));
}

#[test]
fn a_rejected_query_to_the_dns_service() {
    let query = reject(udp(CLIENT_END, SERVICE), 0x2222, PORT_UNREACH_V4);
    let mut run = Run::new();
    run.at(499, service(IPPROTO_UDP, SERVICE, None));
    run.at(500, rejected(query));
    run.at(5500, retry(0x2222, AAAA, 500, 5500));
    assert_eq!(named(&mut run), (Cause::ServiceNoBackend, Confidence::Certain));
    // Another client's query with the same id.
    let other = Reject { tuple: udp("10.244.4.2:40312", SERVICE), ..query };
    let mut run = Run::new();
    run.at(499, service(IPPROTO_UDP, SERVICE, None));
    run.at(500, rejected(other));
    run.at(5500, retry(0x2222, AAAA, 500, 5500));
    assert_eq!(named(&mut run).0, Cause::Unknown);
}
