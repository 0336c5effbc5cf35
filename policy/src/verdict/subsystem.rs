//! The subsystems whose steps a plan holds: the type that decisions read, and its name in JSON.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::words;

/// Whose a step is, as in the JSON documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subsystem {
    /// fail2ban's own database.
    Fail2ban,
    /// hosts.allow and hosts.deny.
    HostsAccess,
    /// nftables.
    NfTables,
    /// iptables-legacy and its lists.
    Xtables,
    /// ipset.
    Ipset,
    /// Routes.
    Route,
    /// sshd, and what it needs.
    Sshd,
}

impl fmt::Display for Subsystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&words::shown(self.name()))
    }
}

impl Subsystem {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Subsystem::Fail2ban => "fail2ban",
            Subsystem::HostsAccess => "hosts_access",
            Subsystem::NfTables => "nf_tables",
            Subsystem::Xtables => "xtables",
            Subsystem::Ipset => "ipset",
            Subsystem::Route => "route",
            Subsystem::Sshd => "sshd",
        }
    }
}
