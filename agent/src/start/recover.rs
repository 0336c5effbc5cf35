//! `sshfix-agent recover`: takes back what an earlier boot or a dead agent left unfinished, before sshd starts and also where the
//! agent itself cannot run. Needs nothing but state.db: a broken agent.toml must not keep it from its work. Serves nobody.

use std::path::Path;
use std::sync::Arc;

use crate::audit::{AuditClosing, AuditOpening, Outcome};
use crate::change::stray_bans;
use crate::config::Config;
use crate::host::live::LiveHost;
use crate::store::{Store, StoreError};
use crate::sys::clock::Moment;
use crate::{change, logging};

/// How it ended, for the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing is left unfinished but what waits for its confirm.
    Done,
    /// Something could not be taken back yet; the agent tries it again, and so does each of its starts that fails.
    Left,
}

/// Recovers once. With a configuration that cannot be read, the state and the files are where they are by default.
pub fn recover(agent_toml: &Path) -> Result<Recovery, StoreError> {
    let config = Config::load(agent_toml);
    // Already started where the agent itself calls this.
    let _ = logging::start(config.as_ref().map_or("info", |config| config.log.as_str()));
    let config = config.unwrap_or_else(|error| {
        let config = Config::default();
        tracing::error!("{error}; recovering with the defaults, from {}", config.state.display());
        config
    });
    if !config.state.exists() {
        tracing::info!("there is no {}, so nothing was left unfinished", config.state.display());
        return Ok(Recovery::Done);
    }
    let store = match Store::open(&config.state) {
        Ok(store) => store,
        // It recovers by itself when it starts, and keeps the clock from then on.
        Err(StoreError::InUse(_)) => {
            tracing::info!("an agent is running; it recovers by itself");
            return Ok(Recovery::Done);
        }
        Err(error) => return Err(error),
    };
    let (port, policy) = (config.ssh_port, config.paths.policy.clone());
    let mut host = LiveHost::new(Arc::new(config));
    for one in change::recover(&mut host, &store, &Moment::now())? {
        note(&store, one.to_string(), one.outcome(), one.id);
    }
    for (what, change) in stray_bans::look_once(&mut host, &store, port, &policy)? {
        note(&store, what, Outcome::Confirmed, change);
    }
    Ok(if change::retry_stuck(&mut host, &store, &Moment::now())?.is_empty() { Recovery::Done } else { Recovery::Left })
}

/// Logs and records what was done. The host comes first: what cannot be recorded is done all the same.
fn note(store: &Store, what: String, outcome: Outcome, change: String) {
    tracing::warn!("{what}");
    let closing = AuditClosing { outcome, detail: String::new(), plan: None, change: Some(change) };
    let opened = store.audit_open(&AuditOpening::automatic(what));
    if let Err(error) = opened.and_then(|opened| store.audit_close(opened.seq, &closing)) {
        tracing::error!("the audit record could not be written: {error}");
    }
}
