//! Does the repairs of what sshd needs besides its configuration: its directory, its host keys, and the tally of `pam_faillock`. Looks at each
//! just before it is touched; a host key that is there is never overwritten. Decides nothing.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use sshfix_policy::host::{Done, StepError};
use sshfix_policy::subsystem::sshd::{MADE_BY, Mend, PRIVSEP, Repair};

use crate::sys::{child, files, roots};
use crate::write::{self, Order};

const SSH_KEYGEN: &str = "/usr/bin/ssh-keygen";
/// RSA of 3072 bits takes a second or two on a slow machine.
const KEYGEN_LIMIT: Duration = Duration::from_mins(1);
/// Far more failures than `pam_faillock` keeps.
const TALLY_MAX: u64 = 1 << 20;

/// Does one repair: here, or by the writer where this process may not.
pub fn apply(repair: &Repair) -> Result<Done, StepError> {
    let path = match &repair.part {
        Mend::Folder { .. } => Path::new(PRIVSEP),
        Mend::KeyMode { path, .. } | Mend::Key { path, .. } | Mend::Tally { path, .. } => Path::new(path),
    };
    if files::read_only_here(path) {
        return write::ask(&Order::Repair(repair.part.clone()), &[]);
    }
    here(&repair.part)
}

/// Does it in this process.
pub fn here(part: &Mend) -> Result<Done, StepError> {
    match part {
        Mend::Folder { before, after } => folder(Path::new(PRIVSEP), *before, *after),
        Mend::KeyMode { path, before, after } => mode(Path::new(path), *before, *after),
        Mend::Key { path, kind, there: true } => make_key(Path::new(path), kind),
        Mend::Key { path, there: false, .. } => remove_key(Path::new(path)),
        Mend::Tally { path, before, after, .. } => tally(Path::new(path), before, after),
    }
}

fn failed(path: &Path, what: &str, error: &impl ToString) -> StepError {
    StepError::Failed(format!("cannot {what} {}: {}", path.display(), error.to_string()))
}

fn drifted(path: &Path) -> StepError {
    StepError::Drifted(format!("{} is not as it was when the change was planned", path.display()))
}

fn folder(path: &Path, before: Option<u32>, after: Option<u32>) -> Result<Done, StepError> {
    let now = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() && found.uid() == 0 => Some(found.mode() & 0o7777),
        Ok(_) => return Err(drifted(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(failed(path, "look at", &error)),
    };
    if now == after {
        return Ok(Done::Already);
    }
    if now != before {
        return Err(drifted(path));
    }
    match (now, after) {
        (None, Some(mode)) => {
            fs::DirBuilder::new().mode(mode).create(path).map_err(|error| failed(path, "make", &error))?;
            // Whatever the umask is.
            fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|error| failed(path, "set the mode of", &error))?;
        }
        (Some(_), Some(mode)) => {
            fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|error| failed(path, "set the mode of", &error))?;
        }
        (_, None) => fs::remove_dir(path).map_err(|error| failed(path, "remove", &error))?,
    }
    Ok(Done::Changed)
}

/// Opens a regular file, and no symbolic link.
/// A user who owns the file can hold a lease on it (fcntl(2), `F_SETLEASE`): nobody waits for that.
fn open(path: &Path, write: bool) -> Result<File, StepError> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).write(write).custom_flags(flags.bits()).open(path);
    let file = file.map_err(|error| failed(path, "open", &error))?;
    let found = file.metadata().map_err(|error| failed(path, "look at", &error))?;
    if found.is_file() { Ok(file) } else { Err(drifted(path)) }
}

fn mode(path: &Path, before: u32, after: u32) -> Result<Done, StepError> {
    roots::find(path).map_err(|error| failed(path, "look at", &error))?;
    let file = open(path, false)?;
    let found = file.metadata().map_err(|error| failed(path, "look at", &error))?;
    let now = found.mode() & 0o7777;
    if found.uid() != 0 || now != before && now != after {
        return Err(drifted(path));
    }
    if now == after {
        return Ok(Done::Already);
    }
    file.set_permissions(Permissions::from_mode(after)).map_err(|error| failed(path, "set the mode of", &error))?;
    Ok(Done::Changed)
}

