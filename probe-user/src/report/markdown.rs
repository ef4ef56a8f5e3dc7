//! The report as Markdown for a ticket, which must be readable as it is, too.

use std::fmt::Write as _;

use super::{
    CauseLine, Node, Report, Told, entry,
    escape::{cell, fenced, markdown as escaped},
    facts,
};
use crate::{
    explain,
    finding::NotNamed,
    output::{
        text::by_reason,
        time::{number, short, span},
        wrap::block,
    },
};

/// Findings that are shown whole, over all nodes: a ticket holds 65 536 characters.
const WHOLE: usize = 15;
/// Lines of the table of findings.
const LINES: usize = 60;
/// Columns of what is shown as it is.
const WIDTH: usize = 100;
/// Columns of evidence's times.
const TIME: usize = 11;

/// The whole report.
pub fn markdown(report: &Report) -> String {
    let causes = report.causes();
    let mut out = format!("# {}\n\n**{}.**\n\n", escaped(&report.title()), report.outcome());
    for node in &report.nodes {
        let _ = writeln!(out, "- {}: {}", escaped(node.name()), escaped(&node.times()));
    }
    out.push('\n');
    overview(&mut out, report, &causes);
    for (n, node) in report.nodes.iter().enumerate() {
        of_node(&mut out, report, &causes, n, node);
    }
    out.push_str("---\nTimes are UTC. This report holds names and addresses of the cluster. Made by `stallprobe report`.\n");
    out
}

