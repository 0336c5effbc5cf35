//! Files that root trusts: opened once and checked on the open descriptor, read within a bound, replaced atomically.
//! At any instant a path holds the old or the new content, whole. Must not follow a symbolic link when it writes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat, renameat2};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fchmod, fstat};
use nix::unistd::{AccessFlags, Gid, Uid, UnlinkatFlags, access, fchown, fsync, unlinkat};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub mod kept;

use kept::Kept;

/// The longest value of an extended attribute (`XATTR_SIZE_MAX`, `linux/limits.h`).
const XATTR_SIZE_MAX: usize = 65536;

/// A file that passed the checks, as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Which file it was.
    pub identity: Identity,
}

/// Tells one file, and one version of it, from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Bytes.
    pub size: i64,
    /// Last change of content or metadata, in seconds and nanoseconds since 1970.
    pub changed: (i64, i64),
}

/// A file read for what it says to other programs, whoever may write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Why [`replace`] would refuse it, where it would.
    pub not_replaceable: Option<String>,
}

/// Why a file was not read or not written. Nothing was changed, unless the message says otherwise.
#[derive(Debug, Error)]
pub enum FileError {
    /// There is no such file.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// It is there, but must not be trusted.
    #[error("{}: {why}; it was left alone", path.display())]
    Refused {
        /// Which.
        path: PathBuf,
        /// What is wrong with it and how to put it right.
        why: String,
    },
    /// Longer than anybody needs.
    #[error("{} is longer than {limit} bytes; it was left alone", path.display())]
    TooLong {
        /// Which.
        path: PathBuf,
        /// The bound.
        limit: u64,
    },
    /// Somebody else wrote it meanwhile.
    #[error("{} is not as it was when the change was planned; it was left as it is", .0.display())]
    Drifted(PathBuf),
    /// The kernel said no.
    #[error("cannot {doing} {}: {error}; it was left as it was", path.display())]
    Failed {
        /// Which.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The kernel's words.
        error: io::Error,
    },
    /// The new content is in place, but is not known to be on the disk yet.
    #[error("{} was written, but fsync of its folder failed, so a power cut may bring the old content back: {error}", path.display())]
    NotSynced {
        /// Which.
        path: PathBuf,
        /// The kernel's words.
        error: io::Error,
    },
}

fn refused(at: &Path, why: &str) -> FileError {
    FileError::Refused { path: at.into(), why: why.to_owned() }
}

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(Errno) -> FileError {
    move |errno| FileError::Failed { path: path.into(), doing, error: errno.into() }
}

fn failed_io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> FileError {
    move |error| FileError::Failed { path: path.into(), doing, error }
}

/// Reads a file that must be trusted: regular, owned by root, writable by root alone, and no symbolic link in its whole path.
pub fn read_checked(path: &Path, limit: u64) -> Result<Checked, FileError> {
    let (folder, name) = open_parent(path)?;
    let file = open_checked(&folder, &name, path)?;
    let bytes = read_bounded(&file, path, limit)?;
    let stat = fstat(&file).map_err(failed(path, "look at"))?;
    Ok(Checked { bytes, identity: identity(&stat) })
}

/// Reads a file as other programs do: symbolic links are followed and anybody may own it, but it must be regular.
/// Says besides why it could not be replaced.
pub fn read_followed(path: &Path, limit: u64) -> Result<Followed, FileError> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match nix::fcntl::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOENT) => return Err(FileError::Missing(path.into())),
        Err(errno) => return Err(failed(path, "open")(errno)),
    };
    let stat = fstat(&file).map_err(failed(path, "look at"))?;
    require_regular(&stat, path)?;
    let bytes = read_bounded(&file, path, limit)?;
    Ok(Followed { bytes, not_replaceable: not_replaceable(path) })
}

/// Why [`replace`] would refuse this file, where it would.
pub fn not_replaceable(path: &Path) -> Option<String> {
    let checked = open_parent(path).and_then(|(folder, name)| open_checked(&folder, &name, path));
    checked.err().map(|error| match error {
        FileError::Refused { path, why } => format!("{}: {why}", path.display()),
        other => other.to_string(),
    })
}

/// What becomes of the version of a file that is replaced or removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Old {
    /// It is kept beside the file until the change has ended, where that can be done: its rollback needs no room then.
    Kept,
    /// It goes.
    #[default]
    Gone,
}

impl Old {
    /// Whether it goes.
    pub fn is_gone(&self) -> bool {
        *self == Old::Gone
    }

