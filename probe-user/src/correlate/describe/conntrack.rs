//! What conntrack did, in words.

use probe_common::{
    event::{CT_UNTRACKED, Clash, CtEntry, VERDICT_ACCEPT, VERDICT_DROP},
    net::ips,
};

use crate::{
    correlate::{
        evidence::Seen,
        join::{Case, Direction},
        symptom::Join,
    },
    finding::{Evidence, Flow},
};

impl Case<'_> {
    pub fn say_clash(&self, clash: &Seen<Clash>) -> Evidence {
        let e = &clash.event;
        let what = match e.verdict {
            VERDICT_DROP => "dropped the packet",
            VERDICT_ACCEPT if e.status_after & ips::NAT_CLASH != 0 => {
                "keeps its translation for one second"
            }
            VERDICT_ACCEPT => "merged both and let the packet pass",
            _ => "did something that was not seen",
        };
        let place = self.world.place(&e.header, clash.ts);
        let text = format!("conntrack clash in {place}: {}; the kernel {what}", clashing(e));
        Evidence { ts: clash.ts, kind: "conntrack-clash", text }
    }

    /// What conntrack made of a packet.
    pub fn say_ct_entry(&self, seen: &Seen<CtEntry>, way: Direction) -> Evidence {
        let e = &*seen.event;
        let flow = Flow::of(&e.tuple);
        let what = match (way, matches!(self.symptom.join, Join::Dns { .. })) {
            (Direction::ToServer, true) => format!("the query to {}", flow.dst),
            (Direction::ToClient, true) => format!("an answer from {}", flow.src),
            (Direction::ToServer, false) => format!("the SYN to {}", flow.dst),
            (Direction::ToClient, false) => format!("the SYN-ACK from {}", flow.src),
        };
        let place = self.world.place(&e.header, seen.ts);
        let made_of_it = if e.ct.present != 0 {
            let (orig, target) = (Flow::of(&e.ct.orig), Flow::of(&e.ct.reply).src);
            let answered = if e.ct.status & ips::SEEN_REPLY != 0 {
                "it was answered before"
            } else {
                "no answer has come by it"
            };
            if target == orig.dst {
                format!("has an entry without translation; {answered}")
            } else {
                let who = self.world.who(target.ip(), seen.ts);
                format!("has an entry that translates {} to {target} ({who}); {answered}", orig.dst)
            }
        } else if e.info == CT_UNTRACKED {
            "is not tracked, by a rule".to_owned()
        } else {
            "is INVALID: it belongs to no connection it knows".to_owned()
        };
        let text = format!("conntrack in {place}: {what} {made_of_it}");
        Evidence { ts: seen.ts, kind: "conntrack-entry", text }
    }
}

/// Who ran into whom: the same flow translated to two servers, or two flows to one source port.
fn clashing(e: &Clash) -> String {
    let (loser, winner) = (Flow::of(&e.loser.orig), Flow::of(&e.winner.orig));
    let (reply, other) = (Flow::of(&e.loser.reply), Flow::of(&e.winner.reply));
    if loser == winner {
        format!(
            "two packets {loser} at once, this one sent to {}, the other to {}",
            reply.src, other.src
        )
    } else if reply.dst == other.dst && reply.dst != loser.src {
        format!("{loser} and {winner}, both to leave as {}", reply.dst)
    } else {
        format!("{loser} against {winner}")
    }
}
