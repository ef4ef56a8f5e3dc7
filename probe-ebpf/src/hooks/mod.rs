//! One file for each hook family. An entry point only takes its arguments from the context; what a
//! hook does is in a function of its own, shared by all rungs of its ladder.

mod conntrack;
mod ct_entry;
mod departure;
pub mod dns;
mod handshake;
mod ipvs;
mod ipvs_verdict;
mod listen;
mod probe;
mod probe_sample;
mod reject;
mod skb_drop;
