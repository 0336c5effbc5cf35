//! The sshd that listens on the SSH port: which program it is, with which options it runs, what it makes of its configuration,
//! and its public host keys. Reads no private key, and changes nothing here.

mod account;
mod apply;
mod faillock;
mod files;
mod host_keys;
mod journal;
mod lookup;
mod manager;
mod power;
mod repair;
mod running;
mod serves;
mod shadow;
mod unit;
mod version;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use sshfix_policy::host::{Part, Question};
use sshfix_policy::subsystem::listener::{self as listener_model, speaks_ssh};
use sshfix_policy::subsystem::sshd::{Effective, Invocation, Login, PRIVSEP, Server, State};
use thiserror::Error;

use crate::subsystem::listener;
use crate::sys::child::{self, ChildError};
use crate::sys::dbus;

pub use apply::{apply, restore};
pub use host_keys::host_keys;
pub use journal::logged_in_before;
pub use lookup::{lookup, server};
pub use repair::apply as repair;
pub use shadow::clear_copies;
pub use version::Versions;

/// Where OpenSSH's server is on every distribution.
const SSHD: &str = "/usr/sbin/sshd";
/// How long a service that is restarted may be seen as stopped: between its end and its start.
const STOPPED: Duration = Duration::from_millis(50);
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

/// The sshd on a port, and the title of its process where one listens.
pub(super) struct Found {
    invocation: Invocation,
    /// Its own process, or systemd for its socket, holds the port.
    running: bool,
    title: Option<Vec<u8>>,
}

/// The sshd behind a port: the process that holds the listening socket; where systemd or nobody does, what the unit would start.
pub fn invocation(port: u16) -> Result<Invocation, SshdError> {
    let question = Question { sources: BTreeSet::new(), port, everybody: false };
    match listener::observe(&question) {
        Part::Present(state) => match settled(&state, port)? {
            (_, Found { running: true, invocation, .. }) => Ok(invocation),
            (_, Found { running: false, .. }) => Err(SshdError::NotOpenSsh(port)),
        },
        Part::Absent(_) | Part::Unreadable(_) => Err(SshdError::NotOpenSsh(port)),
    }
}

pub(super) fn find(state: &listener_model::State, port: u16) -> Result<Found, SshdError> {
    let there: Vec<_> = state.listeners.iter().filter(|socket| socket.local.port() == port).collect();
    let mut held_by_systemd = false;
    for holder in there.iter().flat_map(|socket| &socket.holders) {
        held_by_systemd |= holder.pid == 1;
        let Some(exe) = holder.exe.as_deref().filter(|exe| speaks_ssh(holder) && exe.ends_with("/sshd")) else { continue };
        let title = fs::read(format!("/proc/{}/cmdline", holder.pid)).unwrap_or_default();
        if let Some(invocation) = Invocation::from_title(exe, &title) {
            return Ok(Found { invocation, running: true, title: Some(title) });
        }
    }
    // Somebody else's port.
    if !there.is_empty() && !held_by_systemd {
        return Err(SshdError::NotOpenSsh(port));
    }
    let invocation = unit::invocation(state).unwrap_or_else(|| Invocation::plain(SSHD));
    Ok(Found { invocation, running: held_by_systemd, title: None })
}

