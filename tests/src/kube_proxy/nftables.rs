//! kube-proxy's rules in nftables mode (kubernetes/kubernetes, pkg/proxy/nftables): one table, whose
//! maps say what becomes of a service's address and port.

use std::fmt::Write;

use anyhow::Result;

use super::{Service, cluster, hash};
use crate::command::feed;

/// Everything that is there whatever the services are. `IP` is `ip` or `ip6`, `ADDR` the type of
/// its addresses.
const BASE: &str = r#"
add table IP kube-proxy { comment "rules for kube-proxy" ; }
add chain IP kube-proxy cluster-ips-check
add chain IP kube-proxy filter-prerouting { type filter hook prerouting priority -110 ; }
add chain IP kube-proxy filter-forward { type filter hook forward priority -110 ; }
add chain IP kube-proxy filter-input { type filter hook input priority -110 ; }
add chain IP kube-proxy filter-output { type filter hook output priority -110 ; }
add chain IP kube-proxy filter-output-post-dnat { type filter hook output priority -90 ; }
add chain IP kube-proxy firewall-check
add chain IP kube-proxy mark-for-masquerade
add chain IP kube-proxy masquerading
add chain IP kube-proxy nat-output { type nat hook output priority -100 ; }
add chain IP kube-proxy nat-postrouting { type nat hook postrouting priority 100 ; }
add chain IP kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add chain IP kube-proxy nodeport-endpoints-check
add chain IP kube-proxy reject-chain { comment "helper for @no-endpoint-services / @no-endpoint-nodeports" ; }
add chain IP kube-proxy service-endpoints-check
add chain IP kube-proxy services
add set IP kube-proxy cluster-ips { type ADDR ; comment "Active ClusterIPs" ; }
add set IP kube-proxy nodeport-ips { type ADDR ; comment "IPs that accept NodePort traffic" ; }
add map IP kube-proxy firewall-ips { type ADDR . inet_proto . inet_service : verdict ; comment "destinations that are subject to LoadBalancerSourceRanges" ; }
add map IP kube-proxy no-endpoint-nodeports { type inet_proto . inet_service : verdict ; comment "vmap to drop or reject packets to service nodeports with no endpoints" ; }
add map IP kube-proxy no-endpoint-services { type ADDR . inet_proto . inet_service : verdict ; comment "vmap to drop or reject packets to services with no endpoints" ; }
add map IP kube-proxy service-ips { type ADDR . inet_proto . inet_service : verdict ; comment "ClusterIP, ExternalIP and LoadBalancer IP traffic" ; }
add map IP kube-proxy service-nodeports { type inet_proto . inet_service : verdict ; comment "NodePort traffic" ; }
add rule IP kube-proxy cluster-ips-check IP daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"
add rule IP kube-proxy filter-prerouting ct state new jump firewall-check
add rule IP kube-proxy filter-forward ct state new jump service-endpoints-check
add rule IP kube-proxy filter-forward ct state new jump cluster-ips-check
add rule IP kube-proxy filter-input ct state new jump nodeport-endpoints-check
add rule IP kube-proxy filter-input ct state new jump service-endpoints-check
add rule IP kube-proxy filter-output ct state new jump service-endpoints-check
add rule IP kube-proxy filter-output ct state new jump firewall-check
add rule IP kube-proxy filter-output-post-dnat ct state new jump cluster-ips-check
add rule IP kube-proxy firewall-check IP daddr . meta l4proto . th dport vmap @firewall-ips
add rule IP kube-proxy mark-for-masquerade mark set mark or 0x4000
add rule IP kube-proxy masquerading mark and 0x4000 == 0 return
add rule IP kube-proxy masquerading mark set mark xor 0x4000
add rule IP kube-proxy masquerading masquerade fully-random
add rule IP kube-proxy nat-output jump services
add rule IP kube-proxy nat-postrouting jump masquerading
add rule IP kube-proxy nat-prerouting jump services
add rule IP kube-proxy nodeport-endpoints-check IP daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
add rule IP kube-proxy reject-chain reject
add rule IP kube-proxy service-endpoints-check IP daddr . meta l4proto . th dport vmap @no-endpoint-services
add rule IP kube-proxy services IP daddr . meta l4proto . th dport vmap @service-ips
add rule IP kube-proxy services IP daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
"#;

pub(super) fn sync(services: &[Service]) -> Result<()> {
    let v6 = services.iter().any(Service::is_v6);
    let (family, kind) = if v6 { ("ip6", "ipv6_addr") } else { ("ip", "ipv4_addr") };
    let mut rules = BASE
        .lines()
        .map(|line| line.replace("IP kube-proxy", &format!("{family} kube-proxy")) + "\n")
        .collect::<String>()
        .replace(" IP daddr", &format!(" {family} daddr"))
        .replace("ADDR", kind);
    for s in services {
        one_service(family, s, &mut rules);
    }
    feed("nft", &["-f", "-"], &rules)
}

fn one_service(family: &str, s: &Service, rules: &mut String) {
    let (ip, port, proto) = (s.address.ip(), s.address.port(), s.proto);
    let name = format!("default/{}/{proto}/{}", s.name, s.port_name);
    let key = format!("{ip} . {proto} . {port}");
    let table = format!("{family} kube-proxy");
    // Writing to a String cannot fail.
    let _ = writeln!(rules, "add element {table} cluster-ips {{ {ip} }}");
    if s.backends.is_empty() {
        let _ = writeln!(
            rules,
            "add element {table} no-endpoint-services {{ {key} comment \"{}\" : goto reject-chain }}",
            s.full_name()
        );
        return;
    }
    let chain = format!("service-{}-{name}", hash(&name, 8));
    let _ = writeln!(rules, "add chain {table} {chain}");
    let mut choices = Vec::new();
    for (i, backend) in s.backends.iter().enumerate() {
        let at = backend.ip().to_string().replace(':', ".");
        let tail = format!("{name}__{at}/{}", backend.port());
        let endpoint = format!("endpoint-{}-{tail}", hash(&tail, 8));
        let _ = write!(
            rules,
            "add chain {table} {endpoint}\n\
             add rule {table} {endpoint} {family} saddr {} jump mark-for-masquerade\n\
             add rule {table} {endpoint} meta l4proto {proto} dnat to {backend}\n",
            backend.ip()
        );
        choices.push(format!("{i} : goto {endpoint}"));
    }
    let _ = write!(
        rules,
        "add rule {table} {chain} {family} daddr {ip} {proto} dport {port} {family} saddr != {} \
         jump mark-for-masquerade\n\
         add rule {table} {chain} numgen random mod {} vmap {{ {} }}\n\
         add element {table} service-ips {{ {key} : goto {chain} }}\n",
        cluster(s.is_v6()),
        choices.len(),
        choices.join(" , ")
    );
}
