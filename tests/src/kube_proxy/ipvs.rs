//! kube-proxy's sets and rules of IPVS mode (kubernetes/kubernetes, pkg/proxy/ipvs: proxier.go,
//! ipset.go), with a cluster CIDR and without masquerade-all.
//!
//! The match `-m ipvs` stands in one place alone: KUBE-IPVS-OUT-FILTER (since 1.29) drops what the
//! node itself sends to a load balancer whose source ranges leave the node out.

use std::{fmt::Write, net::SocketAddr};

use anyhow::Result;

use super::cluster;
use crate::command::feed;

const IP_PORT: &str = "hash:ip,port";
const IP_PORT_IP: &str = "hash:ip,port,ip";
const IP_PORT_NET: &str = "hash:ip,port,net";
const PORT: &str = "bitmap:port";

/// All sets, without the beginning of their names.
const SETS: [(&str, &str); 17] = [
    ("LOOP-BACK", IP_PORT_IP),
    ("CLUSTER-IP", IP_PORT),
    ("EXTERNAL-IP", IP_PORT),
    ("EXTERNAL-IP-LOCAL", IP_PORT),
    ("LOAD-BALANCER", IP_PORT),
    ("LOAD-BALANCER-FW", IP_PORT),
    ("LOAD-BALANCER-LOCAL", IP_PORT),
    ("LOAD-BALANCER-SOURCE-IP", IP_PORT_IP),
    ("LOAD-BALANCER-SOURCE-CIDR", IP_PORT_NET),
    ("NODE-PORT-TCP", PORT),
    ("NODE-PORT-LOCAL-TCP", PORT),
    ("NODE-PORT-UDP", PORT),
    ("NODE-PORT-LOCAL-UDP", PORT),
    ("NODE-PORT-SCTP-HASH", IP_PORT),
    ("NODE-PORT-LOCAL-SCTP-HASH", IP_PORT),
    ("HEALTH-CHECK-NODE-PORT", PORT),
    ("IPVS-IPS", "hash:ip"),
];

/// The longest name of an ipset.
const NAME_MAX: usize = 31;

/// Name of a set: IPv6 has its own, cut off where it is too long.
pub fn set(v6: bool, name: &str) -> String {
    let mut name = format!("KUBE-{}{name}", if v6 { "6-" } else { "" });
    name.truncate(NAME_MAX);
    name
}

/// The address and port of a load balancer, and the clients that may use it
/// (`loadBalancerSourceRanges`). The node is none of them.
#[derive(Clone)]
pub struct Balancer {
    pub address: SocketAddr,
    pub ranges: Vec<String>,
}

/// Writes all sets, with the entries of these balancers, and the rules of both address families.
/// Sets that are there keep their entries; tables are loaded as a whole, so that a second call does
/// not double the rules.
pub fn sync(balancers: &[Balancer]) -> Result<()> {
    for (v6, tool) in [(false, "iptables-restore"), (true, "ip6tables-restore")] {
        let of_family: Vec<_> = balancers.iter().filter(|b| b.address.is_ipv6() == v6).collect();
        feed("ipset", &["restore", "-exist"], &sets(v6, &of_family))?;
        feed(tool, &[], &format!("{}{}", nat(v6, &of_family), filter(v6, &of_family)))?;
    }
    Ok(())
}

fn sets(v6: bool, balancers: &[&Balancer]) -> String {
    let mut out = String::new();
    for (name, kind) in SETS {
        let options = match kind {
            PORT => "range 0-65535".to_owned(),
            _ => format!("family {}", if v6 { "inet6" } else { "inet" }),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "create {} {kind} {options}", set(v6, name));
    }
    for Balancer { address, ranges } in balancers {
        let (ip, entry) = (address.ip(), entry(*address));
        for name in ["LOAD-BALANCER", "LOAD-BALANCER-FW"] {
            let _ = writeln!(out, "add {} {entry}", set(v6, name));
        }
        for range in ranges {
            let name = set(v6, "LOAD-BALANCER-SOURCE-CIDR");
            let _ = writeln!(out, "add {name} {entry},{range}");
        }
        let _ = writeln!(out, "add {} {ip}", set(v6, "IPVS-IPS"));
    }
    out
}

