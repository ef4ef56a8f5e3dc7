//! `conntrack-insert-failed`: the entry of a new connection could not be inserted although nothing
//! clashed (`__nf_conntrack_confirm` returns NF_DROP, `insert_failed`): a module of conntrack was
//! unloaded while the packet was on its way (`nf_ct_iterate_destroy`: IPS_DYING before 5.19, outdated
//! extensions without a mark later, neither in 6.12.117 and 7.2), or the chain of its hash
//! bucket was too long (`chaintoolong`, 5.15 and later).

use probe_common::{
    event::{DROP_INSERT_FAILED, VERDICT_ACCEPT, kind},
    net::ips,
};

use super::Verdict;
use crate::{
    correlate::{
        describe::sorted,
        evidence::SeenDrop,
        join::Case,
        refusals::Refused,
        world::{Watch, World},
    },
    finding::{
        Cause, Confidence, Details, Evidence, Fix, Party, Place,
        details::{InsertExit, InsertFailed},
    },
};

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    let drops = case.drops();
    let (refused, _) = drops
        .iter()
        .find(|(d, _)| d.event.flags & DROP_INSERT_FAILED != 0 && !is_of_clash(case, d))?;
    let world = case.world;
    let header = &refused.event.header;
    let details = details(world, refused);
    // A clash that nobody saw looks the same, unless the kernel's counters leave no room for one.
    let start = *case.symptom.span().start();
    let is_clash_watched = world.watch(Cause::ConntrackSnatClash) == Watch::Watched
        && world.losses.since(start, &[kind::CLASH]).is_none();
    let confidence = match details.exit {
        InsertExit::Dying => Confidence::Certain,
        InsertExit::ChainTooLong if is_for_length_alone(world, refused) => Confidence::Certain,
        InsertExit::ChainTooLong if case.last_word && is_clash_watched => Confidence::Likely,
        InsertExit::Other if case.last_word && is_clash_watched => Confidence::Likely,
        InsertExit::ChainTooLong | InsertExit::Other => return None,
    };
    let table = world.place(header, refused.ts);
    let mut lines = case.symptom.notes.clone();
    lines.extend(drops.iter().map(|(d, way)| case.say_drop(d, *way)));
    if let Some(grown) = details.chain_too_long.filter(|grown| *grown > 0) {
        let text =
            format!("refused for too long a chain (chaintoolong) in {table} so far: {grown}");
        lines.push(Evidence { ts: world.now, kind: "counter", text });
    }
    Some(Verdict {
        cause: Cause::ConntrackInsertFailed,
        confidence,
        title: title(&table, &details),
        evidence: sorted(lines),
        culprit: Some(Party { pod: Some(table), netns: Some(header.netns), ..Party::default() }),
        fold: format!("table {} {:?}", header.netns, details.exit),
        fix: fix(&details),
        confirm: vec![
            "on the node: `conntrack -S` (insert_failed, and for long chains chaintoolong) and \
             `sysctl net.netfilter.nf_conntrack_buckets net.netfilter.nf_conntrack_count`"
                .to_owned(),
        ],
        details: Details::InsertFailed(details),
    })
}

/// Whether the packet was dropped for a clash after all.
fn is_of_clash(case: &Case<'_>, drop: &SeenDrop) -> bool {
    case.clashes().into_iter().any(|clash| {
        clash.event.verdict != VERDICT_ACCEPT
            && case.drop_of(clash).is_some_and(|of_clash| std::ptr::eq(of_clash, drop))
    })
}

/// What the table refused about when the packet was dropped.
fn around(world: &World, drop: &SeenDrop) -> Option<Refused> {
    world.refusals.around(drop.event.header.netns, drop.ts)
}

/// Whether the table refused nothing then but for the length of a chain.
fn is_for_length_alone(world: &World, drop: &SeenDrop) -> bool {
    around(world, drop).is_some_and(Refused::is_for_length_alone)
}

fn details(world: &World, drop: &SeenDrop) -> InsertFailed {
    let netns = drop.event.header.netns;
    let table = world.counters.latest(netns).and_then(|c| c.conntrack);
    // Conntrack may have come after the first reading: then its counters began at zero.
    let grown = world
        .counters
        .grown(netns, |c| Some(c.conntrack.and_then(|table| table.chain_too_long).unwrap_or(0)));
    let chain_too_long = table.and_then(|t| t.chain_too_long).and(grown);
    let exit = match drop.event.ct.status {
        status if status & ips::DYING != 0 => InsertExit::Dying,
        _ if around(world, drop).is_some_and(|refused| refused.too_long > 0) => {
            InsertExit::ChainTooLong
        }
        _ => InsertExit::Other,
    };
    InsertFailed {
        exit,
        entries: table.map(|t| t.entries),
        buckets: table.map(|t| t.buckets).filter(|buckets| *buckets > 0),
        chain_too_long,
    }
}

fn title(table: &str, details: &InsertFailed) -> String {
    match details.exit {
        InsertExit::Dying => format!(
            "the new connection's entry in the connection tracking table of {table} was removed \
             while its first packet was on its way: the kernel dropped the packet"
        ),
        InsertExit::ChainTooLong => {
            let size = match (details.entries, details.buckets) {
                (Some(entries), Some(buckets)) => {
                    format!(" ({entries} entries, {buckets} buckets)")
                }
                _ => String::new(),
            };
            format!(
                "too many connections share a hash bucket of the connection tracking table of \
                 {table}{size}: new ones that fall into a full one are dropped"
            )
        }
        InsertExit::Other => format!(
            "the new connection's entry could not be inserted into the connection tracking table \
             of {table}: the kernel dropped the packet"
        ),
    }
}

fn fix(details: &InsertFailed) -> Vec<Fix> {
    if details.exit != InsertExit::ChainTooLong {
        return vec![Fix {
            place: Place::Node,
            now: None,
            lasting: Some(
                "find the program that unloads modules of conntrack (helpers such as \
                 nf_conntrack_ftp, NAT), such as a firewall's restart that cleans up, and let it \
                 leave them loaded"
                    .to_owned(),
            ),
            caveat: Some("a client that tries again gets a new entry and goes through".to_owned()),
        }];
    }
    let buckets = details.entries.map_or_else(
        || "N".to_owned(),
        |entries| {
            // Never fewer than there are: the entries may have been many more before this reading.
            let twice = details.buckets.unwrap_or(0).saturating_mul(2);
            let fitting = entries.max(1).checked_next_power_of_two().unwrap_or(entries);
            fitting.max(65_536).max(twice).to_string()
        },
    );
    vec![Fix {
        place: Place::Node,
        now: Some(format!("`sysctl -w net.netfilter.nf_conntrack_buckets={buckets}`")),
        lasting: Some(
            "as many buckets as there are entries at busy times, and nf_conntrack_max to match: \
             nf_conntrack's module option hashsize, or the sysctl at each start"
                .to_owned(),
        ),
        caveat: Some(
            "kube-proxy raises nf_conntrack_max, and the buckets to a quarter of it only where it \
             may write to /sys/module; a bucket takes 8 bytes"
                .to_owned(),
        ),
    }]
}
