//! Answers what the stages of sshd ask, one fact at a time. What is kept from one question to the
//! next, `kept`, `journal` and `version` keep.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::thread;

use nix::sys::signal::Signal;
use sshfix_policy::host::{HostState, Part, Question};
use sshfix_policy::subsystem::listener::{self as listener_model, is_sshd};
use sshfix_policy::subsystem::sshd::config::{Document, Tree};
use sshfix_policy::subsystem::sshd::{
    Account, Answer, Candidate, HostKey, Invocation, KeyFile, KeyProblem, Manager, Need, PRIVSEP, RevokedKeys, RootFolder,
    Server, Startups, host_key_paths, listens as sockets_of, revoked_keys,
};

use super::shadow::Shadow;
use super::users::Program;
use super::version::Sound;
use super::{
    Found, SshdError, Users, Versions, account, effective_for, examine, faillock, files, host_keys, journal, kept, manager,
    pid_file::Mark, power, privsep, running, settled, unread, value_files,
};
use crate::subsystem::listener;
use crate::sys::files::FileError;
use crate::sys::view;

/// The longest file of revoked keys.
const REVOKED_MAX: u64 = 16 << 20;
/// The OpenSSH from which on the process that listens reads the host keys, once, and not each connection's.
const KEYS_ARE_KEPT: (u16, u16) = (9, 8);

/// Puts one fact into the state.
pub fn lookup(state: &mut HostState, need: &Need, versions: &mut Versions, users: &mut Users) {
    match need {
        Need::Server(port) => {
            let server = server(&state.listener, *port, versions);
            state.sshd.servers.insert(*port, server);
        }
        Need::Login(login) => {
            let answer = match state.sshd.servers.get(&login.server) {
                Some(Part::Present(server)) => match &server.effective {
                    Ok(for_everybody) if server.same_for_everybody() => Ok(for_everybody.clone()),
                    _ => effective_for(&server.invocation, login).map_err(|error| error.to_string()),
                },
                _ => Err("there is no sshd".to_owned()),
            };
            state.sshd.logins.insert(login.clone(), answer);
        }
        Need::Account(user) => _ = state.sshd.accounts.insert(user.clone(), account::account(users, user)),
        Need::KeyFile { user, path } => key_files(state, &[(user.clone(), path.clone())].into(), versions, users),
        Need::RevokedKeys(path) => {
            let read = crate::sys::files::read_followed(Path::new(path), REVOKED_MAX);
            let file = match (read, view::require_same(Path::new(path))) {
                (_, Err(why)) => RevokedKeys::Unread(format!("{path}: {why}")),
                (Ok(file), Ok(())) => revoked_keys(&file.bytes),
                (Err(error @ FileError::Missing(_)), Ok(())) => RevokedKeys::Missing(error.to_string()),
                (Err(error), Ok(())) => RevokedKeys::Unread(error.to_string()),
            };
            state.sshd.revoked_keys.insert(path.clone(), file);
        }
        Need::ValueFile(path) => {
            let file = value_files::look_at(path, &pids(state));
            state.sshd.value_files.insert(path.clone(), file);
        }
        Need::RootFolder { user, path } => {
            known_account(state, user, users);
            let folder = match state.sshd.accounts.get(user) {
                Some(Part::Present(account)) => users.root_folder(account, path),
                Some(Part::Absent(_) | Part::Unreadable(_)) | None => {
                    RootFolder::Unknown(format!("the user {user} was not looked up"))
                }
            };
            state.sshd.root_folders.insert((user.clone(), path.clone()), folder);
        }
        Need::Candidate(candidate) => {
            let answer = of_candidate(state, candidate);
            state.sshd.candidates.insert(candidate.clone(), answer);
        }
        Need::CandidateLogin(candidate, login) => {
            let answer = shadow(state, candidate).and_then(|(shadow, invocation)| {
                effective_for(&invocation, login).map_err(|error| shadow.translate(&error.to_string()))
            });
            state.sshd.candidate_logins.insert((candidate.clone(), login.clone()), answer);
        }
        Need::Journal => state.sshd.journal = Some(journal::read()),
        Need::Entrances => {
            let sessions = state.listener.present().into_iter().flat_map(|state| &state.sessions);
            state.sshd.entrances = Some(journal::entrances(&sessions.map(|session| session.pid).collect::<Vec<_>>()));
        }
        Need::Tally(user) => {
            known_account(state, user, users);
            let tally = faillock::tally(users, user, state.sshd.accounts.get(user));
            state.sshd.tallies.insert(user.clone(), tally);
        }
        Need::Power => state.sshd.power = Some(power::read()),
        Need::Running(port) => {
            if let Some(Part::Present(server)) = state.sshd.servers.get(port) {
                let running = running::running(state, server, *port);
                state.sshd.running.insert(*port, running);
            }
        }
    }
}

