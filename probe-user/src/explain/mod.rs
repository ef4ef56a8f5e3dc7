//! `stallprobe explain`: one page of text for each cause of the catalogue, in `pages/`.
//!
//! A page is a title and five sections. Paragraphs are broken anew for the terminal; lines that
//! begin with four spaces are commands and stay as they are; `Now:`, `Lasting:`, `But:` and `- `
//! begin an item.

mod nearest;

use crate::{correlate::rules::RULES, finding::Cause, output::wrap::block};

pub use self::nearest::nearest;

/// The sections of a page, in order.
pub const SECTIONS: [&str; 5] =
    ["What happened", "How we know", "How to confirm it by hand", "How to fix it", "References"];

/// Words that begin an item of a list, whose further lines are set in.
const ITEMS: [(&str, usize); 4] = [("Now:", 9), ("Lasting:", 9), ("But:", 9), ("- ", 2)];

macro_rules! pages {
    ($($id:literal),+ $(,)?) => {
        &[$(($id, include_str!(concat!("pages/", $id, ".txt")))),+]
    };
}

const PAGES: &[(&str, &str)] = pages![
    "conntrack-dnat-clash",
    "conntrack-snat-clash",
    "snat-ports-exhausted",
    "conntrack-table-full",
    "conntrack-insert-failed",
    "conntrack-stale-nat",
    "conntrack-invalid",
    "reply-not-translated",
    "client-ports-exhausted",
    "accept-queue-overflow",
    "syn-queue-overflow",
    "ipvs-stale-connection",
    "ipvs-nodeport-collision",
    "service-no-backend",
    "netfilter-drop",
    "netfilter-reject",
    "bpf-program-drop",
    "rp-filter",
    "no-route",
    "forwarding-disabled",
    "neighbour-failed",
    "neighbour-table-full",
    "mtu-blackhole",
    "queue-drop",
    "bad-checksum",
    "udp-receive-buffer-full",
    "no-listener",
    "server-slow",
    "cpu-throttled",
    "client-slow",
    "dns-search-expansion",
    "dns-ignores-hosts",
    "first-nameserver-dead",
    "left-the-node",
    "unknown",
];

/// The symptom that has a page, for it is told in other words than its causes.
pub const PROBE_FAILURE: &str = "probe-failure";
const PROBE_FAILURE_PAGE: &str = include_str!("pages/probe-failure.txt");

/// Whether this version has a rule for the cause; `unknown` is what is left without one.
#[must_use]
pub fn is_named(cause: Cause) -> bool {
    cause == Cause::Unknown || RULES.iter().any(|&(named, _)| named == cause)
}

/// The whole page, broken at `width` columns where words allow.
#[must_use]
pub fn page(cause: Cause, width: usize) -> String {
    let (title, body) = text(cause);
    let mut out = String::new();
    block(&mut out, &format!("{}: ", cause.id()), 0, title, width);
    if !is_named(cause) {
        let note = "Not named yet by this version: a stall of this cause is told as \"unknown\", \
                    with what was seen of it. This page helps to find it by hand.";
        out.push('\n');
        block(&mut out, "", 0, note, width);
    }
    render(&mut out, body, width);
    out
}

/// The page of [`PROBE_FAILURE`].
#[must_use]
pub fn probe_failure(width: usize) -> String {
    let (title, body) = PROBE_FAILURE_PAGE.split_once('\n').unwrap_or_default();
    let mut out = String::new();
    block(&mut out, &format!("{PROBE_FAILURE}: "), 0, title, width);
    render(&mut out, body, width);
    out
}

fn render(out: &mut String, body: &'static str, width: usize) {
    let mut paragraph = Paragraph::default();
    for line in body.lines() {
        let begins_item = ITEMS.iter().any(|(word, _)| line.starts_with(word));
        let is_command = line.starts_with("    ");
        if begins_item || is_command || line.is_empty() || SECTIONS.contains(&line) {
            paragraph.end(out, width);
        }
        if is_command || line.is_empty() || SECTIONS.contains(&line) {
            out.push_str(line);
            out.push('\n');
        } else {
            paragraph.add(line);
        }
    }
    paragraph.end(out, width);
}

