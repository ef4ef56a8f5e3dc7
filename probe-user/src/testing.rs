//! A small cluster and its events, for tests: a client, two DNS pods behind a service, a web pod
//! and the host.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::net::{Ipv4Addr, SocketAddrV4};

use probe_common::{
    event::{
        Clash, Connect, CtEntry, DROP_HAS_REASON, DROP_IN_NF_HOOK_SLOW, DROP_TABLE_FULL, Dns, Drop,
        Header, IPVS_FOUND, IPVS_GONE, IPVS_LOOKED, Ipvs, Listen, NF_INET_FORWARD, OUTCOME_TRYING,
        PACKET_BYTES, QNAME_BYTES, Question, Reject, SERVERS, STAGE_SYN, SynAck, VERDICT_ACCEPT,
        kind,
    },
    net::{Conntrack, FAMILY_V4, IPPROTO_TCP, IPPROTO_UDP, Tuple, ips},
};

use crate::{
    correlate::{Options, dns},
    event::{
        Body, Clock, Event, Hook, HookState, IpvsEntry, ListenQueue, ListenQueues, LocalPorts,
        Node, Outcome, Pod, PodChange, Process, Rung, Service, Symbol, SynSent, Totals,
        armed::{Armed, Outcome as LetGo, Set, Step},
    },
    finding::{Cause, Finding, Flow, Output},
    pipeline::Pipeline,
};

pub const MS: u64 = 1_000_000;
/// Boot time at which every test begins: 1000 s, which is 12:00:00 UTC on the wall.
pub const START: u64 = 1_000_000 * MS;
const NOON: u64 = 1_763_726_400_000 * MS;

pub const HOST: u32 = 1;
pub const CLIENT: u32 = 101;
pub const DNS_A: u32 = 102;
pub const DNS_B: u32 = 103;
pub const WEB: u32 = 104;

pub const CLIENT_END: &str = "10.244.1.2:40312";
pub const SERVICE: &str = "10.96.0.10:53";
pub const DNS_A_END: &str = "10.244.2.2:53";
pub const DNS_B_END: &str = "10.244.3.2:53";
pub const WEB_END: &str = "10.244.4.2:8080";

pub const NAME: &[u8] = b"\x03svc\x07cluster\x05local\0";
pub const A: u16 = 1;
pub const AAAA: u16 = 28;
pub const ISN: u32 = 0xfeed_beef;

pub const NETFILTER_DROP: u32 = 11;
pub const NO_SOCKET: u32 = 3;
pub const NEIGH_FAILED: u32 = 52;

/// The stream of a run, and what came out of it.
pub struct Run {
    pub pipeline: Pipeline,
    pub out: Vec<Output>,
    queued: Vec<Event>,
    ticked: u64,
}

impl Run {
    /// A node with all hooks watched, nothing lost, and the pods in place.
    pub fn new() -> Self {
        Self::with(node(), hooks(|_| HookState::Watched { rung: Rung::Kprobe }))
    }

    pub fn with(node: Node, hooks: Vec<Hook>) -> Self {
        let pipeline = Pipeline::new(Options::default());
        let mut run = Self { pipeline, out: Vec::new(), queued: Vec::new(), ticked: 0 };
        run.at(0, Body::Clock(Clock { wall: NOON }));
        run.at(0, Body::Node(Box::new(node)));
        run.at(0, Body::Hooks(hooks));
        for (netns, name, address) in [
            (HOST, "host", "10.0.3.17"),
            (CLIENT, "client", "10.244.1.2"),
            (DNS_A, "dns-a", "10.244.2.2"),
            (DNS_B, "dns-b", "10.244.3.2"),
            (WEB, "web", "10.244.4.2"),
        ] {
            run.at(0, up(netns, name, address));
        }
        for (address, name) in [
            (0x100, "nf_hook_slow+0x7b"),
            (0x200, "nft_do_chain+0x1f [nf_tables]"),
            (0x300, "__udp4_lib_rcv+0x12"),
            (0x400, "tcp_v4_rcv+0x9a"),
            (0x500, "neigh_invalidate+0x33"),
        ] {
            run.at(0, Body::Symbol(Symbol { address, name: name.to_owned() }));
        }
        run.at(0, Body::Totals(Box::new(totals())));
        run
    }

