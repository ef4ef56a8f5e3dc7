//! What is read of `/proc` where no hook tells.

use super::*;

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
