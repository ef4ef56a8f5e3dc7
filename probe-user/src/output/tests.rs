//! What a person and a program get to read, as whole screens.

use probe_common::event::{NF_DROP, kind};

use super::{event, json::Json, text::Text, text::status_line};
use crate::{
    event::{
        Body, Event, HookState, Outcome, Pod, PodChange, Rung, Sandbox, Totals,
        armed::{Outcome as LetGo, Step},
    },
    testing::*,
};

fn busy() -> Run {
    let mut run = Run::with(
        node(),
        hooks(|name| match name {
            "nf_ct_resolve_clash" | "early_drop" => {
                HookState::CannotHappen { why: "nf_conntrack is not loaded".to_owned() }
            }
            "udp_send_skb" => HookState::CannotSee { why: "no BTF\x1b[2J".to_owned() },
            _ => HookState::Watched { rung: Rung::Fentry },
        }),
    );
    let mut counts = Totals {
        dns_queries: 18_322,
        dns_answers: 18_320,
        dns_slowest: 212 * MS,
        connects: 4110,
        established: 4109,
        connect_slowest: 38 * MS,
        ..totals()
    };
    run.at(400, Body::Totals(Box::new(counts.clone())));
    for (netns, sandbox) in [(7, Sandbox::GVisor), (8, Sandbox::Kata)] {
        let name = format!("shop/safe-{netns}");
        run.at(
            400,
            Body::Pod(PodChange::Up(Pod { netns, name, sandbox: Some(sandbox), ..Pod::default() })),
        );
    }
    run.at(500, refused("192.0.2.9:5000", 77));
    run.at(1500, unanswered(0x2222, AAAA, 500));
    counts.lost[usize::from(kind::DROP)] = 12;
    counts.limited[usize::from(kind::LISTEN_DROP)] = 1200;
    counts.missed = 3;
    run.at(400_000, Body::Totals(Box::new(counts)));
    run
}

#[test]
fn header_status_and_summary_as_text() {
    let mut run = busy();
    let text = Text::new(100, false);
    run.until(450);
    let quiet = status_line(&run.pipeline.status());
    run.until(600_000);
    let later = status_line(&run.pipeline.status());
    let screen =
        [text.header(&run.pipeline.header()), quiet, later, text.summary(&run.pipeline.summary())];
    insta::assert_snapshot!(screen.join("\n"));
}

#[test]
fn without_ebpf_the_header_says_so() {
    let mut run = without_ebpf();
    run.at(400, Body::Totals(Box::new(Totals { not_read: 7, ..totals() })));
    run.until(1000);
    let text = Text::new(100, false);
    let screen = [
        text.header(&run.pipeline.header()),
        status_line(&run.pipeline.status()),
        text.summary(&run.pipeline.summary()),
    ];
    insta::assert_snapshot!(screen.join("\n"));
}

#[test]
fn header_status_and_summary_as_json() {
    let mut run = busy();
    run.until(600_000);
    let json = Json { node: "n1".to_owned() };
    let (pipeline, clock) = (&run.pipeline, run.pipeline.clock());
    let lines = [
        json.header(&pipeline.header(), clock, START),
        json.status(&pipeline.status(), clock),
        json.lost(&pipeline.status(), clock),
        json.summary(&pipeline.summary(), clock),
    ];
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn updates_are_one_line() {
    let mut run = Run::new();
    for n in 0..30u32 {
        let client = format!("192.0.2.{n}:5000");
        run.at(500 + u64::from(n) * 1000, refused(&client, 1000 + n));
    }
    run.until(14_000);
    let text = Text::new(100, false);
    let update = text.output(&run.out[1], run.pipeline.clock());
    insta::assert_snapshot!(update);
}

#[test]
fn raw_events_of_every_kind() {
    let bodies = [
        refused(CLIENT_END, ISN),
        syn_again(WEB_END, 500, 1),
        connect_end(WEB_END, 500, 1, 2, 110),
        synack_again(ISN, CLIENT_END, 129),
        clashed(clash()),
        table_full_drop(HOST, tcp(CLIENT_END, WEB_END), ISN),
        drop_event(dns_drop(HOST, udp(CLIENT_END, SERVICE), 0x2222, false, 0, 0x999)),
        retry(0x2222, AAAA, 500, 5500),
        answer(0x2222, AAAA, 500, 5500, 2),
        served(kind::DNS_SERVER_ANSWER, 0x2222, DNS_B, DNS_B_END, 500, 1900),
        decided(hijack()),
        decided(ipvs(kind::IPVS_NO_SERVER, None)),
        decided(stale()),
        ipvs_entry(None),
        local_ports(1024, 60999, &[(8080, 8080)]),
        syn_sent(1500, WEB_END, 1, Outcome::Trying),
        listen_queues(WEB, &[("0.0.0.0:8080", 2), ("[::]:9090", 1)]),
        decided(ipvs_verdict(NF_DROP)),
        armed_now(),
        let_go(LetGo::NothingSeen, 4000),
        armed(Step::Refused { why: "ip_vs is not loaded".to_owned() }),
        up(CLIENT, "evil\x1b[2J", "10.244.1.2"),
        process_of(4711, "kube-system/evil\x1b[2J"),
        kubelet(640),
        probed(probe(1, 110, 0)),
        serving(probe_server(kind::PROBE_SERVER, b"GET / HTTP/1.1", 14, 0)),
        server_queue(3),
        at_device(syn_out("evil\x1b[2J", "")),
        Body::Tick,
    ];
    let mut run = Run::new();
    run.until(0);
    let json = Json { node: "n1".to_owned() };
    let mut lines = Vec::new();
    for body in bodies {
        let event = Event { ts: START + 6_000_000_123, body };
        lines.extend(event::text(&event, &run.pipeline));
        if lines.len() == 7 {
            lines.extend(event::json(&event, &run.pipeline, &json));
        }
    }
    let let_go = Event { ts: START, body: let_go(LetGo::OverBudget, 900) };
    lines.extend(event::json(&let_go, &run.pipeline, &json));
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn what_stalls_nobody_is_told_at_the_end() {
    let mut run = Run::new();
    let mut seen = totals();
    seen.seen[usize::from(kind::IPVS_EXPIRED)] = 3;
    seen.seen[usize::from(kind::ARMED)] = 1;
    run.at(900, Body::Totals(Box::new(seen)));
    run.until(2000);
    let text = Text::new(100, false).summary(&run.pipeline.summary());
    assert!(text.contains("IPVS ended 3 old connections early"), "{text}");
    assert!(text.contains("hooks\n            were armed 1 time\n"), "{text}");
    let quiet = Text::new(100, false).summary(&Run::new().pipeline.summary());
    assert!(!quiet.contains("no stall:"), "{quiet}");
}

#[test]
fn colours_only_when_told() {
    let mut run = Run::new();
    run.at(500, refused("192.0.2.9:5000", 77));
    run.until(9000);
    let clock = run.pipeline.clock();
    let plain = Text::new(80, false).output(&run.out[0], clock);
    let coloured = Text::new(80, true).output(&run.out[0], clock);
    assert!(!plain.contains('\x1b'));
    assert!(coloured.contains("\x1b[31;1maccept-queue-overflow\x1b[0m"));
    let stripped: String = coloured
        .split('\x1b')
        .map(|part| match part.split_once('m') {
            Some((code, rest)) if code.starts_with('[') => rest,
            _ => part,
        })
        .collect();
    assert_eq!(stripped, plain, "colours change no line break");
    assert!(plain.lines().all(|line| line.chars().count() <= 80));
}
