//! The scenarios, one a file.

pub mod accept_queue;
mod armed;
mod armed_limits;
mod clash_lookalikes;
mod client_ports;
mod cri_brief;
mod cri_debug_pod;
mod cri_many;
mod cri_pods;
mod debug_pod;
pub mod dnat_clash;
mod dropped;
mod flood;
mod folding;
mod healthy;
mod helper_unload;
mod insert_failed;
mod invalid;
mod ipvs_balancer;
mod ipvs_no_backend;
mod ipvs_nodeport;
mod ipvs_stale;
mod left_the_node;
mod manners;
mod module_reload;
mod nginx;
mod no_listener;
mod not_translated;
mod packets;
mod pod_names;
pub mod podman;
mod pods_command;
mod recordings;
mod resolvers;
mod server_slow;
mod service_no_backend;
mod slow_probe;
pub mod snat_clash;
mod snat_ports;
mod stale_nat;
mod syn_cookies;
mod syn_queue;
pub mod table_full;

use crate::{
    case::{Case, Expect},
    rung::Rung,
};

/// The rungs without hooks on functions.
const LOW: &[Rung] = &[Rung::Tracepoint, Rung::Snapshot];
/// Named by what `/proc` says at the moment of the stall.
const BY_PROC: &[(Rung, Expect)] =
    &[(Rung::Tracepoint, Expect::Likely), (Rung::Snapshot, Expect::Likely)];
/// A server that was asked by its service's address.
const BY_SERVICE: &[(Rung, Expect)] = &[
    (Rung::Tracepoint, Expect::Unseen(NOT_BY_SERVICE)),
    (Rung::Snapshot, Expect::Unseen(NOT_BY_SERVICE)),
];
const NOT_BY_SERVICE: &str =
    "of a service's address this rung does not tell which server was asked";
/// A tracepoint tells of the final ACK that was dropped; the client believes it is connected.
const BY_ACK: &[(Rung, Expect)] = &[
    (Rung::Tracepoint, Expect::Likely),
    (Rung::Snapshot, Expect::Unseen("of a dropped final ACK the client's socket shows nothing")),
];
/// A RST is all that a tracepoint shows of it.
const NO_LISTENER: &[(Rung, &str)] = &[(Rung::Tracepoint, "no-listener")];
/// Named by what tracepoints tell.
const BY_TRACEPOINTS: &[(Rung, Expect)] = &[(Rung::Tracepoint, Expect::Certain)];

/// Devices are watched by tracepoints too.
const BY_DEVICES: &[(Rung, Expect)] = &[(Rung::Tracepoint, Expect::Likely)];