    /// Queues an event `ms` milliseconds after the start.
    pub fn at(&mut self, ms: u64, body: Body) -> &mut Self {
        let ts = START + ms * MS;
        self.queued.push(Event { ts, body });
        self
    }

    /// Plays what is queued, with a tick every 100 ms, up to `ms` after the start.
    pub fn until(&mut self, ms: u64) -> &mut Self {
        let mut events = std::mem::take(&mut self.queued);
        events.sort_by_key(|e| e.ts);
        let mut events = events.into_iter().peekable();
        while self.ticked <= ms {
            let tick = START + self.ticked * MS;
            while let Some(event) = events.next_if(|e| e.ts <= tick) {
                self.out.extend(self.pipeline.push(event));
            }
            self.out.extend(self.pipeline.push(Event { ts: tick, body: Body::Tick }));
            self.ticked += 100;
        }
        self.queued = events.collect();
        self
    }

    /// The pipeline alone.
    pub fn take(&mut self) -> Pipeline {
        std::mem::replace(&mut self.pipeline, Pipeline::new(Options::default()))
    }

    pub fn findings(&self) -> Vec<&Finding> {
        let found = self.out.iter().filter_map(|o| match o {
            Output::Finding(f) => Some(&**f),
            Output::Update(..) => None,
        });
        found.collect()
    }

    /// The only output there is.
    pub fn only(&self) -> &Finding {
        match self.out.as_slice() {
            [Output::Finding(f)] => f,
            other => panic!("{} outputs: {other:#?}", other.len()),
        }
    }

    pub fn causes(&self) -> Vec<Cause> {
        self.findings().iter().map(|f| f.cause).collect()
    }

    /// Boot time of an output in milliseconds after the start cannot be told; this is when the
    /// first finding came, by playing tick by tick.
    pub fn first_finding_at(&mut self, limit: u64) -> Option<u64> {
        while self.ticked <= limit {
            let tick = self.ticked;
            self.until(tick);
            if !self.out.is_empty() {
                return Some(tick);
            }
        }
        None
    }
}

pub fn node() -> Node {
    let reasons = [(2, "NOT_SPECIFIED"), (NO_SOCKET, "NO_SOCKET")].into_iter();
    let reasons =
        reasons.chain([(NETFILTER_DROP, "NETFILTER_DROP"), (NEIGH_FAILED, "NEIGH_FAILED")]);
    Node {
        version: "0.1.0".to_owned(),
        name: "ip-10-0-3-17".to_owned(),
        kernel: "6.12.117".to_owned(),
        kube_proxy: "iptables".to_owned(),
        netns: HOST,
        drop_reasons: reasons.map(|(n, name)| (n, name.to_owned())).collect(),
        min_stall: 1000 * MS,
        dns_ports: Vec::new(),
        modules: vec!["nf_conntrack".to_owned(), "nf_nat".to_owned()],
        no_ebpf: String::new(),
    }
}

