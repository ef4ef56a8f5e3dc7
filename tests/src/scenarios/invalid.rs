//! The node sees the SYN-ACK of a connection whose SYN it did not see, and kube-proxy's rule drops
//! what conntrack holds to be INVALID.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    again::armed,
    command::run,
    lab::Lab,
    sysctl,
    tcp::{self, Attempt, State},
    wait::SOON,
};

const PORT: u16 = 8080;

/// kube-proxy's rule (KUBE-FORWARD).
fn drop_invalid(v6: bool) -> Result<()> {
    let tool = if v6 { "ip6tables" } else { "iptables" };
    run(tool, &["-N", "KUBE-FORWARD"])?;
    run(tool, &["-A", "FORWARD", "-j", "KUBE-FORWARD"])?;
    let state = ["-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"];
    run(tool, &[&["-A", "KUBE-FORWARD"], &state[..]].concat()).map(drop)
}

pub fn asymmetric(lab: &Lab) -> Result<()> {
    one_way(lab, false)
}

pub fn asymmetric_v6(lab: &Lab) -> Result<()> {
    one_way(lab, true)
}

/// The SYN is switched on the bridge, the SYN-ACK is routed by the node.
fn one_way(lab: &Lab, v6: bool) -> Result<()> {
    let (client, server) = (lab.bridged("client")?, lab.bridged("shop")?);
    run("modprobe", &["br_netfilter"])?;
    for tool in ["iptables", "ip6tables"] {
        sysctl::set(&format!("net.bridge.bridge-nf-call-{tool}"), "0")?;
    }
    // The node would tell the server the shorter way.
    for name in ["all", "cbr0"] {
        sysctl::set(&format!("net.ipv4.conf.{name}.send_redirects"), "0")?;
    }
    for name in ["all", "eth0"] {
        sysctl::set_in(&server, &format!("net.ipv6.conf.{name}.accept_redirects"), "0")?;
    }
    let (to, gateway) = if v6 {
        (format!("{}/128", client.v6), "fd00:245::1")
    } else {
        (format!("{}/32", client.v4), "10.245.0.1")
    };
    run("ip", &["-n", &server.name, "route", "add", &to, "via", gateway])?;
    drop_invalid(v6)?;
    let address = SocketAddr::new(server.address(v6), PORT);
    let _server = tcp::listen(&server, "shop-api", address, 128, true)?;
    let probe = lab.probe(&["--events"])?;

    let attempt = Attempt::start(&client, address)?;
    armed(lab, &probe)?;
    probe
        .cause("conntrack-invalid", "client", SOON)?
        .is("/symptom", "connect-stall")?
        .is("/confidence", "likely")?
        .is("/culprit/pod", "shop")?
        .is("/details/packet", "syn-ack")?
        .is("/details/from", address.to_string())?
        .is("/details/judged_in", "host")?
        .filled("/fix")?;
    let state = attempt.wait(Duration::ZERO)?;
    ensure!(state == State::Pending, "the connect was {state:?}");
    probe.stop()?;
    probe.only(&["conntrack-invalid"])
}

/// A look-alike: the same rule is there, but it is another that drops the SYN-ACK.
pub fn port_dropped(lab: &Lab) -> Result<()> {
    dropped(lab, || {
        let port = PORT.to_string();
        run("iptables", &["-A", "FORWARD", "-p", "tcp", "--sport", &port, "-j", "DROP"]).map(drop)
    })
}

/// A look-alike: the SYN-ACK has no entry, because a rule takes it past conntrack.
pub fn not_tracked(lab: &Lab) -> Result<()> {
    dropped(lab, || {
        let port = PORT.to_string();
        let raw = ["-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--sport", &port];
        run("iptables", &[&raw[..], &["-j", "NOTRACK"]].concat())?;
        run("iptables", &["-A", "FORWARD", "-p", "tcp", "--sport", &port, "-j", "DROP"]).map(drop)
    })
}

fn dropped(lab: &Lab, rules: impl Fn() -> Result<()>) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    drop_invalid(false)?;
    rules()?;
    let address = SocketAddr::new(server.v4.into(), PORT);
    let _server = tcp::listen(&server, "shop-api", address, 128, true)?;
    let probe = lab.probe(&["--events"])?;

    let attempt = Attempt::start(&client, address)?;
    armed(lab, &probe)?;
    probe.unknown("connect-stall", "client")?;
    let state = attempt.wait(Duration::ZERO)?;
    ensure!(state == State::Pending, "the connect was {state:?}");
    probe.stop()?;
    probe.only(&["unknown"])
}
