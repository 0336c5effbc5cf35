//! The listening sockets, the SSH units and the live SSH sessions of the real host. Read only: starting or stopping a server is
//! not done here. What the sockets mean for a connection is decided in `policy`.

mod filter;
mod identity;
mod processes;
mod sockets;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use sshfix_policy::address::canonical;
use sshfix_policy::host::{Part, Question};
use sshfix_policy::subsystem::listener::{
    Listener, Session, State, Title, UNITS, Unaddressed, Unauthenticated, Unit, is_sshd, speaks_ssh,
};

use crate::sys::process::{Process, unless_ended};
use crate::sys::{child, dbus, namespace, roots};
use identity::Judged;
pub use identity::{first_cgroup, unit_of};
use processes::{Held, Holders, Login};
use sockets::TcpSocket;

/// Asked for its version, and only this one: a program of that name elsewhere may be anybody's.
const SSHD: &str = "/usr/sbin/sshd";

/// How long sshd may be without sockets while it reads its files again, which takes some 20 ms, or is restarted. On a
/// busy host both take their time.
pub const REOPENS: Duration = Duration::from_secs(4);
const TICK: Duration = Duration::from_millis(20);
/// Only root listens there (ip(7), `ip_unprivileged_port_start`), so that it costs nothing to look at all of them.
const PRIVILEGED: RangeInclusive<u16> = 1..=1023;
/// The title of an sshd holds its options.
const MAX_TITLE: u64 = 128 << 10;

/// Who listens, by which unit, and who is logged in. The version is asked for by questions about everybody only (`status`).
pub fn observe(question: &Question) -> Part<State> {
    let until = Instant::now() + REOPENS;
    loop {
        match read(question) {
            Ok((state, false)) => return Part::Present(state),
            Ok((state, true)) if Instant::now() > until => return Part::Present(state),
            Ok((_, true)) => thread::sleep(TICK),
            Err(error) => return Part::Unreadable(format!("TCP sockets and the processes that hold them: {error}")),
        }
    }
}

/// At SIGHUP sshd closes its sockets, executes itself anew and opens them again (sshd.c, `sighup_restart`): its service is up, and
/// nothing listens, or who held the socket was gone when the processes were read. So it is while somebody restarts it. It is not down,
/// and what it does is to be seen a moment later.
fn reopens(state: &State, left: bool) -> io::Result<bool> {
    let up = |unit: &Unit| unit.is_changing_service() || unit.name.ends_with(".service") && unit.active == "active";
    if !(left || state.listeners.is_empty()) || !state.units.iter().flatten().any(up) {
        return Ok(false);
    }
    // Of sockets in another network namespace, as in a drill's, systemd's units say nothing.
    namespace::is_the_hosts("net")
}

/// The state, and whether sshd is about to open its sockets again.
fn read(question: &Question) -> io::Result<(State, bool)> {
    let mut notes = Vec::new();
    let units = units(&mut notes);
    let of_units: BTreeSet<u16> = units.iter().flatten().flat_map(|unit| &unit.listens).filter_map(|at| port(at)).collect();
    let places: Vec<_> = of_units.iter().chain([&question.port]).map(|port| *port..=*port).chain([PRIVILEGED]).collect();
    let mut listening = sockets::listening(&places)?;
    let asked: BTreeMap<u32, u32> =
        listening.iter().filter(|socket| socket.local.port() == question.port).map(|socket| (socket.inode, socket.uid)).collect();
    let Held { holders, of_ssh, logins, unproven, unproven_login } = processes::holders(&asked)?;

    let held_by_ssh =
        |socket: &TcpSocket| holders.get(&socket.inode).is_some_and(|all| all.iter().any(|h| speaks_ssh(&h.process)));
    let concerns =
        |socket: &TcpSocket| asked.contains_key(&socket.inode) || held_by_ssh(socket) || of_units.contains(&socket.local.port());
    listening.retain(concerns);
    let ports: BTreeSet<u16> = listening.iter().map(|socket| socket.local.port()).chain([question.port]).collect();
    let ranges: Vec<_> = ports.into_iter().map(|port| port..=port).collect();
    let mut established = sockets::established(&ranges)?;
    let listed: BTreeSet<u32> = listening.iter().chain(&established).map(|socket| socket.inode).collect();
    let servers = of_ssh.iter().chain(unproven.keys()).copied();
    let elsewhere: BTreeSet<u32> = servers.filter(|inode| !listed.contains(inode)).collect();
    if !elsewhere.is_empty() {
        let found = sockets::with_inodes(&elsewhere)?.into_iter().partition::<Vec<_>, _>(|socket| socket.listens);
        listening.extend(found.0.into_iter().filter(|socket| !unproven.contains_key(&socket.inode)));
        established.extend(found.1);
    }
    let listeners: Vec<Listener> = listening.iter().map(|socket| listener(socket, &holders)).collect();
    let sessions = established.iter().filter_map(|socket| session(socket, &holders)).collect();
    let unauthenticated = established.iter().filter_map(|socket| unauthenticated(socket, &holders)).collect();
    let unaddressed = unaddressed(&logins, &listening, &established);
    let unproven = established.iter().find_map(|socket| unproven.get(&socket.inode)).or(unproven_login.as_ref());
    let sessions_unknown = unproven.map(|(name, pid)| {
        format!("{name} (pid {pid}) has connections; it could not be proven to be this host's own SSH server, so people may be logged in through it")
    });
    let version = if question.everybody { version() } else { None };
    let left = asked.iter().any(|(inode, uid)| *uid == 0 && !holders.contains_key(inode));
    let addresses = addresses()?;
    let state = State { listeners, units, sessions, unaddressed, unauthenticated, sessions_unknown, addresses, version, notes };
    let reopens = reopens(&state, left)?;
    Ok((state, reopens))
}

