//! What a user sees of files: opened, read and looked at with that user's ids, in the order in which sshd does it (auth2-pubkeyfile.c,
//! `auth_openfile`; misc.c, `safe_path`). Of files of keys only types and fingerprints are told.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use sshfix_policy::subsystem::sshd::{AuthorizedKey, Chain, Owner, Seen, authorized_keys};

use super::{TALLY_MAX, Tally};
use crate::sys::confine::{Ids, become_user, only_look, only_read};

/// The longest file of authorized keys that is read.
const KEYS_MAX: u64 = 4 << 20;
/// The most keys of one file that are told.
const KEYS: usize = 2000;

/// Each file of authorized keys as that user sees it.
pub(super) fn keys(ids: &Ids, home: &str, paths: &[String]) -> Result<Vec<Seen>, String> {
    let views: Vec<Result<(), String>> = paths.iter().map(|path| same_view(Path::new(path))).collect();
    let home_view = same_view(Path::new(home));
    confined(ids)?;
    let home = fs::canonicalize(home).unwrap_or_else(|_| PathBuf::from(home));
    let looked: Vec<Result<Opened, Seen>> = paths
        .iter()
        .zip(views)
        .map(|(path, view)| match view.and(home_view.clone()) {
            Ok(()) => open(Path::new(path), &home),
            Err(why) => Err(Seen::Unknown(why)),
        })
        .collect();
    only_read().map_err(|error| error.to_string())?;
    let seen = |looked: Result<Opened, Seen>| match looked {
        Ok(Opened { file, length, chain }) => Seen::File { chain, keys: keys_in(file, length) },
        Err(seen) => seen,
    };
    Ok(looked.into_iter().map(seen).collect())
}

struct Opened {
    file: File,
    length: u64,
    chain: Result<Chain, String>,
}

fn open(path: &Path, home: &Path) -> Result<Opened, Seen> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(|error| not_opened(path, &error))?;
    let found = file.metadata().map_err(|error| Seen::Unknown(words(&error)))?;
    if !found.is_file() {
        return Err(Seen::Refused("not a regular file".to_owned()));
    }
    let chain = chain(path, owner(&found), home);
    Ok(Opened { length: found.len(), file, chain })
}

/// Only what a second look would answer the same is a fact: not what a dead file server or a full table says.
fn not_opened(path: &Path, error: &io::Error) -> Seen {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => Seen::Missing,
        Some(
            Errno::EACCES | Errno::EPERM | Errno::ELOOP | Errno::ENAMETOOLONG | Errno::ENOTDIR | Errno::ENXIO | Errno::ENODEV,
        ) => {
            let whose = fs::metadata(path).map_or_else(|_| String::new(), |found| format!(" ({})", owner(&found)));
            Seen::Refused(format!("the user cannot open it: {}{whose}", words(error)))
        }
        _ => Seen::Unknown(format!("it could not be opened: {}", words(error))),
    }
}

/// The real path of the file, and who owns it and each folder up to the home directory, or else the root.
fn chain(path: &Path, file: Owner, home: &Path) -> Result<Chain, String> {
    let real = fs::canonicalize(path).map_err(|error| format!("the user cannot follow the path: {}", words(&error)))?;
    let mut owners = vec![file];
    for folder in real.ancestors().skip(1) {
        let found =
            fs::metadata(folder).map_err(|error| format!("the user cannot look at a folder above it: {}", words(&error)))?;
        owners.push(owner(&found));
        if folder == home {
            break;
        }
    }
    Ok(Chain { real: real.display().to_string(), owners })
}

fn owner(found: &fs::Metadata) -> Owner {
    Owner { uid: found.uid(), gid: found.gid(), mode: found.permissions().mode() & 0o7777 }
}

fn keys_in(file: File, length: u64) -> Result<Vec<AuthorizedKey>, String> {
    let too_long = || format!("it is longer than {} MiB, more than sshfix reads", KEYS_MAX >> 20);
    if length > KEYS_MAX {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    file.take(KEYS_MAX + 1).read_to_end(&mut bytes).map_err(|error| format!("it could not be read: {}", words(&error)))?;
    if u64::try_from(bytes.len()).is_ok_and(|read| read > KEYS_MAX) {
        return Err(too_long());
    }
    let keys = authorized_keys(&String::from_utf8_lossy(&bytes));
    if keys.len() > KEYS { Err(format!("it holds more than {KEYS} keys, more than sshfix reads")) } else { Ok(keys) }
}

/// auth.c, `allowed_user`: it must be there, be a file, and be executable by somebody. Looked at by the user, who is to run it.
pub(super) fn shell(ids: &Ids, shell: &str) -> Result<Option<String>, String> {
    let view = same_view(Path::new(shell));
    confined(ids)?;
    view?;
    match fs::metadata(shell) {
        Ok(file) if !file.is_file() || file.permissions().mode() & 0o111 == 0 => Ok(Some(format!("{shell} is not executable"))),
        Ok(_) => Ok(None),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG) => {
                Ok(Some(format!("{shell}: {}", words(&error))))
            }
            _ => Err(format!("the shell {shell} could not be looked at: {}", words(&error))),
        },
    }
}

/// The records of a user, in a folder of root's.
pub(super) fn tally(ids: &Ids, path: &str) -> Result<Tally, String> {
    same_view(Path::new(path))?;
    confined(ids)?;
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Tally::Bytes(Vec::new())),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(Tally::NotTheUsers),
        Err(error) => return Ok(Tally::Unknown(words(&error))),
    };
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return Ok(Tally::Unknown("it is no regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    match file.take(TALLY_MAX + 1).read_to_end(&mut bytes) {
        Ok(read) if u64::try_from(read).is_ok_and(|read| read <= TALLY_MAX) => Ok(Tally::Bytes(bytes)),
        Ok(_) => Ok(Tally::Unknown("it is longer than any tally".to_owned())),
        Err(error) => Ok(Tally::Unknown(words(&error))),
    }
}

fn confined(ids: &Ids) -> Result<(), String> {
    let text = |error: io::Error| format!("the look could not be confined to the user: {error}");
    become_user(ids).map_err(text)?;
    only_look().map_err(text)
}

/// Whether the top folder of a path is the host's own. The agent's service has a /tmp of its own (`PrivateTmp=`), and an administrator may
/// hide more from it (`ProtectHome=`): what is not seen is not missing.
fn same_view(path: &Path) -> Result<(), String> {
    let Some(Component::Normal(top)) = path.components().nth(1) else { return Ok(()) };
    let identity = |root: &str| match fs::metadata(Path::new(root).join(top)) {
        Ok(found) => Ok(Some((found.dev(), found.ino()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let top = top.display();
    match (identity("/"), identity("/proc/1/root")) {
        (Ok(ours), Ok(hosts)) if ours == hosts => Ok(()),
        (Ok(_), Ok(_)) => {
            Err(format!("the agent's service sees another /{top} than the host: see ProtectHome= and PrivateTmp= of its unit"))
        }
        (Err(error), _) | (_, Err(error)) => Err(format!("/{top} could not be looked at: {}", words(&error))),
    }
}

/// The kernel's words, without the number.
fn words(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().to_owned())
}