/// An address and port as sets have them.
pub fn entry(at: SocketAddr) -> String {
    format!("{},tcp:{}", at.ip(), at.port())
}

fn nat(v6: bool, balancers: &[&Balancer]) -> String {
    // Of kube-proxy's sets, that of balancers alone may be empty here: then no rule of this table
    // names it (`isEmpty`). The other sets are taken to have something in them.
    let (to_balancer, accept) = match balancers {
        [] => (String::new(), String::new()),
        _ => {
            let name = set(v6, "LOAD-BALANCER");
            (
                format!(
                    "-A KUBE-SERVICES -m comment --comment \"Kubernetes service lb portal\" \
                     -m set --match-set {name} dst,dst -j KUBE-LOAD-BALANCER\n"
                ),
                format!("-A KUBE-SERVICES -m set --match-set {name} dst,dst -j ACCEPT\n"),
            )
        }
    };
    let local = if v6 { "::1/128" } else { "127.0.0.0/8" };
    let (pods, cluster_ip) = (cluster(v6), set(v6, "CLUSTER-IP"));
    let (ports, hairpin) = (set(v6, "NODE-PORT-TCP"), set(v6, "LOOP-BACK"));
    format!(
        "*nat\n:KUBE-SERVICES -\n:KUBE-POSTROUTING -\n:KUBE-NODE-PORT -\n:KUBE-LOAD-BALANCER -\n\
         :KUBE-MARK-MASQ -\n\
         -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" \
         -j KUBE-POSTROUTING\n\
         -A KUBE-SERVICES -s {local} -j RETURN\n\
         -A KUBE-POSTROUTING -m comment --comment \"Kubernetes endpoints dst ip:port, \
         source ip for solving hairpin purpose\" \
         -m set --match-set {hairpin} dst,dst,src -j MASQUERADE\n\
         {to_balancer}\
         -A KUBE-NODE-PORT -p tcp -m comment \
         --comment \"Kubernetes nodeport TCP port for masquerade purpose\" \
         -m set --match-set {ports} dst -j KUBE-MARK-MASQ\n\
         -A KUBE-SERVICES -m comment \
         --comment \"Kubernetes service cluster ip + port for masquerade purpose\" \
         -m set --match-set {cluster_ip} dst,dst ! -s {pods} -j KUBE-MARK-MASQ\n\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT\n\
         -A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ\n\
         -A KUBE-SERVICES -m set --match-set {cluster_ip} dst,dst -j ACCEPT\n\
         {accept}\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" \
         -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\nCOMMIT\n"
    )
}

/// The jumps stand in the order in which they end up: each is put before the ones that are there.
fn filter(v6: bool, balancers: &[&Balancer]) -> String {
    let health = set(v6, "HEALTH-CHECK-NODE-PORT");
    let (ranges, from_node) = (source_ranges(v6, balancers), not_from_node(balancers));
    let mut out = format!(
        "*filter\n:KUBE-FORWARD -\n:KUBE-NODE-PORT -\n:KUBE-PROXY-FIREWALL -\n\
         :KUBE-SOURCE-RANGES-FIREWALL -\n:KUBE-IPVS-FILTER -\n:KUBE-IPVS-OUT-FILTER -\n\
         -A INPUT -m comment --comment \"kubernetes ipvs access filter\" -j KUBE-IPVS-FILTER\n\
         -A INPUT -m comment --comment \"kube-proxy firewall rules\" -j KUBE-PROXY-FIREWALL\n\
         -A INPUT -m comment --comment \"kubernetes health check rules\" -j KUBE-NODE-PORT\n\
         -A FORWARD -m comment --comment \"kube-proxy firewall rules\" -j KUBE-PROXY-FIREWALL\n\
         -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -A OUTPUT -m comment --comment \"kubernetes ipvs access filter\" \
         -j KUBE-IPVS-OUT-FILTER\n\
         {ranges}\
         -A KUBE-SOURCE-RANGES-FIREWALL -j DROP\n\
         {from_node}\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" \
         -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" \
         -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A KUBE-NODE-PORT -m comment --comment \"Kubernetes health check node port\" \
         -m set --match-set {health} dst -j ACCEPT\n"
    );
    for name in ["LOAD-BALANCER", "CLUSTER-IP", "EXTERNAL-IP", "EXTERNAL-IP-LOCAL"] {
        let name = set(v6, name);
        let _ = writeln!(out, "-A KUBE-IPVS-FILTER -m set --match-set {name} dst,dst -j RETURN");
    }
    // A service's address is the node's own: without this, all that the node listens on would be
    // reached by it.
    let addresses = set(v6, "IPVS-IPS");
    let _ = write!(
        out,
        "-A KUBE-IPVS-FILTER -m set --match-set {health} dst -j RETURN\n\
         -A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set {addresses} dst \
         -j REJECT\nCOMMIT\n"
    );
    out
}

