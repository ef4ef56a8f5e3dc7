//! Probes that are connected and get no answer in time: the kubelet is told of, which step of the server
//! was late, and nobody else.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    kubelet::{self, Kubernetes, PATIENCE},
    lab::Lab,
    process::Process,
    web::{Request, Server, serve},
};

const STALL: Duration = Duration::from_secs(20);
const POD: &str = "shop/api-7d4f9c-x2x5k";
const SERVER: &str = "health";
/// After the kubelet has given up, also on a machine that runs the kubelet's program seconds late.
const LATE: Duration = Duration::from_secs(5);
/// Late for a probe that waits for [`LONG`], so that the server is looked at many times meanwhile.
const STILL_THERE: Duration = Duration::from_secs(3);
/// What a probe waits whose `timeoutSeconds` is more than 1.
const LONG: Duration = Duration::from_secs(8);
/// In time.
const IN_TIME: Duration = Duration::from_millis(100);

/// No `timeoutSeconds` are so long, also when the client is woken up late.
const NO_TIMEOUT: Duration = Duration::from_millis(1300);

/// A server in a Kubernetes pod.
struct Slow {
    to: SocketAddr,
    _server: Process,
}

impl Slow {
    fn new(lab: &Lab, v6: bool, server: Server) -> Result<Self> {
        let shop = Kubernetes::new("shop", "api-7d4f9c-x2x5k", 'a')?;
        let pod = lab.pod(&shop.netns())?;
        let to = SocketAddr::new(pod.address(v6), 8080);
        let server = serve(Some(&pod), SERVER, to, server)?;
        shop.add("api", &server)?;
        Ok(Self { to, _server: server })
    }
}

/// Nobody accepts: the connection waits in the accept queue, which has room.
pub fn not_accepted(lab: &Lab) -> Result<()> {
    let patient = (Request::Http, PATIENCE);
    late(lab, false, Server::Ignores, patient, ("certain", "accept", "http"))
}

/// Accepted, and not read. Over IPv6, by gRPC.
pub fn not_read(lab: &Lab) -> Result<()> {
    late(lab, true, Server::Accepts, (Request::Grpc, PATIENCE), ("certain", "read", "grpc"))
}

/// Read, and answered when the kubelet has gone. What is sent then may be no answer.
pub fn answered_late(lab: &Lab) -> Result<()> {
    late(lab, false, Server::Answers(LATE), (Request::Http, PATIENCE), ("likely", "answer", ""))
}

/// The kubelet sends a record more before it closes, which nobody reads: that is no request.
pub fn last_record(lab: &Lab) -> Result<()> {
    let patient = (Request::LastRecord, PATIENCE);
    late(lab, false, Server::Answers(LATE), patient, ("likely", "unknown", ""))
}

/// Answered late, and the kubelet was still there.
pub fn answered_in_time(lab: &Lab) -> Result<()> {
    late(lab, false, Server::Answers(STILL_THERE), (Request::Http, LONG), ("likely", "answer", ""))
}

/// Accepted late, and then answered at once.
pub fn accepted_in_time(lab: &Lab) -> Result<()> {
    let patient = (Request::Http, LONG);
    late(lab, false, Server::AcceptsLate(STILL_THERE), patient, ("likely", "accept", "http"))
}

/// Accepted, read late, and then answered at once.
pub fn read_in_time(lab: &Lab) -> Result<()> {
    let patient = (Request::Http, LONG);
    late(lab, true, Server::ReadsLate(STILL_THERE), patient, ("likely", "read", "http"))
}

/// The server has sent its settings, and not answered the call.
pub fn partly_answered(lab: &Lab) -> Result<()> {
    let patient = (Request::GrpcCall, STILL_THERE);
    late(lab, false, Server::Begins, patient, ("likely", "answer", ""))
}

/// The server closes the connection without a byte.
pub fn closed(lab: &Lab) -> Result<()> {
    late(lab, false, Server::Closes(STILL_THERE), (Request::Http, LONG), ("likely", "answer", ""))
}

