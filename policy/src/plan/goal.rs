//! What a plan is for. The planner sets it once, by what was asked; the proof, the verification, the remaining blocks and the deadline
//! read it, and ask for no verb. Decides nothing by itself.

use crate::address::{Source, canonical};
use crate::request::Intent;
use crate::verdict::Connection;

/// What a plan is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Nothing bans the client: every block of it is lifted, or there is no plan.
    Unban(Connection),
    /// One jail of fail2ban bans the client no more.
    UnbanInJail(Connection),
    /// The client logs in: every block that a plan can lift is lifted, and the others are reported.
    Repair(Connection),
    /// The client gets in for a while, whatever blocks it.
    LetIn(Connection),
    /// What a lease added is gone.
    EndLease {
        /// Which.
        id: String,
    },
    /// A jail of fail2ban bans the source.
    Ban {
        /// Which.
        source: Source,
        /// In which jail.
        jail: String,
    },
    /// A line refuses the source.
    KeepOut,
    /// A rule or a line accepts the source, or a jail ignores it or not.
    Add,
    /// A rule, an element or a line is gone.
    Remove(Affects),
    /// sshd goes by other files, or reads the ones there are.
    Configure,
}

/// Whom what is removed was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affects {
    /// Clients of sshd: the model shows what becomes of them.
    Sshd,
    /// Clients of another daemon, of which there is no model.
    OtherDaemon,
}

impl Goal {
    /// What a change on this port is for.
    pub fn of(intent: &Intent, port: u16) -> Self {
        let from = |source: Source| Connection { source, port, user: None };
        match intent {
            Intent::Unban { source, jail: None, ignore_for: _, range: _ } => Goal::Unban(from(*source)),
            Intent::Unban { source, jail: Some(_), ignore_for: _, range: _ } => Goal::UnbanInJail(from(*source)),
            Intent::Fix { address, user, port: _ } => {
                Goal::Repair(Connection { user: user.clone(), ..from(canonical(*address).into()) })
            }
            Intent::Allow { source, seconds: _ } => Goal::LetIn(from(*source)),
            Intent::Revoke { id } => Goal::EndLease { id: id.clone() },
            Intent::Ban { source, jail } => Goal::Ban { source: *source, jail: jail.clone() },
            Intent::HostsDeny { source: _, daemon: _ } => Goal::KeepOut,
            Intent::HostsAllow { .. }
            | Intent::FirewallAccept { .. }
            | Intent::Fail2banIgnore { .. }
            | Intent::Fail2banUnignore { .. } => Goal::Add,
            // The model knows what hosts.allow and hosts.deny mean for sshd, not for other daemons.
            Intent::HostsRemove { source: _, daemon } => match daemon.as_deref() {
                None | Some("sshd") => Goal::Remove(Affects::Sshd),
                Some(_) => Goal::Remove(Affects::OtherDaemon),
            },
            Intent::FirewallRemove { reference: _ } => Goal::Remove(Affects::Sshd),
            Intent::SshdSet { .. } | Intent::SshdUnset { .. } | Intent::SshdReload | Intent::SshdRestart => Goal::Configure,
        }
    }

    /// The connection that is to be free of blocks: what remains of them is reported, and a part that could not be read may hold one.
    pub fn path(&self) -> Option<&Connection> {
        match self {
            Goal::Unban(connection) | Goal::UnbanInJail(connection) | Goal::Repair(connection) => Some(connection),
            Goal::LetIn(_)
            | Goal::EndLease { .. }
            | Goal::Ban { .. }
            | Goal::KeepOut
            | Goal::Add
            | Goal::Remove(_)
            | Goal::Configure => None,
        }
    }

    /// The lease that is over when it is reached.
    pub fn ended_lease(&self) -> Option<&str> {
        match self {
            Goal::EndLease { id } => Some(id),
            Goal::Unban(_)
            | Goal::UnbanInJail(_)
            | Goal::Repair(_)
            | Goal::LetIn(_)
            | Goal::Ban { .. }
            | Goal::KeepOut
            | Goal::Add
            | Goal::Remove(_)
            | Goal::Configure => None,
        }
    }
}
