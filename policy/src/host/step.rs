//! A step: the unit of change and of reversion, as data. Each subsystem defines its own; this file only dispatches.
//! A step carries `before` and `after`; its inverse swaps them. It must not do anything.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::address::Source;
use crate::host::{HostState, Needs};
use crate::subsystem::{fail2ban, hosts_access, ipset, nf_tables, recent, route, sshd, xtables};
use crate::text::quoted::Text;
use crate::verdict::subsystem::Subsystem;

/// One reversible change of one subsystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A ticket or an ignoreip entry.
    Fail2ban(fail2ban::Step),
    /// hosts.allow or hosts.deny.
    HostsAccess(hosts_access::Step),
    /// A set element or a rule.
    NfTables(nf_tables::Step),
    /// A rule of iptables-legacy.
    Xtables(xtables::Step),
    /// An element of an ipset.
    Ipset(ipset::Step),
    /// A route that refuses.
    Route(route::Step),
    /// An address on a list of `-m recent`.
    Recent(recent::Step),
    /// Files of sshd's configuration, and what makes it follow them.
    Sshd(sshd::Step),
    /// What sshd needs besides its configuration.
    Repair(sshd::Repair),
}

/// Whom a step can keep out, by its kind alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Nobody: it takes away what refuses, or adds what accepts.
    Nobody,
    /// Whom it touches ([`Step::touches`]); the model tells whether it does.
    Touched,
    /// Anybody: it takes away what accepts, adds what refuses, or what it does is not known.
    Anybody,
}

/// The model cannot take this step: the touched part is neither `before` nor `after`, or was not read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Mismatch(pub String);

macro_rules! each {
    ($self:ident, $step:ident => $body:expr) => {
        match $self {
            Step::Fail2ban($step) => $body,
            Step::HostsAccess($step) => $body,
            Step::NfTables($step) => $body,
            Step::Xtables($step) => $body,
            Step::Ipset($step) => $body,
            Step::Route($step) => $body,
            Step::Recent($step) => $body,
            Step::Sshd($step) => $body,
            Step::Repair($step) => $body,
        }
    };
}

impl Step {
    /// The step that takes it back.
    #[must_use]
    pub fn inverse(&self) -> Step {
        match self {
            Step::Fail2ban(step) => Step::Fail2ban(step.inverse()),
            Step::HostsAccess(step) => Step::HostsAccess(step.inverse()),
            Step::NfTables(step) => Step::NfTables(step.inverse()),
            Step::Xtables(step) => Step::Xtables(step.inverse()),
            Step::Ipset(step) => Step::Ipset(step.inverse()),
            Step::Route(step) => Step::Route(step.inverse()),
            Step::Recent(step) => Step::Recent(step.inverse()),
            Step::Sshd(step) => Step::Sshd(step.inverse()),
            Step::Repair(step) => Step::Repair(step.inverse()),
        }
    }

    /// Whose it is.
    pub fn subsystem(&self) -> Subsystem {
        match self {
            Step::Fail2ban(_) => Subsystem::Fail2ban,
            Step::HostsAccess(_) => Subsystem::HostsAccess,
            Step::NfTables(_) => Subsystem::NfTables,
            Step::Xtables(_) | Step::Recent(_) => Subsystem::Xtables,
            Step::Ipset(_) => Subsystem::Ipset,
            Step::Route(_) => Subsystem::Route,
            Step::Sshd(_) | Step::Repair(_) => Subsystem::Sshd,
        }
    }

    /// One line: `unban 203.0.113.7 in jail sshd`.
    pub fn summary(&self) -> String {
        each!(self, step => step.summary())
    }

    /// What changes, to the byte, as a diff a person can read. Holds nothing that moves by itself (counters, time left),
    /// because the plan digest covers it.
    pub fn diff(&self) -> Text {
        match self {
            Step::Fail2ban(step) => step.diff(),
            Step::HostsAccess(step) => step.diff(),
            Step::Sshd(step) => step.diff(),
            Step::NfTables(step) => step.diff().into(),
            Step::Xtables(step) => step.diff().into(),
            Step::Ipset(step) => step.diff().into(),
            Step::Route(step) => step.diff().into(),
            Step::Recent(step) => step.diff().into(),
            Step::Repair(step) => step.diff().into(),
        }
    }

