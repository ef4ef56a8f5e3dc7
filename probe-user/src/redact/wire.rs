//! Events of the kernel side, field by field. A field that is only copied is named all the same.

use std::net::IpAddr;

use probe_common::{
    event::{
        Clash, Connect, CtEntry, Departure, Dns, Drop, Ipvs, Listen, Packet, Probe, ProbeServer,
        ProbeSteps, QNAME_BYTES, Question, Reject, SynAck,
    },
    net::{Conntrack, FAMILY_V4, FAMILY_V6, Tuple},
};

use super::{Redactor, key::Domain};
use crate::{correlate::dns::hash, output::sanitize};

/// Bytes of a name that the kernel side fills in.
const NAME_KEPT: usize = QNAME_BYTES - 1;

impl Redactor {
    /// An address of the wire. What is no address of its family says nothing and is left out.
    fn address(&mut self, bytes: &mut [u8; 16], family: u8) {
        let old = *bytes;
        *bytes = [0; 16];
        match family {
            FAMILY_V4 => {
                let [a, b, c, d, ..] = old;
                if let (IpAddr::V4(new), [first, ..]) =
                    (self.ip(IpAddr::from([a, b, c, d])), bytes.as_chunks_mut::<4>().0)
                {
                    *first = new.octets();
                }
            }
            FAMILY_V6 => {
                if let IpAddr::V6(new) = self.ip(IpAddr::from(old)) {
                    *bytes = new.octets();
                }
            }
            _ => {}
        }
    }

    fn tuple(&mut self, tuple: &mut Tuple) {
        let Tuple { src, dst, sport: _, dport: _, proto: _, family, _pad: _ } = tuple;
        self.address(src, *family);
        self.address(dst, *family);
    }

    fn conntrack(&mut self, ct: &mut Conntrack) {
        let Conntrack {
            orig,
            reply,
            status: _,
            timeout: _,
            info: _,
            present: _,
            tcp_state: _,
            _pad: _,
            born: _,
        } = ct;
        self.tuple(orig);
        self.tuple(reply);
    }

    fn comm(&mut self, comm: &mut [u8; 16]) {
        let new = self.process_name(&sanitize::c_string(comm));
        *comm = [0; 16];
        for (byte, new) in comm.iter_mut().take(15).zip(new.bytes()) {
            *byte = new;
        }
    }

    /// The address of something in the kernel, which would tell where the kernel lies in memory. It stays
    /// one, and the same for the same.
    pub(super) fn pointer(&self, address: &mut u64) {
        /// With which addresses of the kernel begin, on x86-64 and on arm64.
        const KERNEL: u64 = 0xffff << 48;
        if *address != 0 {
            *address = KERNEL | self.key.number(Domain::Pointer, *address, &[]);
        }
    }

    /// Labels of a name, one after the other, up to its end or as far as it can be read. Whether it
    /// could be read stays as it was: lengths stay, and a byte that is none.
    pub(super) fn name(&mut self, name: &mut [u8]) {
        let mut rest = name;
        while let Some((length, after)) = rest.split_first_mut() {
            let length = usize::from(*length);
            if length == 0 || length > 63 {
                after.fill(0);
                return;
            }
            let (label, after) = after.split_at_mut(length.min(after.len()));
            self.label(label);
            rest = after;
        }
    }

    /// Its hash is that of the new name, as packets show it. Of a name that was cut it cannot be:
    /// then it is another number, the same for the same name.
    fn question(&mut self, question: &mut Question) {
        let Question { hash: hashed, id: _, qtype: _, name_len, _pad: _, name } = question;
        let length = usize::from(*name_len);
        let (kept, behind) = name.split_at_mut(length.min(NAME_KEPT));
        // Of an earlier question.
        behind.fill(0);
        let is_whole = length <= NAME_KEPT && hash(kept) == *hashed;
        self.name(kept);
        if is_whole {
            *hashed = hash(kept);
        } else if *hashed != 0 {
            *hashed = self.key.number(Domain::Hash, *hashed, &[]);
        }
    }

