//! `conntrack-table-full`: `nf_conntrack_max` is reached and `early_drop` found nothing to evict,
//! so the packet that asked for a new entry was dropped (`nf_conntrack_in` returns NF_DROP).

use probe_common::event::DROP_TABLE_FULL;

use super::Verdict;
use crate::{
    correlate::{describe::sorted, join::Case, polled::Rise, world::World},
    finding::{
        Cause, Confidence, Details, Evidence, Fix, Party, Place,
        details::{PodDrops, TableFull},
    },
};

/// kube-proxy's default for `--conntrack-max-per-core`.
const PER_CORE: u64 = 32_768;
/// Pods named in the details.
const PODS: usize = 64;

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    refused(case).or_else(|| polled(case))
}

fn refused(case: &Case<'_>) -> Option<Verdict> {
    let drops = case.drops();
    let (refused, _) = drops.iter().find(|(d, _)| d.event.flags & DROP_TABLE_FULL != 0)?;
    let world = case.world;
    let netns = refused.event.header.netns;
    let details = details(world, netns);
    let table = world.place(&refused.event.header, refused.ts);
    let mut lines = case.symptom.notes.clone();
    lines.extend(drops.iter().map(|(d, way)| case.say_drop(d, *way)));
    Some(verdict(case, details, &table, Confidence::Certain, lines))
}

/// No hook tells of refusals. The table was full, and its count of dropped packets rose, whenever a
/// SYN of this client was lost, by as many as were lost at least.
fn polled(case: &Case<'_>) -> Option<Verdict> {
    let (symptom, world) = (case.symptom, case.world);
    if !case.is_polled_connect(Cause::ConntrackTableFull) {
        return None;
    }
    let spans = symptom.lost_syns();
    let passed = tables_passed(case);
    let dropped = |r: &Rise| if r.table_is_full { r.untracked } else { 0 };
    let mut refusing = world.polled.rose_in_each(&spans, dropped);
    let (netns, rises) = refusing.find(|(netns, _)| passed.contains(netns))?;
    let details = details(world, netns);
    let table = world.pods.name(netns, 0, world.now);
    let dropped: u64 = rises.iter().map(|rise| rise.untracked).sum();
    let mut lines = symptom.notes.clone();
    lines.push(Evidence {
        ts: rises.last().map_or(world.now, |rise| rise.span.1),
        kind: "counter",
        text: format!(
            "/proc/net/stat/nf_conntrack of {table}: the table was full and dropped {dropped} \
             packets when SYNs of this client were sent"
        ),
    });
    Some(verdict(case, details, &table, Confidence::Likely, lines))
}

/// Namespaces whose table the SYN passes: the client's, and the server's and the node's unless it
/// never leaves the client's.
fn tables_passed(case: &Case<'_>) -> Vec<u32> {
    let (symptom, world) = (case.symptom, case.world);
    let address = symptom.server().ip().to_canonical();
    let server = world.pods.owner(address, symptom.opened).map(|pod| pod.netns);
    if address.is_loopback() || server == Some(symptom.netns) {
        return vec![symptom.netns];
    }
    [Some(world.node.netns), Some(symptom.netns), server].into_iter().flatten().collect()
}

fn verdict(
    case: &Case<'_>,
    details: TableFull,
    table: &str,
    confidence: Confidence,
    mut lines: Vec<Evidence>,
) -> Verdict {
    let (world, netns) = (case.world, details.netns);
    if details.details_left_out > 0 {
        let text = format!(
            "refused by full tables so far: {} on this node, details of {} left out",
            world.losses.latest.table_full, details.details_left_out
        );
        lines.push(Evidence { ts: world.now, kind: "counter", text });
    }
    let full = match (details.count, details.limit) {
        (Some(count), Some(limit)) => format!("{count} entries, limit {limit}"),
        (None, Some(limit)) => format!("limit {limit}"),
        _ => "limit not known".to_owned(),
    };
    Verdict {
        cause: Cause::ConntrackTableFull,
        confidence,
        title: format!(
            "the connection tracking table of {table} is full ({full}): packets of new \
             connections are dropped"
        ),
        evidence: sorted(lines),
        culprit: Some(Party {
            pod: Some(table.to_owned()),
            netns: Some(netns),
            ..Party::default()
        }),
        fold: format!("table {netns}"),
        fix: fix(details.limit),
        confirm: vec![
            "on the node: `sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max` \
             and `dmesg | grep 'table full'`"
                .to_owned(),
        ],
        details: Details::TableFull(details),
    }
}

/// The table's counters as read last, and who lost packets to it so far.
pub fn details(world: &World, netns: u32) -> TableFull {
    let counters = |netns| world.counters.latest(netns).and_then(|c| c.conntrack);
    // The limit is one for all namespaces; the count is each namespace's own.
    let limit = counters(netns).or_else(|| counters(world.node.netns)).map(|c| c.max);
    let mut pods: Vec<PodDrops> = world
        .table_full
        .sorted()
        .into_iter()
        .filter(|((table, _), _)| *table == netns)
        .map(|((_, pod), dropped)| PodDrops { pod, dropped })
        .collect();
    pods.sort_by_key(|p| std::cmp::Reverse(p.dropped));
    pods.truncate(PODS);
    let count = counters(netns).map(|c| c.entries);
    let in_detail = world.table_full.sum(|_| true).saturating_add(world.table_full.others);
    let details_left_out = world.losses.latest.table_full.saturating_sub(in_detail);
    TableFull { limit, count, pods, details_left_out, netns }
}

/// Brings the counts up to date; whether more packets were dropped than before.
pub fn count(old: &mut TableFull, world: &World) -> bool {
    let new = details(world, old.netns);
    let more = new.pods != old.pods || new.details_left_out > old.details_left_out;
    *old = new;
    more
}

fn fix(limit: Option<u64>) -> Vec<Fix> {
    let raised = limit.map_or_else(|| "N".to_owned(), |limit| limit.saturating_mul(2).to_string());
    let mut caveat =
        "kube-proxy sets its own value again at each restart: a sysctl alone does not \
                      last. An entry takes about 300 bytes of kernel memory"
            .to_owned();
    if let Some(limit) = limit
        && limit > 0
        && limit.is_multiple_of(PER_CORE)
    {
        caveat.push_str(&format!(
            ". {limit} is {} x 32768: kube-proxy's own default for a node with {} cores",
            limit / PER_CORE,
            limit / PER_CORE
        ));
    }
    vec![
        Fix {
            place: Place::Node,
            now: Some(format!("`sysctl -w net.netfilter.nf_conntrack_max={raised}`")),
            lasting: None,
            caveat: None,
        },
        Fix {
            place: Place::KubeProxy,
            now: None,
            lasting: Some(
                "raise `--conntrack-max-per-core` or `--conntrack-min` (conntrack.maxPerCore and \
                 conntrack.min in its configuration)"
                    .to_owned(),
            ),
            caveat: Some(caveat),
        },
        Fix {
            place: Place::Application,
            now: None,
            lasting: Some(
                "keep connections open and reuse them; find who opens so many: `conntrack -L | awk \
                 '{print $4, $5}' | sort | uniq -c | sort -n | tail`"
                    .to_owned(),
            ),
            caveat: None,
        },
    ]
}
