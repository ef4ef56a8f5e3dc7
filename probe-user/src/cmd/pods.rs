//! `stallprobe pods`: the node's pods at this moment.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{
    filter,
    screen::{columns, reader_gone},
};
use crate::{
    cli::{Format, Pods},
    event::Container,
    kernel::rights::{self, Rights},
    live::NoRung,
    output::{filter::Filter, json::SCHEMA, pods::text},
    pods::{
        inspect::{self, Look, Row},
        root,
    },
};

/// Prints one look at them.
///
/// # Errors
/// [`NoRung`] in a container that sees only itself; when `/proc` cannot be listed, `--netns` names nothing,
/// or stdout cannot be written.
pub fn run(args: &Pods) -> Result<()> {
    let root = root(args.host_root.as_deref());
    if let Some(why) = rights::out_of_sight(&root, args.host_root.is_some()) {
        return Err(NoRung(why.to_owned()).into());
    }
    for limit in Rights::load(&root)?.limits_of_pods() {
        // Nobody may be left to read it.
        let _ = writeln!(io::stderr(), "{limit}");
    }
    let filter = filter::of_pods(&args.filter, &root)?;
    let Look { mut rows, complete } = inspect::all(&root)?;
    let all = rows.len();
    rows.retain_mut(|row| narrow(row, &filter));
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
        let _ =
            writeln!(io::stderr(), "{hidden} of {all} network namespaces are hidden by filters");
    }
    if !complete {
        let _ = writeln!(
            io::stderr(),
            "not all processes could be looked at: namespaces without a name may be missing"
        );
    }
    for why in BTreeSet::from_iter(rows.iter().filter_map(|row| row.no_max)) {
        let _ = writeln!(io::stderr(), "the limit of accept queues is unknown: {why}");
    }
    let result = write!(io::stdout(), "{out}").context("cannot write to standard output");
    match result {
        Err(err) if reader_gone(&err) => Ok(()),
        result => result,
    }
}

/// Whether to show the row: all of it if it is a pod that is asked for, else those of its processes
/// that are, as of a hostNetwork pod or of one container, with what they listen at.
fn narrow(row: &mut Row, filter: &Filter) -> bool {
    if filter.fits_pod(Some(&row.pod), Some(row.netns)) && filter.fits_container([]) {
        return true;
    }
    let (pod, netns) = (&row.pod, row.netns);
    row.processes.retain(|process| {
        let id = process.container_id.clone();
        let container = id.map(|id| Container { id, name: process.container.clone() });
        filter.fits_pod(process.pod.as_deref().or(Some(pod)), Some(netns))
            && filter.fits_container(&container)
    });
    let all = &row.processes;
    row.listeners.retain(|listener| all.iter().any(|process| Some(process.pid) == listener.pid));
    !row.processes.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::inspect::{Listener, Process};

    fn process(pid: u32, pod: Option<&str>, container: Option<&str>) -> Process {
        Process {
            pid,
            comm: String::new(),
            pod: pod.map(str::to_owned),
            container: container.map(str::to_owned),
            container_id: container.map(|name| name.repeat(64).chars().take(64).collect()),
            contained: container.is_some(),
            unit: None,
        }
    }

    fn row(pod: &str, processes: Vec<Process>) -> Row {
        let listener = |process: &Process| Listener {
            address: ([0, 0, 0, 0], 80).into(),
            queue: 0,
            max: None,
            pid: Some(process.pid),
        };
        let listeners = processes.iter().map(listener).collect();
        Row { pod: pod.to_owned(), processes, listeners, ..Row::default() }
    }

    /// What is left of a pod with two containers, and of the node's own network.
    fn left(filter: &Filter) -> [Vec<u32>; 2] {
        let pod =
            row("shop/web-0", vec![process(7, None, Some("web")), process(8, None, Some("d0"))]);
        let agent = process(2, Some("kube-system/agent-x1"), Some("agent"));
        [pod, row("host", vec![process(1, None, None), agent])].map(|mut row| {
            let shows = narrow(&mut row, filter);
            let held: Vec<u32> = row.listeners.iter().filter_map(|listener| listener.pid).collect();
            assert_eq!(shows, !held.is_empty());
            held
        })
    }

    #[test]
    fn rows_and_parts_of_rows() {
        let words = |text: &str| vec![text.to_owned()];
        let pods = |text| Filter { pods: words(text), ..Filter::default() };
        let containers = |text| Filter { containers: words(text), ..Filter::default() };
        assert_eq!(left(&Filter::default()), [vec![7, 8], vec![1, 2]]);
        assert_eq!(left(&pods("web")), [vec![7, 8], vec![]]);
        assert_eq!(left(&pods("kube-system/agent")), [vec![], vec![2]]);
        assert_eq!(left(&pods("host")), [vec![], vec![1, 2]]);
        assert_eq!(left(&containers("web")), [vec![7], vec![]]);
        assert_eq!(left(&containers("d0d0d0d0")), [vec![8], vec![]]);
        assert_eq!(left(&containers("agent")), [vec![], vec![2]]);
        let none: [Vec<u32>; 2] = Default::default();
        assert_eq!(left(&Filter { containers: words("web"), ..pods("agent") }), none);
    }
}
