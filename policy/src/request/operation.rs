//! Everything that can be asked, by kind: a query reads, an intent becomes a plan, a decision is about a change that was made, and records
//! are asked about without the host. On the wire and in records an operation stands without its kind. Serves nothing.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Action, audit};
use crate::access_proof::AccessProof;
use crate::address::Source;

/// Everything that can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "an operation that this version of sshfix knows, with its fields")]
pub enum Operation {
    /// A question about the host.
    Query(Query),
    /// A change of it.
    Intent(Intent),
    /// A decision about a change that was made.
    Decision(Decision),
    /// A question about the records.
    Records(Records),
}

/// What is asked about the host. It reads, and changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Query {
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
    /// Who is blocked, by whom, since and until when.
    Banned {
        /// Only what concerns this source.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<Source>,
    },
    /// The rules of hosts.allow and hosts.deny.
    HostsList,
    /// Rules and sets that concern the SSH port, each with a stable reference.
    FirewallList,
    /// Which sources reach a port and which do not, by routes and packet filters.
    FirewallWho {
        /// Which port; the SSH port when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    },
    /// Jails, their bans and their ignoreip.
    #[serde(rename = "fail2ban_jails")]
    Fail2banJails,
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
    /// Agent, host, subsystems.
    Status,
}

/// What is to be changed on the host: it becomes a plan, which is shown or made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Intent {
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
    /// End a lease now.
    Revoke {
        /// Which.
        id: String,
    },
}

/// What is decided about a change that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Decision {
    /// Keep a pending change. Only over a connection made after it was applied.
    Confirm {
        /// The change id.
        id: String,
        /// That the SSH port answers, shown for this change and the challenge of this connection; `null` only asks whether the change could
        /// be confirmed now. No request leaves it out; a record does.
        #[serde(default = "withheld", skip_serializing_if = "is_withheld")]
        proof: Option<Box<AccessProof>>,
    },
    /// Roll back a pending or stuck change now.
    Rollback {
        /// The change id.
        id: String,
        /// Leave a stuck change as it is: a person takes care of the rest.
        #[serde(default)]
        abandon: bool,
    },
}

/// What is asked about the records: it does not look at the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Records {
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
    /// What was let in for a while and until when.
    Leases,
    /// Changes and their state, newest first; one with its steps and journal.
    Changes {
        /// Only this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
}

#[allow(clippy::unnecessary_wraps)] // serde wants the type of the field.
fn withheld() -> Option<Box<AccessProof>> {
    Some(Box::new(AccessProof::withheld()))
}

#[allow(clippy::ref_option)] // serde hands over a reference.
fn is_withheld(proof: &Option<Box<AccessProof>>) -> bool {
    proof.as_ref().is_some_and(|proof| proof.is_withheld())
}

impl From<Query> for Operation {
    fn from(asked: Query) -> Self {
        Operation::Query(asked)
    }
}

impl From<Intent> for Operation {
    fn from(asked: Intent) -> Self {
        Operation::Intent(asked)
    }
}

impl From<Decision> for Operation {
    fn from(asked: Decision) -> Self {
        Operation::Decision(asked)
    }
}

impl From<Records> for Operation {
    fn from(asked: Records) -> Self {
        Operation::Records(asked)
    }
}

impl Operation {
    /// The port that is named, where one can be.
    pub fn port(&self) -> Option<u16> {
        match self {
            Operation::Query(Query::Diagnose { port, .. } | Query::FirewallWho { port } | Query::SshdShow { port, .. })
            | Operation::Intent(Intent::Fix { port, .. }) => *port,
            Operation::Query(_) | Operation::Intent(_) | Operation::Decision(_) | Operation::Records(_) => None,
        }
    }

    /// Whether a port can be named.
    pub fn is_about_a_port(&self) -> bool {
        matches!(
            self,
            Operation::Query(Query::Diagnose { .. } | Query::FirewallWho { .. } | Query::SshdShow { .. })
                | Operation::Intent(Intent::Fix { .. })
        )
    }

    /// Whether it is about the logins of every user at once, where no user is named.
    pub fn is_about_every_user(&self) -> bool {
        match self {
            Operation::Query(asked) => matches!(asked, Query::SshdShow { .. } | Query::SshdCheck),
            Operation::Intent(intent) => intent.is_about_sshd(),
            Operation::Decision(_) | Operation::Records(_) => false,
        }
    }

