//! The clock of pending changes: takes back what nobody confirms in time, and tries again what is stuck. On a thread of its own
//! that waits for no connection, no request and no disk: the changes are in memory besides state.db, whose faults are said once per
//! cause. Decides nothing about changes: `change` does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::change::restart::Start;
use crate::change::{self, Recovered, kept};
use crate::once::Once;
use crate::store::{ChangeRecord, ChangeStage, StoreError};
use crate::subsystem::sshd;
use crate::sys::clock::Moment;

/// How often the deadline is looked at.
const TICK: Duration = Duration::from_millis(250);
/// What is stuck is tried again after so long at first, then after twice as long each time,
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// but at least so often.
const LAST_RETRY: Duration = Duration::from_mins(5);

/// How often state.db is looked at: one small read.
const HEALTH: Duration = Duration::from_secs(2);

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Clock(Option<(Sender<()>, JoinHandle<()>)>);

impl Clock {
    /// Begins; the first look is at once.
    pub fn start(agent: Arc<Agent>) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = thread::Builder::new().name("deadline".to_owned()).spawn(move || run(&agent, &stopped))?;
        Ok(Self(Some((stop, thread))))
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

fn run(agent: &Agent, stopped: &Receiver<()>) {
    let mut watch = Watch::new();
    loop {
        // Whatever goes wrong in one look, the next one comes.
        if catch_unwind(AssertUnwindSafe(|| look(agent, &mut watch))).is_err() {
            tracing::error!("cannot read the deadline: a fault inside the agent; retrying");
        }
        if stopped.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// What is remembered from one look to the next.
struct Watch {
    /// When what is stuck is tried again.
    retry: Retry,
    /// When state.db is looked at again.
    health: Instant,
    /// What was said of the changes,
    unread: Once,
    /// of what is stuck,
    stuck: Once,
    /// and of state.db.
    trouble: Once,
}

struct Retry {
    next: Instant,
    wait: Duration,
}

impl Watch {
    fn new() -> Self {
        let now = Instant::now();
        let retry = Retry { next: now, wait: FIRST_RETRY };
        Self { retry, health: now, unread: Once::default(), stuck: Once::default(), trouble: Once::default() }
    }

    /// Says once what is wrong with state.db, and when it is well again.
    fn health(&mut self, agent: &Agent) {
        match agent.store.trouble() {
            Some(why) if self.trouble.is_new(&why) => tracing::error!(
                "{why}; a change that waits is rolled back at its deadline all the same. Make room or put the file back, then \
                 `systemctl restart sshfix-agent`"
            ),
            None if self.trouble.is_over() => tracing::info!("{} can be read and written again", agent.store.path().display()),
            Some(_) | None => {}
        }
    }
}

fn look(agent: &Agent, watch: &mut Watch) {
    let store = &agent.store;
    // A change that is being made is nobody's to recover; its request holds the host until it is settled.
    let due = store.unfinished_changes().map(|changes| {
        let now = Moment::now();
        changes.iter().any(|change| change.stage == ChangeStage::Pending && change::overdue(change, &now).is_some())
    });
    match due {
        Ok(false) => _ = watch.unread.is_over(),
        Ok(true) => {
            let mut host = agent.host.lock();
            // Looked at again: it may have been confirmed while we waited for the host.
            record(agent, change::recover(&mut *host, store, &Moment::now()));
        }
        Err(error) => {
            if watch.unread.is_new(&error.to_string()) {
                tracing::error!("cannot read the changes that an earlier agent left; retrying: {error}");
            }
        }
    }
    if Instant::now() >= watch.retry.next {
        let stuck = try_again(agent, &mut watch.stuck);
        watch.retry.wait = if stuck { (watch.retry.wait * 2).min(LAST_RETRY) } else { FIRST_RETRY };
        watch.retry.next = Instant::now() + watch.retry.wait;
    }
    if Instant::now() >= watch.health {
        watch.health(agent);
        watch.health = Instant::now() + HEALTH;
    }
}

/// Whether something is stuck still, or not seen yet.
fn try_again(agent: &Agent, said: &mut Once) -> bool {
    if sshd::has_unseen() {
        let host = agent.host.lock();
        let left = sshd::tell_again();
        drop(host);
        for what in &left {
            tracing::warn!("cannot see that a rollback is in effect: {what}");
        }
        return stuck(agent, said) || !left.is_empty();
    }
    stuck(agent, said)
}

fn stuck(agent: &Agent, said: &mut Once) -> bool {
    let stuck = match agent.store.stuck_changes() {
        Ok(stuck) if stuck.is_empty() => {
            said.is_over();
            return false;
        }
        Ok(stuck) => stuck,
        // What is wrong with the database is said by whoever looks at it.
        Err(_) => return true,
    };
    let mut host = agent.host.lock();
    let left = change::retry_stuck(&mut *host, &agent.store, &Moment::now()).unwrap_or(stuck);
    for change in &left {
        if said.is_new(&format!("{} {}", change.id, change.detail)) {
            tracing::warn!("change {} is still stuck: {}", change.id, change.detail);
        }
    }
    !left.is_empty()
}

/// Takes back what the last run of the agent left unfinished, but what still waits. Of that the sshd is held from now on.
pub fn recover(agent: &Agent) {
    record(agent, change::recover(&mut *agent.host.lock(), &agent.store, &Moment::now()));
    kept::sweep(&agent.store, &agent.config);
    // Its failure was said just now.
    let waits = agent.store.unfinished_changes().unwrap_or_default();
    sshd::hold_for(waits.iter().flat_map(|change| &change.steps).map(|record| &record.step));
}

/// At the end of the agent. What still waits for its confirm is taken back, because nobody will be there to do it at its deadline;
/// where the agent comes back at once, it goes on waiting.
pub fn stop(agent: &Agent, start: &Start) {
    const WHY: &str = "the agent was stopped before it was confirmed";
    let mut host = agent.host.lock();
    let taken = agent.store.unfinished_changes().map(|changes| {
        let pending: Vec<_> = changes.into_iter().filter(|change| change.stage == ChangeStage::Pending).collect();
        if pending.is_empty() {
            return Ok(Vec::new());
        }
        // The next agent knows of it by the database alone.
        let found_again = match agent.store.trouble() {
            None => start.comes_again().map_err(|why| why.to_string()),
            Some(trouble) => Err(trouble),
        };
        match found_again {
            Ok(()) => {
                for change in pending {
                    tracing::info!("the agent is restarted; change {} waits on, its deadline stays", change.id);
                }
                return Ok(Vec::new());
            }
            Err(why) => tracing::info!("{why}; the change that waits for its confirm is rolled back now"),
        }
        let take = |change: ChangeRecord| {
            let id = change.id.clone();
            let taken = change::take_back(&mut *host, &agent.store, change, WHY, &Moment::now());
            Recovered { id, why: WHY, taken }
        };
        Ok(pending.into_iter().map(take).collect())
    });
    record(agent, taken.and_then(|taken: Result<Vec<Recovered>, StoreError>| taken));
}

/// Logs what was taken back, and gives each an audit record: it is no request of anybody's, but people want to know.
fn record(agent: &Agent, recovered: Result<Vec<Recovered>, StoreError>) {
    match recovered {
        Ok(recovered) => {
            for one in recovered {
                tracing::warn!("{one}");
                agent.auditor.note(&agent.store, &agent.identity, one.to_string(), one.outcome());
            }
        }
        Err(error) => tracing::error!("cannot read unfinished changes; retrying: {error}"),
    }
}
