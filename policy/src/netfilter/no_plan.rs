//! Why there is no plan on the packet filters: one case a reason, with what is known of it and what to do. Text only where it is shown.

use thiserror::Error;

use super::reference::ReferenceError;
use crate::address::Source;
use crate::subsystem::conntrack::Fill;
use crate::subsystem::nf_tables::{Family, SetKey};
use crate::verdict::owner::Owner;

/// Why there is no plan on the packet filters. Nothing is changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoPlan {
    /// A part of them is not there.
    #[error("{part} is not on this host: {why}")]
    Absent {
        /// `nftables`, `iptables-legacy`.
        part: &'static str,
        /// Why not.
        why: String,
    },
    /// A part of them could not be read.
    #[error("{part} could not be read: {why}")]
    Unread {
        /// `nftables`, `iptables-legacy`, or what was asked for.
        part: String,
        /// Why not.
        why: String,
    },
    /// What refuses could not be read.
    #[error("{0}; nothing was planned")]
    Undecided(String),
    /// No new connection gets in, whatever the rules say.
    #[error("{}; {}", .0.text(), .0.fix())]
    Full(Fill),
    /// What refuses is another program's.
    #[error("{quoted}: this is not changed behind the back of its owner; run: {command}")]
    Owned {
        /// The rule.
        quoted: String,
        /// The owner's own command.
        command: String,
    },
    /// No accept before it opens the path.
    #[error("an accept before {quoted} would not open the path; change it by hand")]
    NotOpened {
        /// The rule.
        quoted: String,
    },
    /// An accept before it opens the hosts behind this one, too.
    #[error("an accept before {quoted} would not open this host without those behind it; change it by hand")]
    OpensHostsBehind {
        /// The rule.
        quoted: String,
    },
    /// More rules than are worked around.
    #[error("more than {most} rules refuse {}; nothing was planned", .client.short())]
    TooMany {
        /// The most.
        most: usize,
        /// Whom they refuse.
        client: Source,
    },
    /// No reference at all.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// It is not there.
    #[error("there is no {0} on this host (any more)")]
    Gone(String),
    /// No set that is asked has it.
    #[error("there is no {0} on this host (any more), or no rule asks that set")]
    GoneOrUnasked(String),
    /// A set that could not be read may hold it.
    #[error("{reference} could not be looked for: {why}")]
    NotLookedFor {
        /// What.
        reference: String,
        /// Why not.
        why: String,
    },
    /// A table that is only read.
    #[error("rules of this table are not changed by sshfix: {0}")]
    ReadOnlyTable(String),
    /// The rule's own list would be lost.
    #[error(
        "{reference} holds a list of its own, which could not be put back. By hand: nft delete rule {family} {table} {chain} handle {handle}"
    )]
    OwnList {
        /// Which.
        reference: String,
        /// Of its table.
        family: Family,
        /// Its table.
        table: String,
        /// Its chain.
        chain: String,
        /// Its handle.
        handle: u64,
    },
    /// Not one element.
    #[error("{reference} is a whole set; name one element, such as {reference}/203.0.113.7. nft {set}")]
    WholeSet {
        /// Which.
        reference: String,
        /// The same for nft.
        set: SetKey,
    },
    /// Not one element of an ipset.
    #[error("{0} is a whole set; name one element, such as {0}/203.0.113.7")]
    WholeIpset(String),
    /// Elements that cannot be deleted.
    #[error("the elements of {0} cannot be changed")]
    FixedElements(String),
    /// An element of a kind that sshfix does not delete.
    #[error("{reference} is of a type of set whose elements sshfix does not delete. By hand: ipset del {set} {element}")]
    IpsetType {
        /// Which.
        reference: String,
        /// Its set.
        set: String,
        /// The element.
        element: String,
    },
    /// The set holds it as a part of another element.
    #[error("{reference} is not an element of exactly this. By hand: ipset del {set} {element}")]
    NotExactly {
        /// Which.
        reference: String,
        /// Its set.
        set: String,
        /// The element.
        element: String,
    },
    /// It is another program's.
    #[error("{reference} belongs to {owner}, {}", keeps(.owner))]
    Managed {
        /// Which.
        reference: String,
        /// Whose.
        owner: Owner,
    },
}

fn keeps(owner: &Owner) -> &'static str {
    if matches!(owner, Owner::Fail2ban(_)) {
        "which would not know of it; `sshfix ctl unban ADDRESS` takes a ban out of both"
    } else {
        "which writes it again; remove it there"
    }
}

impl NoPlan {
    /// What to do.
    pub fn advice(&self) -> &'static str {
        match self {
            NoPlan::Absent { .. } | NoPlan::Unread { .. } | NoPlan::Undecided(_) | NoPlan::NotLookedFor { .. } => {
                "`sshfix ctl status` shows what was found"
            }
            NoPlan::Full(_) => "wait until connections end, or raise the limit as named, then run the command again",
            NoPlan::Owned { .. } => "run the command that is named, then run this one again",
            NoPlan::NotOpened { .. }
            | NoPlan::OpensHostsBehind { .. }
            | NoPlan::TooMany { .. }
            | NoPlan::Reference(_)
            | NoPlan::Gone(_)
            | NoPlan::GoneOrUnasked(_)
            | NoPlan::ReadOnlyTable(_)
            | NoPlan::OwnList { .. }
            | NoPlan::WholeSet { .. }
            | NoPlan::WholeIpset(_)
            | NoPlan::FixedElements(_)
            | NoPlan::IpsetType { .. }
            | NoPlan::NotExactly { .. }
            | NoPlan::Managed { .. } => "`sshfix ctl firewall list` shows what there is",
        }
    }
}
