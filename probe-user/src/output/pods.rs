//! `stallprobe pods` for a person.

use super::{sanitize, time::counted, wrap::block};
use crate::pods::inspect::{Listener, Process, Row};

/// Processes named in a line.
const NAMED: usize = 4;

/// The table: a line for each namespace, and one for each listener in it.
pub fn text(rows: &[Row], width: usize) -> String {
    let mut lines = vec![["POD", "NETNS", "ADDRESSES", "VETH"].map(str::to_owned)];
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    for row in rows {
        let addresses: Vec<String> = row.addresses.iter().map(ToString::to_string).collect();
        lines.push([
            sanitize::text(&row.pod),
            row.netns.to_string(),
            or_dash(addresses.join(" ")),
            or_dash(row.veth.join(" ")),
        ]);
    }
    let widths: Vec<usize> = (0..3)
        .map(|column| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0))
        .collect();
    let head = |[pod, netns, addresses, veth]: &[String; 4]| {
        format!(
            "{pod:<a$}  {netns:<b$}  {addresses:<c$}  {veth}\n",
            a = widths[0],
            b = widths[1],
            c = widths[2]
        )
    };
    let mut out = lines.first().map(head).unwrap_or_default();
    for (row, line) in rows.iter().zip(lines.iter().skip(1)) {
        out.push_str(&head(line));
        detail(&mut out, "processes", &processes(row), width);
        if let Some(sandbox) = row.sandbox {
            let text = format!("invisible: {} has sockets of its own", sandbox.name());
            detail(&mut out, "listens", &text, width);
        }
        for listener in &row.listeners {
            detail(&mut out, "listens", &listens(row, listener), width);
        }
        if let Some(why) = &row.unread {
            detail(&mut out, "not read", &sanitize::text(why), width);
        }
    }
    out
}

fn detail(out: &mut String, heading: &str, text: &str, width: usize) {
    block(out, &format!("  {heading:<11}"), 13, text, width);
}

fn processes(row: &Row) -> String {
    if row.processes.is_empty() {
        return "none: a name below /run/netns keeps it".to_owned();
    }
    let mut named: Vec<String> = row.processes.iter().take(NAMED).map(process).collect();
    let more = row.processes.len().saturating_sub(NAMED);
    if more > 0 {
        named.push(format!("and {}", counted(more as u64, "other")));
    }
    named.join(", ")
}

/// `nginx (4711, container web of shop/web-0)`.
fn process(process: &Process) -> String {
    let mut parts = vec![process.pid.to_string()];
    match (&process.container, &process.pod) {
        (Some(container), Some(pod)) => {
            parts.push(format!(
                "container {} of {}",
                sanitize::text(container),
                sanitize::text(pod)
            ));
        }
        (Some(container), None) => parts.push(format!("container {}", sanitize::text(container))),
        (None, Some(pod)) => parts.push(format!("of {}", sanitize::text(pod))),
        (None, None) => parts.extend(process.unit.as_deref().map(sanitize::text)),
    }
    format!("{} ({})", sanitize::text(&process.comm), parts.join(", "))
}

fn listens(row: &Row, listener: &Listener) -> String {
    let queue = match listener.max {
        Some(max) if listener.queue > max => format!("{} of {max} wait, FULL", listener.queue),
        Some(max) => format!("{} of {max} wait", listener.queue),
        None => format!("{} wait, limit unknown", listener.queue),
    };
    let holder = listener.pid.and_then(|pid| row.processes.iter().find(|p| p.pid == pid));
    let who = match (holder, listener.pid) {
        (Some(holder), _) if !holder.contained && row.pod != crate::pods::netns::HOST => {
            format!("{}, in no container", process(holder))
        }
        (Some(holder), _) => process(holder),
        (None, Some(pid)) => format!("process {pid} of another namespace"),
        (None, None) => "held by no process that could be looked at".to_owned(),
    };
    format!("{}  {queue}  {who}", listener.address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Sandbox;

    #[test]
    fn a_table_for_a_person() {
        let process = |pid, comm: &str, pod: Option<&str>, container: Option<&str>| Process {
            pid,
            comm: comm.to_owned(),
            pod: pod.map(str::to_owned),
            container: container.map(str::to_owned),
            container_id: None,
            contained: pod.is_some() || container.is_some(),
            unit: (pod.or(container).is_none()).then(|| format!("{comm}.service")),
        };
        let listener = |address: &str, queue, max, pid| Listener {
            address: ([10, 0, 0, 1], address.parse().unwrap_or(0)).into(),
            queue,
            max,
            pid,
        };
        let rows = [
            Row {
                pod: "host".to_owned(),
                netns: 4_026_531_840,
                addresses: vec![[10, 0, 3, 17].into()],
                processes: vec![
                    process(1, "systemd", None, None),
                    process(
                        700,
                        "node-cache",
                        Some("kube-system/node-local-dns-x1"),
                        Some("cache"),
                    ),
                ],
                listeners: vec![
                    listener("53", 0, Some(4096), Some(700)),
                    listener("22", 0, None, None),
                ],
                ..Row::default()
            },
            Row {
                pod: "shop/api-7d4f9c-x2x5k".to_owned(),
                netns: 4_026_532_114,
                addresses: vec![[10, 244, 1, 2].into(), [0xfd00, 0x244, 1, 0, 0, 0, 0, 2].into()],
                veth: vec!["veth7d4f".to_owned()],
                processes: (10..16)
                    .map(|pid| process(pid, "ng\x1binx", None, Some("web")))
                    .collect(),
                listeners: vec![
                    listener("80", 130, Some(128), Some(10)),
                    listener("81", 0, Some(1), Some(9)),
                ],
                ..Row::default()
            },
            Row {
                pod: "shop/safe-0".to_owned(),
                netns: 4_026_532_115,
                addresses: vec![[10, 244, 1, 3].into()],
                sandbox: Some(Sandbox::GVisor),
                veth: vec!["veth9b1f".to_owned()],
                processes: vec![process(90, "exe", None, None)],
                ..Row::default()
            },
            Row {
                pod: "netns:4026532200".to_owned(),
                netns: 4_026_532_200,
                processes: vec![process(99, "python3", None, None)],
                listeners: vec![listener("8000", 1, Some(5), Some(99))],
                ..Row::default()
            },
            Row {
                pod: "blue".to_owned(),
                netns: 4_026_532_300,
                unread: Some(
                    "devices and listeners: cannot enter /run/netns/blue (needs CAP_SYS_ADMIN)"
                        .to_owned(),
                ),
                ..Row::default()
            },
        ];
        insta::assert_snapshot!(text(&rows, 100));
    }
}
