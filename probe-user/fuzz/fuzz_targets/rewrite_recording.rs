//! Any bytes as a recording: redacted, written anew and read again, and reported as Markdown and HTML.

#![no_main]

use libfuzzer_sys::fuzz_target;
use probe_user::{output, recording, redact, report};

#[path = "../../src/recording/tests/rewrite.rs"]
mod rewrite;

fuzz_target!(|bytes: &[u8]| {
    assert!(rewrite::rewrite(bytes).is_ok());
});
