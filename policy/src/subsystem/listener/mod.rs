//! listener: who listens on TCP, which unit owns it, what systemd says about the SSH units, and the live SSH sessions.
//! Decides whether something that speaks SSH takes a connection on the port asked about. Knows nothing of packet filters.

mod judge;
mod title;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::address::Source;
use crate::host::{HostState, Part};
use crate::verdict::{AccessPath, Evidence, PathOrigin};

pub use judge::{blocks, evaluate, trace};
pub use title::{Title, session_title};

/// The units an SSH server is run by: `ssh` on Debian, `sshd` elsewhere, either of them by socket activation.
pub const UNITS: [&str; 4] = ["ssh.service", "sshd.service", "ssh.socket", "sshd.socket"];

/// What was read of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Listening TCP sockets: all on the port asked about, and elsewhere those of SSH servers.
    pub listeners: Vec<Listener>,
    /// The SSH units that exist, aliases once; `None` where no systemd answers.
    pub units: Option<Vec<Unit>>,
    /// Live SSH sessions of people who have logged in: all of them. Where one may be missing, nothing is [`Part::Present`].
    pub sessions: Vec<Session>,
    /// Those who are logged in over no TCP connection: systemd's own sockets of sshd (systemd-ssh-generator(8)), inetd, a pipe.
    #[serde(default)]
    pub unaddressed: Vec<Unaddressed>,
    /// The connections on which a proven SSH server serves somebody who has not logged in yet.
    #[serde(default)]
    pub unauthenticated: Vec<Unauthenticated>,
    /// Why others may be in besides, of whom nothing is known: an SSH server of root's that could not be proven to be this host's has connections.
    #[serde(default)]
    pub sessions_unknown: Option<String>,
    /// The host's own addresses.
    pub addresses: Vec<IpAddr>,
    /// The SSH server's version where it was asked for: `OpenSSH_10.0p2 Debian-7+deb13u4`.
    pub version: Option<String>,
    /// What a person should know about this reading.
    pub notes: Vec<String>,
}

/// A connection of somebody who has not logged in yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unauthenticated {
    /// The port of this host.
    pub port: u16,
    /// The other end.
    pub peer: SocketAddr,
}

/// A listening TCP socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Where; v4-mapped addresses are IPv4.
    pub local: SocketAddr,
    /// `IPV6_V6ONLY`: a `::` that takes no IPv4.
    pub v6_only: bool,
    /// The interface, or VRF, whose packets alone come to it (socket(7), `SO_BINDTODEVICE`); `None` is any.
    pub device: Option<String>,
    /// Whoever holds it; empty where nobody can be seen (another PID namespace).
    pub holders: Vec<Process>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// `/proc/PID/comm`
    pub name: String,
    /// Its real user id. Anybody can run a program of any name, with any title, on a port above 1023.
    pub uid: u32,
    /// The program, where the process was proven to be one of root's SSH servers of this very host: its ids, its namespaces, and which file
    /// it runs. The path is the one on the disk that was compared, never what the process says.
    pub ssh: Option<String>,
    /// The unit of the system manager in whose cgroup it is; none for units of a user's own manager.
    pub unit: Option<String>,
}

/// A unit as systemd sees it (org.freedesktop.systemd1(5)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Its id.
    pub name: String,
    /// `LoadState`: `loaded`, `masked`, `not-found`, `bad-setting`, ...
    pub load: String,
    /// `ActiveState`: `active`, `activating`, `inactive`, `failed`, ...
    pub active: String,
    /// `SubState`: `running`, `listening`, `dead`, `auto-restart`, ...
    pub sub: String,
    /// `Result` of the last run: `success`, `exit-code`, `start-limit-hit`, ...
    pub result: Option<String>,
    /// `UnitFileState`: `enabled`, `disabled`, `masked`, ...
    pub file: Option<String>,
    /// What a socket unit listens on, as systemd says it: `[::]:22`.
    pub listens: Vec<String>,
}

impl Unit {
    /// Whether systemd starts it at boot.
    pub fn enabled(&self) -> bool {
        self.file.as_deref().is_some_and(|file| file.starts_with("enabled"))
    }

    /// Whether it is a service that systemd starts, stops or reloads at this moment. One that it waits to start again after it failed
    /// (`auto-restart`) is down.
    pub fn is_changing_service(&self) -> bool {
        let changes = matches!(self.active.as_str(), "activating" | "deactivating" | "reloading");
        self.name.ends_with(".service") && changes && !self.sub.starts_with("auto-restart")
    }
}

/// A live SSH session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// From where, canonical.
    pub peer: SocketAddr,
    /// To which address of the host.
    pub local: IpAddr,
    /// To which port.
    pub port: u16,
    /// As whom, where known.
    pub user: Option<String>,
    /// The process that serves it.
    pub pid: u32,
    /// By which interface it came, where the kernel keeps that: of link-local addresses.
    #[serde(default)]
    pub interface: Option<String>,
}

/// Who is logged in by an sshd that has no TCP connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unaddressed {
    /// As whom.
    pub user: String,
    /// The process that serves it.
    pub pid: u32,
}

/// The port that sshd says in the place of one where there is none (packet.c, `ssh_remote_port`).
const NO_PORT: u16 = 65535;

