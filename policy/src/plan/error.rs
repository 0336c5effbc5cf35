//! Why there is no plan: one case a reason, which carries what is known of it, its words and what to do. Text only where it is shown.

use thiserror::Error;

use crate::address::Source;
use crate::host::step::Mismatch;
use crate::netfilter;
use crate::subsystem::{fail2ban, hosts_access, sshd};
use crate::text::quoted::{Quote, Text};

/// Why there is no plan. The host is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// fail2ban is not planned on.
    #[error(transparent)]
    Fail2ban(#[from] fail2ban::NoPlan),
    /// hosts.allow and hosts.deny are not planned on.
    #[error(transparent)]
    HostsAccess(#[from] hosts_access::NoPlan),
    /// The packet filters are not planned on.
    #[error(transparent)]
    Netfilter(#[from] netfilter::NoPlan),
    /// sshd is not planned on.
    #[error("{}", .0.words().as_str())]
    Sshd(Box<sshd::NoPlan>),
    /// There is no such lease, or it must not be.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Something blocks that sshfix must not or cannot change.
    #[error("cannot lift every block of {}: {}", .client.short(), Text::joined(.by_hand, "; ").as_str())]
    ByHand {
        /// Who stays blocked.
        client: Source,
        /// What a person must do, one line a block.
        by_hand: Vec<Text>,
    },
    /// The steps do not lead where they should on the model.
    #[error("the planned steps do not fit what was read of the host: {0}")]
    Model(#[from] Mismatch),
}

/// Why a lease is not made or ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LeaseError {
    /// It would be over at once.
    #[error("a lease lasts at least a second")]
    NoTime,
    /// Longer than this host allows.
    #[error(
        "a lease lasts at most {longest} seconds ({} days) here, not {seconds}: limits.lease_seconds in agent.toml says so",
        .longest / 86_400
    )]
    TooLong {
        /// What was asked for.
        seconds: u64,
        /// The most.
        longest: u64,
    },
    /// Everybody would get in.
    #[error("a lease is for an address or a range, not everybody")]
    Everybody,
    /// A route refuses, which a lease leaves as it is.
    #[error("{}: a lease only adds and cannot bypass this; `sshfix ctl unban {}` lifts it", .refusal.as_str(), .client.short())]
    Route {
        /// What refuses.
        refusal: Text,
        /// Whom.
        client: Source,
    },
    /// None of this id runs.
    #[error("no lease `{}` runs; `sshfix ctl leases` lists those that do", .0.chars().take(MAX_ID).collect::<String>())]
    NotRunning(String),
    /// What it added could not be looked for.
    #[error("{}", .0.join("; "))]
    Unread(Vec<String>),
}

/// More characters of an id are not shown.
const MAX_ID: usize = 40;

impl LeaseError {
    fn advice(&self) -> &'static str {
        match self {
            LeaseError::NoTime | LeaseError::TooLong { .. } => "give another time, such as `--for 2h`",
            LeaseError::Everybody => "name the address that the client connects from, or its network",
            LeaseError::Route { .. } => "lift that first, then run the command again",
            LeaseError::NotRunning(_) => "`sshfix ctl leases` lists them",
            LeaseError::Unread(_) => "make what is named readable, then run the command again; `sshfix ctl leases` lists them",
        }
    }
}

impl From<sshd::NoPlan> for PlanError {
    fn from(why: sshd::NoPlan) -> Self {
        PlanError::Sshd(Box::new(why))
    }
}

impl PlanError {
    /// What happened and that nothing was changed, with what it quotes.
    pub fn words(&self) -> Text {
        let why = match self {
            PlanError::Sshd(why) => why.words(),
            PlanError::Lease(LeaseError::Unread(_)) => Text::quote(Quote::Program, self.to_string()),
            PlanError::ByHand { client: _, by_hand } => {
                let what = "sshfix does not change what blocks here, so nothing was changed: ";
                return Text::from(what) + Text::joined(by_hand, "; ");
            }
            PlanError::Fail2ban(_)
            | PlanError::HostsAccess(_)
            | PlanError::Netfilter(_)
            | PlanError::Lease(_)
            | PlanError::Model(_) => self.to_string().into(),
        };
        why + "; nothing was changed"
    }

    /// What to do.
    pub fn advice(&self) -> &'static str {
        match self {
            PlanError::Fail2ban(why) => why.advice(),
            PlanError::HostsAccess(why) => why.advice(),
            PlanError::Netfilter(why) => why.advice(),
            PlanError::Lease(why) => why.advice(),
            PlanError::Sshd(why) => why.advice(),
            PlanError::ByHand { .. } => "follow the advice for each block, then run the command again for the rest",
            PlanError::Model(_) => "`sshfix ctl status` shows what was found",
        }
    }
}
