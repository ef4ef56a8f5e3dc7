//! The hooks, and for each the rungs of its ladder: which program serves it in which way.

use crate::kernel::offsets::Family;

/// What a hook looks at.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// A function of vmlinux: fentry where the kernel allows it, else kprobe.
    Function { fentry: &'static str, kprobe: &'static str },
    /// A function of a module, entry and return. aya attaches fentry to vmlinux only, and a kprobe
    /// also lets the module go.
    ModuleFunction { module: &'static str, kprobe: &'static str, kretprobe: &'static str },
    /// The return of a function of vmlinux: fexit where the kernel allows it, else kretprobe.
    Return { function: &'static str, fexit: &'static str, kretprobe: &'static str },
    /// A function of a module, entry alone.
    ModuleEntry { module: &'static str, kprobe: &'static str },
    /// A function of a module whose programs are attached only while armed (see `bpf::armed`).
    Armed { module: &'static str, kprobe: &'static str, kretprobe: &'static str },
    /// A raw tracepoint whose program is attached only while armed.
    ArmedTracepoint { program: &'static str },
    /// A function of a module, return alone.
    ModuleReturn { module: &'static str, function: &'static str, kretprobe: &'static str },
    /// A raw tracepoint, `category:name`.
    Tracepoint { program: &'static str },
}

/// One hook.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The function, or `category:name` of the tracepoint; of a return, some words more.
    pub name: &'static str,
    pub family: Family,
    pub target: Target,
    /// Causes that are not seen without it.
    pub causes: &'static [&'static str],
}

const fn function(
    name: &'static str,
    family: Family,
    fentry: &'static str,
    kprobe: &'static str,
    causes: &'static [&'static str],
) -> Spec {
    Spec { name, family, target: Target::Function { fentry, kprobe }, causes }
}

const fn tracepoint(
    name: &'static str,
    family: Family,
    program: &'static str,
    causes: &'static [&'static str],
) -> Spec {
    Spec { name, family, target: Target::Tracepoint { program }, causes }
}

const fn ipvs(name: &'static str, kprobe: &'static str, causes: &'static [&'static str]) -> Spec {
    Spec {
        name,
        family: Family::Ipvs,
        target: Target::ModuleEntry { module: "ip_vs", kprobe },
        causes,
    }
}

const fn reject(name: &'static str, module: &'static str, kprobe: &'static str) -> Spec {
    Spec {
        name,
        family: Family::Reject,
        target: Target::ModuleEntry { module, kprobe },
        causes: &["service-no-backend"],
    }
}

const fn departure(name: &'static str, program: &'static str) -> Spec {
    Spec {
        name,
        family: Family::Departure,
        target: Target::ArmedTracepoint { program },
        causes: &["left-the-node"],
    }
}

const DNS: &[&str] = &["conntrack-dnat-clash", "server-slow"];

