//! IPVS's tables as plain files show them: `/proc/net/ip_vs_conn` and `/proc/net/ip_vs`
//! (net/netfilter/ipvs/ip_vs_conn.c `ip_vs_conn_seq_show`, ip_vs_ctl.c `ip_vs_info_seq_show`).
//! Generic netlink would load the module; these files are there only when it is.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::Result;
use log::debug;

use super::lines::{self, Budget};

use crate::{
    event::IpvsEntry,
    pods::{
        Target,
        enter::visit,
        procfs::{TEXT_MAX, read_optional},
    },
};

/// A node with 100,000 connections has 10 MB of them; of a longer table the rest is not read.
const CONNECTIONS_MAX: u64 = 16 << 20;
const BUDGET: Duration = Duration::from_millis(50);

/// What was found, and whether there was more to read than the budget allows.
#[derive(Debug, Default)]
pub struct Found {
    pub entries: Vec<IpvsEntry>,
    pub cut: bool,
}

/// The TCP connections of these clients to these services, with what is known of their servers.
/// Nothing when the files are not there.
pub fn entries(root: &Path, target: &Target, flows: &[(SocketAddr, SocketAddr)]) -> Found {
    let netns = target.netns;
    let answers = visit(root, std::slice::from_ref(target), BUDGET, |inside| {
        let budget = Budget::new(CONNECTIONS_MAX, BUDGET);
        find(netns, &inside.net, flows, &budget)
    });
    for (netns, answer) in answers {
        match answer {
            Ok(found) => return found,
            Err(err) => debug!("no IPVS connections of network namespace {netns}: {err:#}"),
        }
    }
    Found::default()
}

fn find(
    netns: u32,
    net: &Path,
    flows: &[(SocketAddr, SocketAddr)],
    budget: &Budget,
) -> Result<Found> {
    let mut found = Found::default();
    found.cut = lines::read(&net.join("ip_vs_conn"), budget, |line| {
        let entry = connection(netns, line);
        found.entries.extend(entry.filter(|e| flows.contains(&(e.client, e.service))));
        found.entries.len() < flows.len()
    })?;
    if !found.entries.is_empty() {
        let services = read_optional(&net.join("ip_vs"), TEXT_MAX)?.unwrap_or_default();
        for entry in &mut found.entries {
            entry.weight = weight(&services, entry.service, entry.server);
        }
    }
    Ok(found)
}

/// `TCP 0AF40102 9C40 0A600001 0050 0AF40202 1F90 ESTABLISHED     899`
fn connection(netns: u32, line: &str) -> Option<IpvsEntry> {
    let mut words = line.split_ascii_whitespace();
    if words.next()? != "TCP" {
        return None;
    }
    let mut end = || Some(SocketAddr::new(address(words.next()?)?, port(words.next()?)?));
    let (client, service, server) = (end()?, end()?, end()?);
    let state = words.next()?;
    if !state.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') {
        return None;
    }
    Some(IpvsEntry { netns, client, service, server, state: state.to_owned(), weight: None })
}

/// The weight of a service's server; `None` when the service does not list it (any more).
/// `TCP  0A600001:0050 rr` and below it `  -> 0AF40202:1F90      Masq    1      0          0`
fn weight(services: &str, service: SocketAddr, server: SocketAddr) -> Option<u32> {
    let mut inside = false;
    for line in services.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["->", at, _, weight, ..] if inside && end(at) == Some(server) => {
                return weight.parse().ok();
            }
            ["->", ..] => {}
            [proto, at, ..] => inside = *proto == "TCP" && end(at) == Some(service),
            _ => {}
        }
    }
    None
}

/// `0AF40202:1F90` or `[fd00:0244:…]:1F90`
fn end(text: &str) -> Option<SocketAddr> {
    let (address_part, port_part) = text.rsplit_once(':')?;
    let address_part = address_part.trim_start_matches('[').trim_end_matches(']');
    Some(SocketAddr::new(address(address_part)?, port(port_part)?))
}

