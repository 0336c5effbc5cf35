//! One process, held by a descriptor of its folder in /proc: what is read and signalled through it is that process and never another one
//! that got its id (proc(5), `pidfd_send_signal(2)`). Reads cheap facts only; decides nothing about who it is.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::Pid;

/// `status` is some 1.5 kB.
const MAX_STATUS: u64 = 16 << 10;
/// An sshd has a file for each of those who wait at its door.
const MAX_LATER: usize = 10_000;
/// A number for each.
const MAX_CHILDREN: u64 = 1 << 20;

/// A process, alive when it was opened.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    folder: OwnedFd,
}

/// The lines of `proc_pid_status(5)` that say who a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// `Name`, as the kernel escapes it.
    pub name: String,
    /// `PPid`.
    pub parent: u32,
    /// The first of `Uid`.
    pub real_uid: u32,
    /// The second.
    pub effective_uid: u32,
}

/// What `proc_pid_status(5)` says of its life and of its signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signals {
    /// It has ended, and nobody has taken note of that yet (`State`).
    pub ended: bool,
    /// It has a handler for SIGHUP (`SigCgt`).
    pub catches_hangup: bool,
}

impl Process {
    /// By its id now.
    pub fn open(pid: u32) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = nix::fcntl::open(format!("/proc/{pid}").as_str(), flags, Mode::empty())?;
        Ok(Self { pid, folder })
    }

    /// Its id while it lives.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Who it is.
    pub fn status(&self) -> io::Result<Status> {
        let text = self.read("status", MAX_STATUS)?;
        status(&String::from_utf8_lossy(&text)).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
    }

    /// Whether it lives, and what it does at SIGHUP.
    pub fn signals(&self) -> io::Result<Signals> {
        let text = self.read("status", MAX_STATUS)?;
        signals(&String::from_utf8_lossy(&text)).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
    }

    /// The inodes of its sockets but those that it writes to: its first three files. Of no more than [`MAX_LATER`] files.
    pub fn later_sockets(&self) -> io::Result<BTreeSet<u32>> {
        let mut found = BTreeSet::new();
        self.each_file(MAX_LATER, |number, target| {
            if number > 2 {
                found.extend(socket(&target));
            }
        })?;
        Ok(found)
    }

    /// A file of its folder, up to so many bytes.
    pub fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let file = File::from(openat(&self.folder, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?);
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The text of a link of its folder: `exe`, `ns/net`. Touches no file that it leads to.
    pub fn link(&self, name: &str) -> io::Result<OsString> {
        Ok(readlinkat(&self.folder, name)?)
    }

    /// The file that it runs, by its open descriptor. On a file server that is gone this hangs: ask it of root's processes only.
    pub fn program(&self) -> io::Result<FileStat> {
        let file = openat(&self.folder, "exe", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(fstat(&file)?)
    }

    /// Its root folder, to look at files as it sees them. The same holds here.
    pub fn root(&self) -> io::Result<OwnedFd> {
        Ok(openat(&self.folder, "root", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    /// Its children (`proc_pid_task_children(5)`: of its first thread, which of an sshd is the only one); `None` where the kernel does not say.
    pub fn children(&self) -> io::Result<Option<Vec<u32>>> {
        let text = match self.read(&format!("task/{}/children", self.pid), MAX_CHILDREN) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) && self.status().is_ok() => return Ok(None),
            text => text?,
        };
        if u64::try_from(text.len()).is_ok_and(|length| length >= MAX_CHILDREN) {
            return Err(io::Error::other(format!("process {} has too many children to look at", self.pid)));
        }
        let parsed = String::from_utf8_lossy(&text).split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>();
        parsed.map(Some).map_err(io::Error::other)
    }

    /// The inodes of its sockets among its first `limit` open files, and how many files were looked at.
    pub fn sockets(&self, limit: usize) -> io::Result<(Vec<u32>, usize)> {
        let mut found = Vec::new();
        let looked = self.each_file(limit, |_, target| found.extend(socket(&target)))?;
        Ok((found, looked))
    }

    /// The same without the sockets that are none of TCP.
    pub fn tcp_sockets(&self, limit: usize) -> io::Result<(Vec<u32>, usize)> {
        let mut found = Vec::new();
        let looked = self.each_file(limit, |number, target| found.extend(socket(&target).filter(|_| self.is_tcp(number))))?;
        Ok((found, looked))
    }

    /// Whether an open file, which is a socket, is one of TCP, by the name of its protocol (`net/socket.c`, `sockfs_xattr_get`: `TCP`, `TCPv6`,
    /// `MPTCP`, ...). Where that cannot be read, it may be.
    fn is_tcp(&self, number: u32) -> bool {
        let Ok(path) = CString::new(format!("/proc/self/fd/{}/fd/{number}", self.folder.as_raw_fd())) else { return true };
        let mut protocol = [0u8; 32];
        // SAFETY: both names end with a zero byte, and the kernel writes at most the length of the buffer into it.
        let length = unsafe {
            libc::getxattr(path.as_ptr(), c"system.sockprotoname".as_ptr(), protocol.as_mut_ptr().cast(), protocol.len())
        };
        let name = usize::try_from(length).ok().and_then(|length| protocol.get(..length));
        name.is_none_or(|name| name.windows(3).any(|part| part == b"TCP"))
    }

    /// The numbers and links of its first `limit` open files, and how many there were.
    fn each_file(&self, limit: usize, mut seen: impl FnMut(u32, OsString)) -> io::Result<usize> {
        let mut folder = Dir::openat(&self.folder, "fd", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let at = openat(&self.folder, "fd", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let mut looked = 0;
        for entry in folder.iter().take(limit.saturating_add(2)) {
            let entry = entry?;
            let Some(number) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) else { continue };
            looked += 1;
            match readlinkat(&at, entry.file_name()) {
                Ok(target) => seen(number, target),
                // It was closed meanwhile.
                Err(Errno::ENOENT | Errno::ESRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(looked)
    }

    /// Sends it SIGHUP or SIGTERM, and nobody else. No other signal is sent by sshfix.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let number = match signal {
            Signal::SIGHUP => libc::SIGHUP,
            Signal::SIGTERM => libc::SIGTERM,
            _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        // SAFETY: the descriptor is open, the null pointer stands for "as kill(2) would", and there are no flags.
        let sent = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.folder.as_raw_fd(), number, std::ptr::null::<libc::siginfo_t>(), 0)
        };
        if sent == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        // Before Linux 5.1.
        if error.raw_os_error() == Some(libc::ENOSYS) && self.status().is_ok() {
            let pid = i32::try_from(self.pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
            return Ok(kill(Pid::from_raw(pid), signal)?);
        }
        Err(error)
    }
}

/// `socket:[INODE]`
fn socket(target: &OsStr) -> Option<u32> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn signals(text: &str) -> Option<Signals> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let caught = u64::from_str_radix(field("SigCgt")?, 16).ok()?;
    Some(Signals { ended: field("State")?.starts_with(['Z', 'X', 'x']), catches_hangup: caught & 1 == 1 })
}

fn status(text: &str) -> Option<Status> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_start);
    let mut uids = field("Uid")?.split_whitespace().map(str::parse);
    Some(Status {
        name: field("Name")?.to_owned(),
        parent: field("PPid")?.parse().ok()?,
        real_uid: uids.next()?.ok()?,
        effective_uid: uids.next()?.ok()?,
    })
}

/// Whose process this is, at the price of one `stat`: its effective user's, or root's where it may not be dumped (`proc_pid(5)`). `None` where it
/// has ended. One that is not root's here is not root's at all.
pub fn owner(pid: u32) -> io::Result<Option<u32>> {
    Ok(unless_ended(std::fs::metadata(format!("/proc/{pid}")))?.map(|folder| folder.uid()))
}

/// The ids of all processes.
pub fn pids() -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        // Whatever is no number is no process.
        pids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(pids)
}

