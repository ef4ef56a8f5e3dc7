//! Whole reports: what they show, and that nothing of a recording becomes markup.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::{Collector, Node, Report, Source, html::STYLE, html::STYLE_HASH, markdown, page};
use crate::{
    event::{Body, ConntrackCounters, Counters, Event, HookState, Rung, Sandbox, Sysctls},
    finding::{Cause, Evidence, Finding, Fix, NotNamed, Party, Place},
    output::filter::Filter,
    testing::*,
};

/// Of the query that loses the clash.
const ID: u16 = 0x2222;

/// A node's run: a clash of DNS queries of one pod, two connects of the node itself refused, an accept
/// queue that is full.
fn events(name: &str) -> Vec<Event> {
    let mut hooks = hooks(|name| match name {
        "nf_send_unreach" => HookState::CannotSee { why: "no BTF".to_owned() },
        "ip_vs_leave" => HookState::CannotHappen { why: "ip_vs is not loaded".to_owned() },
        _ => HookState::Watched { rung: Rung::Fentry },
    });
    hooks.truncate(13);
    let facts = node();
    let name = if name.is_empty() { facts.name.clone() } else { name.to_owned() };
    let mut run = Run::with(crate::event::Node { name, ..facts }, hooks);
    run.at(0, Body::Sysctls(settings()));
    run.at(100, counters(100_000, 12));
    run.at(501, clashed(clash()));
    run.at(
        1000,
        served(probe_common::event::kind::DNS_SERVER_PENDING, ID, DNS_B, DNS_B_END, 501, 0),
    );
    run.at(1500, unanswered(ID, AAAA, 500));
    let late = probe_common::event::kind::DNS_SERVER_ANSWER;
    run.at(1901, served(late, ID, DNS_B, DNS_B_END, 501, 1901));
    let lost = dns_drop(CLIENT, udp(DNS_B_END, CLIENT_END), ID, true, NO_SOCKET, 0x300);
    run.at(1902, drop_event(lost));
    run.at(8300, answer(ID, AAAA, 500, 8300, 2));
    run.at(3000, refused(NODE_PORT, ISN));
    run.at(4020, host_syn_again(3000, 1));
    run.at(9000, counters(250_000, 15));
    run.until(20_000);
    run.played().to_vec()
}

/// A report of nodes with these streams, all as if they were one after the other.
fn of(streams: &[Vec<Event>], filter: &Filter) -> Report {
    let mut collector = Collector::new(streams.len(), filter);
    for (node, events) in streams.iter().enumerate() {
        events.iter().for_each(|event| collector.take(node, event));
    }
    let source = |name: &str| Source {
        name: name.to_owned(),
        notices: vec!["the recording was cut off: its last 1.2 s are missing".to_owned()],
    };
    let names = ["node.pcapng", "b.pcapng"];
    collector.finish(names.into_iter().take(streams.len()).map(source).collect())
}

fn one(events: &[Event]) -> Node {
    of(&[events.to_vec()], &Filter::default()).nodes.remove(0)
}

fn settings() -> Sysctls {
    let of = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let values = vec![
        of("net.core.somaxconn", "4096"),
        of("net.ipv4.ip_local_port_range", "32768 60999"),
        of("net.netfilter.nf_conntrack_max", "262144"),
    ];
    Sysctls { netns: HOST, values }
}

fn counters(entries: u64, insert_failed: u64) -> Body {
    let conntrack =
        ConntrackCounters { entries, max: 262_144, insert_failed, ..ConntrackCounters::default() };
    Body::Counters(Counters {
        netns: HOST,
        listen_overflows: Some(3),
        conntrack: Some(conntrack),
        ..Counters::default()
    })
}

fn report() -> Report {
    of(&[events("")], &Filter::default())
}

#[test]
fn two_causes_two_victims() {
    let report = report();
    assert_eq!(report.nodes[0].findings.len(), 2);
    insta::assert_snapshot!(markdown(&report));
    let page = page(&report);
    check(&page).unwrap();
    insta::assert_snapshot!(page.replace(STYLE, "…").replace(STYLE_HASH, "…"));
}

#[test]
fn several_nodes_share_a_timeline() {
    let report = of(&[events(""), events("ip-10-0-3-18")], &Filter::default());
    let page = page(&report);
    check(&page).unwrap();
    for wanted in ["id=\"n1-f1\"", "id=\"n2-f2\"", "href=\"#n2-f1\"", "ip-10-0-3-18: client"] {
        assert!(page.contains(wanted), "{wanted}");
    }
    let text = markdown(&report);
    assert!(
        text.contains("## Findings of `ip-10-0-3-18`")
            || text.contains("## Findings of ip-10-0-3-18")
    );
    assert!(text.contains("### n2-f1: "), "{text}");
}

