use probe_common::event::{Dns, kind};

use super::{not_seen, text};
use crate::{
    correlate::unknown::looked_for,
    event::Body,
    finding::{Cause, Confidence, Details, SymptomKind},
    testing::*,
};

const ID: u16 = 0x2222;

#[test]
fn a_server_that_answers_late() {
    let mut run = Run::new();
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(2900, served(kind::DNS_SERVER_ANSWER, ID, DNS_A, DNS_A_END, 501, 2900));
    run.at(2901, answer(ID, AAAA, 500, 2901, 1));
    run.until(9000);
    insta::assert_snapshot!(text(&run));
    let Details::ServerSlow(details) = &run.only().details else { panic!("details") };
    assert_eq!((details.took_ms, details.waited_for.as_deref()), (Some(2399), None));
}

#[test]
fn a_name_that_is_no_plain_word_is_not_in_a_command() {
    let asked = |body: Body, name: &[u8]| match body {
        Body::Dns(mut dns) => {
            dns.question = question(ID, AAAA, name);
            Body::Dns(dns)
        }
        other => other,
    };
    let confirm = |name: &[u8]| {
        let mut run = Run::new();
        run.at(1500, asked(unanswered(ID, AAAA, 500), name));
        let late = served(kind::DNS_SERVER_ANSWER, ID, DNS_A, DNS_A_END, 501, 2900);
        run.at(2900, asked(late, name));
        run.at(2901, asked(answer(ID, AAAA, 500, 2901, 1), name));
        run.until(9000);
        run.only().confirm.join("; ")
    };
    assert!(confirm(b"\x04_a-B\x03svc\0").contains(" _a-B.svc`"));
    for name in [b"\x09$(reboot)\0" as &[u8], b"\x02-f\x01x\0", b"\x03a`b\0", b"\x03a b\0"] {
        let told = confirm(name);
        assert!(told.contains(" NAME`"), "{told}");
    }
}

/// The query of dnsmasq in `dns-a` for the same name, in other letters, to its upstream.
fn upstream_query(kind: u16, first: u64) -> Dns {
    let mut q = query(kind, 0x7777, AAAA, first);
    q.header.netns = DNS_A;
    q.tuple = udp("10.244.2.2:33000", "10.0.0.2:53");
    q.server[0] = q.tuple.dst;
    q.sk = 0x99;
    q.comm = comm("dnsmasq");
    q.pid = 700;
    q.question = question(0x7777, AAAA, b"\x03SvC\x07cLuster\x05local\0");
    q
}

#[test]
fn the_server_itself_waited_for_someone() {
    let mut run = Run::new();
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(1502, Body::Dns(Box::new(upstream_query(kind::DNS_UNANSWERED, 502))));
    run.at(2898, {
        let q = upstream_query(kind::DNS_ANSWER, 502);
        Body::Dns(Box::new(Dns { answered: START + 2898 * MS, ..q }))
    });
    run.at(2900, served(kind::DNS_SERVER_ANSWER, ID, DNS_A, DNS_A_END, 501, 2900));
    run.at(2901, answer(ID, AAAA, 500, 2901, 1));
    run.until(9000);
    // The server's own stall is one of its own: its upstream is not on this node.
    assert_eq!(run.causes(), [Cause::Unknown, Cause::ServerSlow]);
    let [upstream, found] = run.findings()[..] else { panic!("two findings") };
    let Details::ServerSlow(details) = &found.details else { panic!("details") };
    assert_eq!(details.waited_for.as_deref(), Some("10.0.0.2:53"));
    let want = "dnsmasq (pid 700) waited for 10.0.0.2 itself";
    assert!(found.title.contains(want), "{}", found.title);
    assert_eq!(upstream.victim.pod.as_deref(), Some("dns-a"));
}

#[test]
fn a_server_that_never_answers_is_likely() {
    let mut run = Run::new();
    run.at(1000, served(kind::DNS_SERVER_PENDING, ID, DNS_A, DNS_A_END, 501, 0));
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(5500, retry(ID, AAAA, 500, 5500));
    assert_eq!(run.first_finding_at(9000), Some(5800));
    assert_eq!(run.only().cause, Cause::ServerSlow);
    assert_eq!(run.only().confidence, Confidence::Likely);
}

