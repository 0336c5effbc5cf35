//! A change that somebody asks for: planned on the host as it is, held against the grants, proven to lock nobody out, shown or made, and
//! what became of it. Must not decide any of that: the rules are in `policy`, how a change is made is in `make`.

use std::collections::BTreeSet;
use std::time::Duration;

use sshfix_policy::address::{self, Source};
use sshfix_policy::diagnose::remaining::{self, Left};
use sshfix_policy::host::{HostState, Part, Question};
use sshfix_policy::plan;
use sshfix_policy::plan::goal::Goal;
use sshfix_policy::proof::lockout::{self, SafePlan};
use sshfix_policy::proof::permitted::permitted;
use sshfix_policy::reply::{Body, Change, ChangeSchema, ChangeState, Confirm, ErrorCode, ErrorDocument};
use sshfix_policy::request::authorize::AuthorizedRequest;
use sshfix_policy::request::{Intent, Request};
use sshfix_policy::subsystem::{hosts_access, listener};
use sshfix_policy::text::quoted::Text;
use sshfix_policy::verdict::{AccessPath, PathOrigin};

use crate::agent::Agent;
use crate::change::lease;
use crate::change::make::{self, Failed, NotBegun, Order, Settled};
use crate::host::live::LiveHost;
use crate::host::observe::observed;
use crate::patience::{self, Patience};
use crate::random;
use crate::request::decide;
use crate::request::refusal::{
    NoSafePlan, Refusal, failed, failed_because, late, not_stored, out_of_bounds, plan_changed, refused_plan,
};
use crate::store::NewLease;
use crate::sys::clock::Moment;

/// How often a change is planned again because others changed the host meanwhile.
const MAX_PLANS: usize = 5;
/// Debug builds only, for the lab: while this file is there, plans are made without the proof.
#[cfg(debug_assertions)]
const WITHOUT_PROOF: &str = "/run/sshfix/without-proof";

/// A change that somebody asks for and may ask for.
pub(crate) struct Requested<'a> {
    /// Who makes it.
    pub agent: &'a Agent,
    /// What must be read for it.
    pub question: &'a Question,
    /// The request.
    pub authorized: &'a AuthorizedRequest,
    /// What it wants.
    pub intent: &'a Intent,
}