    pub(super) fn listen(&mut self, mut e: Box<Listen>) -> Box<Listen> {
        let Listen {
            header: _,
            tuple,
            sk,
            ino: _,
            isn: _,
            stage: _,
            ack_backlog: _,
            max_ack_backlog: _,
            qlen: _,
            somaxconn: _,
            max_syn_backlog: _,
            syncookies: _,
        } = &mut *e;
        self.pointer(sk);
        self.tuple(tuple);
        e
    }

    pub(super) fn connect(&mut self, mut e: Box<Connect>) -> Box<Connect> {
        let Connect {
            header: _,
            tuple,
            sk,
            started: _,
            pid: _,
            comm,
            isn: _,
            retransmits: _,
            outcome: _,
            err: _,
            port_range: _,
        } = &mut *e;
        self.pointer(sk);
        self.tuple(tuple);
        self.comm(comm);
        e
    }

    pub(super) fn probe(&mut self, mut e: Box<Probe>) -> Box<Probe> {
        let Probe {
            header: _,
            tuple,
            sk,
            started: _,
            connected: _,
            silence: _,
            sent: _,
            received: _,
            pid: _,
            comm,
            isn: _,
            outcome: _,
            retransmits: _,
            unacked: _,
            err: _,
        } = &mut *e;
        self.pointer(sk);
        self.tuple(tuple);
        self.comm(comm);
        e
    }

    pub(super) fn probe_server(&mut self, mut e: Box<ProbeServer>) -> Box<ProbeServer> {
        let ProbeServer {
            header: _,
            tuple,
            sk,
            ino: _,
            sent: _,
            received: _,
            unread: _,
            accepted: _,
            captured,
            _pad: _,
            request,
        } = &mut *e;
        self.pointer(sk);
        self.tuple(tuple);
        let captured = usize::try_from(*captured).unwrap_or(usize::MAX).min(request.len());
        let (request, behind) = request.split_at_mut(captured);
        behind.fill(0);
        self.request(request);
        e
    }

    pub(super) fn syn_ack(&mut self, mut e: Box<SynAck>) -> Box<SynAck> {
        let SynAck {
            header: _,
            tuple,
            sk,
            ino: _,
            isn: _,
            retransmits: _,
            ack_backlog: _,
            max_ack_backlog: _,
        } = &mut *e;
        self.pointer(sk);
        self.tuple(tuple);
        e
    }

    pub(super) fn clash(&mut self, mut e: Box<Clash>) -> Box<Clash> {
        let Clash {
            header: _,
            loser,
            winner,
            skb,
            winner_started: _,
            jiffies: _,
            verdict: _,
            status_after: _,
            hit_dir: _,
            iif: _,
            ident: _,
        } = &mut *e;
        self.pointer(skb);
        self.conntrack(loser);
        self.conntrack(winner);
        e
    }

    pub(super) fn probe_steps(&mut self, mut e: Box<ProbeSteps>) -> Box<ProbeSteps> {
        let ProbeSteps { header: _, tuple, sk, received: _, first: _, last: _, count: _ } = &mut *e;
        self.pointer(sk);
        self.tuple(tuple);
        e
    }

    pub(super) fn captured(&mut self, mut e: Box<Packet>) -> Box<Packet> {
        let Packet {
            header: _,
            tuple,
            ct,
            skb,
            at: _,
            ident: _,
            iif: _,
            tcp_flags: _,
            with: _,
            packet_len: _,
            captured,
            bytes,
        } = &mut *e;
        self.pointer(skb);
        self.tuple(tuple);
        self.conntrack(ct);
        let captured = usize::try_from(*captured).unwrap_or(usize::MAX).min(bytes.len());
        let (packet, behind) = bytes.split_at_mut(captured);
        behind.fill(0);
        self.packet(packet);
        e
    }

