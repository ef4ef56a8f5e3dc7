//! Services as kube-proxy makes them in IPVS mode: virtual servers by `ipvsadm`, their addresses on
//! the dummy device kube-ipvs0, conntrack for IPVS's connections, and the rules and sets of
//! [`kube_proxy::ipvs`].

use std::{net::SocketAddr, path::Path};

use anyhow::Result;

use crate::{
    command::run,
    kube_proxy::{
        self,
        ipvs::{Balancer, entry, set},
    },
    process::Process,
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
/// `net.ipv4.vs.conn_reuse_mode` and `expire_nodest_conn`. Gives a process that looks like
/// kube-proxy.
pub fn setup(reuse_mode: u8, expire_nodest: u8) -> Result<Process> {
    for module in ["ip_vs", "ip_vs_rr", "dummy"] {
        run("modprobe", &[module])?;
    }
    sysctl::set("net.ipv4.vs.conntrack", "1")?;
    sysctl::set("net.ipv4.vs.conn_reuse_mode", &reuse_mode.to_string())?;
    sysctl::set("net.ipv4.vs.expire_nodest_conn", &expire_nodest.to_string())?;
    sysctl::set("net.ipv4.vs.expire_quiescent_template", "1")?;
    if !Path::new("/sys/class/net").join(DEVICE).exists() {
        run("ip", &["link", "add", DEVICE, "type", "dummy"])?;
    }
    kube_proxy::ipvs::sync(&[])?;
    kube_proxy::process("ipvs")
}

/// Adds a virtual service. `bind` puts its address on kube-ipvs0; a NodePort has the node's own.
pub fn service(at: SocketAddr, bind: bool) -> Result<()> {
    if bind {
        bind_address(at)?;
        run("ipset", &["add", &set(at.is_ipv6(), "CLUSTER-IP"), &entry(at)])?;
        run("ipset", &["add", &set(at.is_ipv6(), "IPVS-IPS"), &at.ip().to_string()])?;
    } else {
        run("ipset", &["add", &set(at.is_ipv6(), "NODE-PORT-TCP"), &at.port().to_string()])?;
    }
    run("ipvsadm", &["-A", "-t", &at.to_string(), "-s", "rr"]).map(drop)
}

/// Adds a virtual UDP service with one real server.
pub fn udp(service: SocketAddr, server: SocketAddr) -> Result<()> {
    bind_address(service)?;
    let element = format!("{},udp:{}", service.ip(), service.port());
    run("ipset", &["add", &set(service.is_ipv6(), "CLUSTER-IP"), &element])?;
    run("ipset", &["add", &set(service.is_ipv6(), "IPVS-IPS"), &service.ip().to_string()])?;
    let (service, server) = (service.to_string(), server.to_string());
    run("ipvsadm", &["-A", "-u", &service, "-s", "rr"])?;
    run("ipvsadm", &["-a", "-u", &service, "-r", &server, "-m", "-w", "1"]).map(drop)
}

/// Adds the virtual service of a load balancer, with the rules about who may use it.
pub fn balancer(balancer: &Balancer) -> Result<()> {
    bind_address(balancer.address)?;
    kube_proxy::ipvs::sync(std::slice::from_ref(balancer))?;
    run("ipvsadm", &["-A", "-t", &balancer.address.to_string(), "-s", "rr"]).map(drop)
}

fn bind_address(at: SocketAddr) -> Result<()> {
    let address = format!("{}/{}", at.ip(), if at.is_ipv4() { 32 } else { 128 });
    run("ip", &["addr", "add", &address, "dev", DEVICE]).map(drop)
}

/// Adds a real server, masqueraded as kube-proxy does it, and, as it is of this node, the entry by
/// which it may reach itself through its service.
pub fn add(service: SocketAddr, server: SocketAddr, weight: u8) -> Result<()> {
    let itself = format!("{},{}", entry(server), server.ip());
    run("ipset", &["add", "-exist", &set(server.is_ipv6(), "LOOP-BACK"), &itself])?;
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

/// Leaves nothing of IPVS behind: services, connections, the device. What rules may name goes after
/// them, see [`clean_modules`].
pub fn clean() -> Result<()> {
    if Path::new("/sys/class/net").join(DEVICE).exists() {
        run("ip", &["link", "del", DEVICE])?;
    }
    if Path::new("/sys/module/ip_vs").exists() {
        run("ipvsadm", &["-C"])?;
    }
    Ok(())
}

/// The sets and IPVS's modules. nf_tables lets go of what its deleted rules named some time later,
/// from a work queue.
pub fn clean_modules() -> Result<()> {
    if Path::new("/sys/module/ip_set").exists() {
        until("no rule names an ipset", SOON, || Ok(run("ipset", &["destroy"]).ok().map(drop)))?;
    }
    if Path::new("/sys/module/ip_vs").exists() {
        let modules = ["-r", "xt_ipvs", "ip_vs_rr", "ip_vs"];
        until("no rule names IPVS", SOON, || Ok(run("modprobe", &modules).ok().map(drop)))?;
    }
    Ok(())
}
