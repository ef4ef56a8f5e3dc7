//! Findings and events as text for people and as JSON Lines for programs. Nothing here knows a
//! terminal, a file or a clock: it makes strings.

pub mod event;
pub mod filter;
pub mod header;
pub mod json;
pub mod pods;
pub mod sanitize;
mod size;
pub mod text;
pub mod time;

pub mod wrap;

pub use self::size::size;

#[cfg(test)]
mod tests;
