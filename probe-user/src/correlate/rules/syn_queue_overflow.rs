//! `syn-queue-overflow`: no room for another half-open connection, and no SYN cookies to do
//! without. The kernel refuses the SYN in `tcp_conn_request`; it is consumed, so no drop shows.

use std::net::SocketAddr;

use probe_common::event::{Listen, STAGE_SYN_QUEUE, kind};

use super::Verdict;
use crate::{
    correlate::{
        describe::sorted,
        evidence::Seen,
        join::Case,
        symptom::Side,
        world::{World, half_open_full, listener_key},
    },
    finding::{
        Cause, Confidence, Details, Evidence, Fix, Flow, Party, Place, SymptomKind,
        details::{SynLimit, SynQueue},
    },
};

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    let refusals = case.listens();
    match refusals.iter().find(|l| half_open_full(&l.event)) {
        Some(refused) => {
            let mut lines = case.symptom.notes.clone();
            lines.extend(refusals.iter().map(|l| case.say_listen(l)));
            Some(verdict(case, &refused.event, Confidence::Certain, refused.ts, lines))
        }
        None => left_out(case),
    }
}

/// Details of refusals were left out (too many at once), and the listener this client asks was
/// refusing others in that time.
fn left_out(case: &Case<'_>) -> Option<Verdict> {
    let (world, since) = (case.world, *case.symptom.span().start());
    let is_tcp = case.symptom.kind == SymptomKind::ConnectStall;
    if !case.last_word || !is_tcp || case.symptom.side != Side::Client {
        return None;
    }
    let why = world.losses.since(since, &[kind::LISTEN_DROP])?;
    let (ts, listen) = world.half_open_full_at(case.symptom.server(), since)?;
    let seen = Seen { ts, event: Box::new(*listen) };
    let mut lines = case.symptom.notes.clone();
    let mut line = case.say_listen(&seen);
    line.text.push_str(&format!(" (that of another client; {why})"));
    lines.push(line);
    Some(verdict(case, listen, Confidence::Likely, ts, lines))
}

fn verdict(
    case: &Case<'_>,
    e: &Listen,
    confidence: Confidence,
    ts: u64,
    mut lines: Vec<Evidence>,
) -> Verdict {
    let world = case.world;
    let listener = world.listener(e.ino);
    let at = Flow::of(&e.tuple).dst;
    let mut details = SynQueue {
        address: at.ip(),
        port: at.port(),
        process: listener.map(|l| l.comm.clone()),
        pid: listener.map(|l| l.pid),
        limit: if e.stage == STAGE_SYN_QUEUE { SynLimit::Backlog } else { SynLimit::LastQuarter },
        half_open: e.qlen,
        max_ack_backlog: e.max_ack_backlog,
        somaxconn: e.somaxconn,
        max_syn_backlog: e.max_syn_backlog,
        syncookies: e.syncookies,
        refused: 0,
        kernel_listen_drops: None,
        kernel_reqq_full_drop: None,
        netns: e.header.netns,
        key: listener_key(e),
    };
    count(&mut details, world);
    lines.extend(counted(&details, world.now));
    let pod = world.pods.at(details.netns, 0, ts).map(|p| p.name.clone());
    let place = pod.clone().unwrap_or_else(|| format!("netns:{}", details.netns));
    let limit = match details.limit {
        SynLimit::Backlog => format!("its listen() backlog allows {}", details.max_ack_backlog),
        SynLimit::LastQuarter => format!(
            "the last quarter of tcp_max_syn_backlog, {}, is for peers known from before",
            details.max_syn_backlog
        ),
    };
    Verdict {
        cause: Cause::SynQueueOverflow,
        confidence,
        title: format!(
            "the listener {at} in {place} has {} half-open connections and SYN cookies are off: \
             {limit}, so the kernel refuses new SYNs",
            details.half_open
        ),
        evidence: sorted(lines),
        culprit: Some(Party {
            pod,
            netns: Some(details.netns),
            address: Some(details.address),
            port: Some(details.port),
            process: details.process.clone(),
            pid: details.pid,
            ..Party::default()
        }),
        fold: format!("{} {}", details.netns, SocketAddr::new(details.address, details.port)),
        fix: fix(&details),
        confirm: vec![format!(
            "in the pod's network namespace: `ss -tn state syn-recv 'sport = :{}'` (who does not \
             finish its handshakes), `nstat -az TcpExtListenDrops TcpExtTCPReqQFullDrop` and \
             `sysctl net.ipv4.tcp_syncookies net.ipv4.tcp_max_syn_backlog`",
            details.port
        )],
        details: Details::SynQueue(Box::new(details)),
    }
}

/// Brings the counts up to date; whether there were more refusals than before.
pub fn count(details: &mut SynQueue, world: &World) -> bool {
    let before = details.refused;
    details.refused = world.half_open_refused.get(&details.key);
    details.kernel_listen_drops = world.counters.grown(details.netns, |c| c.listen_drops);
    details.kernel_reqq_full_drop = world.counters.grown(details.netns, |c| c.reqq_full_drop);
    before < details.refused
}

fn counted(d: &SynQueue, now: u64) -> Option<Evidence> {
    let drops = d.kernel_listen_drops?;
    let mut text = format!("refused so far: {} by this listener, ListenDrops +{drops}", d.refused);
    if let Some(full) = d.kernel_reqq_full_drop {
        text.push_str(&format!(" and TCPReqQFullDrop +{full}"));
    }
    text.push_str(" in its namespace");
    Some(Evidence { ts: now, kind: "counter", text })
}

fn fix(d: &SynQueue) -> Vec<Fix> {
    let cookies = Fix {
        place: Place::Pod,
        now: None,
        lasting: Some(
            "switch SYN cookies on, the kernel's default: net.ipv4.tcp_syncookies=1 by the pod's \
             securityContext.sysctls"
                .to_owned(),
        ),
        caveat: Some(
            "each pod's network namespace has its own value; the kubelet counts it as safe"
                .to_owned(),
        ),
    };
    let raise = match d.limit {
        SynLimit::Backlog => Fix {
            place: Place::Application,
            now: None,
            lasting: Some(format!(
                "raise the program's listen() backlog, {} now; somaxconn, {} now, caps it",
                d.max_ack_backlog, d.somaxconn
            )),
            caveat: Some("counts only after the next listen(): restart or reload it".to_owned()),
        },
        SynLimit::LastQuarter => Fix {
            place: Place::Pod,
            now: None,
            lasting: Some(format!(
                "raise net.ipv4.tcp_max_syn_backlog, {} now, by the pod's \
                 securityContext.sysctls",
                d.max_syn_backlog
            )),
            caveat: Some(
                "the kubelet calls it unsafe \
                 (--allowed-unsafe-sysctls=net.ipv4.tcp_max_syn_backlog)"
                    .to_owned(),
            ),
        },
    };
    let clients = Fix {
        place: Place::Node,
        now: Some(
            "find out who leaves handshakes half open: a SYN flood, or a path on which the \
             SYN-ACK or the final ACK is lost"
                .to_owned(),
        ),
        lasting: None,
        caveat: None,
    };
    vec![cookies, raise, clients]
}