#[test]
fn nothing_found() {
    let report = of(&[Vec::new()], &Filter::default());
    check(&page(&report)).unwrap();
    assert!(markdown(&report).contains("**No stalls.**"));
    let none = Report { nodes: Vec::new() };
    check(&page(&none)).unwrap();
}

#[test]
fn what_was_filtered_is_counted() {
    let filter = Filter { causes: vec![Cause::NoListener], ..Filter::default() };
    let mut run = Run::new();
    run.at(1500, unanswered(ID, AAAA, 500));
    run.until(9000);
    let report = of(&[run.played().to_vec()], &filter);
    let node = &report.nodes[0];
    assert_eq!((node.findings.len(), node.summary.hidden), (0, 1));
    assert!(markdown(&report).contains("1 finding hidden by filters"));
}

/// The policy allows this style sheet and no other.
#[test]
fn the_policy_has_the_hash_of_the_style_sheet() {
    let digest = Sha256::digest(STYLE.as_bytes());
    assert_eq!(STYLE_HASH, format!("sha256-{}", base64(&digest)), "renew STYLE_HASH");
}

/// As RFC 4648 has it.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte))
            << (8 * (3 - three.len()));
        for n in 0..4 {
            let digit = char::from(DIGITS[bits >> (18 - 6 * n) & 63]);
            out.push(if n > three.len() { '=' } else { digit });
        }
    }
    out
}

/// Attributes that we write, and no other: none runs anything, none fetches anything.
const ATTRIBUTES: [&str; 26] = [
    "lang",
    "charset",
    "http-equiv",
    "content",
    "name",
    "class",
    "id",
    "href",
    "width",
    "height",
    "role",
    "aria-label",
    "aria-hidden",
    "tabindex",
    "x",
    "y",
    "x1",
    "x2",
    "y1",
    "y2",
    "dx",
    "d",
    "rx",
    "fill",
    "text-anchor",
    "patternUnits",
];
const TAGS: [&str; 40] = [
    "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section",
    "article", "div", "p", "h1", "h2", "h3", "h4", "dl", "dt", "dd", "ul", "li", "table", "thead",
    "tbody", "tr", "th", "td", "a", "b", "span", "strong", "code", "svg", "defs", "pattern",
    "rect", "path", "line", "text",
];

/// Reads a page as a strict parser: each `<` begins a tag of ours with attributes of ours in double
/// quotes, each `&` an entity of ours, and tags close in order.
fn check(page: &str) -> Result<(), String> {
    let rest = page.strip_prefix("<!DOCTYPE html>\n").ok_or("no doctype")?;
    let (before, after) = rest.split_once(STYLE).ok_or("no style")?;
    let rest = format!("{before}{after}");
    let mut open: Vec<&str> = Vec::new();
    let mut pieces = rest.split('<');
    text(pieces.next().unwrap_or_default())?;
    for piece in pieces {
        let (tag, after) = piece.split_once('>').ok_or_else(|| format!("no end of <{piece}"))?;
        text(after)?;
        if let Some(name) = tag.strip_prefix('/') {
            let opened = open.pop();
            if opened != Some(name) {
                return Err(format!("</{name}> closes {opened:?}"));
            }
            continue;
        }
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        if name.is_empty() || !TAGS.contains(&name) {
            return Err(format!("<{name}>"));
        }
        if name != "meta" {
            open.push(name);
        }
        while !attributes.is_empty() {
            let (attribute, value) =
                attributes.split_once("=\"").ok_or_else(|| format!("in <{tag}>"))?;
            let (value, more) = value.split_once('"').ok_or_else(|| format!("in <{tag}>"))?;
            let name = attribute.trim_start();
            if name.is_empty() || !ATTRIBUTES.contains(&name) {
                return Err(format!("{name} in <{tag}>"));
            }
            text(value)?;
            let is_link = name == "href" && !value.starts_with('#');
            if is_link || (value.contains("url(") && !value.starts_with("url(#p")) && name == "fill"
            {
                return Err(format!("{name}={value}"));
            }
            attributes = more;
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("{open:?} stay open")) }
}

fn text(text: &str) -> Result<(), String> {
    let entities = ["amp;", "lt;", "gt;", "quot;", "#39;"];
    match text.split('&').skip(1).find(|after| !entities.iter().any(|e| after.starts_with(e))) {
        _ if text.contains(['>', '\'', '\u{1b}', '\u{202e}']) => Err(format!("in {text:?}")),
        Some(after) => Err(format!("&{after}")),
        None => Ok(()),
    }
}