#[test]
fn a_late_answer_that_the_client_never_got_is_not_the_servers_fault() {
    let mut run = Run::new();
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(1900, served(kind::DNS_SERVER_ANSWER, ID, DNS_A, DNS_A_END, 501, 1900));
    run.at(5500, retry(ID, AAAA, 500, 5500));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn a_server_that_explains_half_of_the_stall_is_not_named() {
    let mut run = Run::new();
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(2900, served(kind::DNS_SERVER_ANSWER, ID, DNS_A, DNS_A_END, 1700, 2900));
    run.at(2901, answer(ID, AAAA, 500, 2901, 1));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn answered_after_the_client_gave_up() {
    let mut run = Run::new();
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(5500, {
        let mut closed = query(kind::DNS_CLOSE, ID, AAAA, 500);
        closed.attempts = 1;
        Body::Dns(Box::new(closed))
    });
    run.at(5600, served(kind::DNS_SERVER_ANSWER, ID, DNS_A, DNS_A_END, 501, 5600));
    run.until(9000);
    let found = run.only();
    assert_eq!((found.cause, found.confidence), (Cause::ServerSlow, Confidence::Certain));
    assert!(found.headline.ends_with("and waited 5.0 s without an answer"), "{}", found.headline);
}

#[test]
fn a_dropped_query_is_unknown_with_the_place() {
    for (reason, location, want) in [
        (
            NETFILTER_DROP,
            0x200,
            "was dropped by netfilter (NETFILTER_DROP) at nft_do_chain+0x1f [nf_tables] in host",
        ),
        (
            NETFILTER_DROP,
            0x100,
            "was dropped by netfilter (NETFILTER_DROP) at nf_hook_slow+0x7b in host",
        ),
        (NEIGH_FAILED, 0x500, "was dropped (NEIGH_FAILED) at neigh_invalidate+0x33 in host"),
    ] {
        let mut run = Run::new();
        run.at(
            500,
            drop_event(dns_drop(HOST, udp(CLIENT_END, SERVICE), ID, false, reason, location)),
        );
        run.at(1500, unanswered(ID, AAAA, 500));
        run.at(5500, retry(ID, AAAA, 500, 5500));
        run.until(9000);
        let found = run.only();
        assert_eq!((found.cause, found.confidence), (Cause::Unknown, Confidence::Possible));
        assert!(found.title.contains(want), "{}", found.title);
        let all = looked_for(SymptomKind::DnsStall).len();
        let unarmed = found.not_seen.len();
        assert_eq!(found.ruled_out.len() + unarmed, all, "{:?}", found.ruled_out);
        assert!(not_seen(found).is_empty(), "{:?}", found.not_seen);
    }
}

#[test]
fn the_verdict_comes_soon_after_the_resolver_gave_up() {
    // Seen by a retry, by a close, and not at all (a new socket with a new id).
    let close = Body::Dns(Box::new(query(kind::DNS_CLOSE, ID, AAAA, 500)));
    for (end, latest) in
        [(Some(retry(ID, AAAA, 500, 5500)), 5900), (Some(close), 5900), (None, 6400)]
    {
        let mut run = Run::new();
        run.at(1500, unanswered(ID, AAAA, 500));
        if let Some(end) = end {
            run.at(5500, end);
        }
        let at = run.first_finding_at(9000).expect("a finding");
        assert!((5500..=latest).contains(&at), "found at {at}");
        assert_eq!(run.causes(), [Cause::Unknown]);
    }
}

#[test]
fn quick_answers_and_early_closes_are_no_stalls() {
    let mut run = Run::new();
    run.at(600, answer(ID, AAAA, 500, 600, 1));
    run.at(900, Body::Dns(Box::new(query(kind::DNS_UNANSWERED, 7, A, 500))));
    run.at(900, Body::Dns(Box::new(query(kind::DNS_READ, 8, A, 500))));
    run.until(20_000);
    run.out.extend(run.pipeline.finish());
    assert_eq!(run.out, []);
    assert_eq!(run.pipeline.status().stalls, 0);
}

#[test]
fn the_same_id_again_after_an_answer_is_a_new_stall() {
    let mut run = Run::new();
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(2500, answer(ID, AAAA, 500, 2500, 1));
    run.at(5000, unanswered(ID, AAAA, 4000));
    run.until(20_000);
    assert_eq!(run.pipeline.status().stalls, 2);
}

#[test]
fn hostile_names_do_not_reach_the_terminal() {
    let mut run = Run::new();
    let mut hostile = query(kind::DNS_UNANSWERED, ID, AAAA, 500);
    hostile.question = question(ID, AAAA, b"\x05\x1b[31m\x02\r\n\0");
    hostile.comm = comm("\x1b]0;x\x07");
    run.at(1500, Body::Dns(Box::new(hostile)));
    run.until(9000);
    assert!(text(&run).chars().all(|c| c == '\n' || !c.is_control()));
    assert!(run.only().headline.contains("(\\x1b]0;x\\x07 812)"), "{}", run.only().headline);
    assert!(run.only().headline.contains("\\x1b[31m.\\x0d\\x0a AAAA"), "{}", run.only().headline);
}

#[test]
fn a_query_that_the_server_forgot_and_its_second_try() {
    let mut run = Run::new();
    run.at(1000, served(kind::DNS_SERVER_PENDING, ID, DNS_A, DNS_A_END, 501, 0));
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(5500, retry(ID, AAAA, 500, 5500));
    let Body::Dns(mut at_server) = served(kind::DNS_SERVER_ANSWER, ID, DNS_A, DNS_A_END, 501, 5502)
    else {
        panic!("a Dns event")
    };
    at_server.attempts = 2;
    run.at(5502, Body::Dns(at_server));
    run.at(5503, answer(ID, AAAA, 500, 5503, 2));
    run.until(30_000);
    assert_eq!(run.only().cause, Cause::ServerSlow);
    assert!(run.only().title.contains("did not answer the first query"), "{}", run.only().title);
    assert_eq!(run.pipeline.status().stalls, 1);
}

#[test]
fn a_very_late_answer_that_was_lost_is_not_the_servers_fault_alone() {
    let mut run = Run::new();
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(5300, served(kind::DNS_SERVER_ANSWER, ID, DNS_A, DNS_A_END, 501, 5300));
    run.at(5500, retry(ID, AAAA, 500, 5500));
    run.until(9000);
    assert_eq!(run.only().cause, Cause::Unknown);
}

#[test]
fn another_client_that_waits_for_the_same_name_is_no_upstream() {
    let mut run = Run::new();
    let mut other = upstream_query(kind::DNS_UNANSWERED, 502);
    other.header.netns = WEB;
    run.at(1502, Body::Dns(Box::new(other)));
    run.at(1500, unanswered(ID, AAAA, 500));
    run.at(2900, served(kind::DNS_SERVER_ANSWER, ID, DNS_A, DNS_A_END, 501, 2900));
    run.at(2901, answer(ID, AAAA, 500, 2901, 1));
    run.until(4000);
    let Details::ServerSlow(details) = &run.only().details else { panic!("details") };
    assert_eq!(details.waited_for, None);
}

#[test]
fn evidence_of_other_names_and_other_times_does_not_join() {
    let drop = |at: u64, name_matters: bool| {
        let mut run = Run::new();
        let mut drop = dns_drop(DNS_A, udp(CLIENT_END, DNS_A_END), ID, false, NO_SOCKET, 0x300);
        if name_matters {
            drop.packet[41] ^= 1;
        }
        run.at(at, drop_event(drop));
        run.at(20_000 + 1000, unanswered(ID, AAAA, 20_000));
        run.until(40_000);
        run.findings()
            .iter()
            .filter(|f| f.victim.pid.is_some())
            .map(|f| f.cause)
            .collect::<Vec<_>>()
    };
    assert_eq!(drop(20_001, false), [Cause::NoListener]);
    assert_eq!(drop(20_001, true), [Cause::Unknown], "another name");
    assert_eq!(drop(9000, false), [Cause::Unknown], "long before");
}

#[test]
fn a_query_given_up_early_is_told_when_it_is_known_to_be_dropped() {
    let mut run = Run::new();
    let mut used = snat_clash(probe_common::net::IPPROTO_UDP, CLIENT_END, SERVICE, u32::from(ID));
    used.winner.status |= probe_common::net::ips::SEEN_REPLY;
    used.hit_dir = 0;
    run.at(501, clashed(used));
    run.at(900, Body::Dns(Box::new(query(kind::DNS_CLOSE, ID, AAAA, 500))));
    run.until(9000);
    let found = run.only();
    assert_eq!((found.cause, found.victim.pid), (Cause::Unknown, Some(812)));
}

#[test]
fn the_clients_own_other_query_is_no_upstream_of_a_server_in_its_namespace() {
    let found = |pid: u32, server_pid: u32, asked: &str| {
        let mut run = Run::new();
        let here = |q: Dns, server: &str| {
            let tuple = udp("10.0.3.17:40312", server);
            let mut q = Dns { tuple, ..q };
            (q.header.netns, q.server[0]) = (HOST, tuple.dst);
            q
        };
        let at = "10.0.3.17:53";
        run.at(1500, Body::Dns(Box::new(here(query(kind::DNS_UNANSWERED, ID, AAAA, 500), at))));
        let other = here(query(kind::DNS_UNANSWERED, 0x3333, A, 502), asked);
        run.at(1501, Body::Dns(Box::new(Dns { pid, sk: 0x99, ..other })));
        let Body::Dns(late) = served(kind::DNS_SERVER_ANSWER, ID, HOST, at, 501, 2900) else {
            panic!("a Dns event")
        };
        run.at(2900, Body::Dns(Box::new(Dns { pid: server_pid, ..here(*late, at) })));
        let end = Dns { answered: START + 2901 * MS, ..query(kind::DNS_ANSWER, ID, AAAA, 500) };
        run.at(2901, Body::Dns(Box::new(here(end, at))));
        run.until(9000);
        let slow = |f: &&crate::finding::Finding| f.cause == Cause::ServerSlow;
        let found = run.findings().into_iter().find(slow).expect("a slow server").clone();
        let Details::ServerSlow(details) = found.details else { panic!("details") };
        details.waited_for
    };
    assert_eq!(found(700, 700, "10.0.0.2:53").as_deref(), Some("10.0.0.2:53"));
    assert_eq!(found(812, 700, "10.0.0.2:53"), None, "of the client");
    assert_eq!(found(812, 0, "10.0.0.2:53"), None, "whose is not known");
    assert_eq!(found(700, 700, "10.0.3.17:53"), None, "to the server itself");
}

#[test]
fn a_server_whose_socket_had_no_room_for_the_query_is_not_slow() {
    for (at, want) in [(501, Cause::Unknown), (400, Cause::ServerSlow)] {
        let mut run = Run::new();
        let to_pod = udp(CLIENT_END, DNS_A_END);
        run.at(at, drop_event(dns_drop(DNS_A, to_pod, ID, false, 6, 0x300)));
        run.at(1000, served(kind::DNS_SERVER_PENDING, ID, DNS_A, DNS_A_END, 501, 0));
        run.at(1500, unanswered(ID, AAAA, 500));
        run.at(5500, retry(ID, AAAA, 500, 5500));
        run.until(9000);
        assert_eq!(run.only().cause, want, "dropped at {at}");
    }
}

#[test]
fn the_same_id_and_name_of_another_client_does_not_join() {
    let causes = |from: &str| {
        let mut run = Run::new();
        let Body::Dns(late) = served(kind::DNS_SERVER_ANSWER, ID, DNS_A, DNS_A_END, 501, 2900)
        else {
            panic!("a Dns event")
        };
        run.at(1500, unanswered(ID, AAAA, 500));
        run.at(2900, Body::Dns(Box::new(Dns { tuple: udp(from, DNS_A_END), ..*late })));
        run.at(2901, answer(ID, AAAA, 500, 2901, 1));
        let mut by_drop = Run::new();
        let drop = dns_drop(DNS_A, udp(from, DNS_A_END), ID, false, NO_SOCKET, 0x300);
        by_drop.at(501, drop_event(drop));
        by_drop.at(1500, unanswered(ID, AAAA, 500));
        [run, by_drop].map(|mut run| {
            run.until(9000);
            let told = run.findings().into_iter().find(|f| f.victim.pid.is_some());
            told.expect("the client's stall").cause
        })
    };
    let joined = [Cause::ServerSlow, Cause::NoListener];
    assert_eq!(causes(CLIENT_END), joined);
    assert_eq!(causes("10.0.3.17:61000"), joined, "masqueraded to the node's address");
    assert_eq!(causes("198.51.100.9:61000"), joined, "to one that nobody here has");
    assert_eq!(causes("10.244.1.2:40313"), [Cause::Unknown; 2], "another socket of the client");
    assert_eq!(causes("10.244.4.2:40312"), [Cause::Unknown; 2], "another pod");
}

#[test]
fn a_server_on_loopback_serves_its_own_namespace_only() {
    for (netns, want) in [(CLIENT, Cause::ServerSlow), (WEB, Cause::Unknown)] {
        let mut run = Run::new();
        let (src, at) = ("127.0.0.1:40312", "127.0.0.53:53");
        let here = |q: Dns| Dns { tuple: udp(src, at), ..q };
        let Body::Dns(late) = served(kind::DNS_SERVER_ANSWER, ID, netns, at, 501, 2900) else {
            panic!("a Dns event")
        };
        run.at(1500, Body::Dns(Box::new(here(query(kind::DNS_UNANSWERED, ID, AAAA, 500)))));
        run.at(2900, Body::Dns(Box::new(here(*late))));
        let end = Dns { answered: START + 2901 * MS, ..query(kind::DNS_ANSWER, ID, AAAA, 500) };
        run.at(2901, Body::Dns(Box::new(here(end))));
        run.until(9000);
        assert_eq!(run.only().cause, want);
    }
}
