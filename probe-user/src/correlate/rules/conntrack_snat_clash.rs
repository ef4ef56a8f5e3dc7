//! `conntrack-snat-clash`: two connections were masqueraded to one source port at the same moment;
//! the second finds the tuple taken when its entry is inserted (`nf_ct_resolve_clash` returns
//! NF_DROP, `insert_failed`). Against an old entry it would be that the ports are used up instead:
//! `snat-ports-exhausted`.

use probe_common::{
    event::{Clash, VERDICT_DROP},
    net::ips,
};

use super::{Verdict, winner_age};
use crate::{
    correlate::{
        describe::sorted,
        join::{Case, Direction},
    },
    finding::{Cause, Confidence, Details, Fix, Flow, Place, details::SnatClash},
};

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    let clash = case.clashes().into_iter().find(|c| is_snat_race(&c.event))?;
    let e = &*clash.event;
    let dropped = case.drop_of(clash);
    let world = case.world;
    let (loser, winner) = (Flow::of(&e.loser.orig), Flow::of(&e.winner.orig));
    let to = Flow::of(&e.loser.reply).dst;
    let mut lines = case.symptom.notes.clone();
    lines.push(case.say_clash(clash));
    lines.extend(dropped.map(|d| case.say_drop(d, Direction::ToServer)));
    let culprit = world.party(winner.src.ip(), Some(winner.src.port()), clash.ts);
    let other = match &culprit.pod {
        Some(pod) => format!("pod {pod}"),
        None => winner.src.ip().to_string(),
    };
    Some(Verdict {
        cause: Cause::ConntrackSnatClash,
        confidence: Confidence::Certain,
        title: format!(
            "this packet and one of {other} ({}) were masqueraded to the same source port {} at \
             the same moment; the kernel dropped this one",
            winner.src, to
        ),
        evidence: sorted(lines),
        culprit: Some(culprit),
        // Who wins is chance: what folds is the address that ran into itself.
        fold: to.ip().to_string(),
        details: Details::SnatClash(SnatClash {
            loser: format!("{} -> {}", loser.src, loser.dst),
            winner: format!("{} -> {}", winner.src, winner.dst),
            snat_to: to.to_string(),
            winner_age_jiffies: winner_age::jiffies(e),
        }),
        fix: fix(),
        confirm: vec![
            "on the node: `conntrack -S` (insert_failed and drop rise together) and \
             `iptables-save -t nat | grep MASQUERADE` (without --random-fully?)"
                .to_owned(),
        ],
    })
}

fn is_snat_race(e: &Clash) -> bool {
    let (orig, reply) = (Flow::of(&e.loser.orig), Flow::of(&e.loser.reply));
    e.verdict == VERDICT_DROP
        && e.loser.status & ips::SRC_NAT != 0
        // Two services with the same server clash in the reply direction too, untouched by SNAT.
        && reply.dst != orig.src
        && orig != Flow::of(&e.winner.orig)
        && winner_age::is_young(e)
}

fn fix() -> Vec<Fix> {
    vec![
        Fix {
            place: Place::Node,
            now: None,
            lasting: Some(
                "masquerade with fully random ports: `--random-fully` on the MASQUERADE rules of \
                 the CNI plugin and of ip-masq-agent"
                    .to_owned(),
            ),
            caveat: Some(
                "kube-proxy's own rule has it where iptables (1.6.2) and the kernel support it; \
                 rules made by hand or by the CNI often do not"
                    .to_owned(),
            ),
        },
        Fix {
            place: Place::Node,
            now: None,
            lasting: Some(
                "for DNS: NodeLocal DNSCache, so that lookups are not masqueraded".to_owned(),
            ),
            caveat: None,
        },
    ]
}
