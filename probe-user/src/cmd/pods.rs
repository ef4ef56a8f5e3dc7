//! `stallprobe pods`: the node's pods at this moment.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{
    filter,
    screen::{columns, reader_gone},
};
use crate::{
    cli::{Format, Pods},
    output::{json::SCHEMA, pods::text},
    pods::{
        inspect::{self, Look},
        root,
    },
};

/// Prints one look at them.
///
/// # Errors
/// When `/proc` cannot be listed, `--netns` names nothing, or stdout cannot be written.
pub fn run(args: &Pods) -> Result<()> {
    let root = root(args.host_root.as_deref());
    let filter = filter::of_pods(&args.filter, &root)?;
    let Look { mut rows, complete } = inspect::all(&root)?;
    let all = rows.len();
    rows.retain(|row| filter.fits_pod(Some(&row.pod), Some(row.netns)));
    let mut out = String::new();
    match args.output {
        Format::Text => out.push_str(&text(&rows, columns())),
        Format::Json => {
            for row in &rows {
                let mut line = serde_json::to_value(row).context("cannot write JSON")?;
                line["schema"] = json!(SCHEMA);
                line["type"] = json!("pod");
                out.push_str(&format!("{line}\n"));
            }
        }
    }
    if rows.len() < all {
        let hidden = all - rows.len();
        // Nobody may be left to read it.
        let _ =
            writeln!(io::stderr(), "{hidden} of {all} network namespaces are hidden by filters");
    }
    if !complete {
        let _ = writeln!(
            io::stderr(),
            "not all processes could be looked at: namespaces without a name may be missing"
        );
    }
    let result = write!(io::stdout(), "{out}").context("cannot write to standard output");
    match result {
        Err(err) if reader_gone(&err) => Ok(()),
        result => result,
    }
}
