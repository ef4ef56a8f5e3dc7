//! The first lines on the screen: what is watched, and what cannot be seen.

use super::{
    sanitize,
    text::Text,
    time::{counted, span},
    wrap::block,
};
use crate::{
    correlate::{Watched, watched},
    event::{Hook, HookState, Rung, Sandbox},
    pipeline::Header,
};

/// Pods named in a line.
const NAMED: usize = 4;

impl Text {
    /// What is watched, and what cannot be seen.
    pub fn header(&self, header: &Header) -> String {
        let mut out = String::new();
        block(&mut out, "", 0, &node(header), self.width);
        let mut line = watching(header);
        let stall = span(header.node.min_stall);
        line.push_str(&format!("; a stall is {stall} or more. Times are UTC."));
        let sight = Sight::of(header);
        if !sight.by_snapshot.is_empty() {
            let causes = sight.by_snapshot.join(", ");
            line.push_str(&format!(" By snapshots of /proc alone, never certain: {causes}."));
        }
        for (heading, groups) in [("Cannot see", &sight.unseen), ("Not in use here", &sight.unused)]
        {
            if let Some(text) = groups.text() {
                line.push_str(&format!(" {heading}: {text}."));
            }
        }
        block(&mut out, "", 0, &line, self.width);
        out
    }
}

/// What the hooks leave unseen. All text is printable.
#[derive(Default)]
pub struct Sight {
    /// Causes that snapshots of `/proc` alone tell.
    pub by_snapshot: Vec<String>,
    /// What cannot be seen, and why.
    pub unseen: Groups,
    /// What cannot happen here, and why.
    pub unused: Groups,
}

impl Sight {
    pub fn of(header: &Header) -> Self {
        let by_snapshot = distinct(header.hooks.iter().filter(is_snapshot).flat_map(causes));
        let (mut unseen, mut unused) = (Groups::default(), Groups::default());
        for cause in distinct(header.hooks.iter().flat_map(causes)) {
            match watched(&header.hooks, &cause) {
                Watched::CannotSee(_, why) if !by_snapshot.contains(&cause) => {
                    unseen.add(why, cause);
                }
                Watched::CannotHappen(why) => unused.add(why, cause),
                _ => {}
            }
        }
        for sandbox in [Sandbox::GVisor, Sandbox::Kata] {
            if let Some(sockets) = sockets(header, sandbox) {
                unseen.add(sandbox.name(), sockets);
            }
        }
        // Without eBPF no hook is there: the names of those that serve all causes say nothing more.
        if header.node.no_ebpf.is_empty() {
            for hook in header.hooks.iter().filter(|hook| hook.causes.is_empty()) {
                if let HookState::CannotSee { why } = &hook.state {
                    unseen.add(why, sanitize::text(&hook.name));
                }
            }
        }
        Self { by_snapshot, unseen, unused }
    }
}

/// `sockets of shop/web-0, shop/web-1 and 3 others`.
fn sockets(header: &Header, of: Sandbox) -> Option<String> {
    let all = || header.sandboxed.iter().filter(|(_, sandbox)| *sandbox == of);
    let names: Vec<&str> = all().take(NAMED).map(|(name, _)| name.as_str()).collect();
    let more = all().count().saturating_sub(NAMED);
    let more =
        if more == 0 { String::new() } else { format!(" and {}", counted(more as u64, "other")) };
    (!names.is_empty()).then(|| format!("sockets of {}{more}", names.join(", ")))
}

fn node(header: &Header) -> String {
    let node = &header.node;
    let kube_proxy = match node.kube_proxy.as_str() {
        "" => "no kube-proxy".to_owned(),
        mode => format!("kube-proxy {}", sanitize::text(mode)),
    };
    format!(
        "stallprobe {} · node {} · kernel {} · {kube_proxy}",
        sanitize::text(&node.version),
        sanitize::text(&node.name),
        sanitize::text(&node.kernel)
    )
}

fn watching(header: &Header) -> String {
    let pods = counted(header.pods as u64, "pod");
    if !header.node.no_ebpf.is_empty() {
        return format!(
            "no eBPF: {}. Watching {pods} by reading /proc twice a second: a connect that stalls is \
             seen when its SYN is sent again; DNS stalls and refused connects cannot be seen",
            sanitize::text(&header.node.no_ebpf),
        );
    }
    let hooks = || header.hooks.iter().filter(|hook| !is_snapshot(hook));
    let watched = hooks().filter(|h| matches!(h.state, HookState::Watched { .. })).count();
    format!("watching {watched} of {}, {pods}", counted(hooks().count() as u64, "hook"))
}

fn is_snapshot(hook: &&Hook) -> bool {
    matches!(hook.state, HookState::Watched { rung: Rung::Snapshot })
}

fn causes(hook: &Hook) -> impl Iterator<Item = String> {
    hook.causes.iter().map(|cause| sanitize::text(cause))
}

/// Each once, in their order.
fn distinct(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept = Vec::new();
    for one in all {
        if !kept.contains(&one) {
            kept.push(one);
        }
    }
    kept
}

/// Reasons with what they affect.
#[derive(Default)]
pub struct Groups(pub Vec<(String, Vec<String>)>);

impl Groups {
    fn add(&mut self, why: &str, what: String) {
        let why = sanitize::text(why);
        match self.0.iter_mut().find(|(known, _)| *known == why) {
            Some((_, all)) => all.push(what),
            None => self.0.push((why, vec![what])),
        }
    }

    /// `a, b (why); c (why)`.
    fn text(&self) -> Option<String> {
        let text = |(why, all): &(String, Vec<String>)| format!("{} ({why})", all.join(", "));
        let all: Vec<String> = self.0.iter().map(text).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}
