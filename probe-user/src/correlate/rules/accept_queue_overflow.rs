//! `accept-queue-overflow`: the program does not accept() fast enough. The kernel refuses the SYN
//! (`tcp_conn_request`) or the final ACK (`tcp_v4_syn_recv_sock`) while `sk_ack_backlog` exceeds
//! `sk_max_ack_backlog`; neither shows as a dropped packet.

use std::net::SocketAddr;

use probe_common::{
    event::{Header, Listen, STAGE_ACK},
    net::Tuple,
};

use super::Verdict;
use crate::{
    correlate::{
        describe::sorted,
        evidence::Seen,
        join::Case,
        symptom::Side,
        world::{ListenerKey, Watch, World, overflowed},
    },
    finding::{
        Cause, Confidence, Details, Evidence, Fix, Flow, Party, Place, SymptomKind,
        details::{AcceptQueue, CappedBy, Stage},
    },
};

pub fn judge(case: &Case<'_>) -> Option<Verdict> {
    let refusals = case.listens();
    match refusals.iter().find(|l| overflowed(&l.event)) {
        Some(refused) => Some(certain(case, refused)),
        None => resent(case).or_else(|| left_out(case)).or_else(|| polled(case)),
    }
}

fn certain(case: &Case<'_>, refused: &Seen<Listen>) -> Verdict {
    let mut lines = case.symptom.notes.clone();
    lines.extend(case.listens().into_iter().map(|l| case.say_listen(l)));
    lines.extend(case.synacks().into_iter().map(|s| case.say_synack(s)));
    let details = details(case.world, &refused.event);
    verdict(case, details, Confidence::Certain, refused.ts, lines)
}

/// The refusal itself was not delivered, but the SYN-ACK sent again found the queue full.
fn resent(case: &Case<'_>) -> Option<Verdict> {
    let synacks = case.synacks();
    let full = synacks.iter().find(|s| s.event.ack_backlog > s.event.max_ack_backlog)?;
    let e = &*full.event;
    let mut details = AcceptQueue {
        ack_backlog: e.ack_backlog,
        max_ack_backlog: Some(e.max_ack_backlog),
        stage: Stage::Ack,
        ..listener(case.world, &e.header, &e.tuple, (e.ino, e.sk))
    };
    count(&mut details, case.world);
    let mut lines = case.symptom.notes.clone();
    lines.extend(synacks.iter().map(|s| case.say_synack(s)));
    Some(verdict(case, details, Confidence::Likely, full.ts, lines))
}

/// Details of refusals were left out (too many at once), and the listener this client asks was
/// refusing others in that time.
fn left_out(case: &Case<'_>) -> Option<Verdict> {
    let kinds = [probe_common::event::kind::LISTEN_DROP];
    let (world, since) = (case.world, *case.symptom.span().start());
    let is_tcp = case.symptom.kind == SymptomKind::ConnectStall;
    if !case.last_word || !is_tcp || case.symptom.side != Side::Client {
        return None;
    }
    let why = world.losses.since(since, &kinds)?;
    let (ts, listen) = world.overflow_at(case.symptom.server(), since)?;
    let seen = Seen { ts, event: Box::new(*listen) };
    let mut lines = case.symptom.notes.clone();
    let mut line = case.say_listen(&seen);
    line.text.push_str(&format!(" (that of another client; {why})"));
    lines.push(line);
    let details = details(world, listen);
    Some(verdict(case, details, Confidence::Likely, ts, lines))
}

/// No hook tells of refusals. `ListenOverflows` rose whenever a SYN of this client was lost, in the
/// namespace it was sent to, and connections wait there in the accept queue of the port asked for.
/// Of an address that no pod here has (a service, another node, the Internet) nothing tells which
/// namespace that is, so it says nothing.
fn polled(case: &Case<'_>) -> Option<Verdict> {
    let (symptom, world) = (case.symptom, case.world);
    if !case.is_polled_connect(Cause::AcceptQueueOverflow) {
        return None;
    }
    let spans = symptom.lost_syns();
    let end = symptom.server();
    let since = *symptom.span().start();
    let asked = if end.ip().to_canonical().is_loopback() {
        symptom.netns
    } else {
        world.pods.owner(end.ip(), symptom.opened)?.netns
    };
    let mut refusing = world.polled.rose_in_each(&spans, |rise| rise.overflows);
    let (_, rises) = refusing.find(|(netns, _)| *netns == asked)?;
    let (ts, queues) = world.polled.queues(asked, since)?;
    let serving = queues.queues.iter().filter_map(|q| Some((fit(q.address, end)?, q)));
    let (fit, queue) = serving.min_by_key(|(fit, _)| *fit)?;
    // Another queue there may be the one that is full.
    let alone = !queues.cut && queues.queues.iter().all(|q| q.address == queue.address);
    let full = queues.somaxconn.is_some_and(|most| queue.waiting > most);
    let confidence = if (alone || full) && fit != Fit::OtherFamily {
        Confidence::Likely
    } else {
        Confidence::Possible
    };
    let listener = world.listener(queue.ino);
    let somaxconn = queues.somaxconn.unwrap_or(0);
    let details = AcceptQueue {
        address: end.ip(),
        port: end.port(),
        process: listener.map(|l| l.comm.clone()),
        pid: listener.map(|l| l.pid),
        ack_backlog: queue.waiting,
        max_ack_backlog: None,
        somaxconn,
        stage: Stage::Syn,
        capped_by: if queues.somaxconn.is_some_and(|most| queue.waiting > most) {
            CappedBy::Somaxconn
        } else {
            CappedBy::Unknown
        },
        refused: 0,
        kernel_listen_overflows: world.counters.listen_overflows(queues.netns),
        missed: 0,
        details_left_out: 0,
        netns: queues.netns,
        key: (queues.netns, queue.ino),
    };
    let mut lines = symptom.notes.clone();
    let place = world.pods.name(queues.netns, 0, ts);
    let overflows: u64 = rises.iter().map(|rise| rise.overflows).sum();
    lines.push(Evidence {
        ts,
        kind: "listen-queue",
        text: format!(
            "/proc/net/tcp in {place}: {} connections wait for accept() at {}; ListenOverflows \
             there rose by {overflows} when SYNs of this client were sent",
            queue.waiting, queue.address
        ),
    });
    Some(verdict(case, details, confidence, ts, lines))
}

