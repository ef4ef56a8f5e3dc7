//! What a node is set to: loaded modules, sysctls, rulesets. Two snapshots are compared.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};

use crate::command::run;

/// Everything by name.
pub struct Snapshot(BTreeMap<String, String>);

/// Sysctls that change by themselves.
const RESTLESS: [&str; 12] = [
    "kernel/random/",
    "kernel/ns_last_pid",
    "kernel/pty/nr",
    "kernel/perf_event_max_sample_rate",
    "net/netfilter/nf_conntrack_count",
    "kernel/sched_domain",
    "kernel/tainted",
    "kernel/core_uses_pid",
    "kernel/cap_last_cap",
    "kernel/keys/",
    "kernel/perf_cpu_time_max_percent",
    "kernel/threads-max",
];

impl Snapshot {
    pub fn take() -> Result<Self> {
        let mut all = BTreeMap::new();
        let path = "/proc/modules";
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        for name in text.lines().filter_map(|line| line.split_whitespace().next()) {
            all.insert(format!("module {name}"), "loaded".to_owned());
        }
        for root in ["net", "kernel", "vm"] {
            sysctls(&Path::new("/proc/sys").join(root), &mut all)?;
        }
        all.insert("ruleset nft".to_owned(), run("nft", &["list", "ruleset"])?);
        for tables in ["ip_tables_names", "ip6_tables_names"] {
            let text = fs::read_to_string(Path::new("/proc/net").join(tables)).unwrap_or_default();
            all.insert(format!("legacy {tables}"), text);
        }
        let qdiscs = run("tc", &["qdisc", "show"])?;
        all.insert("qdiscs".to_owned(), qdiscs);
        Ok(Self(all))
    }

    /// What is different afterwards, one line each.
    pub fn changes(&self, after: &Self) -> Vec<String> {
        let mut names: Vec<&String> = self.0.keys().chain(after.0.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let show = |v: Option<&String>| v.map_or("absent".to_owned(), |v| v.trim().to_owned());
        names
            .into_iter()
            .filter(|name| self.0.get(*name) != after.0.get(*name))
            .map(|name| {
                format!("{name}: {} -> {}", show(self.0.get(name)), show(after.0.get(name)))
            })
            .collect()
    }
}

fn sysctls(dir: &Path, all: &mut BTreeMap<String, String>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            sysctls(&path, all)?;
            continue;
        }
        let name = path.strip_prefix("/proc/sys").unwrap_or(&path).display().to_string();
        // Some can only be written; those cannot be compared.
        if let Ok(value) = fs::read_to_string(&path)
            && !RESTLESS.iter().any(|r| name.starts_with(r))
        {
            all.insert(format!("sysctl {name}"), value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_came_went_and_changed() {
        let of = |pairs: &[(&str, &str)]| {
            Snapshot(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
        };
        let before = of(&[("a", "1"), ("b", "1"), ("same", "0")]);
        let after = of(&[("b", "2"), ("c", "3"), ("same", "0")]);
        assert_eq!(before.changes(&after), ["a: 1 -> absent", "b: 1 -> 2", "c: absent -> 3"]);
    }
}
