//! Connection tracking's counters: `/proc/PID/net/stat/nf_conntrack`
//! (`net/netfilter/nf_conntrack_standalone.c`, `ct_cpu_seq_show`).

use anyhow::{Context as _, Result, bail};

use crate::event::ConntrackCounters;

/// Sums the lines, one for each CPU, of hexadecimal 32-bit columns named by the first line. Which
/// columns there are differs from kernel to kernel; one that is missing counts as 0. `entries` is
/// the same on each line. `max` and `buckets` are left 0.
///
/// # Errors
/// When the line of names or all others are missing, a line has fewer values than names, or a
/// column we want is no number.
pub fn parse(text: &str) -> Result<ConntrackCounters> {
    let mut lines = text.lines();
    let names: Vec<&str> =
        lines.next().context("stat/nf_conntrack is empty")?.split_ascii_whitespace().collect();
    let mut sum = ConntrackCounters::default();
    let mut cpus = 0_u32;
    for line in lines.filter(|line| !line.trim().is_empty()) {
        let mut values = line.split_ascii_whitespace();
        for name in &names {
            let Some(value) = values.next() else {
                bail!("stat/nf_conntrack has fewer values than names: no {name}");
            };
            let counter = match *name {
                "entries" => &mut sum.entries,
                "insert_failed" => &mut sum.insert_failed,
                "drop" => &mut sum.drop,
                "early_drop" => &mut sum.early_drop,
                // "searched" stood in its place before 5.9.
                "clashres" => &mut sum.clash_resolve,
                // `st->chaintoolong`, under the name of a column of long ago.
                "chainlength" => sum.chain_too_long.get_or_insert(0),
                _ => continue,
            };
            let number = u64::from_str_radix(value, 16)
                .with_context(|| format!("stat/nf_conntrack {name} is no number: {value:?}"))?;
            *counter = if *name == "entries" { number } else { counter.saturating_add(number) };
        }
        cpus += 1;
    }
    if cpus == 0 {
        bail!("stat/nf_conntrack has no line for any CPU");
    }
    Ok(sum)
}

/// `/proc/sys/net/netfilter/nf_conntrack_max`.
///
/// # Errors
/// When it is no number.
pub fn parse_max(text: &str) -> Result<u64> {
    let text = text.trim();
    text.parse().with_context(|| format!("nf_conntrack_max is no number: {text:?}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    const TODAY: &str = "\
entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
0000001f  00000002 00000000 00000000 00000007 00000000 00000000 00000006 00000000 0000000a 00000003 00000001 00000000  00000000 00000000 00000000 00000000
0000001f  00000001 00000000 00000000 00000000 00000000 00000000 00000000 00000000 000000ff 00000000 00000004 00000000  00000000 00000000 00000000 00000000
";

    #[test]
    fn sums_over_cpus() {
        let expected = ConntrackCounters {
            entries: 0x1f,
            max: 0,
            insert_failed: 0xa + 0xff,
            drop: 3,
            early_drop: 5,
            clash_resolve: 3,
            chain_too_long: Some(6),
            buckets: 0,
        };
        assert_eq!(parse(TODAY).unwrap(), expected);
    }

    #[test]
    fn columns_go_by_name() {
        let text = "entries searched drop new_one insert_failed\n5 9 2 1 4\n";
        let expected =
            ConntrackCounters { entries: 5, drop: 2, insert_failed: 4, ..Default::default() };
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn garbled_text_is_an_error() {
        for (text, says) in [
            ("", "empty"),
            ("entries drop\n", "any CPU"),
            ("entries drop\n1\n", "no drop"),
            ("entries drop\n1 x\n", "drop is no number: \"x\""),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
        assert_eq!(parse_max("65536\n").unwrap(), 65536);
        assert!(parse_max("many").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(entries|drop|[0-9a-f \\n]|\\PC){0,100}") {
            let _ = parse(&text);
        }

        #[test]
        fn order_of_columns_does_not_matter(rows in prop::collection::vec((0_u32.., 0_u32..), 1..9)) {
            let (mut one, mut other) = ("drop x early_drop\n".to_owned(), "early_drop drop\n".to_owned());
            for (drop, early) in &rows {
                one.push_str(&format!("{drop:08x}  0 {early:08x}\n"));
                other.push_str(&format!("{early:08x} {drop:08x}\n"));
            }
            let sum: u64 = rows.iter().map(|(drop, _)| u64::from(*drop)).sum();
            prop_assert_eq!(parse(&one).unwrap().drop, sum);
            prop_assert_eq!(parse(&one).unwrap(), parse(&other).unwrap());
        }
    }
}
