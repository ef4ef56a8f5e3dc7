//! Arguments of the lab's sub-commands: flags with or without a value, nothing else.

use std::str::FromStr;

use anyhow::{Context, Result, anyhow};

/// The arguments after a sub-command.
pub struct Flags(Vec<String>);

impl Flags {
    pub fn new(args: impl Iterator<Item = String>) -> Self {
        Self(args.collect())
    }

    /// The arguments that are neither flags nor the value of one of the flags `valued`.
    pub fn words(&self, valued: &[&str]) -> Vec<&str> {
        let flag = |at: usize| at.checked_sub(1).and_then(|before| self.0.get(before));
        let is_value = |at| flag(at).is_some_and(|flag| valued.contains(&flag.as_str()));
        let is_word = |&(at, a): &(usize, &str)| !a.starts_with('-') && !is_value(at);
        let words = self.0.iter().map(String::as_str).enumerate().filter(is_word);
        words.map(|(_, word)| word).collect()
    }

    pub fn has(&self, flag: &str) -> bool {
        self.0.iter().any(|a| a == flag)
    }

    /// The argument after a flag, if the flag is there.
    pub fn optional(&self, flag: &str) -> Option<&str> {
        let at = self.0.iter().position(|a| a == flag)?;
        self.0.get(at + 1).map(String::as_str)
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
        let flags = Flags::new("name --filter a --slow".split(' ').map(str::to_owned));
        assert_eq!(flags.words(&[]), ["name", "a"]);
        assert_eq!(flags.words(&["--filter"]), ["name"]);
        assert_eq!(flags.value("--filter").unwrap(), "a");
        assert!(flags.has("--slow") && !flags.has("--fast"));
        assert!(flags.value("--fast").is_err());
        assert!(flags.parse::<u16>("--filter").is_err());
    }
}
