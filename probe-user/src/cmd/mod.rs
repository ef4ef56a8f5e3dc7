//! One file for each subcommand, and how they print.

pub mod cat;
pub mod explain;
mod filter;
pub mod pods;
mod printer;
pub mod record;
mod recording;
mod redact_key;
pub mod replay;
pub mod report;
mod screen;
mod session;
mod several;
mod streams;
pub mod watch;
