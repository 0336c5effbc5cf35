//! `sshfix-agent recover`: takes back what an earlier boot or a dead agent left unfinished, before sshd starts and also where the
//! agent itself cannot run. Needs nothing but state.db: a broken agent.toml must not keep it from its work. Serves nobody.

use std::path::Path;
use std::sync::Arc;

use crate::aftermath;
use crate::audit::{AuditClosing, AuditOpening, Outcome};
use crate::change::{self, Recovered};
use crate::config::Config;
use crate::live::LiveHost;
use crate::logging;
use crate::store::{Store, StoreError};
use crate::sys::clock::Moment;

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
    let port = config.ssh_port;
    let mut host = LiveHost::new(Arc::new(config));
    for one in change::recover(&mut host, &store, &Moment::now())? {
        tracing::warn!("{one}");
        // The host comes first: what cannot be recorded is done all the same.
        if let Err(error) = note(&store, &one) {
            tracing::error!("the audit record could not be written: {error}");
        }
    }
    for what in aftermath::look_once(&mut host, &store, port)? {
        tracing::warn!("{what}");
        let opened = store.audit_open(&AuditOpening::of_itself(&what));
        let closing = AuditClosing { outcome: Outcome::Confirmed, detail: String::new(), plan: None, change: None };
        if let Err(error) = opened.and_then(|opened| store.audit_close(opened.seq, &closing)) {
            tracing::error!("the audit record could not be written: {error}");
        }
    }
    Ok(if change::retry_stuck(&mut host, &store, &Moment::now())?.is_empty() { Recovery::Done } else { Recovery::Left })
}

fn note(store: &Store, one: &Recovered) -> Result<(), StoreError> {
    let opened = store.audit_open(&AuditOpening::of_itself(one.to_string()))?;
    let closing = AuditClosing { outcome: one.outcome(), detail: String::new(), plan: None, change: Some(one.id.clone()) };
    store.audit_close(opened.seq, &closing).map(|_| ())
}
