//! What the agent holds while it runs: its settings, its key, its records, and the host behind two lines of turns. Decides nothing.

use std::sync::Arc;

use crate::audit::Auditor;
use crate::config::Config;
use crate::host::live::LiveHost;
use crate::identity::Identity;
use crate::request::places::Lines;
use crate::store::Store;
use crate::turns::InTurns;

/// Everything a request needs of the agent.
pub struct Agent {
    /// agent.toml.
    pub config: Arc<Config>,
    /// The key that signs replies; its fingerprint is the host identity.
    pub identity: Identity,
    /// Requests seen, audit records, journal, leases.
    pub store: Store,
    /// Keeps the audit records.
    pub auditor: Auditor,
    /// The host, to change it. Whoever has the turn is the one writer.
    pub host: InTurns<LiveHost>,
    /// The host, to look at it: questions never keep a change, nor its rollback, waiting.
    pub reader: InTurns<LiveHost>,
    /// Where requests wait that need no host.
    pub lines: Lines,
}

impl Agent {
    /// One that has done nothing yet.
    pub fn new(config: Arc<Config>, identity: Identity, store: Store) -> Self {
        let host = || {
            let host = LiveHost::new(Arc::clone(&config));
            let pulse = host.pulse();
            InTurns::new(host, config.limits.requests, pulse)
        };
        let (host, reader, lines) = (host(), host(), Lines::new(&config.limits));
        Self { config, identity, store, auditor: Auditor::default(), host, reader, lines }
    }
}