/// All hooks, failure paths first.
pub const HOOKS: &[Spec] = &[
    function(
        "tcp_conn_request",
        Family::Listen,
        "listen_syn_fe",
        "listen_syn_kp",
        &["accept-queue-overflow", "syn-queue-overflow"],
    ),
    Spec {
        name: "tcp_conn_request (return)",
        family: Family::HalfOpen,
        target: Target::Return {
            function: "tcp_conn_request",
            fexit: "listen_syn_fx",
            kretprobe: "listen_syn_krp",
        },
        causes: &["syn-queue-overflow"],
    },
    function(
        "tcp_v4_syn_recv_sock",
        Family::Listen,
        "listen_ack4_fe",
        "listen_ack4_kp",
        &["accept-queue-overflow"],
    ),
    function(
        "tcp_v6_syn_recv_sock",
        Family::Listen,
        "listen_ack6_fe",
        "listen_ack6_kp",
        &["accept-queue-overflow"],
    ),
    Spec {
        name: "nf_ct_resolve_clash",
        family: Family::Conntrack,
        target: Target::ModuleFunction {
            module: "nf_conntrack",
            kprobe: "clash_kp",
            kretprobe: "clash_krp",
        },
        causes: &["conntrack-dnat-clash", "conntrack-snat-clash", "snat-ports-exhausted"],
    },
    Spec {
        name: "__nf_conntrack_confirm (return)",
        family: Family::Conntrack,
        target: Target::ModuleReturn {
            module: "nf_conntrack",
            function: "__nf_conntrack_confirm",
            kretprobe: "confirm_krp",
        },
        causes: &["conntrack-insert-failed"],
    },
    Spec {
        name: "early_drop",
        family: Family::Conntrack,
        target: Target::ModuleFunction {
            module: "nf_conntrack",
            kprobe: "early_drop_kp",
            kretprobe: "early_drop_krp",
        },
        causes: &["conntrack-table-full"],
    },
    Spec {
        name: "ip_vs_schedule",
        family: Family::Ipvs,
        target: Target::ModuleFunction {
            module: "ip_vs",
            kprobe: "ipvs_sched_kp",
            kretprobe: "ipvs_sched_krp",
        },
        causes: &["ipvs-nodeport-collision"],
    },
    Spec {
        name: "nf_conntrack_in (armed)",
        family: Family::Conntrack,
        target: Target::Armed {
            module: "nf_conntrack",
            kprobe: "ct_entry_kp",
            kretprobe: "ct_entry_krp",
        },
        causes: &["conntrack-stale-nat", "conntrack-invalid", "reply-not-translated"],
    },
    departure("net:net_dev_start_xmit (armed)", "departure_out"),
    departure("net:netif_receive_skb (armed)", "departure_in"),
    ipvs("ip_vs_leave", "ipvs_leave_kp", &["service-no-backend"]),
    ipvs("ip_vs_nat_xmit", "ipvs_xmit_kp", &["ipvs-stale-connection"]),
    ipvs("ip_vs_nat_xmit_v6", "ipvs_xmit_kp", &[]),
    ipvs("ip_vs_conn_expire_now", "ipvs_expire_kp", &[]),
    reject("nf_send_unreach", "nf_reject_ipv4", "reject4_kp"),
    reject("nf_send_unreach6", "nf_reject_ipv6", "reject6_kp"),
    tracepoint(
        "skb:kfree_skb",
        Family::SkbDrop,
        "kfree_skb",
        &[
            "conntrack-dnat-clash",
            "conntrack-table-full",
            "conntrack-invalid",
            "reply-not-translated",
            "no-listener",
        ],
    ),
    tracepoint(
        "sock:inet_sock_set_state",
        Family::Handshake,
        "sock_state",
        &["no-listener", "client-ports-exhausted"],
    ),
    tracepoint("sock:inet_sock_set_state (probes)", Family::Probe, "probe_state", &["server-slow"]),
    tracepoint(
        "sock:inet_sock_set_state (servers)",
        Family::Probe,
        "probe_server",
        &["server-slow"],
    ),
    tracepoint("sock:inet_sock_set_state (reached)", Family::Probe, "probe_reached", &[]),
    Spec {
        name: "__inet_hash_connect (return)",
        family: Family::Handshake,
        target: Target::Return {
            function: "__inet_hash_connect",
            fexit: "connect_fx",
            kretprobe: "connect_krp",
        },
        causes: &["client-ports-exhausted"],
    },
    tracepoint("tcp:tcp_retransmit_skb", Family::Handshake, "syn_retrans", &[]),
    tracepoint("tcp:tcp_retransmit_synack", Family::Handshake, "synack_retrans", &[]),
    function("udp_send_skb", Family::Dns, "dns_send4_fe", "dns_send4_kp", DNS),
    function("udp_v6_send_skb", Family::Dns, "dns_send6_fe", "dns_send6_kp", DNS),
    function("__udp_enqueue_schedule_skb", Family::Dns, "dns_arrive_fe", "dns_arrive_kp", DNS),
    tracepoint("udp:udp_fail_queue_rcv_skb", Family::Dns, "dns_refused", &[]),
    function("skb_consume_udp", Family::Dns, "dns_read_fe", "dns_read_kp", &[]),
    function("udp_destroy_sock", Family::Dns, "dns_close4_fe", "dns_close4_kp", &[]),
    function("udpv6_destroy_sock", Family::Dns, "dns_close6_fe", "dns_close6_kp", &[]),
];
