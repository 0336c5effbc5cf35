//! Which processes hold which sockets, from /proc (proc(5)). Looks into the files of proven SSH servers and of process 1 only, and into
//! those of others just to name who holds a port: within a budget, since anybody can have any number of processes with any number of
//! files. Read only. A process that ends meanwhile is passed over; one that could not be read is an error, since it may serve a session.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use sshfix_policy::subsystem::listener::{Process, Title, is_ssh_name, session_title};

use super::identity::{Host, Judged, Proof};
use crate::sys::process::{self as process, Status, unless_denied, unless_ended};

/// A process of root's with more open files is not searched: who it serves is unknown.
const MAX_FILES: usize = 100_000;
/// Naming who holds a port ends after this many files of others, or this time; the holder is not known then.
const NAMING: Budget = Budget { files: 20_000, of_one: 2_000, time: Duration::from_millis(300) };
/// The title of an sshd is short.
const MAX_TITLE: u64 = 16 << 10;

/// A process that holds sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub process: Process,
    /// What its title says of a login.
    pub title: Title,
}

/// The holders of sockets, by inode.
pub type Holders = BTreeMap<u32, Vec<Holder>>;

/// Who holds what.
#[derive(Debug, Default)]
pub struct Held {
    /// By inode.
    pub holders: Holders,
    /// The TCP sockets of SSH servers: each is listed by the kernel as long as it is open.
    pub of_ssh: BTreeSet<u32>,
    /// Who is logged in by each process of a proven server, with the TCP sockets that it has.
    pub logins: Vec<Login>,
    /// Those of processes that may be SSH servers of this host, which was not proven: by inode, with the name and the id.
    pub unproven: BTreeMap<u32, (String, u32)>,
    /// Such a process whose title, or that of one that it started, says that somebody is logged in, whatever it has: the name and the id.
    pub unproven_login: Option<(String, u32)>,
}

/// What a title says of a login.
#[derive(Debug)]
pub struct Login {
    /// As whom.
    pub user: String,
    /// The process that serves it.
    pub pid: u32,
    /// The TCP sockets of the server's own process: its connection, where it has one, and what it forwards.
    pub held: Vec<u32>,
}

/// What may be spent on others.
#[derive(Clone, Copy, Debug)]
struct Budget {
    files: usize,
    of_one: usize,
    time: Duration,
}

/// A process that is no SSH server.
struct Seen {
    pid: u32,
    /// Whose it is, as far as one `stat` says.
    owner: u32,
}

/// One that was proven.
struct Proven {
    process: process::Process,
    status: Status,
    proof: Proof,
}

/// The sockets of SSH servers and process 1, and the holders of `wanted` (inode and owner of a socket) whoever they are.
pub fn holders(wanted: &BTreeMap<u32, u32>) -> io::Result<Held> {
    let host = Host::read()?;
    let mut found = Held::default();
    let (mut candidates, mut others) = (Vec::new(), Vec::new());
    for pid in process::pids()? {
        // Anybody can have any number of processes: those of others cost one `stat` each.
        let Some(owner) = process::owner(pid)? else { continue };
        if owner != 0 {
            others.push(Seen { pid, owner });
            continue;
        }
        let Some(process) = unless_ended(process::Process::open(pid))? else { continue };
        if pid == 1 {
            let Some(status) = unless_ended(process.status())? else { continue };
            let holder = holder(&status, pid, None, host.unit_of(&process)?);
            // What it is not seen to hold is held by nobody that can be seen, which is unknown.
            let held = unless_denied(all_sockets(&process))?.flatten().unwrap_or_default();
            add(&mut found.holders, &held, None, &Holder { process: holder, title: Title::Other });
            continue;
        }
        match Host::may_be(&process)? {
            Some(status) => candidates.push((process, status)),
            None => others.push(Seen { pid, owner }),
        }
    }
    let Proofs { proven, unproven, not } = prove(&host, candidates)?;
    others.extend(not);
    for (process, status) in unproven {
        let held = all_sockets(&process)?.unwrap_or_default();
        let says = matches!(title(&process)?, Some(Title::LoggedIn(_))) || !logins(&host, &process, &proven)?.is_empty();
        found.unproven_login = found.unproven_login.or_else(|| says.then(|| (status.name.clone(), process.pid())));
        found.unproven.extend(held.into_iter().map(|inode| (inode, (status.name.clone(), process.pid()))));
        others.push(Seen { pid: process.pid(), owner: 0 });
    }
    for Proven { process, status, proof } in proven.values() {
        let (Some(title), Some(held)) = (title(process)?, all_sockets(process)?) else { continue };
        let who = holder(status, process.pid(), Some(proof.program.clone()), proof.unit.clone());
        let holder = Holder { process: who, title };
        for holder in [holder].into_iter().chain(logins(&host, process, &proven)?) {
            if let Title::LoggedIn(user) = &holder.title {
                found.logins.push(Login { user: user.clone(), pid: holder.process.pid, held: held.clone() });
            }
            add(&mut found.holders, &held, None, &holder);
        }
        found.of_ssh.extend(held);
    }
    name(&mut found.holders, &host, wanted, &mut others, NAMING);
    Ok(found)
}

