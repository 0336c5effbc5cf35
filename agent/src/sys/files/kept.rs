//! The old version of a file that a change replaced, kept by a hard link until the change has ended: its rollback renames it into place,
//! which needs no room on the disk and keeps owner, mode, labels and inode. Where no link can be made, or others wrote the file since,
//! there is none and the rollback writes the content anew. Decides nothing about the change.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, fsync, linkat, unlinkat};
use sha2::{Digest, Sha256};

use super::{FileError, copy_metadata, current, failed, open_checked, open_parent, read_bounded, refused, require_owner};
use super::{require_regular, xattr_names};

/// Between the name of the file and the digest of its content.
const MARK: &str = ".sshfix-undo-";
/// Characters of the digest: the content itself is compared before it is used.
const DIGEST: usize = 16;

/// The folder in which old versions of a file are kept: its own. Of a file in `sshd_config.d` it is the one above: sshd lists that folder,
/// and whatever changes in it later looks as if sshd had not read it.
pub fn folder(file: &Path) -> Option<&Path> {
    let folder = file.parent()?;
    let listed = folder.extension() == Some(OsStr::new("d"));
    folder.parent().filter(|_| listed).or(Some(folder))
}

/// Where this content of a file is kept: `/etc/.hosts.deny.sshfix-undo-0123456789abcdef`.
pub fn path(file: &Path, content: &[u8]) -> Option<PathBuf> {
    let folder = folder(file)?;
    let mut name = OsString::from(".");
    if file.parent() != Some(folder) {
        name.push(file.parent()?.file_name()?);
        name.push(".");
    }
    name.push(file.file_name()?);
    name.push(MARK);
    let digest = format!("{:x}", Sha256::digest(content));
    name.push(digest.get(..DIGEST)?);
    Some(folder.join(name))
}

/// Whether a name is that of a kept version.
fn is_name(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let Some((front, digest)) = name.len().checked_sub(DIGEST).and_then(|at| name.split_at_checked(at)) else { return false };
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    front.starts_with(b".") && front.ends_with(MARK.as_bytes()) && digest.iter().all(is_digit)
}

/// The kept versions in a folder; none where it cannot be read.
pub fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.filter(|entry| is_name(&entry.file_name())).map(|entry| entry.path()).collect()
}

/// The link to the version that is about to be replaced. Removed when dropped, unless it stays.
pub(super) struct Kept {
    folder: OwnedFd,
    name: OsString,
    stays: bool,
}

impl Kept {
    /// Keeps the file that stands at `name` with this content. The error says why it is not kept.
    pub(super) fn link(path: &Path, folder: &OwnedFd, name: &OsStr, content: &[u8]) -> Result<Self, FileError> {
        let at = self::path(path, content).ok_or_else(|| refused(path, "not the path of a file"))?;
        let (kept_folder, kept_name) = open_parent(&at)?;
        remove(&kept_folder, &kept_name, &at)?;
        linkat(folder, name, &kept_folder, kept_name.as_os_str(), AtFlags::empty()).map_err(failed(&at, "make"))?;
        let kept = Self { folder: kept_folder, name: kept_name, stays: false };
        // Not by device and inode: a link on an overlay of other file systems has other ones than the file had until then.
        find(&at, content).map(|_| kept)
    }