/// How well a listener's address fits that of a connect; the kernel takes the best first
/// (`compute_score` in net/ipv4/inet_hashtables.c).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Own,
    Any,
    /// `[::]` and an IPv4 client: it may take IPv6 only (`IPV6_V6ONLY`), and a listener on 0.0.0.0
    /// whose queue is empty is not listed.
    OtherFamily,
}

fn fit(listener: SocketAddr, asked: SocketAddr) -> Option<Fit> {
    let (own, at) = (listener.ip(), asked.ip().to_canonical());
    if listener.port() != asked.port() {
        None
    } else if own == at {
        Some(Fit::Own)
    } else if !own.is_unspecified() {
        None
    } else if own.is_ipv4() == at.is_ipv4() {
        Some(Fit::Any)
    } else {
        own.is_ipv6().then_some(Fit::OtherFamily)
    }
}

fn details(world: &World, e: &Listen) -> AcceptQueue {
    let mut details = AcceptQueue {
        ack_backlog: e.ack_backlog,
        max_ack_backlog: Some(e.max_ack_backlog),
        somaxconn: e.somaxconn,
        stage: if e.stage == STAGE_ACK { Stage::Ack } else { Stage::Syn },
        // listen() cuts the program's wish at somaxconn (inet_listen): equal means somaxconn caps.
        capped_by: if e.max_ack_backlog >= e.somaxconn {
            CappedBy::Somaxconn
        } else {
            CappedBy::Listen
        },
        ..listener(world, &e.header, &e.tuple, (e.ino, e.sk))
    };
    count(&mut details, world);
    details
}

/// Who listens there; nothing is known of the queue and nothing counted yet.
fn listener(world: &World, header: &Header, tuple: &Tuple, (ino, sk): (u64, u64)) -> AcceptQueue {
    let listener = world.listener(ino);
    let at = Flow::of(tuple).dst;
    AcceptQueue {
        address: at.ip(),
        port: at.port(),
        process: listener.map(|l| l.comm.clone()),
        pid: listener.map(|l| l.pid),
        ack_backlog: 0,
        max_ack_backlog: None,
        somaxconn: 0,
        stage: Stage::Syn,
        capped_by: CappedBy::Listen,
        refused: 0,
        kernel_listen_overflows: None,
        missed: 0,
        details_left_out: 0,
        netns: header.netns,
        key: (header.netns, if ino == 0 { sk } else { ino }),
    }
}

fn verdict(
    case: &Case<'_>,
    details: AcceptQueue,
    confidence: Confidence,
    ts: u64,
    mut lines: Vec<Evidence>,
) -> Verdict {
    lines.push(counted(&details, case.world.now));
    let at = SocketAddr::new(details.address, details.port);
    let pod = case.world.pods.at(details.netns, 0, ts).map(|p| p.name.clone());
    let who = match (&details.process, details.pid) {
        (Some(process), Some(pid)) => format!("{process} (pid {pid})"),
        _ => "the program".to_owned(),
    };
    let title = format!(
        "{who} behind {at} in {} does not accept() fast enough: {} connections wait{}, so the \
         kernel refuses {}",
        pod.clone().unwrap_or_else(|| format!("netns:{}", details.netns)),
        details.ack_backlog,
        match details.max_ack_backlog {
            Some(max) => format!(", more than the limit of {max}"),
            None => " and the queue overflows".to_owned(),
        },
        match details.stage {
            Stage::Syn => "new SYNs",
            Stage::Ack => "the final ACK of the handshake (the client believes it is connected)",
        }
    );
    Verdict {
        cause: Cause::AcceptQueueOverflow,
        confidence,
        title,
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
        fold: format!("{} {at}", details.netns),
        fix: fix(&details),
        confirm: vec![format!(
            "in the pod's network namespace: `ss -ltn 'sport = :{}'` (Recv-Q is the queue, Send-Q \
             its limit) and `nstat -az TcpExtListenOverflows`",
            details.port
        )],
        details: Details::AcceptQueue(Box::new(details)),
    }
}

