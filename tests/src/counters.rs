//! The kernel's own counters: what a fault did is read here, not from stallprobe.

use std::fs;

use anyhow::{Context, Result};

use crate::netns::Pod;

/// A counter of conntrack on the node, summed over CPUs: a column of `/proc/net/stat/nf_conntrack`
/// (`insert_failed`, `drop`, `early_drop`, `clashres`). 0 while conntrack is not loaded.
pub fn conntrack(column: &str) -> Result<u64> {
    const PATH: &str = "/proc/net/stat/nf_conntrack";
    match fs::read_to_string(PATH) {
        Ok(text) => sum_column(&text, column).with_context(|| format!("no {column} in {PATH}")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(e).with_context(|| format!("cannot read {PATH}")),
    }
}

/// A counter of `/proc/net/netstat`, `/proc/net/snmp` or `/proc/net/snmp6` in a pod, by its usual
/// name (`ListenOverflows`, `NoPorts` of Udp as `Udp:NoPorts`, `Udp6NoPorts`).
pub fn net(pod: &Pod, name: &str) -> Result<u64> {
    pod.inside(|| net_here(name)).with_context(|| format!("in pod {}", pod.name))
}

/// The same of the node itself.
pub fn node(name: &str) -> Result<u64> {
    net_here(name)
}

fn net_here(name: &str) -> Result<u64> {
    let (group, name) = match name.split_once(':') {
        Some((group, name)) => (Some(group), name),
        None => (None, name),
    };
    for path in ["/proc/thread-self/net/netstat", "/proc/thread-self/net/snmp"] {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        if let Some(value) = in_pairs(&text, group, name) {
            return Ok(value);
        }
    }
    let path = "/proc/thread-self/net/snmp6";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    by_name(&text, name).with_context(|| format!("no counter {name}"))
}

/// Sum of one hexadecimal column under a header line.
fn sum_column(text: &str, column: &str) -> Option<u64> {
    let mut lines = text.lines();
    let at = lines.next()?.split_whitespace().position(|c| c == column)?;
    Some(
        lines
            .filter_map(|line| line.split_whitespace().nth(at))
            .filter_map(|v| u64::from_str_radix(v, 16).ok())
            .sum(),
    )
}

/// Value under a name in the paired lines `Group: name name` / `Group: value value`.
fn in_pairs(text: &str, group: Option<&str>, name: &str) -> Option<u64> {
    let lines: Vec<&str> = text.lines().collect();
    lines.chunks(2).find_map(|pair| {
        let (names, values) = (pair.first()?.split_once(':')?, pair.get(1)?.split_once(':')?);
        if group.is_some_and(|g| g != names.0) {
            return None;
        }
        let at = names.1.split_whitespace().position(|n| n == name)?;
        values.1.split_whitespace().nth(at)?.parse().ok()
    })
}

/// Value after a name in lines `name value`.
fn by_name(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        if words.next()? == name { words.next()?.parse().ok() } else { None }
    })
}

/// All that matters for a failure report: conntrack on the node, the rest per pod, zeros left out.
pub fn report(pods: &[Pod]) -> String {
    let mut out = String::from("conntrack:");
    for column in ["insert_failed", "drop", "early_drop", "clashres"] {
        match conntrack(column) {
            Ok(value) => out.push_str(&format!(" {column}={value}")),
            Err(e) => out.push_str(&format!(" {column}=({e:#})")),
        }
    }
    const NAMES: [&str; 11] = [
        "ListenOverflows",
        "ListenDrops",
        "TCPReqQFullDrop",
        "TCPReqQFullDoCookies",
        "SyncookiesSent",
        "TCPTimeouts",
        "TCPSynRetrans",
        "Tcp:OutRsts",
        "Udp:NoPorts",
        "Udp6NoPorts",
        "Icmp:OutDestUnreachs",
    ];
    for pod in pods {
        let seen: Vec<String> = NAMES
            .iter()
            .filter_map(|name| Some((name, net(pod, name).ok().filter(|v| *v > 0)?)))
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        out.push_str(&format!("\n{}: {}", pod.name, seen.join(" ")));
    }
    out
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn sums_a_hexadecimal_column_over_cpus() {
        let text = "entries  clashres insert_failed\n0000000f  0000000a 00000001\n0000000f  00000001 00000002\n";
        assert_eq!(sum_column(text, "clashres").unwrap(), 11);
        assert_eq!(sum_column(text, "insert_failed").unwrap(), 3);
        assert_eq!(sum_column(text, "absent"), None);
    }

    #[test]
    fn finds_a_counter_under_its_group() {
        let text = "Tcp: NoPorts A\nTcp: 1 2\nUdp: A NoPorts\nUdp: 3 4\n";
        assert_eq!(in_pairs(text, Some("Udp"), "NoPorts"), Some(4));
        assert_eq!(in_pairs(text, None, "NoPorts"), Some(1));
        assert_eq!(in_pairs(text, Some("Udp"), "B"), None);
        let text = "Udp6InDatagrams 1\nUdp6NoPorts \t 2\n";
        assert_eq!(by_name(text, "Udp6NoPorts"), Some(2));
        assert_eq!(by_name(text, "NoPorts"), None);
    }
}
