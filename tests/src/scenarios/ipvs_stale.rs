//! A source port is used again that IPVS still knows from an old connection, whose server is
//! drained or gone.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use crate::{
    command::run,
    ipvs,
    lab::Lab,
    netns::Pod,
    process::Process,
    tcp::{self, Attempt, State, sent_again},
    wait::{SOON, until},
};

const PORT: u16 = 40000;
const SERVER_PORT: u16 = 8080;

/// Two servers behind a service; the client has had a connection from [`PORT`] to the first.
pub struct Stage {
    pub client: Pod,
    pub service: SocketAddr,
    old: Pod,
    pub old_end: SocketAddr,
    new_end: SocketAddr,
    servers: Vec<Process>,
    _kube_proxy: Process,
}

impl Stage {
    fn new(lab: &Lab, v6: bool, reuse_mode: u8) -> Result<Self> {
        Self::with_ports(lab, v6, reuse_mode, &[PORT])
    }

    /// The client has had a connection from each of these ports.
    pub fn with_ports(lab: &Lab, v6: bool, reuse_mode: u8, ports: &[u16]) -> Result<Self> {
        Self::among(pods(lab)?, v6, reuse_mode, ports)
    }

    fn among(pods: [Pod; 3], v6: bool, reuse_mode: u8, ports: &[u16]) -> Result<Self> {
        let [client, old, new] = pods;
        let service = ipvs::address(v6);
        let end = |pod: &Pod| SocketAddr::new(pod.address(v6), SERVER_PORT);
        let (old_end, new_end) = (end(&old), end(&new));
        let servers = [(&old, old_end), (&new, new_end)]
            .map(|(pod, at)| tcp::listen(pod, "shop-api", at, 128, true));
        let servers = servers.into_iter().collect::<Result<_>>()?;
        let kube_proxy = ipvs::setup(reuse_mode, 0)?;
        ipvs::service(service, true)?;
        ipvs::add(service, old_end, 1)?;
        let stage =
            Self { client, service, old, old_end, new_end, servers, _kube_proxy: kube_proxy };
        for port in ports {
            let first = stage.connect_from(*port)?;
            ensure!(first.wait(SOON)? == State::Connected, "the first connect fails");
            // The server closes first, so the client's port is free at once.
            first.wait_closed(SOON)?;
        }
        ipvs::add(service, stage.new_end, 1)?;
        Ok(stage)
    }

    /// Connects from the same port again, as soon as the client's own socket is gone.
    fn connect(&self) -> Result<Attempt> {
        self.connect_from(PORT)
    }

    pub fn connect_from(&self, port: u16) -> Result<Attempt> {
        until("the source port is free", SOON, || {
            self.client.inside(|| {
                let Ok(attempt) = Attempt::bind(self.service.is_ipv6(), port) else {
                    return Ok(None);
                };
                Ok(attempt.fire(self.service).is_ok().then_some(attempt))
            })
        })
    }

    /// The pod is gone: nobody knows the way to it any more.
    fn no_route_to_old(&self) -> Result<()> {
        no_route(&self.old, self.service.is_ipv6())
    }
}

/// The client, the old server's pod and the new one's.
fn pods(lab: &Lab) -> Result<[Pod; 3]> {
    Ok([lab.pod("client")?, lab.pod("shop-old")?, lab.pod("shop-new")?])
}

fn no_route(pod: &Pod, v6: bool) -> Result<()> {
    let (family, length) = if v6 { ("-6", 128) } else { ("-4", 32) };
    let to = format!("{}/{length}", pod.address(v6));
    run("ip", &[family, "route", "add", "unreachable", &to, "metric", "1"]).map(drop)
}

/// The old server is drained and its pod is gone: the SYN is sent nowhere.
pub fn gone(lab: &Lab) -> Result<()> {
    drained_and_gone(lab, false)
}

pub fn gone_v6(lab: &Lab) -> Result<()> {
    drained_and_gone(lab, true)
}

