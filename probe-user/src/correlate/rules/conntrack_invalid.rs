//! `conntrack-invalid`: conntrack left a packet of the handshake without an entry (`nf_conntrack_in`
//! leaves `skb->_nfct` empty: INVALID), and right after that the packet was lost: a rule dropped it
//! (kube-proxy has one for INVALID packets), or it went on untranslated and met no socket.
//!
//! That the rule dropped it *for being invalid* is not seen, so this is never certain.

use probe_common::event::{CT_INVALID, CtEntry, NF_DROP};

use super::Verdict;
use crate::{
    correlate::{
        describe::sorted,
        evidence::{Seen, SeenDrop},
        join::{Case, Direction},
        symptom::Join,
    },
    finding::{Cause, Confidence, Details, Fix, Flow, Place, details::Invalid},
};

/// A packet's memory is used again for others; this soon after it is still the same one.
const SAME_SKB: u64 = 1_000_000_000;

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    if !case.last_word || !matches!(case.symptom.join, Join::Tcp { .. }) {
        return None;
    }
    let entries = case.ct_entries();
    let (judged, way, drop) = entries.iter().find_map(|&(judged, way)| {
        // A full table drops at once, and leaves no entry either.
        let is_invalid = judged.event.ct.present == 0
            && judged.event.info == CT_INVALID
            && judged.event.verdict != NF_DROP;
        Some((judged, way, is_invalid.then(|| lost(case, judged))??))
    })?;
    let flow = Flow::of(&judged.event.tuple);
    let packet = if way == Direction::ToClient { "SYN-ACK" } else { "SYN" };
    let netns = judged.event.header.netns;
    let syn_was_seen = way == Direction::ToClient
        && entries.iter().any(|(e, way)| {
            *way == Direction::ToServer && e.event.ct.present != 0 && e.event.header.netns == netns
        });
    let place = case.world.place(&judged.event.header, judged.ts);
    let mut lines = case.symptom.notes.clone();
    lines.extend(entries.iter().map(|(e, way)| case.say_ct_entry(e, *way)));
    lines.push(case.say_drop(drop, way));
    Some(Verdict {
        cause: Cause::ConntrackInvalid,
        confidence: if syn_was_seen { Confidence::Possible } else { Confidence::Likely },
        title: format!(
            "conntrack in {place} held the {packet} from {} to be INVALID, and then it was {}",
            flow.src,
            if is_by_netfilter(case, drop) {
                "dropped by a rule there, most likely one for invalid packets"
            } else {
                "not known to anybody"
            }
        ),
        evidence: sorted(lines),
        culprit: Some(case.world.party(flow.src.ip(), Some(flow.src.port()), judged.ts)),
        fold: format!("{} {packet}", case.symptom.server()),
        details: Details::Invalid(Box::new(Invalid {
            from: flow.src,
            to: flow.dst,
            packet: if way == Direction::ToClient { "syn-ack" } else { "syn" },
            dropped_at: case.world.symbol(drop.event.location),
            judged_in: place,
        })),
        fix: fix(way, syn_was_seen),
        confirm: vec![
            "on the node: `conntrack -S` (the column invalid rises); `iptables-save | grep INVALID` \
             or `nft list ruleset | grep invalid` shows the rule, with its counter; `ip route get` \
             for both directions shows whether they take the same way"
                .to_owned(),
        ],
    })
}

/// How the very packet ended, in a way that being invalid explains: in the same namespace by
/// netfilter, or at the client's own door for want of a socket.
fn lost<'a>(case: &Case<'a>, judged: &Seen<CtEntry>) -> Option<&'a SeenDrop> {
    let e = &*judged.event;
    let after = |drop: &SeenDrop| drop.ts >= judged.ts && drop.ts - judged.ts <= SAME_SKB;
    case.drops().into_iter().map(|(drop, _)| drop).find(|drop| {
        let same_packet = drop.event.skb == e.skb && drop.event.ct.present == 0;
        let same_flow = Flow::of(&drop.event.tuple) == Flow::of(&e.tuple);
        let here = drop.event.header.netns == e.header.netns;
        after(drop)
            && same_flow
            && ((same_packet && here && is_by_netfilter(case, drop)) || case.met_no_client(drop))
    })
}

/// The place of a drop by a rule: nftables frees the packet itself from 6.1 on.
fn is_by_netfilter(case: &Case<'_>, drop: &SeenDrop) -> bool {
    match case.world.reason(&drop.event).as_deref() {
        Some(reason) => reason == "NETFILTER_DROP",
        None => matches!(
            case.world.function(drop.event.location),
            Some("nf_hook_slow" | "nft_do_chain" | "ipt_do_table" | "ip6t_do_table")
        ),
    }
}

fn fix(way: Direction, syn_was_seen: bool) -> Vec<Fix> {
    let asymmetric = if syn_was_seen {
        "conntrack saw the SYN, so something is wrong with the answer itself: its checksum (tunnel \
         or card offload) or its addresses. `sysctl -w net.netfilter.nf_conntrack_log_invalid=6` \
         makes the kernel log say what; set it back to 0 after"
    } else if way == Direction::ToClient {
        "this node saw the answer and not the SYN: send both by the same way (routes, bridge, second \
         interface), or keep both away from conntrack"
    } else {
        "find out why the entry of the old connection does not end"
    };
    vec![Fix {
        place: Place::Node,
        now: None,
        lasting: Some(asymmetric.to_owned()),
        caveat: Some(
            "kube-proxy's rule that drops INVALID exists because untranslated packets end in resets: \
             do not remove it. net.netfilter.nf_conntrack_tcp_be_liberal=1 helps only against \
             packets outside the window, not against a connection whose SYN was not seen"
                .to_owned(),
        ),
    }]
}