fn overview(out: &mut String, report: &Report, causes: &[CauseLine<'_>]) {
    if causes.is_empty() {
        return;
    }
    out.push_str("| Cause | Stalls | In short |\n| --- | ---: | --- |\n");
    for cause in causes {
        let title = cell(explain::title(cause.cause));
        let _ = writeln!(out, "| **{}** | {} | {title} |", cause.cause, number(cause.stalls));
    }
    out.push_str("\n## Who stalled when\n\n");
    out.push_str("| From | To | Stalls | Longest | Who | Cause | Finding |\n");
    out.push_str("| --- | --- | ---: | ---: | --- | --- | --- |\n");
    let mut all: Vec<(usize, &Told, &Node)> = causes
        .iter()
        .flat_map(|cause| &cause.findings)
        .filter_map(|&(n, told)| Some((n, told, report.nodes.get(n)?)))
        .collect();
    let more = all.len().saturating_sub(LINES);
    all.sort_by_key(|(_, told, _)| std::cmp::Reverse(told.finding.count));
    all.truncate(LINES);
    all.sort_by_key(|(n, told, node)| {
        (node.clock.wall(told.finding.first).unwrap_or(told.finding.first), *n)
    });
    for (_, told, node) in all {
        let f = &told.finding;
        let who = match report.nodes.len() {
            0 | 1 => cell(&entry::victim(told)),
            _ => format!("{}: {}", cell(node.name()), cell(&entry::victim(told))),
        };
        let (from, to) = (short(node.clock, f.first), short(node.clock, told.end()));
        let open = if f.open { ", not ended" } else { "" };
        let _ = writeln!(
            out,
            "| {from} | {to} | {} | {}{open} | {who} | {} | {} |",
            number(f.count),
            span(f.waited),
            f.cause,
            f.id
        );
    }
    if more > 0 {
        let _ = writeln!(out, "\n{more} more findings, with fewer stalls.");
    }
    out.push('\n');
}

fn of_node(out: &mut String, report: &Report, causes: &[CauseLine<'_>], n: usize, node: &Node) {
    let of = match report.nodes.len() {
        0 | 1 => String::new(),
        _ => format!(" of {}", escaped(node.name())),
    };
    let all = || causes.iter().flat_map(|cause| cause.findings.iter().filter(|(of, _)| *of == n));
    if node.findings.is_empty() {
        let _ = writeln!(out, "No stalls were found on {}.\n", escaped(node.name()));
    } else {
        let _ = writeln!(out, "## Findings{of}\n");
    }
    let whole = (WHOLE / report.nodes.len().max(1)).max(1);
    for (_, told) in all().take(whole) {
        finding(out, node, told, &told.finding.id);
    }
    if let Some(more @ 1..) = all().count().checked_sub(whole) {
        let _ = writeln!(
            out,
            "{more} more findings are left out here; `stallprobe replay` shows them all.\n"
        );
    }
    let _ = writeln!(out, "## What could not be seen{of}\n");
    unseen(out, node);
    let _ = writeln!(out, "## The node{of}\n");
    about(out, node);
}

fn finding(out: &mut String, node: &Node, told: &Told, name: &str) {
    let f = &told.finding;
    let _ = writeln!(out, "### {name}: {}, {}\n", f.symptom.id(), f.cause);
    let _ = writeln!(out, "**Who:** {}\n", escaped(&f.headline));
    let _ = writeln!(out, "**Cause:** {}: {}\n", entry::cause(told), escaped(&f.title));
    let _ = writeln!(out, "**Stalls:** {}\n", escaped(&entry::times(told, node.clock)));
    let fixes: Vec<(String, &str)> = f.fix.iter().flat_map(entry::fix).collect();
    items(out, "Fix", fixes.iter().map(|(label, text)| format!("{label}: {}", escaped(text))));
    let evidence = entry::evidence(told);
    if !evidence.is_empty() {
        let lines = evidence.iter().flat_map(|(at, text)| {
            let mut line = String::new();
            // What is broken here must not be broken by the text.
            block(&mut line, &format!("{at:>9}"), TIME, &super::escape::visible(text), WIDTH);
            line.lines().map(str::to_owned).collect::<Vec<_>>()
        });
        let _ = writeln!(out, "**Evidence:**\n\n{}", fenced(&lines.collect::<Vec<_>>()));
    }
    items(out, "Confirm", f.confirm.iter().map(|text| escaped(text)));
    reasons(out, "Ruled out", &f.ruled_out);
    reasons(out, "Not seen", &f.not_seen);
    let _ = writeln!(out, "More: `stallprobe explain {}`\n", f.cause);
}

fn reasons(out: &mut String, heading: &str, causes: &[NotNamed]) {
    let grouped = by_reason(causes);
    let line = |(why, ids): &(&str, Vec<&str>)| format!("{}: {}", ids.join(", "), escaped(why));
    items(out, heading, grouped.iter().map(line));
}

/// A list, each item already safe; nothing of none.
fn items(out: &mut String, heading: &str, all: impl Iterator<Item = String>) {
    let mut all = all.peekable();
    if all.peek().is_none() {
        return;
    }
    let _ = writeln!(out, "**{heading}:**\n");
    for item in all {
        let _ = writeln!(out, "- {item}");
    }
    out.push('\n');
}

fn unseen(out: &mut String, node: &Node) {
    let lost = facts::lost(node);
    let mut all: Vec<String> = lost.iter().map(|text| escaped(text)).collect();
    if lost.is_empty() {
        all.push("No event was lost and no call missed.".to_owned());
    }
    let line = |(what, why): &(String, String)| escaped(&format!("{what} ({why})"));
    let unseen = facts::unseen(node);
    if unseen.is_empty() {
        all.push("Every hook is in place.".to_owned());
    }
    all.extend(unseen.iter().map(|one| format!("Cannot see: {}", line(one))));
    all.extend(facts::unused(node).iter().map(|one| format!("Not in use: {}", line(one))));
    for text in all {
        let _ = writeln!(out, "- {text}");
    }
    out.push('\n');
}

fn about(out: &mut String, node: &Node) {
    for (name, text) in facts::facts(node) {
        let _ = writeln!(out, "- {name}: {}", escaped(&text));
    }
    for (is_hazard, text) in facts::hazards(node) {
        let what = if is_hazard { "**Hazard**" } else { "Good to know" };
        let _ = writeln!(out, "- {what}: {}", escaped(&text));
    }
    out.push('\n');
    if !node.hazards.settings.is_empty() {
        let lines = node.hazards.settings.iter().map(|(name, value)| format!("{name} = {value}"));
        let _ = writeln!(out, "Settings at its start:\n\n{}", fenced(&lines.collect::<Vec<_>>()));
    }
    let (counts, more) = node.hazards.counts();
    if counts.is_empty() {
        return;
    }
    out.push_str("The kernel's own counters that are not zero:\n\n");
    out.push_str(
        "| Counter | Namespace of | Before | In this run |\n| --- | --- | ---: | ---: |\n",
    );
    for count in &counts {
        let (before, during) = (number(count.before), number(count.during));
        let _ = writeln!(
            out,
            "| {} | {} | {before} | {during} |",
            cell(count.what),
            cell(&count.place)
        );
    }
    if more > 0 {
        let _ = writeln!(out, "\n{more} more that grew less.");
    }
    out.push('\n');
}