    fn keep(self, path: &Path, folder: &OwnedFd, name: &OsStr, content: &[u8]) -> Option<Kept> {
        if self.is_gone() {
            return None;
        }
        let kept = Kept::link(path, folder, name, content);
        kept.inspect_err(|error| tracing::warn!("the old version of {} is not kept: {error}", path.display())).ok()
    }
}

/// Replaces a file's content, or makes it. Owner, mode, labels and ACLs stay as they are; a new file belongs to root with
/// `new_mode`. `expected` is the content it must have just before (`None`: there is no file), else nothing is done.
pub fn replace(path: &Path, expected: Option<&[u8]>, new: &[u8], new_mode: u32, what_was: Old) -> Result<(), FileError> {
    let (folder, name) = open_parent(path)?;
    let old = match open_checked(&folder, &name, path) {
        Ok(file) => Some(file),
        Err(FileError::Missing(_)) => None,
        Err(error) => return Err(error),
    };
    let temporary = Temporary::create(&folder, &name, path)?;
    let mut file = &temporary.file;
    file.write_all(new).map_err(failed_io(path, "write a new version of"))?;
    match &old {
        Some(old) => copy_metadata(old, file, path)?,
        None => fchmod(file, Mode::from_bits_truncate(new_mode & 0o755)).map_err(failed(path, "set the mode of"))?,
    }
    fsync(file).map_err(failed(path, "write a new version of"))?;

    // The last look: what stands there now must be what the change was planned on.
    let mut kept = None;
    match (current(&folder, &name, path, expected)?, expected) {
        (Some(now), Some(expected)) if now == expected && old.is_some() => {
            kept = what_was.keep(path, &folder, &name, expected);
            renameat(&folder, temporary.name.as_os_str(), &folder, name.as_os_str()).map_err(failed(path, "replace"))?;
        }
        (None, None) => {
            match renameat2(&folder, temporary.name.as_os_str(), &folder, name.as_os_str(), RenameFlags::RENAME_NOREPLACE) {
                Ok(()) => {}
                Err(Errno::EEXIST) => return Err(FileError::Drifted(path.into())),
                Err(errno) => return Err(failed(path, "create")(errno)),
            }
        }
        _ => return Err(FileError::Drifted(path.into())),
    }
    temporary.keep();
    kept.into_iter().for_each(Kept::stay);
    fsync(&folder).map_err(|errno| FileError::NotSynced { path: path.into(), error: errno.into() })
}

/// Writes a file: as [`replace`] does, and where the version that stood goes, it was the change's own: then an old version that was kept
/// with this content is put back, which needs no room.
pub fn write(path: &Path, expected: Option<&[u8]>, new: &[u8], new_mode: u32, what_was: Old) -> Result<(), FileError> {
    if what_was.is_gone() && kept::put_back(path, expected, new)? {
        // What a crash left behind of a new version of it.
        return clear(path);
    }
    replace(path, expected, new, new_mode, what_was)
}

/// Removes a file whose content is still `expected`.
pub fn remove(path: &Path, expected: &[u8], what_was: Old) -> Result<(), FileError> {
    let (folder, name) = open_parent(path)?;
    match current(&folder, &name, path, Some(expected))? {
        None => return Err(FileError::Missing(path.into())),
        Some(now) if now != expected => return Err(FileError::Drifted(path.into())),
        Some(_) => {}
    }
    let kept = what_was.keep(path, &folder, &name, expected);
    unlinkat(&folder, name.as_os_str(), UnlinkatFlags::NoRemoveDir).map_err(failed(path, "remove"))?;
    kept.into_iter().for_each(Kept::stay);
    fsync(&folder).map_err(|errno| FileError::NotSynced { path: path.into(), error: errno.into() })
}

/// Whether the folder of this path is mounted read-only for this process, as most are under its unit. Where that cannot be told the write
/// itself will say.
pub fn read_only_here(path: &Path) -> bool {
    path.parent().is_some_and(|folder| access(folder, AccessFlags::W_OK) == Err(Errno::EROFS))
}

/// Clears away what a crash left behind of a new version of a file; nothing where there is none.
pub fn clear(path: &Path) -> Result<(), FileError> {
    let (folder, name) = open_parent(path)?;
    match unlinkat(&folder, unfinished(&name).as_os_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(failed(path, "clear away an unfinished version of")(errno)),
    }
}

/// `.NAME.sshfix-new`: always the same for the same file, so that the next write clears away what a crash left behind.
fn unfinished(target: &OsStr) -> OsString {
    let mut name = OsString::from(".");
    name.push(target);
    name.push(".sshfix-new");
    name
}

