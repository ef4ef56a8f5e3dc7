//! stallprobe as a library: the loader, and the pure stages behind it.

pub mod bpf;
pub mod cli;
pub mod cmd;
pub mod event;
pub mod exit;
pub mod kernel;
pub mod live;
pub mod pods;
pub mod snapshot;
