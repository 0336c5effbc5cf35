//! What may be asked of the agent: the operations, and the request that carries one. Parsed only after the signature over
//! its bytes holds. Holds no authority: who may ask is decided in `authorize`.

pub mod allowed_signers;
pub mod audit;
pub mod authenticate;
pub mod authorize;
pub mod grants;
pub mod recorded;
pub mod wire;

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::access_proof::AccessProof;
use crate::address::{Source, canonical};

/// The protocol version inside a request.
pub const PROTOCOL: u32 = 1;
/// The SSHSIG namespace of requests.
pub const REQUEST_NAMESPACE: &str = "sshfix-request@v1";
/// The SSHSIG namespace of replies.
pub const REPLY_NAMESPACE: &str = "sshfix-reply@v1";

/// The payload a client signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The identity of the host that is meant: the `SHA256:...` fingerprint of the agent's key.
    pub host: String,
    /// 32 hex digits the client drew at random; remembered, so that it counts once.
    pub id: String,
    /// The challenge the agent gave on this connection, to the letter.
    pub challenge: String,
    /// Seconds after the challenge was given for which the request holds. Measured by the agent's monotonic clock, so that a
    /// wrong wall clock on either side never refuses an honest request.
    pub valid_for: u32,
    /// Who the signer says to be, where the key stands for several principals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// What is asked.
    pub operation: Operation,
    /// Whether a change is shown or made. Ignored by operations that change nothing.
    #[serde(default)]
    pub mode: Mode,
    /// For the audit record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The address the person came in from (`SSH_CONNECTION`), as the signer claims: an access path of the proof of the signer's own
    /// changes, and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    /// The login name of that person, where known; a claim, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_user: Option<String>,
}

/// Whether a change is shown or made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Mode {
    /// Show the plan, change nothing.
    #[default]
    DryRun,
    /// Make the change; with a digest, only if the plan is still that one.
    Apply {
        /// `sha256:...` of the plan that was shown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<String>,
        /// Seconds in which a change that must be confirmed waits for it; the agent's default when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        confirm_within: Option<u64>,
    },
}

