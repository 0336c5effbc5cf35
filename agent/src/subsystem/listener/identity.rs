//! Whether a process is an SSH server of root's on this very host. Its real and effective user are root, it lives in the host's own
//! namespaces, and the file that it runs is one of the places of an SSH server or what a unit of the system manager starts, root's all
//! the way. Its name, its title and the text of its links prove nothing: anybody can have those. Reads only.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use nix::libc;
use sshfix_policy::subsystem::listener::is_ssh_name;

use crate::sys::dbus;
use crate::sys::process::{Process, Status, unless_denied, unless_ended};
use crate::sys::roots::{self, RootsError};

/// Where distributions, ports and OpenSSH's own `make install` put the programs.
const PLACES: [&str; 23] = [
    "/usr/sbin/sshd",
    "/usr/bin/sshd",
    "/usr/local/sbin/sshd",
    "/usr/local/bin/sshd",
    "/run/current-system/sw/bin/sshd",
    "/usr/lib/openssh/sshd-session",
    "/usr/lib/openssh/sshd-auth",
    "/usr/libexec/openssh/sshd-session",
    "/usr/libexec/openssh/sshd-auth",
    "/usr/libexec/sshd-session",
    "/usr/libexec/sshd-auth",
    "/usr/lib/ssh/sshd-session",
    "/usr/lib/ssh/sshd-auth",
    "/usr/lib/misc/sshd-session",
    "/usr/lib/misc/sshd-auth",
    "/usr/local/libexec/sshd-session",
    "/usr/local/libexec/sshd-auth",
    "/usr/sbin/dropbear",
    "/usr/bin/dropbear",
    "/usr/local/sbin/dropbear",
    "/usr/sbin/tinysshd",
    "/usr/bin/tinysshd",
    "/usr/local/sbin/tinysshd",
];
/// `cgroup` has one line, or a dozen short ones in the old hierarchies.
const MAX_CGROUP: u64 = 64 << 10;
/// What the kernel says behind the path of a file that has no name any more (`proc_pid_exe(5)`).
const DELETED: &str = " (deleted)";

/// What processes are compared with.
#[derive(Debug)]
pub struct Host {
    /// The network, process and user namespaces of this thread: those whose sockets it lists.
    own: [(&'static str, OsString); 3],
    /// The mount namespaces in which a path means what it means here: the host's, and this one, which differs in what may be written.
    mounts: Vec<OsString>,
    /// Where the host's own cgroups begin, where this is a container.
    cgroup: String,
}

/// What came of proving a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// An SSH server of this host.
    Proven(Proof),
    /// Root's, named like one and of this host, but which file it runs or what it sees proves nothing. People may be in by it.
    Unproven,
    /// Another host's or container's, another user's, or gone.
    Not,
}

/// A process that was proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The program on the disk: the place whose file it runs, or ran until that was replaced.
    pub program: String,
    /// The unit of the system manager that it belongs to.
    pub unit: Option<String>,
    /// Whether it sees another tree of mounts: a path may name another file for it.
    pub own_mounts: bool,
}

impl Host {
    /// As it is now.
    pub fn read() -> io::Result<Self> {
        let thread = |kind: &str| std::fs::read_link(format!("/proc/thread-self/ns/{kind}")).map(Into::into);
        let init = Process::open(1)?;
        Ok(Self {
            own: [("ns/net", thread("net")?), ("ns/pid", thread("pid")?), ("ns/user", thread("user")?)],
            // Where that of process 1 may not be seen, a process counts as one with mounts of its own, which asks for a better proof.
            mounts: [Some(thread("mnt")?), unless_denied(init.link("ns/mnt"))?].into_iter().flatten().collect(),
            cgroup: first_cgroup_of(&init)?,
        })
    }

