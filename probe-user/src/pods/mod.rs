//! The pod table: which network namespaces there are, what they are called and which addresses
//! they have. Read from `/proc` and `/run/netns` below a root path, so that the host's files can be
//! mounted elsewhere and tests can bring their own. No namespace is ever held open beyond a call:
//! that would keep a deleted pod's network alive.

pub mod addresses;
pub mod enter;
pub mod identity;
mod naming;
pub mod netns;
pub mod process;
pub mod procfs;
pub mod service_links;
pub mod services;
mod table;

#[cfg(test)]
mod live;

pub use enter::Target;
pub use table::PodTable;
