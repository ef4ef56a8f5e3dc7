//! The pod table: which network namespaces there are, what they are called and which addresses
//! they have. Read from `/proc` and `/run/netns` below a root path, so that the host's files can be
//! mounted elsewhere and tests can bring their own. No namespace is ever held open beyond a call:
//! that would keep a deleted pod's network alive.

pub mod addresses;
mod cni;
pub mod enter;
mod hostname;
pub mod identity;
pub mod inspect;
mod known;
pub mod links;
pub mod listening;
pub mod naming;
mod netlink;
pub mod netns;
mod netns_path;
pub mod process;
pub mod procfs;
pub mod service_links;
pub mod services;
mod table;

#[cfg(test)]
mod layouts;
#[cfg(test)]
mod live;

use std::path::{Path, PathBuf};

pub use enter::Target;
pub use table::PodTable;

/// Where a debug pod has the node's file system (`kubectl debug node/…`).
const IN_POD: &str = "/host";

/// The root below which the node's files are: as asked for, else that of a debug pod if it is there.
pub fn root(asked: Option<&Path>) -> PathBuf {
    let in_pod = || Path::new(IN_POD).join("proc/1/ns").is_dir().then_some(Path::new(IN_POD));
    asked.or_else(in_pod).unwrap_or(Path::new("/")).to_owned()
}
