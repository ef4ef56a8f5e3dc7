//! Arguments of the lab's sub-commands: flags with or without a value, nothing else.

use std::str::FromStr;

use anyhow::{Context, Result, anyhow};

/// The arguments after a sub-command.
pub struct Flags(Vec<String>);

impl Flags {
    pub fn new(args: impl Iterator<Item = String>) -> Self {
        Self(args.collect())
    }

    /// The first argument, when it is no flag.
    pub fn word(&self) -> Option<&str> {
        self.0.first().map(String::as_str).filter(|a| !a.starts_with('-'))
    }

    pub fn has(&self, flag: &str) -> bool {
        self.0.iter().any(|a| a == flag)
    }

    /// The argument after a flag, if the flag is there.
    pub fn optional(&self, flag: &str) -> Option<&str> {
        let at = self.0.iter().position(|a| a == flag)?;
        self.0.get(at + 1).map(String::as_str)
    }

    /// Every argument that follows such a flag.
    pub fn all(&self, flag: &str) -> Vec<&str> {
        let pairs = self.0.iter().zip(self.0.iter().skip(1));
        pairs.filter(|(f, _)| *f == flag).map(|(_, value)| value.as_str()).collect()
    }

    pub fn value(&self, flag: &str) -> Result<&str> {
        self.optional(flag).with_context(|| format!("{flag} needs a value"))
    }

    pub fn parse<T: FromStr>(&self, flag: &str) -> Result<T> {
        let text = self.value(flag)?;
        text.parse().map_err(|_| anyhow!("{flag} cannot be {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn flags_and_their_values() {
        let flags = Flags::new("name --filter a --slow --filter b".split(' ').map(str::to_owned));
        assert_eq!(flags.word(), Some("name"));
        assert_eq!(flags.all("--filter"), ["a", "b"]);
        assert!(flags.has("--slow") && !flags.has("--fast"));
        assert!(flags.value("--fast").is_err());
        assert!(flags.parse::<u16>("--filter").is_err());
    }
}
