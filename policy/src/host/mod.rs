//! The model of a host: what was read of each subsystem, who has a way in, and the seam to the real host.
//! Decides nothing; a part that could not be read says so and is never taken for open.

pub mod block;
#[cfg(feature = "fake")]
pub mod fake;
pub mod lease;
pub mod step;

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::address::Source;
use crate::host::step::Step;
use crate::reply::PathDocument;
use crate::subsystem::ipset::SetNames;
use crate::subsystem::{fail2ban, hosts_access, ipset, listener, nf_tables, route, sshd, ufw, xtables};

/// One subsystem as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part<T> {
    /// Read and understood.
    Present(T),
    /// Not on this host, so it refuses nobody; the text says what is missing.
    Absent(String),
    /// There, but it could not be read; the text says why. Its verdict is unknown.
    Unreadable(String),
}

impl<T> Part<T> {
    /// What was read, if anything was.
    pub fn present(&self) -> Option<&T> {
        match self {
            Part::Present(state) => Some(state),
            Part::Absent(_) | Part::Unreadable(_) => None,
        }
    }

    /// Why it could not be read, where that is so.
    pub fn unreadable(&self) -> Option<&str> {
        match self {
            Part::Unreadable(why) => Some(why),
            Part::Present(_) | Part::Absent(_) => None,
        }
    }

    /// The same, to predict on.
    pub fn present_mut(&mut self) -> Option<&mut T> {
        match self {
            Part::Present(state) => Some(state),
            Part::Absent(_) | Part::Unreadable(_) => None,
        }
    }
}

/// Everything read of the host for one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostState {
    /// When it was read, by the host's clock.
    pub at: Timestamp,
    /// Jails and bans.
    pub fail2ban: Part<fail2ban::State>,
    /// hosts.allow and hosts.deny.
    pub hosts_access: Part<hosts_access::State>,
    /// nftables, iptables-nft included.
    pub nf_tables: Part<nf_tables::State>,
    /// iptables-legacy.
    pub xtables: Part<xtables::State>,
    /// What was asked of the ipsets that rules of either use.
    pub ipset: ipset::State,
    /// The SSH port and its sessions.
    pub listener: Part<listener::State>,
    /// Routes to the clients asked about.
    pub route: Part<route::State>,
    /// ufw's own files, once they were asked for.
    pub ufw: Option<Part<ufw::State>>,
    /// What was asked of sshd.
    pub sshd: sshd::State,
}

impl HostState {
    /// A host with nothing on it, for tests to put parts into. It refuses nobody, so nothing else may begin with it.
    #[cfg(any(test, feature = "fake"))]
    #[must_use]
    pub fn empty() -> Self {
        fn absent<T>() -> Part<T> {
            Part::Absent("not in this test".to_owned())
        }
        Self {
            at: Timestamp::UNIX_EPOCH,
            fail2ban: absent(),
            hosts_access: absent(),
            nf_tables: absent(),
            xtables: absent(),
            ipset: ipset::State::new(),
            listener: absent(),
            route: absent(),
            ufw: None,
            sshd: sshd::State::default(),
        }
    }

    /// The names of the ipsets that rules use, as far as they are known.
    pub fn set_names(&self) -> SetNames {
        let legacy = self.xtables.present().map(|state| &state.set_names);
        legacy.into_iter().flatten().chain(&self.ipset.names).map(|(index, name)| (*index, name.clone())).collect()
    }
}

/// What an observation is for; it bounds what is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The addresses asked about, the access paths' included.
    pub sources: BTreeSet<Source>,
    /// The SSH port asked about.
    pub port: u16,
    /// Whether it is about everybody: only then ban lists are read whole.
    pub everybody: bool,
}