/// A report in which every text is `with`.
fn hostile(with: &str) -> Report {
    let mut node = one(&events(""));
    node.source = with.to_owned();
    let text = || with.to_owned();
    for told in &mut node.findings {
        let old = told.finding.clone();
        let party = Party { pod: Some(text()), process: Some(text()), ..Party::default() };
        told.finding = Finding {
            victim: party.clone(),
            culprit: Some(party),
            headline: text(),
            title: text(),
            evidence: vec![Evidence { ts: 5, kind: "x", text: text() }; 2],
            fix: vec![Fix {
                place: Place::Pod,
                now: Some(text()),
                lasting: Some(text()),
                caveat: Some(text()),
            }],
            confirm: vec![text()],
            ruled_out: vec![NotNamed { cause: Cause::NoRoute, why: text() }],
            not_seen: vec![NotNamed { cause: Cause::NoRoute, why: text() }],
            ..old
        };
    }
    let facts = &mut node.header.node;
    (facts.name, facts.kernel, facts.kube_proxy, facts.version) = (text(), text(), text(), text());
    facts.modules = vec![text()];
    for hook in &mut node.header.hooks {
        (hook.name, hook.causes) = (text(), vec![text()]);
        hook.state = HookState::CannotSee { why: text() };
    }
    node.header.sandboxed = vec![(text(), Sandbox::Kata)];
    node.notices = vec![text()];
    let other = [
        up(HOST, with, "10.0.3.17"),
        counters(262_000, 7),
        Body::Sysctls(Sysctls { netns: HOST, values: vec![(text(), text())] }),
    ];
    node.hazards = one(&other.map(|body| Event { ts: START, body })).hazards;
    Report { nodes: vec![node] }
}

const ATTACKS: [&str; 9] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "</style></title></svg><script>alert(1)</script>",
    "&lt;script&gt;&#x3c;",
    "javascript:alert(1)",
    "\u{1b}]0;x\u{7}\u{1b}[2J\u{202e}\0\u{85}",
    "]]><!-- --!> <![CDATA[",
    "`<b>`<i>",
];

#[test]
fn attacks_stay_text() {
    for attack in ATTACKS {
        let report = hostile(attack);
        check(&page(&report)).unwrap_or_else(|err| panic!("{attack:?}: {err}"));
        check_markdown(&markdown(&report)).unwrap_or_else(|err| panic!("{attack:?}: {err}"));
    }
}

/// Nothing of the text begins a line, and no tag is anywhere but in code.
fn check_markdown(text: &str) -> Result<(), String> {
    let mut fence: Option<&str> = None;
    for line in text.lines() {
        if line.chars().any(char::is_control) {
            return Err(format!("control character in {line:?}"));
        }
        match fence {
            Some(end) if line == end => fence = None,
            Some(_) => {}
            None if line.starts_with("```") => fence = line.strip_suffix("text"),
            None => {
                let starts = [
                    "# ",
                    "## ",
                    "### ",
                    "**",
                    "- ",
                    "| ",
                    "---",
                    "Times are",
                    "More: ",
                    "No stalls",
                    "The kernel",
                    "Settings",
                ];
                if !line.is_empty() && !starts.iter().any(|start| line.starts_with(start)) {
                    return Err(format!("line {line:?}"));
                }
                let code =
                    line.split('`').step_by(2).any(|outside| outside.contains(['<', '[', '&']));
                if code && !line.contains("``") {
                    return Err(format!("markup in {line:?}"));
                }
            }
        }
    }
    if fence.is_some() { Err("a fence stays open".to_owned()) } else { Ok(()) }
}

#[test]
fn the_checks_find_what_they_are_for() {
    let good = page(&report());
    for (from, to) in [
        ("<h1>", "<h1 onclick=\"x\">"),
        ("<h1>", "<script>x</script><h1>"),
        ("<h1>", "<h1>&bogus;"),
        ("<h1>", "<h1>\u{1b}"),
        ("<h1>", "<h1>>"),
        ("</h1>", ""),
        ("href=\"#", "href=\"http://"),
    ] {
        assert!(check(&good.replacen(from, to, 1)).is_err(), "{to}");
    }
    assert!(check_markdown("# a\n\nimport <b>").is_err());
    assert!(check_markdown("- a <b>").is_err());
    assert!(check_markdown("```text\n").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_anywhere_stays_text(text in any::<String>()) {
        let report = hostile(&text);
        prop_assert_eq!(check(&page(&report)), Ok(()));
        prop_assert_eq!(check_markdown(&markdown(&report)), Ok(()));
    }

    #[test]
    fn any_punctuation_anywhere_stays_text(text in "[-<>&\"'`/= |a!#\\[\\]\n\u{1b}\u{202e}]{0,24}") {
        let report = hostile(&text);
        prop_assert_eq!(check(&page(&report)), Ok(()));
        prop_assert_eq!(check_markdown(&markdown(&report)), Ok(()));
    }
}
