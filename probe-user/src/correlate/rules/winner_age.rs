//! How long the winner of a clash had been there: "at the same moment" is a race, anything older
//! means that no other port was free.

use probe_common::{
    event::Clash,
    net::{IPPROTO_TCP, IPPROTO_UDP, ct_tcp, ips},
};

/// Jiffies within which the winner counts as "at the same moment": 50 ms to 500 ms by HZ. A little
/// below zero, for the winner's timer may have started in the next jiffy.
const YOUNG: std::ops::RangeInclusive<i64> = -5..=50;
/// The same for a connect() whose time is known, in nanoseconds.
const YOUNG_CONNECT: u64 = 250_000_000;

/// More jiffies than this and no race lies between the two: 250 ms to 2.5 s by HZ.
const OLD: i64 = 250;
/// The same for a connect() whose time is known, in nanoseconds.
const OLD_CONNECT: u64 = 1_000_000_000;

/// What is known of the winner's age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// It came at the same moment as the loser.
    Young,
    /// Older than any race.
    Old,
    /// Neither is proven.
    Unclear,
}

/// How old the winner was.
pub fn of(e: &Clash) -> Age {
    if is_young(e) {
        return Age::Young;
    }
    let is_old = match jiffies(e) {
        Some(age) => age > OLD,
        None => e.winner_started != 0 && e.header.ts.saturating_sub(e.winner_started) > OLD_CONNECT,
    };
    if is_old { Age::Old } else { Age::Unclear }
}

/// Whether winner and loser came at the same moment; `false` when that cannot be told.
pub fn is_young(e: &Clash) -> bool {
    match e.loser.orig.proto {
        // Its handshake is under way, or was begun just now on this node.
        IPPROTO_TCP if e.winner.status & ips::SEEN_REPLY != 0 => {
            if e.winner_started != 0 {
                return e.header.ts.saturating_sub(e.winner_started) <= YOUNG_CONNECT;
            }
            e.winner.tcp_state == ct_tcp::SYN_RECV
        }
        _ => jiffies(e).is_some_and(|age| YOUNG.contains(&age)),
    }
}

/// How many jiffies the winner came before the loser; `None` when it cannot be told.
///
/// UDP entries keep the time of their first packet. Else it follows from the two timeouts: both
/// began with the same value, the loser's is still relative, the winner's is the jiffy at which it
/// ends. An answer changes the winner's, then nothing follows.
pub fn jiffies(e: &Clash) -> Option<i64> {
    if e.loser.orig.proto == IPPROTO_UDP && e.loser.born != 0 && e.winner.born != 0 {
        return Some(e.loser.born.wrapping_sub(e.winner.born).cast_signed());
    }
    if e.winner.status & (ips::SEEN_REPLY | ips::ASSURED) != 0 {
        return None;
    }
    let left = e.winner.timeout.wrapping_sub(e.jiffies);
    Some(i64::from(e.loser.timeout.wrapping_sub(left).cast_signed()))
}

#[cfg(test)]
mod tests {
    use probe_common::net::Conntrack;

    use super::*;
    use crate::testing::{clash, snat_clash};

    fn tcp() -> Clash {
        snat_clash(IPPROTO_TCP, "10.244.1.2:40312", "198.51.100.7:443", 1)
    }

    #[test]
    fn age_survives_the_wrap_of_jiffies() {
        let mut e = clash();
        e.loser = Conntrack { timeout: 7500, ..e.loser };
        e.jiffies = u32::MAX - 10;
        e.winner.timeout = (u32::MAX - 13).wrapping_add(7500);
        assert_eq!(jiffies(&e), Some(3));
        e.winner.timeout = e.jiffies.wrapping_add(500);
        assert_eq!(jiffies(&e), Some(7000));
        e.winner.timeout = e.jiffies.wrapping_add(7502);
        assert_eq!(jiffies(&e), Some(-2));
        e.winner.status |= ips::SEEN_REPLY;
        assert_eq!(jiffies(&e), None);
    }

    #[test]
    fn a_udp_entry_keeps_its_birth_whatever_was_answered() {
        let mut e = clash();
        e.winner.status |= ips::SEEN_REPLY | ips::ASSURED;
        (e.loser.born, e.winner.born) = (10_001, 10_000);
        assert!(is_young(&e));
        e.winner.born = 9_000;
        assert!(!is_young(&e));
        assert_eq!(jiffies(&e), Some(1001));
    }

    #[test]
    fn an_answered_tcp_winner_is_young_only_while_that_can_be_told() {
        let mut e = tcp();
        assert!(is_young(&e));
        e.winner.status |= ips::SEEN_REPLY;
        e.winner.tcp_state = ct_tcp::SYN_RECV;
        assert!(is_young(&e));
        e.winner.tcp_state = ct_tcp::ESTABLISHED;
        assert!(!is_young(&e), "nobody knows since when");
        e.header.ts = 5_000_000_000;
        e.winner_started = 4_990_000_000;
        assert!(is_young(&e));
        e.winner_started = 3_000_000_000;
        assert!(!is_young(&e));
    }

    #[test]
    fn old_is_said_only_when_it_is_proven() {
        let mut e = tcp();
        assert_eq!(of(&e), Age::Young);
        e.winner.timeout -= 200;
        assert_eq!(of(&e), Age::Unclear);
        e.winner.timeout -= 51;
        assert_eq!(of(&e), Age::Old);
        e.winner.status |= ips::SEEN_REPLY | ips::ASSURED;
        e.winner.tcp_state = ct_tcp::ESTABLISHED;
        assert_eq!(of(&e), Age::Unclear, "an answer moved its end");
        e.header.ts = 5_000_000_000;
        e.winner_started = 4_500_000_000;
        assert_eq!(of(&e), Age::Unclear);
        e.winner_started = 3_900_000_000;
        assert_eq!(of(&e), Age::Old);
    }
}
