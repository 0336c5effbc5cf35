//! Where the log goes: to the journal when there is one, else to stderr. Says nothing itself.

use std::io::{self, IsTerminal};

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Overrides `log` of agent.toml.
pub const VARIABLE: &str = "SSHFIX_LOG";

/// The filter is not one, or the log was started before.
#[derive(Debug, Error)]
pub enum LogError {
    /// Not as `RUST_LOG` writes it.
    #[error("`{filter}` is not a log filter such as `info` or `sshfix_agent=debug`: {why}")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong.
        why: String,
    },
    /// Started twice.
    #[error("the log could not be started: {0}")]
    Started(String),
}

/// Reads a filter as `RUST_LOG` writes it.
pub fn filter(text: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(text).map_err(|e| LogError::Filter { filter: text.to_owned(), why: e.to_string() })
}

/// Starts the log with this filter. A person at a terminal sees it too. What a person needs must be in the message itself:
/// `journalctl` does not print fields.
pub fn start(text: &str) -> Result<(), LogError> {
    let journal = tracing_journald::layer()
        .ok()
        .map(|layer| layer.with_syslog_identifier("sshfix-agent".to_owned()).with_field_prefix(Some("SSHFIX".to_owned())));
    let is_terminal = io::stderr().is_terminal();
    let stderr = (journal.is_none() || is_terminal)
        .then(|| tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(is_terminal).with_target(false));
    // Audit records are no log: they reach the journal whatever is logged besides.
    let audit = "sshfix_audit=info".parse().map_err(|e| LogError::Started(format!("{e}")))?;
    tracing_subscriber::registry()
        .with(filter(text)?.add_directive(audit))
        .with(journal)
        .with(stderr)
        .try_init()
        .map_err(|e| LogError::Started(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_named() {
        assert!(filter("info,sshfix_agent=debug").is_ok());
        let error = filter("sshfix_agent=loud").map(|_| ()).map_err(|e| e.to_string());
        assert!(error.is_err_and(|message| message.contains("sshfix_agent=loud")));
    }
}
