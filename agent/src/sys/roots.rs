//! Files that only root can have put where they are: every folder and every symbolic link on the way is root's, and nobody else can
//! replace one of them. Each part of the path is opened in the folder before it and looked at on the open descriptor. What is not
//! root's is not read, and its content never appears in an error. Writes nothing.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::Uid;
use thiserror::Error;

use super::view;

/// As many as the kernel follows (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// Why a file was not opened.
#[derive(Debug, Error)]
pub enum RootsError {
    /// There is no such file, and only root could make it.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// Somebody else than root decides what stands there.
    #[error("{}: {why}; sshfix reads nothing of it", at.display())]
    NotRoots {
        /// The part of the path that is not root's.
        at: PathBuf,
        /// What is wrong with it and how to put it right.
        why: String,
    },
    /// The host has something else there than this process sees.
    #[error("{}: {why}", path.display())]
    Unseen {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Root's, but a folder, a device, a pipe or a socket.
    #[error("{} is no regular file", .0.display())]
    NotRegular(PathBuf),
    /// Longer than anybody needs.
    #[error("{} is longer than {limit} bytes", path.display())]
    TooLong {
        /// Which.
        path: PathBuf,
        /// The bound.
        limit: u64,
    },
    /// The kernel said no.
    #[error("cannot open {}: {error}", path.display())]
    Failed {
        /// Which.
        path: PathBuf,
        /// Its words.
        error: io::Error,
    },
}

/// What stands at a path that is root's all the way.
#[derive(Debug)]
pub struct Found {
    /// Opened with `O_PATH`: which file it is, and nothing of its content.
    pub file: OwnedFd,
    /// Of the open descriptor.
    pub stat: FileStat,
    /// Its path without symbolic links.
    pub real: PathBuf,
    /// The folder that it lies in, to open it for reading.
    folder: OwnedFd,
}

impl Found {
    /// Device and inode.
    pub fn identity(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// Whether it is a regular file.
    pub fn is_regular(&self) -> bool {
        self.stat.st_mode & libc::S_IFMT == libc::S_IFREG
    }

    /// Whether it is a pipe, at which a reader waits for a writer.
    pub fn is_pipe(&self) -> bool {
        self.stat.st_mode & libc::S_IFMT == libc::S_IFIFO
    }

    /// Whether others than root can write to it.
    pub fn writable_by_others(&self) -> bool {
        self.stat.st_mode & 0o022 != 0
    }
}

/// What stands at this absolute path: a file or a folder that is root's, whoever may write to it. Where the host has something else there
/// than this process sees, neither what is seen nor that nothing is there is a fact.
pub fn find(path: &Path) -> Result<Found, RootsError> {
    let root = nix::fcntl::open("/", FOLDER, Mode::empty()).map_err(failed(Path::new("/")))?;
    let found = find_below(root, path);
    match view::require_same(path) {
        Ok(()) => found,
        Err(why) => Err(RootsError::Unseen { path: path.into(), why }),
    }
}

const FOLDER: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// The same as a process with another root folder sees it.
pub fn find_below(root: OwnedFd, path: &Path) -> Result<Found, RootsError> {
    if !path.is_absolute() {
        return Err(RootsError::NotRoots { at: path.into(), why: "not an absolute path".to_owned() });
    }
    let mut walk = Walk::from(root)?;
    walk.add(path);
    while let Some(part) = walk.todo.pop() {
        if let Some(found) = walk.step(&part, path)? {
            return Ok(found);
        }
    }
    // A folder.
    let (Some(last), before) = (walk.folders.pop(), walk.folders.pop()) else { return Err(RootsError::Missing(path.into())) };
    let folder = before.map_or_else(|| last.fd.try_clone(), |before| Ok(before.fd));
    let folder = folder.map_err(|error| RootsError::Failed { path: path.into(), error })?;
    Ok(Found { file: last.fd, stat: last.stat, real: last.path, folder })
}

/// One part of a path: a folder, a link or a file, itself and not what it leads to.
#[derive(Debug)]
pub struct Part {
    /// Its path without symbolic links.
    pub path: PathBuf,
    /// Its own status.
    pub stat: FileStat,
    /// That of the folder it lies in.
    pub folder: FileStat,
}

/// What stands on the way to a path.
#[derive(Debug)]
pub struct Way {
    /// Every folder below `/`, every link and the file, as they are walked.
    pub parts: Vec<Part>,
    /// Where the way ends before the path does: the folder in which its next part is missing.
    pub ends_in: Option<FileStat>,
}

/// Every part of the way to a path, each of them root's, whether something stands at its end or not.
pub fn way(path: &Path) -> Result<Way, RootsError> {
    let root = nix::fcntl::open("/", FOLDER, Mode::empty()).map_err(failed(Path::new("/")))?;
    let mut walk = Walk::from(root)?;
    walk.add(path);
    while let Some(part) = walk.todo.pop() {
        match walk.step(&part, path) {
            Ok(None) => {}
            Ok(Some(_)) => break,
            Err(RootsError::Missing(_)) => {
                let ends_in = walk.folders.last().map(|folder| folder.stat);
                return Ok(Way { parts: walk.parts, ends_in });
            }
            // A file in the place of a folder: it is the last part.
            Err(RootsError::Failed { error, .. }) if error.raw_os_error() == Some(libc::ENOTDIR) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(Way { parts: walk.parts, ends_in: None })
}

/// Reads a regular file that is root's all the way and that nobody else can write.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, RootsError> {
    let found = find(path)?;
    if !found.is_regular() {
        return Err(RootsError::NotRegular(path.into()));
    }
    if found.writable_by_others() {
        return Err(writable(&found.real, &found.stat));
    }
    let name = found.real.file_name().unwrap_or_default();
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = File::from(openat(&found.folder, name, flags, Mode::empty()).map_err(failed(path))?);
    let stat = fstat(&file).map_err(failed(path))?;
    // Only root can put another one there, and did just now.
    if (stat.st_dev, stat.st_ino) != found.identity() {
        return Err(RootsError::Failed { path: path.into(), error: io::Error::from_raw_os_error(libc::ESTALE) });
    }
    let mut bytes = Vec::new();
    let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| RootsError::Failed { path: path.into(), error })?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= limit) {
        return Ok(bytes);
    }
    Err(RootsError::TooLong { path: path.into(), limit })
}

/// A program to be run from its open descriptor: a regular file that is root's all the way and that nobody else can write.
pub fn program(path: &Path) -> Result<Found, RootsError> {
    let found = find(path)?;
    if !found.is_regular() {
        return Err(RootsError::NotRegular(path.into()));
    }
    if found.writable_by_others() { Err(writable(&found.real, &found.stat)) } else { Ok(found) }
}

fn writable(at: &Path, stat: &FileStat) -> RootsError {
    let why = format!("others than root can write it (mode {:04o}); `chmod go-w` it", stat.st_mode & 0o7777);
    RootsError::NotRoots { at: at.into(), why }
}

fn failed(path: &Path) -> impl FnOnce(Errno) -> RootsError {
    move |errno| RootsError::Failed { path: path.into(), error: errno.into() }
}

/// A folder on the way, open.
struct Folder {
    fd: OwnedFd,
    path: PathBuf,
    stat: FileStat,
    /// Others can put their own files into it, though they cannot replace root's (inode(7), sticky bit).
    shared: bool,
}

impl Folder {
    fn enter(fd: OwnedFd, path: PathBuf) -> Result<Self, RootsError> {
        let stat = fstat(&fd).map_err(failed(&path))?;
        require_owner(&stat, &path)?;
        let shared = stat.st_mode & 0o022 != 0;
        if shared && stat.st_mode & libc::S_ISVTX == 0 {
            let why = "a folder that others than root can write; `chmod go-w` it".to_owned();
            return Err(RootsError::NotRoots { at: path, why });
        }
        Ok(Self { fd, path, stat, shared })
    }
}

struct Walk {
    /// The folders above, the innermost last.
    folders: Vec<Folder>,
    /// The parts that are left, the next one last.
    todo: Vec<OsString>,
    links: usize,
    /// What was walked so far.
    parts: Vec<Part>,
}

impl Walk {
    fn from(root: OwnedFd) -> Result<Self, RootsError> {
        let root = Folder::enter(root, PathBuf::from("/"))?;
        Ok(Self { folders: vec![root], todo: Vec::new(), links: 0, parts: Vec::new() })
    }