/// Everything that can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// The path of a new connection, stage by stage.
    Diagnose {
        /// From where.
        address: IpAddr,
        /// As whom.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// To which port; the SSH port when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
        /// With everything it meets on its way, not only what decides.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        explain: bool,
    },
    /// Lift every block of a source in every subsystem.
    Unban {
        /// An address or a range.
        source: Source,
        /// Only this jail of fail2ban, nothing else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        jail: Option<String>,
        /// Seconds for which the jails ignore the source afterwards.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ignore_for: Option<u64>,
        /// Lift the whole range that an element, rule, ticket or route names, where that holds the source and more.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        range: bool,
    },
    /// Lift everything that `diagnose` finds for a login, in every subsystem and in sshd itself.
    Fix {
        /// From where.
        address: IpAddr,
        /// As whom.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// To which port; the SSH port when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    },
    /// Ban through fail2ban.
    Ban {
        /// Whom.
        source: Source,
        /// In which jail.
        jail: String,
    },
    /// Who is blocked, by whom, since and until when.
    Banned {
        /// Only what concerns this source.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<Source>,
    },
    /// The rules of hosts.allow and hosts.deny.
    HostsList,
    /// Let a source in by hosts.allow.
    HostsAllow {
        /// Whom.
        source: Source,
        /// Which daemon; `sshd` when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        daemon: Option<String>,
    },
    /// Keep a source out by hosts.deny.
    HostsDeny {
        /// Whom.
        source: Source,
        /// Which daemon; `sshd` when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        daemon: Option<String>,
    },
    /// Take the lines that name exactly this source out of both files.
    HostsRemove {
        /// Whom.
        source: Source,
        /// Which daemon; `sshd` when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        daemon: Option<String>,
    },
    /// Rules and sets that concern the SSH port, each with a stable reference.
    FirewallList,
    /// Which sources reach a port and which do not, by routes and packet filters.
    FirewallWho {
        /// Which port; the SSH port when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    },
    /// An accept for a source to the SSH port, before whatever refuses it.
    FirewallAccept {
        /// Whom.
        source: Source,
    },
    /// Remove one rule or element by its reference.
    FirewallRemove {
        /// As `firewall list` shows it.
        reference: String,
    },
    /// Jails, their bans and their ignoreip.
    #[serde(rename = "fail2ban_jails")]
    Fail2banJails,
    /// Add to a jail's ignoreip.
    #[serde(rename = "fail2ban_ignore")]
    Fail2banIgnore {
        /// Whom.
        source: Source,
        /// In which jail; in all when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        jail: Option<String>,
    },
    /// Take out of a jail's ignoreip.
    #[serde(rename = "fail2ban_unignore")]
    Fail2banUnignore {
        /// Whom.
        source: Source,
        /// In which jail; in all when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        jail: Option<String>,
    },
    /// The effective configuration of sshd, with the origin of each value.
    SshdShow {
        /// Only these; all when none is given.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        keywords: Vec<String>,
        /// As whom; with no address either, for everybody.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// From where.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
        /// Of the sshd on this port; the SSH port when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    },
    /// Whether the files of sshd are good, whether the running sshd runs what they say, and whether it would start again.
    SshdCheck,
    /// Set a keyword of `sshd_config`, where the value wins, and reload sshd.
    SshdSet {
        /// Which.
        keyword: String,
        /// Its arguments, without quotes.
        values: Vec<String>,
        /// Inside the Match block with these criteria (`Address 10.0.0.0/8`); for everybody when not given.
        #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
        criteria: Option<String>,
    },
    /// Take a keyword out of `sshd_config`, so that the default counts, and reload sshd.
    SshdUnset {
        /// Which.
        keyword: String,
        /// Inside the Match block with these criteria; for everybody when not given.
        #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
        criteria: Option<String>,
    },
    /// Have sshd read its files again.
    SshdReload,
    /// Restart sshd.
    SshdRestart,
    /// Let a source in for a while, whatever blocks it.
    Allow {
        /// Whom.
        source: Source,
        /// For how long.
        seconds: u64,
    },
    /// What was let in for a while and until when.
    Leases,
    /// End a lease now.
    Revoke {
        /// Which.
        id: String,
    },
    /// Audit records.
    AuditShow {
        /// Which.
        #[serde(default)]
        filter: audit::Filter,
    },
    /// Follow the whole chain of audit records.
    AuditVerify {
        /// An older signed head to hold it against, as `audit checkpoint` printed it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        checkpoint: Option<String>,
    },
    /// A signed head of the chain as it is now.
    AuditCheckpoint,
    /// Changes and their state, newest first; one with its steps and journal.
    Changes {
        /// Only this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
    /// Keep a pending change. Only over a connection made after it was applied.
    Confirm {
        /// The change id.
        id: String,
        /// That the SSH port answers, shown for this change and the challenge of this connection; `null` only asks whether the change could
        /// be confirmed now. No request leaves it out; a record does.
        #[serde(default = "withheld", skip_serializing_if = "is_withheld")]
        proof: Option<Box<AccessProof>>,
    },
    /// Take a pending or stuck change back at once.
    Rollback {
        /// The change id.
        id: String,
        /// Leave a stuck change as it is: a person takes care of the rest.
        #[serde(default)]
        abandon: bool,
    },
    /// Agent, host, subsystems.
    Status,
}

#[allow(clippy::unnecessary_wraps)] // serde wants the type of the field.
fn withheld() -> Option<Box<AccessProof>> {
    Some(Box::new(AccessProof::withheld()))
}

#[allow(clippy::ref_option)] // serde hands over a reference.
fn is_withheld(proof: &Option<Box<AccessProof>>) -> bool {
    proof.as_ref().is_some_and(|proof| proof.is_withheld())
}

/// What a grant names: one word an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// `diagnose`
    Diagnose,
    /// `unban`
    Unban,
    /// `fix`
    Fix,
    /// `ban`
    Ban,
    /// `banned`
    Banned,
    /// `hosts list`
    HostsList,
    /// `hosts allow`
    HostsAllow,
    /// `hosts deny`
    HostsDeny,
    /// `hosts remove`
    HostsRemove,
    /// `firewall list`
    FirewallList,
    /// `firewall who`
    FirewallWho,
    /// `firewall accept`
    FirewallAccept,
    /// `firewall remove`
    FirewallRemove,
    /// `fail2ban jails`
    #[serde(rename = "fail2ban-jails")]
    Fail2banJails,
    /// `fail2ban ignore`
    #[serde(rename = "fail2ban-ignore")]
    Fail2banIgnore,
    /// `fail2ban unignore`
    #[serde(rename = "fail2ban-unignore")]
    Fail2banUnignore,
    /// `sshd show`
    SshdShow,
    /// `sshd check`
    SshdCheck,
    /// `sshd set`
    SshdSet,
    /// `sshd unset`
    SshdUnset,
    /// `sshd reload`
    SshdReload,
    /// `sshd restart`
    SshdRestart,
    /// `allow`
    Allow,
    /// `leases`
    Leases,
    /// `revoke`
    Revoke,
    /// `audit show`, `audit verify` and `audit checkpoint`
    Audit,
    /// `changes`
    Changes,
    /// `confirm`: one's own changes, which whoever has a grant may do.
    Confirm,
    /// `confirm` of changes that others made.
    ConfirmAny,
    /// `rollback`: one's own changes, which whoever has a grant may do.
    Rollback,
    /// `rollback` of changes that others made.
    RollbackAny,
    /// `status`
    Status,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Diagnose => "diagnose",
            Action::Unban => "unban",
            Action::Fix => "fix",
            Action::Ban => "ban",
            Action::Banned => "banned",
            Action::HostsList => "hosts-list",
            Action::HostsAllow => "hosts-allow",
            Action::HostsDeny => "hosts-deny",
            Action::HostsRemove => "hosts-remove",
            Action::FirewallList => "firewall-list",
            Action::FirewallWho => "firewall-who",
            Action::FirewallAccept => "firewall-accept",
            Action::FirewallRemove => "firewall-remove",
            Action::Fail2banJails => "fail2ban-jails",
            Action::Fail2banIgnore => "fail2ban-ignore",
            Action::Fail2banUnignore => "fail2ban-unignore",
            Action::SshdShow => "sshd-show",
            Action::SshdCheck => "sshd-check",
            Action::SshdSet => "sshd-set",
            Action::SshdUnset => "sshd-unset",
            Action::SshdReload => "sshd-reload",
            Action::SshdRestart => "sshd-restart",
            Action::Allow => "allow",
            Action::Leases => "leases",
            Action::Revoke => "revoke",
            Action::Audit => "audit",
            Action::Changes => "changes",
            Action::Confirm => "confirm",
            Action::ConfirmAny => "confirm-any",
            Action::Rollback => "rollback",
            Action::RollbackAny => "rollback-any",
            Action::Status => "status",
        })
    }
}

