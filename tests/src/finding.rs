//! One finding of stallprobe, and checks on its fields that quote the whole line when they fail.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Confidences, best first.
pub const ORDER: [&str; 3] = ["certain", "likely", "possible"];

/// Details that a rung without hooks on functions may not know: they are then null, "unknown" or [].
const UNTOLD: [&str; 4] = [
    // `/proc/net/tcp` has how many wait, not how many may.
    "/details/max_ack_backlog",
    // Which follows from it.
    "/details/capped_by",
    // The table's own counters do not say whose packets were dropped.
    "/details/pods",
    // `/proc/net/ip_vs_conn` counts no packets.
    "/details/packets_before",
];

/// A finding, or nothing at all in a run that only makes faults: then every check holds.
#[derive(Clone)]
pub struct Finding {
    pub(crate) line: Option<Value>,
    /// Told by a low rung, which may know fewer details ([`UNTOLD`]) and be less sure, but says nothing
    /// else.
    pub(crate) less: bool,
}

impl Finding {
    /// The field at a JSON pointer equals `want`. Of a low rung's confidence this is the most that it
    /// may be: the case table says what it is.
    pub fn is(&self, pointer: &str, want: impl Into<Value>) -> Result<&Self> {
        let want = want.into();
        if self.less && pointer == "/confidence" {
            let rank = |v: &Value| ORDER.iter().position(|word| v == word);
            let at_most = format!("{want} at most");
            return self
                .check(pointer, &at_most, |got| rank(got).is_some_and(|r| Some(r) >= rank(&want)));
        }
        self.check(pointer, &format!("{want}"), |got| *got == want)
    }

    /// The array at a JSON pointer holds exactly these, in any order.
    pub fn is_set(&self, pointer: &str, want: &[String]) -> Result<&Self> {
        let mut want: Vec<&str> = want.iter().map(String::as_str).collect();
        want.sort_unstable();
        self.check(pointer, &format!("{want:?} in any order"), |got| {
            let mut got: Vec<&str> =
                got.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            got.sort_unstable();
            got == want
        })
    }

    /// The array, object or string at a JSON pointer is not empty.
    pub fn filled(&self, pointer: &str) -> Result<&Self> {
        self.check(pointer, "something", |got| match got {
            Value::Array(a) => !a.is_empty(),
            Value::Object(o) => !o.is_empty(),
            Value::String(s) => !s.is_empty(),
            _ => false,
        })
    }

    /// The number at a JSON pointer is at least `least`.
    pub fn at_least(&self, pointer: &str, least: u64) -> Result<&Self> {
        self.check(pointer, &format!("at least {least}"), |got| {
            got.as_u64().is_some_and(|n| n >= least)
        })
    }

    /// The field at a JSON pointer satisfies `holds`; a missing field is null.
    pub fn check(
        &self,
        pointer: &str,
        want: &str,
        holds: impl FnOnce(&Value) -> bool,
    ) -> Result<&Self> {
        let Some(line) = &self.line else { return Ok(self) };
        let got = line.pointer(pointer).unwrap_or(&Value::Null);
        let untold = self.less && UNTOLD.contains(&pointer) && is_untold(got);
        if !untold && !holds(got) {
            bail!("finding has {pointer} = {got}, expected {want}\n  {line}");
        }
        Ok(self)
    }

    /// The number at a JSON pointer; 0 when faults only are made.
    pub fn number(&self, pointer: &str) -> Result<u64> {
        let Some(line) = &self.line else { return Ok(0) };
        line.pointer(pointer)
            .and_then(Value::as_u64)
            .with_context(|| format!("finding has no number at {pointer}\n  {line}"))
    }
}

/// Whether a detail says that it is not known.
fn is_untold(detail: &Value) -> bool {
    detail.is_null() || detail == "unknown" || detail.as_array().is_some_and(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn finding(line: Value) -> Finding {
        Finding { line: Some(line), less: false }
    }

    #[test]
    fn a_low_rung_may_tell_less_but_nothing_else() {
        let details = json!({"port": 1, "pid": null, "capped_by": "unknown"});
        let line = json!({"confidence": "likely", "details": details, "culprit": {}});
        let f = Finding { line: Some(line), less: true };
        f.is("/details/max_ack_backlog", 4).unwrap();
        f.is("/details/capped_by", "listen").unwrap();
        assert!(f.is("/details/limit", 4).is_err());
        assert!(f.is("/details/pid", 4).is_err());
        f.is("/confidence", "certain").unwrap();
        assert!(f.is("/confidence", "possible").is_err());
        assert!(f.is("/details/port", 2).is_err());
        assert!(f.is("/culprit/pod", "shop").is_err());
    }

    #[test]
    fn checks_fields_and_quotes_the_line() {
        let f = finding(json!({"cause": "unknown", "details": {"backends": ["b", "a"], "n": 3}}));
        f.is("/cause", "unknown").unwrap();
        f.is_set("/details/backends", &["a".into(), "b".into()]).unwrap();
        f.at_least("/details/n", 3).unwrap();
        let error = f.is("/cause", "no-listener").err().unwrap().to_string();
        assert!(error.contains("expected \"no-listener\"") && error.contains("\"n\":3"), "{error}");
        assert!(f.at_least("/details/n", 4).is_err());
        assert!(f.filled("/details/absent").is_err());
        assert!(f.is_set("/details/backends", &["a".into()]).is_err());
    }
}