    /// What rollback would do, in one line.
    pub fn undo(&self) -> String {
        each!(self, step => step.undo())
    }

    /// Whether rollback does nothing about it.
    pub fn is_kept(&self) -> bool {
        match self {
            Step::Sshd(step) => step.is_kept(),
            Step::Fail2ban(_)
            | Step::HostsAccess(_)
            | Step::NfTables(_)
            | Step::Xtables(_)
            | Step::Ipset(_)
            | Step::Route(_)
            | Step::Recent(_)
            | Step::Repair(_) => false,
        }
    }

    /// The source addresses whose verdict this step can change; `None` means it could be anybody's.
    pub fn touches(&self) -> Option<Vec<Source>> {
        each!(self, step => step.touches())
    }

    /// Whom it can keep out. Decides, with the model, whether a plan must be confirmed.
    pub fn reach(&self) -> Reach {
        each!(self, step => step.reach())
    }

    /// Whether a reboot leaves it in place: files and fail2ban's own database stay, the kernel's rules, sets and routes do not.
    pub fn survives_reboot(&self) -> bool {
        match self {
            Step::Fail2ban(_) | Step::HostsAccess(_) | Step::Sshd(_) => true,
            Step::NfTables(_) | Step::Xtables(_) | Step::Ipset(_) | Step::Route(_) | Step::Recent(_) => false,
            Step::Repair(step) => step.survives_reboot(),
        }
    }

    /// Whether it leaves something on the host that was not there before, and not only takes something away.
    pub fn adds(&self) -> bool {
        match self {
            Step::NfTables(step) => step.adds(),
            Step::Xtables(step) => step.after.is_some(),
            Step::Ipset(step) => step.after,
            Step::Route(step) => step.after.is_some(),
            Step::Recent(step) => step.after.is_some(),
            Step::Fail2ban(_) | Step::HostsAccess(_) | Step::Sshd(_) | Step::Repair(_) => true,
        }
    }

    /// As it is looked for in another boot of the host: handles of rules name other rules there.
    #[must_use]
    pub fn of_another_boot(&self) -> Step {
        match self {
            Step::NfTables(step) => Step::NfTables(step.without_handles()),
            Step::Fail2ban(_)
            | Step::HostsAccess(_)
            | Step::Xtables(_)
            | Step::Ipset(_)
            | Step::Route(_)
            | Step::Recent(_)
            | Step::Sshd(_)
            | Step::Repair(_) => self.clone(),
        }
    }

    /// Whether its place can be found in the ruleset of another boot: that of a rule is known by its neighbour's handle.
    pub fn is_of_one_boot(&self) -> bool {
        match self {
            Step::NfTables(step) => matches!(step, nf_tables::Step::Rule { .. }),
            Step::Fail2ban(_)
            | Step::HostsAccess(_)
            | Step::Xtables(_)
            | Step::Ipset(_)
            | Step::Route(_)
            | Step::Recent(_)
            | Step::Sshd(_)
            | Step::Repair(_) => false,
        }
    }

    /// The facts that [`Step::predict`] and [`Step::holds`] look at and that are only read on demand.
    pub fn needs(&self) -> Needs {
        match self {
            Step::Fail2ban(step) => {
                step.leftovers().iter().chain(step.through().iter().map(|through| &through.step)).flat_map(Step::needs).collect()
            }
            Step::NfTables(step) => step.needs(),
            Step::Ipset(step) => step.needs(),
            Step::Route(step) => step.needs(),
            Step::Recent(step) => step.needs(),
            Step::Sshd(step) => step.needs(),
            Step::Repair(step) => step.needs(),
            Step::HostsAccess(_) | Step::Xtables(_) => Needs::new(),
        }
    }

    /// The same step on the model: `before` becomes `after`. A state that is already `after` stays as it is.
    pub fn predict(&self, state: &mut HostState) -> Result<(), Mismatch> {
        each!(self, step => step.predict(state))
    }

    /// Whether the observed host is as this step leaves it; else what differs, in one line.
    pub fn holds(&self, state: &HostState) -> Result<(), Mismatch> {
        each!(self, step => step.holds(state))
    }
}
