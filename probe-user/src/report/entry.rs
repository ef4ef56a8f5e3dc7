//! The parts of a finding in words, the same for a page and for Markdown.

use super::Told;
use crate::{
    finding::Fix,
    output::{
        text,
        time::{counted, relative, short, span},
    },
    pipeline::WallClock,
};

/// `conntrack-dnat-clash (certain)`; what is only possible says nothing of that.
pub fn cause(told: &Told) -> String {
    let f = &told.finding;
    match f.cause {
        crate::finding::Cause::Unknown => f.cause.id().to_owned(),
        cause => format!("{cause} ({})", f.confidence.id()),
    }
}

/// Who suffers: its pod, or its address.
pub fn victim(told: &Told) -> String {
    let victim = &told.finding.victim;
    match (&victim.pod, victim.address) {
        (Some(pod), _) if pod == "host" => "host (the node itself)".to_owned(),
        (Some(pod), _) => pod.clone(),
        (None, Some(address)) => address.to_string(),
        (None, None) => "clients elsewhere".to_owned(),
    }
}

/// `3 stalls from 12:00:00 to 12:00:20 UTC, the longest 7.8 s`.
pub fn times(told: &Told, clock: WallClock) -> String {
    let f = &told.finding;
    let utc = if clock.wall(f.first).is_some() { " UTC" } else { "" };
    let from = short(clock, f.first);
    let mut text = match f.count {
        0 | 1 => format!("1 stall at {from}{utc}"),
        n => format!("{} from {from} to {}{utc}", counted(n, "stall"), short(clock, f.last)),
    };
    if f.waited > 0 {
        let longest = if f.count > 1 { "the longest " } else { "" };
        text.push_str(&format!(", {longest}{}", span(f.waited)));
    }
    if f.open {
        let which = if f.count > 1 { "the first" } else { "it" };
        text.push_str(&format!("; {which} had not ended when this was said"));
    }
    if let Some(counts) = text::counts(&f.details) {
        text.push_str(&format!("; {counts}"));
    }
    text
}

/// When a piece of evidence was, from the stall's beginning, and what it says.
pub fn evidence(told: &Told) -> Vec<(String, &str)> {
    let f = &told.finding;
    f.evidence.iter().map(|e| (relative(f.ts, e.ts), e.text.as_str())).collect()
}

/// `now`, `lasting` and `but`, each with where it is done and what helps.
pub fn fix(fix: &Fix) -> Vec<(String, &str)> {
    let place = fix.place.id();
    let now = fix.now.as_deref().map(|text| (format!("now ({place})"), text));
    let lasting = fix.lasting.as_deref().map(|text| (format!("lasting ({place})"), text));
    let caveat = fix.caveat.as_deref().map(|text| ("but".to_owned(), text));
    [now, lasting, caveat].into_iter().flatten().collect()
}
