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
use crate::snapshot::{lines::Budget, modules, sockets};

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
}
