//! Whether a plan stays within the grants that permit its request: a grant about networks permits no change of sshd that counts for
//! others, and nothing that opens the hosts behind this one.
//! Judges the plan's steps, which only exist once the host was read; the request itself is judged before.

use thiserror::Error;

use crate::host::HostState;
use crate::netfilter;
use crate::plan::Plan;
use crate::request::authorize::AuthorizedRequest;
use crate::subsystem::sshd;
use crate::text::quoted::Text;

/// Why a permitted request has a plan that is not. The host is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", self.words().as_str())]
pub struct TooWide {
    /// Of what it is too much.
    pub beyond: Beyond,
    /// What was asked.
    pub action: String,
    /// About whom.
    pub about: String,
    /// The step, or the keyword with its file and line.
    pub what: Text,
}

/// What a grant about networks does not permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// A change of sshd that counts for others.
    Sshd,
    /// The hosts that this one forwards packets to.
    Forwarded,
}

impl TooWide {
    /// The same as it is displayed, with what it quotes.
    pub fn words(&self) -> Text {
        let Self { beyond, action, about, what } = self;
        let does = match beyond {
            Beyond::Sshd => "change sshd for others",
            Beyond::Forwarded => "open hosts behind this one, too",
        };
        let change = format!("`{action}` about {about} would {does}, which needs a grant about everybody: ");
        Text::from(change) + what.clone() + "; nothing was changed"
    }
}

/// Permits a plan on this host. `AllowUsers` and `DenyUsers` may change outside of Match blocks where the patterns that come or go are
/// about the source alone.
pub fn permitted(authorized: &AuthorizedRequest, plan: &Plan, host: &HostState) -> Result<(), TooWide> {
    let operation = &authorized.request().operation;
    if authorized.scope().sees_all(operation.action()) {
        return Ok(());
    }
    // What is about nobody in particular was permitted by a grant about everybody.
    let Some(source) = operation.widest() else { return Ok(()) };
    let found = match sshd::beyond(host, &plan.steps, source) {
        Some(what) => Some((Beyond::Sshd, what)),
        None => netfilter::opens_others(host, &plan.steps).map(|what| (Beyond::Forwarded, what.into())),
    };
    match found {
        None => Ok(()),
        Some((beyond, what)) => Err(TooWide { beyond, action: operation.action().to_string(), about: source.short(), what }),
    }
}
