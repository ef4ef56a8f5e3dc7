//! Exit statuses.

use std::process::ExitCode;

use crate::{cmd::explain::NoSuchCause, live::NoRung};

/// Something went wrong.
pub const ERROR: u8 = 1;
/// The command line is wrong (clap's own).
pub const USAGE: u8 = 2;
/// Nothing can be watched here: a right or kernel feature is missing.
pub const NO_RUNG: u8 = 3;

/// The status for an error.
pub fn status(err: &anyhow::Error) -> ExitCode {
    ExitCode::from(if err.is::<NoRung>() {
        NO_RUNG
    } else if err.is::<NoSuchCause>() {
        USAGE
    } else {
        ERROR
    })
}
