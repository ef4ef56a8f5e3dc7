//! stallprobe as a library: the loader, and the pure stages behind it.

pub mod bpf;
pub mod event;
pub mod kernel;
pub mod pods;
pub mod snapshot;
