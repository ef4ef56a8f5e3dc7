//! Any bytes as a recording: read to their end, correlated, and shown as text and as JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;
use probe_user::{correlate, finding, output, pipeline, recording};

#[path = "../../src/recording/tests/render.rs"]
mod render;

fuzz_target!(|bytes: &[u8]| {
    render::render(bytes);
});