fn drained_and_gone(lab: &Lab, v6: bool) -> Result<()> {
    let stage = Stage::new(lab, v6, 0)?;
    let probe = lab.probe(&[])?;
    ipvs::weigh(stage.service, stage.old_end, 0)?;
    stage.no_route_to_old()?;

    let state = stage.connect()?.wait(SOON)?;
    ensure!(state == State::Failed(libc::EHOSTUNREACH), "the connect was {state:?}");

    probe
        .cause("ipvs-stale-connection", "client", SOON)?
        .is("/symptom", "connect-stall")?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "shop-old")?
        .is("/details/service", stage.service.to_string())?
        .is("/details/server", stage.old_end.to_string())?
        .is("/details/server_pod", "shop-old")?
        .is("/details/server_is", "drained")?
        .is("/details/syn_was", "sent")?
        .check("/details/client", "the client's end", |c| {
            c.as_str().is_some_and(|c| c.ends_with(":40000"))
        })?
        .at_least("/details/packets_before", 2)?
        .filled("/fix")?;
    probe.stop()?;
    probe.only(&["ipvs-stale-connection"])
}

pub fn drained(lab: &Lab) -> Result<()> {
    to_dying_pod(lab, false)
}

pub fn drained_v6(lab: &Lab) -> Result<()> {
    to_dying_pod(lab, true)
}

/// The old server is drained, its pod still there, its program not: traffic to a dying pod. Without
/// hooks on IPVS it looks like a closed port.
fn to_dying_pod(lab: &Lab, v6: bool) -> Result<()> {
    let pods = pods(lab)?;
    let probe = lab.probe(&[])?;
    // IPVS is loaded long after stallprobe was started.
    drop(ipvs::setup(0, 0)?);
    watched(lab)?;
    let mut stage = Stage::among(pods, v6, 0, &[PORT])?;
    ipvs::weigh(stage.service, stage.old_end, 0)?;
    stage.servers.clear();

    let state = stage.connect()?.wait(SOON)?;
    ensure!(state == State::Failed(libc::ECONNREFUSED), "the connect was {state:?}");

    probe
        .cause("ipvs-stale-connection", "client", SOON)?
        .is("/symptom", "connect-refused")?
        .is("/confidence", "certain")?
        .is("/culprit/pod", "shop-old")?
        .is("/details/server", stage.old_end.to_string())?
        .is("/details/server_is", "drained")?;
    probe.stop()?;
    probe.only(&["ipvs-stale-connection"])
}

pub fn removed(lab: &Lab) -> Result<()> {
    taken_out(lab, false)
}

pub fn removed_v6(lab: &Lab) -> Result<()> {
    taken_out(lab, true)
}

/// The old server is not listed any more: the SYN is dropped without a word. Where nothing can be
/// armed, what is read after the drop must do.
fn taken_out(lab: &Lab, v6: bool) -> Result<()> {
    let stage = Stage::new(lab, v6, 0)?;
    let probe = lab.probe(&[])?;
    ipvs::remove(stage.service, stage.old_end)?;

    let attempt = stage.connect()?;
    sent_again(&stage.client)?;
    ensure!(attempt.wait(std::time::Duration::ZERO)? == State::Pending, "the SYN got through");

    probe
        .cause("ipvs-stale-connection", "client", SOON)?
        .is("/symptom", "connect-stall")?
        .is("/confidence", "certain")?
        .is("/details/service", stage.service.to_string())?
        .is("/culprit/pod", "shop-old")?
        .is("/details/server", stage.old_end.to_string())?
        .is("/details/server_is", "removed")?
        .is("/details/syn_was", "dropped")?
        .filled("/details/state")?
        .filled("/fix")?;
    probe.stop()?;
    probe.only(&["ipvs-stale-connection"])
}

/// A look-alike: the same, but the kernel may use the port anew.
pub fn reused(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, false, 1)?;
    let probe = lab.probe(&[])?;
    ipvs::weigh(stage.service, stage.old_end, 0)?;
    stage.no_route_to_old()?;

    let state = stage.connect()?.wait(SOON)?;
    ensure!(state == State::Connected, "the connect was {state:?}");

    let summary = probe.stop()?;
    if !lab.faults_only() {
        let count = &summary["seen"]["ipvs-expired"];
        ensure!(count.as_u64() == Some(1), "no expired connection was counted: {summary}");
    }
    probe.only(&[])
}

pub fn rule_drops(lab: &Lab) -> Result<()> {
    rule_drops_over(lab, false)
}

