//! What the agent answers: the JSON documents of interface.md, and the payload it signs around them. No logic.

pub mod audit;
mod change;
mod lists;
pub mod sshd;
mod stage;
pub mod summary;
mod who;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use self::change::{
    Change, ChangeBrief, ChangeDocument, ChangeEvent, ChangeState, ChangeStep, Changes, Confirm, Failure, NotTaken, PathDocument,
    PlanDocument, StepDocument,
};
pub use self::lists::{
    Ban, Bans, DrillDocument, Firewall, FirewallEntry, Hosts, HostsRule, Jail, Jails, LeaseDocument, Leases, Status,
    SubsystemStatus,
};
pub use self::stage::{ChangeStage, StepEvent};
pub use self::who::{Decided, SourceRange, Unsettled, Who};
use crate::address::Source;
use crate::reply::sshd::{SshdCheck, SshdShow};
use crate::text::quoted::Text;
use crate::verdict::cause::Finding;
use crate::verdict::{PathOrigin, StageReport, Verdict};

/// The payload the agent signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The id of the request it answers; empty when the request could not be authenticated.
    pub request: String,
    /// The challenge of the connection, so that a reply cannot be played back on another one.
    pub challenge: String,
    /// The identity of the host that answers.
    pub host: String,
    /// The document.
    pub body: Body,
}

/// The document of a reply, each with its own `schema`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Body {
    /// `sshfix.diagnosis/1`
    Diagnosis(Diagnosis),
    /// `sshfix.change/1`
    Change(Change),
    /// `sshfix.plan/1`
    Plan(PlanDocument),
    /// `sshfix.bans/1`
    Bans(Bans),
    /// `sshfix.hosts/1`
    Hosts(Hosts),
    /// `sshfix.firewall/1`
    Firewall(Firewall),
    /// `sshfix.who/1`
    Who(Who),
    /// `sshfix.jails/1`
    Jails(Jails),
    /// `sshfix.sshd-show/1`
    SshdShow(SshdShow),
    /// `sshfix.sshd-check/1`
    SshdCheck(SshdCheck),
    /// `sshfix.changes/1`
    Changes(Changes),
    /// `sshfix.status/1`
    Status(Status),
    /// `sshfix.leases/1`
    Leases(Leases),
    /// `sshfix.audit/1`
    Audit(audit::Audit),
    /// `sshfix.audit-verification/1`
    Verification(audit::Verification),
    /// `sshfix.audit-checkpoint/1`
    Checkpoint(audit::CheckpointDocument),
    /// `sshfix.error/1`
    Error(ErrorDocument),
}

macro_rules! schema {
    ($name:ident, $text:literal) => {
        /// The schema's name, always
        #[doc = $text]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            /// The one value.
            #[default]
            #[serde(rename = $text)]
            V1,
        }
    };
}

pub(crate) use schema;

schema!(DiagnosisSchema, "sshfix.diagnosis/1");
schema!(PlanSchema, "sshfix.plan/1");
schema!(ChangeSchema, "sshfix.change/1");
schema!(BansSchema, "sshfix.bans/1");
schema!(HostsSchema, "sshfix.hosts/1");
schema!(FirewallSchema, "sshfix.firewall/1");
schema!(WhoSchema, "sshfix.who/1");
schema!(JailsSchema, "sshfix.jails/1");
schema!(ChangesSchema, "sshfix.changes/1");
schema!(LeasesSchema, "sshfix.leases/1");
schema!(StatusSchema, "sshfix.status/1");
schema!(ErrorSchema, "sshfix.error/1");

/// For counts that are left out of a document where there is nothing to count.
#[allow(clippy::trivially_copy_pass_by_ref)] // serde hands over a reference.
pub(crate) fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The path of a new connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// `sshfix.diagnosis/1`
    pub schema: DiagnosisSchema,
    /// What was asked.
    pub subject: Subject,
    /// All stages together.
    pub verdict: Verdict,
    /// In order.
    pub stages: Vec<StageReport>,
    /// Every cause found.
    pub findings: Vec<Finding>,
    /// What could not be read and what a person should know besides.
    pub notes: Vec<String>,
}

/// The connection asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// From where.
    pub address: IpAddr,
    /// As whom.
    pub user: Option<String>,
    /// To which port.
    pub port: u16,
}