/// Programs that speak SSH on the socket they hold. `sshd-session` and `sshd-auth` are parts of OpenSSH 9.8 and later.
pub fn is_ssh_name(name: &str) -> bool {
    matches!(name, "sshd" | "sshd-session" | "sshd-auth" | "dropbear" | "tinysshd")
}

/// Whether this is an SSH server of root's, as was proven. A name, a title and an owner of a file are no proof.
pub fn speaks_ssh(process: &Process) -> bool {
    process.ssh.is_some()
}

/// Whether this is the listening server of OpenSSH, as was proven.
pub fn is_sshd(process: &Process) -> bool {
    process.ssh.as_deref().is_some_and(|program| program.ends_with("/sshd"))
}

/// The live SSH sessions, on whatever port, as ways in that must not be lost: all of them, or why that is not known.
pub fn sessions(host: &HostState) -> Result<Vec<AccessPath>, String> {
    let state = match &host.listener {
        Part::Present(state) => state,
        Part::Absent(why) | Part::Unreadable(why) => return Err(why.clone()),
    };
    if let Some(why) = &state.sessions_unknown {
        return Err(why.clone());
    }
    let mut paths: Vec<AccessPath> = state
        .sessions
        .iter()
        .map(|session| AccessPath {
            source: session.peer.ip().into(),
            user: session.user.clone(),
            port: session.port,
            origin: PathOrigin::Session,
        })
        .collect();
    paths.extend(state.unaddressed.iter().map(|session| AccessPath {
        source: Source::NONE,
        user: Some(session.user.clone()),
        port: NO_PORT,
        origin: PathOrigin::Session,
    }));
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// Whether the unit that should listen is masked: somebody wants it down.
pub fn masked(host: &HostState) -> bool {
    masked_unit(host).is_some()
}

/// Its name.
pub fn masked_unit(host: &HostState) -> Option<&str> {
    let units = host.listener.present().into_iter().flat_map(|state| state.units.iter().flatten());
    let mut known = units.filter(|unit| unit.name.ends_with(".service")).peekable();
    let first = known.peek().map(|unit| unit.name.as_str())?;
    known.all(|unit| unit.load == "masked").then_some(first)
}

impl State {
    /// Version and one line for `status`.
    pub fn describe(&self) -> (Option<String>, String) {
        let ssh: Vec<String> = self.ssh_listeners().map(|listener| listener.local.to_string()).collect();
        let sockets =
            if ssh.is_empty() { "no SSH server listens".to_owned() } else { format!("listens on {}", ssh.join(" and ")) };
        let units = self.units.iter().flatten().filter(|unit| unit.load != "not-found").map(Unit::to_string);
        (self.version.clone(), [sockets].into_iter().chain(units).collect::<Vec<_>>().join("; "))
    }

    /// Whether an SSH server takes connections on this socket: its own process, or systemd for an active socket unit.
    fn is_ssh(&self, listener: &Listener) -> bool {
        listener.holders.iter().any(speaks_ssh) || self.socket_unit(listener).is_some()
    }

    /// The active socket unit that systemd holds this socket for.
    fn socket_unit(&self, listener: &Listener) -> Option<&Unit> {
        let systemd = listener.holders.iter().any(|holder| holder.pid == 1);
        self.units.iter().flatten().find(|unit| {
            systemd
                && unit.name.ends_with(".socket")
                && unit.active == "active"
                && unit.listens.iter().any(|address| listens_there(address, listener.local))
        })
    }

    fn ssh_listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().filter(|listener| self.is_ssh(listener))
    }
}

/// Whether a `Listen` address of a socket unit is this socket: `[::]:22`, `0.0.0.0:22`, `192.0.2.1:22`.
fn listens_there(listens: &str, local: SocketAddr) -> bool {
    listens
        .parse::<SocketAddr>()
        .is_ok_and(|address| SocketAddr::new(crate::address::canonical(address.ip()), address.port()) == local)
}

/// As `systemctl status` words it: `ssh.service loaded, failed (failed), result exit-code, enabled`.
impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, {} ({})", self.name, self.load, self.active, self.sub)?;
        if let Some(result) = self.result.as_deref().filter(|result| *result != "success") {
            write!(f, ", result {result}")?;
        }
        if let Some(file) = self.file.as_deref().filter(|file| !file.is_empty()) {
            write!(f, ", {file}")?;
        }
        Ok(())
    }
}

/// As `ss -ltnp` words it: `LISTEN 0.0.0.0:22 users:(("sshd",pid=871))`.
impl Listener {
    fn evidence(&self) -> Evidence {
        let users: Vec<String> = self.holders.iter().map(|p| format!("(\"{}\",pid={})", p.name, p.pid)).collect();
        let users = if users.is_empty() { String::new() } else { format!(" users:({})", users.join(",")) };
        let device = self.device.as_ref().map_or_else(String::new, |device| format!("%{device}"));
        Evidence::new(format!("tcp socket {}", self.local), format!("LISTEN {}{device}{users}", self.local))
    }
}

impl Process {
    /// `sshd (pid 871, ssh.service)`, `python3 (pid 4711, uid 1000)`
    fn describe(&self) -> String {
        let uid = if self.uid == 0 { String::new() } else { format!(", uid {}", self.uid) };
        let unit = self.unit.as_deref().map(|unit| format!(", {unit}")).unwrap_or_default();
        format!("{} (pid {}{uid}{unit})", self.name, self.pid)
    }
}

#[cfg(test)]
mod tests;
