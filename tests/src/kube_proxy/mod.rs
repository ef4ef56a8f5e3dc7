//! kube-proxy as the rest of the node sees it: its rules, in the layout it writes them in, a process
//! of its name, and the variables by which the kubelet tells pods of services.

pub mod iptables;
pub mod ipvs;
pub mod nftables;

use std::net::SocketAddr;

use anyhow::Result;

use crate::{args::Flags, netns::Pod, process::Process, services};

/// What pods' addresses begin with (`--cluster-cidr`): other clients are masqueraded.
const CLUSTER_V4: &str = "10.244.0.0/16";
const CLUSTER_V6: &str = "fd00:244::/32";

/// Which program writes the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    IptablesNft,
    /// The same, for an iptables before 1.6.2, which cannot choose ports at random: kube-proxy
    /// leaves `--random-fully` out (`HasRandomFully`, pkg/util/iptables).
    IptablesNotRandom,
    IptablesLegacy,
    Nftables,
}

impl Mode {
    /// As `--proxy-mode` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::IptablesNft | Self::IptablesNotRandom | Self::IptablesLegacy => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// One port of a service, with its endpoints.
#[derive(Clone, Debug)]
pub struct Service {
    /// Name of the service in namespace `default`, and of its port.
    pub name: &'static str,
    pub port_name: &'static str,
    /// `tcp` or `udp`.
    pub proto: &'static str,
    pub address: SocketAddr,
    pub backends: Vec<SocketAddr>,
}

impl Service {
    /// `shop:http` on 10.96.0.20:80, or fd00:96::14.
    pub fn shop(v6: bool, backends: Vec<SocketAddr>) -> Self {
        let address = match v6 {
            false => ([10, 96, 0, 20], 80).into(),
            true => ([0xfd00, 0x96, 0, 0, 0, 0, 0, 0x14], 80).into(),
        };
        Self { name: "shop", port_name: "http", proto: "tcp", address, backends }
    }

    /// The cluster's DNS service, UDP.
    pub fn dns(v6: bool, backends: &[Pod]) -> Self {
        let backends = backends.iter().map(|pod| (pod.address(v6), 53).into()).collect();
        let address = match v6 {
            false => (services::DNS_V4, 53).into(),
            true => (services::DNS_V6, 53).into(),
        };
        Self { name: "kube-dns", port_name: "dns", proto: "udp", address, backends }
    }

    /// `default/shop:http`
    fn full_name(&self) -> String {
        format!("default/{}:{}", self.name, self.port_name)
    }

    fn is_v6(&self) -> bool {
        self.address.is_ipv6()
    }
}

/// Writes the rules for these services, all of one address family, and starts a process that looks
/// like kube-proxy on the node.
pub fn start(mode: Mode, services: &[Service]) -> Result<Process> {
    sync(mode, services)?;
    process(mode.name())
}

/// A process that looks like kube-proxy in this mode, as `--proxy-mode` has it.
pub fn process(mode: &str) -> Result<Process> {
    Process::on_node(&["kube-proxy", "--proxy-mode", mode])
}

/// Writes the rules alone.
pub fn sync(mode: Mode, services: &[Service]) -> Result<()> {
    match mode {
        Mode::IptablesNft => iptables::sync("iptables-nft-restore", true, services),
        Mode::IptablesNotRandom => iptables::sync("iptables-nft-restore", false, services),
        Mode::IptablesLegacy => iptables::sync("iptables-legacy-restore", true, services),
        Mode::Nftables => nftables::sync(services),
    }
}

/// The helper `lab kube-proxy`: does nothing under that name.
pub fn main(_flags: &Flags) -> Result<()> {
    idle("kube-proxy")
}

/// The helper `lab idle`: a container's process that does nothing, with `--hostname` in namespaces of its
/// own that nobody has a name for.
pub fn idle_main(flags: &Flags) -> Result<()> {
    if let Some(hostname) = flags.optional("--hostname") {
        crate::process::apart(hostname)?;
    }
    idle(flags.value("--name")?)
}

fn idle(name: &str) -> Result<()> {
    crate::process::set_name(name)?;
    crate::cli::say(crate::process::READY)?;
    loop {
        std::thread::park();
    }
}

/// Environment variables of a container, as the kubelet makes them for each service of its
/// namespace (kubernetes/kubernetes, pkg/kubelet/envvars).
pub fn environment(services: &[Service]) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for service in services {
        let name = service.name.to_ascii_uppercase().replace('-', "_");
        let (ip, port) = (service.address.ip(), service.address.port());
        let (lower, upper) = (service.proto, service.proto.to_ascii_uppercase());
        let url = format!("{lower}://{}", service.address);
        let link = format!("{name}_PORT_{port}_{upper}");
        variables.extend([
            (format!("{name}_SERVICE_HOST"), ip.to_string()),
            (format!("{name}_SERVICE_PORT"), port.to_string()),
            (
                format!("{name}_SERVICE_PORT_{}", service.port_name.to_ascii_uppercase()),
                port.to_string(),
            ),
            (format!("{name}_PORT"), url.clone()),
            (link.clone(), url),
            (format!("{link}_PROTO"), lower.to_owned()),
            (format!("{link}_PORT"), port.to_string()),
            (format!("{link}_ADDR"), ip.to_string()),
        ]);
    }
    variables
}

/// Letters and digits that stand for the hash in the names of chains: of the same shape as
/// kube-proxy's (base32 of a SHA-256), not the same value.
fn hash(text: &str, len: usize) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut out = String::new();
    for _ in 0..len {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        out.push(char::from(LETTERS.get((state >> 59) as usize).copied().unwrap_or(b'A')));
    }
    out
}

fn cluster(v6: bool) -> &'static str {
    if v6 { CLUSTER_V6 } else { CLUSTER_V4 }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn chains_have_names_of_their_own() {
        assert_eq!(hash("a", 16).len(), 16);
        assert_ne!(hash("a", 16), hash("b", 16));
    }

    #[test]
    fn variables_of_a_service() {
        let all = environment(&[Service::shop(true, Vec::new())]);
        let get = |name: &str| &all.iter().find(|(n, _)| n == name).unwrap().1;
        assert_eq!(get("SHOP_SERVICE_HOST"), "fd00:96::14");
        assert_eq!(get("SHOP_PORT_80_TCP"), "tcp://[fd00:96::14]:80");
    }
}