/// Of the sshds that are asked about.
fn pids(state: &HostState) -> Vec<u32> {
    let listeners = state.listener.present().into_iter().flat_map(|state| &state.listeners);
    let asked = listeners.filter(|socket| state.sshd.servers.contains_key(&socket.local.port()));
    asked.flat_map(|socket| &socket.holders).filter(|holder| is_sshd(holder)).map(|holder| holder.pid).collect()
}

/// Puts a user into the state who is not in it yet.
fn known_account(state: &mut HostState, user: &str, users: &mut Users) {
    if !state.sshd.accounts.contains_key(user) {
        let account = account::account(users, user);
        state.sshd.accounts.insert(user.to_owned(), account);
    }
}

/// Since this version `AuthorizedKeysFile` takes patterns of glob(3).
const PATTERNS: (u16, u16) = (10, 0);

/// Puts files of authorized keys into the state: those of one user by one look, those of several users side by side.
pub fn key_files(state: &mut HostState, asked: &BTreeSet<(String, String)>, versions: &mut Versions, users: &mut Users) {
    let programs: Vec<String> =
        state.sshd.servers.values().filter_map(Part::present).map(|it| it.invocation.program.clone()).collect();
    let debians = programs.iter().map(|program| versions.is_debians(Path::new(program)));
    // Where there are several, all of them.
    let patched = debians.reduce(|one, other| if one == other { one } else { None }).flatten();
    let takes = programs.iter().map(|program| versions.of(Path::new(program)).map(|version| version >= PATTERNS));
    let patterns = takes.reduce(|one, other| if one == other { one } else { None }).flatten();
    let mut by_user: BTreeMap<&String, Vec<String>> = BTreeMap::new();
    for (user, _) in asked {
        known_account(state, user, users);
    }
    for (user, path) in asked {
        by_user.entry(user).or_default().push(path.clone());
    }
    let mut found: Vec<((String, String), KeyFile)> = Vec::new();
    let mut looks = Vec::new();
    for (user, paths) in by_user {
        match state.sshd.accounts.get(user) {
            Some(Part::Present(account)) => looks.push((user, account, paths)),
            Some(Part::Absent(_)) => found.extend(paths.into_iter().map(|path| ((user.clone(), path), KeyFile::Missing))),
            Some(Part::Unreadable(_)) | None => {
                let why = KeyFile::Unknown(format!("the user {user} was not looked up"));
                found.extend(paths.into_iter().map(|path| ((user.clone(), path), why.clone())));
            }
        }
    }
    let questions: Vec<(&Account, Vec<String>)> = looks.iter().map(|(_, account, paths)| (*account, paths.clone())).collect();
    for ((user, _, paths), files) in looks.iter().zip(users.key_files(&questions, Program { patched, patterns })) {
        found.extend(paths.iter().zip(files).map(|(path, file)| (((*user).clone(), path.clone()), file)));
    }
    state.sshd.key_files.extend(found);
}

/// The sshd on a port as it is at this moment.
pub(super) struct Now {
    pub(super) invocation: Invocation,
    pub(super) running: bool,
    /// Of the process that listens, where it is no systemd.
    pub(super) pid: Option<u32>,
    /// Where it listens.
    pub(super) listens: Vec<SocketAddr>,
    /// The error says why it is not known.
    pub(super) manager: Result<Manager, String>,
}

