//! The kernel's lockdown state. Under `confidentiality` (Talos's default) programs may not read
//! kernel memory, which the verifier reports as "unknown func": ask first, and say it plainly.
//!
//! Source: security/lockdown/lockdown.c; the state is in securityfs, the chosen word in brackets.

use std::{fs, io, path::Path};

/// What lockdown forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// Nothing.
    None,
    /// Changing the running kernel. Reading it, all that is needed here, is allowed.
    Integrity,
    /// Also reading kernel memory: no program that reads it loads.
    Confidentiality,
    /// securityfs is not mounted, or says something new.
    Unknown,
}

impl Lockdown {
    /// Reads `/sys/kernel/security/lockdown` below `root`.
    #[must_use]
    pub fn load(root: &Path) -> Self {
        let securityfs = root.join("sys/kernel/security");
        match fs::read_to_string(securityfs.join("lockdown")) {
            Ok(text) => Self::parse(&text),
            // A mounted securityfs without the file is a kernel without lockdown. `lsm` is always
            // in a mounted one.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && securityfs.join("lsm").exists() =>
            {
                Self::None
            }
            Err(_) => Self::Unknown,
        }
    }

    /// Understands `none [integrity] confidentiality`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut chosen = text
            .split_ascii_whitespace()
            .filter_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
        match (chosen.next(), chosen.next()) {
            (Some("none"), None) => Self::None,
            (Some("integrity"), None) => Self::Integrity,
            (Some("confidentiality"), None) => Self::Confidentiality,
            _ => Self::Unknown,
        }
    }

    /// Why programs that read kernel memory cannot run, or `None` when lockdown does not forbid it.
    #[must_use]
    pub fn refusal(self) -> Option<&'static str> {
        (self == Self::Confidentiality).then_some(
            "the kernel is locked down (lockdown=confidentiality; with lockdown=integrity more can be \
             seen)",
        )
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_word_in_brackets_counts() {
        for (text, state) in [
            ("[none] integrity confidentiality\n", Lockdown::None),
            ("none [integrity] confidentiality\n", Lockdown::Integrity),
            ("none integrity [confidentiality]\n", Lockdown::Confidentiality),
            ("none integrity confidentiality\n", Lockdown::Unknown),
            ("[none] [integrity]\n", Lockdown::Unknown),
            ("[paranoia]", Lockdown::Unknown),
            ("", Lockdown::Unknown),
        ] {
            assert_eq!(Lockdown::parse(text), state, "{text:?}");
        }
    }

    #[test]
    fn a_missing_file_means_none_only_where_securityfs_is_mounted() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Lockdown::load(root.path()), Lockdown::Unknown);
        let securityfs = root.path().join("sys/kernel/security");
        fs::create_dir_all(&securityfs).unwrap();
        assert_eq!(Lockdown::load(root.path()), Lockdown::Unknown, "an empty mount point");
        fs::write(securityfs.join("lsm"), "capability").unwrap();
        assert_eq!(Lockdown::load(root.path()), Lockdown::None);
        fs::write(securityfs.join("lockdown"), "none integrity [confidentiality]\n").unwrap();
        assert_eq!(Lockdown::load(root.path()), Lockdown::Confidentiality);
    }

    #[test]
    fn only_confidentiality_refuses() {
        assert!(Lockdown::Confidentiality.refusal().is_some());
        for state in [Lockdown::None, Lockdown::Integrity, Lockdown::Unknown] {
            assert_eq!(state.refusal(), None);
        }
    }
}
