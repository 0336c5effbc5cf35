//! The sshd that listens on the SSH port: which program it is, with which options it runs, what it makes of its configuration,
//! and its public host keys. Reads no private key, and changes nothing here.

mod account;
mod apply;
mod ends;
mod faillock;
mod files;
mod host_keys;
mod journal;
mod kept;
mod lookup;
mod manager;
mod pid_file;
mod ports;
mod power;
mod repair;
mod running;
mod serves;
mod shadow;
mod told;
mod unit;
mod unread;
mod users;
mod value_files;
mod version;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use sshfix_policy::host::{Part, Question};
use sshfix_policy::subsystem::listener::{self as listener_model, is_sshd};
use sshfix_policy::subsystem::sshd::{Effective, Folder, Invocation, Login, PRIVSEP, Server, State};
use thiserror::Error;

use crate::subsystem::listener;
use crate::sys::child::{self, ChildError};
use crate::sys::{dbus, roots};

pub use apply::{apply, edited_since, restore};
pub use host_keys::host_keys;
pub use lookup::{key_files, lookup, server};
pub use ports::put_back as put_ports_back;
pub use repair::{apply as repair, here as repair_here};
pub use shadow::clear_copies;
pub use told::{has_unseen, hold_for, tell_again};
pub use users::Users;
pub use version::Versions;

/// Where OpenSSH's server is on every distribution.
const SSHD: &str = "/usr/sbin/sshd";
/// How long a service that is restarted may be seen as stopped: between its end and its start.
const STOPPED: Duration = Duration::from_millis(50);
/// How long the title of an sshd may differ from its unit: while it is restarted with other options.
const AGREES: Duration = Duration::from_millis(300);
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
    /// Others than root decide what it reads.
    #[error("sshd is not asked about its files, because one of them is not root's alone, or not seen as sshd sees it: {0}")]
    NotRoots(String),
    /// The unit was changed since, or it was started by hand in the unit's place.
    #[error(
        "sshd (pid {pid}) runs with other options than {unit} has now, so it is not known what it does: `systemctl restart {unit}`"
    )]
    Options {
        /// The process.
        pid: u32,
        /// The unit.
        unit: String,
    },
    /// Its options are not known.
    #[error("the options of sshd (pid {0}) are not known: its title does not say them")]
    NoTitle(u32),
    /// Nobody listens, and what systemd would start could not be read.
    #[error("no sshd runs, and what systemd would start is not known: {0}")]
    Down(String),
    /// What runs could not be read.
    #[error("which sshd serves the port is not known: {0}")]
    Unread(String),
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
    /// The id of that process and its root folder, where it is not systemd.
    process: Option<(u32, OwnedFd)>,
}

/// The sshd behind a port: the process that holds the listening socket; where systemd or nobody does, what the unit would start.
pub fn invocation(port: u16) -> Result<Invocation, SshdError> {
    let question = Question { sources: BTreeSet::new(), port, everybody: false };
    match listener::observe(&question) {
        Part::Present(state) => match settled(&state, port)? {
            (_, Found { running: true, invocation, .. }) => Ok(invocation),
            (_, Found { running: false, .. }) => Err(SshdError::NotOpenSsh(port)),
        },
        Part::Absent(why) | Part::Unreadable(why) => Err(SshdError::Unread(why)),
    }
}

pub(super) fn find(state: &listener_model::State, port: u16) -> Result<Found, SshdError> {
    let there: Vec<_> = state.listeners.iter().filter(|socket| socket.local.port() == port).collect();
    let holders = || there.iter().flat_map(|socket| &socket.holders);
    let mut untitled = None;
    for holder in holders().filter(|holder| is_sshd(holder)) {
        let sshd = listener::sshd(holder.pid).map_err(|error| SshdError::Unread(error.to_string()))?;
        let Some(sshd) = sshd else { continue };
        let Some(titled) = Invocation::from_title(&sshd.program, &sshd.title) else {
            untitled = Some(holder.pid);
            continue;
        };
        // A title is text of the process's own. Where a unit runs it, both must say the same, and the unit's words count: in a title
        // they are joined by blanks. Without a unit a proven process of root's speaks for itself.
        let service = sshd.unit.filter(|unit| unit.ends_with(".service"));
        let started = service.as_deref().map_or(Ok(None), unit::of_service).map_err(SshdError::Unread)?;
        let invocation = match (started, service) {
            (Some(started), _) if started.options.join(" ") == titled.options.join(" ") => {
                Invocation { options: started.options, ..titled }
            }
            (Some(_), Some(unit)) => return Err(SshdError::Options { pid: holder.pid, unit }),
            (Some(_) | None, _) => titled,
        };
        return Ok(Found { invocation, running: true, title: Some(sshd.title), process: Some((holder.pid, sshd.root)) });
    }
    if let Some(pid) = untitled {
        return Err(SshdError::NoTitle(pid));
    }
    let held_by_systemd = holders().any(|holder| holder.pid == 1);
    // Somebody else's port.
    if !there.is_empty() && !held_by_systemd {
        return Err(SshdError::NotOpenSsh(port));
    }
    let unread = if there.is_empty() { SshdError::Down } else { SshdError::Unread };
    let invocation = unit::invocation(state).map_err(unread)?.unwrap_or_else(|| Invocation::plain(SSHD));
    Ok(Found { invocation, running: held_by_systemd, title: None, process: None })
}

