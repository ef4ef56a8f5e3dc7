//! The scenarios, one a file.

pub mod accept_queue;
mod clash_lookalikes;
pub mod dnat_clash;
mod dropped;
mod flood;
mod healthy;
mod ipvs_no_backend;
mod ipvs_nodeport;
mod ipvs_stale;
mod manners;
mod module_reload;
mod no_listener;
mod resolvers;
mod server_slow;
pub mod snat_clash;
mod syn_cookies;
pub mod table_full;

use crate::case::Case;

/// All cases, in the order they run.
pub const ALL: &[Case] = &[
    Case::new("leaves_node_unchanged", manners::leaves_node_unchanged),
    Case::new("accept_queue_syn", accept_queue::syn),
    Case::new("accept_queue_syn_v6", accept_queue::syn_v6),
    Case::new("accept_queue_ack", accept_queue::ack),
    Case::new("accept_queue_ack_v6", accept_queue::ack_v6),
    Case::new("dnat_clash_getaddrinfo", dnat_clash::getaddrinfo).kernels(dnat_clash::CERTAIN),
    Case::new("dnat_clash_two_threads", dnat_clash::two_threads),
    Case::new("snat_clash_udp", snat_clash::udp).limit(180),
    Case::new("snat_clash_udp_v6", snat_clash::udp_v6).limit(180),
    Case::new("snat_clash_tcp", snat_clash::tcp).limit(180),
    Case::new("table_full", table_full::run_case),
    Case::new("no_listener", no_listener::tcp),
    Case::new("no_listener_v6", no_listener::tcp_v6),
    Case::new("no_listener_dns", no_listener::dns),
    Case::new("server_slow", server_slow::direct),
    Case::new("server_slow_chain", server_slow::chain),
    Case::new("nft_drop", dropped::nft),
    Case::new("iptables_nft_drop", dropped::iptables_nft),
    Case::new("iptables_legacy_drop", dropped::iptables_legacy),
    Case::new("untranslated_answer", clash_lookalikes::untranslated),
    Case::new("nfqueue_neighbour", clash_lookalikes::nfqueue_neighbour)
        .kernels(dnat_clash::UNCERTAIN),
    Case::new("clash_answered", clash_lookalikes::answered),
    Case::new("snat_exhausted", clash_lookalikes::snat_exhausted),
    Case::new("syn_cookies", syn_cookies::run_case),
    Case::new("resolver_glibc", resolvers::glibc),
    Case::new("resolver_musl", resolvers::musl),
    Case::new("resolver_go", resolvers::go),
    Case::new("resolver_musl_dead_nameserver", resolvers::musl_dead_nameserver),
    Case::new("resolvers_answered", resolvers::answered),
    Case::new("ipvs_gone", ipvs_stale::gone),
    Case::new("ipvs_gone_v6", ipvs_stale::gone_v6),
    Case::new("ipvs_drained", ipvs_stale::drained),
    Case::new("ipvs_removed", ipvs_stale::removed),
    Case::new("ipvs_removed_v6", ipvs_stale::removed_v6),
    Case::new("ipvs_reused", ipvs_stale::reused),
    Case::new("ipvs_rule_drops", ipvs_stale::rule_drops),
    Case::new("ipvs_unreachable", ipvs_stale::unreachable),
    Case::new("ipvs_hijack", ipvs_nodeport::hijack),
    Case::new("ipvs_hijack_v6", ipvs_nodeport::hijack_v6),
    Case::new("ipvs_syn_ack_dropped", ipvs_nodeport::rule_drops),
    Case::new("ipvs_full_queue", ipvs_nodeport::full_queue),
    Case::new("ipvs_no_backend", ipvs_no_backend::none),
    Case::new("ipvs_no_backend_v6", ipvs_no_backend::none_v6),
    Case::new("ipvs_all_drained", ipvs_no_backend::all_drained),
    Case::new("ipvs_closed_port", ipvs_no_backend::closed_port),
    Case::new("ipvs_rule_rejects", ipvs_no_backend::rule_rejects),
    Case::new("healthy", healthy::run_case).limit(240),
    Case::new("flood", flood::run_case).limit(300),
    Case::new("module_reload", module_reload::run_case).limit(240),
    Case::new("sigkill_leaves_nothing", manners::sigkill_leaves_nothing),
    Case::new("no_rights", manners::no_rights),
];
