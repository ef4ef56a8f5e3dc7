//! Which source ports a namespace gives to its own connections: `net.ipv4.ip_local_port_range` and
//! `ip_local_reserved_ports` (net/ipv4/sysctl_net_ipv4.c). IPv6 uses the same two.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use log::debug;

use crate::{
    event::LocalPorts,
    pods::{
        Target,
        enter::visit,
        procfs::{TEXT_MAX, read_text},
    },
};

const BUDGET: Duration = Duration::from_millis(50);

/// `None` when the namespace cannot be entered or does not tell.
pub fn read(root: &Path, target: &Target) -> Option<LocalPorts> {
    let answers = visit(root, std::slice::from_ref(target), BUDGET, |inside| {
        // These files answer for the namespace of the thread that opens them.
        if !inside.entered {
            bail!("it may not be entered");
        }
        let file = |name: &str| read_text(&root.join("proc/sys/net/ipv4").join(name), TEXT_MAX);
        let (low, high) = range(&file("ip_local_port_range")?)?;
        let reserved = ranges(&file("ip_local_reserved_ports")?)?;
        Ok(LocalPorts { netns: target.netns, low, high, reserved })
    });
    let (netns, answer) = answers.into_iter().next()?;
    answer.inspect_err(|err| debug!("no local ports of network namespace {netns}: {err:#}")).ok()
}

/// Two numbers with a tab between them: `32768 60999`.
fn range(text: &str) -> Result<(u16, u16)> {
    let mut words = text.split_ascii_whitespace().map(str::parse);
    match (words.next(), words.next()) {
        (Some(Ok(low)), Some(Ok(high))) => Ok((low, high)),
        _ => bail!("ip_local_port_range is no pair of ports: {text:?}"),
    }
}

/// `8080,30000-32767`, or an empty line.
fn ranges(text: &str) -> Result<Vec<(u16, u16)>> {
    let parts = text.trim().split(',').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let port = |text: &str| {
                text.parse().with_context(|| format!("odd ip_local_reserved_ports: {part:?}"))
            };
            Ok((port(low)?, port(high)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn ranges_as_the_kernel_prints_them() {
        assert_eq!(range("32768\t60999\n").unwrap(), (32768, 60999));
        assert_eq!(ranges("\n").unwrap(), []);
        assert_eq!(ranges("8080,30000-32767\n").unwrap(), [(8080, 8080), (30000, 32767)]);
    }

    #[test]
    fn what_is_none_is_an_error() {
        assert!(range("32768").is_err());
        assert!(range("a b").is_err());
        assert!(ranges("80-").is_err());
        assert!(ranges("99999").is_err());
    }
}
