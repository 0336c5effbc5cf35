//! `sshfix-agent run`: puts the agent together, takes up what a crash left behind, serves until it is told to stop.
//! Decides nothing about requests.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use thiserror::Error;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::agent::Agent;
use crate::audit::{self, AuditClosing, AuditOpening, Outcome};
use crate::change::deadline::{self, Clock};
use crate::change::restart::Start;
use crate::change::{lease, stray_bans};
use crate::config::{Config, ConfigError};
use crate::identity::{Identity, IdentityError};
use crate::logging::{self, LogError};
use crate::request::serve::serve;
use crate::start::listen::{self, ListenError};
use crate::start::recover;
use crate::store::{Store, StoreError};
use crate::subsystem::sshd;
use crate::sys::{descriptors, peers};
use crate::watchdog::{self, notify};

/// How long the end waits for threads after the last connection is closed.
const END_TIME: Duration = Duration::from_secs(5);

/// How often it is looked whether the ruleset changed: one small message.
const AHEAD: Duration = Duration::from_secs(1);
/// Reading it ahead takes at most one part of so many of the time, however large it is and often it changes.
const AHEAD_SHARE: u32 = 100;

/// Threads for requests and for what the agent does by itself. Turns bound them to half of that; a unit has `TasksMax=`.
const MAX_THREADS: usize = 64;
/// Descriptors for everything but connections: state.db, what is read for one question on each line, programs that run.
const MAX_OTHER_FILES: usize = 128;

/// Overrides `socket.path` of agent.toml.
pub const SOCKET_VARIABLE: &str = "SSHFIX_SOCKET";