    /// The word a grant must name.
    pub fn action(&self) -> Action {
        match self {
            Operation::Query(asked) => asked.action(),
            Operation::Intent(intent) => intent.action(),
            Operation::Decision(Decision::Confirm { .. }) => Action::Confirm,
            Operation::Decision(Decision::Rollback { .. }) => Action::Rollback,
            Operation::Records(asked) => asked.action(),
        }
    }

    /// The source the operation is about, which a grant's networks must hold. `None` is about everybody.
    pub fn source(&self) -> Option<Source> {
        match self {
            Operation::Query(asked) => asked.source(),
            Operation::Intent(intent) => intent.source(),
            Operation::Decision(_) | Operation::Records(_) => None,
        }
    }

    /// The source that a grant's networks must hold: of an unban with `--range` more gets in than its source, and how much is not
    /// known before the host is read.
    pub fn widest(&self) -> Option<Source> {
        match self {
            Operation::Intent(Intent::Unban { range: true, .. }) => None,
            other => other.source(),
        }
    }
}

impl Query {
    /// The word a grant must name.
    pub fn action(&self) -> Action {
        match self {
            Query::Diagnose { .. } => Action::Diagnose,
            Query::Banned { .. } => Action::Banned,
            Query::HostsList => Action::HostsList,
            Query::FirewallList => Action::FirewallList,
            Query::FirewallWho { .. } => Action::FirewallWho,
            Query::Fail2banJails => Action::Fail2banJails,
            Query::SshdShow { .. } => Action::SshdShow,
            Query::SshdCheck => Action::SshdCheck,
            Query::Status => Action::Status,
        }
    }

    /// The source it is about; `None` is about everybody.
    pub fn source(&self) -> Option<Source> {
        match self {
            Query::Diagnose { address, .. } => Some((*address).into()),
            Query::Banned { source } => *source,
            Query::SshdShow { address, .. } => address.map(Source::from),
            Query::HostsList
            | Query::FirewallList
            | Query::FirewallWho { .. }
            | Query::Fail2banJails
            | Query::SshdCheck
            | Query::Status => None,
        }
    }
}

impl Intent {
    /// The word a grant must name.
    pub fn action(&self) -> Action {
        match self {
            Intent::Unban { .. } => Action::Unban,
            Intent::Fix { .. } => Action::Fix,
            Intent::Ban { .. } => Action::Ban,
            Intent::HostsAllow { .. } => Action::HostsAllow,
            Intent::HostsDeny { .. } => Action::HostsDeny,
            Intent::HostsRemove { .. } => Action::HostsRemove,
            Intent::FirewallAccept { .. } => Action::FirewallAccept,
            Intent::FirewallRemove { .. } => Action::FirewallRemove,
            Intent::Fail2banIgnore { .. } => Action::Fail2banIgnore,
            Intent::Fail2banUnignore { .. } => Action::Fail2banUnignore,
            Intent::SshdSet { .. } => Action::SshdSet,
            Intent::SshdUnset { .. } => Action::SshdUnset,
            Intent::SshdReload => Action::SshdReload,
            Intent::SshdRestart => Action::SshdRestart,
            Intent::Allow { .. } => Action::Allow,
            Intent::Revoke { .. } => Action::Revoke,
        }
    }

    /// The source it is about; `None` is about everybody.
    pub fn source(&self) -> Option<Source> {
        match self {
            Intent::Fix { address, .. } => Some((*address).into()),
            Intent::Unban { source, .. }
            | Intent::Ban { source, .. }
            | Intent::HostsAllow { source, .. }
            | Intent::HostsDeny { source, .. }
            | Intent::HostsRemove { source, .. }
            | Intent::Allow { source, .. }
            | Intent::FirewallAccept { source }
            | Intent::Fail2banIgnore { source, .. }
            | Intent::Fail2banUnignore { source, .. } => Some(*source),
            Intent::FirewallRemove { .. }
            | Intent::SshdSet { .. }
            | Intent::SshdUnset { .. }
            | Intent::SshdReload
            | Intent::SshdRestart
            | Intent::Revoke { .. } => None,
        }
    }

    /// Whether it is about sshd itself, and so about the logins of everybody.
    pub fn is_about_sshd(&self) -> bool {
        matches!(self, Intent::SshdSet { .. } | Intent::SshdUnset { .. } | Intent::SshdReload | Intent::SshdRestart)
    }
}

impl Records {
    /// The word a grant must name.
    pub fn action(&self) -> Action {
        match self {
            Records::AuditShow { .. } | Records::AuditVerify { .. } | Records::AuditCheckpoint => Action::Audit,
            Records::Leases => Action::Leases,
            Records::Changes { .. } => Action::Changes,
        }
    }
}
