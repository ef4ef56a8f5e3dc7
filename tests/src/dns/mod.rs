//! A tiny DNS of our own: servers that are slow, silent or forgetful on purpose, and senders that
//! behave as resolvers do.

pub mod client;
pub mod lookup;
pub mod message;
pub mod server;

/// Record types that are asked for.
pub const A: u16 = 1;
pub const AAAA: u16 = 28;
