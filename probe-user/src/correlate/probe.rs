//! Health probes: connects of the kubelet to a pod of this node. Where the kubelet has an API server's
//! connections too (k3s, MicroK8s) only a request that says so is a probe. The kubelet's lifecycle hooks
//! (postStart, preStop) ask pods as well, and may take long.

use probe_common::event::{PROBE_CLOSED, PROBE_GAVE_UP, PROBE_LATE, ProbeServer};

use super::{
    evidence::Key,
    probe_steps,
    rules::client_ports_exhausted::EADDRNOTAVAIL,
    symptom::{Side, Symptom, seconds},
    world::World,
};
use crate::{
    event::{NamedBy, Pod, Process},
    finding::{Party, SymptomKind},
    output::sanitize,
};

/// A probe's answer is rarely waited for longer, in nanoseconds (`timeoutSeconds`): what took longer is
/// a lifecycle hook.
pub const LONGEST: u64 = 60_000_000_000;

/// What a connection of the kubelet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Probe,
    Hook,
    /// Its request was read, or could not be.
    Unknown,
}

impl Purpose {
    pub fn of(symptom: &Symptom, world: &World) -> Self {
        let mut known = requests(symptom, world).map(Self::of_bytes);
        known.find(|p| *p != Self::Unknown).unwrap_or(Self::Unknown)
    }

    /// HTTP requests of the kubelet have a `User-Agent: kube-probe/1.31` or `kube-lifecycle/1.31`
    /// (`NewRequestForHTTPGetAction`, pkg/probe/http/request.go), which Go writes after `Host`. No hook
    /// speaks gRPC.
    fn of_bytes(bytes: &[u8]) -> Self {
        let has = |name: &[u8]| bytes.windows(name.len()).any(|part| part == name);
        if has(b"User-Agent: kube-lifecycle/") {
            Self::Hook
        } else if has(b"User-Agent: kube-probe/") || bytes.starts_with(HTTP2) {
            Self::Probe
        } else {
            Self::Unknown
        }
    }
}

/// The pod that is probed; `None` when it is no probe. What the kubelet asks elsewhere, such as the
/// API server, is none, and neither is a probe of a hostNetwork pod told from that.
pub fn probed(symptom: &Symptom, world: &World) -> Option<Party> {
    let process = asker(symptom, world)?;
    let server = symptom.server();
    let is_probe = match Purpose::of(symptom, world) {
        Purpose::Hook => false,
        Purpose::Probe => true,
        Purpose::Unknown => process.kubelet,
    };
    is_probe.then(|| world.party(server.ip(), Some(server.port()), symptom.first))
}

/// Whether it may turn out to be one, when it is known whose it is.
pub fn may_be(symptom: &Symptom, world: &World) -> bool {
    world.process(symptom.pid).is_none() || asker(symptom, world).is_some()
}

/// The kubelet, or the program that it is a part of, where that one asked a Kubernetes pod.
fn asker<'a>(symptom: &Symptom, world: &'a World) -> Option<&'a Process> {
    let is_connect = symptom.kind != SymptomKind::DnsStall;
    // Without a local port nothing was sent: that is the node's own trouble.
    let is_own = symptom.side == Side::Client && symptom.err != EADDRNOTAVAIL;
    let process = world.process(symptom.pid).filter(|_| is_connect && is_own)?;
    let at_home = if process.netns == 0 { world.node.netns } else { process.netns };
    let pod =
        world.pods.owner(symptom.server().ip(), symptom.first).filter(|p| is_of_kubernetes(p))?;
    let is_here = symptom.netns == at_home && pod.netns != at_home;
    ((process.kubelet || process.has_kubelet) && is_here && !is_answered(symptom, world))
        .then_some(process)
}

/// A connection that was answered and then idle is kept for the next request, as those of lifecycle
/// hooks are (`http.DefaultTransport`), and closed at any time: after 90 s, with the kubelet, or for
/// others. Probes keep none. When its first byte came is not known.
fn is_answered(symptom: &Symptom, world: &World) -> bool {
    symptom.probe.as_deref().is_some_and(|carried| match carried.outcome {
        PROBE_GAVE_UP => carried.received > 0 && !probe_steps::is_pending(symptom, world),
        PROBE_LATE => symptom.answered.is_some_and(|ts| ts.saturating_sub(symptom.first) > LONGEST),
        _ => false,
    })
}

/// A node may itself be a container, with an API server in it.
fn is_of_kubernetes(pod: &Pod) -> bool {
    match pod.named_by {
        // Recordings from before this was told have none.
        Some(NamedBy::Pod | NamedBy::Uid) | None => true,
        Some(NamedBy::Hostname) => pod.name.starts_with("pod:"),
        _ => false,
    }
}

/// What its server has not read.
fn requests<'a>(symptom: &Symptom, world: &'a World) -> impl Iterator<Item = &'a [u8]> {
    let span = symptom.span();
    let seen = world.evidence.probe_servers.find(Key::Flow(symptom.flow));
    seen.filter(move |s| span.contains(&s.ts)).map(|s| captured(&s.event))
}

