//! What the loader reads for itself: clocks, facts of the node, counters. Plain files only; reading
//! them changes nothing and loads no module.

pub mod clock;
pub mod conntrack;
pub mod counters;
pub mod ipvs;
pub mod kube_proxy;
pub mod lines;
pub mod local_ports;
pub mod modules;
pub mod netstat;
pub mod node;
pub mod round;
pub mod sockets;
pub mod sysctls;

use std::{path::PathBuf, time::Duration};

use crate::{
    event::{Clock, Counters, Node, Sysctls},
    pods::Target,
};

/// All snapshots of the node whose files are below one root path.
#[derive(Clone, Debug)]
pub struct Sources {
    root: PathBuf,
}

impl Sources {
    /// `root` is mostly `/`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Nanoseconds of `CLOCK_BOOTTIME` now, and the wall clock at that moment.
    ///
    /// # Errors
    /// When the kernel has no such clock.
    pub fn clock(&self) -> anyhow::Result<(u64, Clock)> {
        clock::now()
    }

    /// Processor time that the calling thread has used: on a busy machine more time passes.
    pub fn spent(&self) -> Duration {
        clock::of_thread()
    }

    /// What can be read about the node; `drop_reasons` and `min_stall` are left for the caller.
    /// Passes over all processes to find kube-proxy: once at the start.
    pub fn node(&self) -> Node {
        node::read(&self.root)
    }

    /// Settings of the namespace stallprobe runs in.
    pub fn sysctls(&self, netns: u32) -> Sysctls {
        sysctls::read(&self.root, netns)
    }

    /// The modules that matter and are there now; see [`modules::MATTER`].
    pub fn modules(&self) -> Vec<String> {
        modules::read(&self.root)
    }

    /// Counters of the namespaces, as many as `budget` allows (about 60 µs each); those that could
    /// not be read are left out.
    pub fn counters(&self, targets: &[Target], budget: Duration) -> Vec<Counters> {
        counters::read(&self.root, targets, budget)
    }
}