/// What came of proving them.
struct Proofs {
    proven: BTreeMap<u32, Proven>,
    unproven: Vec<(process::Process, Status)>,
    not: Vec<Seen>,
}

/// Proves the candidates; what a proven one started may be proven by that.
fn prove(host: &Host, candidates: Vec<(process::Process, Status)>) -> io::Result<Proofs> {
    let mut proven: BTreeMap<u32, Proven> = BTreeMap::new();
    let mut not = Vec::new();
    let mut left = candidates;
    loop {
        let before = proven.len();
        let mut again = Vec::new();
        for (process, status) in left {
            let parent = proven.get(&status.parent).map(|parent| &parent.proof);
            match host.prove(&process, parent)? {
                Judged::Proven(proof) => _ = proven.insert(process.pid(), Proven { process, status, proof }),
                Judged::Unproven => again.push((process, status)),
                Judged::Not => not.push(Seen { pid: process.pid(), owner: 0 }),
            }
        }
        left = again;
        if left.is_empty() || proven.len() == before {
            return Ok(Proofs { proven, unproven: left, not });
        }
    }
}

/// Whoever logged in is served by a process with that user's ids, whose title says so, and whose parent watches over it as root
/// (`sshd: alice [priv]`). The connection is the parent's; no file of the user's process is looked at.
fn logins(host: &Host, parent: &process::Process, proven: &BTreeMap<u32, Proven>) -> io::Result<Vec<Holder>> {
    let mut found = Vec::new();
    let Some(children) = unless_ended(parent.children())? else { return Ok(found) };
    // Where the kernel does not say, every process is asked for its parent.
    for pid in children.map_or_else(process::pids, Ok)?.into_iter().filter(|pid| !proven.contains_key(pid)) {
        let Some(process) = unless_ended(process::Process::open(pid))? else { continue };
        let Some(status) = unless_ended(process.status())? else { continue };
        if status.parent != parent.pid() || !is_ssh_name(&status.name) {
            continue;
        }
        if let Some(title @ Title::LoggedIn(_)) = title(&process)? {
            found.push(Holder { process: holder(&status, pid, None, host.unit_of(&process)?), title });
        }
    }
    Ok(found)
}

