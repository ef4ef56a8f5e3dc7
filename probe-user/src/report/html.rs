//! The report as one page that needs nothing but itself: no script, no font, no image, nothing from
//! the network, and a policy that lets a browser fetch and run nothing.

use super::{
    CauseLine, Look, Node, Report, Told, entry, facts, svg, tags::Html, timeline::timeline,
};
use crate::{
    explain,
    finding::NotNamed,
    output::{text::by_reason, time::number},
};

/// The style sheet, which is all that the policy allows, by this hash.
pub const STYLE: &str = include_str!("style.css");
pub const STYLE_HASH: &str = "sha256-3XxS+kQHMOO9Q8AkBEciW2J4YRc5hHdkSUdGtQBHiJw=";
/// Findings of a node that are shown whole.
const WHOLE: usize = 200;
/// Findings a cause links to.
const LINKS: usize = 12;

/// The whole page.
pub fn page(report: &Report) -> String {
    let causes = report.causes();
    let mut html = Html::document();
    html.tag("html", &[("lang", "en")], |html| {
        html.tag("head", &[], |html| head(html, &report.title()));
        html.tag("body", &[], |html| {
            svg::patterns(html);
            html.tag("header", &[], |html| top(html, report));
            html.tag("main", &[], |html| {
                overview(html, &causes);
                when(html, report, &causes);
                for (n, node) in report.nodes.iter().enumerate() {
                    html.tag("section", &[("class", "node")], |html| {
                        of_node(html, report, &causes, n, node);
                    });
                }
            });
            html.tag("footer", &[("class", "soft")], bottom);
        });
    });
    html.finish()
}

fn head(html: &mut Html, title: &str) {
    html.void("meta", &[("charset", "utf-8")]);
    let policy = format!(
        "default-src 'none'; style-src '{STYLE_HASH}'; base-uri 'none'; form-action 'none'"
    );
    html.void("meta", &[("http-equiv", "Content-Security-Policy"), ("content", &policy)]);
    html.void("meta", &[("name", "referrer"), ("content", "no-referrer")]);
    html.void("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")]);
    html.leaf("title", &[], title);
    html.style(STYLE);
}

fn top(html: &mut Html, report: &Report) {
    html.leaf("h1", &[], &report.title());
    for node in &report.nodes {
        let name =
            if report.nodes.len() > 1 { format!("{}: ", node.name()) } else { String::new() };
        html.leaf("p", &[("class", "soft")], &format!("{name}{}", node.times()));
    }
    html.leaf("p", &[("class", "outcome")], &format!("{}.", report.outcome()));
}

