//! Whether this process sees the host's own files at a path. The agent's service has a /tmp of its own (`PrivateTmp=`), and an
//! administrator may hide more from it (`ProtectHome=`, `InaccessiblePaths=`): what is not seen there is not missing, and what is seen
//! there is not what the host's sshd reads. Reads no content; decides nothing about what is found.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, fstat};

const FOLDER: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
/// What systemd.exec(5) hides from a service (`ProtectHome=`). In the folders of all users that it gives it of its own (`PrivateTmp=`) nothing
/// is root's alone, nor missing for certain, whoever looks.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// Whether this process judges a copy of the host in mounts of its own, and not the host.
static OWN: AtomicBool = AtomicBool::new(false);

/// From here on what is seen here is what is judged: a drill, whose files are copies that the host does not have.
pub fn judge_own() {
    OWN.store(true, Ordering::Relaxed);
}

/// What this process sees, beside what process 1 sees.
#[derive(Debug)]
pub enum View {
    /// The same: both are in one mount namespace, or a copy is judged.
    Same,
    /// It has mounts of its own. Here is the root folder of process 1.
    Own(OwnedFd),
    /// Process 1 may not be looked at: a unit of sshfix that judges nothing, or a security module is in the way.
    Hidden,
}

impl View {
    /// As it is now; an error is why that cannot be told.
    pub fn read() -> Result<Self, String> {
        if OWN.load(Ordering::Relaxed) {
            return Ok(View::Same);
        }
        let text = |error: io::Error| format!("whether the agent sees what the host sees is not known: {error}");
        let own = std::fs::read_link("/proc/thread-self/ns/mnt").map_err(text)?;
        match std::fs::read_link("/proc/1/ns/mnt") {
            Ok(hosts) if hosts == own => return Ok(View::Same),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(View::Hidden),
            Err(error) => return Err(text(error)),
        }
        match open("/proc/1/root", FOLDER, Mode::empty()) {
            Ok(root) => Ok(View::Own(root)),
            Err(Errno::EACCES | Errno::EPERM) => Ok(View::Hidden),
            Err(errno) => Err(text(errno.into())),
        }
    }

    /// What must stay open to compare with.
    pub fn root(&self) -> Option<BorrowedFd<'_>> {
        match self {
            View::Own(root) => Some(root.as_fd()),
            View::Same | View::Hidden => None,
        }
    }

    /// Whether the host has the very same file or folder at this path, or nothing where nothing is seen here; else why not. Links are
    /// followed as each of the two sees them.
    pub fn require_same(&self, path: &Path) -> Result<(), String> {
        let root = match self {
            View::Same => return Ok(()),
            View::Hidden => return if HOMES.iter().any(|top| path.starts_with(top)) { Err(other(path)) } else { Ok(()) },
            View::Own(root) => root,
        };
        let here = open("/", FOLDER, Mode::empty()).map_err(|errno| format!("cannot open /: {}", errno.desc()))?;
        let differs = || at(here.as_fd(), path) != at(root.as_fd(), path);
        // Twice, since somebody may just have replaced it.
        if differs() && differs() { Err(other(path)) } else { Ok(()) }
    }
}

/// Whether this process sees the host's own file at a path; else why not.
pub fn require_same(path: &Path) -> Result<(), String> {
    View::read()?.require_same(path)
}

/// The mount points of the host: where file systems and folders are mounted, as often as something is mounted there. None where a copy is
/// judged, whose mounts say nothing.
pub fn mount_points() -> io::Result<Vec<PathBuf>> {
    if OWN.load(Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let table = std::fs::read("/proc/1/mountinfo")?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(mount_point).collect())
}

/// Of a line of `proc_pid_mountinfo(5)`: the fifth field, in which blanks and the like are written as octal numbers.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|byte| *byte == b' ').nth(4)?;
    let mut parts = field.split(|byte| *byte == b'\\');
    let mut path = parts.next()?.to_vec();
    for part in parts {
        let (number, rest) = part.split_at_checked(3)?;
        path.push(u8::from_str_radix(std::str::from_utf8(number).ok()?, 8).ok()?);
        path.extend(rest);
    }
    Some(PathBuf::from(OsString::from_vec(path)))
}

fn other(path: &Path) -> String {
    let mut parts = path.components();
    let top: PathBuf = parts.by_ref().take(2).collect();
    let top = top.display();
    format!("the agent's service sees another {top} than the host: see PrivateTmp= and ProtectHome= of its unit")
}

/// Device and inode of what stands at a path below a root folder.
fn at(root: BorrowedFd<'_>, path: &Path) -> Result<(u64, u64), Errno> {
    let how = |resolve| OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
    let found = match openat2(root, path, how(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)) {
        // Before Linux 5.6. A link to an absolute path is followed in this process's own root then.
        Err(Errno::ENOSYS) => {
            let relative = path.strip_prefix("/").unwrap_or(path);
            nix::fcntl::openat(root, relative, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?
        }
        found => found?,
    };
    let stat = fstat(&found)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn mount_points_are_read_with_their_blanks() {
        let point = |line: &str| mount_point(line.as_bytes()).map(|path| path.display().to_string());
        assert_eq!(point("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw").as_deref(), Some("/mnt2"));
        assert_eq!(point("36 35 98:0 / /etc/my\\040ssh\\134x rw - tmpfs none rw").as_deref(), Some("/etc/my ssh\\x"));
        assert_eq!(point(""), None);
    }

    #[test]
    fn another_root_shows_the_same_only_where_it_has_the_very_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let host = at("host");
        // What a service with a folder of its own at this very path would see, beside the host.
        let inside = |path: &Path| host.join(path.strip_prefix("/").unwrap());
        fs::create_dir_all(inside(folder.path())).unwrap();
        fs::write(at("own"), "text").unwrap();
        fs::write(at("both"), "text").unwrap();
        fs::hard_link(at("both"), inside(&at("both"))).unwrap();
        fs::write(inside(&at("hosts")), "text").unwrap();
        symlink(at("both"), at("link")).unwrap();
        symlink(at("both"), inside(&at("link"))).unwrap();
        let view = View::Own(open(&host, FOLDER, Mode::empty()).unwrap());
        for (name, same) in
            [("own", false), ("hosts", false), ("both", true), ("link", true), ("nothing", true), ("both/x", true)]
        {
            assert_eq!(view.require_same(&at(name)).is_ok(), same, "{name}");
        }
        let why = view.require_same(&at("own")).unwrap_err();
        assert!(why.contains("PrivateTmp="), "{why}");
        assert!(View::Same.require_same(&at("own")).is_ok());
        assert!(View::Hidden.require_same(Path::new("/etc/ssh/x")).is_ok());
        for hidden in ["/home/a/x", "/root", "/run/user/1000/x"] {
            assert!(View::Hidden.require_same(Path::new(hidden)).is_err(), "{hidden}");
        }
    }
}