/// The content now, read no further than is needed to tell it from `expected`.
fn current(folder: &OwnedFd, name: &OsStr, path: &Path, expected: Option<&[u8]>) -> Result<Option<Vec<u8>>, FileError> {
    let limit = expected.map_or(0, <[u8]>::len).try_into().unwrap_or(u64::MAX);
    match open_checked(folder, name, path).and_then(|file| read_bounded(&file, path, limit)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(FileError::Missing(_)) => Ok(None),
        Err(FileError::TooLong { .. }) => Err(FileError::Drifted(path.into())),
        Err(error) => Err(error),
    }
}

/// Opens the folder of a path, one component after the other, following no symbolic link. Every folder on the way must be
/// such that only root can put another file in the place of root's.
fn open_parent(path: &Path) -> Result<(OwnedFd, OsString), FileError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(refused(path, "not the path of a file"));
    };
    if !path.is_absolute() {
        return Err(refused(path, "not an absolute path"));
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut at = PathBuf::from("/");
    let mut folder = nix::fcntl::open("/", flags, Mode::empty()).map_err(failed(&at, "open"))?;
    for component in parent.components() {
        match component {
            Component::RootDir => continue,
            Component::Normal(part) => {
                at.push(part);
                folder = match openat(&folder, part, flags, Mode::empty()) {
                    Ok(next) => next,
                    Err(Errno::ENOENT) => return Err(FileError::Missing(path.into())),
                    Err(Errno::ELOOP | Errno::ENOTDIR) => {
                        return Err(refused(&at, "a symbolic link, or no folder; name the real folder instead"));
                    }
                    Err(errno) => return Err(failed(&at, "open")(errno)),
                };
            }
            Component::Prefix(_) | Component::CurDir | Component::ParentDir => {
                return Err(refused(path, "has `.` or `..` in it"));
            }
        }
        let stat = fstat(&folder).map_err(failed(&at, "look at"))?;
        require_owner(&stat, &at)?;
        // In a sticky folder nobody but the owner can replace a file (inode(7)).
        if stat.st_mode & 0o022 != 0 && stat.st_mode & libc::S_ISVTX == 0 {
            return Err(refused(&at, "a folder that others than root can write; `chmod go-w` it"));
        }
    }
    Ok((folder, name.to_owned()))
}

/// Opens a file in its folder and checks the open descriptor, so that what was checked is what is read.
fn open_checked(folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<File, FileError> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match openat(folder, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOENT) => return Err(FileError::Missing(path.into())),
        Err(Errno::ELOOP) => {
            return Err(FileError::Refused { path: path.into(), why: "a symbolic link; edit the file it points to".into() });
        }
        Err(errno) => return Err(failed(path, "open")(errno)),
    };
    let stat = fstat(&file).map_err(failed(path, "look at"))?;
    require_regular(&stat, path)?;
    require_owner(&stat, path)?;
    if stat.st_mode & 0o022 != 0 {
        return Err(FileError::Refused {
            path: path.into(),
            why: format!("others than root can write it (mode {:04o}); `chmod go-w` it", stat.st_mode & 0o7777),
        });
    }
    Ok(file)
}

fn require_regular(stat: &FileStat, path: &Path) -> Result<(), FileError> {
    if stat.st_mode & libc::S_IFMT == libc::S_IFREG {
        return Ok(());
    }
    Err(FileError::Refused { path: path.into(), why: "not a regular file".into() })
}

/// Root, or whom the agent runs as.
fn require_owner(stat: &FileStat, path: &Path) -> Result<(), FileError> {
    if stat.st_uid == 0 || stat.st_uid == Uid::effective().as_raw() {
        return Ok(());
    }
    Err(FileError::Refused { path: path.into(), why: format!("owned by user {}, not by root; `chown root` it", stat.st_uid) })
}

fn identity(stat: &FileStat) -> Identity {
    Identity { device: stat.st_dev, inode: stat.st_ino, size: stat.st_size, changed: (stat.st_ctime, stat.st_ctime_nsec) }
}

fn read_bounded(file: &File, path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed_io(path, "read"))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= limit) {
        return Ok(bytes);
    }
    Err(FileError::TooLong { path: path.into(), limit })
}

/// A new version on its way into the place of the old one. Removed when dropped, unless kept.
struct Temporary<'a> {
    folder: &'a OwnedFd,
    name: OsString,
    file: File,
    kept: bool,
}

