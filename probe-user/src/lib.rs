//! stallprobe as a library: the loader, and the pure stages behind it.

pub mod bpf;
pub mod cli;
pub mod cmd;
pub mod correlate;
pub mod event;
pub mod exit;
pub mod explain;
pub mod finding;
pub mod kernel;
pub mod live;
pub mod nodes;
pub mod order;
pub mod output;
pub mod pipeline;
pub mod pods;
pub mod recording;
pub mod redact;
pub mod report;
pub mod snapshot;

#[cfg(test)]
mod testing;
