//! Filters of the command line.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::{cli::PodFilter, output::filter::Filter, pods::netns};

/// What the options ask for.
///
/// # Errors
/// When a `--netns` names nothing on the node below `root`.
pub fn of_pods(args: &PodFilter, root: &Path) -> Result<Filter> {
    let netns = args.netns.iter().map(|text| netns::find(root, text).context("--netns"));
    filter(args, netns.collect::<Result<_>>()?)
}

/// What the options ask for of a recording, where a namespace's processes and paths are not known.
///
/// # Errors
/// When a `--netns` is no inode number.
pub fn of_recorded_pods(args: &PodFilter) -> Result<Filter> {
    let netns = args.netns.iter().map(|text| match text.parse() {
        Ok(inode) => Ok(inode),
        Err(_) => bail!(
            "--netns {text}: a recording knows network namespaces by their inode numbers; -p finds \
             pods by name"
        ),
    });
    filter(args, netns.collect::<Result<_>>()?)
}

fn filter(args: &PodFilter, netns: Vec<u32>) -> Result<Filter> {
    Ok(Filter {
        namespaces: args.namespaces.clone(),
        pods: args.pods.clone(),
        containers: args.containers.clone(),
        netns,
        ..Filter::default()
    })
}