impl Request {
    /// For whom the configuration of sshd is shown: what is not said is the requester's own.
    pub fn login_shown(&self) -> Option<(String, IpAddr)> {
        let Operation::SshdShow { user, address, .. } = &self.operation else { return None };
        if user.is_none() && address.is_none() {
            return None;
        }
        let user = user.as_deref().or(self.from_user.as_deref()).unwrap_or("root");
        let address = address.or(self.from).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Some((user.to_owned(), canonical(address)))
    }

    /// The user whose login is asked about, which a grant's users must hold.
    pub fn user(&self) -> Option<Cow<'_, str>> {
        match &self.operation {
            Operation::Diagnose { user, .. } | Operation::Fix { user, .. } => user.as_deref().map(Cow::Borrowed),
            Operation::SshdShow { .. } => self.login_shown().map(|(user, _)| Cow::Owned(user)),
            Operation::Unban { .. }
            | Operation::Ban { .. }
            | Operation::Banned { .. }
            | Operation::HostsList
            | Operation::HostsAllow { .. }
            | Operation::HostsDeny { .. }
            | Operation::HostsRemove { .. }
            | Operation::FirewallList
            | Operation::FirewallWho { .. }
            | Operation::FirewallAccept { .. }
            | Operation::FirewallRemove { .. }
            | Operation::Fail2banJails
            | Operation::Fail2banIgnore { .. }
            | Operation::Fail2banUnignore { .. }
            | Operation::SshdCheck
            | Operation::SshdSet { .. }
            | Operation::SshdUnset { .. }
            | Operation::SshdReload
            | Operation::SshdRestart
            | Operation::Allow { .. }
            | Operation::Leases
            | Operation::Revoke { .. }
            | Operation::AuditShow { .. }
            | Operation::AuditVerify { .. }
            | Operation::AuditCheckpoint
            | Operation::Changes { .. }
            | Operation::Confirm { .. }
            | Operation::Rollback { .. }
            | Operation::Status => None,
        }
    }
}

impl Operation {
    /// The port that is named, where one can be.
    pub fn port(&self) -> Option<u16> {
        match self {
            Operation::Diagnose { port, .. }
            | Operation::Fix { port, .. }
            | Operation::FirewallWho { port }
            | Operation::SshdShow { port, .. } => *port,
            _ => None,
        }
    }

    /// Whether a port can be named.
    pub fn is_about_a_port(&self) -> bool {
        matches!(
            self,
            Operation::Diagnose { .. } | Operation::Fix { .. } | Operation::FirewallWho { .. } | Operation::SshdShow { .. }
        )
    }

    /// Whether it is about the logins of every user at once, where no user is named.
    pub fn is_about_every_user(&self) -> bool {
        matches!(
            self,
            Operation::SshdShow { .. }
                | Operation::SshdCheck
                | Operation::SshdSet { .. }
                | Operation::SshdUnset { .. }
                | Operation::SshdReload
                | Operation::SshdRestart
        )
    }