pub fn hooks(state: impl Fn(&str) -> HookState) -> Vec<Hook> {
    let hooks: [(&str, &str, &[&str]); 13] = [
        ("tcp_conn_request", "listen", &["accept-queue-overflow", "syn-queue-overflow"]),
        ("tcp_conn_request (return)", "half_open", &["syn-queue-overflow"]),
        ("tcp_v4_syn_recv_sock", "listen", &["accept-queue-overflow"]),
        (
            "nf_ct_resolve_clash",
            "conntrack",
            &["conntrack-dnat-clash", "conntrack-snat-clash", "snat-ports-exhausted"],
        ),
        ("__nf_conntrack_confirm (return)", "conntrack", &["conntrack-insert-failed"]),
        ("early_drop", "conntrack", &["conntrack-table-full"]),
        (
            "nf_conntrack_in",
            "conntrack",
            &["conntrack-stale-nat", "conntrack-invalid", "reply-not-translated"],
        ),
        ("udp_send_skb", "dns", &["conntrack-dnat-clash", "server-slow"]),
        (
            "skb:kfree_skb",
            "skb_drop",
            &["conntrack-dnat-clash", "conntrack-table-full", "no-listener"],
        ),
        ("ip_vs_schedule", "ipvs", &["ipvs-nodeport-collision"]),
        ("ip_vs_leave", "ipvs", &["service-no-backend"]),
        ("ip_vs_nat_xmit", "ipvs", &["ipvs-stale-connection"]),
        ("nf_send_unreach", "reject", &["service-no-backend"]),
    ];
    let hook = |(name, family, causes): (&str, &str, &[&str])| Hook {
        name: name.to_owned(),
        family: family.to_owned(),
        causes: causes.iter().map(|&c| c.to_owned()).collect(),
        state: state(name),
    };
    hooks.map(hook).into()
}

pub fn totals() -> Totals {
    let none = vec![0; kind::COUNT];
    Totals { seen: none.clone(), limited: none.clone(), lost: none, ..Totals::default() }
}

pub fn up(netns: u32, name: &str, address: &str) -> Body {
    let addresses = vec![address.parse().unwrap()];
    Body::Pod(PodChange::Up(Pod { netns, cookie: 0, name: name.to_owned(), addresses }))
}

fn bytes(ip: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&ip.octets());
    bytes
}

pub fn tuple(proto: u8, src: &str, dst: &str) -> Tuple {
    let (src, dst): (SocketAddrV4, SocketAddrV4) = (src.parse().unwrap(), dst.parse().unwrap());
    Tuple {
        src: bytes(*src.ip()),
        dst: bytes(*dst.ip()),
        sport: src.port(),
        dport: dst.port(),
        proto,
        family: FAMILY_V4,
        _pad: [0; 2],
    }
}

pub fn udp(src: &str, dst: &str) -> Tuple {
    tuple(IPPROTO_UDP, src, dst)
}

pub fn tcp(src: &str, dst: &str) -> Tuple {
    tuple(IPPROTO_TCP, src, dst)
}

pub fn comm(name: &str) -> [u8; 16] {
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name.as_bytes());
    comm
}

fn header(kind: u16, netns: u32) -> Header {
    Header { netns, kind, ..Header::default() }
}

pub fn question(id: u16, qtype: u16, wire: &[u8]) -> Question {
    let mut name = [0; QNAME_BYTES];
    let kept = wire.len().min(QNAME_BYTES - 1);
    name[..kept].copy_from_slice(&wire[..kept]);
    let name_len = u16::try_from(wire.len()).unwrap();
    Question { hash: dns::hash(wire), id, qtype, name_len, _pad: 0, name }
}

/// A query of the client for [`NAME`] to the service, `first` ms after the start.
pub fn query(kind: u16, id: u16, qtype: u16, first: u64) -> Dns {
    let tuple = udp(CLIENT_END, SERVICE);
    let first = START + first * MS;
    let mut server = [[0; 16]; SERVERS];
    server[0] = tuple.dst;
    Dns {
        header: header(kind, CLIENT),
        tuple,
        sk: 0xffff_8880_0000_1000,
        first,
        last: first,
        answered: 0,
        pid: 812,
        comm: comm("getent"),
        attempts: 1,
        servers: 1,
        rcode: 0xffff,
        server,
        _pad: [0; 3],
        question: question(id, qtype, NAME),
    }
}

pub fn unanswered(id: u16, qtype: u16, first: u64) -> Body {
    Body::Dns(Box::new(query(kind::DNS_UNANSWERED, id, qtype, first)))
}

pub fn retry(id: u16, qtype: u16, first: u64, again: u64) -> Body {
    let last = START + again * MS;
    let query = query(kind::DNS_RETRY, id, qtype, first);
    Body::Dns(Box::new(Dns { attempts: 2, last, ..query }))
}

