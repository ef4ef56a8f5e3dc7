//! The node's facts in words, the same for a page and for Markdown.

use super::Node;
use crate::{
    event::{HookState, Rung},
    output::{
        header::{Groups, Sight},
        text::{besides, gaps, seen},
        time::{counted, number, span},
    },
};

/// Names and what they are.
pub fn facts(node: &Node) -> Vec<(&'static str, String)> {
    let facts = &node.header.node;
    let or_unknown =
        |text: &str| if text.is_empty() { "not known".to_owned() } else { text.to_owned() };
    let kube_proxy = match facts.kube_proxy.as_str() {
        "" => "none was recognised".to_owned(),
        mode => mode.to_owned(),
    };
    let mut all = vec![
        ("Node", node.name().to_owned()),
        ("Kernel", or_unknown(&facts.kernel)),
        ("kube-proxy", kube_proxy),
        ("Modules", or_unknown(&facts.modules.join(", "))),
        ("stallprobe", or_unknown(&facts.version)),
        ("Watched", node.times()),
        ("Pods", number(node.header.pods as u64)),
        ("Hooks", hooks(node)),
        ("Traffic", seen(&node.summary.status)),
        ("A stall is", format!("{} or more", span(facts.min_stall))),
        ("Read from", node.source.clone()),
    ];
    let besides = besides(&node.summary.status.totals.seen);
    if !besides.is_empty() {
        all.push(("No stall", besides.join("; ")));
    }
    all
}

/// `12 of 13 attached: 10 by fentry, 2 by kprobe`.
fn hooks(node: &Node) -> String {
    let hooks = &node.header.hooks;
    if !node.header.node.no_ebpf.is_empty() {
        return format!("none, /proc was read instead: {}", node.header.node.no_ebpf);
    }
    let by = |wanted: Rung| {
        let is =
            |state: &HookState| matches!(state, HookState::Watched { rung } if *rung == wanted);
        hooks.iter().filter(|hook| is(&hook.state)).count()
    };
    let rungs = [
        (Rung::Fentry, "fentry"),
        (Rung::Kprobe, "kprobe"),
        (Rung::Tracepoint, "tracepoint"),
        (Rung::Snapshot, "snapshots of /proc"),
    ];
    let counts: Vec<(usize, &str)> = rungs.map(|(rung, name)| (by(rung), name)).into();
    let attached: usize = counts.iter().map(|(n, _)| n).sum();
    let by: Vec<String> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, name)| format!("{n} by {name}")).collect();
    let by = if by.is_empty() { String::new() } else { format!(": {}", by.join(", ")) };
    format!("{attached} of {} attached{by}", counted(hooks.len() as u64, "hook"))
}

/// What could not be seen: what, and why.
pub fn unseen(node: &Node) -> Vec<(String, String)> {
    let sight = Sight::of(&node.header);
    let mut all = lines(&sight.unseen);
    if !sight.by_snapshot.is_empty() {
        let why = "seen by snapshots of /proc alone, never certain";
        all.push((sight.by_snapshot.join(", "), why.to_owned()));
    }
    all
}

/// What cannot happen on this node: what, and why.
pub fn unused(node: &Node) -> Vec<(String, String)> {
    lines(&Sight::of(&node.header).unused)
}

fn lines(groups: &Groups) -> Vec<(String, String)> {
    groups.0.iter().map(|(why, what)| (what.join(", "), why.clone())).collect()
}

/// What was lost, left out or hidden.
pub fn lost(node: &Node) -> Vec<String> {
    let mut all = node.notices.clone();
    all.extend(gaps(&node.summary));
    for (n, what) in
        [(node.summary.hidden, "hidden by filters"), (node.more, "not kept for this report")]
    {
        if n > 0 {
            all.push(format!("{} {what}", counted(n, "finding")));
        }
    }
    all
}

/// Sentences, and whether each is a hazard or only good to know.
pub fn hazards(node: &Node) -> Vec<(bool, String)> {
    let mut all = node.hazards.tables();
    // Only IPVS takes a packet for a NodePort's that answers the node's own.
    if node.header.node.kube_proxy == "ipvs" {
        all.extend(node.hazards.ports().into_iter().map(|text| (true, text)));
    }
    all.sort_by_key(|(is_hazard, _)| !is_hazard);
    all
}
