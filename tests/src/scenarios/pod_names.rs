//! Pods are called as the kube API calls them: by cgroup path, log folder and the runtime's files.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, bail, ensure};

use super::accept_queue::{LISTENER, PORT, queued, refuse_syn};
use crate::{
    counters,
    kubelet::{self, Kubernetes},
    lab::Lab,
    netns::Pod,
    process::Process,
    tcp,
};

const STALL: Duration = Duration::from_secs(20);

/// A Kubernetes pod, `shop/api-7d4f9c-x2x5k`, with a listener that does not accept and a backlog of 1.
pub struct Api {
    pub server: Pod,
    pub to: SocketAddr,
    pub listener: Process,
}

impl Api {
    pub fn new(lab: &Lab) -> Result<Self> {
        let shop = Kubernetes::new("shop", "api-7d4f9c-x2x5k", 'a')?;
        let server = lab.pod(&shop.netns())?;
        let to = SocketAddr::new(server.address(false), PORT);
        let listener = tcp::listen(&server, LISTENER, ([0, 0, 0, 0], PORT).into(), 1, false)?;
        shop.add("api", &listener)?;
        Ok(Self { server, to, listener })
    }
}

/// The server is there before stallprobe, the client comes after it: made by a runtime that draws
/// names for namespaces.
pub fn kubernetes(lab: &Lab) -> Result<()> {
    let Api { server, to, listener: _listener } = Api::new(lab)?;
    let probe = lab.probe(&[])?;

    let web = Kubernetes::new("shop", "web-0", 'b')?;
    let client = lab.pod(&web.netns())?;
    let pause = Process::container(&client, Vec::new())?;
    web.add("pause", &pause)?;
    let _connects = refuse_syn(&client, &server, to)?;

    let finding = probe.cause("accept-queue-overflow", "shop/web-0", STALL)?;
    finding
        .is("/confidence", "certain")?
        .is("/culprit/pod", "shop/api-7d4f9c-x2x5k")?
        .is("/culprit/process", LISTENER)?
        .is("/culprit/containers/0/name", "api")?;
    probe.stop()?;
    probe.only(&["accept-queue-overflow"])
}

/// The kubelet's probe loses its only SYN: nothing is sent again within its second.
pub fn probe_failure(lab: &Lab) -> Result<()> {
    let stage = Full::new(lab)?;
    let probe = lab.probe(&[])?;

    let probes = without_retransmit(stage.to)?;

    probe
        .finding("the kubelet's probe", STALL, |f| f["symptom"] == "probe-failure")?
        .is("/cause", "accept-queue-overflow")?
        .is("/confidence", "certain")?
        .is("/victim/pod", "shop/api-7d4f9c-x2x5k")?
        .is("/victim/port", PORT)?
        .is("/culprit/process", LISTENER)?;
    probe.stop()?;
    // The last of them too, which lost its only SYN.
    let told = probe.stalls(|f| f["symptom"] == "probe-failure");
    let made = probes.len() as u64;
    ensure!(lab.faults_only() || told == made, "{told} of {made} probes were told");
    probe.only(&["accept-queue-overflow"])
}

/// Probes until one was given up before its SYN was sent again: a busy machine may wake the program up
/// too late. Gives the programs, which stay for stallprobe to look at.
fn without_retransmit(to: SocketAddr) -> Result<Vec<Process>> {
    let mut probes = Vec::new();
    for _ in 0..5 {
        let before = counters::node("TCPSynRetrans")?;
        probes.push(kubelet::probe("kubelet", to)?);
        if counters::node("TCPSynRetrans")? == before {
            return Ok(probes);
        }
    }
    bail!("the SYN of each probe was sent again")
}

/// Look-alikes: another program of the node, and a hostNetwork pod that calls its program so.
pub fn no_probe(lab: &Lab) -> Result<()> {
    let stage = Full::new(lab)?;
    let probe = lab.probe(&[])?;
    let other = kubelet::probe("curl", stage.to)?;
    probe.cause("accept-queue-overflow", "host", STALL)?.is("/symptom", "connect-stall")?;
    let agent = Kubernetes::new("kube-system", "agent-x1", 'c')?;
    let so_called = agent.connect("agent", "kubelet", stage.to)?;
    probe
        .cause("accept-queue-overflow", "kube-system/agent-x1", STALL)?
        .is("/symptom", "connect-stall")?
        .is("/confidence", "certain")?;
    probe.stop()?;
    drop((other, so_called));
    probe.only(&["accept-queue-overflow"])
}

/// A pod whose accept queue is full.
struct Full {
    to: SocketAddr,
    _listener: Process,
    _queued: Vec<tcp::Attempt>,
}

impl Full {
    fn new(lab: &Lab) -> Result<Self> {
        let api = Api::new(lab)?;
        let filler = lab.pod("filler")?;
        let queued = queued(&filler, api.to, 2)?;
        Ok(Self { to: api.to, _listener: api.listener, _queued: queued })
    }
}
