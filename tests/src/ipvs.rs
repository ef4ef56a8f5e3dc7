//! Services as kube-proxy makes them in IPVS mode: virtual servers by `ipvsadm`, their addresses on
//! the dummy device kube-ipvs0, conntrack for IPVS's connections, and KUBE-… chains that look up
//! ipsets to choose what is masqueraded.

use std::{net::SocketAddr, path::Path};

use anyhow::Result;

use crate::{
    command::{feed, run},
    sysctl,
    wait::{SOON, until},
};

/// kube-proxy's device for service addresses.
const DEVICE: &str = "kube-ipvs0";

/// The service address the cases use.
pub fn address(v6: bool) -> SocketAddr {
    match v6 {
        false => ([10, 96, 0, 20], 80).into(),
        true => ([0xfd00, 0x96, 0, 0, 0, 0, 0, 0x14], 80).into(),
    }
}

/// Loads IPVS and sets it up with two of kube-proxy's choices left to the case:
/// `net.ipv4.vs.conn_reuse_mode` and `expire_nodest_conn`.
pub fn setup(reuse_mode: u8, expire_nodest: u8) -> Result<()> {
    for module in ["ip_vs", "ip_vs_rr", "dummy"] {
        run("modprobe", &[module])?;
    }
    sysctl::set("net.ipv4.vs.conntrack", "1")?;
    sysctl::set("net.ipv4.vs.conn_reuse_mode", &reuse_mode.to_string())?;
    sysctl::set("net.ipv4.vs.expire_nodest_conn", &expire_nodest.to_string())?;
    if !Path::new("/sys/class/net").join(DEVICE).exists() {
        run("ip", &["link", "add", DEVICE, "type", "dummy"])?;
    }
    chains()
}

/// Names of kube-proxy's ipsets: IPv6 has its own.
fn set(v6: bool, name: &str) -> String {
    format!("KUBE-{}{name}", if v6 { "6-" } else { "" })
}

/// kube-proxy's sets and chains of IPVS mode (pkg/proxy/ipvs/proxier.go, ipset.go), with a cluster
/// CIDR and without masquerade-all. The tools are asked to leave what is there.
fn chains() -> Result<()> {
    for (v6, family, pods, tool, local) in [
        (false, "inet", "10.244.0.0/16", "iptables-restore", "127.0.0.0/8"),
        (true, "inet6", "fd00:244::/32", "ip6tables-restore", "::1/128"),
    ] {
        let (cluster, ports) = (set(v6, "CLUSTER-IP"), set(v6, "NODE-PORT-TCP"));
        let hairpin = set(v6, "LOOP-BACK");
        feed(
            "ipset",
            &["restore", "-exist"],
            &format!(
                "create {cluster} hash:ip,port family {family}\n\
                 create {hairpin} hash:ip,port,ip family {family}\n\
                 create {ports} bitmap:port range 0-65535\n"
            ),
        )?;
        // Loaded as a whole, so that a second call does not double the rules.
        feed(
            tool,
            &[],
            &format!(
                "*nat\n:KUBE-SERVICES -\n:KUBE-POSTROUTING -\n:KUBE-NODE-PORT -\n\
                 :KUBE-MARK-MASQ -\n\
                 -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
                 -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
                 -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" \
                 -j KUBE-POSTROUTING\n\
                 -A KUBE-SERVICES -s {local} -j RETURN\n\
                 -A KUBE-SERVICES ! -s {pods} -m comment \
                 --comment \"Kubernetes service cluster ip + port for masquerade purpose\" \
                 -m set --match-set {cluster} dst,dst -j KUBE-MARK-MASQ\n\
                 -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT\n\
                 -A KUBE-SERVICES -m set --match-set {cluster} dst,dst -j ACCEPT\n\
                 -A KUBE-NODE-PORT -p tcp -m comment \
                 --comment \"Kubernetes nodeport TCP port for masquerade purpose\" \
                 -m set --match-set {ports} dst -j KUBE-MARK-MASQ\n\
                 -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
                 -A KUBE-POSTROUTING -m comment --comment \"Kubernetes endpoints dst ip:port, \
                 source ip for solving hairpin purpose\" \
                 -m set --match-set {hairpin} dst,dst,src -j MASQUERADE\n\
                 -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
                 -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
                 -A KUBE-POSTROUTING -m comment \
                 --comment \"kubernetes service traffic requiring SNAT\" \
                 -j MASQUERADE --random-fully\nCOMMIT\n"
            ),
        )?;
    }
    Ok(())
}

/// Adds a virtual service. `bind` puts its address on kube-ipvs0; a NodePort has the node's own.
pub fn service(at: SocketAddr, bind: bool) -> Result<()> {
    if bind {
        let address = format!("{}/{}", at.ip(), if at.is_ipv4() { 32 } else { 128 });
        run("ip", &["addr", "add", &address, "dev", DEVICE])?;
        let entry = format!("{},tcp:{}", at.ip(), at.port());
        run("ipset", &["add", &set(at.is_ipv6(), "CLUSTER-IP"), &entry])?;
    } else {
        run("ipset", &["add", &set(at.is_ipv6(), "NODE-PORT-TCP"), &at.port().to_string()])?;
    }
    run("ipvsadm", &["-A", "-t", &at.to_string(), "-s", "rr"]).map(drop)
}

/// Adds a real server, masqueraded as kube-proxy does it.
pub fn add(service: SocketAddr, server: SocketAddr, weight: u8) -> Result<()> {
    change("-a", service, server, weight)
}

/// Gives a server another weight; with 0 it is drained.
pub fn weigh(service: SocketAddr, server: SocketAddr, weight: u8) -> Result<()> {
    change("-e", service, server, weight)
}

fn change(what: &str, service: SocketAddr, server: SocketAddr, weight: u8) -> Result<()> {
    let (service, server, weight) = (service.to_string(), server.to_string(), weight.to_string());
    run("ipvsadm", &[what, "-t", &service, "-r", &server, "-m", "-w", &weight]).map(drop)
}

/// Takes a server out of a service.
pub fn remove(service: SocketAddr, server: SocketAddr) -> Result<()> {
    run("ipvsadm", &["-d", "-t", &service.to_string(), "-r", &server.to_string()]).map(drop)
}

/// Leaves nothing of IPVS behind: services, connections, the device, the modules. The sets go after
/// the rules that name them, see [`clean_sets`].
pub fn clean() -> Result<()> {
    if Path::new("/sys/class/net").join(DEVICE).exists() {
        run("ip", &["link", "del", DEVICE])?;
    }
    if Path::new("/sys/module/ip_vs").exists() {
        run("ipvsadm", &["-C"])?;
        run("modprobe", &["-r", "ip_vs_rr", "ip_vs"])?;
    }
    Ok(())
}

/// nf_tables lets go of what its deleted rules named some time later, from a work queue.
pub fn clean_sets() -> Result<()> {
    if !Path::new("/sys/module/ip_set").exists() {
        return Ok(());
    }
    until("no rule names an ipset", SOON, || Ok(run("ipset", &["destroy"]).ok().map(drop)))
}
