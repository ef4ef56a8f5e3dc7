//! Which stalls were told, with what joins each with its packets: a finding stands for many stalls, and
//! most of them are told by its count alone.

use super::{
    fold,
    symptom::{Join, Symptom},
};
use crate::finding::{Cause, Confidence, Finding, Flow};

/// A stall and the finding it was told in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Client → server, as the client sees it where the client is known.
    pub flow: Flow,
    pub join: Join,
    /// When its first packet may have been seen, in nanoseconds of `CLOCK_BOOTTIME`.
    pub first: u64,
    /// [`Finding::id`].
    pub finding: String,
    pub cause: Cause,
    pub confidence: Confidence,
    pub title: String,
}

impl Told {
    /// It went into the finding of this number.
    pub(super) fn of(self, finding: u64) -> Self {
        Self { finding: fold::name(finding), ..self }
    }
}

impl Symptom {
    /// What will be told of it.
    pub(super) fn told(&self, finding: &Finding) -> Told {
        Told {
            flow: self.flow,
            join: self.join,
            first: *self.span().start(),
            finding: String::new(),
            cause: finding.cause,
            confidence: finding.confidence,
            title: finding.title.clone(),
        }
    }
}
