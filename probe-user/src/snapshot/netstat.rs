//! `/proc/PID/net/netstat`: the TCP counters that say what listeners refused
//! (`net/ipv4/proc.c`, `netstat_seq_show`).

use anyhow::{Context as _, Result, bail};

/// Totals since the namespace was made; `None` where the kernel does not have the counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpExt {
    pub listen_overflows: Option<u64>,
    pub listen_drops: Option<u64>,
    pub reqq_full_drop: Option<u64>,
    pub reqq_full_cookies: Option<u64>,
    pub syn_retransmits: Option<u64>,
}

/// Reads the `TcpExt:` pair of lines: one of names, then one of values in the same order. Which
/// names there are differs from kernel to kernel.
///
/// # Errors
/// When the pair is missing, has fewer values than names or more, or a counter we want is no
/// number.
pub fn parse(text: &str) -> Result<TcpExt> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let names = lines.next().context("netstat has no line TcpExt:")?;
    let values = lines.next().context("netstat has names but no values for TcpExt:")?;
    let (mut names, mut values) = (names.split_ascii_whitespace(), values.split_ascii_whitespace());
    let mut found = TcpExt::default();
    loop {
        let (name, value) = match (names.next(), values.next()) {
            (Some(name), Some(value)) => (name, value),
            (None, None) => return Ok(found),
            _ => bail!("netstat has not as many values as names for TcpExt:"),
        };
        let counter = match name {
            "ListenOverflows" => &mut found.listen_overflows,
            "ListenDrops" => &mut found.listen_drops,
            "TCPReqQFullDrop" => &mut found.reqq_full_drop,
            "TCPReqQFullDoCookies" => &mut found.reqq_full_cookies,
            "TCPSynRetrans" => &mut found.syn_retransmits,
            _ => continue,
        };
        let number =
            value.parse().with_context(|| format!("netstat {name} is no number: {value:?}"))?;
        *counter = Some(number);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_counters_by_name() {
        let text = "\
TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPReqQFullDoCookies TCPReqQFullDrop TCPSynRetrans
TcpExt: 1 2 3 4 18446744073709551615 5
IpExt: InNoRoutes ListenOverflows
IpExt: 0 99
";
        let expected = TcpExt {
            listen_overflows: Some(2),
            listen_drops: Some(3),
            reqq_full_cookies: Some(4),
            reqq_full_drop: Some(u64::MAX),
            syn_retransmits: Some(5),
        };
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn a_counter_the_kernel_lacks_is_none() {
        let found = parse("TcpExt: ListenDrops\nTcpExt: 3\n").unwrap();
        assert_eq!(found, TcpExt { listen_drops: Some(3), ..TcpExt::default() });
    }

    #[test]
    fn garbled_text_is_an_error() {
        for (text, says) in [
            ("", "no line TcpExt"),
            ("TcpExt: ListenDrops\n", "no values"),
            ("TcpExt: ListenDrops A\nTcpExt: 3\n", "not as many"),
            ("TcpExt: ListenDrops\nTcpExt: 3 4\n", "not as many"),
            ("TcpExt: ListenDrops\nTcpExt: -3\n", "ListenDrops is no number: \"-3\""),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_real_proc() {
        let found = parse(&std::fs::read_to_string("/proc/self/net/netstat").unwrap()).unwrap();
        assert!(found.listen_overflows.is_some() && found.reqq_full_drop.is_some());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(TcpExt: ?|ListenDrops |[0-9 \\n]|\\PC){0,100}") {
            let _ = parse(&text);
        }
    }
}