/// A fact the model needs before it can answer, and that is fetched one by one instead of reading everything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Need {
    /// Whether an nftables set holds a key, and with which element.
    Element(nf_tables::ElementKey),
    /// All elements of a set: only for questions about everybody, and for anonymous sets of a rule that is deleted.
    SetElements(nf_tables::SetKey),
    /// The ipset with this index: its name, type and family.
    Ipset(u16),
    /// Whether an ipset holds a key.
    IpsetEntry(ipset::Query),
    /// What the ipset of this name keeps with its elements: only for plans, since the kernel counts all elements to tell.
    IpsetProperties(String),
    /// All elements of the ipset of this name: only for questions about everybody.
    IpsetElements(String),
    /// How full connection tracking is.
    Conntrack,
    /// The list of `-m recent` with this name.
    Recent(String),
    /// The verified host name of an address (`hosts_access(5)` name patterns).
    HostName(IpAddr),
    /// The contents of a file that a hosts.allow or hosts.deny pattern names.
    PatternFile(String),
    /// The route to an address, or the routes that refuse within a range; the host's interfaces with it.
    Route(Source),
    /// The host's interfaces and own addresses.
    Links,
    /// The kernel's neighbour entry of an address on the interface with this number.
    Neighbour(u32, IpAddr),
    /// What ufw's own files say.
    Ufw,
    /// All routes of IPv4 (`false`) or IPv6 (`true`): only for questions about everybody, or about a range.
    RouteTables(bool),
    /// The policy rules (`ip rule`) of IPv4 (`false`) or IPv6 (`true`): only for a trace.
    PolicyRules(bool),
    /// About sshd, its users and their files.
    Sshd(sshd::Need),
}

/// Facts asked for and not yet known.
pub type Needs = BTreeSet<Need>;

/// What happened to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// The host was changed.
    Changed,
    /// The host was already as the step wants it; nothing was done, so there is nothing to undo.
    Already,
}

/// Why a step did not happen. The host is as it was before this step, unless the message says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StepError {
    /// The touched part is neither as planned before nor as wanted after.
    #[error("the host changed since the plan was made: {0}")]
    Drifted(String),
    /// The subsystem refused or failed.
    #[error("{0}")]
    Failed(String),
    /// The subsystem did not answer in time.
    #[error("{0}")]
    TimedOut(String),
}

/// How a step was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Whether there was something to take back.
    pub done: Done,
    /// What others changed meanwhile and what was left as they made it.
    pub note: Option<String>,
    /// Whether something beside the step is not as it was before, and stays so.
    pub besides: bool,
}

/// The seam between deciding and doing: the real host in the agent, `FakeHost` in tests.
pub trait Host {
    /// Reads every subsystem for this question. A part that fails says so in its [`Part`]; the rest is still read.
    fn observe(&mut self, question: &Question) -> HostState;

    /// Fetches facts on demand into a state read before. A fact that cannot be had makes its part unreadable.
    fn lookup(&mut self, state: &mut HostState, needs: &Needs);

    /// Does one step: `before` becomes `after`, activation included.
    fn apply(&mut self, step: &Step) -> Result<Done, StepError>;

    /// Whether the host still is as it was read, so that what was planned and proven on it holds. Asked just before the first
    /// step; what each step touches is looked at again just before it.
    fn unchanged(&mut self, _read: &HostState) -> Result<(), StepError> {
        Ok(())
    }

    /// Whether the host, read anew, still is as this step left it. An error where that cannot be read.
    fn stands(&mut self, step: &Step) -> Result<bool, StepError> {
        let sources = step.touches().into_iter().flatten().collect();
        let mut state = self.observe(&Question { sources, port: 22, everybody: false });
        self.lookup(&mut state, &step.needs());
        Ok(step.holds(&state).is_ok())
    }

    /// A change is taken back whose plan was proven for these ways in, as they were before it; none when that is done.
    fn taking_back(&mut self, _proven: &[PathDocument]) {}

    /// Takes one step back: `after` becomes `before`. Where others changed the same part meanwhile, only ours is taken back.
    fn restore(&mut self, step: &Step) -> Result<Restored, StepError> {
        self.apply(&step.inverse()).map(|done| Restored { done, note: None, besides: false })
    }
}