    /// From now on it is kept. On the disk it is with the next fsync of its folder; without it the rollback writes the content anew.
    pub(super) fn stay(mut self) {
        self.stays = true;
        if let Err(error) = fsync(&self.folder) {
            tracing::warn!("fsync of the folder of {}: {error}", self.name.display());
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if !self.stays {
            // Where this fails too, the next start clears it away.
            let _ = unlinkat(&self.folder, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Puts a kept version back, where there is one with this content. `expected` is what must stand there just before (`None`: nothing).
/// No where there is none, or none that can be used.
pub fn put_back(path: &Path, expected: Option<&[u8]>, old: &[u8]) -> Result<bool, FileError> {
    let Some(at) = self::path(path, old) else { return Ok(false) };
    let (kept_folder, kept_name, file) = match find(&at, old) {
        Ok(found) => found,
        Err(FileError::Missing(_)) => return Ok(false),
        Err(error) => {
            tracing::warn!("{error}; the old version of {} is written anew", path.display());
            return Ok(false);
        }
    };
    let (folder, name) = open_parent(path)?;
    match open_checked(&folder, &name, path) {
        // What others did to the owner or the mode meanwhile stays.
        Ok(now) => {
            if !has_no_more_labels(&file, &now, path) || copy_metadata(&now, &file, path).is_err() {
                return Ok(false);
            }
        }
        Err(FileError::Missing(_)) => {}
        Err(error) => return Err(error),
    }
    if fsync(&file).is_err() {
        return Ok(false);
    }
    let renamed = match (current(&folder, &name, path, expected)?, expected) {
        (Some(now), Some(expected)) if now == expected => {
            renameat(&kept_folder, kept_name.as_os_str(), &folder, name.as_os_str())
        }
        (None, None) => {
            let flags = RenameFlags::RENAME_NOREPLACE;
            renameat2(&kept_folder, kept_name.as_os_str(), &folder, name.as_os_str(), flags)
        }
        _ => return Err(FileError::Drifted(path.into())),
    };
    match renamed {
        Ok(()) => {}
        Err(Errno::EEXIST) => return Err(FileError::Drifted(path.into())),
        Err(errno) => {
            tracing::warn!("cannot rename {}: {errno}; the old version of {} is written anew", at.display(), path.display());
            return Ok(false);
        }
    }
    let synced = fsync(&folder).and_then(|()| fsync(&kept_folder));
    synced.map_err(|errno| FileError::NotSynced { path: path.into(), error: errno.into() })?;
    Ok(true)
}

/// The kept version at this path, if it is root's, regular, nobody else's to write, and holds this content.
fn find(at: &Path, content: &[u8]) -> Result<(OwnedFd, OsString, File), FileError> {
    let (folder, name) = open_parent(at)?;
    let file = open_checked(&folder, &name, at)?;
    let limit = content.len().try_into().unwrap_or(u64::MAX);
    if read_bounded(&file, at, limit)? == content { Ok((folder, name, file)) } else { Err(FileError::Drifted(at.into())) }
}

/// Whether a file has no label or ACL that the other one has not.
fn has_no_more_labels(file: &File, than: &File, path: &Path) -> bool {
    let names = |file: &File| {
        xattr_names(file).inspect_err(|error| tracing::warn!("cannot read the labels of {}: {error}", path.display())).ok()
    };
    match (names(file), names(than)) {
        (Some(ours), Some(theirs)) => ours.iter().all(|name| theirs.contains(name)),
        (None, _) | (_, None) => false,
    }
}

/// Clears a kept version away whose change has ended; nothing where there is none. Refuses what sshfix did not make.
pub fn forget(at: &Path) -> Result<(), FileError> {
    let (folder, name) = match open_parent(at) {
        Err(FileError::Missing(_)) => return Ok(()),
        other => other?,
    };
    if !is_name(&name) {
        return Err(refused(at, "not the name of a version that sshfix keeps"));
    }
    remove(&folder, &name, at)
}

/// Only a regular file of root's. What is mounted there the kernel does not remove.
fn remove(folder: &OwnedFd, name: &OsStr, at: &Path) -> Result<(), FileError> {
    let file = match openat(folder, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(failed(at, "open")(errno)),
    };
    let stat = fstat(&file).map_err(failed(at, "look at"))?;
    require_regular(&stat, at)?;
    require_owner(&stat, at)?;
    unlinkat(folder, name, UnlinkatFlags::NoRemoveDir).map_err(failed(at, "remove"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use nix::unistd::Uid;

    use super::super::{Old, remove as remove_file, replace, write};
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_old_version_is_put_back_by_its_inode_and_nothing_stays() {
        let within = tempfile::tempdir().unwrap();
        let listed = within.path().join("sshd_config.d");
        fs::create_dir(&listed).unwrap();
        for path in [within.path().join("hosts.deny"), listed.join("50-x.conf")] {
            let folder = path.parent().unwrap();
            fs::write(&path, "old\n").unwrap();
            mode(&path, 0o640);
            let before = fs::metadata(&path).unwrap();
            replace(&path, Some(b"old\n"), b"new\n", 0o644, Old::Kept).unwrap();
            let at = super::path(&path, b"old\n").unwrap();
            assert_eq!(at.parent().unwrap(), within.path(), "never in a folder that sshd lists");
            assert_eq!(list(within.path()), std::slice::from_ref(&at));
            assert_eq!(fs::metadata(&at).unwrap().ino(), before.ino());
            // What others did to its mode meanwhile is theirs.
            mode(&path, 0o600);
            write(&path, Some(b"new\n"), b"old\n", 0o644, Old::Gone).unwrap();
            let after = fs::metadata(&path).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"old\n");
            assert_eq!((after.ino(), after.nlink(), after.mode() & 0o7777), (before.ino(), 1, 0o600));

            remove_file(&path, b"old\n", Old::Kept).unwrap();
            assert!(!path.exists());
            write(&path, None, b"old\n", 0o644, Old::Gone).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().ino(), before.ino());
            fs::remove_file(&path).unwrap();
            assert_eq!(names(folder), if folder == listed { vec![] } else { vec!["sshd_config.d"] });
        }
        assert_eq!(names(within.path()), ["sshd_config.d"]);
    }

    #[test]
    fn several_steps_on_one_file_each_keep_what_they_replaced() {
        let within = tempfile::tempdir().unwrap();
        let path = within.path().join("hosts.deny");
        fs::write(&path, "a").unwrap();
        let first = fs::metadata(&path).unwrap().ino();
        replace(&path, Some(b"a"), b"b", 0o644, Old::Kept).unwrap();
        replace(&path, Some(b"b"), b"c", 0o644, Old::Kept).unwrap();
        assert_eq!(list(within.path()).len(), 2);
        write(&path, Some(b"c"), b"b", 0o644, Old::Gone).unwrap();
        write(&path, Some(b"b"), b"a", 0o644, Old::Gone).unwrap();
        assert_eq!((fs::metadata(&path).unwrap().ino(), names(within.path())), (first, vec!["hosts.deny".to_owned()]));
    }

    #[test]
    fn a_crash_at_any_instant_leaves_the_old_or_the_new_and_the_way_back() {
        let within = tempfile::tempdir().unwrap();
        let path = within.path().join("f");
        let at = super::path(&path, b"old").unwrap();
        fs::write(&path, "old").unwrap();
        // Between the link and the rename: it holds what it held, and the change begins anew or is cleared away.
        fs::hard_link(&path, &at).unwrap();
        assert!(!put_back(&path, Some(b"new"), b"older").unwrap());
        replace(&path, Some(b"old"), b"new", 0o644, Old::Kept).unwrap();
        assert_eq!(fs::metadata(&at).unwrap().nlink(), 1);
        // Somebody else wrote the file: what they wrote stays.
        fs::write(&path, "theirs").unwrap();
        assert!(matches!(put_back(&path, Some(b"new"), b"old"), Err(FileError::Drifted(_))));
        assert!(matches!(put_back(&path, None, b"old"), Err(FileError::Drifted(_))));
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
        // Somebody else wrote into the kept version: the content counts.
        fs::write(&path, "new").unwrap();
        fs::write(&at, "odd").unwrap();
        write(&path, Some(b"new"), b"old", 0o644, Old::Gone).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        forget(&at).unwrap();
        forget(&at).unwrap();
        assert_eq!(names(within.path()), ["f"]);
        // After the rename of the rollback there is nothing left to do.
        replace(&path, Some(b"old"), b"new", 0o644, Old::Kept).unwrap();
        assert!(put_back(&path, Some(b"new"), b"old").unwrap());
        assert!(!put_back(&path, Some(b"new"), b"old").unwrap());
        // A change that failed keeps nothing.
        assert!(replace(&path, Some(b"other"), b"new", 0o644, Old::Kept).is_err());
        assert_eq!(names(within.path()), ["f"]);
    }

    #[test]
    fn nothing_is_used_or_cleared_away_that_sshfix_did_not_make() {
        let within = tempfile::tempdir().unwrap();
        let path = within.path().join("f");
        let at = super::path(&path, b"old").unwrap();
        fs::write(&path, "new").unwrap();
        fs::write(within.path().join("real"), "old").unwrap();
        for name in
            [".f.sshfix-undo-012345678", ".f.sshfix-new", "f.sshfix-undo-0123456789abcdef", ".f.sshfix-undo-0123456789ABCDEF"]
        {
            assert!(matches!(forget(&within.path().join(name)), Err(FileError::Refused { .. })), "{name}");
        }
        symlink(within.path().join("real"), &at).unwrap();
        assert!(forget(&at).is_err() && !put_back(&path, Some(b"new"), b"old").unwrap());
        fs::remove_file(&at).unwrap();
        fs::create_dir(&at).unwrap();
        assert!(forget(&at).is_err() && !put_back(&path, Some(b"new"), b"old").unwrap());
        fs::remove_dir(&at).unwrap();
        fs::write(&at, "old").unwrap();
        mode(&at, 0o666);
        assert!(!put_back(&path, Some(b"new"), b"old").unwrap(), "others can write it");
        if Uid::effective().is_root() {
            mode(&at, 0o644);
            std::os::unix::fs::chown(&at, Some(1000), None).unwrap();
            assert!(forget(&at).is_err() && !put_back(&path, Some(b"new"), b"old").unwrap());
            // Where somebody else is in the way, nothing is kept and the change is made.
            fs::write(&path, "old").unwrap();
            replace(&path, Some(b"old"), b"new", 0o644, Old::Kept).unwrap();
            assert_eq!(fs::metadata(&at).unwrap().uid(), 1000);
        }
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
