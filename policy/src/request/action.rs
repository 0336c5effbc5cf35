//! The words of grants: one for each operation, or for a few. Permits nothing itself.

use std::fmt;

use serde::{Deserialize, Serialize};

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