/// The port of an address that a socket unit listens at: `[::]:22`.
fn port(address: &str) -> Option<u16> {
    address.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
}

/// The SSH units, where systemd runs this host.
fn units(notes: &mut Vec<String>) -> Option<Vec<Unit>> {
    // sd_booted(3)
    if !Path::new("/run/systemd/system").exists() {
        return None;
    }
    match dbus::units(&UNITS) {
        Ok(units) => Some(units),
        Err(error) => {
            notes.push(error.to_string());
            None
        }
    }
}

fn listener(socket: &TcpSocket, holders: &Holders) -> Listener {
    let holders = holders.get(&socket.inode).into_iter().flatten().map(|holder| holder.process.clone()).collect();
    Listener { local: socket.local, v6_only: socket.v6_only, device: device(socket), holders }
}

/// A link-local address is on one interface anyway (ipv6(7), `sin6_scope_id`).
fn device(socket: &TcpSocket) -> Option<String> {
    let link_local = matches!(socket.local.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    let name = || nix::net::if_::if_indextoname(socket.device).ok()?.into_string().ok();
    (socket.device != 0 && !link_local).then(|| name().unwrap_or_else(|| format!("interface {}", socket.device)))
}

/// A connection counts as a session once somebody has logged in on it: a stranger who is still asked for his key has no way in. A proven
/// sshd has the connection; whose login it is, is said by its title or by that of the process it started for the user. Servers that say
/// nothing of it, as dropbear, may have somebody in on each of their connections.
fn session(socket: &TcpSocket, holders: &Holders) -> Option<Session> {
    let all = holders.get(&socket.inode)?;
    let mut proven = all.iter().filter(|holder| speaks_ssh(&holder.process)).peekable();
    proven.peek()?;
    let logged_in = all.iter().find_map(|holder| match &holder.title {
        Title::LoggedIn(user) => Some((Some(user.clone()), holder)),
        Title::Door | Title::Other => None,
    });
    let (user, holder) = logged_in.or_else(|| proven.find(|holder| holder.title == Title::Other).map(|holder| (None, holder)))?;
    let (local, port) = (socket.local.ip(), socket.local.port());
    Some(Session { peer: socket.peer, local, port, user, pid: holder.process.pid, interface: interface(socket) })
}

/// A connection that a proven server serves, and on which nobody has logged in yet.
fn unauthenticated(socket: &TcpSocket, holders: &Holders) -> Option<Unauthenticated> {
    let served = holders.get(&socket.inode)?.iter().any(|holder| speaks_ssh(&holder.process));
    let waits = served && session(socket, holders).is_none();
    waits.then(|| Unauthenticated { port: socket.local.port(), peer: socket.peer })
}

/// As sshd says it behind a link-local address (getnameinfo(3)).
fn interface(socket: &TcpSocket) -> Option<String> {
    if socket.device == 0 { None } else { nix::net::if_::if_indextoname(socket.device).ok()?.into_string().ok() }
}

/// Those of them who came over no TCP connection. A socket of theirs that listens, and a connection that a session made itself, are what it
/// forwards: those connections have a port that the kernel gave them, where nobody listens (ip(7), `ip_local_port_range`). Any other is how they
/// came, also one that is about to end.
fn unaddressed(logins: &[Login], listening: &[TcpSocket], established: &[TcpSocket]) -> Vec<Unaddressed> {
    let given = given_ports();
    let forwards = |socket: &&TcpSocket| {
        let port = socket.local.port();
        given.contains(&port) && !listening.iter().any(|other| other.local.port() == port)
    };
    let made = established.iter().filter(forwards).chain(listening).map(|socket| socket.inode).collect::<BTreeSet<u32>>();
    let without = logins.iter().filter(|login| login.held.iter().all(|inode| made.contains(inode)));
    without.map(|Login { user, pid, .. }| Unaddressed { user: user.clone(), pid: *pid }).collect()
}

/// The ports that the kernel gives to connections; its default where that cannot be read.
fn given_ports() -> RangeInclusive<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = text.split_ascii_whitespace().map(str::parse);
    match (ends.next(), ends.next()) {
        (Some(Ok(low)), Some(Ok(high))) => low..=high,
        _ => 32768..=60999,
    }
}

