//! The sshd that listens on the SSH port: which program it is, with which options it runs, what it makes of its configuration,
//! and its public host keys. Reads no private key, and changes nothing here.

mod host_keys;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sshfix_policy::host::Question;
use sshfix_policy::subsystem::listener::speaks_ssh;
use sshfix_policy::subsystem::sshd::{Effective, Invocation};
use thiserror::Error;

use crate::subsystem::listener;
use crate::sys::child::{self, ChildError};

pub use host_keys::host_keys;

/// Where OpenSSH's server is on every distribution.
const SSHD: &str = "/usr/sbin/sshd";
/// `sshd -T` takes some 10 ms.
const LIMIT: Duration = Duration::from_secs(10);
/// It prints some 5 KiB; long access lists print more.
const OUTPUT_MAX: usize = 4 << 20;

/// Why nothing is known of the sshd. Nothing was changed.
#[derive(Debug, Error)]
pub enum SshdError {
    /// Another SSH server, or none.
    #[error("no OpenSSH server listens on port {0}")]
    NotOpenSsh(u16),
    /// Not a program that root may run.
    #[error("{} is not run: {why}", program.display())]
    Program {
        /// Which.
        program: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It could not be run.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// It complained.
    #[error("`{command}` says: {said}")]
    Complains {
        /// The command line.
        command: String,
        /// Its words.
        said: String,
    },
    /// No key that could be read.
    #[error("no public host key of this host can be read: {}", .0.join("; "))]
    NoHostKeys(Vec<String>),
}

/// The sshd behind a port: the process that holds the listening socket, or where systemd holds it, OpenSSH's usual program.
pub fn invocation(port: u16) -> Result<Invocation, SshdError> {
    let question = Question { sources: BTreeSet::new(), port, everybody: false };
    let observed = listener::observe(&question);
    let there = observed.present().into_iter().flat_map(|state| &state.listeners).filter(|socket| socket.local.port() == port);
    let mut held_by_systemd = false;
    for holder in there.flat_map(|socket| &socket.holders) {
        held_by_systemd |= holder.pid == 1;
        let Some(exe) = holder.exe.as_deref().filter(|exe| speaks_ssh(holder) && exe.ends_with("/sshd")) else { continue };
        let title = fs::read(format!("/proc/{}/cmdline", holder.pid)).unwrap_or_default();
        if let Some(invocation) = Invocation::from_title(exe, &title) {
            return Ok(invocation);
        }
    }
    if held_by_systemd { Ok(Invocation::plain(SSHD)) } else { Err(SshdError::NotOpenSsh(port)) }
}

/// The effective configuration for a connection that no Match block but `Match all` matches.
pub fn effective(invocation: &Invocation) -> Result<Effective, SshdError> {
    let output = run(invocation, &["-T"])?;
    Ok(Effective::parse(&output))
}

/// Runs that sshd with its own options and these, which make it print and end.
fn run(invocation: &Invocation, more: &[&str]) -> Result<String, SshdError> {
    let program = Path::new(&invocation.program);
    require_roots(program)?;
    let words: Vec<&str> = more.iter().copied().chain(invocation.options.iter().map(String::as_str)).collect();
    let output = child::run(program, &words, None, LIMIT, OUTPUT_MAX)?;
    if output.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(SshdError::Complains { command: format!("{} {}", invocation.program, words.join(" ")), said })
}

/// The program must be root's, and nobody else's to write.
fn require_roots(program: &Path) -> Result<(), SshdError> {
    let refused = |why: &str| SshdError::Program { program: program.to_owned(), why: why.to_owned() };
    let file = fs::metadata(program).map_err(|error| refused(&error.to_string()))?;
    if !file.is_file() || file.uid() != 0 || file.mode() & 0o022 != 0 {
        return Err(refused("it is not a file of root's that only root can write"));
    }
    Ok(())
}
