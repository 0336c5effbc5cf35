//! Does the repairs of what sshd needs besides its configuration: its directory, its host keys, and the tally of `pam_faillock`. Looks at each
//! just before it is touched; a host key that is there is never overwritten. Decides nothing.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::fcntl::OFlag;
use sshfix_policy::host::{Done, StepError};
use sshfix_policy::subsystem::sshd::{MADE_BY, Mend, PRIVSEP, Repair};

use super::shadow::{FOLDER, MAKING};
use crate::random;
use crate::sys::files::{self, FileError, Old};
use crate::sys::{child, roots};
use crate::write::{self, Order};

const SSH_KEYGEN: &str = "/usr/bin/ssh-keygen";
/// RSA of 3072 bits takes a second or two on a slow machine.
const KEYGEN_LIMIT: Duration = Duration::from_mins(1);
/// The longest half of a key: RSA of 16,384 bits.
const KEY_MAX: u64 = 32 << 10;
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

/// `ssh-keygen` follows links where it writes, so it writes into a folder of our own, and both halves are put in place from there: the
/// private one where nothing stands, the public one where nothing or a file of root's does.
fn make_key(path: &Path, kind: &str) -> Result<Done, StepError> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(Done::Already);
    }
    let folder = path.parent().and_then(|folder| roots::find(folder).ok());
    if folder.is_none_or(|folder| folder.writable_by_others()) {
        return Err(StepError::Failed(format!("{} does not lie in a folder that only root can write", path.display())));
    }
    let public = public_path(path);
    let old = match files::read_checked(&public, KEY_MAX) {
        Ok(checked) => Some(checked.bytes),
        Err(FileError::Missing(_)) => None,
        Err(error) => return Err(failed(path, "make the host key", &error)),
    };
    let made = Making::begin().and_then(|making| making.key(kind)).map_err(|why| failed(path, "make the host key", &why))?;
    let put = |path: &Path, old: Option<&[u8]>, new: &[u8], mode| {
        files::replace(path, old, new, mode, Old::Gone).map_err(|error| failed(path, "make the host key", &error))
    };
    put(&public, old.as_deref(), &made.public, 0o644)?;
    put(path, None, &made.private, 0o600)?;
    Ok(Done::Changed)
}

/// Only a key that sshfix made, as both halves say.
fn remove_key(path: &Path) -> Result<Done, StepError> {
    let read = |path: &Path| files::read_checked(path, KEY_MAX).map(|checked| checked.bytes);
    let private = match read(path) {
        Ok(private) => private,
        Err(FileError::Missing(_)) => return Ok(Done::Already),
        Err(error) => return Err(failed(path, "remove", &error)),
    };
    let public = public_path(path);
    let line = read(&public).map_err(|error| failed(path, "remove", &error))?;
    if !line.trim_ascii_end().ends_with(MADE_BY.as_bytes()) || !is_ours(&private) {
        return Err(drifted(path));
    }
    for (file, bytes) in [(path, &private), (&public, &line)] {
        files::remove(file, bytes, Old::Gone).map_err(|error| failed(file, "remove", &error))?;
    }
    Ok(Done::Changed)
}

/// Whether the comment inside of a private key without passphrase says that sshfix made it (`PROTOCOL.key`).
fn is_ours(private: &[u8]) -> bool {
    let lines = private.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"-----"));
    let body: Vec<u8> = lines.flatten().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let bytes = STANDARD.decode(body).unwrap_or_default();
    bytes.windows(MADE_BY.len()).any(|window| window == MADE_BY.as_bytes())
}

fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// Both halves of a new key.
struct Made {
    private: Vec<u8>,
    public: Vec<u8>,
}

/// A folder that only root can enter, below the one of sshfix, which is in memory. Dropping it removes it.
struct Making(PathBuf);

impl Making {
    fn begin() -> Result<Self, String> {
        let name = random::hex::<8>().map_err(|error| error.to_string())?;
        let folder = Path::new(FOLDER).join(format!("{MAKING}{name}"));
        let made = fs::DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|error| format!("{} could not be made: {error}", folder.display()))?;
        Ok(Self(folder))
    }

    fn key(&self, kind: &str) -> Result<Made, String> {
        let path = self.0.join("key");
        let name = path.display().to_string();
        let arguments = ["-q", "-t", kind, "-N", "", "-C", MADE_BY, "-f", &name];
        let output = child::run(Path::new(SSH_KEYGEN), &arguments, None, KEYGEN_LIMIT, 64 << 10);
        let output = output.map_err(|error| error.to_string())?;
        if !output.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let read =
            |path: &Path| files::read_checked(path, KEY_MAX).map(|checked| checked.bytes).map_err(|error| error.to_string());
        Ok(Made { private: read(&path)?, public: read(&public_path(&path))? })
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("{} could not be removed: {error}", self.0.display());
        }
    }
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

    /// As ssh-keygen writes one with this comment.
    fn private(comment: &str) -> String {
        let body = STANDARD.encode(format!("openssh-key-v1\0 ... {comment}"));
        format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n")
    }

    #[test]
    fn only_a_key_that_sshfix_made_is_taken_away() {
        let within = tempfile::tempdir().unwrap();
        let path = within.path().join("key");
        let public = within.path().join("key.pub");
        let ours = format!("ssh-rsa AAAA {MADE_BY}\n");
        fs::write(&path, private(MADE_BY)).unwrap();
        fs::write(&public, "ssh-rsa AAAA root@host\n").unwrap();
        assert_eq!(make_key(&path, "rsa"), Ok(Done::Already));
        assert!(matches!(remove_key(&path), Err(StepError::Drifted(_))));
        fs::write(&public, &ours).unwrap();
        // Put back from a backup meanwhile, without its public half.
        fs::write(&path, private("root@host")).unwrap();
        assert!(matches!(remove_key(&path), Err(StepError::Drifted(_))));
        fs::write(&path, private(MADE_BY)).unwrap();
        assert_eq!(remove_key(&path), Ok(Done::Changed));
        assert_eq!(remove_key(&path), Ok(Done::Already));
        assert!(!public.exists());
    }

    #[test]
    fn links_and_pipes_beside_a_host_key_are_left_alone() {
        let within = tempfile::tempdir().unwrap();
        let (path, public, other) = (within.path().join("key"), within.path().join("key.pub"), within.path().join("other"));
        fs::write(&other, format!("root:x:0 {MADE_BY}\n")).unwrap();
        let before = fs::read(&other).unwrap();
        let link = || std::os::unix::fs::symlink(&other, &public).unwrap();
        let pipe = || nix::unistd::mkfifo(&public, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let puts: [&dyn Fn(); 2] = [&link, &pipe];
        for put in puts {
            put();
            assert!(matches!(make_key(&path, "ed25519"), Err(StepError::Failed(_))));
            assert!(!path.exists());
            fs::write(&path, private(MADE_BY)).unwrap();
            assert!(matches!(remove_key(&path), Err(StepError::Failed(_))));
            assert_eq!(fs::read(&other).unwrap(), before);
            assert!(path.exists());
            fs::remove_file(&path).unwrap();
            fs::remove_file(&public).unwrap();
        }
    }
}
