//! What the agent answers: the JSON documents of interface.md, and the payload it signs around them. No logic.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::address::{AddressError, Source};
use crate::audit;
use crate::ranges;
use crate::request::Operation;
use crate::verdict::{Finding, StageReport, Verdict};

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
    /// `not-needed`, or `required`.
    pub confirm: Confirm,
    /// What would lift a block too, and is not done.
    #[serde(default)]
    pub alternatives: Vec<NotTaken>,
    /// What could not be read and what a person should know besides.
    pub notes: Vec<String>,
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
    pub subsystem: String,
    /// One line.
    pub summary: String,
    /// To the byte.
    pub diff: String,
    /// What rollback would do.
    pub undo: String,
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
    pub plan: PlanDocument,
    /// Where it failed: the step's number from 1, its summary and why; and how the rollback went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// What a person should know besides.
    pub notes: Vec<String>,
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
    pub message: String,
    /// Steps taken back, newest first.
    pub rolled_back: Vec<String>,
    /// Steps that could not be taken back, and what to do about each.
    pub stuck: Vec<String>,
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
    pub state: String,
    /// Who asked.
    pub principal: String,
    /// What was asked.
    pub operation: Operation,
    /// `sha256:...` of the plan.
    pub digest: String,
    /// When it was begun.
    pub started: Timestamp,
    /// When it rolls back unless confirmed; `None` where its verification confirmed it.
    pub deadline: Option<Timestamp>,
    /// Seconds until then, while it is pending.
    pub seconds_left: Option<u64>,
    /// When it came to its end.
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
    pub subsystem: String,
    /// One line.
    pub summary: String,
    /// What rollback does, or did.
    pub undo: String,
    /// What last happened to it: `planned`, `started`, `done-changed`, `done-already`, `failed`, `undo-started`, `undone`,
    /// `undo-failed`.
    pub event: String,
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
    pub event: String,
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
    pub state: String,
    /// When it rolls back unless confirmed.
    pub deadline: Option<Timestamp>,
    /// Seconds until then.
    pub seconds_left: Option<u64>,
    /// What was said last; of a stuck change: what is left to do by hand.
    pub detail: String,
}

/// Who is blocked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bans {
    /// `sshfix.bans/1`
    pub schema: BansSchema,
    /// All of them.
    pub bans: Vec<Ban>,
    /// What could not be read.
    pub notes: Vec<String>,
}

/// One blocked source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// Whom.
    pub source: Source,
    /// By whom: `fail2ban jail sshd`, `nft set inet filter blocked`, `/etc/hosts.deny line 3`.
    pub by: String,
    /// Since when, where recorded.
    pub since: Option<Timestamp>,
    /// Until when; `None` is for ever, or not recorded.
    pub until: Option<Timestamp>,
}

/// hosts.allow and hosts.deny.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts {
    /// `sshfix.hosts/1`
    pub schema: HostsSchema,
    /// Whether the running sshd obeys these files, and how that is known.
    pub enforced: String,
    /// In the order libwrap reads them.
    pub rules: Vec<HostsRule>,
    /// What could not be read.
    pub notes: Vec<String>,
}

/// One rule of hosts.allow or hosts.deny.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostsRule {
    /// The file.
    pub file: String,
    /// Its first line, from 1.
    pub line: usize,
    /// As it stands there.
    pub text: String,
    /// Whether its daemon list can match sshd.
    pub concerns_sshd: bool,
}

/// Rules and sets that concern the SSH port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firewall {
    /// `sshfix.firewall/1`
    pub schema: FirewallSchema,
    /// In the kernel's order.
    pub entries: Vec<FirewallEntry>,
    /// What could not be read.
    pub notes: Vec<String>,
}

/// One rule or set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallEntry {
    /// Names it in `firewall remove`; stays the same while it exists.
    pub reference: String,
    /// Who made it.
    pub owner: String,
    /// As its own tool prints it.
    pub text: String,
}

/// Who reaches the port and who does not, by routes and packet filters. Every address is in exactly one of `reach`, `blocked` and
/// `unknown`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// `sshfix.who/1`
    pub schema: WhoSchema,
    /// Which port.
    pub port: u16,
    /// Those who reach it.
    pub reach: Vec<SourceRange>,
    /// Those who do not.
    pub blocked: Vec<SourceRange>,
    /// Those of whom it cannot be told.
    pub unknown: Vec<Unsettled>,
    /// The blocked ones once more, by what decides.
    pub deciders: Vec<Decided>,
    /// What a person should know besides.
    pub notes: Vec<String>,
}

/// Sources of which it cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsettled {
    /// Who.
    pub sources: Vec<SourceRange>,
    /// On what it depends.
    pub why: String,
}

/// What decides that sources are blocked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// Where it stands: `nft inet filter input handle 9`.
    pub by: String,
    /// As its own tool prints it.
    pub text: String,
    /// Whom it blocks.
    pub sources: Vec<SourceRange>,
}

/// A range of addresses as text: a prefix such as `203.0.113.0/24` where it is one, else `203.0.113.8-203.0.113.255`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceRange {
    /// The lowest address.
    pub first: IpAddr,
    /// The highest address.
    pub last: IpAddr,
}

impl SourceRange {
    /// A range of numbers of a family.
    pub fn of(v6: bool, (first, last): ranges::Span) -> Self {
        Self { first: ranges::address(v6, first), last: ranges::address(v6, last) }
    }

