#![expect(clippy::unwrap_used, reason = "tests")]

use probe_common::{
    event::{Drop, Packet as Captured, kind},
    net::{Conntrack, FAMILY_V4, IPPROTO_TCP, Tuple},
};

use super::*;
use crate::{event::Body, testing::*};

const OTHER_CLIENT: &str = "10.244.1.9:40000";
const WEB_SERVICE: &str = "10.96.0.20:80";

/// An IPv4 packet with these ends and this behind its header.
fn ipv4(tuple: &Tuple, payload: &[u8]) -> Vec<u8> {
    assert_eq!(tuple.family, FAMILY_V4);
    let mut bytes = vec![0u8; 20];
    bytes[0] = 0x45;
    bytes[9] = tuple.proto;
    bytes[12..16].copy_from_slice(&tuple.src[..4]);
    bytes[16..20].copy_from_slice(&tuple.dst[..4]);
    bytes.extend(tuple.sport.to_be_bytes());
    bytes.extend(tuple.dport.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A packet beside an event of this kind.
fn packet(with: u16, netns: u32, tuple: Tuple, ident: u32, payload: &[u8]) -> Captured {
    let bytes = ipv4(&tuple, payload);
    let mut packet = Captured {
        header: header(kind::PACKET, netns),
        tuple,
        ct: Conntrack::default(),
        skb: 0xffff_8880_0000_a000,
        at: 0,
        ident,
        iif: 0,
        tcp_flags: if tuple.proto == IPPROTO_TCP { 2 } else { 0 },
        with: u32::from(with),
        packet_len: u32::try_from(bytes.len()).unwrap(),
        captured: u32::try_from(bytes.len()).unwrap(),
        bytes: [0; probe_common::event::CAPTURE_BYTES],
    };
    packet.bytes[..bytes.len()].copy_from_slice(&bytes);
    packet
}

/// The client's SYN as the web pod's listener refuses it.
fn refused_syn(client: &str, isn: u32) -> Captured {
    packet(kind::LISTEN_DROP, WEB, tcp(client, WEB_END), isn, &[0; 16])
}

/// A DNS message behind its UDP header.
fn dns_payload(id: u16, name: &[u8]) -> Vec<u8> {
    let mut payload = vec![0; 4];
    payload.extend(id.to_be_bytes());
    payload.extend([0x81, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    payload.extend_from_slice(name);
    payload.extend([0, 28, 0, 1]);
    payload
}

/// Plays what is queued, and gives the packets with the milliseconds after the start at which each came
/// out.
fn play(run: &mut Run, until: u64) -> (Packets, Vec<(u64, Packet)>) {
    let events = run.queued();
    let mut events = events.into_iter().peekable();
    let (mut packets, mut out) = (Packets::default(), Vec::new());
    for ms in (0..=until).step_by(100) {
        let tick = START + ms * MS;
        let mut now: Vec<Event> = Vec::new();
        while let Some(mut event) = events.next_if(|e| e.ts <= tick) {
            if let Body::Packet(packet) = &mut event.body
                && packet.at == 0
            {
                packet.at = event.ts;
            }
            now.push(event);
        }
        now.push(Event { ts: tick, body: Body::Tick });
        for event in now {
            run.out.extend(run.pipeline.push(event.clone()));
            let went = packets.take(&event, &run.pipeline);
            out.extend(went.into_iter().map(|packet| (ms, packet)));
        }
    }
    (packets, out)
}

fn beside(packet: Captured) -> Body {
    Body::Packet(Box::new(packet))
}

/// The client asks the web service and its SYN is refused, behind DNAT; it is sent again after a second,
/// and again after two more.
fn overflow() -> Run {
    let mut run = Run::new();
    for (ms, retransmits) in [(1000, 1), (3000, 2)] {
        run.at(ms, syn_again(WEB_SERVICE, 0, retransmits));
    }
    for ms in [1, 1001, 3001] {
        run.at(ms, refused(CLIENT_END, ISN));
        run.at(ms, beside(refused_syn(CLIENT_END, ISN)));
    }
    run
}

#[test]
fn a_refused_syn_gets_the_cause_behind_dnat() {
    let mut run = overflow();
    let (packets, out) = play(&mut run, 6000);
    let finding = run.findings()[0];
    assert_eq!(finding.cause, Cause::AcceptQueueOverflow);
    assert_ne!(
        finding.flow.dst.to_string(),
        WEB_END,
        "the stall is known by the service's address"
    );
    let (_, first) = &out[0];
    assert_eq!(
        first.comment,
        format!("accept-queue-overflow (certain, f1): {} [a listener refused it]", finding.title)
    );
    assert_eq!((first.netns, first.name.as_str()), (WEB, "web"));
    assert_eq!(first.description, format!("network namespace {WEB} 10.244.4.2"));
    assert_eq!(first.bytes, ipv4(&tcp(CLIENT_END, WEB_END), &[0; 16]));
    assert_eq!(first.length, 40);
    let second = |ns: u64| ns / 1_000_000_000;
    assert_eq!(second(out[1].1.wall) - second(first.wall), 1);
    assert_eq!(first.wall % 1_000_000_000, MS);
    // Those that came when the stall was told already have its name too, at once.
    assert_eq!(out.len(), 3);
    assert!(out.iter().all(|(_, packet)| packet.comment == first.comment));
    assert_eq!(out[2].0, 3100, "the third needs not wait");
    assert_eq!(packets.early, 0);
}

#[test]
fn a_stall_that_only_counts_in_a_finding_names_its_packets_too() {
    let mut run = overflow();
    let again = "10.244.1.2:40313";
    let connect = connect(kind::SYN_RETRANSMIT, WEB_SERVICE, 7000, 1);
    let tuple = tcp(again, WEB_SERVICE);
    run.at(7001, refused(again, 77));
    run.at(7001, beside(refused_syn(again, 77)));
    run.at(
        8000,
        Body::Connect(Box::new(probe_common::event::Connect { tuple, isn: 77, ..connect })),
    );
    let (_, out) = play(&mut run, 13_000);
    assert_eq!(run.findings().len(), 1, "both are one finding");
    assert_eq!(out.len(), 4);
    assert!(out[3].1.comment.starts_with("accept-queue-overflow (certain, f1)"));
}

#[test]
fn another_flow_gets_no_name() {
    let mut run = overflow();
    // From another client to the same port; and the same ports as the stalled connection later, in
    // another one.
    run.at(2, beside(packet(kind::REJECT, HOST, tcp(OTHER_CLIENT, WEB_END), 5, &[0; 16])));
    run.at(2000, beside(packet(kind::REJECT, HOST, tcp(CLIENT_END, WEB_SERVICE), 6, &[0; 16])));
    let (_, out) = play(&mut run, 20_000);
    let words: Vec<&str> = out.iter().map(|(_, p)| p.comment.as_str()).collect();
    let is_named = |words: &&&str| words.starts_with("accept-queue-overflow");
    assert_eq!(words.iter().filter(is_named).count(), 3);
    assert_eq!(words.iter().filter(|w| **w == "a netfilter rule rejected it").count(), 2);
    // It waited as long as a cause might have come, and what came later stayed behind it.
    let ms: Vec<u64> = out.iter().map(|(ms, _)| *ms).collect();
    assert!(ms.is_sorted() && ms[1] >= 16_000, "{ms:?}");
}

/// A query whose answer comes late: the stall's own packet, another client's with the same id and name,
/// the same client's with another id, and one behind SNAT that conntrack tells of.
#[test]
fn of_a_query_id_name_and_client_must_be_the_same() {
    let mut run = Run::new();
    let id = 0x1234;
    run.at(5000, answer(id, AAAA, 0, 5000, 1));
    let late = |tuple, id, name| {
        packet(kind::DNS_ANSWER, CLIENT, tuple, u32::from(id), &dns_payload(id, name))
    };
    let own = udp(SERVICE, CLIENT_END);
    let mut behind_snat = late(udp("10.0.3.17:6000", DNS_A_END), id, NAME);
    behind_snat.ct.present = 1;
    behind_snat.ct.orig = udp(CLIENT_END, SERVICE);
    behind_snat.ct.reply = udp(DNS_A_END, "10.0.3.17:6000");
    let shown = [
        (late(own, id, NAME), true),
        (behind_snat, true),
        (late(udp(SERVICE, OTHER_CLIENT), id, NAME), false),
        (late(own, id ^ 1, NAME), false),
        (late(own, id, b"\x05other\0"), false),
    ];
    for (n, (packet, _)) in shown.iter().enumerate() {
        let skb = u64::try_from(n).unwrap();
        run.at(5000, beside(Captured { skb, ..*packet }));
    }
    let (mut packets, mut out) = play(&mut run, 7000);
    out.extend(packets.finish(&run.pipeline).into_iter().map(|packet| (0, packet)));
    let finding = run.findings()[0];
    let named: Vec<bool> =
        out.iter().map(|(_, p)| p.comment.contains(&format!(", {}): ", finding.id))).collect();
    assert_eq!(named, shown.map(|(_, expected)| expected), "{out:#?}");
}

#[test]
fn a_rejected_packet_that_is_then_dropped_is_one_packet() {
    let mut run = Run::new();
    let rejected = packet(kind::REJECT, HOST, tcp(CLIENT_END, WEB_END), ISN, &[7; 16]);
    let mut drop: Drop = dropped(HOST, rejected.tuple, ISN, NETFILTER_DROP, 0x100);
    drop.skb = rejected.skb;
    drop.packet_len = rejected.packet_len;
    drop.captured = 30;
    drop.packet[..30].copy_from_slice(&rejected.bytes[..30]);
    let another = Drop { skb: 1, ..drop };
    run.at(500, beside(rejected));
    run.at(500, drop_event(drop));
    run.at(500, drop_event(another));
    let (mut packets, out) = play(&mut run, 1000);
    assert!(out.is_empty());
    let out = packets.finish(&run.pipeline);
    assert_eq!(out.len(), 2);
    let words = "dropped at nf_hook_slow+0x7b (NETFILTER_DROP)";
    assert_eq!(out[0].comment, format!("a netfilter rule rejected it; {words}"));
    assert_eq!(out[0].bytes.len(), 40);
    assert_eq!(out[1].comment, words);
    assert_eq!((out[1].bytes.len(), out[1].length), (30, 40));
}

#[test]
fn what_is_no_packet_is_left_out() {
    let mut run = Run::new();
    let good = refused_syn(CLIENT_END, ISN);
    let mut odd = good;
    odd.bytes[0] = 0x15;
    run.at(500, beside(Captured { captured: 0, ..good }));
    run.at(500, beside(Captured { captured: 19, ..good }));
    run.at(500, beside(odd));
    run.at(500, syn_drop(CLIENT, WEB_END, NETFILTER_DROP, 0x100));
    run.at(500, beside(Captured { captured: u32::MAX, ..good }));
    let (mut packets, _) = play(&mut run, 1000);
    let out = packets.finish(&run.pipeline);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].bytes.len(), good.bytes.len());
}

#[test]
fn no_more_wait_than_there_is_room_for() {
    let mut run = Run::new();
    let more = 10;
    for n in 0..MOST_WAITING + more {
        let skb = u64::try_from(n).unwrap();
        run.at(500, beside(Captured { skb, ..refused_syn(OTHER_CLIENT, 9) }));
    }
    let (mut packets, out) = play(&mut run, 500);
    assert_eq!((out.len(), packets.early), (more, 10));
    assert_eq!(packets.finish(&run.pipeline).len(), MOST_WAITING);
}