/// The same, once it can be told: of an sshd that opens its sockets the process may be gone when it is looked at, or have no title yet
/// (sshd.c, `server_accept_loop`). With what was seen last. Nobody waits for a process that is no sshd.
pub(super) fn settled(state: &listener_model::State, port: u16) -> Result<(listener_model::State, Found), SshdError> {
    let begun = Instant::now();
    let mut was_one = false;
    let mut seen = state.clone();
    loop {
        let holders = || seen.listeners.iter().filter(|socket| socket.local.port() == port).flat_map(|socket| &socket.holders);
        // Amid restarts a look may find the socket of one that has just ended.
        was_one |= holders().any(is_sshd) || holders().next().is_none() && !listener::is_of_others(port);
        match find(&seen, port) {
            Ok(found) => return Ok((seen, found)),
            Err(error) => {
                let wait = if matches!(error, SshdError::Options { .. }) { AGREES } else { listener::REOPENS };
                if !was_one || begun.elapsed() > wait {
                    return Err(error);
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        if let Part::Present(again) = listener::observe(&Question { sources: BTreeSet::new(), port, everybody: false }) {
            seen = again;
        }
    }
}

/// The port of an sshd that was looked at and whose files are not as they were then.
pub fn drifted(read: &State) -> Option<u16> {
    let is_other = |server: &Part<Server>| match server {
        Part::Present(Server { tree: Ok(then), invocation, .. }) => match files::tree(invocation.file()) {
            Ok(now) => (&now.main, &now.files, &now.includes) != (&then.main, &then.files, &then.includes),
            Err(_) => true,
        },
        Part::Present(Server { tree: Err(_), .. }) | Part::Absent(_) | Part::Unreadable(_) => false,
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
    let (user, local_port) = (login.user(), login.local_port);
    let (address, local_address) = login.texts();
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
    let words: Vec<&str> = std::iter::once("-t").chain(invocation.options.iter().map(String::as_str)).collect();
    let said = execute(invocation, &words).map(|output| output.stderr).unwrap_or_default();
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
    let words: Vec<&str> = more.iter().copied().chain(invocation.options.iter().map(String::as_str)).collect();
    let output = execute(invocation, &words)?;
    if output.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(SshdError::Complains { command: format!("{} {}", invocation.program, words.join(" ")), said })
}

/// Runs the program from the descriptor of the file that was looked at, and only where all that it reads is root's: what it prints and
/// what it complains about is text of its files.
fn execute(invocation: &Invocation, words: &[&str]) -> Result<child::Output, SshdError> {
    let path = Path::new(&invocation.program);
    let refused = |error: roots::RootsError| SshdError::Program { program: path.to_owned(), why: error.to_string() };
    let program = roots::program(path).map_err(refused)?;
    // Where it cannot be read, sshd says why.
    let _tree = files::trusted(invocation).map_err(SshdError::NotRoots)?;
    Ok(child::run_open(program.file.as_fd(), path, words, LIMIT, OUTPUT_MAX)?)
}

/// The directory of [`PRIVSEP`], as sshd.c asks for it: root's, and nobody else's to write.
fn privsep() -> io::Result<Folder> {
    Ok(match fs::metadata(PRIVSEP) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Folder::Missing,
        Err(error) => return Err(error),
        Ok(folder) if !folder.is_dir() => Folder::Missing,
        Ok(folder) if folder.uid() != 0 || folder.permissions().mode() & 0o022 != 0 => {
            Folder::Wrong { uid: folder.uid(), mode: folder.permissions().mode() & 0o7777 }
        }
        Ok(_) => Folder::Good,
    })
}
