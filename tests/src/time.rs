//! The times in stallprobe's lines.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// From one line to a later one, less than a day.
pub fn between(first: &Value, second: &Value) -> Result<Duration> {
    let (from, to) = (of_day(first)?, of_day(second)?);
    Ok(if to < from { to + DAY - from } else { to - from })
}

/// Since midnight, from `time` in the form of RFC 3339: `2026-11-21T11:53:18.651071Z`.
fn of_day(line: &Value) -> Result<Duration> {
    let time = line["time"].as_str();
    let read = || {
        let (_, clock) = time?.strip_suffix('Z')?.split_once('T')?;
        let mut parts = clock.splitn(3, ':');
        let hours: u64 = parts.next()?.parse().ok()?;
        let minutes: u64 = parts.next()?.parse().ok()?;
        let seconds: f64 = parts.next()?.parse().ok()?;
        let whole = Duration::from_secs((hours * 60 + minutes) * 60);
        Some(whole + Duration::try_from_secs_f64(seconds).ok()?)
    };
    read().with_context(|| format!("odd time in {line}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn from_line_to_line() {
        let at = |time: &str| json!({"time": time});
        let morning = at("2026-11-21T11:53:18.250000Z");
        let later = at("2026-11-21T12:00:00.5Z");
        assert_eq!(between(&morning, &later).unwrap(), Duration::from_millis(402_250));
        let midnight = at("2026-11-22T00:00:01Z");
        let before = at("2026-11-21T23:59:59Z");
        assert_eq!(between(&before, &midnight).unwrap(), Duration::from_secs(2));
        assert!(between(&before, &at("soon")).is_err());
    }
}