/// Every cause in one line, the named ones first.
#[must_use]
pub fn list(width: usize) -> String {
    let longest = Cause::ALL.iter().map(|cause| cause.id().len()).max().unwrap_or(0);
    let mut out = String::new();
    for (heading, named) in [
        ("Named by this version:", true),
        ("Not named yet by this version (told as \"unknown\"):", false),
    ] {
        out.push_str(heading);
        out.push('\n');
        for &cause in Cause::ALL.iter().filter(|&&cause| is_named(cause) == named) {
            let (title, _) = text(cause);
            block(&mut out, &format!("  {}", cause.id()), longest + 4, title, width);
        }
        out.push('\n');
    }
    out.push_str(
        "stallprobe explain ID shows the page of one; so does probe-failure, a symptom.\n",
    );
    out
}

/// The cause in a few words.
#[must_use]
pub fn title(cause: Cause) -> &'static str {
    text(cause).0
}

/// Title and body of a page.
fn text(cause: Cause) -> (&'static str, &'static str) {
    let page = PAGES.iter().find(|(id, _)| *id == cause.id());
    page.and_then(|(_, text)| text.split_once('\n')).unwrap_or_default()
}

/// Lines that are broken anew.
#[derive(Default)]
struct Paragraph(Vec<&'static str>);

impl Paragraph {
    fn add(&mut self, line: &'static str) {
        self.0.push(line);
    }

    fn end(&mut self, out: &mut String, width: usize) {
        let text = std::mem::take(&mut self.0).join(" ");
        if text.is_empty() {
            return;
        }
        let item = ITEMS.iter().find_map(|&(word, indent)| {
            Some((word, indent, text.strip_prefix(word)?.trim_start()))
        });
        match item {
            Some((word, indent, rest)) => block(out, word, indent, rest, width),
            None => block(out, "", 0, &text, width),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_a_page_with_all_sections() {
        assert_eq!(PAGES.len(), Cause::ALL.len());
        for &cause in Cause::ALL {
            let (title, body) = text(cause);
            assert!(!title.is_empty(), "{cause} has no page");
            let found: Vec<&str> = body.lines().filter(|line| SECTIONS.contains(line)).collect();
            assert_eq!(found, SECTIONS, "{cause}");
            let mut lines = body.lines().skip_while(|line| !SECTIONS.contains(line)).peekable();
            while let Some(line) = lines.next() {
                let is_bare = SECTIONS.contains(&line) && lines.peek().is_none_or(|l| l.is_empty());
                assert!(!is_bare, "{cause}: nothing follows {line:?}");
            }
            for (word, _) in ITEMS {
                assert!(body.lines().any(|line| line.starts_with(word)), "{cause}: no {word:?}");
            }
        }
    }

    #[test]
    fn pages_are_plain_text_of_the_width_that_was_asked_for() {
        for &cause in Cause::ALL {
            for width in [60, 80, 100] {
                let page = page(cause, width);
                assert!(!page.contains('\x1b') && !page.contains('\t'), "{cause}");
                let words = page.lines().filter(|line| !line.starts_with("    "));
                for line in words.filter(|line| line.trim().contains(' ')) {
                    assert!(line.chars().count() <= width, "{cause}: {line}");
                }
            }
        }
    }

    #[test]
    fn the_page_of_probes_says_what_is_never_seen() {
        let page = probe_failure(80);
        assert!(page.starts_with("probe-failure: "), "{page}");
        assert!(page.contains("exec probes"), "{page}");
        assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
    }

    #[test]
    fn one_line_for_each_cause() {
        let list = list(80);
        for cause in Cause::ALL {
            let start = format!("  {} ", cause.id());
            assert_eq!(list.lines().filter(|l| l.starts_with(&start)).count(), 1, "{cause}");
        }
        assert_eq!(
            list.lines().count(),
            Cause::ALL.len() + 5,
            "a title is too long for 80 columns"
        );
    }

    #[test]
    fn a_cause_without_a_rule_says_so() {
        for &cause in Cause::ALL {
            let says = page(cause, 80).contains("Not named yet by this version");
            assert_eq!(says, !is_named(cause), "{cause}");
        }
        assert!(is_named(Cause::Unknown) && is_named(Cause::NoListener));
    }

    #[test]
    fn commands_are_not_broken_and_items_are_set_in() {
        let page = page(Cause::AcceptQueueOverflow, 60);
        assert!(
            page.contains("\n    nstat -az TcpExtListenOverflows TcpExtListenDrops\n"),
            "{page}"
        );
        assert!(page.contains("\nNow:     add replicas"), "{page}");
        assert!(page.contains("\n         "), "{page}");
    }
}
