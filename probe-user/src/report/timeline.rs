//! Where stalls are on a timeline: rows, lanes and bars in per cent of its width.

use std::collections::BTreeMap;

use super::{CauseLine, Look, Report, Told, date_time, entry};
use crate::{
    output::time::{short, span},
    pipeline::WallClock,
};

const NS: u64 = 1_000_000_000;
/// Rows that are shown, those with most stalls first.
const ROWS: usize = 40;
/// Bars of a row that are side by side in time; what more there are lie over each other.
const LANES: usize = 12;
/// Least time that is shown.
const LEAST: u64 = 10 * NS;
/// Width of the narrowest timeline and of a letter of its labels, in pixels: labels must not meet.
const WIDTH: f64 = 640.0;
const LETTER: f64 = 7.0;
/// Ticks of the axis at most.
const TICKS: u64 = 8;
/// Between two of them, in seconds.
const STEPS: [u64; 22] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400,
    172_800, 604_800, 2_592_000, 31_536_000,
];

/// All rows over one axis.
#[derive(Debug)]
pub struct Timeline {
    /// What the axis is: its day, its zone, and whether it is all of the run.
    pub caption: String,
    pub ticks: Vec<Tick>,
    pub rows: Vec<Row>,
    /// Victims that have no row.
    pub more: usize,
    /// Findings whose place on a common axis is not known.
    pub unplaced: usize,
}

#[derive(Debug)]
pub struct Tick {
    pub at: f64,
    pub label: String,
}

/// One victim.
#[derive(Debug)]
pub struct Row {
    pub victim: String,
    pub stalls: u64,
    pub lanes: Vec<Vec<Bar>>,
}

/// One finding.
#[derive(Debug)]
pub struct Bar {
    /// What the finding is called in this report.
    pub name: String,
    /// `A n1-f1 ×3`.
    pub label: String,
    pub title: String,
    pub look: Look,
    /// From and to.
    pub spans: Vec<(f64, f64)>,
    /// It had not ended.
    pub is_open: bool,
}

/// A finding on the common axis, in nanoseconds.
struct Placed<'a> {
    node: usize,
    told: &'a Told,
    cause: &'a CauseLine<'a>,
    spans: Vec<(u64, u64)>,
}

impl Placed<'_> {
    fn from(&self) -> u64 {
        self.spans.first().map_or(0, |span| span.0)
    }

    fn to(&self) -> u64 {
        self.spans.last().map_or(0, |span| span.1)
    }
}

/// Nanoseconds of the axis: wall time where it is known, else boot time if there is one node only.
struct Axis {
    is_wall: bool,
    from: u64,
    to: u64,
}

