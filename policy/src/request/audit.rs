//! What a record of the audit may be asked by, and in which word it ends. Searches nothing.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Action;
use crate::address::Source;

/// Records shown when no limit is given, and at most.
pub const DEFAULT_LIMIT: u32 = 50;
/// See [`DEFAULT_LIMIT`].
pub const MOST: u32 = 10_000;

/// What became of a request, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A question was answered, or a dry run shown.
    Answered,
    /// Signature, freshness or policy.
    Refused,
    /// It would have locked somebody out, or the plan changed, or another change was under way. Nothing was changed.
    NotApplied,
    /// There was nothing to do.
    Unchanged,
    /// Failed; the host is unchanged.
    Failed,
    /// Done and verified.
    Confirmed,
    /// Done, waiting for confirm.
    Pending,
    /// Taken back.
    RolledBack,
    /// Could not be taken back whole.
    Stuck,
    /// Was stuck, and left to who asked.
    Abandoned,
    /// The agent died before it could say; written when it starts again.
    Interrupted,
}

impl Outcome {
    /// As it is stored, shown and filtered by.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::Refused => "refused",
            Outcome::NotApplied => "not-applied",
            Outcome::Unchanged => "unchanged",
            Outcome::Failed => "failed",
            Outcome::Confirmed => "confirmed",
            Outcome::Pending => "pending",
            Outcome::RolledBack => "rolled-back",
            Outcome::Stuck => "stuck",
            Outcome::Abandoned => "abandoned",
            Outcome::Interrupted => "interrupted",
        }
    }
}

/// Which records are wanted. A field that is not given lets every record through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Opened then or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Opened then or earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Signed by exactly this principal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Which asked for this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// About this change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
    /// With this outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Which are about an address in this source, or came from one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Source>,
    /// Only the newest that fit; [`DEFAULT_LIMIT`] when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl Filter {
    /// How many records at most.
    pub fn most(&self) -> usize {
        usize::try_from(self.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MOST)).unwrap_or(usize::MAX)
    }
}