/// What was read of a process; `None` where this one may not look at it.
pub fn unless_denied<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        read => read.map(Some),
    }
}

/// What was read of a process; `None` where it has ended meanwhile, which is no failure.
pub fn unless_ended<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_status_is_read_line_by_line_whatever_the_name_is() {
        let text = "Name:\tsshd\\nUid: 0 0\nUmask:\t0022\nPPid:\t12\nUid:\t1000\t0\t0\t0\n";
        let want = Status { name: "sshd\\nUid: 0 0".to_owned(), parent: 12, real_uid: 1000, effective_uid: 0 };
        assert_eq!(status(text), Some(want));
        assert_eq!(status("Name:\tx\nPPid:\t1\nUid:\t\n"), None);
    }

    #[test]
    fn the_signals_and_the_end_of_a_process_are_read() {
        let text = |state: &str, caught: &str| signals(&format!("Name:\tSigCgt:\nState:\t{state}\nSigCgt:\t{caught}\n"));
        assert_eq!(text("S (sleeping)", "0000000180014005"), Some(Signals { ended: false, catches_hangup: true }));
        assert_eq!(text("Z (zombie)", "0000000000000000"), Some(Signals { ended: true, catches_hangup: false }));
        assert_eq!(text("S (sleeping)", "x"), None);
        let own = Process::open(std::process::id()).unwrap();
        let before = own.later_sockets().unwrap();
        let _socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(own.later_sockets().unwrap().difference(&before).count() >= 1 && !own.signals().unwrap().ended);
    }

    #[test]
    fn only_the_end_of_a_process_is_no_failure() {
        let failed = |errno: i32| unless_ended::<()>(Err(io::Error::from_raw_os_error(errno)));
        assert!(matches!(failed(libc::ENOENT), Ok(None)) && matches!(failed(libc::ESRCH), Ok(None)));
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EIO, libc::EACCES] {
            assert_eq!(failed(errno).unwrap_err().raw_os_error(), Some(errno));
        }
        assert!(pids().unwrap().contains(&std::process::id()));
    }

    #[test]
    fn only_sockets_of_tcp_are_told_apart_and_children_are_known() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let others = (std::os::unix::net::UnixStream::pair().unwrap(), std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let mut child = std::process::Command::new("/bin/sleep").arg("100").spawn().unwrap();
        let process = Process::open(std::process::id()).unwrap();
        let inode = u32::try_from(std::fs::metadata(format!("/proc/self/fd/{}", tcp.as_raw_fd())).unwrap().ino()).unwrap();
        let unix = u32::try_from(std::fs::metadata(format!("/proc/self/fd/{}", others.0.0.as_raw_fd())).unwrap().ino()).unwrap();
        let (found, all) = (process.tcp_sockets(10_000).unwrap().0, process.sockets(10_000).unwrap().0);
        assert!(found.contains(&inode) && !found.contains(&unix), "{found:?}");
        assert!(all.contains(&inode) && all.contains(&unix));
        // Tests run on threads, and children are their threads' own.
        let own = Process::open(child.id()).unwrap();
        assert_eq!(own.children().unwrap(), Some(Vec::new()));
        assert_eq!(owner(child.id()).unwrap(), Some(nix::unistd::geteuid().as_raw()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(owner(child.id()).unwrap(), None);
        assert!(own.children().is_err());
    }

    #[test]
    fn a_process_that_ended_is_not_the_next_one() {
        let mut child = std::process::Command::new("/bin/sleep").arg("100").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        // fs/exec.c, `begin_new_exec`: whoever waits in vfork goes on before the name is set.
        while process.status().unwrap().name != "sleep" {
            std::thread::yield_now();
        }
        process.sockets(10).unwrap();
        assert_eq!(process.link("ns/pid").unwrap(), std::fs::read_link("/proc/self/ns/pid").unwrap().into_os_string());
        process.signal(Signal::SIGTERM).unwrap();
        child.wait().unwrap();
        assert!(process.status().is_err() && process.program().is_err() && process.signal(Signal::SIGTERM).is_err());
    }
}
