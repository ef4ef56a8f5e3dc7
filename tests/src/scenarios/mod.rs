//! The scenarios, one a file.

mod accept_queue;
mod dnat_clash;

use crate::case::Case;

/// All cases, in the order they run.
pub const ALL: &[Case] = &[
    Case::new("accept_queue_syn", accept_queue::syn),
    Case::new("accept_queue_syn_v6", accept_queue::syn_v6),
    Case::new("accept_queue_ack", accept_queue::ack),
    Case::new("accept_queue_ack_v6", accept_queue::ack_v6),
    Case::new("dnat_clash_getaddrinfo", dnat_clash::getaddrinfo).kernels(&["6.12"]),
    Case::new("dnat_clash_two_threads", dnat_clash::two_threads),
];
