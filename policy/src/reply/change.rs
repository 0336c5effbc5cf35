//! Plans and changes as they are answered: the dry run, what became of a change, and its life. No logic.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ChangeSchema, ChangeStage, ChangesSchema, PlanSchema, StepEvent, is_zero};
use crate::address::Source;
use crate::request::{Intent, Operation};
use crate::text::quoted::Text;
use crate::verdict::subsystem::Subsystem;
use crate::verdict::{PathOrigin, Stage, StageReport, Verdict};

/// A plan as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanDocument {
    /// `sshfix.plan/1`
    pub schema: PlanSchema,
    /// `sha256:...` of operation, steps and lease; the same digest means the same change.
    pub digest: String,
    /// What was asked.
    pub operation: Operation,
    /// In the order they are applied.
    pub steps: Vec<StepDocument>,
    /// Sources that get in afterwards and did not before.
    pub opens: Vec<Source>,
    /// Sources that got in before and do not afterwards.
    pub closes: Vec<Source>,
    /// The ways in that the proof looked at.
    pub paths: Vec<PathDocument>,
    /// How many more of them the signer's grants are not about.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub other_paths: usize,
    /// How many more sources `opens` and `closes` would name that the signer's grants are not about.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub other_sources: usize,
    /// `not-needed`, or `required`.
    pub confirm: Confirm,
    /// What would lift a block too, and is not done.
    #[serde(default)]
    pub alternatives: Vec<NotTaken>,
    /// Of an unban or a fix that has nothing to do: what `diagnose` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The stages that do not let it in then, or of which that cannot be told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageReport>,
    /// What could not be read and what a person should know besides.
    pub notes: Vec<Text>,
}

/// A way that a plan does not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotTaken {
    /// One line.
    pub summary: String,
    /// At most these would get in by it.
    pub opens: Vec<Source>,
    /// Why it is not taken, and how to have it.
    pub why_not: String,
}

/// Whether a change must be confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confirm {
    /// Confirmed by its own verification.
    NotNeeded,
    /// Rolled back at the deadline unless confirmed.
    Required,
}

/// One step as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDocument {
    /// Which subsystem.
    pub subsystem: Subsystem,
    /// One line.
    pub summary: String,
    /// To the byte.
    pub diff: Text,
    /// What rollback would do.
    pub undo: String,
    /// Whether rollback does nothing about it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
}

/// One access path before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathDocument {
    /// From where: an address, or a range of a `keep` entry.
    pub source: String,
    /// As whom, where known.
    pub user: Option<String>,
    /// Now.
    pub before: Verdict,
    /// After the last step.
    pub after: Verdict,
    /// Why it counts: `claimed` by the signer, a live `session`, a `keep` entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<PathOrigin>,
    /// What a change of sshd makes different for this login: the methods that stay, and each value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sshd: Vec<Text>,
    /// Limits of sshd that a change makes tighter for this login: no part of the verdict.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub risks: Vec<Text>,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `sshfix.change/1`
    pub schema: ChangeSchema,
    /// The change id; empty where there was nothing to do.
    pub id: String,
    /// Where it ended.
    pub state: ChangeState,
    /// Whether the host differs from before.
    pub changed: bool,
    /// When it rolls back unless confirmed.
    pub deadline: Option<Timestamp>,
    /// The plan.
    pub plan: Box<PlanDocument>,
    /// Where it failed: the step's number from 1, its summary and why; and how the rollback went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Whether its rollback left something beside its steps that is not as it was before: files of sshd that others wrote. The notes, or the
    /// failure, say which.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub besides: bool,
    /// Of an unban or a fix: what `diagnose` says now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The stages that do not let it in now, or of which that cannot be told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageReport>,
    /// What a person should know besides.
    pub notes: Vec<Text>,
}

