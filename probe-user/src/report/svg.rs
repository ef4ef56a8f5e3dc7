//! Draws the timeline: one small SVG for each victim, so that a printed page may break between
//! them. Across, all places are in per cent, so that text keeps its size whatever the width. Colours
//! are in the style sheet; each cause has a pattern and a letter besides.

use super::{
    LOOKS, Look,
    tags::Html,
    timeline::{Bar, Row, Tick, Timeline},
};

/// Height of a lane and of the bar at its foot, in pixels.
const LANE: usize = 30;
const BAR: usize = 11;

impl Look {
    /// The class of its colour.
    const fn class(self) -> &'static str {
        match self {
            Self::Unknown => "ku",
            Self::Named(n) => CLASSES[n % LOOKS],
        }
    }

    const fn fill(self) -> &'static str {
        match self {
            Self::Unknown => "url(#pu)",
            Self::Named(n) => FILLS[n % LOOKS],
        }
    }

    const fn id(self) -> &'static str {
        match self {
            Self::Unknown => "pu",
            Self::Named(n) => IDS[n % LOOKS],
        }
    }

    /// What is drawn over the colour, as a path in a square of 8.
    const fn pattern(self) -> &'static str {
        match self {
            Self::Unknown => "M0 0L8 8M8 0L0 8",
            Self::Named(n) => PATTERNS[n % LOOKS],
        }
    }
}

const CLASSES: [&str; LOOKS] = ["k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7"];
const FILLS: [&str; LOOKS] = [
    "url(#p0)", "url(#p1)", "url(#p2)", "url(#p3)", "url(#p4)", "url(#p5)", "url(#p6)", "url(#p7)",
];
const IDS: [&str; LOOKS] = ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"];
const PATTERNS: [&str; LOOKS] = [
    "",
    "M-2 2L2 -2M0 8L8 0M6 10L10 6",
    "M4 0V8",
    "M2 2h2v2h-2zM6 6h2v2h-2z",
    "M0 4H8",
    "M-2 6L2 10M0 0L8 8M6 -2L10 2",
    "M4 0V8M0 4H8",
    "M0 2L4 6L8 2",
];

/// The patterns, which all drawings of the page use.
pub fn patterns(html: &mut Html) {
    let hidden = [("class", "defs"), ("width", "0"), ("height", "0"), ("aria-hidden", "true")];
    html.tag("svg", &hidden, |html| {
        html.tag("defs", &[], |html| {
            for look in (0..LOOKS).map(Look::Named).chain([Look::Unknown]) {
                let attributes = [
                    ("id", look.id()),
                    ("width", "8"),
                    ("height", "8"),
                    ("patternUnits", "userSpaceOnUse"),
                ];
                html.tag("pattern", &attributes, |html| {
                    let ground = [("class", look.class()), ("width", "8"), ("height", "8")];
                    html.tag("rect", &ground, |_| {});
                    html.tag("path", &[("class", "over"), ("d", look.pattern())], |_| {});
                });
            }
        });
    });
}

/// A cause's colour and pattern, with its letter beside it.
pub fn swatch(html: &mut Html, look: Look) {
    let size = [("class", "swatch"), ("width", "22"), ("height", "12"), ("aria-hidden", "true")];
    html.tag("svg", &size, |html| {
        let rect = [("width", "22"), ("height", "12"), ("rx", "2"), ("fill", look.fill())];
        html.tag("rect", &rect, |_| {});
    });
}

/// The axis, all rows, and the axis again below a long list.
pub fn rows(html: &mut Html, timeline: &Timeline) {
    axis(html, &timeline.ticks);
    for row in &timeline.rows {
        html.tag("div", &[("class", "row")], |html| draw(html, row, &timeline.ticks));
    }
    if timeline.rows.len() > 6 {
        axis(html, &timeline.ticks);
    }
}

fn axis(html: &mut Html, ticks: &[Tick]) {
    let size = [("class", "axis"), ("width", "100%"), ("height", "18"), ("aria-hidden", "true")];
    html.tag("svg", &size, |html| {
        for tick in ticks {
            // A label at the edge stays inside.
            let anchor = match tick.at {
                ..4.0 => "start",
                96.0.. => "end",
                _ => "middle",
            };
            let at = [("x", &*percent(tick.at)), ("y", "13"), ("text-anchor", anchor)];
            html.leaf("text", &at, &tick.label);
        }
    });
}

fn draw(html: &mut Html, row: &Row, ticks: &[Tick]) {
    html.tag("div", &[("class", "victim")], |html| {
        html.leaf("b", &[], &row.victim);
        html.text(&format!(" {}", crate::output::time::counted(row.stalls, "stall")));
    });
    let height = (row.lanes.len() * LANE).to_string();
    let name = format!("Stalls of {}", row.victim);
    let size = [("width", "100%"), ("height", &*height), ("role", "group"), ("aria-label", &*name)];
    html.tag("svg", &size, |html| {
        for tick in ticks {
            let x = percent(tick.at);
            let line = [("class", "tick"), ("x1", &*x), ("x2", &*x), ("y1", "0"), ("y2", &*height)];
            html.tag("line", &line, |_| {});
        }
        for (n, lane) in row.lanes.iter().enumerate() {
            for bar in lane {
                draw_bar(html, bar, n * LANE);
            }
        }
    });
}

fn draw_bar(html: &mut Html, bar: &Bar, top: usize) {
    let y = (top + LANE - BAR - 4).to_string();
    let height = BAR.to_string();
    let class = bar.look.class();
    html.tag("a", &[("href", &*format!("#{}", bar.name)), ("aria-label", &*bar.title)], |html| {
        html.leaf("title", &[], &bar.title);
        let (from, to) = (percent(bar.from()), percent(bar.to()));
        let middle = (top + LANE - BAR / 2 - 4).to_string();
        if bar.spans.len() > 1 {
            let line = [
                ("class", "between"),
                ("x1", &*from),
                ("x2", &*to),
                ("y1", &*middle),
                ("y2", &*middle),
            ];
            html.tag("line", &line, |_| {});
        }
        for (from, to) in &bar.spans {
            let (x, width) = (percent(*from), percent(to - from));
            let rect = [
                ("x", &*x),
                ("y", &*y),
                ("width", &*width),
                ("height", &*height),
                ("fill", bar.look.fill()),
            ];
            html.tag("rect", &rect, |_| {});
            // However short it was, its beginning can be seen.
            let foot = (top + LANE - 4).to_string();
            let class = format!("begin {class}");
            let line = [("class", &*class), ("x1", &*x), ("x2", &*x), ("y1", &*y), ("y2", &*foot)];
            html.tag("line", &line, |_| {});
        }
        let label_y = (top + LANE - BAR - 8).to_string();
        let (x, anchor) = if bar.is_label_left() { (&to, "end") } else { (&from, "start") };
        html.leaf("text", &[("x", x), ("y", &label_y), ("text-anchor", anchor)], &bar.label);
        if bar.is_open {
            let end = (top + LANE - 5).to_string();
            let at = [("class", "open"), ("x", &*to), ("dx", "3"), ("y", &*end)];
            html.leaf("text", &at, "\u{25b6}");
        }
    });
}

fn percent(at: f64) -> String {
    format!("{at:.2}%")
}