impl<'a> Temporary<'a> {
    fn create(folder: &'a OwnedFd, target: &OsStr, path: &Path) -> Result<Self, FileError> {
        let name = unfinished(target);
        match unlinkat(folder, name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(failed(path, "clear away an unfinished version of")(errno)),
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(folder, name.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(failed(path, "write a new version of"))?;
        Ok(Self { folder, name, file: file.into(), kept: false })
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // Where this fails too, the next write to the same file clears it away.
            let _ = unlinkat(self.folder, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Owner, mode, and every extended attribute: `security.selinux`, `system.posix_acl_access`, ...
fn copy_metadata(from: &File, to: &File, path: &Path) -> Result<(), FileError> {
    let stat = fstat(from).map_err(failed(path, "look at"))?;
    let made = fstat(to).map_err(failed(path, "look at"))?;
    // Where nothing is to be done, a process that must not do it need not.
    if (made.st_uid, made.st_gid) != (stat.st_uid, stat.st_gid) {
        let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        fchown(to, Some(owner), Some(group)).map_err(failed(path, "keep the owner of"))?;
    }
    fchmod(to, Mode::from_bits_truncate(stat.st_mode & 0o7777)).map_err(failed(path, "keep the mode of"))?;
    for name in xattr_names(from).map_err(failed_io(path, "read the labels of"))? {
        let Some(value) = xattr_get(from, &name).map_err(failed_io(path, "read the labels of"))? else { continue };
        xattr_set(to, &name, &value).map_err(failed_io(path, "keep the labels of"))?;
    }
    Ok(())
}

/// NUL-terminated names of a file's extended attributes; none where the file system has none.
fn xattr_names(file: &File) -> io::Result<Vec<Vec<u8>>> {
    let mut names = vec![0u8; XATTR_SIZE_MAX];
    // SAFETY: the descriptor is open, and the kernel writes at most `names.len()` bytes into `names`.
    let length = unsafe { libc::flistxattr(file.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::EOPNOTSUPP) { Ok(Vec::new()) } else { Err(error) };
    };
    names.truncate(length);
    Ok(names.split_inclusive(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
}

/// The value of an attribute; `None` where it went away meanwhile. `name` ends with NUL.
fn xattr_get(file: &File, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    debug_assert_eq!(name.last(), Some(&0));
    let mut value = vec![0u8; XATTR_SIZE_MAX];
    // SAFETY: the descriptor is open, `name` is NUL-terminated, and the kernel writes at most `value.len()` bytes into `value`.
    let length = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr().cast(), value.as_mut_ptr().cast(), value.len()) };
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ENODATA) { Ok(None) } else { Err(error) };
    };
    value.truncate(length);
    Ok(Some(value))
}

fn xattr_set(file: &File, name: &[u8], value: &[u8]) -> io::Result<()> {
    // A file that the kernel labelled right by itself needs no second try, which could be forbidden.
    if xattr_get(file, name).is_ok_and(|now| now.as_deref() == Some(value)) {
        return Ok(());
    }
    debug_assert_eq!(name.last(), Some(&0));
    // SAFETY: the descriptor is open, `name` is NUL-terminated, and the kernel reads exactly `value.len()` bytes of `value`.
    let result = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr().cast(), value.as_ptr().cast(), value.len(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn names(folder: &tempfile::TempDir) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn replace_keeps_owner_mode_and_labels_and_leaves_nothing_behind() {
        let folder = folder();
        let path = folder.path().join("hosts.deny");
        fs::write(&path, "old\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let labelled = xattr_set(&File::open(&path).unwrap(), b"user.note\0", b"keep me").is_ok();
        if Uid::effective().is_root() {
            std::os::unix::fs::chown(&path, Some(0), Some(7)).unwrap();
        }
        let before = fs::metadata(&path).unwrap();
        replace(&path, Some(b"old\n"), b"new\n", 0o644, Old::Gone).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new\n");
        assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
        assert_ne!(after.ino(), before.ino(), "another file took its place");
        if labelled {
            assert_eq!(xattr_get(&File::open(&path).unwrap(), b"user.note\0").unwrap().unwrap(), b"keep me");
        }
        assert_eq!(names(&folder), ["hosts.deny"]);
    }

    #[test]
    fn a_file_changed_meanwhile_is_left_as_it_is() {
        let folder = folder();
        let path = folder.path().join("f");
        fs::write(&path, "theirs, longer").unwrap();
        assert!(matches!(replace(&path, Some(b"ours"), b"new", 0o644, Old::Gone), Err(FileError::Drifted(_))));
        assert!(matches!(replace(&path, None, b"new", 0o644, Old::Gone), Err(FileError::Drifted(_))));
        assert!(matches!(remove(&path, b"ours", Old::Gone), Err(FileError::Drifted(_))));
        assert_eq!(fs::read(&path).unwrap(), b"theirs, longer");
        fs::remove_file(&path).unwrap();
        assert!(matches!(replace(&path, Some(b"theirs"), b"new", 0o644, Old::Gone), Err(FileError::Drifted(_))));
        assert_eq!(names(&folder), Vec::<String>::new());
    }

    #[test]
    fn a_new_file_gets_its_mode_and_can_be_removed_again() {
        let folder = folder();
        let path = folder.path().join("hosts.allow");
        replace(&path, None, b"sshd: 203.0.113.7\n", 0o644, Old::Gone).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        remove(&path, b"sshd: 203.0.113.7\n", Old::Gone).unwrap();
        assert_eq!(names(&folder), Vec::<String>::new());
        assert!(matches!(remove(&path, b"", Old::Gone), Err(FileError::Missing(_))));
    }

    #[test]
    fn what_a_crash_left_behind_is_cleared_away_by_the_next_write() {
        let folder = folder();
        let path = folder.path().join("f");
        fs::write(&path, "old").unwrap();
        fs::write(folder.path().join(".f.sshfix-new"), "half").unwrap();
        replace(&path, Some(b"old"), b"new", 0o644, Old::Gone).unwrap();
        assert_eq!(names(&folder), ["f"]);
        assert_eq!(fs::read(&path).unwrap(), b"new");
        fs::write(folder.path().join(".f.sshfix-new"), "half").unwrap();
        clear(&path).unwrap();
        clear(&path).unwrap();
        assert_eq!(names(&folder), ["f"]);
    }

    #[test]
    fn links_and_files_others_can_write_are_refused_and_untouched() {
        let folder = folder();
        let real = folder.path().join("real");
        let link = folder.path().join("link");
        fs::write(&real, "old").unwrap();
        symlink(&real, &link).unwrap();
        assert!(matches!(read_checked(&link, 10), Err(FileError::Refused { .. })));
        assert!(matches!(replace(&link, Some(b"old"), b"new", 0o644, Old::Gone), Err(FileError::Refused { .. })));
        assert_eq!(read_followed(&link, 10).unwrap().bytes, b"old");
        assert!(read_followed(&link, 10).unwrap().not_replaceable.unwrap().contains("symbolic link"));

        fs::set_permissions(&real, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(read_checked(&real, 10), Err(FileError::Refused { .. })));
        assert!(matches!(replace(&real, Some(b"old"), b"new", 0o644, Old::Gone), Err(FileError::Refused { .. })));
        fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(read_followed(&real, 10).unwrap().not_replaceable, None);

        let linked_folder = folder.path().join("folder");
        symlink(folder.path(), &linked_folder).unwrap();
        assert!(matches!(read_checked(&linked_folder.join("real"), 10), Err(FileError::Refused { .. })));
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(read_checked(&real, 10), Err(FileError::Refused { .. })));
        assert_eq!(fs::read(&real).unwrap(), b"old");
    }

    #[test]
    fn devices_folders_relative_paths_and_long_files_are_refused() {
        let folder = folder();
        let path = folder.path().join("f");
        fs::write(&path, "12345").unwrap();
        assert!(matches!(read_checked(&path, 4), Err(FileError::TooLong { limit: 4, .. })));
        assert_eq!(read_checked(&path, 5).unwrap().bytes, b"12345");
        for bad in [Path::new("/dev/null"), folder.path(), Path::new("relative"), Path::new("/"), Path::new("/etc/../etc/hosts")]
        {
            assert!(matches!(read_checked(bad, 10), Err(FileError::Refused { .. })), "{}", bad.display());
        }
        assert!(matches!(read_checked(&folder.path().join("none/f"), 10), Err(FileError::Missing(_))));
    }

    #[test]
    fn readers_see_the_old_or_the_new_content_and_nothing_else() {
        let folder = folder();
        let path = folder.path().join("f");
        let (old, new) = (vec![b'a'; 100_000], vec![b'b'; 90_000]);
        fs::write(&path, &old).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for _ in 0..20 {
                    replace(&path, Some(&old), &new, 0o644, Old::Gone).unwrap();
                    replace(&path, Some(&new), &old, 0o644, Old::Gone).unwrap();
                }
            });
            while !writer.is_finished() {
                let seen = fs::read(&path).unwrap();
                assert!(seen == old || seen == new);
            }
        });
    }
}
