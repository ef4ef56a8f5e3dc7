//! What stallprobe concludes: a symptom, its cause, the evidence and what fixes it.

pub mod cause;
pub mod details;

use std::net::SocketAddr;

use serde::Serialize;

use crate::event::{Container, NamedBy};

pub use self::{cause::Cause, details::Details};

/// What the user suffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SymptomKind {
    /// No answer, an answer only after a retry, or one slower than the least stall.
    DnsStall,
    /// The handshake needed a retransmit, took longer than the least stall, or never finished.
    ConnectStall,
    /// The handshake was answered with a reset.
    ConnectRefused,
    /// Either of these to a health probe: a connect of the kubelet to a pod of this node.
    ProbeFailure,
}

impl SymptomKind {
    pub const fn id(self) -> &'static str {
        match self {
            Self::DnsStall => "dns-stall",
            Self::ConnectStall => "connect-stall",
            Self::ConnectRefused => "connect-refused",
            Self::ProbeFailure => "probe-failure",
        }
    }
}

/// How sure a finding is. `Certain` only with the evidence the catalogue asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    Possible,
    Likely,
    Certain,
}

impl Confidence {
    pub const fn id(self) -> &'static str {
        match self {
            Self::Possible => "possible",
            Self::Likely => "likely",
            Self::Certain => "certain",
        }
    }
}

/// One end of a finding: who suffers, or who causes it. All text is printable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Party {
    /// Name of the pod; `None` when the address belongs to no pod of this node.
    pub pod: Option<String>,
    /// Where the name is from, as far as known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named_by: Option<NamedBy>,
    /// Inode number of its network namespace, when it is on this node.
    pub netns: Option<u32>,
    pub address: Option<std::net::IpAddr>,
    pub port: Option<u16>,
    pub process: Option<String>,
    pub pid: Option<u32>,
    /// The process's container; where that is not known, all of the pod that are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<Container>,
    /// Whether it may be in another one, or one of these has a name that is not known yet.
    #[serde(skip)]
    pub more_containers: bool,
}

/// The flow that stalled, client → server, as the client sees it where the client is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Flow {
    /// IP protocol number.
    pub proto: u8,
    pub src: SocketAddr,
    pub dst: SocketAddr,
}

/// One line of evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    pub ts: u64,
    /// Stable kebab-case word for the kind of observation.
    pub kind: &'static str,
    pub text: String,
}

/// Where a fix is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    Pod,
    Node,
    KubeProxy,
    Application,
}

impl Place {
    pub const fn id(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Node => "node",
            Self::KubeProxy => "kube-proxy",
            Self::Application => "application",
        }
    }
}

/// What helps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fix {
    #[serde(rename = "where")]
    pub place: Place,
    /// What helps at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
    /// What lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lasting: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caveat: Option<String>,
}

/// A cause that is not named, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotNamed {
    pub cause: Cause,
    pub why: String,
}

/// A conclusion.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Stable within a run and its replay: `f1`, `f2`, … in the order they were found.
    pub id: String,
    /// Boot-time nanoseconds at which the stall began, as far as known.
    pub ts: u64,
    pub symptom: SymptomKind,
    pub cause: Cause,
    pub confidence: Confidence,
    pub victim: Party,
    pub culprit: Option<Party>,
    pub flow: Flow,
    /// Nanoseconds the longest of the stalls folded into this finding lasted, so far.
    pub waited: u64,
    /// Whether the first of them had not ended yet when this was said.
    pub open: bool,
    /// How many stalls are folded into this finding.
    pub count: u64,
    /// Boot-time nanoseconds of the first and the last of them.
    pub first: u64,
    pub last: u64,
    /// Who waited for what, in one sentence.
    pub headline: String,
    /// The cause in plain words, in one sentence.
    pub title: String,
    /// In order of time.
    pub evidence: Vec<Evidence>,
    pub details: Details,
    pub fix: Vec<Fix>,
    /// How to look at it by hand.
    pub confirm: Vec<String>,
    pub ruled_out: Vec<NotNamed>,
    pub not_seen: Vec<NotNamed>,
    /// The latest of the stalls folded into it, [`Finding::STALLS`] at most: by these another node's
    /// recording knows them again. Not for people.
    pub stalls: Vec<Stalled>,
}

impl Finding {
    /// More are forgotten; what is folded in is said again within ten seconds, so those that are new
    /// then are still there unless more than three a second are.
    pub const STALLS: usize = 32;
}

/// One stall as every node that its packets cross sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalled {
    pub flow: Flow,
    /// TCP: the client's initial sequence number, 0 when not known.
    pub isn: u32,
    /// DNS: id, and hash of the name.
    pub question: Option<(u16, u64)>,
    /// How sure the cause of this very stall is.
    pub confidence: Confidence,
    /// Boot-time nanoseconds from its beginning to its end or to when it was judged.
    pub from: u64,
    pub to: u64,
}

/// Why a finding is said again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It happened again, or the stall lasted longer.
    Repeated,
    /// It was unknown and now has a cause.
    Named,
}

/// What correlation gives out.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    Finding(Box<Finding>),
    /// The whole finding as it is now.
    Update(Change, Box<Finding>),
}

impl Output {
    pub fn finding(&self) -> &Finding {
        match self {
            Self::Finding(f) | Self::Update(_, f) => f,
        }
    }
}