/// Looks again, for a step.
pub(super) fn now(port: u16) -> Result<Now, SshdError> {
    let listening = observed(port).map_err(SshdError::Unread)?;
    let (listening, Found { invocation, running, process, .. }) = settled(&listening, port)?;
    let pid = process.map(|(pid, _)| pid);
    let listens = sockets_of(&listening, port).unwrap_or_default();
    Ok(Now { invocation, running, pid, listens, manager: manager::manager(&listening, port) })
}

/// SIGHUP to the sshd that listens on a port.
pub(super) fn signal(port: u16) -> Result<(), String> {
    let listening = observed(port)?;
    let sockets = listening.listeners.iter().filter(|socket| socket.local.port() == port);
    for holder in sockets.flat_map(|socket| &socket.holders).filter(|holder| is_sshd(holder)) {
        if let Some(sshd) = listener::sshd(holder.pid).map_err(|error| error.to_string())? {
            let signalled = sshd.process.signal(Signal::SIGHUP);
            return signalled.map_err(|error| format!("SIGHUP to sshd (pid {}): {error}", sshd.process.pid()));
        }
    }
    Err(format!("no sshd listens on port {port}"))
}

fn observed(port: u16) -> Result<listener_model::State, String> {
    match listener::observe(&Question { sources: BTreeSet::new(), port, everybody: false }) {
        Part::Present(state) => Ok(state),
        Part::Absent(why) | Part::Unreadable(why) => Err(why),
    }
}

/// A copy of the configuration with these changes, and the sshd that is asked about it.
fn shadow(state: &HostState, candidate: &Candidate) -> Result<(Shadow, Invocation), String> {
    let Some(Part::Present(server)) = state.sshd.servers.get(&candidate.port) else { return Err("there is no sshd".to_owned()) };
    let mut tree = server.tree.clone()?;
    for (path, bytes) in &candidate.changes {
        tree.files.insert(path.clone(), Document::parse(bytes));
    }
    let shadow = Shadow::make(&tree)?;
    let invocation = shadow.invocation(&server.invocation);
    Ok((shadow, invocation))
}

fn of_candidate(state: &HostState, candidate: &Candidate) -> Answer {
    let (shadow, invocation) = match shadow(state, candidate) {
        Ok(made) => made,
        Err(why) => return Answer { test: Err(why.clone()), effective: Err(why), host_keys: Vec::new() },
    };
    let (test, effective) = examine(&invocation);
    let test = test.map_err(|error| match error {
        SshdError::Complains { said, .. } => shadow.translate(&said),
        error => shadow.translate(&error.to_string()),
    });
    let effective = effective.map_err(|error| shadow.translate(&error.to_string()));
    Answer { test, host_keys: effective.as_ref().map(host_keys::kinds).unwrap_or_default(), effective }
}