impl Requested<'_> {
    /// The plan, and where it has no steps, what still keeps the source out.
    pub fn shown(&self, host: &mut LiveHost) -> Result<Body, Refusal> {
        let safe = self.planned(host)?.1;
        let mut plan = safe.document();
        if plan.steps.is_empty()
            && let Some(Left { verdict, stages, notes }) = self.left(host, &safe.plan().goal)
        {
            (plan.verdict, plan.stages) = (Some(verdict), stages);
            plan.notes.extend(notes);
        }
        Ok(Body::Plan(plan))
    }

    /// Makes the change that is planned now, if it is the one that was shown. A host that others change between the plan and its
    /// first step is planned on again; the change is made only if the plan is still the same.
    pub fn made(&self, host: &mut LiveHost, shown: Option<&str>, confirm_within: Option<u64>) -> Result<Body, Refusal> {
        let Self { agent, question, authorized, intent: _ } = *self;
        let within = agent.config.confirm.within(confirm_within).map_err(|why| out_of_bounds(&why))?;
        patience::with(None, || decide::in_the_way(agent, host))?;
        let mut wanted = shown.map(str::to_owned);
        for _ in 0..MAX_PLANS {
            let (read, safe) = self.planned(host)?;
            let digest = safe.plan().digest();
            if wanted.get_or_insert_with(|| digest.clone()) != &digest {
                return Err(plan_changed(&safe, "the plan is not the one that was shown; nothing was changed").into());
            }
            // A lease that counts on what others added has no steps, and is made all the same.
            if safe.steps().is_empty() && safe.plan().lease.is_none() {
                lease::revoked(agent, safe.plan().goal.ended_lease(), &safe.plan().notes);
                return self.nothing_to_do(host, &safe, &read);
            }
            let id = random::hex::<5>().map_err(|error| failed(&error))?;
            let order = Order {
                id: id.clone(),
                principal: authorized.signer().principal(),
                question,
                read: &read,
                plan: &safe,
                waits: match safe.plan().confirm {
                    Confirm::Required => Some(within),
                    Confirm::NotNeeded => None,
                },
                lease: safe.plan().lease.as_ref().map(new_lease),
            };
            match make::begin(host, &agent.store, order, Moment::now) {
                Ok(begun) => {
                    let made = begun.finish(|_| true);
                    return patience::with(None, || self.outcome(host, id, &safe, made));
                }
                Err(NotBegun::Drifted(why)) => tracing::info!("planned again: {why}"),
                Err(NotBegun::Late) => {
                    return Err(patience::current().map_or_else(|| failed(&"nobody waits for it"), |patience| late(&patience)));
                }
                Err(NotBegun::NotStored(error)) => return Err(not_stored(&error)),
            }
        }
        Err(failed(&format!("the host was changed by others {MAX_PLANS} times while the change was planned")))
    }

    /// Plans on the host as it is now, holds the plan against the grants, and proves that nobody is locked out.
    fn planned(&self, host: &mut LiveHost) -> Result<(HostState, SafePlan), Refusal> {
        let Self { agent, question, authorized, intent } = *self;
        let request = authorized.request();
        let port = question.port;
        let leases = lease::known(agent).map_err(|error| not_stored(&error))?;
        let faults = std::cell::RefCell::new(Vec::new());
        let (state, safe) = observed(host, question, |state, needs| {
            let plan = plan::plan_beside(&leases, intent, state, port, needs)?;
            permitted(authorized, &plan, state)?;
            #[cfg(debug_assertions)]
            if std::path::Path::new(WITHOUT_PROOF).exists() {
                let sessions = listener::sessions(state).unwrap_or_default();
                return Ok(SafePlan::unproven(plan, &access_paths(agent, request, sessions, port)));
            }
            let refused = plan.clone();
            let proven = lockout::sessions(&plan, state).and_then(|sessions| {
                let paths = access_paths(agent, request, sessions, port);
                faults.replace(lockout::faults(&plan, state, &paths, needs));
                lockout::prove(plan, state, &paths, needs)
            });
            // No paths: the proof ends at the one that the refusal names.
            proven.map_err(|why| NoSafePlan::Lockout(why, Box::new(refused.document(Vec::new()))))
        });
        for fault in faults.take() {
            let user = fault.path.user.as_deref().unwrap_or("somebody");
            tracing::warn!(
                "{user} from {} is logged in, but the stage {} says: {}. Either this changed since the login, or it is a bug in sshfix",
                fault.path.from(),
                fault.stage,
                fault.why
            );
        }
        // A plan on half a host is none.
        if let Some(patience) = patience::current().filter(Patience::was_cut) {
            return Err(late(&patience));
        }
        let safe = safe.map_err(refused_plan)?;
        Ok((state, safe))
    }

    /// What became of it.
    fn outcome(&self, host: &mut LiveHost, id: String, safe: &SafePlan, made: Result<Settled, Failed>) -> Result<Body, Refusal> {
        let besides = made.as_ref().is_err_and(|failed| failed.besides);
        let (state, changed, deadline, failure, seen) = match made {
            Ok(Settled { deadline: None, changed, seen }) => (ChangeState::Confirmed, changed, None, None, seen),
            Ok(Settled { deadline: Some(deadline), changed, seen }) => {
                (ChangeState::Pending, changed, Some(deadline.wall), None, seen)
            }
            Err(failed) if failed.clean() && failed.drifted => {
                // The new dry run is shown, where there still is a plan.
                let Ok((_, again)) = self.planned(host) else {
                    return Err(failed_because(failed.failure.message));
                };
                let what = failed.failure.message + "; the steps made so far were rolled back, so nothing was changed";
                return Err(plan_changed(&again, what).into());
            }
            Err(failed) if failed.clean() => (ChangeState::RolledBack, false, None, Some(*failed.failure), failed.seen),
            Err(failed) => (ChangeState::Stuck, true, None, Some(*failed.failure), failed.seen),
        };
        if state == ChangeState::Confirmed {
            lease::revoked(self.agent, safe.plan().goal.ended_lease(), &safe.plan().notes);
        }
        let mut notes = safe.plan().notes.clone();
        notes.extend(seen.notes);
        Ok(Body::Change(Change { id, state, changed, deadline, failure, besides, ..changed_nothing(safe, notes, seen.left) }))
    }

    /// An `unban` with nothing to lift: done, unless something that could refuse was not read.
    fn nothing_to_do(&self, host: &mut LiveHost, safe: &SafePlan, state: &HostState) -> Result<Body, Refusal> {
        // A new part of the host does not compile before it is said what becomes of it here.
        let HostState {
            at: _,
            hosts_access,
            nf_tables,
            xtables,
            // What a ticket does, the rules show.
            fail2ban: _,
            // Each is a stage of its own, of which it is said below that it may refuse.
            route: _,
            ipset: _,
            listener: _,
            sshd: _,
            // Whose rule it is.
            ufw: _,
        } = state;
        let files_unread = match hosts_access {
            Part::Present(files) => {
                [&files.allow, &files.deny].iter().any(|file| matches!(file.content, hosts_access::Content::Unreadable(_)))
            }
            Part::Unreadable(_) => true,
            Part::Absent(_) => false,
        };
        let blind = files_unread || nf_tables.unreadable().is_some() || xtables.unreadable().is_some();
        if blind && safe.plan().goal.path().is_some() {
            return Err(ErrorDocument::new(
                ErrorCode::Failed,
                Text::from("found nothing to lift, but not everything could be read; nothing was changed: ")
                    + Text::joined(&safe.plan().notes, "; "),
                "make the named part readable, then retry",
            )
            .into());
        }
        let left = self.left(host, &safe.plan().goal);
        Ok(Body::Change(changed_nothing(safe, safe.plan().notes.clone(), left)))
    }

    fn left(&self, host: &mut LiveHost, goal: &Goal) -> Option<Left> {
        goal.path().map(|connection| observed(host, self.question, |state, needs| remaining::left(connection, state, needs)).1)
    }
}

