//! What may be asked of the agent: the request that carries an operation. Parsed only after the signature over
//! its bytes holds. Holds no authority: who may ask is decided in `authorize`.

mod action;
pub mod allowed_signers;
pub mod audit;
pub mod authenticate;
pub mod authorize;
pub mod grants;
mod operation;
pub mod recorded;
pub mod wire;

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::address::canonical;

pub use action::Action;
pub use operation::{Decision, Intent, Operation, Query, Records};

/// The protocol version inside a request.
pub const PROTOCOL: u32 = 1;
/// The SSHSIG namespace of requests.
pub const REQUEST_NAMESPACE: &str = "sshfix-request@v1";
/// The SSHSIG namespace of replies.
pub const REPLY_NAMESPACE: &str = "sshfix-reply@v1";

/// The payload a client signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The identity of the host that is meant: the `SHA256:...` fingerprint of the agent's key.
    pub host: String,
    /// 32 hex digits the client drew at random; remembered, so that it counts once.
    pub id: String,
    /// The challenge the agent gave on this connection, to the letter.
    pub challenge: String,
    /// Seconds after the challenge was given for which the request holds. Measured by the agent's monotonic clock, so that a
    /// wrong wall clock on either side never refuses an honest request.
    pub valid_for: u32,
    /// Who the signer says to be, where the key stands for several principals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// What is asked.
    pub operation: Operation,
    /// Whether a change is shown or made. Ignored by operations that change nothing.
    #[serde(default)]
    pub mode: Mode,
    /// For the audit record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The address the person came in from (`SSH_CONNECTION`), as the signer claims: an access path of the proof of the signer's own
    /// changes, and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    /// The login name of that person, where known; a claim, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_user: Option<String>,
}

/// Whether a change is shown or made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Mode {
    /// Show the plan, change nothing.
    #[default]
    DryRun,
    /// Make the change; with a digest, only if the plan is still that one.
    Apply {
        /// `sha256:...` of the plan that was shown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<String>,
        /// Seconds in which a change that must be confirmed waits for it; the agent's default when not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        confirm_within: Option<u64>,
    },
}

impl Request {
    /// For whom the configuration of sshd is shown: what is not said is the requester's own.
    pub fn login_shown(&self) -> Option<(String, IpAddr)> {
        let Operation::Query(Query::SshdShow { user, address, .. }) = &self.operation else { return None };
        if user.is_none() && address.is_none() {
            return None;
        }
        let user = user.as_deref().or(self.from_user.as_deref()).unwrap_or("root");
        let address = address.or(self.from).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Some((user.to_owned(), canonical(address)))
    }

    /// The user whose login is asked about, which a grant's users must hold.
    pub fn user(&self) -> Option<Cow<'_, str>> {
        match &self.operation {
            Operation::Query(Query::Diagnose { user, .. }) | Operation::Intent(Intent::Fix { user, .. }) => {
                user.as_deref().map(Cow::Borrowed)
            }
            Operation::Query(Query::SshdShow { .. }) => self.login_shown().map(|(user, _)| Cow::Owned(user)),
            Operation::Query(_) | Operation::Intent(_) | Operation::Decision(_) | Operation::Records(_) => None,
        }
    }
}

#[cfg(test)]
mod wire_tests;