    fn add(&mut self, path: &Path) {
        let parts = path.components().rev().filter_map(|component| match component {
            Component::Normal(part) => Some(part.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
        });
        self.todo.extend(parts);
        if path.is_absolute() {
            self.folders.truncate(1);
        }
    }

    /// One part further; the file, where it is one.
    fn step(&mut self, part: &OsStr, whole: &Path) -> Result<Option<Found>, RootsError> {
        if part == ".." {
            if self.folders.len() > 1 {
                self.folders.pop();
            }
            return Ok(None);
        }
        let Some(here) = self.folders.last() else { return Err(RootsError::Missing(whole.into())) };
        let at = here.path.join(part);
        let fd = match openat(&here.fd, part, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(fd) => fd,
            // Anybody could make it a moment later.
            Err(Errno::ENOENT) if here.shared => {
                let why = "not there, and in a folder that others than root can write".to_owned();
                return Err(RootsError::NotRoots { at, why });
            }
            Err(Errno::ENOENT) => return Err(RootsError::Missing(whole.into())),
            Err(errno) => return Err(failed(&at)(errno)),
        };
        let stat = fstat(&fd).map_err(failed(&at))?;
        require_owner(&stat, &at)?;
        self.parts.push(Part { path: at.clone(), stat, folder: here.stat });
        let not_roots = |why: &str| Err(RootsError::NotRoots { at: at.clone(), why: why.to_owned() });
        match stat.st_mode & libc::S_IFMT {
            // Anybody can mount a file system of their own making on a folder of theirs (fusermount(1)).
            libc::S_IFDIR if here.shared && stat.st_dev != here.stat.st_dev => {
                not_roots("a file system that is mounted in a folder that others than root can write")
            }
            libc::S_IFDIR => {
                let folder = Folder::enter(fd, at)?;
                self.folders.push(folder);
                Ok(None)
            }
            // In a shared folder anybody can give a file of root's another name (link(2)).
            _ if here.shared => not_roots("in a folder that others than root can write"),
            libc::S_IFLNK => {
                // A link of `proc_pid_root(5)` leads somewhere else than its text says.
                if fstatfs(fd.as_fd()).map_err(failed(&at))?.filesystem_type() == PROC_SUPER_MAGIC {
                    return not_roots("a link of /proc");
                }
                self.links += 1;
                if self.links > MAX_LINKS {
                    return Err(failed(whole)(Errno::ELOOP));
                }
                let target = readlinkat(&fd, "").map_err(failed(&at))?;
                self.add(Path::new(&target));
                Ok(None)
            }
            _ if !self.todo.is_empty() => Err(failed(&at)(Errno::ENOTDIR)),
            _ => {
                let folder = here.fd.try_clone().map_err(|error| RootsError::Failed { path: at.clone(), error })?;
                Ok(Some(Found { file: fd, stat, real: at, folder }))
            }
        }
    }
}

/// Root, or whom the agent runs as.
fn require_owner(stat: &FileStat, at: &Path) -> Result<(), RootsError> {
    if stat.st_uid == 0 || stat.st_uid == Uid::effective().as_raw() {
        return Ok(());
    }
    let why = format!("owned by user {}, not by root; `chown root` it", stat.st_uid);
    Err(RootsError::NotRoots { at: at.into(), why })
}

/// Whether a path names something below a folder, by its parts alone.
pub fn is_below(path: &Path, folder: &Path) -> bool {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    plain && path != folder && path.starts_with(folder) && !path.as_os_str().as_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[track_caller]
    fn not_roots(path: &Path, word: &str) {
        let error = read(path, 100).unwrap_err();
        assert!(matches!(error, RootsError::NotRoots { .. }) && error.to_string().contains(word), "{error}");
    }

    #[test]
    fn links_of_roots_are_followed_and_what_others_can_replace_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a", "a/b", "shared", "theirs"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("a/b/file"), "text").unwrap();
        symlink("a/./b", at("relative")).unwrap();
        symlink(at("relative").join("../b/file"), at("absolute")).unwrap();
        assert_eq!(read(&at("a/b/file"), 4).unwrap(), b"text");
        assert_eq!(read(&at("relative/file"), 4).unwrap(), b"text");
        assert_eq!(read(&at("absolute"), 4).unwrap(), b"text");
        assert_eq!(find(&at("absolute")).unwrap().real, fs::canonicalize(at("a/b/file")).unwrap());
        assert_eq!(find(&at("a")).unwrap().real, fs::canonicalize(at("a")).unwrap());
        assert!(matches!(read(&at("a/b/file"), 3), Err(RootsError::TooLong { .. })));
        assert!(matches!(read(&at("a/b"), 3), Err(RootsError::NotRegular(_))));
        assert!(matches!(read(&at("a/none/file"), 3), Err(RootsError::Missing(_))));
        assert!(matches!(read(Path::new("relative"), 3), Err(RootsError::NotRoots { .. })));
        symlink(at("loop"), at("loop")).unwrap();
        assert!(matches!(read(&at("loop"), 3), Err(RootsError::Failed { .. })));
        not_roots(Path::new("/proc/self/root/etc/hosts"), "a link of /proc");

        mode(&at("shared"), 0o1777);
        fs::hard_link(at("a/b/file"), at("shared/file")).unwrap();
        symlink(at("a/b/file"), at("shared/link")).unwrap();
        not_roots(&at("shared/file"), "in a folder that others than root can write");
        not_roots(&at("shared/link"), "in a folder that others than root can write");
        not_roots(&at("shared/none"), "not there, and in a folder");
        mode(&at("shared"), 0o777);
        not_roots(&at("shared/file"), "a folder that others than root can write; `chmod go-w` it");
        mode(&at("a/b/file"), 0o664);
        not_roots(&at("a/b/file"), "(mode 0664)");
        if Uid::effective().is_root() {
            mode(&at("a/b/file"), 0o644);
            for theirs in ["theirs", "relative"] {
                std::os::unix::fs::lchown(at(theirs), Some(1000), None).unwrap();
            }
            not_roots(&at("relative/file"), "owned by user 1000");
            not_roots(&at("theirs/none"), "owned by user 1000");
            chown(at("a/b/file"), Some(1000), None).unwrap();
            not_roots(&at("a/b/file"), "owned by user 1000");
        }
    }

