//! Leases: allows that end by themselves. Their end is on disk before they begin, and removes exactly what they added.
//! Must not decide what is added: that is the plan's.

use std::time::Duration;

use jiff::Timestamp;
use sshfix_policy::host::{Done, Host, StepError};

use crate::pipeline::{self, Agent};

/// How often due leases are looked for.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// Ends every lease that is due, also those that came due while the agent was not running. One that cannot be ended now is
/// tried again at the next call; the reason is logged.
pub fn end_due(agent: &Agent) {
    let due = match agent.store.leases_due(Timestamp::now()) {
        Ok(due) => due,
        Err(error) => {
            tracing::error!("the leases could not be read; none was ended: {error}");
            return;
        }
    };
    for lease in due {
        let mut host = pipeline::lock(&agent.host);
        let mut ended = true;
        for step in &lease.steps {
            match host.apply(step) {
                Ok(Done::Changed | Done::Already) => {}
                Err(StepError::Drifted(why)) => {
                    tracing::warn!(
                        lease = lease.id,
                        "what the lease added is not there any more as it was added; left as it is: {why}"
                    );
                }
                Err(error) => {
                    tracing::error!(lease = lease.id, "the lease could not be ended; it is tried again: {error}");
                    ended = false;
                }
            }
        }
        if ended {
            match agent.store.lease_end(&lease.id, Timestamp::now()) {
                Ok(()) => tracing::info!(lease = lease.id, "lease ended: {}", lease.summary),
                Err(error) => tracing::error!(lease = lease.id, "the end of the lease could not be recorded: {error}"),
            }
        }
    }
}
