//! Filters of the command line.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::{
    cli::{FindingFilter, PodFilter},
    output::filter::Filter,
    pods::netns,
};

/// What the options ask for.
///
/// # Errors
/// When a `--netns` names nothing on the node below `root`.
pub fn of_pods(args: &PodFilter, root: &Path) -> Result<Filter> {
    let netns = args.netns.iter().map(|text| netns::find(root, text).context("--netns"));
    Ok(filter(args, netns.collect::<Result<_>>()?))
}

/// The same of findings.
///
/// # Errors
/// As [`of_pods`].
pub fn of_findings(args: &FindingFilter, root: &Path) -> Result<Filter> {
    Ok(Filter { causes: args.causes.clone(), ..of_pods(&args.pods, root)? })
}

/// What the options ask for of a recording: its namespaces are known by their numbers, and by the names of
/// their files where they have no better one. Processes and paths of that node are not known.
pub fn of_recorded_findings(args: &FindingFilter) -> Filter {
    let (mut netns, mut names) = (Vec::new(), Vec::new());
    for text in &args.pods.netns {
        match text.parse() {
            Ok(inode) => netns.push(inode),
            Err(_) => names.push(text.rsplit('/').next().unwrap_or(text).to_owned()),
        }
    }
    Filter { netns_names: names, causes: args.causes.clone(), ..filter(&args.pods, netns) }
}

fn filter(args: &PodFilter, netns: Vec<u32>) -> Filter {
    Filter {
        namespaces: args.namespaces.clone(),
        pods: args.pods.clone(),
        containers: args.containers.clone(),
        netns,
        ..Filter::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_of_a_recording_by_number_name_or_file() {
        let words = ["4026532000", "blue", "/run/netns/green"].map(str::to_owned);
        let pods = PodFilter { netns: words.to_vec(), ..PodFilter::default() };
        let filter = of_recorded_findings(&FindingFilter { pods, causes: Vec::new() });
        assert!(filter.fits_pod(None, Some(4_026_532_000)));
        assert!(filter.fits_pod(Some("blue"), Some(7)) && filter.fits_pod(Some("green"), None));
        assert!(!filter.fits_pod(Some("blue-2"), Some(7)) && !filter.fits_pod(None, None));
    }
}