    #[test]
    fn the_way_to_a_path_is_its_folders_its_links_and_where_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir_all(top.join("v1")).unwrap();
        fs::write(top.join("v1/a"), "").unwrap();
        symlink("v1", top.join("current")).unwrap();
        let parts = |path: &str| {
            let way = way(&top.join(path)).unwrap();
            let below = way.parts.iter().filter_map(|part| part.path.strip_prefix(&top).ok());
            let names: Vec<String> = below.map(|path| path.display().to_string()).filter(|name| !name.is_empty()).collect();
            (names.join(" "), way.ends_in.is_some())
        };
        assert_eq!(parts("current/a"), ("current v1 v1/a".to_owned(), false));
        assert_eq!(parts("v1/../current/b"), ("v1 current v1".to_owned(), true));
        assert_eq!(parts("v1/a/x"), ("v1 v1/a".to_owned(), false));
        assert_eq!(parts("none/x"), (String::new(), true));
    }

    #[test]
    fn below_a_folder_is_told_by_whole_parts() {
        let below = |path: &str| is_below(Path::new(path), Path::new("/etc/ssh"));
        assert!(below("/etc/ssh/sshd_config") && below("/etc/ssh/sshd_config.d/a.conf"));
        for path in ["/etc/ssh", "/etc/sshfix/x", "/etc/hosts.deny", "/etc/ssh/../hosts.deny", "etc/ssh/x"] {
            assert!(!below(path), "{path}");
        }
    }
}
