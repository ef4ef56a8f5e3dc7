//! Armed hooks as the stream tells of them: which set was attached for which flow, and what came of
//! it at what cost.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::finding::Flow;

/// A named group of programs that are attached together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Set {
    /// What IPVS's hook decides on the flow's next packet, and which connection it finds.
    IpvsVerdict,
    /// What connection tracking makes of the flow's next packets. A flow with source port 0 stands
    /// for all flows of the client to that server.
    ConntrackEntry,
    /// Where the SYN of one connect leaves this node, and whether an answer comes in.
    Departure,
}

impl Set {
    pub const fn id(self) -> &'static str {
        match self {
            Self::IpvsVerdict => "ipvs-verdict",
            Self::ConntrackEntry => "conntrack-entry",
            Self::Departure => "departure",
        }
    }
}

/// What a symptom asks for: this set, for this flow as its packets carry it at that place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub set: Set,
    pub flow: Flow,
    /// Where the flow stands for any port of the client: the one that is stalled. Else 0.
    pub port: u16,
    /// Of a set that looks for one connect: its initial sequence number. Else 0.
    pub isn: u32,
    /// Why, in words that end a sentence.
    pub why: &'static str,
}

/// A set was armed for a flow, or let go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    pub set: Set,
    pub proto: u8,
    pub src: SocketAddr,
    pub dst: SocketAddr,
    #[serde(flatten)]
    pub step: Step,
}

impl Armed {
    pub fn new(set: Set, flow: Flow, step: Step) -> Self {
        Self { set, proto: flow.proto, src: flow.src, dst: flow.dst, step }
    }

    pub fn flow(&self) -> Flow {
        Flow { proto: self.proto, src: self.src, dst: self.dst }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum Step {
    /// Attached, from the event's time on.
    Armed {
        why: String,
        /// Places where programs are attached.
        places: u32,
        /// Nanoseconds it took to load and attach them.
        took: u64,
    },
    /// Not attached any more.
    LetGo {
        outcome: Outcome,
        /// Nanoseconds for which it was attached.
        lasted: u64,
        /// How often the programs ran, how often for a packet of the flow, and the nanoseconds they
        /// spent on all CPUs.
        runs: u64,
        matched: u64,
        spent: u64,
    },
    /// Never attached.
    Refused { why: String },
}

/// What came of an arming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// What was looked for was seen.
    Seen,
    /// The time was over.
    NothingSeen,
    /// A CPU had used up its time for it.
    OverBudget,
    /// The module went away.
    ModuleGone,
    /// The run came to its end.
    Ended,
    /// Another set was asked for, which tells more.
    MadeWay,
}

impl Outcome {
    pub const fn words(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::NothingSeen => "nothing seen",
            Self::OverBudget => "over budget",
            Self::ModuleGone => "the module went away",
            Self::Ended => "the run ended",
            Self::MadeWay => "it made way for another look",
        }
    }
}
