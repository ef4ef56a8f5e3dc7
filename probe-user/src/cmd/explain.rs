//! `stallprobe explain`: the page of a cause.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use thiserror::Error;

use super::screen::{columns, reader_gone};
use crate::{cli::Explain, explain, finding::Cause};

/// Longer lines are tiring to read, however wide the terminal.
const WIDEST: usize = 100;

/// The id names no cause: an error of usage.
#[derive(Debug, Error)]
#[error(
    "no cause is called '{typed}'; did you mean {nearest}? `stallprobe explain` lists them all"
)]
pub struct NoSuchCause {
    typed: String,
    nearest: String,
}

/// Prints one page, or the list of causes.
///
/// # Errors
/// [`NoSuchCause`]; or when standard output cannot be written.
pub fn run(args: &Explain) -> Result<()> {
    let width = columns().min(WIDEST);
    let text = match &args.id {
        None => explain::list(width),
        Some(id) if id.eq_ignore_ascii_case(explain::PROBE_FAILURE) => {
            explain::probe_failure(width)
        }
        Some(id) => explain::page(cause(id)?, width),
    };
    let result = write!(io::stdout(), "{text}").context("cannot write to standard output");
    match result {
        Err(err) if reader_gone(&err) => Ok(()),
        result => result,
    }
}

fn cause(id: &str) -> Result<Cause, NoSuchCause> {
    Cause::from_id(&id.to_ascii_lowercase()).ok_or_else(|| NoSuchCause {
        typed: crate::output::sanitize::text(id),
        nearest: explain::nearest(id).iter().map(|c| c.id()).collect::<Vec<_>>().join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_id_is_told_with_what_is_near_it() {
        assert_eq!(cause("Rp-Filter").ok(), Some(Cause::RpFilter));
        let err = cause("table-ful\x1b[2J").map_err(|err| err.to_string());
        let err = err.err().unwrap_or_default();
        assert!(err.contains("conntrack-table-full") && !err.contains('\x1b'), "{err}");
    }
}