/// IPv4 as one hexadecimal number, IPv6 as it is written by `%pI6`.
fn address(text: &str) -> Option<IpAddr> {
    match text.trim_start_matches('[').trim_end_matches(']') {
        v6 if v6.contains(':') => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        v4 => u32::from_str_radix(v4, 16).ok().map(|bits| Ipv4Addr::from_bits(bits).into()),
    }
}

fn port(text: &str) -> Option<u16> {
    u16::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const CONNECTIONS: &str = "\
Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP 0AF40102 9C40 0A600014 0050 0AF40202 1F90 TIME_WAIT       119
UDP 0AF40102 9C40 0A600014 0050 0AF40202 1F90 UDP             119
TCP 0AF40102 9C41 0A600014 0050 0AF40302 1F90 ESTABLISHED     899
TCP fd00:0244:0001:0000:0000:0000:0000:0002 9C40 fd00:0096:0000:0000:0000:0000:0000:0014 0050 fd00:0244:0002:0000:0000:0000:0000:0002 1F90 CLOSE            9
TCP 0AF4";
    const SERVICES: &str = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
UDP  0A600014:0050 rr
  -> 0AF40202:1F90      Masq    9      0          0
TCP  0A600014:0050 rr
  -> 0AF40302:1F90      Masq    0      1          0
TCP  [fd00:0096:0000:0000:0000:0000:0000:0014]:0050 rr
  -> [fd00:0244:0002:0000:0000:0000:0000:0002]:1F90      Masq    1      0          0
TCP  0A600015:0050 rr
  -> 0AF40202:1F90      Masq    7      0          0
";

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn look(flows: &[(SocketAddr, SocketAddr)], bytes: u64) -> (Vec<IpvsEntry>, bool) {
        let net = tempfile::tempdir().unwrap();
        std::fs::write(net.path().join("ip_vs_conn"), CONNECTIONS).unwrap();
        std::fs::write(net.path().join("ip_vs"), SERVICES).unwrap();
        let budget = Budget::new(bytes, Duration::from_secs(60));
        let found = find(1, net.path(), flows, &budget).unwrap();
        (found.entries, found.cut)
    }

    #[test]
    fn a_table_that_is_too_long_is_said_to_be() {
        let flow = (at("10.244.1.2:40001"), at("10.96.0.20:80"));
        let (found, cut) = look(&[flow], 200);
        assert!(found.is_empty() && cut);
        let (found, cut) = look(&[flow], u64::MAX);
        assert!(found.len() == 1 && !cut);
    }

    fn found(client: &str, service: &str) -> Vec<(String, String, Option<u32>)> {
        let (found, cut) = look(&[(at(client), at(service))], u64::MAX);
        assert!(!cut);
        found.into_iter().map(|e| (e.server.to_string(), e.state, e.weight)).collect()
    }

    #[test]
    fn a_connection_and_what_became_of_its_server() {
        let one =
            |server: &str, state: &str, weight| vec![(server.to_owned(), state.to_owned(), weight)];
        let gone = found("10.244.1.2:40000", "10.96.0.20:80");
        assert_eq!(gone, one("10.244.2.2:8080", "TIME_WAIT", None));
        let drained = found("10.244.1.2:40001", "10.96.0.20:80");
        assert_eq!(drained, one("10.244.3.2:8080", "ESTABLISHED", Some(0)));
        let v6 = found("[fd00:244:1::2]:40000", "[fd00:96::14]:80");
        assert_eq!(v6, one("[fd00:244:2::2]:8080", "CLOSE", Some(1)));
        assert_eq!(found("10.244.1.2:40002", "10.96.0.20:80"), []);
    }

    #[test]
    fn odd_lines_are_passed_over() {
        for text in ["", "TCP", "TCP x 1 2 3 4 5 6", "TCP 0A 1 0A 1 0A 1 \x1b[2J"] {
            assert_eq!(connection(1, text), None, "{text}");
        }
        assert_eq!(weight("TCP\n->\n-> x", at("1.1.1.1:1"), at("1.1.1.1:1")), None);
    }
}
