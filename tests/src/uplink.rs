//! The node's network card, eth0, and a host on the same wire, by the machine's other card. Nothing of
//! it goes any further than QEMU.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context as _, Result};

use crate::{
    command::{feed, run},
    netns::Pod,
    sysctl,
    wait::{SOON, until},
};

/// The card of the node, and the one that [`far`] takes.
pub const CARD: &str = "eth0";
const OTHER: &str = "eth1";
/// The node's addresses on the wire, and those of the host.
pub const NODE: [&str; 2] = ["203.0.113.1", "2001:db8:113::1"];
const FAR: [&str; 2] = ["203.0.113.9", "2001:db8:113::9"];
/// Addresses that the host answers for, without having them: no pod of this machine is known by them.
const SERVED: [&str; 2] = ["203.0.113.200", "2001:db8:113::200"];
/// Around the first of them.
const SERVED_NET: &str = "203.0.113.192/26";
const NOBODY: &str = "02:00:00:00:00:09";
/// The namespace of the host.
const HOST: &str = "far";
/// Takes every packet and tells nobody.
pub const PIT: &str = "pit0";
/// The table for what comes in by the card, see [`answers_into_pit`].
const TABLE: &str = "113";

/// Brings the node's card up, with a neighbour that is known and that nobody is. The other card is up as
/// well, for QEMU sends nothing where nobody can take it; what is not for its own address QEMU keeps.
pub fn up() -> Result<()> {
    let [v4, v6] = NODE;
    let batch = format!(
        "addr add {v4}/24 dev {CARD}\naddr add {v6}/64 dev {CARD} nodad\nlink set {CARD} up\n\
         link set {OTHER} up\n"
    );
    feed("ip", &["-batch", "-"], &batch)?;
    neighbour(NOBODY)
}

/// Tells the node which card has the host's addresses.
fn neighbour(mac: &str) -> Result<()> {
    let line = |served| format!("neigh replace {served} lladdr {mac} nud permanent dev {CARD}\n");
    feed("ip", &["-batch", "-"], &SERVED.map(line).concat())
}

/// The address of one family that the host answers for.
pub fn far_address(v6: bool) -> Result<IpAddr> {
    Ok(SERVED[usize::from(v6)].parse()?)
}

/// Puts a host at the other end. It answers a SYN with a cookie, and does not send that again: of a
/// second SYN-ACK its own node would tell.
pub fn far() -> Result<Pod> {
    let path = format!("/sys/class/net/{OTHER}/address");
    let mac = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    run("ip", &["netns", "add", HOST])?;
    run("ip", &["link", "set", OTHER, "netns", HOST])?;
    let [v4, v6] = FAR;
    let batch = format!(
        "link set lo up\naddr add {v4}/24 dev {OTHER}\naddr add {v6}/64 dev {OTHER} nodad\n\
         link set {OTHER} up\nroute add local {SERVED_NET} dev lo\n"
    );
    feed("ip", &["-n", HOST, "-batch", "-"], &batch)?;
    neighbour(mac.trim())?;
    let far = Pod { name: HOST.to_owned(), v4: v4.parse()?, v6: v6.parse()? };
    sysctl::set_in(&far, "net.ipv4.tcp_syncookies", "2")?;
    Ok(far)
}

/// A device that takes every packet and tells nobody: no drop is seen.
pub fn pit() -> Result<()> {
    feed("ip", &["-batch", "-"], &format!("link add {PIT} type dummy\nlink set {PIT} up\n"))
}

/// What comes in by the node's card and is for others goes there.
pub fn answers_into_pit() -> Result<()> {
    pit()?;
    let batch =
        format!("route add default dev {PIT} table {TABLE}\nrule add iif {CARD} lookup {TABLE}\n");
    feed("ip", &["-batch", "-"], &batch)
}

/// All as it was before. The host's card comes back some time after its namespace is gone.
pub fn clean() -> Result<()> {
    let state = |device: &str| Path::new("/sys/class/net").join(device).join("operstate");
    if state(PIT).exists() {
        run("ip", &["link", "del", PIT])?;
    }
    if !fs::read_to_string(state(CARD)).is_ok_and(|state| state.trim() != "down") {
        return Ok(());
    }
    if !run("ip", &["rule", "show", "iif", CARD])?.is_empty() {
        run("ip", &["rule", "del", "iif", CARD])?;
    }
    let batch = format!(
        "neigh flush dev {CARD} nud permanent\naddr flush dev {CARD}\nlink set {CARD} down\n"
    );
    feed("ip", &["-batch", "-"], &batch)?;
    let other = || Ok(state(OTHER).exists().then_some(()));
    until("the other card is back", SOON, other)?;
    run("ip", &["link", "set", OTHER, "down"]).map(drop)
}
