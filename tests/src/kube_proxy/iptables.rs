//! kube-proxy's rules in iptables mode (kubernetes/kubernetes, pkg/proxy/iptables): what is refused
//! in the table filter, what is translated in nat.

use std::fmt::Write;

use anyhow::Result;

use super::{Service, cluster, hash};
use crate::command::feed;

/// Chains of the two tables that are there whatever the services are.
const FILTER: [&str; 6] = [
    "KUBE-NODEPORTS",
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-FIREWALL",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
];
const NAT: [&str; 4] = ["KUBE-NODEPORTS", "KUBE-SERVICES", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"];

const NEW: &str = "-m conntrack --ctstate NEW -m comment --comment";

/// The jumps into those chains, in the order in which they stand.
fn filter_jumps() -> String {
    let mut out = String::new();
    for (chain, new, comment, target) in [
        ("INPUT", true, "kubernetes load balancer firewall", "KUBE-PROXY-FIREWALL"),
        ("INPUT", false, "kubernetes health check service ports", "KUBE-NODEPORTS"),
        ("INPUT", true, "kubernetes externally-visible service portals", "KUBE-EXTERNAL-SERVICES"),
        ("INPUT", false, "", "KUBE-FIREWALL"),
        ("FORWARD", true, "kubernetes load balancer firewall", "KUBE-PROXY-FIREWALL"),
        ("FORWARD", false, "kubernetes forwarding rules", "KUBE-FORWARD"),
        ("FORWARD", true, "kubernetes service portals", "KUBE-SERVICES"),
        (
            "FORWARD",
            true,
            "kubernetes externally-visible service portals",
            "KUBE-EXTERNAL-SERVICES",
        ),
        ("OUTPUT", true, "kubernetes load balancer firewall", "KUBE-PROXY-FIREWALL"),
        ("OUTPUT", true, "kubernetes service portals", "KUBE-SERVICES"),
        ("OUTPUT", false, "", "KUBE-FIREWALL"),
    ] {
        let matches = match (new, comment) {
            (_, "") => String::new(),
            (true, comment) => format!("{NEW} \"{comment}\" "),
            (false, comment) => format!("-m comment --comment \"{comment}\" "),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "-A {chain} {matches}-j {target}");
    }
    out
}

/// Writes the rules by this program (or its IPv6 twin), which can choose ports at random or not.
pub(super) fn sync(restore: &str, random: bool, services: &[Service]) -> Result<()> {
    let v6 = services.iter().any(Service::is_v6);
    let tool = if v6 { restore.replacen("ip", "ip6", 1) } else { restore.to_owned() };
    let rules = format!("{}{}", filter(v6, services), nat(random, services));
    feed(&tool, &["--noflush"], &rules)
}

fn filter(v6: bool, services: &[Service]) -> String {
    let mut out = String::from("*filter\n");
    for chain in FILTER {
        let _ = writeln!(out, ":{chain} - [0:0]");
    }
    out.push_str(&filter_jumps());
    for s in services.iter().filter(|s| s.backends.is_empty()) {
        let _ = writeln!(
            out,
            "-A KUBE-SERVICES -m comment --comment \"{} has no endpoints\" {} -j REJECT",
            s.full_name(),
            to(s)
        );
    }
    if !v6 {
        out.push_str(
            "-A KUBE-FIREWALL -m comment --comment \"block incoming localnet connections\" \
             -d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT \
             -j DROP\n",
        );
    }
    out.push_str(
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" \
         -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" \
         -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n",
    );
    out
}

fn nat(random: bool, services: &[Service]) -> String {
    let mut chains: Vec<String> = NAT.map(str::to_owned).to_vec();
    let random = if random { " --random-fully" } else { "" };
    let mut rules = format!(
        "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" \
         -j MASQUERADE{random}\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n",
    );
    for s in services.iter().filter(|s| !s.backends.is_empty()) {
        one_service(s, &mut chains, &mut rules);
    }
    rules.push_str(
        "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be \
         the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n",
    );
    let declared: String = chains.iter().map(|chain| format!(":{chain} - [0:0]\n")).collect();
    format!("*nat\n{declared}{rules}COMMIT\n")
}

fn one_service(s: &Service, chains: &mut Vec<String>, rules: &mut String) {
    let (name, to) = (s.full_name(), to(s));
    let chain = format!("KUBE-SVC-{}", hash(&format!("{name}{}", s.proto), 16));
    let _ = write!(
        rules,
        "-A KUBE-SERVICES -m comment --comment \"{name} cluster IP\" {to} -j {chain}\n\
         -A {chain} -m comment --comment \"{name} cluster IP\" {to} ! -s {} -j KUBE-MARK-MASQ\n",
        cluster(s.is_v6())
    );
    for (i, backend) in s.backends.iter().enumerate() {
        let left = s.backends.len() - i;
        let share = match left {
            1 => String::new(),
            _ => format!("-m statistic --mode random --probability {:.11} ", 1.0 / left as f64),
        };
        let endpoint = format!("KUBE-SEP-{}", hash(&format!("{name}{}{backend}", s.proto), 16));
        let proto = s.proto;
        let _ = write!(
            rules,
            "-A {chain} -m comment --comment \"{name} -> {backend}\" {share}-j {endpoint}\n\
             -A {endpoint} -m comment --comment {name} -s {} -j KUBE-MARK-MASQ\n\
             -A {endpoint} -m comment --comment {name} -m {proto} -p {proto} \
             -j DNAT --to-destination {backend}\n",
            backend.ip()
        );
        chains.push(endpoint);
    }
    chains.push(chain);
}

/// The match for a service's address and port.
fn to(s: &Service) -> String {
    let (proto, address) = (s.proto, s.address);
    format!("-m {proto} -p {proto} -d {} --dport {}", address.ip(), address.port())
}