    /// The word a grant must name.
    pub fn action(&self) -> Action {
        match self {
            Operation::Diagnose { .. } => Action::Diagnose,
            Operation::Unban { .. } => Action::Unban,
            Operation::Fix { .. } => Action::Fix,
            Operation::Ban { .. } => Action::Ban,
            Operation::Banned { .. } => Action::Banned,
            Operation::HostsList => Action::HostsList,
            Operation::HostsAllow { .. } => Action::HostsAllow,
            Operation::HostsDeny { .. } => Action::HostsDeny,
            Operation::HostsRemove { .. } => Action::HostsRemove,
            Operation::FirewallList => Action::FirewallList,
            Operation::FirewallWho { .. } => Action::FirewallWho,
            Operation::FirewallAccept { .. } => Action::FirewallAccept,
            Operation::FirewallRemove { .. } => Action::FirewallRemove,
            Operation::Fail2banJails => Action::Fail2banJails,
            Operation::Fail2banIgnore { .. } => Action::Fail2banIgnore,
            Operation::Fail2banUnignore { .. } => Action::Fail2banUnignore,
            Operation::SshdShow { .. } => Action::SshdShow,
            Operation::SshdCheck => Action::SshdCheck,
            Operation::SshdSet { .. } => Action::SshdSet,
            Operation::SshdUnset { .. } => Action::SshdUnset,
            Operation::SshdReload => Action::SshdReload,
            Operation::SshdRestart => Action::SshdRestart,
            Operation::Allow { .. } => Action::Allow,
            Operation::Leases => Action::Leases,
            Operation::Revoke { .. } => Action::Revoke,
            Operation::AuditShow { .. } | Operation::AuditVerify { .. } | Operation::AuditCheckpoint => Action::Audit,
            Operation::Changes { .. } => Action::Changes,
            Operation::Confirm { .. } => Action::Confirm,
            Operation::Rollback { .. } => Action::Rollback,
            Operation::Status => Action::Status,
        }
    }

    /// The source the operation is about, which a grant's networks must hold. `None` is about everybody.
    pub fn source(&self) -> Option<Source> {
        match self {
            Operation::Diagnose { address, .. } | Operation::Fix { address, .. } => Some((*address).into()),
            Operation::Unban { source, .. }
            | Operation::Ban { source, .. }
            | Operation::HostsAllow { source, .. }
            | Operation::HostsDeny { source, .. }
            | Operation::HostsRemove { source, .. }
            | Operation::Allow { source, .. }
            | Operation::FirewallAccept { source }
            | Operation::Fail2banIgnore { source, .. }
            | Operation::Fail2banUnignore { source, .. } => Some(*source),
            Operation::Banned { source } => *source,
            Operation::SshdShow { address, .. } => address.map(Source::from),
            Operation::HostsList
            | Operation::FirewallList
            | Operation::FirewallWho { .. }
            | Operation::FirewallRemove { .. }
            | Operation::Fail2banJails
            | Operation::SshdCheck
            | Operation::SshdSet { .. }
            | Operation::SshdUnset { .. }
            | Operation::SshdReload
            | Operation::SshdRestart
            | Operation::Leases
            | Operation::Revoke { .. }
            | Operation::AuditShow { .. }
            | Operation::AuditVerify { .. }
            | Operation::AuditCheckpoint
            | Operation::Changes { .. }
            | Operation::Confirm { .. }
            | Operation::Rollback { .. }
            | Operation::Status => None,
        }
    }

    /// The source that a grant's networks must hold: of an unban with `--range` more gets in than its source, and how much is not
    /// known before the host is read.
    pub fn widest(&self) -> Option<Source> {
        match self {
            Operation::Unban { range: true, .. } => None,
            other => other.source(),
        }
    }

    /// Whether it can change the host by a plan.
    pub fn mutates(&self) -> bool {
        match self {
            Operation::Unban { .. }
            | Operation::Fix { .. }
            | Operation::Allow { .. }
            | Operation::Revoke { .. }
            | Operation::Ban { .. }
            | Operation::HostsAllow { .. }
            | Operation::HostsDeny { .. }
            | Operation::HostsRemove { .. }
            | Operation::FirewallAccept { .. }
            | Operation::FirewallRemove { .. }
            | Operation::Fail2banIgnore { .. }
            | Operation::Fail2banUnignore { .. }
            | Operation::SshdSet { .. }
            | Operation::SshdUnset { .. }
            | Operation::SshdReload
            | Operation::SshdRestart => true,
            Operation::Diagnose { .. }
            | Operation::SshdShow { .. }
            | Operation::SshdCheck
            | Operation::Banned { .. }
            | Operation::HostsList
            | Operation::FirewallList
            | Operation::FirewallWho { .. }
            | Operation::Fail2banJails
            | Operation::Leases
            | Operation::AuditShow { .. }
            | Operation::AuditVerify { .. }
            | Operation::AuditCheckpoint
            | Operation::Changes { .. }
            | Operation::Confirm { .. }
            | Operation::Rollback { .. }
            | Operation::Status => false,
        }
    }
}

#[cfg(test)]
mod wire_tests;
