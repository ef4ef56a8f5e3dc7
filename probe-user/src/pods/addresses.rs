//! The addresses of a network namespace, from its `/proc/.../net` folder.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::{Context as _, Result};

use super::{
    enter::Inside,
    procfs::{TEXT_MAX, read_optional, read_text},
    services,
};

/// `fib_trie` lists all routes: about 100 bytes each.
const FIB_TRIE_MAX: u64 = 32 << 20;

/// More than this are not kept: a pod has a few, a node some dozens.
const MOST: usize = 4096;

/// Reads the addresses of a namespace, sorted, without loopback and link-local ones, and without
/// those of services where the thread is in the namespace (see [`services`]).
///
/// # Errors
/// When `fib_trie` cannot be read: the namespace or process is gone, or rights are missing.
pub fn read(inside: &Inside) -> Result<Vec<IpAddr>> {
    let mut all = read_net(&inside.net)?;
    if inside.entered && services::has_device(&inside.net) {
        let services = services::addresses().context("cannot list the addresses of interfaces")?;
        all.retain(|address| !services.contains(address));
    }
    all.truncate(MOST);
    Ok(all)
}

fn read_net(net: &Path) -> Result<Vec<IpAddr>> {
    let v4 = read_text(&net.join("fib_trie"), FIB_TRIE_MAX)?;
    // Not there when IPv6 is disabled at boot.
    let v6 = read_optional(&net.join("if_inet6"), TEXT_MAX)
        .context("cannot read the IPv6 addresses")?
        .unwrap_or_default();
    let mut all: Vec<IpAddr> = fib_trie(&v4).into_iter().map(IpAddr::V4).collect();
    all.extend(if_inet6(&v6).into_iter().map(IpAddr::V6));
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// Addresses in `fib_trie` (`net/ipv4/fib_trie.c`, `fib_trie_seq_show`): a leaf line
/// `|-- 10.0.0.1`, then a line for each of its routes; `/32 host LOCAL` says that the address is on
/// an interface. Lines of another form are skipped.
pub fn fib_trie(text: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut leaf = None;
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if let Some(address) = leaf
            && line
                .strip_prefix("/32 host LOCAL")
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
            && !address.is_loopback()
            && !address.is_link_local()
            && !address.is_unspecified()
        {
            found.push(address);
        }
    }
    // The same leaf stands in the main and in the local table.
    found.sort_unstable();
    found.dedup();
    found
}

/// Addresses in `if_inet6` (`net/ipv6/addrconf.c`, `if6_seq_show`): 32 hex digits in network byte
/// order, interface index, prefix length, scope, flags, interface name. Lines of another form are
/// skipped.
pub fn if_inet6(text: &str) -> Vec<Ipv6Addr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let digits = words.next()?;
            let device = words.nth(4)?;
            if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            let address = Ipv6Addr::from(u128::from_str_radix(digits, 16).ok()?);
            let own = !address.is_loopback()
                && !address.is_unspecified()
                && !address.is_unicast_link_local()
                && device != services::DEVICE;
            own.then_some(address)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    const FIB_TRIE: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
     +-- 10.244.1.0/24 2 0 2
        |-- 10.244.1.0
           /24 link UNICAST
        |-- 10.244.1.7
           /32 host LOCAL
        |-- 10.244.1.255
           /32 link BROADCAST
     |-- 10.244.9.9
        /32 link UNICAST
        /32 host LOCAL
     |-- 169.254.20.10
        /32 host LOCAL
Local:
  |-- 10.244.1.7
     /32 host LOCAL
";

    const IF_INET6: &str = "\
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
fd000000000000000000000000000002 04 40 00 82     eth0
00000000000000000000000000000001 01 80 10 80       lo
fd0000000000000000000000000000aa 07 80 00 82 kube-ipvs0
";

    #[test]
    fn finds_addresses_on_interfaces() {
        assert_eq!(
            fib_trie(FIB_TRIE),
            [Ipv4Addr::new(10, 244, 1, 7), Ipv4Addr::new(10, 244, 9, 9)]
        );
        assert_eq!(if_inet6(IF_INET6), ["fd00::2".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn garbled_lines_are_skipped() {
        assert!(fib_trie("|-- 10.0.0.300\n/32 host LOCAL\n/32 host LOCAL\n").is_empty());
        assert!(fib_trie("|-- 10.0.0.3\n/32 host LOCALITY\n").is_empty());
        assert!(if_inet6("fd00 04 40 00 82 eth0\n\nfd000000000000000000000000000002\n").is_empty());
        assert!(if_inet6("+d000000000000000000000000000002 04 40 00 82 eth0").is_empty());
    }

    #[test]
    fn reads_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("fib_trie"), FIB_TRIE).unwrap();
        let v4: Vec<IpAddr> = read_net(dir.path()).unwrap();
        assert_eq!(v4.len(), 2, "no if_inet6 means no IPv6");
        std::fs::write(dir.path().join("if_inet6"), IF_INET6).unwrap();
        assert_eq!(read_net(dir.path()).unwrap().len(), 3);
        assert!(read_net(&dir.path().join("gone")).is_err());
    }

    #[test]
    fn the_real_proc() {
        read_net(Path::new("/proc/self/net")).unwrap();
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(\\|-- |/32 host LOCAL|[0-9a-f. \\n]|\\PC){0,200}") {
            let _ = fib_trie(&text);
            let _ = if_inet6(&text);
        }

        #[test]
        fn v6_round_trip(bits: u128) {
            let address = Ipv6Addr::from(bits);
            let line = format!("{bits:032x} 04 40 00 80 eth0\n");
            let kept = !(address.is_loopback()
                || address.is_unspecified()
                || address.is_unicast_link_local());
            prop_assert_eq!(if_inet6(&line).contains(&address), kept);
        }
    }
}
