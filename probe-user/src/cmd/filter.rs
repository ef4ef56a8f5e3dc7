//! Filters of the command line.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::{cli::PodFilter, output::filter::Filter, pods::netns};

/// What the options ask for.
///
/// # Errors
/// When a `--netns` names nothing on the node below `root`.
pub fn of_pods(args: &PodFilter, root: &Path) -> Result<Filter> {
    let netns = args.netns.iter().map(|text| netns::find(root, text).context("--netns"));
    Ok(Filter {
        namespaces: args.namespaces.clone(),
        pods: args.pods.clone(),
        containers: args.containers.clone(),
        netns: netns.collect::<Result<_>>()?,
        ..Filter::default()
    })
}