fn overview(html: &mut Html, causes: &[CauseLine<'_>]) {
    if causes.is_empty() {
        return;
    }
    html.leaf("h2", &[], "Causes");
    html.tag("div", &[("class", "scroll")], |html| {
        html.tag("table", &[], |html| {
            html.tag("thead", &[], |html| {
                html.tag("tr", &[], |html| {
                    html.leaf("th", &[], "Cause");
                    html.leaf("th", &[("class", "n")], "Stalls");
                    html.leaf("th", &[], "In short");
                    html.leaf("th", &[], "Findings");
                });
            });
            html.tag("tbody", &[], |html| {
                for cause in causes {
                    html.tag("tr", &[], |html| {
                        html.tag("th", &[("class", "key")], |html| key(html, cause));
                        html.leaf("td", &[("class", "n")], &number(cause.stalls));
                        html.leaf("td", &[], explain::title(cause.cause));
                        html.tag("td", &[("class", "links")], |html| links(html, cause));
                    });
                }
            });
        });
    });
}

/// Letter, colour, pattern and name.
fn key(html: &mut Html, cause: &CauseLine<'_>) {
    svg::swatch(html, cause.look);
    html.text(&format!("{} {}", cause.letter, cause.cause));
}

fn links(html: &mut Html, cause: &CauseLine<'_>) {
    for (n, (_, told)) in cause.findings.iter().take(LINKS).enumerate() {
        if n > 0 {
            html.text(", ");
        }
        let name = &told.finding.id;
        html.leaf("a", &[("href", &*format!("#{name}"))], name);
    }
    if let Some(more @ 1..) = cause.findings.len().checked_sub(LINKS) {
        html.text(&format!(" and {more} more"));
    }
}

fn when(html: &mut Html, report: &Report, causes: &[CauseLine<'_>]) {
    let timeline = timeline(report, causes);
    if timeline.rows.is_empty() {
        return;
    }
    html.leaf("h2", &[], "Who stalled when");
    html.leaf("p", &[("class", "soft")], &timeline.caption);
    let region =
        [("class", "scroll"), ("role", "region"), ("aria-label", "Timeline"), ("tabindex", "0")];
    html.tag("div", &region, |html| {
        html.tag("div", &[("class", "lines")], |html| svg::rows(html, &timeline));
    });
    html.tag("p", &[("class", "soft legend")], |html| {
        for cause in causes {
            html.tag("span", &[("class", "key")], |html| {
                key(html, cause);
                html.text(&format!(" ({})", number(cause.stalls)));
            });
            html.text(" ");
        }
        html.text("\u{25b6} had not ended. Stalls of a finding within 30 seconds are one bar.");
    });
    for (n, what) in [
        (timeline.more, "more victims, with fewer stalls, are not shown."),
        (timeline.unplaced, "findings of nodes whose clock is not known are not shown."),
    ] {
        if n > 0 {
            html.leaf("p", &[("class", "soft")], &format!("{n} {what}"));
        }
    }
}

fn of_node(html: &mut Html, report: &Report, causes: &[CauseLine<'_>], n: usize, node: &Node) {
    let of = if report.nodes.len() > 1 { format!(" of {}", node.name()) } else { String::new() };
    let all = || {
        causes.iter().flat_map(|cause| {
            let here = cause.findings.iter().filter(|(of, _)| *of == n);
            here.map(move |(_, told)| (cause, *told))
        })
    };
    if node.findings.is_empty() {
        html.leaf("h2", &[], &format!("Node {}", node.name()));
        html.leaf("p", &[], "No stalls were found.");
    } else {
        html.leaf("h2", &[], &format!("Findings{of}"));
    }
    for (cause, told) in all().take(WHOLE) {
        finding(html, node, told, cause.look, &told.finding.id);
    }
    if let Some(more @ 1..) = all().count().checked_sub(WHOLE) {
        let more = number(more as u64);
        html.leaf(
            "p",
            &[],
            &format!(
                "{more} more findings are left out of this page; stallprobe replay shows them all."
            ),
        );
    }
    html.leaf("h2", &[], &format!("What could not be seen{of}"));
    unseen(html, node);
    html.leaf("h2", &[], &format!("The node{of}"));
    about(html, node);
}

fn finding(html: &mut Html, node: &Node, told: &Told, look: Look, name: &str) {
    let f = &told.finding;
    html.tag("article", &[("id", name)], |html| {
        html.tag("h3", &[], |html| {
            svg::swatch(html, look);
            html.text(&format!("{name} \u{b7} {} \u{b7} {}", f.symptom.id(), f.cause));
        });
        html.tag("p", &[("class", "who")], |html| html.prose(&f.headline));
        html.tag("dl", &[], |html| {
            entry(html, "Cause", |html| {
                html.leaf("strong", &[], &entry::cause(told));
                html.text(": ");
                html.prose(&f.title);
            });
            entry(html, "Stalls", |html| html.text(&entry::times(told, node.clock)));
            let fixes: Vec<_> = f.fix.iter().flat_map(entry::fix).collect();
            list(html, "Fix", "fix", &fixes, |html, (label, text)| {
                html.leaf("b", &[], &format!("{label}: "));
                html.prose(text);
            });
            list(html, "Evidence", "steps", &entry::evidence(told), |html, (at, text)| {
                html.leaf("span", &[("class", "at")], at);
                html.tag("span", &[], |html| html.prose(text));
            });
            list(html, "Confirm", "", &f.confirm, |html, text| html.prose(text));
            reasons(html, "Ruled out", &f.ruled_out);
            reasons(html, "Not seen", &f.not_seen);
            entry(html, "Explain", |html| {
                html.leaf("code", &[], &format!("stallprobe explain {}", f.cause));
            });
        });
    });
}

fn reasons(html: &mut Html, heading: &str, causes: &[NotNamed]) {
    list(html, heading, "quiet", &by_reason(causes), |html, (why, ids)| {
        html.text(&format!("{}: ", ids.join(", ")));
        html.prose(why);
    });
}

fn entry(html: &mut Html, heading: &str, inside: impl FnOnce(&mut Html)) {
    html.leaf("dt", &[], heading);
    html.tag("dd", &[], inside);
}

fn list<T>(html: &mut Html, heading: &str, class: &str, all: &[T], one: impl Fn(&mut Html, &T)) {
    if all.is_empty() {
        return;
    }
    entry(html, heading, |html| {
        html.tag("ul", &[("class", class)], |html| {
            for item in all {
                html.tag("li", &[], |html| one(html, item));
            }
        });
    });
}

fn unseen(html: &mut Html, node: &Node) {
    let (lost, unseen, unused) = (facts::lost(node), facts::unseen(node), facts::unused(node));
    html.tag("dl", &[], |html| {
        if lost.is_empty() {
            entry(html, "Lost", |html| html.text("nothing: no event was lost, no call missed"));
        }
        list(html, "Lost", "", &lost, |html, text| html.text(text));
        if unseen.is_empty() {
            entry(html, "Cannot see", |html| html.text("nothing: every hook is in place"));
        }
        for (heading, all) in [("Cannot see", unseen), ("Not in use", unused)] {
            list(html, heading, "", &all, |html, (what, why)| {
                html.text(&format!("{what} ({why})"));
            });
        }
    });
}

fn about(html: &mut Html, node: &Node) {
    html.tag("dl", &[], |html| {
        for (name, text) in facts::facts(node) {
            entry(html, name, |html| html.text(&text));
        }
        list(html, "Hazards", "", &facts::hazards(node), |html, (is_hazard, text)| {
            if *is_hazard {
                html.leaf("span", &[("class", "hazard")], "Hazard: ");
            }
            html.text(text);
        });
    });
    let (counts, more) = node.hazards.counts();
    let rows = counts.iter().map(|count| {
        let place = [count.what, &count.place].map(str::to_owned);
        (place, [number(count.before), number(count.during)])
    });
    let heads = (["Counter", "Namespace of"], ["Before", "In this run"]);
    table(html, "The kernel's own counters that are not zero", heads, rows);
    if more > 0 {
        html.leaf("p", &[("class", "soft")], &format!("{more} more that grew less."));
    }
    let settings = node.hazards.settings.iter();
    let rows = settings.map(|(name, value)| ([name.clone(), value.clone()], []));
    table(html, "Settings at its start", (["Name", "Value"], []), rows);
}

/// Words on the left, numbers on the right; nothing of no rows.
fn table<const WORDS: usize, const NUMBERS: usize>(
    html: &mut Html,
    heading: &str,
    heads: ([&str; WORDS], [&str; NUMBERS]),
    rows: impl Iterator<Item = ([String; WORDS], [String; NUMBERS])>,
) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    html.leaf("h4", &[], heading);
    html.tag("div", &[("class", "scroll")], |html| {
        html.tag("table", &[], |html| {
            html.tag("thead", &[], |html| {
                html.tag("tr", &[], |html| {
                    heads.0.iter().for_each(|head| html.leaf("th", &[], head));
                    heads.1.iter().for_each(|head| html.leaf("th", &[("class", "n")], head));
                });
            });
            html.tag("tbody", &[], |html| {
                for (words, numbers) in rows {
                    html.tag("tr", &[], |html| {
                        words.iter().for_each(|word| html.leaf("td", &[], word));
                        numbers.iter().for_each(|n| html.leaf("td", &[("class", "n")], n));
                    });
                }
            });
        });
    });
}

fn bottom(html: &mut Html) {
    html.text(
        "Times are UTC. This page holds names and addresses of the cluster. It was made by \
         stallprobe report, runs no script and fetches nothing.",
    );
}
