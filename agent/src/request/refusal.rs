//! Why a request is not done, in the words of the reply: what happened, that nothing was changed, and what to do. Decides nothing.

use std::fmt::Display;

use sshfix_policy::address::NoClient;
use sshfix_policy::plan::error::PlanError;
use sshfix_policy::proof::lockout::{self, SafePlan};
use sshfix_policy::proof::permitted::TooWide;
use sshfix_policy::reply::{ErrorCode, ErrorDocument, Guarded, LockedOut, Names, PlanDocument};
use sshfix_policy::request::recorded::TooManyWords;
use sshfix_policy::subsystem::sshd;
use sshfix_policy::text::quoted::Text;
use sshfix_policy::verdict::{AccessPath, PathOrigin};

use crate::audit;
use crate::patience::Patience;
use crate::store::StoreError;

/// Why a request is not answered with what it asked for. The host is unchanged.
#[derive(Clone)]
pub(crate) enum Refusal {
    /// Not authenticated, not fresh, or not permitted: all alike to the peer; the reason is for the audit record.
    Refused(String),
    /// Anything the peer may know.
    Error(ErrorDocument),
}

impl From<ErrorDocument> for Refusal {
    fn from(document: ErrorDocument) -> Self {
        Refusal::Error(document)
    }
}

/// The one answer to everything that fails before the operation is looked at, so that it teaches a stranger nothing.
pub(crate) fn refused() -> ErrorDocument {
    ErrorDocument::new(
        ErrorCode::Refused,
        "the request was refused; nothing was changed",
        "ask the administrator of this host for a key in /etc/sshfix/allowed_signers and a grant in policy.toml; root sees the \
         reason with `journalctl -u sshfix-agent`, `sshfix ctl audit show` and `sshfix-agent check`",
    )
}

pub(crate) fn unaudited(why: &StoreError) -> ErrorDocument {
    ErrorDocument::new(
        ErrorCode::Failed,
        format!("the audit record could not be written ({why}); nothing was changed"),
        why.advice(),
    )
}

/// Why there is no safe plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoSafePlan {
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Also the plan that was refused.
    #[error("{0}")]
    Lockout(lockout::Lockout, Box<PlanDocument>),
    #[error(transparent)]
    TooWide(#[from] TooWide),
}

pub(crate) fn refused_plan(error: NoSafePlan) -> Refusal {
    match error {
        NoSafePlan::Lockout(why, plan) => lockout(&why, plan),
        NoSafePlan::TooWide(why) => ErrorDocument::new(
            ErrorCode::Refused,
            why.words(),
            "ask a principal whose grant in policy.toml has no `networks` to run the same command",
        ),
        NoSafePlan::Plan(error) => ErrorDocument::new(ErrorCode::Failed, error.words(), error.advice()),
    }
    .into()
}

/// Who would be locked out, and by what. Who may not know of that way in only hears that there is one.
fn lockout(why: &lockout::Lockout, plan: Box<PlanDocument>) -> ErrorDocument {
    let advice = match why {
        lockout::Lockout::Witness(_) | lockout::Lockout::Model(_) => {
            "keep the way in that is named, or change it on the host itself"
        }
        lockout::Lockout::Unread(_) => {
            "correct what could not be read, or wait, then run the command again; `sshfix ctl status` shows whether the \
             live sessions are known"
        }
    };
    let mut document = ErrorDocument::new(ErrorCode::Lockout, why.words(), advice);
    document.plan = Some(plan);
    if let lockout::Lockout::Witness(witness) = why {
        let AccessPath { source, user, port: _, origin } = &witness.path;
        let way = match origin {
            PathOrigin::Requester => "your own way in, as claimed",
            PathOrigin::Session | PathOrigin::Keep => "1 other way in, outside your grants",
        };
        let verdict = witness.verdict;
        document.locked_out =
            Some(Box::new(LockedOut { source: witness.path.from(), user: user.clone(), origin: *origin, verdict }));
        document.guarded = Some(Box::new(Guarded {
            names: Names::Login { source: *source, user: user.clone() },
            message: format!("would lock out {way}; nothing was changed"),
            advice: "make a smaller change, or ask a principal whose grants are about everybody".to_owned(),
        }));
    }
    document
}

pub(crate) fn not_shown(error: &sshd::ShowError) -> Refusal {
    match error {
        sshd::ShowError::Keyword { near, .. } => {
            let advice = match near.as_slice() {
                [] => "sshd_config(5) has the keywords; `sshfix ctl sshd show --all` shows those of this sshd".to_owned(),
                near => format!("did you mean {}?", near.join(" or ")),
            };
            ErrorDocument::new(ErrorCode::Usage, error.to_string(), advice).into()
        }
        sshd::ShowError::Sshd(why) => {
            ErrorDocument::new(ErrorCode::Failed, why.clone(), "`sshfix ctl sshd check` says what is wrong with its files").into()
        }
    }
}

pub(crate) fn plan_changed(safe: &SafePlan, what: impl Into<Text>) -> ErrorDocument {
    let mut document = ErrorDocument::new(ErrorCode::PlanChanged, what, "look at the new plan, then apply it with its digest");
    document.plan = Some(Box::new(safe.document()));
    document
}

pub(crate) fn failed(why: &impl Display) -> Refusal {
    failed_because(why.to_string().into())
}

/// The same of what may quote.
pub(crate) fn failed_because(why: Text) -> Refusal {
    let advice = "`sshfix ctl status` shows what was found";
    ErrorDocument::new(ErrorCode::Failed, why + "; nothing was changed", advice).into()
}

/// The state database does not do it, or does not have it.
pub(crate) fn not_stored(why: &StoreError) -> Refusal {
    ErrorDocument::new(ErrorCode::Failed, format!("{why}; nothing was changed"), why.advice()).into()
}

/// More requests of one signer than get a record.
pub(crate) fn too_many() -> Refusal {
    let every = audit::EVERY.as_secs();
    ErrorDocument::new(
        ErrorCode::Busy,
        format!(
            "too many requests with this key: {} are recorded at once, and one more each {every} s; nothing was changed",
            audit::BURST
        ),
        "retry in a moment; `sshfix ctl status`, `confirm` and `rollback` are answered meanwhile",
    )
    .into()
}

/// More words than a record holds.
pub(crate) fn too_many_words(why: TooManyWords) -> Refusal {
    let message = format!("the request was refused: {why}; nothing was changed");
    ErrorDocument::new(ErrorCode::Usage, message, "shorten --reason, or give fewer names and keywords").into()
}

/// Reading the host took too long, or nobody waits for the answer.
pub(crate) fn late(patience: &Patience) -> Refusal {
    let message = if patience.is_gone() {
        "the client is gone, so reading the host was stopped; nothing was changed".to_owned()
    } else {
        let seconds = patience.time().as_secs();
        format!("reading the host took longer than {seconds} s and was stopped, so there is no answer; nothing was changed")
    };
    let advice = "ask again when the host has less to do; `question_seconds` in [limits] of agent.toml gives it more time";
    ErrorDocument::new(ErrorCode::Failed, message, advice).into()
}

pub(crate) fn no_client(error: &NoClient) -> Refusal {
    let message = format!("{error}; nothing was changed");
    ErrorDocument::new(ErrorCode::Usage, message, "name the address that the client connects from").into()
}

pub(crate) fn out_of_bounds(why: &str) -> Refusal {
    let message = format!("{why}; nothing was changed");
    ErrorDocument::new(ErrorCode::Usage, message, "[confirm] in agent.toml sets the bounds of --confirm-within").into()
}
