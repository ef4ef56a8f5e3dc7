//! A small cluster and its events, for tests: a client, two DNS pods behind a service, a web pod
//! and the host.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod cluster;
mod conntrack;
mod departure;
mod dns;
mod drops;
mod handshake;
mod ipvs;
mod packet;
mod polled;
mod probes;
mod run;

use std::net::{Ipv4Addr, SocketAddrV4};

use probe_common::{
    event::{
        Clash, Connect, CtEntry, DROP_HAS_REASON, DROP_IN_NF_HOOK_SLOW, DROP_TABLE_FULL, Dns, Drop,
        Header, IPVS_FOUND, IPVS_GONE, IPVS_LOOKED, Ipvs, Listen, NF_INET_FORWARD, OUTCOME_TRYING,
        PACKET_BYTES, Probe, ProbeServer, ProbeSteps, QNAME_BYTES, Question, REQUEST_BYTES, Reject,
        SERVERS, STAGE_SYN, STEPS, SynAck, VERDICT_ACCEPT, kind,
    },
    net::{Conntrack, FAMILY_V4, IPPROTO_TCP, IPPROTO_UDP, Tuple, ips},
};

use crate::{
    correlate::{Options, dns::hash},
    event::{
        Body, Clock, Event, Hook, HookState, IpvsEntry, ListenQueue, ListenQueues, LocalPorts,
        Node, Outcome, Pod, PodChange, Process, Rung, ServerQueue, Service, Symbol, SynSent,
        Totals,
        armed::{Armed, Outcome as LetGo, Set, Step},
    },
    finding::{Cause, Finding, Flow, Output},
    pipeline::Pipeline,
};

pub use self::{
    cluster::*, conntrack::*, departure::*, dns::*, drops::*, handshake::*, ipvs::*, packet::*,
    polled::*, probes::*, run::*,
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