/// All cases, in the order they run.
pub const ALL: &[Case] = &[
    Case::new("leaves_node_unchanged", manners::leaves_node_unchanged),
    Case::new("accept_queue_syn", accept_queue::syn)
        .names("accept-queue-overflow", Expect::Certain)
        .low(BY_SERVICE),
    Case::new("accept_queue_syn_v6", accept_queue::syn_v6)
        .names("accept-queue-overflow", Expect::Certain)
        .low(BY_PROC),
    Case::new("accept_queue_ack", accept_queue::ack)
        .names("accept-queue-overflow", Expect::Certain)
        .low(BY_ACK),
    Case::new("accept_queue_ack_v6", accept_queue::ack_v6)
        .names("accept-queue-overflow", Expect::Certain)
        .low(BY_ACK),
    Case::new("accept_queue_nginx", nginx::default_backlog)
        .names("accept-queue-overflow", Expect::Certain)
        .low(BY_PROC),
    Case::new("accept_queue_nginx_v6", nginx::own_backlog_v6)
        .names("accept-queue-overflow", Expect::Certain)
        .low(BY_PROC),
    Case::new("accept_queue_nginx_has_room", nginx::queue_has_room).also_at(LOW),
    Case::new("accept_queue_nearly_full", accept_queue::nearly_full).also_at(LOW),
    Case::new("accept_queue_other_port", accept_queue::other_port).also_at(LOW),
    Case::new("accept_queue_other_pod", accept_queue::other_pod).also_at(LOW),
    Case::new("accept_queue_other_port_v6", accept_queue::other_port_v6).same_everywhere(),
    Case::new("dnat_clash_getaddrinfo", dnat_clash::getaddrinfo)
        .kernels(dnat_clash::CERTAIN)
        .elsewhere("what waited in a queue is translated anew there and does not clash")
        .names("conntrack-dnat-clash", Expect::Certain),
    Case::new("dnat_clash_two_threads", dnat_clash::two_threads)
        .names("conntrack-dnat-clash", Expect::Certain),
    Case::new("dnat_clash_two_threads_v6", dnat_clash::two_threads_v6)
        .names("conntrack-dnat-clash", Expect::Certain),
    Case::new("dnat_clash_two_threads_legacy", dnat_clash::two_threads_legacy)
        .names("conntrack-dnat-clash", Expect::Certain)
        .same_everywhere(),
    Case::new("dnat_clash_two_threads_nftables", dnat_clash::two_threads_nftables)
        .kernels(service_no_backend::NFTABLES)
        .elsewhere("kube-proxy's nftables mode needs kernel 5.13")
        .names("conntrack-dnat-clash", Expect::Certain)
        .same_everywhere(),
    Case::new("snat_clash_udp", snat_clash::udp)
        .limit(300)
        .names("conntrack-snat-clash", Expect::Certain),
    Case::new("snat_clash_udp_v6", snat_clash::udp_v6)
        .limit(300)
        .names("conntrack-snat-clash", Expect::Certain),
    Case::new("snat_clash_tcp", snat_clash::tcp)
        .limit(300)
        .names("conntrack-snat-clash", Expect::Certain),
    Case::new("snat_clash_tcp_v6", snat_clash::tcp_v6)
        .limit(300)
        .names("conntrack-snat-clash", Expect::Certain),
    Case::new("snat_clash_kube_proxy", snat_clash::kube_proxy)
        .limit(300)
        .names("conntrack-snat-clash", Expect::Certain),
    Case::new("table_full", table_full::v4)
        .names("conntrack-table-full", Expect::Certain)
        .low(BY_PROC),
    Case::new("table_full_v6", table_full::v6)
        .names("conntrack-table-full", Expect::Certain)
        .low(BY_PROC),
    Case::new("table_room_left", table_full::room_left).also_at(LOW),
    Case::new("table_evicts", table_full::evicts).also_at(LOW),
    Case::new("chain_too_long", insert_failed::tcp)
        .kernels(insert_failed::LIMITED)
        .elsewhere("chains have no limit before 5.15")
        .names("conntrack-insert-failed", Expect::Certain),
    Case::new("chain_too_long_v6", insert_failed::tcp_v6)
        .kernels(insert_failed::LIMITED)
        .elsewhere("chains have no limit before 5.15")
        .names("conntrack-insert-failed", Expect::Certain),
    Case::new("chain_too_long_dns", insert_failed::dns)
        .kernels(insert_failed::LIMITED)
        .elsewhere("chains have no limit before 5.15")
        .names("conntrack-insert-failed", Expect::Certain),
    Case::new("chain_too_long_dns_v6", insert_failed::dns_v6)
        .kernels(insert_failed::LIMITED)
        .elsewhere("chains have no limit before 5.15")
        .names("conntrack-insert-failed", Expect::Certain),
    Case::new("chain_long_rule_drops", insert_failed::rule_drops)
        .kernels(insert_failed::LIMITED)
        .elsewhere("chains have no limit before 5.15"),
    Case::new("chain_long_full_queue", insert_failed::full_queue)
        .kernels(insert_failed::LIMITED)
        .elsewhere("chains have no limit before 5.15"),
    Case::new("helper_unload", helper_unload::new_connection)
        .kernels(helper_unload::FORGETS)
        .elsewhere("a helper that goes leaves new connections alone there")
        .names("conntrack-insert-failed", Expect::Certain)
        .but(helper_unload::BUT),
    Case::new("helper_unload_rule_drops", helper_unload::rule_drops)
        .kernels(helper_unload::FORGETS)
        .elsewhere("a helper that goes leaves new connections alone there"),
    Case::new("no_listener", no_listener::tcp)
        .names("no-listener", Expect::Certain)
        .low(BY_TRACEPOINTS),
    Case::new("no_listener_v6", no_listener::tcp_v6)
        .names("no-listener", Expect::Certain)
        .low(BY_TRACEPOINTS),
    Case::new("no_listener_dns", no_listener::dns)
        .names("no-listener", Expect::Certain)
        .but(&[("5.10", Expect::Likely)]),
    Case::new("server_slow", server_slow::direct).names("server-slow", Expect::Certain),
    Case::new("server_slow_chain", server_slow::chain).same_everywhere(),
    Case::new("left_the_node", left_the_node::masqueraded)
        .names("left-the-node", Expect::Likely)
        .low(BY_DEVICES),
    Case::new("left_the_node_v6", left_the_node::routed_v6)
        .names("left-the-node", Expect::Likely)
        .low(BY_DEVICES)
        .same_everywhere(),
    Case::new("left_answer_lost_here", left_the_node::answer_lost_here).same_everywhere(),
    Case::new("left_never", left_the_node::never_left).same_everywhere(),
    Case::new("nft_drop", dropped::nft).also_at(LOW),
    Case::new("iptables_nft_drop", dropped::iptables_nft).same_everywhere(),
    Case::new("iptables_legacy_drop", dropped::iptables_legacy),
    Case::new("stale_nat_pod_gone", stale_nat::pod_gone)
        .names("conntrack-stale-nat", Expect::Certain),
    Case::new("stale_nat_pod_gone_v6", stale_nat::pod_gone_v6)
        .names("conntrack-stale-nat", Expect::Certain),
    Case::new("stale_nat_before_rules", stale_nat::before_the_rules)
        .names("conntrack-stale-nat", Expect::Certain),
    Case::new("stale_nat_before_rules_v6", stale_nat::before_the_rules_v6)
        .names("conntrack-stale-nat", Expect::Certain),
    Case::new("stale_nat_rule_drops", stale_nat::rule_drops),
    Case::new("stale_nat_rules_not_renewed", stale_nat::rules_not_renewed),
    Case::new("stale_nat_new_port", stale_nat::new_port),
    Case::new("invalid_asymmetric", invalid::asymmetric).names("conntrack-invalid", Expect::Likely),
    Case::new("invalid_asymmetric_v6", invalid::asymmetric_v6)
        .names("conntrack-invalid", Expect::Likely),
    Case::new("invalid_port_dropped", invalid::port_dropped),
    Case::new("invalid_not_tracked", invalid::not_tracked),
    Case::new("not_translated_dns", not_translated::dns)
        .names("reply-not-translated", Expect::Certain),
    Case::new("not_translated_dns_v6", not_translated::dns_v6)
        .names("reply-not-translated", Expect::Certain),
    Case::new("not_translated_tcp", not_translated::tcp)
        .names("reply-not-translated", Expect::Certain),
    Case::new("not_translated_tcp_v6", not_translated::tcp_v6)
        .names("reply-not-translated", Expect::Certain),
    Case::new("not_translated_stranger", not_translated::stranger),
    Case::new("not_translated_stranger_v6", not_translated::stranger_v6).same_everywhere(),
    Case::new("not_translated_silent", not_translated::silent),
    Case::new("nfqueue_neighbour", clash_lookalikes::nfqueue_neighbour)
        .kernels(dnat_clash::UNCERTAIN)
        .elsewhere("there the same set-up makes a clash"),
    Case::new("clash_answered", clash_lookalikes::answered),
    Case::new("snat_exhausted_udp", snat_ports::udp).names("snat-ports-exhausted", Expect::Certain),
    Case::new("snat_exhausted_udp_v6", snat_ports::udp_v6)
        .names("snat-ports-exhausted", Expect::Certain),
    Case::new("snat_exhausted_tcp", snat_ports::tcp).names("snat-ports-exhausted", Expect::Certain),
    Case::new("snat_exhausted_tcp_v6", snat_ports::tcp_v6)
        .names("snat-ports-exhausted", Expect::Certain),
    Case::new("snat_exhausted_kube_proxy", snat_ports::kube_proxy_iptables)
        .names("snat-ports-exhausted", Expect::Certain),
    Case::new("snat_exhausted_ipvs", snat_ports::kube_proxy_ipvs)
        .names("snat-ports-exhausted", Expect::Certain)
        .same_everywhere(),
    Case::new("snat_exhausted_nftables", snat_ports::kube_proxy_nftables)
        .kernels(service_no_backend::NFTABLES)
        .elsewhere("kube-proxy's nftables mode needs kernel 5.13")
        .names("snat-ports-exhausted", Expect::Certain)
        .same_everywhere(),
    Case::new("snat_ports_rule_drops", snat_ports::rule_drops),
    Case::new("snat_ports_rule_drops_v6", snat_ports::rule_drops_v6).same_everywhere(),
    Case::new("syn_cookies", syn_cookies::run_case),
    Case::new("syn_queue_backlog", syn_queue::backlog).names("syn-queue-overflow", Expect::Certain),
    Case::new("syn_queue_backlog_v6", syn_queue::backlog_v6)
        .names("syn-queue-overflow", Expect::Certain),
    Case::new("syn_queue_last_quarter", syn_queue::last_quarter)
        .names("syn-queue-overflow", Expect::Certain),
    Case::new("syn_queue_last_quarter_v6", syn_queue::last_quarter_v6)
        .names("syn-queue-overflow", Expect::Certain),
    Case::new("syn_queue_room_left", syn_queue::room_left),
    Case::new("syn_queue_accept_queue", syn_queue::accept_queue_full).also_at(LOW),
    Case::new("client_ports", client_ports::v4).names("client-ports-exhausted", Expect::Certain),
    Case::new("client_ports_v6", client_ports::v6).names("client-ports-exhausted", Expect::Certain),
    Case::new("client_ports_lookalikes", client_ports::lookalikes),
    Case::new("client_ports_one_left", client_ports::one_left),
    Case::new("resolver_glibc", resolvers::glibc).same_everywhere(),
    Case::new("resolver_musl", resolvers::musl).same_everywhere(),
    Case::new("resolver_go", resolvers::go).same_everywhere(),
    Case::new("resolver_musl_dead_nameserver", resolvers::musl_dead_nameserver).same_everywhere(),
    Case::new("resolvers_answered", resolvers::answered).same_everywhere(),
    Case::new("ipvs_gone", ipvs_stale::gone).names("ipvs-stale-connection", Expect::Certain),
    Case::new("ipvs_gone_v6", ipvs_stale::gone_v6).names("ipvs-stale-connection", Expect::Certain),
    Case::new("ipvs_drained", ipvs_stale::drained)
        .names("ipvs-stale-connection", Expect::Certain)
        .taken_for(NO_LISTENER),
    Case::new("ipvs_drained_v6", ipvs_stale::drained_v6)
        .names("ipvs-stale-connection", Expect::Certain)
        .taken_for(NO_LISTENER),
    Case::new("ipvs_removed", ipvs_stale::removed)
        .names("ipvs-stale-connection", Expect::Certain)
        .low(BY_PROC),
    Case::new("ipvs_removed_v6", ipvs_stale::removed_v6)
        .names("ipvs-stale-connection", Expect::Certain)
        .low(BY_PROC),
    Case::new("ipvs_reused", ipvs_stale::reused),
    Case::new("ipvs_rule_drops", ipvs_stale::rule_drops).also_at(LOW),
    Case::new("ipvs_rule_drops_v6", ipvs_stale::rule_drops_v6).same_everywhere(),
    Case::new("ipvs_rule_drops_first", ipvs_stale::rule_drops_first).also_at(LOW).taken_for(&[
        (Rung::Tracepoint, "ipvs-stale-connection"),
        (Rung::Snapshot, "ipvs-stale-connection"),
    ]),
    Case::new("ipvs_rule_drops_after", ipvs_stale::rule_drops_after),
    Case::new("ipvs_source_ranges_v6", ipvs_balancer::other_range_v6).same_everywhere(),
    Case::new("ipvs_balancer_from_node", ipvs_balancer::from_node),
    Case::new("armed_one_at_a_time", armed::one_at_a_time),
    Case::new("armed_module_unloaded", armed::module_unloaded),
    Case::new("armed_over_budget", armed_limits::over_budget),
    Case::new("armed_in_vain", armed_limits::in_vain),
    Case::new("ipvs_unreachable", ipvs_stale::unreachable).also_at(&[Rung::Tracepoint]),
    Case::new("ipvs_hijack", ipvs_nodeport::hijack)
        .names("ipvs-nodeport-collision", Expect::Certain),
    Case::new("ipvs_hijack_v6", ipvs_nodeport::hijack_v6)
        .names("ipvs-nodeport-collision", Expect::Certain),
    Case::new("ipvs_syn_ack_dropped", ipvs_nodeport::rule_drops),
    Case::new("ipvs_full_queue", ipvs_nodeport::full_queue),
    Case::new("ipvs_no_backend", ipvs_no_backend::none)
        .names("service-no-backend", Expect::Certain),
    Case::new("ipvs_no_backend_v6", ipvs_no_backend::none_v6)
        .names("service-no-backend", Expect::Certain),
    Case::new("ipvs_all_drained", ipvs_no_backend::all_drained)
        .names("service-no-backend", Expect::Certain),
    Case::new("ipvs_all_drained_v6", ipvs_no_backend::all_drained_v6)
        .names("service-no-backend", Expect::Certain),
    Case::new("ipvs_closed_port", ipvs_no_backend::closed_port),
    Case::new("ipvs_rule_rejects", ipvs_no_backend::rule_rejects).also_at(&[Rung::Tracepoint]),
    Case::new("service_none_iptables_nft", service_no_backend::iptables_nft)
        .names("service-no-backend", Expect::Certain),
    Case::new("service_none_iptables_legacy", service_no_backend::iptables_legacy)
        .names("service-no-backend", Expect::Certain),
    Case::new("service_none_iptables_legacy_v6", service_no_backend::iptables_legacy_v6)
        .names("service-no-backend", Expect::Certain),
    Case::new("service_none_iptables_v6", service_no_backend::iptables_v6)
        .names("service-no-backend", Expect::Certain),
    Case::new("service_none_nftables", service_no_backend::nftables)
        .kernels(service_no_backend::NFTABLES)
        .elsewhere("kube-proxy's nftables mode needs kernel 5.13")
        .names("service-no-backend", Expect::Likely),
    Case::new("service_none_nftables_v6", service_no_backend::nftables_v6)
        .kernels(service_no_backend::NFTABLES)
        .elsewhere("kube-proxy's nftables mode needs kernel 5.13")
        .names("service-no-backend", Expect::Likely),
    Case::new("service_none_dns", service_no_backend::dns)
        .names("service-no-backend", Expect::Certain),
    Case::new("service_none_dns_v6", service_no_backend::dns_v6)
        .names("service-no-backend", Expect::Certain),
    Case::new("service_none_unlisted", service_no_backend::unlisted)
        .names("service-no-backend", Expect::Likely),
    Case::new("service_closed_port", service_no_backend::closed_port),
    Case::new("service_closed_port_v6", service_no_backend::closed_port_v6).same_everywhere(),
    Case::new("service_host_prohibited", service_no_backend::host_prohibited),
    Case::new("service_other_address", service_no_backend::other_address),
    Case::new("service_wrong_port", service_no_backend::wrong_port)
        .kernels(service_no_backend::NFTABLES)
        .elsewhere("kube-proxy's nftables mode needs kernel 5.13"),
    Case::new("pod_names", pod_names::kubernetes),
    Case::new("pods_command", pods_command::run_case),
    Case::new("debug_pod", debug_pod::run_case),
    Case::new("probe_failure", pod_names::probe_failure),
    Case::new("probe_lookalikes", pod_names::no_probe),
    Case::new("probe_not_accepted", slow_probe::not_accepted)
        .names("server-slow", Expect::Certain)
        .low(BY_TRACEPOINTS),
    Case::new("probe_not_read_v6", slow_probe::not_read)
        .names("server-slow", Expect::Certain)
        .low(BY_TRACEPOINTS)
        .same_everywhere(),
    Case::new("probe_answered_late", slow_probe::answered_late)
        .names("server-slow", Expect::Likely)
        .low(&[(Rung::Tracepoint, Expect::Likely)]),
    Case::new("probe_last_record", slow_probe::last_record)
        .names("server-slow", Expect::Likely)
        .low(&[(Rung::Tracepoint, Expect::Likely)])
        .same_everywhere(),
    Case::new("probe_answered_in_time", slow_probe::answered_in_time)
        .names("server-slow", Expect::Likely)
        .low(&[(Rung::Tracepoint, Expect::Likely)])
        .same_everywhere(),
    Case::new("probe_accepted_in_time", slow_probe::accepted_in_time)
        .names("server-slow", Expect::Likely)
        .low(&[(Rung::Tracepoint, Expect::Likely)])
        .same_everywhere(),
    Case::new("probe_read_in_time_v6", slow_probe::read_in_time)
        .names("server-slow", Expect::Likely)
        .low(&[(Rung::Tracepoint, Expect::Likely)])
        .same_everywhere(),
    Case::new("probe_partly_answered", slow_probe::partly_answered)
        .names("server-slow", Expect::Likely)
        .low(&[(Rung::Tracepoint, Expect::Likely)])
        .same_everywhere(),
    Case::new("probe_hung_up", slow_probe::hung_up).same_everywhere(),
    Case::new("probe_closed", slow_probe::closed)
        .names("server-slow", Expect::Likely)
        .low(&[(Rung::Tracepoint, Expect::Likely)])
        .same_everywhere(),
    Case::new("probe_answered", slow_probe::no_failure),
    Case::new("healthy", healthy::run_case).limit(300),
    Case::new("folding", folding::run_case).same_everywhere(),
    Case::new("flood", flood::run_case).same_everywhere().limit(300),
    Case::new("module_reload", module_reload::run_case).same_everywhere().limit(300),
    Case::new("packets_on_the_wire", packets::as_on_the_wire),
    Case::new("record_killed", recordings::killed).same_everywhere().limit(1200),
    Case::new("record_disk_full", recordings::disk_full).same_everywhere().limit(300),
    Case::new("record_rotated", recordings::rotated).same_everywhere().limit(300),
    Case::new("record_text", recordings::as_text).same_everywhere(),
    Case::new("sigkill_leaves_nothing", manners::sigkill_leaves_nothing),
    Case::new("no_rights", manners::no_rights).same_everywhere(),
    Case::new("rights_dropped", debug_pod::rights_dropped).same_everywhere(),
    Case::new("seccomp", manners::seccomp).same_everywhere(),
    Case::new("cri_full_node", cri_many::full).runtimes().same_everywhere().limit(1800),
    Case::new("cri_pods", cri_pods::names).runtimes().limit(600),
    Case::new("cri_debug_pod", cri_debug_pod::privileged).runtimes().limit(600),
    Case::new("cri_daemon_pod", cri_debug_pod::restricted).runtimes().limit(600),
    Case::new("cri_brief_pod", cri_brief::run_case).runtimes().limit(600),
    Case::new("cri_deleted_pod", cri_brief::deleted).runtimes().limit(600),
    Case::new("podman_containers", podman::names).runtimes().limit(600),
    // The last, for its many pods are left to the end of the machine.
    Case::new("cri_many_pods", cri_many::mixed).runtimes().limit(600),
];
