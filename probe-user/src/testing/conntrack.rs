//! What conntrack did.

use super::*;

/// The resolved clash of two queries: the loser's went to `dns-b`, the winner's to `dns-a`.
pub fn clash() -> Clash {
    Clash {
        header: header(kind::CLASH, HOST),
        loser: Conntrack {
            orig: udp(CLIENT_END, SERVICE),
            reply: udp(DNS_B_END, CLIENT_END),
            status: ips::DST_NAT | ips::DST_NAT_DONE | ips::SRC_NAT_DONE,
            timeout: 7500,
            info: 2,
            present: 1,
            ..Conntrack::default()
        },
        winner: Conntrack {
            orig: udp(CLIENT_END, SERVICE),
            reply: udp(DNS_A_END, CLIENT_END),
            status: ips::DST_NAT | ips::CONFIRMED,
            timeout: 50_000 + 7500,
            info: 0xff,
            present: 1,
            ..Conntrack::default()
        },
        skb: 0xffff_8880_0000_3000,
        winner_started: 0,
        jiffies: 50_000,
        verdict: VERDICT_ACCEPT,
        status_after: ips::NAT_CLASH | ips::DST_NAT,
        hit_dir: 0,
        iif: 7,
        ident: 0x2222,
    }
}

/// The dropped clash of two connections masqueraded to one port; the loser is the client's.
pub fn snat_clash(proto: u8, client: &str, server: &str, ident: u32) -> Clash {
    Clash {
        loser: Conntrack {
            orig: tuple(proto, client, server),
            reply: tuple(proto, server, "10.0.3.17:40312"),
            status: ips::SRC_NAT | ips::SRC_NAT_DONE | ips::DST_NAT_DONE,
            ..clash().loser
        },
        winner: Conntrack {
            orig: tuple(proto, "10.244.4.2:40312", server),
            reply: tuple(proto, server, "10.0.3.17:40312"),
            status: ips::SRC_NAT | ips::CONFIRMED,
            ..clash().winner
        },
        verdict: probe_common::event::VERDICT_DROP,
        status_after: 0,
        hit_dir: 1,
        ident,
        ..clash()
    }
}

pub fn clashed(clash: Clash) -> Body {
    Body::Clash(Box::new(clash))
}

/// What conntrack made of a packet: an entry of these two tuples.
pub fn ct_entry(tuple: Tuple, orig: Tuple, reply: Tuple, status: u32) -> CtEntry {
    CtEntry {
        header: header(kind::CT_ENTRY, HOST),
        tuple,
        ct: Conntrack { orig, reply, status, timeout: 60_000, present: 1, ..Conntrack::default() },
        skb: 0xffff_8880_0000_9000,
        jiffies: 55_000,
        ident: 0,
        tcp_flags: 0,
        verdict: 1,
        info: 0,
        iif: 7,
    }
}