pub fn answer(id: u16, qtype: u16, first: u64, answered: u64, attempts: u16) -> Body {
    let query = query(kind::DNS_ANSWER, id, qtype, first);
    let answered = START + answered * MS;
    Body::Dns(Box::new(Dns { answered, attempts, rcode: 0, ..query }))
}

/// The query as the server in `netns` saw it.
pub fn served(kind: u16, id: u16, netns: u32, end: &str, first: u64, answered: u64) -> Body {
    Body::Dns(Box::new(Dns {
        header: header(kind, netns),
        tuple: udp(CLIENT_END, end),
        sk: 0xffff_8880_0000_2000,
        answered: if answered == 0 { 0 } else { START + answered * MS },
        pid: if answered == 0 { 0 } else { 700 },
        comm: if answered == 0 { [0; 16] } else { comm("dnsmasq") },
        ..query(kind, id, AAAA, first)
    }))
}

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

/// A dropped packet with a reason (0: the kernel has none).
pub fn dropped(netns: u32, tuple: Tuple, ident: u32, reason: u32, location: u64) -> Drop {
    Drop {
        header: header(kind::DROP, netns),
        tuple,
        ct: Conntrack::default(),
        skb: 0xffff_8880_0000_9000,
        location,
        reason,
        flags: if reason == 0 { 0 } else { DROP_HAS_REASON },
        ident,
        ifindex: 7,
        iif: 7,
        tcp_flags: 0,
        packet_len: 0,
        captured: 0,
        packet: [0; PACKET_BYTES],
    }
}