/// How a connection of HTTP/2 begins (RFC 9113 3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n";

/// How the kubelet probes, as far as the bytes tell that the server did not read, and the others by
/// their number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `GET /healthz`, printable.
    Http(String),
    Grpc,
    Tls,
    /// None of its bytes could be read.
    Unknown,
}

impl Protocol {
    pub fn of(symptom: &Symptom, world: &World) -> Option<Self> {
        symptom.probe.as_deref()?;
        let request = requests(symptom, world).find_map(Self::of_bytes);
        Some(request.unwrap_or(Self::Unknown))
    }

    /// By how a request begins.
    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        // RFC 8446 5.1, a handshake record.
        if bytes.starts_with(HTTP2) {
            return Some(Self::Grpc);
        }
        if bytes.starts_with(&[0x16, 3]) {
            return Some(Self::Tls);
        }
        let line = bytes.split(|b| *b == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let mut words = line.split(' ');
        let (method, path) = (words.next()?, words.next()?);
        let is_request = matches!(method, "GET" | "HEAD" | "POST") && path.starts_with('/');
        is_request.then(|| Self::Http(sanitize::text(&format!("{method} {path}"))))
    }

    /// As in JSON; `None` when it is not known.
    pub fn id(&self) -> Option<&'static str> {
        match self {
            Self::Http(_) => Some("http"),
            Self::Grpc => Some("grpc"),
            Self::Tls => Some("tls"),
            Self::Unknown => None,
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Http(request) => format!(" (HTTP {request})"),
            Self::Grpc => " (gRPC)".to_owned(),
            Self::Tls => " (HTTPS or TLS)".to_owned(),
            Self::Unknown => String::new(),
        }
    }
}

fn captured(server: &ProbeServer) -> &[u8] {
    let captured = usize::try_from(server.captured).unwrap_or(usize::MAX);
    server.request.get(..captured).unwrap_or(&server.request)
}

/// What became of it, in one sentence.
pub fn headline(symptom: &Symptom, world: &World, probed: &Party) -> String {
    let pod = probed.pod.as_deref().unwrap_or("?");
    let protocol = Protocol::of(symptom, world).map(|p| p.words()).unwrap_or_default();
    // A hook's connection shows only by its request what it is for.
    let is_probe = symptom.probe.is_none() || Purpose::of(symptom, world) == Purpose::Probe;
    let kind = if is_probe { "probe" } else { "probe or lifecycle hook" };
    let what =
        format!("the kubelet's {kind} of pod {pod}, port {}{protocol}", symptom.server().port());
    let waited = seconds(symptom.waited(world.now));
    if let Some(carried) = symptom.probe.as_deref() {
        return match (carried.outcome, symptom.answered) {
            (_, Some(answered)) => {
                let after = seconds(answered.saturating_sub(symptom.first));
                format!("{what}, was answered only after {after}")
            }
            (PROBE_CLOSED, _) => {
                let how = if carried.err == 0 { "closed" } else { "reset" };
                format!("{what}, was {how} by the server without an answer after {waited}")
            }
            _ if carried.received > 0 => {
                let (got, silence) = (carried.received, seconds(carried.silence));
                format!(
                    "{what}, got {got} bytes, then none for {silence}, and was given up after {waited}"
                )
            }
            _ => format!("{what}, got no answer and was given up after {waited}"),
        };
    }
    match (symptom.kind, symptom.answered, symptom.ended) {
        (SymptomKind::ConnectRefused, ..) => format!("{what}, was refused"),
        _ if symptom.err != 0 => {
            format!("{what}, failed after {waited} (error {})", symptom.err)
        }
        (_, Some(_), _) => format!("{what}, was connected only after {waited}"),
        (_, None, Some(_)) => format!("{what}, could not connect and gave up after {waited}"),
        (_, None, None) => format!("{what}, has tried to connect for {waited}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_by_their_first_bytes() {
        let of = |bytes: &[u8]| Protocol::of_bytes(bytes);
        let http = |request: &str| Some(Protocol::Http(request.to_owned()));
        assert_eq!(of(b"GET /healthz HTTP/1.1\r\nHost: 10.244.2.2:8080\r\n"), http("GET /healthz"));
        assert_eq!(of(b"GET /cut-off-path"), http("GET /cut-off-path"));
        assert_eq!(of(b"GET /\x1b[31m HTTP/1.1\r\n"), http(&sanitize::text("GET /\x1b[31m")));
        assert_eq!(of(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Some(Protocol::Grpc));
        assert_eq!(of(&[0x16, 3, 1, 2, 0, 1]), Some(Protocol::Tls));
        for other in [&b""[..], b"GET", b"GET healthz HTTP/1.1", b"PING\r\n", &[0x16]] {
            assert_eq!(of(other), None, "{other:?}");
        }
    }
}