/// An error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDocument {
    /// `sshfix.error/1`
    pub schema: ErrorSchema,
    /// For programs.
    pub code: ErrorCode,
    /// What happened and what was left unchanged.
    pub message: Text,
    /// What to do.
    pub advice: Text,
    /// The new dry run, when the plan changed; the plan that was refused, without its paths, when it would lock out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Box<PlanDocument>>,
    /// The change that is in the way, of `busy` and `stuck`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Box<ChangeBrief>>,
    /// Who would be locked out, where it is about one way in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_out: Option<Box<LockedOut>>,
    /// What is said instead to a signer who may not know of what the message names. Never on the wire.
    #[serde(skip)]
    pub guarded: Option<Box<Guarded>>,
}

/// A way in that a plan would close.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedOut {
    /// From where: an address, a range, or `UNKNOWN`.
    pub source: String,
    /// As whom, where known.
    pub user: Option<String>,
    /// Why it counts.
    pub origin: PathOrigin,
    /// What would become of it: refuse, or unknown.
    pub verdict: Verdict,
}

/// Another message for who may not know of what the first one names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// What the first message names.
    pub names: Names,
    /// What is said instead.
    pub message: String,
    /// What to do, then.
    pub advice: String,
}

/// What a message names that is not everybody's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// A way in.
    Login {
        /// From where.
        source: Source,
        /// As whom, where known.
        user: Option<String>,
    },
    /// What a change of this principal came to.
    ChangeOf(String),
}

/// Kinds of error, each with its exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// Failed, host unchanged: 1.
    Failed,
    /// Another change is under way: 1.
    Busy,
    /// The plan is not the one that was shown: 1.
    PlanChanged,
    /// The request makes no sense: 2.
    Usage,
    /// Signature, freshness or policy: 3.
    Refused,
    /// Somebody would be locked out: 4.
    Lockout,
    /// A confirm that was not taken, and why is said: 3.
    NotConfirmed,
    /// A confirm that lacks nothing but its proof of access: 3.
    ProofNeeded,
    /// An earlier change is stuck: 7.
    Stuck,
    /// No agent there: 10.
    Unreachable,
}

impl ErrorDocument {
    /// Shorthand.
    pub fn new(code: ErrorCode, message: impl Into<Text>, advice: impl Into<Text>) -> Self {
        Self {
            schema: ErrorSchema::V1,
            code,
            message: message.into(),
            advice: advice.into(),
            plan: None,
            change: None,
            locked_out: None,
            guarded: None,
        }
    }
}

impl Body {
    /// The exit status of `sshfix ctl` for this answer (interface.md).
    pub fn exit_status(&self) -> u8 {
        match self {
            Body::Diagnosis(diagnosis) => match diagnosis.verdict {
                Verdict::Accept => 0,
                Verdict::Refuse => 8,
                Verdict::Unknown => 9,
            },
            Body::Change(change) => match change.state {
                ChangeState::Confirmed | ChangeState::Unchanged | ChangeState::Abandoned => match change.stands() {
                    Verdict::Accept => 0,
                    Verdict::Refuse => 8,
                    Verdict::Unknown => 9,
                },
                ChangeState::Pending => 5,
                // Asked for, not fallen back to.
                ChangeState::RolledBack if change.failure.is_none() => 0,
                ChangeState::RolledBack => 6,
                ChangeState::Stuck => 7,
            },
            Body::Verification(verification) => u8::from(!verification.intact),
            Body::SshdCheck(check) => u8::from(!(check.valid && check.would_start)),
            Body::Plan(_)
            | Body::Bans(_)
            | Body::Hosts(_)
            | Body::Firewall(_)
            | Body::Who(_)
            | Body::Jails(_)
            | Body::SshdShow(_)
            | Body::Changes(_)
            | Body::Status(_)
            | Body::Leases(_)
            | Body::Audit(_)
            | Body::Checkpoint(_) => 0,
            Body::Error(error) => match error.code {
                ErrorCode::Failed | ErrorCode::Busy | ErrorCode::PlanChanged => 1,
                ErrorCode::Usage => 2,
                ErrorCode::Refused | ErrorCode::NotConfirmed | ErrorCode::ProofNeeded => 3,
                ErrorCode::Lockout => 4,
                ErrorCode::Stuck => 7,
                ErrorCode::Unreachable => 10,
            },
        }
    }
}