/// The same, once it can be told: of an sshd that opens its sockets the process may be gone when it is looked at, or have no title yet
/// (sshd.c, `server_accept_loop`). With what was seen last.
pub(super) fn settled(state: &listener_model::State, port: u16) -> Result<(listener_model::State, Found), SshdError> {
    let until = Instant::now() + listener::REOPENS;
    let mut seen = state.clone();
    loop {
        let mut holders = seen.listeners.iter().filter(|socket| socket.local.port() == port).flat_map(|socket| &socket.holders);
        let somebody_elses =
            !holders.all(|holder| speaks_ssh(holder) && holder.exe.as_deref().is_none_or(|exe| exe.ends_with("/sshd")));
        match find(&seen, port) {
            Ok(found) => return Ok((seen, found)),
            Err(error) if somebody_elses || Instant::now() > until => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
        if let Part::Present(again) = listener::observe(&Question { sources: BTreeSet::new(), port, everybody: false }) {
            seen = again;
        }
    }
}

/// The port of an sshd that was looked at and whose files are not as they were then.
pub fn drifted(read: &State) -> Option<u16> {
    let is_other = |server: &Part<Server>| match server {
        Part::Present(server) => server.tree.is_ok() && files::tree(server.invocation.file()) != server.tree,
        Part::Absent(_) | Part::Unreadable(_) => false,
    };
    read.servers.iter().find(|(_, server)| is_other(server)).map(|(port, _)| *port)
}

/// The effective configuration for a connection that no Match block but `Match all` matches.
pub fn effective(invocation: &Invocation) -> Result<Effective, SshdError> {
    let output = match run(invocation, &["-T"]) {
        // Of all criteria only this one has no "not known" of its own (servconf.c, `match_cfg_line`): it gets a port that nobody names.
        Err(SshdError::Complains { said, .. }) if said.contains("'lport' not in connection test") => {
            run(invocation, &["-T", "-C", "lport=1"])?
        }
        output => output?,
    };
    Ok(Effective::parse(&output))
}

/// What it makes of its configuration for one login. The fields were checked when the login was made.
fn effective_for(invocation: &Invocation, login: &Login) -> Result<Effective, SshdError> {
    let Login { address, local_address, local_port, .. } = login;
    let user = login.user();
    let test = format!("user={user},host={address},addr={address},laddr={local_address},lport={local_port}");
    let output = run(invocation, &["-T", "-C", &test])?;
    Ok(Effective::parse(&output))
}

/// Whether it would start with its files as they are: `sshd -t`.
fn test(invocation: &Invocation) -> Result<(), SshdError> {
    run(invocation, &["-t"]).map(|_| ())
}

/// What `sshd -t` says, whether it takes the files or not.
fn complaints(invocation: &Invocation) -> Vec<String> {
    let program = Path::new(&invocation.program);
    if require_roots(program).is_err() {
        return Vec::new();
    }
    let words: Vec<&str> = std::iter::once("-t").chain(invocation.options.iter().map(String::as_str)).collect();
    let said = child::run(program, &words, None, LIMIT, OUTPUT_MAX).map(|output| output.stderr).unwrap_or_default();
    String::from_utf8_lossy(&said).lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// The same, and its configuration for everybody: `-T` does all that `-t` does, and then prints (sshd.c, `main`, `test_flag`). Only where it
/// fails is it asked which of the two does.
fn examine(invocation: &Invocation) -> (Result<(), SshdError>, Result<Effective, SshdError>) {
    match effective(invocation) {
        Ok(effective) => (Ok(()), Ok(effective)),
        Err(error) => (test(invocation), Err(error)),
    }
}

/// Runs that sshd with its own options and these, which make it print and end. systemd takes its directory away with the service and
/// makes it again at the next start (systemd.exec(5), `RuntimeDirectory`): amid a restart sshd is asked again.
fn run(invocation: &Invocation, more: &[&str]) -> Result<String, SshdError> {
    let until = Instant::now() + listener::REOPENS;
    loop {
        match run_once(invocation, more) {
            Err(SshdError::Complains { said, .. })
                if said.contains("Missing privilege separation directory") && Instant::now() < until && comes_back(until) => {}
            answer => return answer,
        }
    }
}

/// Whether the directory is there again; it is waited for while a service of sshd changes its state.
fn comes_back(until: Instant) -> bool {
    let gap = Instant::now() + STOPPED;
    loop {
        if Path::new(PRIVSEP).exists() {
            return true;
        }
        let units = dbus::units(&listener_model::UNITS).unwrap_or_default();
        let changes = units.iter().any(listener_model::Unit::is_changing_service);
        if Instant::now() > if changes { until } else { gap } {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn run_once(invocation: &Invocation, more: &[&str]) -> Result<String, SshdError> {
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