    pub(super) fn dropped(&mut self, mut e: Box<Drop>) -> Box<Drop> {
        let Drop {
            header: _,
            tuple,
            ct,
            skb,
            location,
            reason: _,
            flags: _,
            ident: _,
            ifindex: _,
            iif: _,
            tcp_flags: _,
            packet_len: _,
            captured,
            packet,
        } = &mut *e;
        self.pointer(skb);
        self.pointer(location);
        self.tuple(tuple);
        self.conntrack(ct);
        let captured = usize::try_from(*captured).unwrap_or(usize::MAX).min(packet.len());
        let (packet, behind) = packet.split_at_mut(captured);
        behind.fill(0);
        self.packet(packet);
        e
    }

    pub(super) fn dns(&mut self, mut e: Box<Dns>) -> Box<Dns> {
        let Dns {
            header: _,
            tuple,
            sk,
            first: _,
            last: _,
            answered: _,
            pid: _,
            comm,
            attempts: _,
            servers,
            rcode: _,
            server,
            _pad: _,
            question,
        } = &mut *e;
        self.pointer(sk);
        self.tuple(tuple);
        self.comm(comm);
        for (n, server) in server.iter_mut().enumerate() {
            if n < usize::from(*servers) {
                self.address(server, tuple.family);
            } else {
                *server = [0; 16];
            }
        }
        self.question(question);
        e
    }

    pub(super) fn ipvs(&mut self, mut e: Box<Ipvs>) -> Box<Ipvs> {
        let Ipvs {
            header: _,
            tuple,
            service,
            server,
            service_port: _,
            server_port: _,
            ident: _,
            tcp_flags: _,
            flags: _,
            weight: _,
            in_pkts: _,
            state: _,
            dests: _,
            verdict: _,
            _pad: _,
        } = &mut *e;
        self.tuple(tuple);
        self.address(service, tuple.family);
        self.address(server, tuple.family);
        e
    }

    pub(super) fn ct_entry(&mut self, mut e: Box<CtEntry>) -> Box<CtEntry> {
        let CtEntry {
            header: _,
            tuple,
            ct,
            skb,
            jiffies: _,
            ident: _,
            tcp_flags: _,
            verdict: _,
            info: _,
            iif: _,
        } = &mut *e;
        self.pointer(skb);
        self.tuple(tuple);
        self.conntrack(ct);
        e
    }

    pub(super) fn departure(&mut self, mut e: Box<Departure>) -> Box<Departure> {
        let Departure {
            header: _,
            tuple,
            skb,
            ident: _,
            tcp_flags: _,
            direction: _,
            inner: _,
            ifindex,
            dev_flags: _,
            name,
            link: _,
        } = &mut *e;
        self.pointer(skb);
        self.tuple(tuple);
        if !is_plain(name) {
            *name = [0; 16];
            let plain = format!("dev{ifindex}");
            name.iter_mut().zip(plain.bytes().take(15)).for_each(|(to, from)| *to = from);
        }
        e
    }

    pub(super) fn reject(&mut self, mut e: Box<Reject>) -> Box<Reject> {
        let Reject { header: _, tuple, ct, skb, ident: _, tcp_flags: _, code: _, hook: _ } =
            &mut *e;
        self.pointer(skb);
        self.tuple(tuple);
        self.conntrack(ct);
        e
    }
}

/// Whether a device's name tells nothing of whose it is: as kernel and network plugins give them,
/// with a number. (`enx` and the like have the hardware's address in them, `cali` and `veth` what is
/// made from a pod's name.)
fn is_plain(name: &[u8; 16]) -> bool {
    const STEMS: [&str; 14] = [
        "lo", "eth", "ens", "eno", "bond", "team", "tunl", "sit", "ip6tnl", "gre", "wg", "cni",
        "flannel.", "dev",
    ];
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    STEMS.iter().any(|stem| {
        name.strip_prefix(stem.as_bytes()).is_some_and(|rest| rest.iter().all(u8::is_ascii_digit))
    })
}
