//! Tells systemd that the agent lives (`WatchdogSec=` of its unit), only while it does: both turns at the host come to an end or their
//! holder's work goes on, and state.db answers. Else systemd starts the agent anew, and recovery keeps the deadlines. Ends nothing itself.

use crate::agent::Agent;
use std::future;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{interval, timeout};

/// The longest that anything takes that is done for a change before the next sign of life: a restart of sshd whose job, sockets and key
/// exchange all take as long as they may, with host keys made anew.
const CHANGE_TIME: Duration = Duration::from_mins(5);
/// How long a reader may go without one after its question's own time.
const READ_TIME: Duration = Duration::from_mins(1);
/// How long state.db may take to answer. Its writers wait for the disk.
const STATE_TIME: Duration = Duration::from_secs(10);

/// Feeds it, where systemd asks for it; else waits for ever.
pub(crate) async fn feed(agent: Arc<Agent>) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return future::pending().await;
    };
    #[cfg(debug_assertions)]
    lab::start(Arc::clone(&agent));
    let mut tick = interval(limit / 4);
    loop {
        tick.tick().await;
        match health(&agent).await {
            Ok(()) => notify(NotifyState::Watchdog),
            Err(why) => tracing::error!("the agent is stuck; systemd restarts it unless it goes on: {why}"),
        }
    }
}

async fn health(agent: &Arc<Agent>) -> Result<(), String> {
    let change_time = CHANGE_TIME;
    #[cfg(debug_assertions)]
    let change_time = lab::change_time().unwrap_or(change_time);
    let read_time = agent.config.limits.question_time() + READ_TIME;
    for (name, line, time) in
        [("to change the host", agent.host.line(), change_time), ("to read the host", agent.reader.line(), read_time)]
    {
        if let Some(why) = line.stuck(time) {
            return Err(format!("a turn {name} does not end: {why}"));
        }
    }
    let asked = Arc::clone(agent);
    // An error is an answer, too: it is not one of the agent's own locks.
    let state = tokio::task::spawn_blocking(move || asked.store.audit_head().is_ok());
    timeout(STATE_TIME, state).await.map(|_| ()).map_err(|_| format!("state.db did not answer in {STATE_TIME:?}"))
}

/// Says something to systemd, where it listens.
pub(crate) fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("systemd could not be notified: {error}");
    }
}

/// Debug builds only: what the lab's tests need to have the agent stuck.
#[cfg(debug_assertions)]
mod lab {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use crate::agent::Agent;

    /// While it is there the turn to change the host is taken and kept. Holds the seconds after which that counts as stuck.
    const KEEP: &str = "/run/sshfix/keep-turn";
    /// Written once it is kept.
    const KEPT: &str = "/run/sshfix/kept-turn";
    const TICK: Duration = Duration::from_millis(100);

    pub(super) fn change_time() -> Option<Duration> {
        fs::read_to_string(KEEP).ok()?.trim().parse().ok().map(Duration::from_secs)
    }

    pub(super) fn start(agent: Arc<Agent>) {
        thread::spawn(move || {
            loop {
                if Path::new(KEEP).exists() {
                    let _host = agent.host.lock();
                    let _ = fs::write(KEPT, "");
                    while Path::new(KEEP).exists() {
                        thread::sleep(TICK);
                    }
                }
                thread::sleep(TICK);
            }
        });
    }
}
