//! Health probes that were connected.

use super::*;

/// The kubelet's probe of the web pod: begun at 500 ms, connected at once, given up a second later.
pub fn probe(outcome: u32, sent: u64, received: u64) -> Probe {
    Probe {
        header: header(kind::PROBE_END, HOST),
        tuple: tcp(NODE_PORT, WEB_END),
        sk: 0xffff_8880_0000_6000,
        started: START + 500 * MS,
        connected: START + 501 * MS,
        silence: 999 * MS,
        sent,
        received,
        pid: 901,
        comm: comm("kubelet"),
        isn: ISN,
        outcome,
        retransmits: 0,
        unacked: 0,
        err: 0,
    }
}

/// Its server's end when the FIN came: the request was accepted, and so much of it was not read.
pub fn probe_server(kind: u16, request: &[u8], unread: u32, sent: u64) -> ProbeServer {
    let mut captured = [0; REQUEST_BYTES];
    let len = if unread == 0 { 0 } else { request.len().min(REQUEST_BYTES) };
    captured[..len].copy_from_slice(&request[..len]);
    ProbeServer {
        header: header(kind, WEB),
        tuple: tcp(NODE_PORT, WEB_END),
        sk: 0xffff_8880_0000_7000,
        ino: 4712,
        sent,
        received: request.len() as u64,
        unread,
        accepted: 1,
        captured: len as u32,
        _pad: 0,
        request: captured,
    }
}

/// What it showed while the kubelet waited: for each step the times after the run's start, in
/// milliseconds, at which it was seen first and last, and how often.
pub fn seen_at(steps: &[(usize, u64, u64, u32)]) -> Body {
    let (mut first, mut last, mut count) = ([0; STEPS], [0; STEPS], [0; STEPS]);
    for (step, from, to, often) in steps {
        first[*step] = START + from * MS;
        last[*step] = START + to * MS;
        count[*step] = *often;
    }
    Body::ProbeSteps(Box::new(ProbeSteps {
        header: header(kind::PROBE_STEPS, HOST),
        tuple: tcp(NODE_PORT, WEB_END),
        sk: 0xffff_8880_0000_6000,
        received: 0,
        first,
        last,
        count,
    }))
}

/// Who listens there.
pub fn server_queue(waiting: u32) -> Body {
    let queue = ListenQueue { address: WEB_END.parse().unwrap(), ino: 4711, waiting };
    let (client, server) = (NODE_PORT.parse().unwrap(), WEB_END.parse().unwrap());
    Body::ServerQueue(ServerQueue { netns: WEB, client, server, queue })
}

pub fn probed(probe: Probe) -> Body {
    Body::Probe(Box::new(probe))
}

pub fn serving(server: ProbeServer) -> Body {
    Body::ProbeServer(Box::new(server))
}
