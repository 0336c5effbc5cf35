//! What a change that was taken back left behind in fail2ban: whom a line of hosts.deny or an edit of sshd's kept out tried again and
//! again, and is banned for it when the change is gone. Those bans are lifted, by changes of the agent's own: of whom the plan closed, of
//! who was logged in when it was made, and of `keep` entries; and of these only whom the one who made the change may unban now. What a
//! signer claims to come from lifts nothing. Must not decide which tickets they are: `policy::subsystem::fail2ban::earned` does. Lifts no
//! ban that was there before or that came by anything else.

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use sshfix_policy::address::Source;
use sshfix_policy::host::step::Step;
use sshfix_policy::host::{Part, Question};
use sshfix_policy::plan;
use sshfix_policy::reply::PathDocument;
use sshfix_policy::request::authorize::Grants;
use sshfix_policy::request::{Action, Intent};
use sshfix_policy::subsystem::fail2ban;
use sshfix_policy::verdict::PathOrigin;

use crate::agent::Agent;
use crate::change::automatic::{self, Own};
use crate::config;
use crate::host::live::LiveHost;
use crate::host::observe::observed;
use crate::once::Once;
use crate::store::{ChangeRecord, Store, StoreError};

/// How often it is looked.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// A ban may come so long after the change is gone: libwrap holds who it refuses for five seconds, and fail2ban reads logs.
const LATE: SignedDuration = SignedDuration::from_secs(30);
/// So long after its end a change is looked after,
const LOOKED_AFTER: SignedDuration = SignedDuration::from_mins(2);
/// and by an agent that was started just now: what its stop or a reboot took back, fail2ban still knows.
const AT_START: SignedDuration = SignedDuration::from_hours(1);

/// Looks again and again.
#[derive(Debug)]
pub struct Keeper {
    started: Instant,
    /// What was said of the changes.
    unread: Once,
}

impl Default for Keeper {
    fn default() -> Self {
        Self { started: Instant::now(), unread: Once::default() }
    }
}

impl Keeper {
    /// One look; what does not work is tried again by the next.
    pub fn look(&mut self, agent: &Agent) {
        let starting = SignedDuration::try_from(self.started.elapsed()).is_ok_and(|since| since < LOOKED_AFTER);
        let changes = match taken_back(&agent.store, if starting { AT_START } else { LOOKED_AFTER }) {
            Ok(changes) => changes,
            Err(error) => {
                if self.unread.is_new(&error.to_string()) {
                    tracing::error!("the changes could not be read; no ban was lifted: {error}");
                }
                return;
            }
        };
        self.unread.is_over();
        for change in changes {
            let mut host = agent.host.lock();
            let policy = &agent.config.paths.policy;
            for earned in earned(&mut host, &agent.store, agent.config.ssh_port, policy, &change) {
                let (what, port) = (earned.text(), agent.config.ssh_port);
                if let Err(why) = earned.lifted(&mut host, port, |host, own| automatic::make(agent, host, own, &what)) {
                    tracing::warn!(change = change.id, "could not {what}; retrying: {why}");
                }
            }
        }
    }
}

/// One look of an agent that cannot start. What was lifted, and by which change.
pub fn look_once(host: &mut LiveHost, store: &Store, port: u16, policy: &Path) -> Result<Vec<(String, String)>, StoreError> {
    let mut lifted = Vec::new();
    for change in taken_back(store, LOOKED_AFTER)? {
        for earned in earned(host, store, port, policy, &change) {
            let what = earned.text();
            match earned.lifted(host, port, |host, own| automatic::change(host, store, own).map_err(|(_, why)| why)) {
                Ok(change) => lifted.extend(change.map(|change| (what, change))),
                Err(why) => tracing::warn!(change = change.id, "could not {what}: {why}"),
            }
        }
    }
    Ok(lifted)
}