    /// Who a process is that may be proven at all, which costs little and touches no file of anybody's: root's, and named like one.
    pub fn may_be(process: &Process) -> io::Result<Option<Status>> {
        let exe = process.link("exe");
        let hidden = exe.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
        if !hidden {
            // Threads of the kernel have no such link. Asked before the status, which costs more.
            let Some(exe) = unless_ended(exe)? else { return Ok(None) };
            if !name(&exe.to_string_lossy()).is_some_and(is_ssh_name) {
                return Ok(None);
            }
            return Ok(unless_ended(process.status())?.filter(is_roots));
        }
        // A security module hides it; the name is that of its program (execve(2)), unless root meant otherwise.
        match unless_ended(process.status())?.filter(is_roots) {
            Some(status) if is_ssh_name(&status.name) => {
                let why = format!("the program of {} (pid {}) is hidden from the agent", status.name, process.pid());
                Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// The proof; `parent` is that of its parent, where there is one: what a proven sshd started from a place that only root can write is
    /// a part of it.
    /// An error is no proof and no refutation: what the process is, is unknown.
    pub fn prove(&self, process: &Process, parent: Option<&Proof>) -> io::Result<Judged> {
        let judged = || {
            for (kind, own) in &self.own {
                if process.link(kind)? != *own {
                    return Ok(Judged::Not);
                }
            }
            let proof = self.proof(process, parent)?;
            // It still was root's when all this was read.
            let roots = is_roots(&process.status()?);
            Ok(if roots { proof.map_or(Judged::Unproven, Judged::Proven) } else { Judged::Not })
        };
        Ok(unless_ended(judged())?.unwrap_or(Judged::Not))
    }

    /// Of a process in the host's namespaces.
    fn proof(&self, process: &Process, parent: Option<&Proof>) -> io::Result<Option<Proof>> {
        let Ok(exe) = process.link("exe")?.into_string() else { return Ok(None) };
        let (exe, deleted) = exe.strip_suffix(DELETED).map_or((exe.as_str(), false), |exe| (exe, true));
        let file = process.program()?;
        if file.st_mode & libc::S_IFMT != libc::S_IFREG || file.st_uid != 0 || file.st_mode & 0o022 != 0 {
            return Ok(None);
        }
        let running = (file.st_dev, file.st_ino);
        let unit = self.unit_of(process)?;
        let own_mounts = !self.mounts.contains(&process.link("ns/mnt")?);
        let service = || match unit.as_deref().filter(|unit| unit.ends_with(".service")) {
            Some(unit) => dbus::service_if_booted(unit).map_err(io::Error::other),
            None => Ok(None),
        };
        // Only root can have put a program at a place of root's. It is gone from there since it was started, as after an update: it counts
        // for what it was, and is not run again.
        let was = |place: &str| deleted && exe == place;
        let is = |place: &str| Ok::<_, io::Error>(identity(place)? == Some(running));
        let known = place_of(running, exe)?;
        let mut program = known.or_else(|| PLACES.into_iter().find(|place| was(place))).map(str::to_owned);
        // Mounts of its own: only where the system manager made them, for what it started itself or what that started. That is seen without
        // asking it where the program is the host's own: its child, in the cgroup of one of its units. So is a session whose sshd was
        // restarted since.
        let managed = || Ok::<_, io::Error>(program.is_some() && unit.is_some() && process.status()?.parent == 1);
        let is_main = || Ok::<_, io::Error>(service()?.is_some_and(|service| service.main_pid == process.pid()));
        if own_mounts && parent.is_none() && !managed()? && !is_main()? {
            return Ok(None);
        }
        if program.is_none()
            && let Some((started, _)) = service()?.and_then(|service| service.exec_start)
            && (was(&started) || is(&started)?)
        {
            program = Some(started);
        }
        if program.is_none() && parent.is_some() && (deleted || is(exe)?) {
            program = Some(exe.to_owned());
        }
        let program = program.filter(|program| name(program).is_some_and(is_ssh_name));
        Ok(program.map(|program| Proof { program, unit, own_mounts }))
    }

    /// The unit of the system manager whose process this is; none of one that has ended.
    pub fn unit_of(&self, process: &Process) -> io::Result<Option<String>> {
        Ok(cgroup(process)?.and_then(|cgroup| unit(&cgroup, &self.cgroup)))
    }
}

/// The unit of the system manager whose process this is. Needs no right to look into other processes.
pub fn unit_of(pid: u32) -> io::Result<Option<String>> {
    let first = first_cgroup()?;
    Ok(cgroup(&Process::open(pid)?)?.and_then(|cgroup| unit(&cgroup, &first)))
}

/// None of a process that has ended.
fn cgroup(process: &Process) -> io::Result<Option<String>> {
    let cgroup = unless_ended(process.read("cgroup", MAX_CGROUP))?;
    Ok(cgroup.and_then(|cgroup| path(&String::from_utf8_lossy(&cgroup))))
}

/// Where the host's own cgroups begin: not at the top where this is a container.
pub fn first_cgroup() -> io::Result<String> {
    first_cgroup_of(&Process::open(1)?)
}

fn first_cgroup_of(init: &Process) -> io::Result<String> {
    Ok(cgroup(init)?.unwrap_or_default().strip_suffix("/init.scope").unwrap_or_default().to_owned())
}

/// The place at which this file is now: first of those of the same name, where it mostly is.
fn place_of(running: (u64, u64), exe: &str) -> io::Result<Option<&'static str>> {
    let (same, others): (Vec<_>, Vec<_>) = PLACES.into_iter().partition(|place| name(place) == name(exe));
    for place in same.into_iter().chain(others) {
        if identity(place)? == Some(running) {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// Device and inode of a program of root's; none where there is no such program. Another failure is an error: it may be there.
fn identity(place: &str) -> io::Result<Option<(u64, u64)>> {
    match roots::program(Path::new(place)) {
        Ok(found) => Ok(Some(found.identity())),
        Err(RootsError::Failed { error, .. }) if !matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {
            Err(io::Error::new(error.kind(), format!("cannot open {place}: {error}")))
        }
        Err(error @ RootsError::Unseen { .. }) => Err(io::Error::other(error.to_string())),
        Err(
            RootsError::Failed { .. }
            | RootsError::Missing(_)
            | RootsError::NotRoots { .. }
            | RootsError::NotRegular(_)
            | RootsError::TooLong { .. },
        ) => Ok(None),
    }
}

/// Real and effective: a program with the set-user-ID bit has one of them only.
pub fn is_roots(status: &Status) -> bool {
    status.real_uid == 0 && status.effective_uid == 0
}

/// The name of a program by its path, whether it was deleted or not.
fn name(exe: &str) -> Option<&str> {
    exe.strip_suffix(DELETED).unwrap_or(exe).rsplit('/').next()
}

/// The path in a `/proc/PID/cgroup` (cgroups(7)): on the unified line `0::`, or in systemd's own hierarchy of the old kind, whichever
/// names a unit.
fn path(cgroup: &str) -> Option<String> {
    let paths = || {
        cgroup.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            (number == "0" || controllers == "name=systemd").then_some(path)
        })
    };
    paths().find(|path| path.split('/').any(is_unit)).or_else(|| paths().next()).map(str::to_owned)
}

fn is_unit(part: &str) -> bool {
    [".service", ".scope", ".socket"].iter().any(|kind| part.ends_with(kind))
}

/// The first unit on the path: that of the system manager. What it lets others make below it, it did not make; and whatever is in the
/// cgroup of a user's own manager, `user@1000.service`, is that user's.
fn unit(path: &str, root: &str) -> Option<String> {
    let path = path.strip_prefix(root).unwrap_or(path);
    let first = path.split('/').find(|part| is_unit(part))?;
    (!first.starts_with("user@")).then(|| first.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_unit_is_the_system_managers_and_never_a_users_own() {
        for (cgroup, root, want) in [
            ("0::/system.slice/ssh.service\n", "", Some("ssh.service")),
            ("0::/user.slice/user-0.slice/session-3.scope\n", "", Some("session-3.scope")),
            ("0::/system.slice/foo.service/worker\n", "", Some("foo.service")),
            ("0::/system.slice/foo.service/ssh.service\n", "", Some("foo.service")),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/ssh.service\n", "", None),
            ("0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", "", None),
            ("12:pids:/system.slice/x.service\n1:name=systemd:/system.slice/ssh.service\n", "", Some("ssh.service")),
            ("9:name=systemd:/\n0::/system.slice/ssh.service\n", "", Some("ssh.service")),
            ("9:name=systemd:/system.slice/ssh.service\n0::/\n", "", Some("ssh.service")),
            (
                "0::/machine.slice/machine-a.scope/payload/system.slice/ssh.service\n",
                "/machine.slice/machine-a.scope/payload",
                Some("ssh.service"),
            ),
            ("0::/\n", "", None),
        ] {
            assert_eq!(unit(&path(cgroup).unwrap(), root).as_deref(), want, "{cgroup}");
        }
        assert_eq!(path(""), None);
    }

    #[test]
    fn a_process_that_runs_another_program_is_not_proven_whatever_it_is_called() {
        let folder = tempfile::tempdir().unwrap();
        let sshd = folder.path().join("sshd");
        std::fs::copy("/bin/sleep", &sshd).unwrap();
        let mut child = std::process::Command::new(&sshd).arg("100").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        let roots = nix::unistd::Uid::effective().is_root();
        assert_eq!(Host::may_be(&process).unwrap().is_some(), roots);
        // Of root's it is not known what it is.
        let want = if roots { Judged::Unproven } else { Judged::Not };
        assert_eq!(Host::read().unwrap().prove(&process, None).unwrap(), want);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