    /// The prefix, if it is one.
    pub fn prefix(self) -> Option<Source> {
        let (first, last) = (ranges::number(self.first), ranges::number(self.last));
        let (bits, differ) =
            (if self.first.is_ipv4() { 32 } else { 128 }, (first ^ last).checked_ilog2().map_or(0, |bit| bit + 1));
        let net = ipnet::IpNet::new(self.first, u8::try_from(bits - differ).ok()?).ok()?;
        (net.network() == self.first && net.broadcast() == self.last).then(|| Source::new(net))
    }
}

impl From<Source> for SourceRange {
    fn from(source: Source) -> Self {
        Self { first: source.first(), last: source.last() }
    }
}

impl fmt::Display for SourceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix() {
            Some(source) => source.fmt(f),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for SourceRange {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ends = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match ends {
            Some((first, last)) => Ok(Self { first, last }),
            None => text.parse::<Source>().map(Self::from),
        }
    }
}

impl Serialize for SourceRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SourceRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// fail2ban's jails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jails {
    /// `sshfix.jails/1`
    pub schema: JailsSchema,
    /// fail2ban's version.
    pub version: Option<String>,
    /// All of them.
    pub jails: Vec<Jail>,
    /// What could not be read.
    pub notes: Vec<String>,
}

/// One jail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jail {
    /// Its name.
    pub name: String,
    /// Its tickets.
    pub banned: Vec<Ban>,
    /// Its ignoreip, as fail2ban prints it.
    pub ignore: Vec<String>,
}

/// The agent and its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `sshfix.status/1`
    pub schema: StatusSchema,
    /// The agent's version.
    pub version: String,
    /// The host's name.
    pub hostname: String,
    /// The host identity that requests are signed for.
    pub host: String,
    /// The SSH port the agent looks at.
    pub port: u16,
    /// What was found.
    pub subsystems: Vec<SubsystemStatus>,
    /// Live SSH sessions: the ways in the proof keeps.
    pub paths: Vec<String>,
    /// The id of the pending change, if any.
    pub pending: Option<String>,
    /// Changes that keep others waiting: the one that is pending or under way, and stuck ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<ChangeBrief>,
    /// Allows that end by themselves.
    pub leases: Vec<LeaseDocument>,
    /// When rollback was last drilled; `None` is never.
    pub last_drill: Option<Timestamp>,
    /// What that drill came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillDocument>,
    /// What a person should know besides.
    pub notes: Vec<String>,
}

/// What a drill of rollback came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillDocument {
    /// Whether everything was as before at every point.
    pub passed: bool,
    /// At how many points the worker was killed.
    pub points: usize,
    /// What failed, and what could not be copied.
    pub detail: String,
}

/// One subsystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubsystemStatus {
    /// `fail2ban`, `hosts_access`, `nf_tables`, `xtables`, `listener`.
    pub name: String,
    /// `present`, `absent` or `unreadable`.
    pub state: String,
    /// Its version, where it has one.
    pub version: Option<String>,
    /// One line.
    pub detail: String,
}

/// What was let in for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    /// `sshfix.leases/1`
    pub schema: LeasesSchema,
    /// Those that run, soonest end first.
    pub leases: Vec<LeaseDocument>,
    /// What a person should know besides.
    pub notes: Vec<String>,
}

/// An allow that ends by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseDocument {
    /// Its id.
    pub id: String,
    /// One line: what was asked for.
    pub summary: String,
    /// When it ends.
    pub ends: Timestamp,
    /// Who asked for it.
    #[serde(default)]
    pub principal: String,
    /// The change that made it.
    #[serde(default)]
    pub change: String,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Timestamp>,
    /// What is taken back at its end, one line each.
    #[serde(default)]
    pub parts: Vec<String>,
}

/// An error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDocument {
    /// `sshfix.error/1`
    pub schema: ErrorSchema,
    /// For programs.
    pub code: ErrorCode,
    /// What happened and what was left unchanged.
    pub message: String,
    /// What to do.
    pub advice: String,
    /// The new dry run, when the plan changed; the plan that was refused, when it would lock out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Box<PlanDocument>>,
    /// The change that is in the way, of `busy` and `stuck`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Box<ChangeBrief>>,
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
    /// An earlier change is stuck: 7.
    Stuck,
    /// No agent there: 10.
    Unreachable,
}

impl ErrorDocument {
    /// Shorthand.
    pub fn new(code: ErrorCode, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { schema: ErrorSchema::V1, code, message: message.into(), advice: advice.into(), plan: None, change: None }
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
                ChangeState::Confirmed | ChangeState::Unchanged | ChangeState::Abandoned => 0,
                ChangeState::Pending => 5,
                // Asked for, not fallen back to.
                ChangeState::RolledBack if change.failure.is_none() => 0,
                ChangeState::RolledBack => 6,
                ChangeState::Stuck => 7,
            },
            Body::Verification(verification) => u8::from(!verification.intact),
            Body::Plan(_)
            | Body::Bans(_)
            | Body::Hosts(_)
            | Body::Firewall(_)
            | Body::Who(_)
            | Body::Jails(_)
            | Body::Changes(_)
            | Body::Status(_)
            | Body::Leases(_)
            | Body::Audit(_)
            | Body::Checkpoint(_) => 0,
            Body::Error(error) => match error.code {
                ErrorCode::Failed | ErrorCode::Busy | ErrorCode::PlanChanged => 1,
                ErrorCode::Usage => 2,
                ErrorCode::Refused | ErrorCode::NotConfirmed => 3,
                ErrorCode::Lockout => 4,
                ErrorCode::Stuck => 7,
                ErrorCode::Unreachable => 10,
            },
        }
    }
}
