//! Changes that the agent makes by itself: the end of a lease, what a reboot took of one, a ban that a change earned which is taken
//! back. Made by the change machine, verified, each with an audit record of its own. Must not decide what they are.

use sshfix_policy::host::{HostState, Needs, Question};
use sshfix_policy::plan::Plan;
use sshfix_policy::proof::lockout;

use crate::agent::Agent;
use crate::audit::{AuditClosing, AuditOpening, Outcome};
use crate::change::make::{self, Order};
use crate::host::live::LiveHost;
use crate::random;
use crate::request::decide;
use crate::request::refusal::Refusal;
use crate::store::Store;
use crate::sys::clock::Moment;

/// A change that the agent makes by itself.
pub(crate) struct Own<'a> {
    /// What it is about, to read it again,
    pub question: &'a Question,
    /// and as it was read.
    pub read: &'a HostState,
    /// Who asked for it, or for what it follows from.
    pub principal: &'a str,
    /// What is done.
    pub plan: Plan,
}

/// Makes it, with a record of its own. The error is what did not work.
pub(crate) fn make(agent: &Agent, host: &mut LiveHost, own: Own<'_>, what: &str) -> Result<(), String> {
    decide::in_the_way(agent, host).map_err(|refusal| match refusal {
        Refusal::Refused(why) => why,
        Refusal::Error(document) => document.message.as_str().to_owned(),
    })?;
    let opening = AuditOpening::automatic(what);
    let record = agent.auditor.open(&agent.store, &opening).map_err(|error| error.to_string())?;
    let digest = own.plan.digest();
    let made = change(host, &agent.store, own);
    let (outcome, detail, change) = match &made {
        Ok(change) => (Outcome::Confirmed, String::new(), Some(change.clone())),
        Err((change, why)) => (Outcome::Failed, why.clone(), change.clone()),
    };
    let closing = AuditClosing { outcome, detail, plan: Some(digest), change };
    agent.auditor.close(&agent.store, &agent.identity, &opening, record, closing);
    made.map(|_| ()).map_err(|(_, why)| why)
}

/// Makes it without a record. The change's id; the error holds it, where one was begun.
pub(crate) fn change(host: &mut LiveHost, store: &Store, own: Own<'_>) -> Result<String, (Option<String>, String)> {
    let Own { question, read, principal, plan } = own;
    let unbegun = |why: &dyn std::fmt::Display| (None, why.to_string());
    // No way in is kept: what a lease opened, its end closes; nothing else that is made here closes anything.
    let safe = lockout::prove(plan, read, &[], &mut Needs::new()).map_err(|why| unbegun(&why))?;
    let id = random::hex::<5>().map_err(|why| unbegun(&why))?;
    let order = Order { id: id.clone(), principal, question, read, plan: &safe, waits: None, lease: None };
    let begun = make::begin(host, store, order, Moment::now).map_err(|why| unbegun(&why))?;
    match begun.finish(|_| true) {
        Ok(_) => Ok(id),
        Err(failed) => Err((Some(id), failed.failure.message.as_str().to_owned())),
    }
}
