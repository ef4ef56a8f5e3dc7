//! One file for each subcommand, and how they print.

mod printer;
mod screen;
pub mod watch;
