//! Listening TCP sockets of a namespace with their accept queues.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::Result;
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::{enter::Inside, netlink::dump};
use crate::{
    event::ListenQueue,
    snapshot::{lines::Budget, modules, sockets},
};

/// Listeners of one namespace.
const MOST: usize = 4096;
/// What sock_diag needs for TCP.
const DIAG: [&str; 2] = ["inet_diag", "tcp_diag"];

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    pub address: SocketAddr,
    /// Connections that wait for accept(), `sk_ack_backlog`.
    pub queue: u32,
    /// `sk_max_ack_backlog`; `None` when only `/proc/net/tcp` could be asked, which does not have it.
    pub max: Option<u32>,
    pub ino: u64,
}

/// Whether sock_diag can be asked without loading a module (`net/core/sock_diag.c` asks for one).
pub fn has_diag(root: &Path) -> bool {
    modules::present(root, &DIAG).len() == DIAG.len()
}

/// The listeners of the namespace, by sock_diag if `diag` says so and the thread is in it.
///
/// # Errors
/// When the kernel does not tell.
pub fn listening(inside: &Inside, diag: bool) -> Result<Vec<Listening>> {
    let mut found = Vec::new();
    if diag && inside.entered {
        for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let request = SockDiagMessage::InetRequest(InetRequest {
                family,
                protocol: IPPROTO_TCP,
                extensions: ExtensionFlags::empty(),
                states: StateFlags::LISTEN,
                socket_id,
            });
            dump(NETLINK_SOCK_DIAG, request, |answer| {
                if let SockDiagMessage::InetResponse(response) = answer {
                    let header = &response.header;
                    let ip: IpAddr = header.socket_id.source_address;
                    found.push(Listening {
                        address: SocketAddr::new(ip, header.socket_id.source_port),
                        queue: header.recv_queue,
                        max: Some(header.send_queue),
                        ino: header.inode.into(),
                    });
                }
            })?;
        }
    } else {
        let budget = Budget::new(u64::MAX, Duration::from_secs(1));
        for file in ["tcp", "tcp6"] {
            let table = sockets::read(&inside.net.join(file), true, &budget, |_| true)?;
            found.extend(table.sockets.iter().map(|socket| Listening {
                address: socket.local,
                queue: socket.rx_queue,
                max: None,
                ino: socket.ino,
            }));
        }
    }
    found.sort_by_key(|one| (one.address.port(), one.address.ip()));
    found.truncate(MOST);
    Ok(found)
}

/// The listener that serves this address: one bound to it comes before one bound to all of its family,
/// and that before one of both families (`compute_score` in net/ipv4/inet_hashtables.c). Where several
/// share it (`SO_REUSEPORT`) the inode is 0, and all that wait are counted.
///
/// # Errors
/// When the table cannot be read.
pub fn serving(net: &Path, asked: SocketAddr) -> Result<Option<ListenQueue>> {
    let budget = Budget::new(1 << 20, Duration::from_secs(1));
    let asked_ip = asked.ip().to_canonical();
    let mut best: Option<(u8, ListenQueue)> = None;
    for file in ["tcp", "tcp6"] {
        let at_port = |s: &sockets::Socket| s.local.port() == asked.port();
        let table = sockets::read(&net.join(file), true, &budget, at_port)?;
        for socket in table.sockets.iter().filter(|s| s.state == sockets::LISTEN) {
            let own = socket.local.ip();
            let rank = match own {
                _ if own == asked_ip => 0,
                _ if !own.is_unspecified() => continue,
                _ if own.is_ipv4() == asked_ip.is_ipv4() => 1,
                IpAddr::V6(_) => 2,
                IpAddr::V4(_) => continue,
            };
            match &mut best {
                Some((other, queue)) if rank == *other => {
                    queue.ino = 0;
                    queue.waiting = queue.waiting.saturating_add(socket.rx_queue);
                }
                Some((other, _)) if rank > *other => {}
                _ => {
                    let (address, ino, waiting) = (socket.local, socket.ino, socket.rx_queue);
                    best = Some((rank, ListenQueue { address, ino, waiting }));
                }
            }
        }
    }
    Ok(best.map(|(_, queue)| queue))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::path::PathBuf;

    use super::*;

    #[test]
    fn our_own_listener_is_among_them() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap();
        let net = PathBuf::from("/proc/thread-self/net");
        let inside = Inside { netns: 0, net, entered: true };
        for diag in [false, has_diag(Path::new("/"))] {
            let found = listening(&inside, diag).unwrap();
            let one = found.iter().find(|one| one.address == own).unwrap();
            assert_eq!((one.queue, one.max.is_some()), (0, diag));
            assert!(one.ino > 0);
        }
    }

    #[test]
    fn the_listener_that_serves_an_address() {
        let dir = tempfile::tempdir().unwrap();
        let all = "0: 00000000:1F90 00000000:0000 0A 0:00000002 0:0 00000000 0 0 11\n";
        let own = "1: 0202F40A:1F90 00000000:0000 0A 0:00000003 0:0 00000000 0 0 12\n";
        let one = "2: 00000000:1F93 00000000:0000 0A 0:00000001 0:0 00000000 0 0 14\n";
        let two = "3: 00000000:1F93 00000000:0000 0A 0:00000004 0:0 00000000 0 0 15\n";
        let both = "0: 00000000000000000000000000000000:1F91 00000000000000000000000000000000:0000 \
                    0A 0:00000001 0:0 00000000 0 0 13\n";
        std::fs::write(dir.path().join("tcp"), [all, own, one, two].concat()).unwrap();
        std::fs::write(dir.path().join("tcp6"), both).unwrap();
        let at = |address: &str| {
            let found = serving(dir.path(), address.parse().unwrap()).unwrap();
            found.map(|queue| (queue.ino, queue.waiting))
        };
        assert_eq!(at("10.244.2.2:8080"), Some((12, 3)));
        assert_eq!(at("10.244.2.3:8080"), Some((11, 2)));
        assert_eq!(at("10.244.2.3:8081"), Some((13, 1)));
        assert_eq!(at("10.244.2.3:8083"), Some((0, 5)), "one of two, by SO_REUSEPORT");
        assert_eq!(at("[fd00::1]:8080"), None);
        assert_eq!(at("10.244.2.3:8082"), None);
    }
}