/// Why the agent does not run.
#[derive(Debug, Error)]
pub enum RunError {
    /// agent.toml.
    #[error("{0}; `sshfix-agent init` makes a missing one, `sshfix-agent check` shows all that is wrong")]
    Config(#[from] ConfigError),
    /// The log filter.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The agent's own key.
    #[error("{0}; `sshfix-agent init` makes a missing one")]
    Identity(#[from] IdentityError),
    /// state.db.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Threads, signals.
    #[error("the agent could not start to serve: {0}")]
    Start(#[from] io::Error),
}

/// Runs until SIGTERM or SIGINT; a change that is being made comes to its end first.
pub fn run(agent_toml: &Path) -> Result<(), RunError> {
    let start = Start::now(agent_toml)?;
    let mut config = match Config::load(agent_toml) {
        Ok(config) => config,
        // Nobody else would take back what is not confirmed in time: systemd starts us again and again, so each try does.
        Err(error) => {
            let recovered = recover::recover(agent_toml);
            tracing::info!("the agent cannot start, but has looked for unfinished changes: {recovered:?}");
            return Err(error.into());
        }
    };
    if let Some(path) = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()) {
        config.socket.path = path.into();
    }
    logging::start(&std::env::var(logging::VARIABLE).unwrap_or_else(|_| config.log.clone()))?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(MAX_THREADS).enable_all().build()?;
    // Before anything is looked at: who is told to stop while it recovers must come to the end of `run`, too.
    let (mut term, mut int) = {
        let _within = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    descriptors::keep_back();
    fit(&mut config);
    let config = Arc::new(config);
    let identity = Identity::load(&config.paths.identity)?;
    let store = Store::open(&config.state)?;
    let mut listening = listen::listen(&config.socket)?;
    store.bound(config.limits.state_bytes());
    keep_room(&store);
    let agent = Arc::new(Agent::new(config, identity, store));
    sshd::clear_copies();
    peers::allow_own();
    sshd::put_ports_back();
    recover(&agent);
    let clock = Clock::start(Arc::clone(&agent))?;

    let served = runtime.block_on(async {
        let Some(listener) = listening.listener.take() else { return Ok(()) };
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            host = agent.identity.fingerprint(),
            "listening on {}",
            listening.place
        );
        notify(NotifyState::Ready);
        let stop = async {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            tracing::info!("stopping; requests in progress finish first");
            notify(NotifyState::Stopping);
        };
        let limits = agent.config.limits.clone();
        tokio::select! {
            () = serve(listener, Arc::clone(&agent), limits, stop) => {}
            () = keep_leases(Arc::clone(&agent)) => {}
            () = keep_audit(Arc::clone(&agent)) => {}
            () = keep_aftermath(Arc::clone(&agent)) => {}
            () = read_ahead(Arc::clone(&agent)) => {}
            () = watchdog::feed(Arc::clone(&agent)) => {}
        }
        Ok(())
    });
    // What still runs on a thread is a lease that is being ended, or a request that serve gave up on.
    runtime.shutdown_timeout(END_TIME);
    drop(clock);
    // Without an agent there is nobody to keep the deadline.
    deadline::stop(&agent, &start);
    agent.auditor.end(&agent.store, &agent.identity);
    served
}

/// Takes no more connections than this process may have descriptors for.
fn fit(config: &mut Config) {
    let Some(usable) = descriptors::usable() else { return };
    let (limits, room) = (&mut config.limits, usable.saturating_sub(MAX_OTHER_FILES));
    if limits.bounds().most() > room {
        // At least one connection of two users and of root: fewer would serve nobody.
        let of_one = (room / 8).clamp(1, limits.connections_per_user);
        let all = room.saturating_sub(2 * of_one).clamp(2, limits.connections);
        tracing::warn!("this process may have few open files (LimitNOFILE=): {all} connections at most, {of_one} of one user");
        (limits.connections, limits.connections_per_user) = (all, of_one);
    }
}

/// What the last run left unfinished: a change that was interrupted or not confirmed in time is taken back, one that still waits
/// goes on waiting, and audit records get their end.
fn recover(agent: &Agent) {
    deadline::recover(agent);
    let closing = AuditClosing {
        outcome: Outcome::Interrupted,
        detail: "the agent ended before it could record the outcome".to_owned(),
        plan: None,
        change: None,
    };
    let closed = agent.store.audit_open_records().map(|open| {
        for seq in open {
            agent.auditor.close(&agent.store, &agent.identity, &AuditOpening::default(), seq, closing.clone());
        }
    });
    if let Err(error) = closed {
        tracing::error!("audit records of the last run could not be closed: {error}");
    }
}

/// Does something again and again on a thread that may wait, for ever; `what` names it where it fails. The first time is at once.
async fn every(period: Duration, what: &str, look: impl Fn() + Send + Sync + 'static) {
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let look = Arc::new(look);
    loop {
        tick.tick().await;
        let look = Arc::clone(&look);
        if let Err(error) = tokio::task::spawn_blocking(move || look()).await {
            tracing::error!("{what} failed inside the agent; retrying: {error}");
        }
    }
}

/// Room on the disk for a rollback; where there is none, no change begins.
fn keep_room(store: &Store) {
    if let Err(error) = store.keep_room() {
        tracing::warn!(
            "no disk space is reserved beside {} for rollbacks, so no change is begun: {error}",
            store.path().display()
        );
    }
}

/// Writes down refusals that were only counted and signs the audit records now and then.
async fn keep_audit(agent: Arc<Agent>) {
    let look = move || {
        agent.auditor.upkeep(&agent.store, &agent.identity);
        agent.auditor.sum_up(&agent.store, &agent.identity, agent.config.limits.question_record_age());
        keep_room(&agent.store);
    };
    every(audit::INTERVAL, "keeping the audit records", look).await;
}

/// Ends leases on time, also those that came due while nobody ran.
async fn keep_leases(agent: Arc<Agent>) {
    let keeper = Mutex::new(lease::Keeper::default());
    let look = move || keeper.lock().unwrap_or_else(PoisonError::into_inner).look(&agent);
    every(lease::INTERVAL, "looking at the leases", look).await;
}

/// Lifts the bans that changes earned which were taken back.
async fn keep_aftermath(agent: Arc<Agent>) {
    let keeper = Mutex::new(stray_bans::Keeper::default());
    let look = move || keeper.lock().unwrap_or_else(PoisonError::into_inner).look(&agent);
    every(stray_bans::INTERVAL, "looking for bans that a change caused", look).await;
}

/// Reads the rules that others changed before somebody asks about them: the dump of a chain of 20,000 takes the kernel longer than
/// all else of an answer.
async fn read_ahead(agent: Arc<Agent>) {
    loop {
        let agent = Arc::clone(&agent);
        let started = Instant::now();
        let read = move || {
            // Whoever asks is reading it now.
            if let Some(mut reader) = agent.reader.try_lock() {
                reader.read_ahead();
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(read).await {
            tracing::error!("reading the ruleset ahead failed inside the agent; retrying: {error}");
        }
        sleep(AHEAD.max(started.elapsed() * AHEAD_SHARE)).await;
    }
}
