//! kube-proxy's sets and rules of IPVS mode (kubernetes/kubernetes, pkg/proxy/ipvs: proxier.go,
//! ipset.go), with a cluster CIDR and without masquerade-all.
//!
//! What it writes only for load balancers is left out, and with it the match `-m ipvs`: it stands
//! in KUBE-IPVS-OUT-FILTER for balancers that the node itself may not use.

use std::fmt::Write;

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

/// Writes all sets, empty, and the rules of both address families. Sets that are there are left as
/// they are; tables are loaded as a whole, so that a second call does not double the rules.
pub fn sync() -> Result<()> {
    for (v6, tool) in [(false, "iptables-restore"), (true, "ip6tables-restore")] {
        feed("ipset", &["restore", "-exist"], &sets(v6))?;
        feed(tool, &[], &format!("{}{}", nat(v6), filter(v6)))?;
    }
    Ok(())
}

fn sets(v6: bool) -> String {
    let mut out = String::new();
    for (name, kind) in SETS {
        let options = match kind {
            PORT => "range 0-65535".to_owned(),
            _ => format!("family {}", if v6 { "inet6" } else { "inet" }),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "create {} {kind} {options}", set(v6, name));
    }
    out
}

fn nat(v6: bool) -> String {
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
         -A KUBE-NODE-PORT -p tcp -m comment \
         --comment \"Kubernetes nodeport TCP port for masquerade purpose\" \
         -m set --match-set {ports} dst -j KUBE-MARK-MASQ\n\
         -A KUBE-SERVICES -m comment \
         --comment \"Kubernetes service cluster ip + port for masquerade purpose\" \
         -m set --match-set {cluster_ip} dst,dst ! -s {pods} -j KUBE-MARK-MASQ\n\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT\n\
         -A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ\n\
         -A KUBE-SERVICES -m set --match-set {cluster_ip} dst,dst -j ACCEPT\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" \
         -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\nCOMMIT\n"
    )
}

/// The jumps stand in the order in which they end up: each is put before the ones that are there.
fn filter(v6: bool) -> String {
    let health = set(v6, "HEALTH-CHECK-NODE-PORT");
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
         -A KUBE-SOURCE-RANGES-FIREWALL -j DROP\n\
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sets_fit_into_the_kernel() {
        assert_eq!(set(false, "LOAD-BALANCER-SOURCE-CIDR"), "KUBE-LOAD-BALANCER-SOURCE-CIDR");
        assert_eq!(set(true, "LOAD-BALANCER-SOURCE-CIDR"), "KUBE-6-LOAD-BALANCER-SOURCE-CID");
    }
}
