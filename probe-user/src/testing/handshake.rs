//! Connects and listeners.

use super::*;

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

/// A connection of the host to the web pod from the NodePort.
pub fn host_syn_again(started: u64, retransmits: u32) -> Body {
    let connect = connect(kind::SYN_RETRANSMIT, WEB_END, started, retransmits);
    let header = header(kind::SYN_RETRANSMIT, HOST);
    Body::Connect(Box::new(Connect { header, tuple: tcp(NODE_PORT, WEB_END), ..connect }))
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
