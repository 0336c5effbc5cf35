//! Whether the agent comes back after it was told to stop, so that what waits for its confirm can go on waiting. Any doubt is a no:
//! who waits in vain for a rollback is locked out.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::sys::child::{self, ChildError};
use crate::sys::dbus::{self, DbusError};

/// For `sshfix-agent check`, which also follows the audit records: some hundred thousand take so long.
const LIMIT: Duration = Duration::from_secs(10);
/// The most that it may say.
const MOST_OUTPUT: usize = 64 * 1024;

/// Why nobody would be there at the deadline.
#[derive(Debug, Error)]
pub enum Stays {
    /// systemd does something else, or nothing: the signal came from somebody else.
    #[error("the agent is not being restarted ({})", .0.as_deref().map_or("systemd has no job for it".to_owned(), |job| format!("systemd's job is `{job}`")))]
    Job(Option<String>),
    /// systemd cannot be asked, or there is none.
    #[error("it is unknown whether the agent is being restarted: {0}")]
    Systemd(#[from] DbusError),
    /// It does not run.
    #[error("what would be started cannot be checked: {0}")]
    Check(#[from] ChildError),
    /// It finds something wrong, or is no such program any more.
    #[error("what would be started does not pass `sshfix-agent check`: {0}")]
    Wrong(String),
}

/// What this process was started as, and what a restart starts again.
#[derive(Clone, Debug)]
pub struct Start {
    program: PathBuf,
    agent_toml: PathBuf,
}

impl Start {
    /// To be called early: where the file is moved later on, its new path is not what a restart starts.
    pub fn now(agent_toml: &Path) -> io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, agent_toml: agent_toml.to_owned() })
    }

    /// systemd restarts our unit, and the program that it starts (after an upgrade another one) runs and takes its configuration.
    pub fn comes_again(&self) -> Result<(), Stays> {
        match dbus::own_job()? {
            // `try-restart` becomes one of a running unit, and so does what a restart of sshfix-agent.socket asks for.
            Some(job) if job == "restart" => {}
            other => return Err(Stays::Job(other)),
        }
        let arguments: [&OsStr; 3] = ["check".as_ref(), "--config".as_ref(), self.agent_toml.as_os_str()];
        let check = child::run(&self.program, &arguments, None, LIMIT, MOST_OUTPUT)?;
        if check.success() {
            return Ok(());
        }
        let said = [check.stdout, check.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let wrong = said.lines().filter(|line| !line.starts_with("ok "));
        let wrong = wrong.map(|line| line.strip_prefix("WRONG").unwrap_or(line).trim()).collect::<Vec<_>>();
        Err(Stays::Wrong(wrong.join("; ")))
    }
}
