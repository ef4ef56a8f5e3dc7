//! The node's settings that bear on stalls, for whoever reads a recording elsewhere. Settings that a
//! kernel does not have are left out.

use std::path::Path;

use crate::{
    event::Sysctls,
    pods::procfs::{TEXT_MAX, printable, read_text},
};

/// Below `/proc/sys`. Those of conntrack, IPVS and bridges are there only with their modules: looking
/// loads none.
const NAMES: &[&str] = &[
    "net/core/netdev_max_backlog",
    "net/core/rmem_default",
    "net/core/rmem_max",
    "net/core/somaxconn",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_local_reserved_ports",
    "net/ipv4/neigh/default/gc_thresh1",
    "net/ipv4/neigh/default/gc_thresh2",
    "net/ipv4/neigh/default/gc_thresh3",
    "net/ipv4/tcp_abort_on_overflow",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_syn_retries",
    "net/ipv4/tcp_synack_retries",
    "net/ipv4/tcp_syncookies",
    "net/ipv4/tcp_tw_reuse",
    "net/ipv4/vs/conn_reuse_mode",
    "net/ipv4/vs/conntrack",
    "net/ipv4/vs/expire_nodest_conn",
    "net/ipv4/vs/expire_quiescent_template",
    "net/ipv6/conf/all/forwarding",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/bridge/bridge-nf-call-iptables",
    "net/netfilter/nf_conntrack_buckets",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    "net/netfilter/nf_conntrack_tcp_loose",
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
    "net/netfilter/nf_conntrack_tcp_timeout_established",
    "net/netfilter/nf_conntrack_udp_timeout",
    "net/netfilter/nf_conntrack_udp_timeout_stream",
];

/// Those of the namespace stallprobe runs in, `netns`.
pub fn read(root: &Path, netns: u32) -> Sysctls {
    let values = NAMES.iter().filter_map(|name| {
        let text = read_text(&root.join("proc/sys").join(name), TEXT_MAX).ok()?;
        Some((name.replace('/', "."), words(&text)))
    });
    Sysctls { netns, values: values.collect() }
}

/// Values with tabs between them, as one line.
fn words(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().map(|word| printable(word.as_bytes())).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_is_there_is_read_and_made_printable() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join("proc/sys/net").join(name);
        std::fs::create_dir_all(at("ipv4")).unwrap();
        std::fs::create_dir_all(at("core/somaxconn")).unwrap();
        std::fs::write(at("ipv4/ip_local_port_range"), "32768\t60999\n").unwrap();
        std::fs::write(at("ipv4/ip_local_reserved_ports"), "\n").unwrap();
        std::fs::write(at("ipv4/tcp_syncookies"), b"1\x1b[2J\n").unwrap();
        let read = read(root.path(), 4);
        let pairs: Vec<_> = read.values.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(
            pairs,
            [
                ("net.ipv4.ip_local_port_range", "32768 60999"),
                ("net.ipv4.ip_local_reserved_ports", ""),
                ("net.ipv4.tcp_syncookies", "1\\u{1b}[2J"),
            ]
        );
    }
}