/// Finds who holds the wanted sockets that nobody was found to hold: among root's processes and those of the socket's own user first.
/// How many files were looked at. One that cannot be looked at holds nothing here: a socket without a holder is unknown.
fn name(found: &mut Holders, host: &Host, wanted: &BTreeMap<u32, u32>, others: &mut [Seen], budget: Budget) -> usize {
    let deadline = Instant::now() + budget.time;
    let owners: BTreeSet<u32> = wanted.values().copied().collect();
    let mut left: BTreeSet<u32> = wanted.keys().filter(|inode| !found.contains_key(inode)).copied().collect();
    if left.is_empty() {
        return 0;
    }
    others.sort_by_key(|seen| (!owners.contains(&seen.owner), seen.owner, seen.pid));
    let mut looked = 0;
    for Seen { pid, owner: _ } in others.iter() {
        if left.is_empty() || looked >= budget.files || Instant::now() > deadline {
            break;
        }
        let Ok(process) = process::Process::open(*pid) else { continue };
        let (held, files) = process.sockets(budget.of_one.min(budget.files - looked)).unwrap_or_default();
        looked += files;
        if !held.iter().any(|inode| left.contains(inode)) {
            continue;
        }
        let Ok(status) = process.status() else { continue };
        let who = holder(&status, *pid, None, host.unit_of(&process).unwrap_or_default());
        add(found, &held, Some(&left), &Holder { process: who, title: Title::Other });
        left.retain(|inode| !found.contains_key(inode));
    }
    looked
}

fn add(found: &mut Holders, held: &[u32], only: Option<&BTreeSet<u32>>, holder: &Holder) {
    for inode in held.iter().copied().filter(|inode| only.is_none_or(|only| only.contains(inode))).collect::<BTreeSet<_>>() {
        found.entry(inode).or_default().push(holder.clone());
    }
}

/// All TCP sockets of a process of root's; `None` where it has ended.
fn all_sockets(process: &process::Process) -> io::Result<Option<Vec<u32>>> {
    match unless_ended(process.tcp_sockets(MAX_FILES))? {
        Some((_, files)) if files >= MAX_FILES => {
            Err(io::Error::other(format!("process {} has {MAX_FILES} open files or more, too many to look at", process.pid())))
        }
        read => Ok(read.map(|(held, _)| held)),
    }
}

/// What its title says of a login; `None` where it has ended.
fn title(process: &process::Process) -> io::Result<Option<Title>> {
    Ok(unless_ended(process.read("cmdline", MAX_TITLE))?.map(|line| session_title(&line)))
}

fn holder(status: &Status, pid: u32, ssh: Option<String>, unit: Option<String>) -> Process {
    Process { pid, name: status.name.clone(), uid: status.real_uid, ssh, unit }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::TcpListener;

    use super::*;

    fn listening() -> (TcpListener, BTreeMap<u32, u32>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let sockets = super::super::sockets::listening(&[]).unwrap();
        let socket = sockets.iter().find(|socket| socket.local == local).unwrap_or_else(|| panic!("not listed"));
        (listener, BTreeMap::from([(socket.inode, socket.uid)]))
    }

    #[test]
    fn the_holder_of_a_socket_of_this_process_is_found_and_is_no_ssh_server() {
        let (_listener, wanted) = listening();
        let holders = holders(&wanted).unwrap().holders;
        let found: Vec<&Process> = wanted.keys().filter_map(|inode| holders.get(inode)).flatten().map(|it| &it.process).collect();
        assert_eq!(found.iter().map(|process| process.pid).collect::<Vec<_>>(), [std::process::id()]);
        assert!(found.iter().all(|process| process.ssh.is_none()), "{found:?}");
    }

    #[test]
    fn naming_a_holder_ends_with_its_budget() {
        let (_listener, wanted) = listening();
        let _files: Vec<std::fs::File> = (0..200).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let mut others: Vec<Seen> = Vec::new();
        for _ in 0..50 {
            let pid = std::process::id();
            others.push(Seen { pid, owner: 0 });
        }
        let host = Host::read().unwrap();
        // A socket that nobody holds.
        let nobodys = BTreeMap::from([(u32::MAX, 0)]);
        let budget = |files, of_one| Budget { files, of_one, time: Duration::from_mins(1) };
        assert_eq!(name(&mut Holders::new(), &host, &nobodys, &mut others, budget(500, 100)), 500);
        assert!(name(&mut Holders::new(), &host, &nobodys, &mut others, budget(100_000, 10)) <= 50 * 10);
        assert_eq!(name(&mut Holders::new(), &host, &BTreeMap::new(), &mut others, budget(500, 100)), 0);
        assert!(name(&mut Holders::new(), &host, &wanted, &mut others, budget(100_000, 100_000)) < 10_000, "found at once");
    }
}
