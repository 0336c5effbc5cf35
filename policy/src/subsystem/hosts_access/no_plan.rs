//! Why there is no plan on hosts.allow and hosts.deny: one case a reason, with what is known of it and what to do. Text only where it is
//! shown.

use thiserror::Error;

/// Why there is no plan on hosts.allow and hosts.deny. Nothing is changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoPlan {
    /// Neither file is known, or sshd does not ask them.
    #[error("hosts.allow and hosts.deny cannot be planned on: {0}")]
    NotRead(String),
    /// One file could not be read.
    #[error("{path} could not be read: {why}")]
    Unreadable {
        /// Which.
        path: String,
        /// Why not.
        why: String,
    },
    /// One file is not to be written.
    #[error("edit {path} by hand, sshfix must not: {why}")]
    ReadOnly {
        /// Which.
        path: String,
        /// Why not.
        why: String,
    },
    /// A name that means more than itself in a daemon list.
    #[error("a daemon is named by its process name: letters, digits and -_+. only, a letter first, no keyword such as ALL")]
    DaemonName,
    /// No line does it for certain.
    #[error("no line that sshfix can write is sure to do that{}{}", if .0.is_empty() { "" } else { ": " }, .0.join("; "))]
    NotSure(Vec<String>),
    /// The line does more.
    #[error("the line would let others in as well; edit hosts.allow by hand")]
    OpensOthers,
    /// No edit lifts a block for certain.
    #[error("edit {} by hand: sshfix found no edit that is sure to let this source in", .0.join(" and "))]
    NoEditIsSure(Vec<String>),
    /// Every edit that lifts a block does more.
    #[error("edit {} by hand: every edit sshfix knows would let others in as well", .0.join(" and "))]
    EveryEditOpensOthers(Vec<String>),
}

impl NoPlan {
    /// What to do.
    pub fn advice(&self) -> &'static str {
        match self {
            NoPlan::NotRead(_) | NoPlan::Unreadable { .. } => "`sshfix ctl status` shows what was found of both files",
            NoPlan::ReadOnly { .. }
            | NoPlan::NotSure(_)
            | NoPlan::OpensOthers
            | NoPlan::NoEditIsSure(_)
            | NoPlan::EveryEditOpensOthers(_) => "`sshfix ctl hosts list` shows the rules of both files",
            NoPlan::DaemonName => "name the daemon as `ps -C NAME` finds it, such as `vsftpd`",
        }
    }
}