/// `ssh-keygen` itself asks before it overwrites, and nobody answers.
fn make_key(path: &Path, kind: &str) -> Result<Done, StepError> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(Done::Already);
    }
    let folder = path.parent().and_then(|folder| roots::find(folder).ok());
    if folder.is_none_or(|folder| folder.writable_by_others()) {
        return Err(StepError::Failed(format!("{} does not lie in a folder that only root can write", path.display())));
    }
    let name = path.to_str().ok_or_else(|| drifted(path))?;
    let arguments = ["-q", "-t", kind, "-N", "", "-C", MADE_BY, "-f", name];
    let output = child::run(Path::new(SSH_KEYGEN), &arguments, None, KEYGEN_LIMIT, 64 << 10);
    let output = output.map_err(|error| failed(path, "make the host key", &error))?;
    if output.success() {
        return Ok(Done::Changed);
    }
    Err(failed(path, "make the host key", &String::from_utf8_lossy(&output.stderr).trim()))
}

/// Only a key that sshfix made.
fn remove_key(path: &Path) -> Result<Done, StepError> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(Done::Already);
    }
    let public = format!("{}.pub", path.display());
    let line = fs::read_to_string(&public).map_err(|error| failed(Path::new(&public), "read", &error))?;
    if !line.trim_end().ends_with(MADE_BY) {
        return Err(drifted(path));
    }
    for file in [path, Path::new(&public)] {
        fs::remove_file(file).map_err(|error| failed(file, "remove", &error))?;
    }
    Ok(Done::Changed)
}

/// As `faillock --reset` does: the file stays, its content goes.
fn tally(path: &Path, before: &[u8], after: &[u8]) -> Result<Done, StepError> {
    let mut file = open(path, true)?;
    let mut now = Vec::new();
    (&mut file).take(TALLY_MAX).read_to_end(&mut now).map_err(|error| failed(path, "read", &error))?;
    if now == after {
        return Ok(Done::Already);
    }
    if now != before {
        return Err(drifted(path));
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(after)?;
        file.sync_all()
    };
    write(&mut file).map_err(|error| failed(path, "write", &error))?;
    Ok(Done::Changed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_folder_is_made_once_taken_away_once_and_never_touched_where_it_is_another_one() {
        let within = tempfile::tempdir().unwrap();
        let path = within.path().join("sshd");
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        assert_eq!(folder(&path, None, Some(0o755)), Ok(Done::Changed));
        assert_eq!(folder(&path, None, Some(0o755)), Ok(Done::Already));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o755);
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(folder(&path, Some(0o755), None), Err(StepError::Drifted(_))));
        assert_eq!(folder(&path, Some(0o777), Some(0o755)), Ok(Done::Changed));
        assert_eq!(folder(&path, Some(0o755), None), Ok(Done::Changed));
        assert_eq!(folder(&path, Some(0o755), None), Ok(Done::Already));
    }

    #[test]
    fn a_tally_is_emptied_and_put_back_and_one_that_changed_is_left() {
        let within = tempfile::tempdir().unwrap();
        let path = within.path().join("alice");
        fs::write(&path, b"abc").unwrap();
        assert_eq!(tally(&path, b"abc", b""), Ok(Done::Changed));
        assert_eq!(tally(&path, b"abc", b""), Ok(Done::Already));
        assert_eq!(tally(&path, b"", b"abc"), Ok(Done::Changed));
        fs::write(&path, b"other").unwrap();
        assert!(matches!(tally(&path, b"abc", b""), Err(StepError::Drifted(_))));
        assert_eq!(fs::read(&path).unwrap(), b"other");
        std::os::unix::fs::symlink(&path, within.path().join("link")).unwrap();
        assert!(tally(&within.path().join("link"), b"other", b"").is_err());
    }

    #[test]
    fn only_a_key_that_sshfix_made_is_taken_away() {
        let within = tempfile::tempdir().unwrap();
        let path = within.path().join("key");
        let public = within.path().join("key.pub");
        fs::write(&path, "private").unwrap();
        fs::write(&public, "ssh-rsa AAAA root@host\n").unwrap();
        assert_eq!(make_key(&path, "rsa"), Ok(Done::Already));
        assert!(matches!(remove_key(&path), Err(StepError::Drifted(_))));
        fs::write(&public, format!("ssh-rsa AAAA {MADE_BY}\n")).unwrap();
        assert_eq!(remove_key(&path), Ok(Done::Changed));
        assert_eq!(remove_key(&path), Ok(Done::Already));
        assert!(!public.exists());
    }
}