/// The changes that stood for a while, made sshd refuse somebody so that fail2ban could count it, and were taken back lately.
fn taken_back(store: &Store, lately: SignedDuration) -> Result<Vec<ChangeRecord>, StoreError> {
    let since = Timestamp::now().checked_sub(lately).unwrap_or(Timestamp::MIN);
    let mut changes = store.rolled_back_since(since)?;
    changes.retain(|change| {
        // By these sshd itself refuses, and writes it down where fail2ban reads it.
        let told = |step: &Step| match step {
            Step::HostsAccess(_) | Step::Sshd(_) => true,
            Step::Fail2ban(_)
            | Step::NfTables(_)
            | Step::Xtables(_)
            | Step::Ipset(_)
            | Step::Route(_)
            | Step::Recent(_)
            | Step::Repair(_) => false,
        };
        change.pending_since_boot.is_some() && change.steps.iter().any(|record| told(&record.step))
    });
    Ok(changes)
}

/// A ban that a change earned.
struct Earned<'a> {
    change: &'a ChangeRecord,
    jail: String,
    source: Source,
}

/// The bans that were made while the change stood, of whom it kept out and whoever made it may unban; not those that a later change
/// is about.
fn earned<'a>(host: &mut LiveHost, store: &Store, port: u16, policy: &Path, change: &'a ChangeRecord) -> Vec<Earned<'a>> {
    let (Some(plan), Some(end)) = (&change.plan, change.finished_at) else { return Vec::new() };
    let paths = plan.paths.iter().filter(|path| was_there(path)).filter_map(|path| path.source.parse().ok());
    let kept_out: Vec<Source> = plan.closes.iter().copied().chain(paths).collect();
    let question = Question { sources: kept_out.iter().copied().collect(), port, everybody: false };
    let Part::Present(state) = host.bans(&question) else { return Vec::new() };
    let until = end.checked_add(LATE).unwrap_or(end);
    let found = fail2ban::earned(&state, &kept_out, change.started_at, until);
    // Without them nobody knows which bans were meant: none is lifted.
    let Ok(newest) = store.changes(MEANT) else { return Vec::new() };
    let meant = |source: Source| {
        let later = newest.iter().filter(|other| other.started_at >= end);
        later.flat_map(|other| &other.steps).any(|record| {
            matches!(record.step, Step::Fail2ban(_)) && record.step.touches().is_none_or(|touched| touched.contains(&source))
        })
    };
    let mut found: Vec<Earned<'_>> =
        found.into_iter().filter(|(_, source)| !meant(*source)).map(|(jail, source)| Earned { change, jail, source }).collect();
    if !found.is_empty() {
        // As they are now: who may not unban any more lifts nothing.
        let grants = config::grants(policy).unwrap_or_else(|why| {
            tracing::warn!(change = change.id, "no ban was lifted, because nobody may unban: {why}");
            Grants::default()
        });
        found.retain(|earned| grants.permit(&change.principal, Action::Unban, earned.source));
    }
    found
}

/// Whether the path was proven to be one when the change was made; what the signer claims is not.
fn was_there(path: &PathDocument) -> bool {
    match path.origin {
        Some(PathOrigin::Session | PathOrigin::Keep) => true,
        // None: a change of a version that did not record it.
        Some(PathOrigin::Requester) | None => false,
    }
}

/// So many of the newest changes are looked through for one that is about the same address.
const MEANT: usize = 32;

impl Earned<'_> {
    fn text(&self) -> String {
        let Self { change, jail, source } = self;
        format!("unban {} in jail {jail}: banned while change {} stood, which was rolled back", source.short(), change.id)
    }

    /// Unbans in this jail, by the same plan as `unban --jail`. What `make` gives; nothing where the ban is gone already.
    fn lifted<T>(
        &self,
        host: &mut LiveHost,
        port: u16,
        make: impl Fn(&mut LiveHost, Own<'_>) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        let (source, jail) = (self.source, Some(self.jail.clone()));
        let intent = Intent::Unban { source, jail, ignore_for: None, range: false };
        let question = Question { sources: [source].into(), port, everybody: false };
        let (read, plan) = observed(host, &question, |state, needs| plan::plan(&intent, state, question.port, needs));
        let plan = plan.map_err(|error| error.to_string())?;
        if plan.steps.is_empty() {
            return Ok(None);
        }
        make(host, Own { question: &question, read: &read, principal: &self.change.principal, plan }).map(Some)
    }
}