/// The document of a change that has nothing to do.
fn changed_nothing(safe: &SafePlan, mut notes: Vec<Text>, left: Option<Left>) -> Change {
    let (verdict, stages) = left.map_or((None, Vec::new()), |left| {
        notes.extend(left.notes);
        (Some(left.verdict), left.stages)
    });
    Change {
        schema: ChangeSchema::V1,
        id: String::new(),
        state: ChangeState::Unchanged,
        changed: false,
        deadline: None,
        plan: Box::new(safe.document()),
        failure: None,
        besides: false,
        verdict,
        stages,
        notes,
    }
}

fn new_lease(lease: &plan::Lease) -> NewLease {
    let plan::Lease { id, purpose, seconds, items } = lease;
    NewLease { id: id.clone(), summary: purpose.to_string(), items: items.clone(), time: Duration::from_secs(*seconds) }
}

/// Every way in that must not be lost: the requester's own as the signer claims it, live sessions, `keep` entries. A claim protects
/// the signer from the signer's own changes, and nobody else; a path of its own in the plan does nothing but refuse it.
fn access_paths(agent: &Agent, request: &Request, sessions: Vec<AccessPath>, port: u16) -> Vec<AccessPath> {
    let mut paths = BTreeSet::new();
    if let Some(from) = request.from.map(address::canonical).filter(|from| !from.is_loopback()) {
        paths.insert(AccessPath {
            source: Source::from(from),
            user: request.from_user.clone(),
            port,
            origin: PathOrigin::Requester,
        });
    }
    paths.extend(sessions);
    paths.extend(agent.config.kept_paths());
    paths.into_iter().collect()
}
