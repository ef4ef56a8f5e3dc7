//! Findings and events as text for people and as JSON Lines for programs. Nothing here knows a
//! terminal, a file or a clock.

pub mod sanitize;
