//! The netlink room: reads the nf_tables ruleset, looks single elements up, and does steps in one atomic batch each, guarded
//! by the kernel's generation id. Besides `sys` the only place for unsafe. Decides nothing; never creates a table by looking.

mod build;
mod decode;
mod elements;
mod libnftnl;
pub(super) mod message;
mod read;
mod socket;
mod write;

use std::collections::BTreeSet;
use std::path::Path;

use nix::errno::Errno;
use sshfix_policy::host::{Done, Part, StepError};
use sshfix_policy::subsystem::nf_tables::{ElementKey, Set, SetKey, State, Step};

pub(super) use read::comment;
pub use socket::{Netlink, NetlinkError};

/// There once nf_tables is loaded.
const MODULE: &str = "/sys/module/nf_tables";

/// The ruleset of this network namespace. Keep one: it keeps the socket, and the decoded rules of the last generation.
#[derive(Default)]
pub struct Ruleset {
    /// Opened by the first question, again after the socket failed.
    netlink: Option<Netlink>,
    /// Without elements.
    cached: Option<State>,
}

impl Ruleset {
    /// Opens nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tables, chains, rules and sets, without elements. Costs one message while nobody changes the ruleset.
    pub fn observe(&mut self) -> Part<State> {
        let cached = self.cached.take();
        match self.with(|netlink| read::ruleset(netlink, cached.as_ref())) {
            Ok(state) => {
                self.cached = Some(state.clone());
                Part::Present(state)
            }
            Err(error) => unreadable(&error),
        }
    }

    /// Reads what changed since the last observation, for the next one. Asks nothing of a kernel that has no nf_tables yet: that
    /// would load it (`request_module` in `nfnetlink_rcv_msg`).
    pub fn read_ahead(&mut self) {
        if self.cached.is_some() || Path::new(MODULE).exists() {
            let _ = self.observe();
        }
    }

    /// Lets the next observation read the rules again although nobody changed them: their counters count meanwhile.
    pub fn forget_counters(&mut self) {
        if let Some(cached) = &mut self.cached {
            // The kernel never gives this one (`nf_tables_commit`).
            cached.generation = 0;
        }
    }

    /// Looks these keys up, each with one or two small messages, and reads these sets whole, into a state observed before.
    pub fn lookup_elements(
        &mut self,
        state: &mut State,
        keys: &BTreeSet<ElementKey>,
        sets: &BTreeSet<SetKey>,
    ) -> Result<(), NetlinkError> {
        self.with(|netlink| {
            for key in keys {
                let found = elements::lookup(netlink, named(state, &key.set)?, &key.key)?;
                state.elements.insert(key.clone(), found);
            }
            for set in sets {
                let all = elements::dump(netlink, named(state, set)?)?;
                state.dumps.insert(set.clone(), all);
            }
            // Elements come and go all the time, and each was true when it was read. Rules must be those of the state.
            let now = netlink.generation()?;
            if now != state.generation {
                let fresh = read::ruleset(netlink, Some(state))?;
                if !read::same_rules(state, &fresh) {
                    return Err(NetlinkError::Interrupted);
                }
                state.generation = fresh.generation;
            }
            Ok(())
        })
    }

    /// Does one step: `before` becomes `after`, in one atomic batch that is refused when anybody else changed the ruleset since it
    /// was looked at.
    pub fn apply(&mut self, step: &Step) -> Result<Done, StepError> {
        let mut cached = self.cached.take();
        let answer = self.with(|netlink| write::apply(netlink, &mut cached, step));
        self.cached = cached;
        answer.unwrap_or_else(|error| Err(write::explain(&error, step)))
    }

    /// Lets the kernel validate a step without doing it.
    pub fn check(&mut self, step: &Step) -> Result<(), StepError> {
        let mut cached = self.cached.take();
        let answer = self.with(|netlink| write::check(netlink, &mut cached, step));
        self.cached = cached;
        answer.unwrap_or_else(|error| Err(write::explain(&error, step)))
    }

    /// Messages and bytes received by the socket so far.
    pub fn received(&self) -> (u64, u64) {
        self.netlink.as_ref().map_or((0, 0), Netlink::received)
    }

    /// Runs `ask` on the open socket. A socket that failed, or that owes an answer, is not used again.
    fn with<T>(&mut self, ask: impl FnOnce(&mut Netlink) -> Result<T, NetlinkError>) -> Result<T, NetlinkError> {
        let mut netlink = match self.netlink.take() {
            Some(netlink) => netlink,
            None => Netlink::open()?,
        };
        let answer = ask(&mut netlink);
        match answer {
            Err(NetlinkError::Socket(..) | NetlinkError::TimedOut(_) | NetlinkError::Malformed(_)) => {}
            Ok(_) | Err(NetlinkError::Kernel { .. } | NetlinkError::Interrupted | NetlinkError::Refused(_)) => {
                self.netlink = Some(netlink);
            }
        }
        answer
    }
}

fn named<'a>(state: &'a State, key: &SetKey) -> Result<&'a Set, NetlinkError> {
    let found = state.sets.iter().find(|set| set.key == *key);
    found.map(AsRef::as_ref).ok_or_else(|| NetlinkError::Refused(format!("there is no set {key}")))
}

/// A kernel without netlink or nf_tables filters nothing with it; any other failure leaves the verdict unknown.
fn unreadable(error: &NetlinkError) -> Part<State> {
    match error {
        NetlinkError::Socket(Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::ESOCKTNOSUPPORT, _) => {
            Part::Absent("this kernel has no netfilter netlink".to_owned())
        }
        // nfnetlink answers EINVAL for a subsystem that is not there, after it tried to load its module.
        NetlinkError::Kernel { errno: Errno::EINVAL | Errno::EOPNOTSUPP, what: "the generation id" } => {
            Part::Absent("this kernel has no nf_tables".to_owned())
        }
        NetlinkError::Kernel { errno: Errno::EPERM, .. } => {
            Part::Unreadable("nf_tables needs CAP_NET_ADMIN in this network namespace".to_owned())
        }
        error => Part::Unreadable(format!("nf_tables: {error}")),
    }
}