pub fn rule_drops_v6(lab: &Lab) -> Result<()> {
    rule_drops_over(lab, true)
}

/// A look-alike: the old connection's server is well, a rule drops the SYN in the same place.
fn rule_drops_over(lab: &Lab, v6: bool) -> Result<()> {
    let stage = Stage::new(lab, v6, 0)?;
    let probe = lab.probe(&[])?;
    let tool = if v6 { "ip6tables-legacy" } else { "iptables-legacy" };
    run(tool, &["-A", "INPUT", "-p", "tcp", "--dport", "80", "-j", "DROP"])?;

    let attempt = stage.connect()?;
    sent_again(&stage.client)?;
    ensure!(attempt.wait(std::time::Duration::ZERO)? == State::Pending, "the SYN got through");

    probe.unknown("connect-stall", "client")?;
    probe.stop()?;
    probe.only(&["unknown"])
}

/// A look-alike: the old connection's server is gone indeed, but a rule drops the SYN before IPVS
/// gets it. Without the armed hook this looks like the drop by IPVS, to which it would have come next.
pub fn rule_drops_first(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, false, 0)?;
    let probe = lab.probe(&["--events"])?;
    ipvs::remove(stage.service, stage.old_end)?;
    run("iptables-legacy", &["-A", "INPUT", "-p", "tcp", "--dport", "80", "-j", "DROP"])?;

    let attempt = stage.connect()?;
    sent_again(&stage.client)?;
    ensure!(attempt.wait(std::time::Duration::ZERO)? == State::Pending, "the SYN got through");

    probe.unknown("connect-stall", "client")?;
    probe.event("let-go", SOON)?.is("/outcome", "nothing-seen")?;
    probe.stop()?;
    probe.only(&["unknown"])
}

/// A look-alike: the old connection's server is well, and a rule drops the SYN after IPVS sent it
/// there.
pub fn rule_drops_after(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab, false, 0)?;
    let probe = lab.probe(&["--events"])?;
    // With connection tracking in use, as kube-proxy's own rules have it.
    let new = ["-m", "conntrack", "--ctstate", "NEW", "-j", "DROP"];
    let rule = [&["-A", "OUTPUT", "-p", "tcp", "--dport", "8080"], new.as_slice()].concat();
    run("iptables-legacy", &rule)?;

    let attempt = stage.connect()?;
    sent_again(&stage.client)?;
    ensure!(attempt.wait(std::time::Duration::ZERO)? == State::Pending, "the SYN got through");

    probe.unknown("connect-stall", "client")?.check("/evidence", "what IPVS did", |lines| {
        lines.to_string().contains("and sent the SYN on")
    })?;
    probe.event("let-go", SOON)?.is("/outcome", "seen")?;
    probe.stop()?;
    probe.only(&["unknown"])
}

/// A look-alike: no route to a pod that is asked without a service in between.
pub fn unreachable(lab: &Lab) -> Result<()> {
    let (client, server) = (lab.pod("client")?, lab.pod("shop")?);
    let _kube_proxy = ipvs::setup(0, 0)?;
    ipvs::service(ipvs::address(false), true)?;
    no_route(&server, false)?;
    let probe = lab.probe(&[])?;

    let to = SocketAddr::new(server.v4.into(), SERVER_PORT);
    let state = Attempt::start(&client, to)?.wait(SOON)?;
    ensure!(state == State::Failed(libc::EHOSTUNREACH), "the connect was {state:?}");

    probe.unknown("connect-stall", "client")?;
    probe.stop()?;
    probe.only(&["unknown"])
}

/// Waits until stallprobe has seen that IPVS is loaded now.
fn watched(lab: &Lab) -> Result<()> {
    if lab.faults_only() {
        return Ok(());
    }
    let kprobes = || -> Result<Option<()>> {
        let path = "/sys/kernel/debug/kprobes/list";
        let list = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        let all = ["ip_vs_schedule", "ip_vs_leave", "ip_vs_nat_xmit", "ip_vs_conn_expire_now"];
        let there = |function: &&str| list.lines().any(|line| line.contains(*function));
        Ok(all.iter().all(there).then_some(()))
    };
    until("stallprobe watches IPVS", SOON, kprobes)
}
