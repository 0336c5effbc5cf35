//! Leases: ends them on time, also those that came due while nobody ran, and puts back after a reboot what the reboot took away.
//! Every change to the host goes through the change machine. Must not decide what is added or removed: `policy::lease` does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sshfix_policy::address::Source;
use sshfix_policy::host::Question;
use sshfix_policy::host::lease::{Item, Leases, Running};
use sshfix_policy::plan;
use sshfix_policy::plan::lease::end;
use sshfix_policy::reply::{LeaseDocument, LeasesSchema};
use sshfix_policy::request::Intent;
use sshfix_policy::text::quoted::Text;

use crate::agent::Agent;
use crate::audit::Outcome;
use crate::change::automatic::{self, Own};
use crate::config;
use crate::host::observe::observed;
use crate::once::Once;
use crate::store::{LeaseRecord, StoreError};
use crate::sys::clock::Moment;

/// How often the clock is looked at.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// What does not work is tried again after so long at first, then after twice as long each time,
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// but at least so often.
const LAST_RETRY: Duration = Duration::from_mins(1);
/// How often what is missing is looked for,
const SEE_AGAIN: Duration = Duration::from_secs(5);
/// and how long after the first look in a new boot: firewalls and fail2ban come up after the agent. What is
/// missing later was taken away by somebody who meant it.
const COMING_UP: Duration = Duration::from_mins(5);

/// What planning must know of leases.
pub fn known(agent: &Agent) -> Result<Leases, StoreError> {
    let running = |lease: LeaseRecord| Running { id: lease.id, source: lease.operation.source(), items: lease.items };
    let running = agent.store.leases()?.into_iter().map(running).collect();
    Ok(Leases { running, next: agent.store.next_lease()?, longest: agent.config.limits.lease_seconds })
}

/// The sources of the lease that a revoke is about.
pub fn sources(agent: &Agent, intent: &Intent) -> Result<Vec<Source>, StoreError> {
    let Intent::Revoke { id } = intent else { return Ok(Vec::new()) };
    let leases = agent.store.leases()?;
    Ok(leases.iter().filter(|lease| lease.id == *id).flat_map(|lease| sources_of(&lease.items)).collect())
}

fn sources_of(items: &[Item]) -> Vec<Source> {
    let of = |item: &Item| match item {
        Item::Rules { source, .. } | Item::Line { source, .. } | Item::Exempt { source, .. } => Some(*source),
        Item::Ignore { entry, .. } => entry.parse().ok(),
    };
    items.iter().filter_map(of).collect()
}

/// A `revoke` was done: the lease that it ends, if any, is over. If this cannot be written, the lease ends on time with nothing left to do.
pub fn revoked(agent: &Agent, id: Option<&str>, notes: &[Text]) {
    if let Some(id) = id
        && let Err(error) = agent.store.lease_end(id, Timestamp::now(), Text::joined(notes, "; ").as_str())
    {
        tracing::error!(lease = id, "the end of the lease could not be recorded: {error}");
    }
}

/// The document of `leases`.
pub fn document(agent: &Agent) -> Result<sshfix_policy::reply::Leases, StoreError> {
    let now = Moment::now();
    // Where the grants cannot be read nobody may do anything, which says nothing about these.
    let grants = config::grants(&agent.config.paths.policy).ok();
    let ungranted = |lease: &LeaseRecord| {
        let permitted = |source| grants.as_ref().is_none_or(|it| it.permit(&lease.principal, lease.operation.action(), source));
        lease.operation.source().is_some_and(|source| !permitted(source))
    };
    let shown = |lease: &LeaseRecord| LeaseDocument { ungranted: ungranted(lease), ..brief(lease, &now) };
    let leases = agent.store.leases()?.iter().map(shown).collect();
    Ok(sshfix_policy::reply::Leases { schema: LeasesSchema::V1, leases, others: 0, notes: Vec::new() })
}

/// One lease, as it is shown.
pub fn brief(lease: &LeaseRecord, now: &Moment) -> LeaseDocument {
    LeaseDocument {
        id: lease.id.clone(),
        summary: lease.summary.clone(),
        ends: lease.ends(now),
        principal: lease.principal.clone(),
        change: lease.change.clone(),
        made: Some(lease.created_at),
        parts: lease.items.iter().map(Item::describe).collect(),
        ungranted: false,
    }
}

/// Keeps the time of all leases.
#[derive(Debug, Default)]
pub struct Keeper {
    retries: BTreeMap<String, Retry>,
    /// What was said of the leases.
    unread: Once,
}

#[derive(Debug)]
struct Retry {
    next: Instant,
    wait: Duration,
}

