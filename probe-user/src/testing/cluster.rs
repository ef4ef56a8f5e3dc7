//! The node, its pods and what is attached.

use super::*;

pub fn node() -> Node {
    let reasons = [(2, "NOT_SPECIFIED"), (NO_SOCKET, "NO_SOCKET")].into_iter();
    let reasons =
        reasons.chain([(NETFILTER_DROP, "NETFILTER_DROP"), (NEIGH_FAILED, "NEIGH_FAILED")]);
    Node {
        version: "0.1.0".to_owned(),
        name: "ip-10-0-3-17".to_owned(),
        kernel: "6.12.117".to_owned(),
        machine: "x86_64".to_owned(),
        kube_proxy: "iptables".to_owned(),
        netns: HOST,
        drop_reasons: reasons.map(|(n, name)| (n, name.to_owned())).collect(),
        min_stall: 1000 * MS,
        dns_ports: Vec::new(),
        modules: vec!["nf_conntrack".to_owned(), "nf_nat".to_owned()],
        no_ebpf: String::new(),
    }
}

pub fn hooks(state: impl Fn(&str) -> HookState) -> Vec<Hook> {
    let hooks: [(&str, &str, &[&str]); 14] = [
        ("tcp_conn_request", "listen", &["accept-queue-overflow", "syn-queue-overflow"]),
        ("tcp_conn_request (return)", "half_open", &["syn-queue-overflow"]),
        ("tcp_v4_syn_recv_sock", "listen", &["accept-queue-overflow"]),
        (
            "nf_ct_resolve_clash",
            "conntrack",
            &["conntrack-dnat-clash", "conntrack-snat-clash", "snat-ports-exhausted"],
        ),
        ("__nf_conntrack_confirm (return)", "conntrack", &["conntrack-insert-failed"]),
        ("early_drop", "conntrack", &["conntrack-table-full"]),
        (
            "nf_conntrack_in",
            "conntrack",
            &["conntrack-stale-nat", "conntrack-invalid", "reply-not-translated"],
        ),
        ("udp_send_skb", "dns", &["conntrack-dnat-clash", "server-slow"]),
        (
            "skb:kfree_skb",
            "skb_drop",
            &["conntrack-dnat-clash", "conntrack-table-full", "no-listener"],
        ),
        ("ip_vs_schedule", "ipvs", &["ipvs-nodeport-collision"]),
        ("ip_vs_leave", "ipvs", &["service-no-backend"]),
        ("ip_vs_nat_xmit", "ipvs", &["ipvs-stale-connection"]),
        ("nf_send_unreach", "reject", &["service-no-backend"]),
        ("net:net_dev_start_xmit (armed)", "departure", &["left-the-node"]),
    ];
    let hook = |(name, family, causes): (&str, &str, &[&str])| Hook {
        name: name.to_owned(),
        family: family.to_owned(),
        causes: causes.iter().map(|&c| c.to_owned()).collect(),
        state: state(name),
    };
    hooks.map(hook).into()
}

pub fn totals() -> Totals {
    let none = vec![0; kind::COUNT];
    Totals { seen: none.clone(), limited: none.clone(), lost: none, ..Totals::default() }
}

pub fn up(netns: u32, name: &str, address: &str) -> Body {
    let addresses = vec![address.parse().unwrap()];
    Body::Pod(PodChange::Up(Pod { netns, name: name.to_owned(), addresses, ..Pod::default() }))
}

pub fn local_ports(low: u16, high: u16, reserved: &[(u16, u16)]) -> Body {
    Body::LocalPorts(LocalPorts { netns: HOST, low, high, reserved: reserved.to_vec() })
}

/// A process of the node's own network is this pod's.
pub fn process_of(pid: u32, pod: &str) -> Body {
    Body::Process(Process { pod: Some(pod.to_owned()), ..process(pid) })
}

pub fn process(pid: u32) -> Process {
    Process { pid, pod: None, container: None, kubelet: false, has_kubelet: false, netns: 0 }
}

pub fn kubelet(pid: u32) -> Body {
    Body::Process(Process { kubelet: true, ..process(pid) })
}

/// What a pod knows of a service.
pub fn service(proto: u8, address: &str, name: Option<&str>) -> Body {
    let address = address.parse().unwrap();
    Body::Service(Service { proto, address, name: name.map(str::to_owned), pid: 4711 })
}