/// Brings the counts up to date; whether there were more refusals than before.
pub fn count(details: &mut AcceptQueue, world: &World) -> bool {
    let before = (details.refused, details.kernel_listen_overflows);
    let key: ListenerKey = details.key;
    let kind = usize::from(probe_common::event::kind::LISTEN_DROP);
    let of = |counts: &[u64]| counts.get(kind).copied().unwrap_or(0);
    let totals = &world.losses.latest;
    let left_out = of(&totals.limited).saturating_add(of(&totals.lost));
    details.details_left_out = left_out;
    details.kernel_listen_overflows = world.counters.listen_overflows(details.netns);
    let mine = world.refused.get(&key);
    let in_detail = world.refused.sum(|(netns, _)| *netns == details.netns);
    // What was left out is counted for the whole node. As much of it as the kernel's counter leaves
    // room for was here, shared by the listeners of the namespace.
    let room = details.kernel_listen_overflows.unwrap_or(0).saturating_sub(in_detail);
    let here = left_out.min(room);
    details.refused = mine.saturating_add(here.saturating_mul(mine) / in_detail.max(1));
    // Without a hook nothing was missed by it.
    let is_watched = matches!(world.watch(Cause::AcceptQueueOverflow), Watch::Watched);
    details.missed = if is_watched { room - here } else { 0 };
    let grew = before.1.zip(details.kernel_listen_overflows).is_some_and(|(old, new)| old < new);
    before.0 < details.refused || grew
}

fn counted(d: &AcceptQueue, now: u64) -> Evidence {
    if let (0, Some(kernel)) = (d.refused, d.kernel_listen_overflows) {
        let text = format!("ListenOverflows +{kernel} in its namespace so far");
        return Evidence { ts: now, kind: "counter", text };
    }
    let mut text = format!("refused so far: {} by this listener", d.refused);
    // The kernel's counter is read once a second and may lag behind the events.
    if let Some(kernel) = d.kernel_listen_overflows.filter(|kernel| *kernel >= d.refused) {
        text.push_str(&format!(", ListenOverflows +{kernel} in its namespace"));
    }
    if d.details_left_out > 0 {
        text.push_str(&format!(", {} details left out", d.details_left_out));
    }
    if d.missed > 0 {
        text.push_str(&format!(", {} missed by the hook", d.missed));
    }
    Evidence { ts: now, kind: "counter", text }
}

fn fix(details: &AcceptQueue) -> Vec<Fix> {
    let faster = Fix {
        place: Place::Application,
        now: Some("add replicas, or restart the program if it hangs".to_owned()),
        lasting: Some("accept faster: more workers, no slow work before accept()".to_owned()),
        caveat: None,
    };
    let raise = match details.capped_by {
        CappedBy::Listen => Fix {
            place: Place::Application,
            now: None,
            lasting: Some(format!(
                "raise the program's own listen() backlog{} (nginx: `listen ... backlog=N`, \
                 511 by default whatever somaxconn is){}",
                details.max_ack_backlog.map(|max| format!(", {max} now")).unwrap_or_default(),
                match details.somaxconn {
                    0 => String::new(),
                    n => format!("; somaxconn allows {n}"),
                }
            )),
            caveat: Some("counts only after the next listen(): restart or reload it".to_owned()),
        },
        CappedBy::Unknown => Fix {
            place: Place::Application,
            now: None,
            lasting: Some(format!(
                "raise what caps the queue: the program's own listen() backlog (nginx: `listen ... \
                 backlog=N`, 511 by default), or net.core.somaxconn of the pod{}",
                match details.somaxconn {
                    0 => String::new(),
                    n => format!(", {n} now"),
                }
            )),
            caveat: Some("counts only after the next listen(): restart or reload it".to_owned()),
        },
        CappedBy::Somaxconn => Fix {
            place: Place::Pod,
            now: None,
            lasting: Some(format!(
                "raise net.core.somaxconn, {} now, by the pod's securityContext.sysctls, and the \
                 program's listen() backlog with it",
                details.somaxconn
            )),
            caveat: Some(
                "somaxconn is one setting for each pod's network namespace: the node's own value \
                 does not count. The kubelet calls it unsafe \
                 (--allowed-unsafe-sysctls=net.core.somaxconn). It counts only after the next \
                 listen()"
                    .to_owned(),
            ),
        },
    };
    vec![raise, faster]
}
