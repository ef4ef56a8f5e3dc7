//! Findings and events as text for people and as JSON Lines for programs. Nothing here knows a
//! terminal, a file or a clock: it makes strings.

pub mod event;
pub mod filter;
mod header;
pub mod json;
pub mod pods;
pub mod sanitize;
pub mod text;
pub mod time;

pub mod wrap;

#[cfg(test)]
mod tests;
