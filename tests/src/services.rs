//! Services and masquerading as kube-proxy writes them in iptables mode: KUBE-SERVICES,
//! KUBE-SVC-…, KUBE-SEP-… and KUBE-POSTROUTING in the nat table.

use std::{fmt::Write, net::SocketAddr};

use anyhow::Result;

use crate::{command::feed, netns::Pod};

/// The address of the cluster's DNS service, as kubeadm chooses it.
pub const DNS_V4: [u8; 4] = [10, 96, 0, 10];
pub const DNS_V6: [u16; 8] = [0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10];

/// How kube-proxy's rules choose among backends.
#[derive(Clone, Copy)]
pub enum Choice {
    /// At random, as kube-proxy does.
    Random,
    /// In turn, so that two new flows one after the other never share a backend.
    InTurn,
}

/// The DNS service with its pods as backends. UDP only.
pub fn dns(backends: &[Pod], choice: Choice) -> Result<SocketAddr> {
    dns_over(backends, choice, false)
}

/// The same for one address family.
pub fn dns_over(backends: &[Pod], choice: Choice, v6: bool) -> Result<SocketAddr> {
    let service: SocketAddr = if v6 { (DNS_V6, 53).into() } else { (DNS_V4, 53).into() };
    let at = |pod: &Pod| SocketAddr::new(pod.address(v6), 53);
    let backends: Vec<SocketAddr> = backends.iter().map(at).collect();
    udp(service, &backends, choice)?;
    Ok(service)
}

/// Makes a UDP service with these backends.
pub fn udp(service: SocketAddr, backends: &[SocketAddr], choice: Choice) -> Result<()> {
    let mut rules = String::from(
        "*nat\n:KUBE-SERVICES -\n:KUBE-SVC-LAB -\n\
         -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n",
    );
    // Writing to a String cannot fail.
    let _ = writeln!(
        rules,
        "-A KUBE-SERVICES -d {}{} -p udp -m udp --dport {} -j KUBE-SVC-LAB",
        service.ip(),
        if service.is_ipv4() { "/32" } else { "/128" },
        service.port()
    );
    for (i, backend) in backends.iter().enumerate() {
        let left = backends.len() - i;
        let _ = write!(rules, ":KUBE-SEP-{i} -\n-A KUBE-SVC-LAB ");
        match choice {
            _ if left == 1 => {}
            Choice::Random => {
                let share = 1.0 / left as f64;
                let _ = write!(rules, "-m statistic --mode random --probability {share:.10} ");
            }
            Choice::InTurn => {
                let _ = write!(rules, "-m statistic --mode nth --every {left} --packet 0 ");
            }
        }
        let _ = writeln!(
            rules,
            "-j KUBE-SEP-{i}\n-A KUBE-SEP-{i} -p udp -m udp -j DNAT --to-destination {backend}"
        );
    }
    restore(service.is_ipv6(), &rules)
}

/// Masquerades what pods send to hosts beyond the node, in the way most CNIs and kube-proxy do it.
/// `ports` narrows the source ports that they may get.
pub fn masquerade(ports: Option<&str>) -> Result<()> {
    let narrow: String = match ports {
        Some(ports) => ["udp", "tcp"]
            .map(|l4| format!("-A KUBE-POSTROUTING -p {l4} -j MASQUERADE --to-ports {ports}\n"))
            .concat(),
        None => String::new(),
    };
    for (v6, pods) in [(false, "10.244.0.0/16"), (true, "fd00:244::/32")] {
        restore(
            v6,
            &format!(
                "*nat\n:KUBE-POSTROUTING -\n\
                 -A POSTROUTING -s {pods} ! -d {pods} -j KUBE-POSTROUTING\n\
                 {narrow}-A KUBE-POSTROUTING -j MASQUERADE\n"
            ),
        )?;
    }
    Ok(())
}

fn restore(v6: bool, rules: &str) -> Result<()> {
    let tool = if v6 { "ip6tables-restore" } else { "iptables-restore" };
    // Chains are declared before the rules that name them.
    let (chains, rest): (Vec<&str>, Vec<&str>) =
        rules.lines().partition(|line| line.starts_with(':') || line.starts_with('*'));
    let input = format!("{}\n{}\nCOMMIT\n", chains.join("\n"), rest.join("\n"));
    feed(tool, &["--noflush"], &input)
}

/// Address and port as stallprobe writes a backend.
pub fn shown(pod: &Pod, v6: bool) -> String {
    SocketAddr::new(pod.address(v6), 53).to_string()
}