/// A dropped DNS packet with its bytes.
pub fn dns_drop(netns: u32, tuple: Tuple, id: u16, is_answer: bool, reason: u32, at: u64) -> Drop {
    let mut packet = vec![0u8; 28];
    packet[0] = 0x45;
    packet[9] = IPPROTO_UDP;
    packet.extend(id.to_be_bytes());
    packet.extend([if is_answer { 0x81 } else { 0x01 }, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend_from_slice(NAME);
    packet.extend([0, 28, 0, 1]);
    let mut drop = dropped(netns, tuple, u32::from(id), reason, at);
    drop.captured = u32::try_from(packet.len()).unwrap();
    drop.packet[..packet.len()].copy_from_slice(&packet);
    drop
}

pub fn drop_event(drop: Drop) -> Body {
    Body::Drop(Box::new(drop))
}

pub fn table_full_drop(netns: u32, tuple: Tuple, ident: u32) -> Body {
    let mut drop = dropped(netns, tuple, ident, NETFILTER_DROP, 0x100);
    drop.flags |= DROP_TABLE_FULL | DROP_IN_NF_HOOK_SLOW;
    if tuple.proto == IPPROTO_TCP {
        drop.tcp_flags = 2;
    }
    drop_event(drop)
}

/// A dropped SYN of the client.
pub fn syn_drop(netns: u32, dst: &str, reason: u32, location: u64) -> Body {
    let mut drop = dropped(netns, tcp(CLIENT_END, dst), ISN, reason, location);
    drop.tcp_flags = 2;
    drop_event(drop)
}

/// A connect of the client.
pub fn connect(kind: u16, dst: &str, started: u64, retransmits: u32) -> Connect {
    Connect {
        header: header(kind, CLIENT),
        tuple: tcp(CLIENT_END, dst),
        sk: 0xffff_8880_0000_4000,
        started: START + started * MS,
        pid: 901,
        comm: comm("curl"),
        isn: ISN,
        retransmits,
        outcome: OUTCOME_TRYING,
        err: 0,
        port_range: 0,
    }
}

pub fn syn_again(dst: &str, started: u64, retransmits: u32) -> Body {
    Body::Connect(Box::new(connect(kind::SYN_RETRANSMIT, dst, started, retransmits)))
}

pub fn connect_end(dst: &str, started: u64, retransmits: u32, outcome: u32, err: u32) -> Body {
    let connect = connect(kind::CONNECT_END, dst, started, retransmits);
    Body::Connect(Box::new(Connect { outcome, err, ..connect }))
}

/// The web pod's listener with a full accept queue.
pub fn refusal(client: &str, isn: u32) -> Listen {
    Listen {
        header: header(kind::LISTEN_DROP, WEB),
        tuple: tcp(client, WEB_END),
        sk: 0xffff_8880_0000_5000,
        ino: 4711,
        isn,
        stage: STAGE_SYN,
        ack_backlog: 129,
        max_ack_backlog: 128,
        qlen: 0,
        somaxconn: 4096,
        max_syn_backlog: 512,
        syncookies: 1,
    }
}

pub fn refused(client: &str, isn: u32) -> Body {
    Body::Listen(Box::new(refusal(client, isn)))
}

/// A service in IPVS mode, and the NodePort that the host's own port collides with.
pub const IPVS_SERVICE: &str = "10.96.0.20:80";
pub const NODE_PORT: &str = "10.0.3.17:31055";

/// What IPVS decided on the client's SYN.
pub fn ipvs(kind: u16, server: Option<&str>) -> Ipvs {
    let service = tcp(IPVS_SERVICE, server.unwrap_or("0.0.0.0:0"));
    Ipvs {
        header: header(kind, HOST),
        tuple: tcp(CLIENT_END, IPVS_SERVICE),
        service: service.src,
        server: service.dst,
        service_port: service.sport,
        server_port: service.dport,
        ident: ISN,
        tcp_flags: 2,
        flags: 0,
        weight: u32::MAX,
        in_pkts: 0,
        state: 0,
        dests: 0,
        verdict: u32::MAX,
        _pad: 0,
    }
}

pub fn decided(ipvs: Ipvs) -> Body {
    Body::Ipvs(Box::new(ipvs))
}

/// What the armed hook saw of the client's SYN: its old connection to the web pod, which was taken
/// out of the service, and the hook's verdict.
pub fn ipvs_verdict(verdict: u32) -> Ipvs {
    let found = ipvs(kind::IPVS_VERDICT, Some(WEB_END));
    let flags = IPVS_LOOKED | IPVS_FOUND | IPVS_GONE;
    Ipvs { flags, weight: 0, in_pkts: 4, state: 5, verdict, ..found }
}

/// A step of arming for the client's flow to the IPVS service.
pub fn armed(step: Step) -> Body {
    let flow = Flow::of(&tcp(CLIENT_END, IPVS_SERVICE));
    Body::Armed(Box::new(Armed::new(Set::IpvsVerdict, flow, step)))
}

pub fn armed_now() -> Body {
    armed(Step::Armed { why: "a test".to_owned(), places: 4, took: 3 * MS })
}

pub fn let_go(outcome: LetGo, lasted: u64) -> Body {
    let spent = 402_000;
    armed(Step::LetGo { outcome, lasted: lasted * MS, runs: 402, matched: 0, spent })
}

/// The SYN was sent to the web pod, drained since, by a connection that had four packets.
pub fn stale() -> Ipvs {
    let found = ipvs(kind::IPVS_STALE, Some(WEB_END));
    Ipvs { weight: 0, in_pkts: 4, state: 3, ..found }
}

/// The web pod's SYN-ACK to the host, taken for a NodePort and sent to `dns-a`.
pub fn hijack() -> Ipvs {
    let ends = tcp(NODE_PORT, "10.244.2.2:8080");
    Ipvs {
        tuple: tcp(WEB_END, NODE_PORT),
        service: ends.src,
        server: ends.dst,
        service_port: ends.sport,
        server_port: ends.dport,
        tcp_flags: 0x12,
        weight: 1,
        dests: 1,
        ..ipvs(kind::IPVS_HIJACK, None)
    }
}

/// A connection of the host to the web pod from the NodePort.
pub fn host_syn_again(started: u64, retransmits: u32) -> Body {
    let connect = connect(kind::SYN_RETRANSMIT, WEB_END, started, retransmits);
    let header = header(kind::SYN_RETRANSMIT, HOST);
    Body::Connect(Box::new(Connect { header, tuple: tcp(NODE_PORT, WEB_END), ..connect }))
}

pub fn local_ports(low: u16, high: u16, reserved: &[(u16, u16)]) -> Body {
    Body::LocalPorts(LocalPorts { netns: HOST, low, high, reserved: reserved.to_vec() })
}

/// The client's old connection to the web pod, as it was read after its SYN was dropped.
pub fn ipvs_entry(weight: Option<u32>) -> Body {
    Body::IpvsEntry(IpvsEntry {
        netns: HOST,
        client: CLIENT_END.parse().unwrap(),
        service: IPVS_SERVICE.parse().unwrap(),
        server: WEB_END.parse().unwrap(),
        state: "TIME_WAIT".to_owned(),
        weight,
    })
}

/// A node where nothing is loaded into the kernel, with the pods in place.
pub fn without_ebpf() -> Run {
    let why = "--rungs snapshot";
    let mut hooks = hooks(|_| HookState::CannotSee { why: "no eBPF".to_owned() });
    hooks.push(Hook {
        name: "/proc/net/netstat".to_owned(),
        family: "snapshot".to_owned(),
        causes: vec!["accept-queue-overflow".to_owned()],
        state: HookState::Watched { rung: Rung::Snapshot },
    });
    Run::with(Node { no_ebpf: why.to_owned(), ..node() }, hooks)
}

/// What `/proc/net/tcp` of the client pod shows of its connect, looked at half a second before too.
pub fn syn_sent(ms: u64, server: &str, retransmits: u32, outcome: Outcome) -> Body {
    Body::SynSent(SynSent {
        netns: CLIENT,
        client: CLIENT_END.parse().unwrap(),
        server: server.parse().unwrap(),
        retransmits,
        since: START + (ms - 500) * MS,
        outcome,
    })
}

/// Accept queues that are not empty.
pub fn listen_queues(netns: u32, queues: &[(&str, u32)]) -> Body {
    let queue = |(address, waiting): &(&str, u32)| ListenQueue {
        address: address.parse().unwrap(),
        ino: 4711,
        waiting: *waiting,
    };
    let queues = queues.iter().map(queue).collect();
    Body::ListenQueues(Box::new(ListenQueues { netns, somaxconn: Some(4096), queues, cut: false }))
}

pub fn synack_again(isn: u32, client: &str, ack_backlog: u32) -> Body {
    Body::SynAck(Box::new(SynAck {
        header: header(kind::SYNACK_RETRANSMIT, WEB),
        tuple: tcp(client, WEB_END),
        sk: 0xffff_8880_0000_5000,
        ino: 4711,
        isn,
        retransmits: 1,
        ack_backlog,
        max_ack_backlog: 128,
    }))
}

/// A rule of the host rejects the packet with this ICMP code.
pub fn reject(tuple: Tuple, ident: u32, code: u32) -> Reject {
    let tcp_flags = if tuple.proto == IPPROTO_TCP { 2 } else { 0 };
    Reject {
        header: header(kind::REJECT, HOST),
        tuple,
        ct: Conntrack::default(),
        skb: 0xffff_8880_0000_3000,
        ident,
        tcp_flags,
        code,
        hook: NF_INET_FORWARD,
    }
}

pub fn rejected(reject: Reject) -> Body {
    Body::Reject(Box::new(reject))
}

/// A process of the node's own network is this pod's.
pub fn process_of(pid: u32, pod: &str) -> Body {
    Body::Process(Process { pid, pod: pod.to_owned() })
}

/// What a pod knows of a service.
pub fn service(proto: u8, address: &str, name: Option<&str>) -> Body {
    let address = address.parse().unwrap();
    Body::Service(Service { proto, address, name: name.map(str::to_owned), pid: 4711 })
}
