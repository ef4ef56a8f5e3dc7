//! stallprobe's ladder, and which rung of it a run of the lab begins at.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// A way of attaching hooks, best first. A run on a rung leaves out those above it, as on a kernel
/// that does not have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Nothing is left out.
    Fentry,
    Kprobe,
    Tracepoint,
    Snapshot,
}

impl Rung {
    const ALL: [Self; 4] = [Self::Fentry, Self::Kprobe, Self::Tracepoint, Self::Snapshot];

    /// As stallprobe's `--rungs` and its list of hooks have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
            Self::Snapshot => "snapshot",
        }
    }

    pub fn parse(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|rung| rung.name() == name);
        found.with_context(|| format!("no rung {name:?}: fentry, kprobe, tracepoint, snapshot"))
    }

    /// Whether there are no hooks on functions: less is told, and what is told may come late.
    pub fn is_low(self) -> bool {
        self >= Self::Tracepoint
    }

    /// Arguments of stallprobe. None on the topmost rung, nor where the kernel itself refuses the
    /// others.
    pub fn arguments(self) -> Vec<&'static str> {
        match self {
            Self::Fentry => Vec::new(),
            Self::Snapshot if locked_down() => Vec::new(),
            Self::Kprobe => vec!["--rungs", "kprobe,tracepoint,snapshot"],
            Self::Tracepoint => vec!["--rungs", "tracepoint,snapshot"],
            Self::Snapshot => vec!["--rungs", "snapshot"],
        }
    }

    /// In stallprobe's header no hook stands above this rung, some stand on it, and where no program
    /// is loaded it says why.
    pub fn check(self, header: &Value) -> Result<()> {
        let hooks = header["hooks"].as_array().context("the header has no list of hooks")?;
        let on = |rung: Self| hooks.iter().filter(|hook| hook["detail"] == rung.name()).count();
        for above in Self::ALL.into_iter().filter(|rung| *rung < self) {
            ensure!(on(above) == 0, "a hook stands on {}\n  {header}", above.name());
        }
        ensure!(on(self) > 0, "no hook stands on {}\n  {header}", self.name());
        let reason = if locked_down() { "lockdown" } else { "--rungs" };
        match (self, header["no_ebpf"].as_str()) {
            (Self::Snapshot, Some(why)) if why.contains(reason) => Ok(()),
            (Self::Snapshot, why) => bail!("no programs because of {why:?}, not {reason}"),
            (_, Some(why)) => bail!("no program is loaded: {why}"),
            (_, None) => Ok(()),
        }
    }
}

/// Whether this kernel refuses programs that read its memory.
pub fn locked_down() -> bool {
    let text = fs::read_to_string("/sys/kernel/security/lockdown");
    text.is_ok_and(|text| text.contains("[confidentiality]"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rung_leaves_out_those_above_it() {
        let rung = |name| Rung::parse(name).unwrap();
        assert!(rung("fentry").arguments().is_empty());
        assert_eq!(rung("kprobe").arguments(), ["--rungs", "kprobe,tracepoint,snapshot"]);
        assert_eq!(rung("tracepoint").arguments(), ["--rungs", "tracepoint,snapshot"]);
        assert!(Rung::parse("uprobe").is_err());
    }

    #[test]
    fn a_hook_above_the_rung_is_found() {
        let on = |rungs: &[&str]| {
            let hooks: Vec<Value> = rungs.iter().map(|rung| json!({"detail": rung})).collect();
            json!({"hooks": hooks, "no_ebpf": null})
        };
        Rung::Kprobe.check(&on(&["kprobe", "tracepoint"])).unwrap();
        Rung::Tracepoint.check(&on(&["snapshot", "tracepoint"])).unwrap();
        assert!(Rung::Kprobe.check(&on(&["fentry", "kprobe"])).is_err());
        assert!(Rung::Kprobe.check(&on(&["tracepoint"])).is_err());
        assert!(Rung::Tracepoint.check(&on(&["kprobe", "tracepoint"])).is_err());
        // Programs were loaded, or none says why not.
        assert!(Rung::Snapshot.check(&on(&["snapshot"])).is_err());
        let mut none = on(&["snapshot"]);
        none["no_ebpf"] = "--rungs snapshot".into();
        Rung::Snapshot.check(&none).unwrap();
        assert!(Rung::Tracepoint.check(&none).is_err());
    }
}