/// The listening sshd of this id, held so that nothing of another process is taken for its own.
pub struct Sshd {
    /// The process.
    pub process: Process,
    /// Its root folder: files as it sees them, also when it has ended.
    pub root: OwnedFd,
    /// Its program on the disk.
    pub program: String,
    /// The unit of the system manager that it belongs to.
    pub unit: Option<String>,
    /// What it says of its options and of those who wait at its door.
    pub title: Vec<u8>,
}

/// Whether somebody else than root made a socket that listens on this port: nobody waits for that one. Where that cannot be read, one waits.
pub fn is_of_others(port: u16) -> bool {
    sockets::listening(&[port..=port]).is_ok_and(|all| all.iter().any(|socket| socket.uid != 0))
}

/// A socket that somebody else than root made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Where it is bound.
    pub local: SocketAddr,
    /// `IPV6_V6ONLY`
    pub v6_only: bool,
    /// Whether it listens.
    pub listens: bool,
    /// Whose it is.
    pub uid: u32,
    /// The name and the id of the process that holds it, where that was seen.
    pub holder: Option<(String, u32)>,
}

impl Other {
    /// `grab (pid 4711, uid 1001) has 0.0.0.0:2222`
    pub fn describe(&self) -> String {
        let who = match &self.holder {
            Some((name, pid)) => format!("{name} (pid {pid}, uid {})", self.uid),
            None => format!("a process of user {}", self.uid),
        };
        format!("{who} has {}{}", self.local, if self.listens { "" } else { " bound" })
    }
}

/// The sockets on these ports that others than root made.
pub fn of_others(ports: &BTreeSet<u16>) -> io::Result<Vec<Other>> {
    let ranges: Vec<_> = ports.iter().map(|port| *port..=*port).collect();
    let sockets = sockets::of_others(&ranges)?;
    if sockets.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = sockets.iter().map(|socket| (socket.inode, socket.uid)).collect();
    let holders = processes::holders(&wanted).map(|held| held.holders).unwrap_or_default();
    let other = |socket: &TcpSocket| {
        let process = holders.get(&socket.inode).and_then(|all| all.first()).map(|holder| &holder.process);
        let TcpSocket { local, v6_only, listens, uid, .. } = *socket;
        Other { local, v6_only, listens, uid, holder: process.map(|process| (process.name.clone(), process.pid)) }
    };
    Ok(sockets.iter().map(other).collect())
}

/// The proven sshd that listens on a port; none where systemd listens for it, or somebody else does.
pub fn sshd_on(port: u16) -> io::Result<Option<Sshd>> {
    let listening = sockets::listening(&[port..=port])?;
    let holders = processes::holders(&BTreeMap::new())?.holders;
    for holder in listening.iter().filter_map(|socket| holders.get(&socket.inode)).flatten().filter(|it| is_sshd(&it.process)) {
        if let Some(sshd) = sshd(holder.process.pid)? {
            return Ok(Some(sshd));
        }
    }
    Ok(None)
}

/// Proves once more that a process is root's sshd of this host, and reads its title; none where it has ended, or is another by now.
pub fn sshd(pid: u32) -> io::Result<Option<Sshd>> {
    let host = identity::Host::read()?;
    let Some(process) = unless_ended(Process::open(pid))? else { return Ok(None) };
    if !unless_ended(process.status())?.is_some_and(|status| identity::is_roots(&status)) {
        return Ok(None);
    }
    let Judged::Proven(proof) = host.prove(&process, None)? else { return Ok(None) };
    let (title, root) = (unless_ended(process.read("cmdline", MAX_TITLE))?, unless_ended(process.root())?);
    let (Some(title), Some(root)) = (title, root) else { return Ok(None) };
    Ok(Some(Sshd { process, root, program: proof.program, unit: proof.unit, title }))
}

/// Whether a process that was proven to be root's sshd is one still, in the same unit. Asks no systemd.
pub fn is_still(process: &Process, unit: Option<&str>) -> io::Result<bool> {
    Ok(identity::Host::may_be(process)?.is_some() && unit_of(process.pid())?.as_deref() == unit)
}

/// All listening TCP sockets of root's, each with its inode, which tells one socket from the next at the same address.
pub fn listening() -> io::Result<Vec<(SocketAddr, u32)>> {
    Ok(sockets::listening_of_root()?.iter().map(|socket| (socket.local, socket.inode)).collect())
}

/// The addresses of all interfaces, each once.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| canonical(IpAddr::V6(v6.ip()))))
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

/// `OpenSSH_10.0p2 Debian-7+deb13u4`. Older sshds do not know `-V` and say their version while they complain.
fn version() -> Option<String> {
    let program = roots::program(Path::new(SSHD)).ok()?;
    let output = child::run_open(program.file.as_fd(), Path::new(SSHD), &["-V"], Duration::from_secs(2), 64 << 10).ok()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let version = said.lines().find_map(|line| line.find("OpenSSH_").and_then(|at| line.get(at..)))?;
    Some(version.split(',').next().unwrap_or(version).trim().to_owned())
}
