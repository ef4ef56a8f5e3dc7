//! Network devices, and the other end of a veth pair.

use anyhow::Result;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{netlink::dump, procfs::printable};

/// A device of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// The index of the other end, for a veth device whose other end is in another namespace.
    pub peer: Option<u32>,
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
    let (mut peer, mut is_veth, mut elsewhere) = (None, false, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = printable(name.as_bytes()),
            LinkAttribute::Link(index) => peer = Some(*index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                is_veth = infos.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    link.peer = peer.filter(|_| is_veth && elsewhere);
    link
}

/// The names of those of the node's devices that are the other ends of a pod's. A pair knows each
/// other's index only, so both must agree.
pub fn other_ends(of_node: &[Link], of_pod: &[Link]) -> Vec<String> {
    let is_end = |far: &&Link| {
        of_pod.iter().any(|near| near.peer == Some(far.index) && far.peer == Some(near.index))
    };
    of_node.iter().filter(is_end).map(|far| far.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn veth(index: u32, name: &str, peer: u32) -> Link {
        Link { index, name: name.to_owned(), peer: Some(peer) }
    }

    #[test]
    fn both_ends_agree() {
        let lo = Link { index: 1, name: "lo".to_owned(), peer: None };
        let of_node = [lo.clone(), veth(7, "veth7", 2), veth(8, "veth8", 3), veth(9, "veth9", 2)];
        assert_eq!(other_ends(&of_node, &[lo.clone(), veth(2, "eth0", 9)]), ["veth9"]);
        assert!(other_ends(&of_node, &[lo, veth(2, "eth0", 8)]).is_empty(), "of another namespace");
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
        assert_eq!(link(&message), Link { index: 0, name: "eth0".to_owned(), peer: Some(9) });
        assert!(links().is_ok_and(|all| all.iter().any(|link| link.name == "lo")));
    }
}