impl Change {
    /// By what the exit status is told. A fix is about the whole path. An unban is done when nothing is left for it to lift, whatever
    /// sshd or a limit may do; but where it had nothing to lift and a stage of its own refuses the source, it has not done what was asked.
    pub(super) fn stands(&self) -> Verdict {
        match &self.plan.operation {
            Operation::Intent(Intent::Unban { .. }) if self.state != ChangeState::Unchanged => Verdict::Accept,
            Operation::Intent(Intent::Unban { .. }) => {
                let its_own = |stage: &StageReport| matches!(stage.stage, Stage::Route | Stage::Netfilter | Stage::HostsAccess);
                let refused = self.stages.iter().any(|stage| its_own(stage) && stage.verdict == Verdict::Refuse);
                if refused { Verdict::Refuse } else { Verdict::Accept }
            }
            _ => self.verdict.unwrap_or(Verdict::Accept),
        }
    }
}

/// The end states of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeState {
    /// Done and verified.
    Confirmed,
    /// Done, waiting for confirm.
    Pending,
    /// Taken back, because it failed or because somebody asked for it; the host is as before.
    RolledBack,
    /// Could not be taken back whole.
    Stuck,
    /// Was stuck, and left to a person.
    Abandoned,
    /// Nothing to do.
    Unchanged,
}

/// A failure and the rollback's outcome, always together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// From 1; 0 when not a step but the verification failed.
    pub step: usize,
    /// The step's summary, or `verify`.
    pub summary: String,
    /// Why.
    pub message: Text,
    /// Steps taken back, newest first.
    pub rolled_back: Vec<Text>,
    /// Steps that could not be taken back, and what to do about each.
    pub stuck: Vec<Text>,
}

/// Changes, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// `sshfix.changes/1`
    pub schema: ChangesSchema,
    /// The newest ones, or the one that was asked for.
    pub changes: Vec<ChangeDocument>,
}

/// The life of one change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeDocument {
    /// The change id.
    pub id: String,
    /// `begun`, `applying`, `verified`, `pending`, `confirmed`, `rolling-back`, `rolled-back`, `stuck` or `abandoned`.
    pub state: ChangeStage,
    /// Who asked.
    pub principal: String,
    /// What was asked; left out where the signer's grants are not about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// `sha256:...` of the plan.
    pub digest: String,
    /// When it was begun.
    pub started: Timestamp,
    /// When it rolls back unless confirmed; `None` where its verification confirmed it.
    pub deadline: Option<Timestamp>,
    /// Seconds until then, while it is pending.
    pub seconds_left: Option<u64>,
    /// When it is over.
    pub finished: Option<Timestamp>,
    /// What was said last: why it was rolled back, what is left to do by hand.
    pub detail: String,
    /// In the order they are applied.
    pub steps: Vec<ChangeStep>,
    /// What happened to the steps, oldest first; only where one change was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<ChangeEvent>,
}

/// One step of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeStep {
    /// Which subsystem.
    pub subsystem: Subsystem,
    /// One line.
    pub summary: String,
    /// What rollback does, or did.
    pub undo: String,
    /// What last happened to it: `planned`, `started`, `done-changed`, `done-already`, `failed`, `undo-started`, `undone`,
    /// `undo-failed`.
    pub event: StepEvent,
    /// What was said with it.
    pub detail: String,
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeEvent {
    /// When.
    pub at: Timestamp,
    /// Which step, from 1.
    pub step: usize,
    /// What happened, as in [`ChangeStep::event`].
    pub event: StepEvent,
    /// What was said with it.
    pub detail: String,
}

/// A change that keeps others waiting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeBrief {
    /// The change id.
    pub id: String,
    /// Who made it.
    pub principal: String,
    /// As in [`ChangeDocument::state`].
    pub state: ChangeStage,
    /// When it rolls back unless confirmed.
    pub deadline: Option<Timestamp>,
    /// Seconds until then.
    pub seconds_left: Option<u64>,
    /// What was said last; of a stuck change: what is left to do by hand.
    pub detail: Text,
}