/// The server hangs up as soon as it has the request: a failed probe, and no slow server.
pub fn hung_up(lab: &Lab) -> Result<()> {
    let slow = Slow::new(lab, false, Server::Closes(Duration::ZERO))?;
    let probe = lab.probe(&[])?;
    let kubelet = kubelet::ask("kubelet", slow.to, Request::Http, PATIENCE, None)?;
    probe
        .finding("the kubelet's probe", STALL, |f| f["symptom"] == "probe-failure")?
        .is("/cause", "unknown")?
        .is("/victim/pod", POD)?
        .is("/victim/port", 8080)?
        .is("/open", false)?;
    probe.stop()?;
    drop(kubelet);
    probe.only(&["unknown"])
}

/// `told`: how sure the finding is, which step was late, and the protocol where nothing was read.
fn late(
    lab: &Lab,
    v6: bool,
    server: Server,
    (request, patience): (Request, Duration),
    (confidence, step, protocol): (&str, &str, &str),
) -> Result<()> {
    let slow = Slow::new(lab, v6, server)?;
    let probe = lab.probe(&[])?;

    let kubelet = kubelet::ask("kubelet", slow.to, request, patience, None)?;

    let found = probe.finding("the kubelet's probe", STALL, |f| f["symptom"] == "probe-failure")?;
    found
        .is("/cause", "server-slow")?
        .is("/confidence", confidence)?
        .is("/victim/pod", POD)?
        .is("/victim/port", 8080)?
        .is("/culprit/pod", POD)?
        .is("/details/late", step)?
        .is("/open", false)?
        .at_least("/waited_ms", 900)?
        .filled("/fix")?;
    if !matches!(server, Server::Closes(_)) {
        found.is("/culprit/process", SERVER)?;
    }
    if !protocol.is_empty() && cfg!(target_arch = "x86_64") {
        found.is("/details/protocol", protocol)?;
    }
    if patience == LONG && !matches!(server, Server::Closes(_)) {
        found.at_least("/details/took_ms", 2900)?;
    }
    probe.stop()?;
    drop(kubelet);
    ensure!(lab.faults_only() || probe.stalls(|_| true) == 1, "one probe, more than one stall");
    probe.only(&["server-slow"])
}

/// Look-alikes: probes that are answered in time and whose connection is kept, probes that only connect,
/// other programs of the node that wait for the same server, a pod's program that is called so, and the
/// kubelet's own connection to a server that is no pod's. The stall that comes last shows that all were
/// seen.
pub fn no_failure(lab: &Lab) -> Result<()> {
    let slow = Slow::new(lab, false, Server::Accepts)?;
    let (quick, node) = (lab.pod("quick")?, lab.pod("far")?);
    let (quick_at, api_at) =
        (SocketAddr::new(quick.address(false), 8080), SocketAddr::new(node.gateway(), 6443));
    let _quick = serve(Some(&quick), "quick", quick_at, Server::Keeps(IN_TIME))?;
    let _api = serve(None, "kube-apiserver", api_at, Server::Accepts)?;
    let agent = Kubernetes::new("kube-system", "agent-x1", 'c')?;
    let in_pod = agent.scope("agent")?;
    let probe = lab.probe(&[])?;

    let ask = |name: &str, to, request| kubelet::ask(name, to, request, PATIENCE, None);
    let _others = [
        kubelet::ask("kubelet", quick_at, Request::Http, NO_TIMEOUT, None)?,
        ask("kubelet", slow.to, Request::None)?,
        ask("curl", slow.to, Request::Http)?,
        ask("kubelet", api_at, Request::Http)?,
        kubelet::ask("kubelet", slow.to, Request::Http, PATIENCE, Some(&in_pod))?,
    ];
    // The kubelet may itself run in a container that is no pod's.
    let docker = kubelet::docker();
    let _last = kubelet::ask("kubelet", slow.to, Request::Http, PATIENCE, Some(&docker))?;

    probe
        .finding("the last probe", STALL, |f| f["symptom"] == "probe-failure")?
        .is("/victim/pod", POD)?
        .is("/details/late", "read")?;
    probe.stop()?;
    let told = probe.stalls(|_| true);
    ensure!(lab.faults_only() || told == 1, "{told} stalls were told, of one");
    probe.only(&["server-slow"])
}