impl Keeper {
    /// One look at the clock: ends what is over, puts back what a reboot took away.
    pub fn look(&mut self, agent: &Agent) {
        let leases = match agent.store.leases() {
            Ok(leases) => leases,
            Err(error) => {
                if self.unread.is_new(&error.to_string()) {
                    tracing::error!("the leases could not be read; none was ended: {error}");
                }
                return;
            }
        };
        self.unread.is_over();
        self.retries.retain(|id, _| leases.iter().any(|lease| lease.id == *id));
        for lease in leases {
            if self.retries.get(&lease.id).is_some_and(|retry| retry.next > Instant::now()) {
                continue;
            }
            match look_at(agent, &lease) {
                Ok(Next::Settled) => _ = self.retries.remove(&lease.id),
                Ok(Next::SeeAgain) => {
                    let retry = Retry { next: Instant::now() + SEE_AGAIN, wait: FIRST_RETRY };
                    self.retries.insert(lease.id.clone(), retry);
                }
                Err(why) => {
                    let retry = self.retries.entry(lease.id.clone());
                    let retry = retry.or_insert(Retry { next: Instant::now(), wait: FIRST_RETRY });
                    tracing::warn!(lease = lease.id, "retrying in {:?}: {why}", retry.wait);
                    retry.next = Instant::now() + retry.wait;
                    retry.wait = (retry.wait * 2).min(LAST_RETRY);
                }
            }
        }
    }
}

/// What follows a look at one lease.
enum Next {
    /// Nothing to do before it is over.
    Settled,
    /// The host is coming up: something may have to be put back soon.
    SeeAgain,
}

/// The error is what did not work.
fn look_at(agent: &Agent, lease: &LeaseRecord) -> Result<Next, String> {
    let now = Moment::now();
    let left = lease.left(&now);
    if left.is_zero() {
        return end_now(agent, lease).map(|()| Next::Settled);
    }
    if lease.boot.differs(&now.boot) {
        // Its time goes on by the clock of this boot.
        agent.store.lease_take_up(&lease.id, &now, left).map_err(|error| error.to_string())?;
        return put_back(agent, lease, Duration::ZERO);
    }
    if lease.in_place { Ok(Next::Settled) } else { put_back(agent, lease, now.since_boot.saturating_sub(lease.boot_from)) }
}

/// Takes a lease back whose time is over. Not asked of the proof: that it ends was part of what was asked for.
fn end_now(agent: &Agent, lease: &LeaseRecord) -> Result<(), String> {
    let leases = known(agent).map_err(|error| error.to_string())?;
    let this = Running { id: lease.id.clone(), source: lease.operation.source(), items: lease.items.clone() };
    let what = format!("lease {} of {} is over: {}", lease.id, lease.principal, lease.summary);
    let mut host = agent.host.lock();
    let question = question(agent, &lease.items);
    let operation = Intent::Revoke { id: lease.id.clone() };
    let (state, (end, plan)) = observed(&mut *host, &question, |state, needs| {
        let end = end(state, &this, &leases.running, needs).unattended();
        let plan = plan::of_steps(&operation, end.steps.clone(), state, question.port, needs);
        (end, plan)
    });
    let plan = plan.map_err(|error| error.to_string())?;
    let nothing_to_do = plan.steps.is_empty();
    if !nothing_to_do {
        automatic::make(agent, &mut host, Own { question: &question, read: &state, principal: &lease.principal, plan }, &what)?;
    }
    // Parts that could not be looked at are ended when they can be.
    if !end.unread.is_empty() {
        return Err(format!("could not remove everything that the lease added: {}", end.unread.join("; ")));
    }
    let left = end.left.join("; ");
    agent.store.lease_end(&lease.id, Timestamp::now(), &left).map_err(|error| error.to_string())?;
    tracing::info!(lease = lease.id, "lease ended: {}{}{left}", lease.summary, if left.is_empty() { "" } else { "; " });
    if nothing_to_do || !left.is_empty() {
        let left = if left.is_empty() { "nothing of the lease was left to remove".to_owned() } else { left };
        agent.auditor.note(&agent.store, &agent.identity, format!("{what}; {left}"), Outcome::Unchanged);
    }
    Ok(())
}

/// Adds again what a reboot took away, as long as the host comes up.
fn put_back(agent: &Agent, lease: &LeaseRecord, since: Duration) -> Result<Next, String> {
    let mut leases = known(agent).map_err(|error| error.to_string())?;
    leases.running.retain(|other| other.id != lease.id);
    leases.next.clone_from(&lease.id);
    leases.longest = 0;
    let mut host = agent.host.lock();
    let question = question(agent, &lease.items);
    let (state, plan) = observed(&mut *host, &question, |state, needs| {
        plan::missing_of_lease(&leases, &lease.operation, state, question.port, needs)
    });
    let plan = plan.map_err(|error| error.to_string())?;
    let mut items = lease.items.clone();
    items.extend(plan.lease.iter().flat_map(|lease| &lease.items).cloned());
    items.sort();
    items.dedup();
    if items != lease.items {
        // Before the steps: what is on record too early is found gone at the end, which is fine.
        agent.store.lease_items(&lease.id, &items).map_err(|error| error.to_string())?;
    }
    if !plan.steps.is_empty() {
        let what = format!("lease {} of {} goes on after a reboot: {}", lease.id, lease.principal, lease.summary);
        automatic::make(agent, &mut host, Own { question: &question, read: &state, principal: &lease.principal, plan }, &what)?;
    }
    if since < COMING_UP {
        return Ok(Next::SeeAgain);
    }
    agent.store.lease_in_place(&lease.id).map(|()| Next::Settled).map_err(|error| error.to_string())
}

fn question(agent: &Agent, items: &[Item]) -> Question {
    Question { sources: sources_of(items).into_iter().collect(), port: agent.config.ssh_port, everybody: false }
}