/// The sshd that listens on a port, or would.
pub fn server(listener: &Part<listener_model::State>, port: u16, versions: &mut Versions) -> Part<Server> {
    let listening = match listener {
        Part::Present(listening) => listening,
        Part::Absent(why) | Part::Unreadable(why) => return Part::Unreadable(why.clone()),
    };
    let (listening, Found { invocation, running, title, process }) = match settled(listening, port) {
        Ok(found) => found,
        Err(error @ SshdError::NotOpenSsh(_)) => return Part::Absent(error.to_string()),
        Err(error) => return Part::Unreadable(error.to_string()),
    };
    // Before sshd is asked: it quotes the lines that it complains about.
    let mut tree = match files::trusted(&invocation) {
        Ok(tree) => tree,
        Err(why) => return Part::Unreadable(SshdError::NotRoots(why).to_string()),
    };
    if let (Some((pid, root)), Ok(tree)) = (&process, &tree)
        && let Err(why) = files::seen_alike(root, tree)
    {
        return Part::Unreadable(format!("sshd (pid {pid}) cannot be judged from here: {why}"));
    }
    let (test, effective) = kept::examined(&invocation, tree.as_ref().ok());
    let manager = match manager::manager(&listening, port) {
        Ok(manager) => manager,
        Err(why) => return Part::Unreadable(format!("who starts sshd is not known: {why}")),
    };
    let privsep = match privsep() {
        Ok(privsep) => privsep,
        Err(error) => return Part::Unreadable(format!("{PRIVSEP}: {error}")),
    };
    let at_the_door = listening.unauthenticated.iter().filter(|connection| connection.port == port);
    let unauthenticated = at_the_door.map(|connection| connection.peer).collect();
    if let Ok(tree) = &mut tree {
        let paths: Vec<String> = tree.files.keys().cloned().collect();
        let why_not = paths.into_iter().filter_map(|path| Some((path.clone(), not_edited(&invocation, &manager, &path)?)));
        tree.not_replaceable.extend(why_not);
    }
    let version = versions.of(Path::new(&invocation.program));
    let test = match test {
        Ok(()) => Ok(()),
        Err(SshdError::Complains { said, .. }) => Err(said),
        Err(SshdError::Program { why, .. }) if !running => return Part::Absent(why),
        Err(error) => return Part::Unreadable(error.to_string()),
    };
    let effective = effective.map_err(|error| error.to_string());
    let pid_file = effective.as_ref().ok().and_then(|effective| effective.one("pidfile"));
    let mark = process.map_or(Mark::None, |(pid, _)| Mark::of(pid, pid_file, &manager));
    let mut host_key_files =
        keys(&host_key_paths(effective.as_ref().ok(), tree.as_ref().ok(), &invocation.options), &versions.sound);
    // Before 9.8 each connection reads them anew.
    if let Mark::At(at) = mark
        && version.is_none_or(|version| version >= KEYS_ARE_KEPT)
    {
        for key in &mut host_key_files {
            key.changed = unread::key_changed(at, &key.path);
        }
    }
    let stale = stale(mark, &tree);
    Part::Present(Server {
        running,
        version,
        test,
        privsep,
        host_key_files,
        startups: title.as_deref().and_then(Startups::from_title),
        unauthenticated,
        manager,
        host_keys: effective.as_ref().map(host_keys::kinds).unwrap_or_default(),
        read_at: mark.time().filter(|_| stale.is_empty()),
        stale,
        edited: BTreeMap::new(),
        tree,
        effective,
        invocation,
    })
}

/// Why a file is not edited for this sshd, where it is not. Only what lies below the folder of its own configuration is, and only where a
/// unit of systemd runs it: of one that somebody started by hand nobody knows what for.
pub(super) fn not_edited(invocation: &Invocation, manager: &Manager, path: &str) -> Option<String> {
    if !files::editable(invocation, path) {
        return Some(format!("{path} does not lie below the folder of {}, sshd's main file", invocation.file()));
    }
    let with_systemd = crate::sys::dbus::booted();
    match manager {
        Manager::Nobody if with_systemd => {
            Some("no unit of systemd runs this sshd, so sshfix edits nothing for it; start it by its unit".to_owned())
        }
        Manager::Nobody | Manager::Service { .. } | Manager::Connections(_) => None,
    }
}

/// Every file that it takes a host key from, asked for at once: each that is new takes some milliseconds to start a program.
fn keys(paths: &[String], sound: &Sound) -> Vec<HostKey> {
    thread::scope(|scope| {
        let asked: Vec<_> = paths.iter().map(|path| (path, scope.spawn(|| host_keys::look_at(path, sound)))).collect();
        let failed = |path: &str| {
            let why = "looking at it failed inside sshfix".to_owned();
            HostKey {
                path: path.to_owned(),
                algorithm: None,
                rsa_bits: None,
                problem: Some(KeyProblem::Unread(why)),
                changed: false,
            }
        };
        asked.into_iter().map(|(path, key)| key.join().unwrap_or_else(|_| failed(path))).collect()
    })
}

/// What changed, or may have, after sshd read its files. Where it is not known when it did, each of them may have.
fn stale(mark: Mark, tree: &Result<Tree, String>) -> Vec<String> {
    let Ok(tree) = tree else { return Vec::new() };
    match mark {
        Mark::None => Vec::new(),
        Mark::Unknown => tree.files.keys().cloned().collect(),
        Mark::At(at) => unread::since(at, tree),
    }
}
