//! Whether a plan stays within the grants that permit its request: a grant about networks permits no change of sshd that counts for others.
//! Judges the plan's steps, which only exist once the host was read; the request itself is judged before.

use thiserror::Error;

use crate::host::HostState;
use crate::plan::Plan;
use crate::request::authorize::AuthorizedRequest;
use crate::subsystem::sshd;
use crate::text::quoted::Text;

/// Why a permitted request has a plan that is not. The host is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`{action}` about {about} would change sshd for others, which needs a grant about everybody: {}; nothing was changed",
    .what.as_str()
)]
pub struct TooWide {
    /// What was asked.
    pub action: String,
    /// About whom.
    pub about: String,
    /// The step, or the keyword with its file and line.
    pub what: Text,
}

impl TooWide {
    /// The same as it is displayed, with what it quotes.
    pub fn words(&self) -> Text {
        let Self { action, about, what } = self;
        let change = format!("`{action}` about {about} would change sshd for others, which needs a grant about everybody: ");
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
    match sshd::beyond(host, &plan.steps, source) {
        None => Ok(()),
        Some(what) => Err(TooWide { action: operation.action().to_string(), about: source.short(), what }),
    }
}