/// Only these clients get past the drop of KUBE-SOURCE-RANGES-FIREWALL.
fn source_ranges(v6: bool, balancers: &[&Balancer]) -> String {
    if balancers.is_empty() {
        return String::new();
    }
    format!(
        "-A KUBE-PROXY-FIREWALL -m comment --comment \"Kubernetes service load balancer ip + port \
         for load balancer with sourceRange\" -m set --match-set {} dst,dst \
         -j KUBE-SOURCE-RANGES-FIREWALL\n\
         -A KUBE-SOURCE-RANGES-FIREWALL -m comment --comment \"Kubernetes service load balancer \
         ip + port + source cidr for packet filter purpose\" -m set --match-set {} dst,dst,src \
         -j RETURN\n",
        set(v6, "LOAD-BALANCER-FW"),
        set(v6, "LOAD-BALANCER-SOURCE-CIDR"),
    )
}

/// What the node sends to a balancer has the balancer's own address as its source, and IPVS has
/// changed the destination already: only IPVS itself knows what it is.
fn not_from_node(balancers: &[&Balancer]) -> String {
    let rule = |balancer: &&Balancer| {
        let (ip, port) = (balancer.address.ip(), balancer.address.port());
        format!(
            "-A KUBE-IPVS-OUT-FILTER -s {ip} -m ipvs --vaddr {ip} --vproto tcp --vport {port} \
             -j DROP\n"
        )
    };
    balancers.iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balancers_are_shut_to_all_but_their_ranges() {
        let balancer =
            Balancer { address: ([10, 96, 0, 30], 80).into(), ranges: vec!["10.0.0.0/8".into()] };
        assert!(!filter(false, &[]).contains("-m ipvs"));
        let all = format!("{}{}", sets(false, &[&balancer]), filter(false, &[&balancer]));
        let drop = "-A KUBE-IPVS-OUT-FILTER -s 10.96.0.30 -m ipvs --vaddr 10.96.0.30 --vproto tcp \
                    --vport 80 -j DROP\n";
        assert!(all.contains(drop), "{all}");
        let entry = "add KUBE-LOAD-BALANCER-SOURCE-CIDR 10.96.0.30,tcp:80,10.0.0.0/8\n";
        assert!(all.contains(entry), "{all}");
        let place = |ends: &str| {
            let is_it =
                |l: &str| l.starts_with("-A KUBE-SOURCE-RANGES-FIREWALL") && l.ends_with(ends);
            all.lines().position(is_it)
        };
        let (returns, drops) = (place("-j RETURN"), place("-j DROP"));
        assert!(returns.is_some() && drops.is_some() && returns < drops, "{all}");
    }

    #[test]
    fn names_of_sets_fit_into_the_kernel() {
        assert_eq!(set(false, "LOAD-BALANCER-SOURCE-CIDR"), "KUBE-LOAD-BALANCER-SOURCE-CIDR");
        assert_eq!(set(true, "LOAD-BALANCER-SOURCE-CIDR"), "KUBE-6-LOAD-BALANCER-SOURCE-CID");
    }
}
