//! Wall time and spans of time in words.

use crate::pipeline::WallClock;

const NS: u64 = 1_000_000_000;

/// RFC 3339 in UTC with microseconds; `None` while no clock is known.
pub fn rfc3339(clock: WallClock, boot: u64) -> Option<String> {
    let wall = clock.wall(boot)?;
    let (y, m, d) = date(wall / NS / 86_400);
    let (hour, minute, second) = time_of_day(wall);
    let us = wall % NS / 1000;
    Some(format!("{y:04}-{m:02}-{d:02}T{hour:02}:{minute:02}:{second:02}.{us:06}Z"))
}

/// `12:04:31` in UTC; seconds since boot while no clock is known.
pub fn short(clock: WallClock, boot: u64) -> String {
    match clock.wall(boot) {
        Some(wall) => {
            let (hour, minute, second) = time_of_day(wall);
            format!("{hour:02}:{minute:02}:{second:02}")
        }
        None => format!("boot+{}s", boot / NS),
    }
}

fn time_of_day(wall: u64) -> (u64, u64, u64) {
    let s = wall / NS % 86_400;
    (s / 3600, s / 60 % 60, s % 60)
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian calendar: years are
/// counted from March, so that the leap day is the last one, in eras of 400 years.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let d = day - (153 * month + 2) / 5 + 1;
    let m = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(m <= 2), m, d)
}

/// `+1.402 s` or `-0.020 s`.
pub fn relative(from: u64, to: u64) -> String {
    let (sign, ns) = if to >= from { ('+', to - from) } else { ('-', from - to) };
    let ms = ns / 1_000_000;
    format!("{sign}{}.{:03} s", ms / 1000, ms % 1000)
}

/// `230 ms`, `5.0 s`, `10m00s`, `2h05m`.
pub fn span(ns: u64) -> String {
    let ms = ns / 1_000_000;
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{}.{} s", (ms + 50) / 1000, (ms + 50) / 100 % 10),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        _ => format!("{}h{:02}m", s / 3600, s / 60 % 60),
    }
}

/// `18 322`.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// `1 stall`, `2 stalls`.
pub fn counted(n: u64, word: &str) -> String {
    format!("{} {word}{}", number(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let at = |seconds: u64| rfc3339(WallClock::new(0, 0), seconds * NS).unwrap_or_default();
        assert_eq!(at(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000Z");
        assert_eq!(at(951_868_799), "2000-02-29T23:59:59.000000Z");
        assert_eq!(at(1_709_164_800), "2024-02-29T00:00:00.000000Z");
        assert_eq!(at(1_763_726_400), "2025-11-21T12:00:00.000000Z");
        assert_eq!(at(4_102_444_800), "2100-01-01T00:00:00.000000Z");
        assert_eq!(
            rfc3339(WallClock::new(NS, 3 * NS), 2_000_001_000).as_deref(),
            Some("1970-01-01T00:00:04.000001Z")
        );
        assert_eq!(rfc3339(WallClock::default(), 5), None);
        assert_eq!(short(WallClock::default(), 5 * NS), "boot+5s");
    }

    #[test]
    fn spans_and_numbers() {
        assert_eq!(span(230_000_000), "230 ms");
        assert_eq!(span(5_049_000_000), "5.0 s");
        assert_eq!(span(600 * NS), "10m00s");
        assert_eq!(span(7500 * NS), "2h05m");
        assert_eq!(relative(5 * NS, 4_980_000_000), "-0.020 s");
        assert_eq!(
            (number(999), number(18_322), number(1_000_000)),
            ("999".to_owned(), "18 322".to_owned(), "1 000 000".to_owned())
        );
        assert_eq!(counted(1, "stall"), "1 stall");
    }
}