pub fn timeline(report: &Report, causes: &[CauseLine<'_>]) -> Timeline {
    let is_wall = report.nodes.len() > 1
        || report.nodes.iter().all(|node| node.clock.wall(node.from_to().0).is_some());
    let at = |node: usize, boot: u64| {
        let clock = report.nodes.get(node)?.clock;
        if is_wall { clock.wall(boot) } else { Some(boot) }
    };
    let (mut placed, mut unplaced) = (Vec::new(), 0);
    for cause in causes {
        for &(node, told) in &cause.findings {
            let shown = told.shown().into_iter();
            let spans: Option<Vec<_>> =
                shown.map(|(from, to)| Some((at(node, from)?, at(node, to)?))).collect();
            match spans {
                Some(spans) => placed.push(Placed { node, told, cause, spans }),
                None => unplaced += 1,
            }
        }
    }
    let runs = report.nodes.iter().enumerate().filter_map(|(n, node)| {
        let (from, to) = node.from_to();
        Some((at(n, from)?, at(n, to)?))
    });
    let (axis, is_all) = axis(is_wall, &placed, runs.collect());
    let (rows, more) = rows(report, &axis, placed);
    Timeline { caption: axis.caption(is_all), ticks: axis.ticks(), rows, more, unplaced }
}

/// The whole run, or that part of a long one in which stalls were.
fn axis(is_wall: bool, placed: &[Placed<'_>], runs: Vec<(u64, u64)>) -> (Axis, bool) {
    let first = |all: &mut dyn Iterator<Item = u64>| all.min().unwrap_or(0);
    let last = |all: &mut dyn Iterator<Item = u64>| all.max().unwrap_or(0);
    let stalls =
        (first(&mut placed.iter().map(Placed::from)), last(&mut placed.iter().map(Placed::to)));
    let run = (first(&mut runs.iter().map(|run| run.0)), last(&mut runs.iter().map(|run| run.1)));
    let margin = (stalls.1.saturating_sub(stalls.0) / 20).max(NS);
    let (from, to) = if placed.is_empty() {
        run
    } else {
        // Nothing was watched before the run and after it.
        let from = stalls.0.saturating_sub(margin).max(run.0).min(stalls.0);
        (from, stalls.1.saturating_add(margin).min(run.1).max(stalls.1))
    };
    let is_part = (to - from).max(LEAST).saturating_mul(4) < run.1.saturating_sub(run.0);
    let (from, to) = if is_part { (from, to) } else { (from.min(run.0), to.max(run.1)) };
    let to = to.max(from.saturating_add(LEAST));
    (Axis { is_wall, from, to }, !is_part)
}

impl Axis {
    #[expect(clippy::cast_precision_loss, reason = "of a place on the screen")]
    fn percent(&self, at: u64) -> f64 {
        let length = (self.to - self.from).max(1);
        let into = at.saturating_sub(self.from).min(length);
        // Two digits are less than a pixel.
        (into as f64 / length as f64 * 10_000.0).round() / 100.0
    }

    /// Nanoseconds of the axis are as if this clock had told them.
    fn clock(&self) -> WallClock {
        if self.is_wall { WallClock::new(0, 0) } else { WallClock::default() }
    }

    fn caption(&self, is_all: bool) -> String {
        let clock = self.clock();
        let utc = if self.is_wall { " UTC" } else { "" };
        let what = if is_all { "" } else { "Where stalls were: " };
        let (from, to) = (date_time(clock, self.from), date_time(clock, self.to));
        format!("{what}{from} to {to}{utc} ({})", span(self.to - self.from))
    }

    fn ticks(&self) -> Vec<Tick> {
        let length = (self.to - self.from) / NS;
        let step = STEPS.iter().copied().find(|step| length / step <= TICKS);
        // Longer than any recording: a few ticks, whatever they are called.
        let step = step.unwrap_or(length / TICKS).max(1);
        let first = self.from.div_ceil(NS).div_ceil(step);
        let ticks = (first..=self.to / NS / step).map(|n| n * step * NS);
        let (clock, mut day) = (self.clock(), date_time(self.clock(), self.from));
        ticks
            .map(|at| {
                let full = date_time(clock, at);
                let time = short(clock, at);
                let label = match time.strip_suffix(":00") {
                    Some(minute) if self.is_wall && step >= 60 => minute.to_owned(),
                    _ => time,
                };
                let is_other_day = self.is_wall && full.get(..10) != day.get(..10);
                day = full;
                let label = match day.get(5..10) {
                    Some(date) if is_other_day || (self.is_wall && step >= 86_400) => {
                        format!("{date} {label}")
                    }
                    _ => label,
                };
                Tick { at: self.percent(at), label }
            })
            .collect()
    }
}

fn rows(report: &Report, axis: &Axis, placed: Vec<Placed<'_>>) -> (Vec<Row>, usize) {
    let mut victims: BTreeMap<(usize, String), Vec<Placed<'_>>> = BTreeMap::new();
    for one in placed {
        victims.entry((one.node, entry::victim(one.told))).or_default().push(one);
    }
    let mut rows: Vec<(usize, Row, u64)> = victims
        .into_iter()
        .map(|((node, victim), mut all)| {
            all.sort_by_key(|one| (one.from(), one.to()));
            let stalls =
                all.iter().fold(0_u64, |sum, one| sum.saturating_add(one.told.finding.count));
            let from = all.first().map_or(0, Placed::from);
            let victim = match report.nodes.get(node) {
                Some(of) if report.nodes.len() > 1 => format!("{}: {victim}", of.name()),
                _ => victim,
            };
            (node, Row { victim, stalls, lanes: lanes(report, axis, &all) }, from)
        })
        .collect();
    let more = rows.len().saturating_sub(ROWS);
    rows.sort_by_key(|(_, row, _)| std::cmp::Reverse(row.stalls));
    rows.truncate(ROWS);
    rows.sort_by_key(|(node, _, from)| (*node, *from));
    (rows.into_iter().map(|(_, row, _)| row).collect(), more)
}

/// Each bar in the first lane where it and its label have room.
fn lanes(report: &Report, axis: &Axis, all: &[Placed<'_>]) -> Vec<Vec<Bar>> {
    let mut lanes: Vec<(f64, Vec<Bar>)> = Vec::new();
    for one in all {
        let bar = bar(report, axis, one);
        let (from, to) = bar.extent();
        let is_full = lanes.len() >= LANES;
        match lanes.iter_mut().find(|(taken, _)| *taken <= from) {
            Some((taken, lane)) => {
                *taken = to;
                lane.push(bar);
            }
            None if !is_full => lanes.push((to, vec![bar])),
            None => {
                if let Some((_, lane)) = lanes.last_mut() {
                    lane.push(bar);
                }
            }
        }
    }
    lanes.into_iter().map(|(_, lane)| lane).collect()
}

fn bar(report: &Report, axis: &Axis, one: &Placed<'_>) -> Bar {
    let f = &one.told.finding;
    let name = f.id.clone();
    let count = if f.count > 1 { format!(" \u{d7}{}", f.count) } else { String::new() };
    let clock = report.nodes.get(one.node).map(|node| node.clock).unwrap_or_default();
    Bar {
        label: format!("{} {name}{count}", one.cause.letter),
        title: format!("{name}: {}, {}", f.cause, entry::times(one.told, clock)),
        name,
        look: one.cause.look,
        spans: one.spans.iter().map(|&(a, b)| (axis.percent(a), axis.percent(b))).collect(),
        is_open: f.open,
    }
}

impl Bar {
    pub fn from(&self) -> f64 {
        self.spans.first().map_or(0.0, |span| span.0)
    }

    pub fn to(&self) -> f64 {
        self.spans.last().map_or(0.0, |span| span.1)
    }

    /// Whether its label ends where the bar ends, for want of room to the right.
    pub fn is_label_left(&self) -> bool {
        self.from() + self.label_width() > 100.0
    }

    #[expect(clippy::cast_precision_loss, reason = "a label has a few letters")]
    fn label_width(&self) -> f64 {
        (self.label.chars().count() + 2) as f64 * LETTER / WIDTH * 100.0
    }

    /// What it takes of its lane.
    fn extent(&self) -> (f64, f64) {
        if self.is_label_left() {
            (self.from().min(self.to() - self.label_width()), self.to())
        } else {
            (self.from(), self.to().max(self.from() + self.label_width()))
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::{
        finding::Party,
        output::filter::Filter,
        report::{Collector, Node, Source},
        testing::*,
    };

    const SECOND: u64 = 1000 * MS;

    /// A run of an hour with one stall.
    fn node() -> Node {
        let mut run = Run::new();
        run.at(1500, unanswered(7, AAAA, 500));
        let mut collector = Collector::new(1, &Filter::default());
        run.until(9000);
        run.played().iter().for_each(|event| collector.take(0, event));
        let mut node = collector.finish(vec![Source::default()]).nodes.remove(0);
        node.summary.status.elapsed = 3600 * SECOND;
        node.summary.status.now = START + 3600 * SECOND;
        node
    }

    /// These findings in seconds of the run: victim, from, to, stalls.
    fn with(node: &mut Node, all: &[(&str, u64, u64, u64)]) {
        let told = node.findings[0].clone();
        node.findings.clear();
        for (n, &(pod, from, to, count)) in all.iter().enumerate() {
            let mut told = told.clone();
            let f = &mut told.finding;
            (f.first, f.last) = (START + from * SECOND, START + to * SECOND);
            (f.count, f.waited, f.open) = (count, (to - from) * SECOND, false);
            f.id = format!("f{}", n + 1);
            f.victim = Party { pod: Some(pod.to_owned()), ..Party::default() };
            told.spans = vec![(f.first, f.last)];
            node.findings.push(told);
        }
    }

    fn drawn(all: &[(&str, u64, u64, u64)]) -> Timeline {
        let mut node = node();
        with(&mut node, all);
        let report = Report { nodes: vec![node] };
        timeline(&report, &report.causes())
    }

    #[test]
    fn of_a_long_run_the_part_with_stalls() {
        let part = drawn(&[("a", 600, 610, 1), ("a", 690, 700, 1)]);
        assert_eq!(
            part.caption,
            "Where stalls were: 2025-11-21 12:09:55 to 2025-11-21 12:11:45 UTC (1m50s)"
        );
        let labels: Vec<&str> = part.ticks.iter().map(|tick| &*tick.label).collect();
        assert_eq!(
            labels,
            [
                "12:10:00", "12:10:15", "12:10:30", "12:10:45", "12:11:00", "12:11:15", "12:11:30",
                "12:11:45"
            ]
        );
        assert_eq!(part.rows[0].lanes.len(), 1);
        let bars = &part.rows[0].lanes[0];
        assert_eq!((bars[0].spans[0], bars[1].spans[0].1), ((4.55, 13.64), 95.45));
        let whole = drawn(&[("a", 0, 10, 1), ("a", 3000, 3599, 2)]);
        assert_eq!(whole.caption, "2025-11-21 12:00:00 to 2025-11-21 13:00:00 UTC (1h00m)");
        let labels: Vec<&str> = whole.ticks.iter().map(|tick| &*tick.label).collect();
        assert_eq!(labels, ["12:00", "12:10", "12:20", "12:30", "12:40", "12:50", "13:00"]);
    }

    #[test]
    fn bars_and_labels_do_not_meet() {
        let timeline = drawn(&[
            ("a", 600, 900, 1),
            ("a", 601, 602, 1),
            ("a", 602, 603, 1),
            ("a", 1200, 1201, 1),
            ("a", 3599, 3600, 30),
            ("b", 600, 601, 1),
        ]);
        assert_eq!(timeline.rows.len(), 2);
        assert_eq!(timeline.rows[0].stalls, 34);
        for lane in &timeline.rows[0].lanes {
            for pair in lane.windows(2) {
                assert!(pair[0].extent().1 <= pair[1].extent().0, "{pair:?}");
            }
        }
        assert_eq!(timeline.rows[0].lanes.len(), 3);
        let last = timeline.rows[0].lanes[0].last().unwrap();
        assert!(last.is_label_left() && last.label == "? f5 \u{d7}30", "{last:?}");
    }

    #[test]
    fn rows_and_lanes_are_bounded() {
        let pods: Vec<String> = (0..50).map(|n| format!("pod-{n}")).collect();
        let all: Vec<_> =
            pods.iter().map(|pod| (&**pod, 5, 6, 2)).chain([("z", 7, 8, 9)]).collect();
        let timeline = drawn(&all);
        assert_eq!((timeline.rows.len(), timeline.more), (ROWS, 11));
        assert!(timeline.rows.iter().any(|row| row.victim == "z"), "it has most stalls");
        let timeline = drawn(&[("a", 5, 6, 1); 40]);
        assert_eq!(timeline.rows[0].lanes.len(), LANES);
        assert_eq!(timeline.rows[0].lanes.iter().map(Vec::len).sum::<usize>(), 40);
    }

    #[test]
    fn a_clock_that_is_not_known() {
        let mut alone = node();
        alone.clock = WallClock::default();
        let report = Report { nodes: vec![alone] };
        let drawn = timeline(&report, &report.causes());
        assert!(drawn.caption.contains("boot+1000s to "), "{}", drawn.caption);
        assert!(drawn.ticks.iter().all(|tick| tick.label.starts_with("boot+")));
        let mut beside = node();
        beside.clock = WallClock::default();
        let report = Report { nodes: vec![node(), beside] };
        let drawn = timeline(&report, &report.causes());
        assert_eq!((drawn.rows.len(), drawn.unplaced), (1, 1));
    }

    #[test]
    fn any_times_have_ticks_in_the_picture() {
        for (from, to) in [(0, 0), (0, u64::MAX), (u64::MAX - 5, u64::MAX), (5, 5 + LEAST)] {
            for is_wall in [true, false] {
                let axis = Axis { is_wall, from, to };
                let ticks = axis.ticks();
                assert!(ticks.len() <= 10, "{from} {to}: {}", ticks.len());
                assert!(ticks.iter().all(|tick| (0.0..=100.0).contains(&tick.at)));
                assert!((0.0..=100.0).contains(&axis.percent(u64::MAX)));
            }
        }
    }
}
