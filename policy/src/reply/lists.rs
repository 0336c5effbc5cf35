//! What is answered about everybody: bans, hosts files, rules, jails, leases, and the host itself. No logic.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BansSchema, ChangeBrief, FirewallSchema, HostsSchema, JailsSchema, LeasesSchema, StatusSchema, is_zero};
use crate::address::Source;
use crate::verdict::owner::Owner;

/// Who is blocked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bans {
    /// `sshfix.bans/1`
    pub schema: BansSchema,
    /// All of them.
    pub bans: Vec<Ban>,
    /// How many more there are that the signer's grants are not about.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub others: usize,
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
    /// How many more there are that the signer's grants are not about.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub others: usize,
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
    /// How many more there are that the signer's grants are not about.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub others: usize,
    /// What could not be read.
    pub notes: Vec<String>,
}

/// One rule or set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallEntry {
    /// Names it in `firewall remove`; stays the same while it exists.
    pub reference: String,
    /// Who made it.
    pub owner: Owner,
    /// As its own tool prints it.
    pub text: String,
    /// Whether it is a set of nft, of which one element is named below it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub set: bool,
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
    /// How many more there are that the signer's grants are not about.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub others: usize,
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
    /// Why the live sessions are not known; then `paths` is no list of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_unknown: Option<String>,
    /// How many more sessions and leases there are that the signer's grants are not about.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub others: usize,
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
    /// `fail2ban`, `hosts_access`, `nf_tables`, `xtables`, `ipset`, `listener`, `route`, `sshd`.
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
    /// How many more there are that the signer's grants are not about.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub others: usize,
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
    /// Whether no grant permits the one who asked for it to ask for it now. It goes on until its end all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ungranted: bool,
}
