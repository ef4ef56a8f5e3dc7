//! Network devices, and the other end of a veth pair.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{
    netlink::{ask, dump},
    procfs::printable,
};

/// A device of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// The other end, for a veth device whose other end is in another namespace.
    pub peer: Option<Peer>,
}

/// The other end of a veth device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// In its own namespace.
    pub index: u32,
    /// What that namespace is called in the device's own: each has numbers for those it has links to.
    pub nsid: i32,
}

/// The devices of the calling thread's namespace (`net/core/rtnetlink.c`, `rtnl_fill_ifinfo`).
///
/// # Errors
/// When the kernel does not tell.
pub fn links() -> Result<Vec<Link>> {
    let mut found = Vec::new();
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    dump(NETLINK_ROUTE, request, |answer| {
        if let RouteNetlinkMessage::NewLink(message) = answer {
            found.push(link(&message));
        }
    })?;
    Ok(found)
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link { index: message.header.index, ..Link::default() };
    let (mut peer, mut nsid, mut is_veth) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = printable(name.as_bytes()),
            LinkAttribute::Link(index) => peer = Some(*index),
            LinkAttribute::LinkNetNsId(id) => nsid = Some(*id),
            LinkAttribute::LinkInfo(infos) => {
                is_veth = infos.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    let ends = peer.zip(nsid).filter(|_| is_veth);
    link.peer = ends.map(|(index, nsid)| Peer { index, nsid });
    link
}

/// What the calling thread's namespace calls another one (`net/core/net_namespace.c`,
/// `rtnl_net_getid`); `None` when it has no number for it, so no link to it either. Listing links gives
/// the numbers: ask afterwards.
///
/// # Errors
/// When the kernel does not tell.
pub fn nsid(of: BorrowedFd<'_>) -> Result<Option<i32>> {
    let mut message = NsidMessage::default();
    let fd = u32::try_from(of.as_raw_fd()).context("odd file descriptor")?;
    message.attributes.push(NsidAttribute::Fd(fd));
    let answer = ask(NETLINK_ROUTE, RouteNetlinkMessage::GetNsId(message))
        .context("cannot ask for the number of a network namespace")?;
    let RouteNetlinkMessage::NewNsId(answer) = answer else { return Ok(None) };
    let id = answer.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) => Some(*id),
        _ => None,
    });
    Ok(id.filter(|id| *id >= 0))
}

/// The indices of the node's devices that are the other ends of a pod's.
pub fn indices(of_pod: &[Link], node: Option<i32>) -> Vec<u32> {
    let peers = of_pod.iter().filter_map(|near| near.peer);
    peers.filter(|far| Some(far.nsid) == node).map(|far| far.index).collect()
}

/// The names of those of the node's devices that are the other ends of a pod's. `node` is what the pod's
/// namespace calls the node's: a link to that number and this index is a link to this device. Both ends
/// must agree on the index as well, for they were not read at the same time.
pub fn other_ends(of_node: &[Link], of_pod: &[Link], node: Option<i32>) -> Vec<String> {
    let Some(nsid) = node else { return Vec::new() };
    let is_end = |far: &&Link| {
        let there = Some(Peer { index: far.index, nsid });
        let back = far.peer.map(|peer| peer.index);
        of_pod.iter().any(|near| near.peer == there && back == Some(near.index))
    };
    of_node.iter().filter(is_end).map(|far| far.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    fn veth(index: u32, name: &str, to: u32, nsid: i32) -> Link {
        Link { index, name: name.to_owned(), peer: Some(Peer { index: to, nsid }) }
    }

    #[test]
    fn both_ends_agree() {
        let lo = Link { index: 1, name: "lo".to_owned(), peer: None };
        let of_node =
            [lo.clone(), veth(7, "veth7", 2, 0), veth(8, "veth8", 3, 1), veth(9, "veth9", 2, 2)];
        let ends = |index, node| {
            other_ends(&of_node, &[lo.clone(), veth(2, "eth0", index, 5)], node).join(" ")
        };
        assert_eq!(ends(9, Some(5)), "veth9");
        assert_eq!(ends(7, Some(5)), "veth7");
        assert_eq!(ends(8, Some(5)), "", "the other end has another index now");
        assert_eq!(ends(9, Some(4)), "", "a link to a third namespace with the same indices");
        assert_eq!(ends(9, None), "", "no link to the node");
        let of_pod = [lo.clone(), veth(2, "eth0", 9, 5), veth(3, "eth1", 9, 6)];
        assert_eq!((indices(&of_pod, Some(5)), indices(&of_pod, None)), (vec![9], vec![]));
    }

    #[test]
    fn what_the_kernel_says() {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName("eth0".to_owned()),
            LinkAttribute::Link(9),
            LinkAttribute::LinkNetNsId(0),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
        ];
        assert_eq!(link(&message), veth(0, "eth0", 9, 0));
        assert!(links().is_ok_and(|all| all.iter().any(|link| link.name == "lo")));
    }

    #[test]
    fn what_a_namespace_calls_another() {
        let own = std::fs::File::open("/proc/thread-self/ns/net");
        let id = own.map(|own| nsid(own.as_fd()));
        assert!(matches!(id, Ok(Ok(_))), "{id:?}");
        let other = std::fs::File::open("/proc/thread-self/ns/mnt");
        let id = other.map(|other| nsid(other.as_fd()));
        assert!(matches!(id, Ok(Err(_))), "no network namespace, but {id:?}");
    }
}
