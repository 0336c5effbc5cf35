//! What a user sees of files: opened, read and looked at with that user's ids, in the order in which sshd does it (auth2-pubkeyfile.c,
//! `auth_openfile`; misc.c, `safe_path`). Of files of keys only types and fingerprints are told.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, access};
use sshfix_policy::subsystem::sshd::{
    AuthorizedKey, Chain, Kind, Link, Owner, PartIs, Refused, RootFolder, RootPart, Seen, Stop, authorized_keys, is_pattern,
    root_parts,
};

use super::{TALLY_MAX, Tally, matches};
use crate::sys::confine::{Ids, become_user, only_look, only_read};
use crate::sys::view::View;

/// The longest file of authorized keys that is read.
const KEYS_MAX: u64 = 4 << 20;
/// Folders that a service may have for itself.
const OWN: [&str; 2] = ["/tmp", "/var/tmp"];
/// The most links on one path (linux/namei.h, `MAXSYMLINKS`).
const LINKS: usize = 40;
/// The most keys of one file that are told.
const KEYS: usize = 2000;

/// Each file of authorized keys as that user sees it; of a pattern, where it counts as one, those that match.
pub(super) fn keys(ids: &Ids, home: &str, paths: &[String], patterns: bool) -> Result<Vec<Seen>, String> {
    let view = confined(ids)?;
    let home_view = view.require_same(Path::new(home));
    // One that is not mounted for the moment looks the same, and the files in it are not gone.
    let away = fs::metadata(home).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    let in_it = |path: &String| away && Path::new(path).starts_with(home);
    let not_there = format!("the home folder {home} is not there; it may come back");
    let real = fs::canonicalize(home).unwrap_or_else(|_| PathBuf::from(home));
    let home = Home { named: Path::new(home), real };
    let look = |path: &String| {
        let opened = open(Path::new(path), &home);
        match view.require_same(Path::new(path)).and(home_view.clone()) {
            Ok(()) if in_it(path) && matches!(opened, Err(Seen::Missing)) => Err(Seen::Unknown(not_there.clone())),
            Ok(())
                if matches!((&opened, &view), (Err(Seen::Missing), View::Own(_) | View::Hidden)) && is_in_own(path.as_ref()) =>
            {
                Err(Seen::Unknown("a link leads into a folder of which sshfix has one of its own (PrivateTmp=)".to_owned()))
            }
            Ok(()) => opened,
            Err(why) => Err(Seen::Unknown(why)),
        }
    };
    let each = |path: &String| {
        if !patterns || !is_pattern(path) {
            return Looked::File(look(path));
        }
        if in_it(path) {
            return Looked::File(Err(Seen::Unknown(not_there.clone())));
        }
        match matches::of(path, &view) {
            Ok(paths) => Looked::Matches(paths.into_iter().map(|path| (path.clone(), look(&path))).collect()),
            Err(why) => Looked::File(Err(Seen::Unknown(why))),
        }
    };
    let looked: Vec<Looked> = paths.iter().map(each).collect();
    only_read().map_err(|error| error.to_string())?;
    let seen = |looked: Result<Opened, Seen>| match looked {
        Ok(Opened { file, length, chain }) => Seen::File { chain, keys: keys_in(file, length) },
        Err(seen) => seen,
    };
    let all = |looked: Looked| match looked {
        Looked::File(file) => seen(file),
        Looked::Matches(files) => Seen::Matches(files.into_iter().map(|(path, file)| (path, seen(file))).collect()),
    };
    Ok(looked.into_iter().map(all).collect())
}

enum Looked {
    File(Result<Opened, Seen>),
    Matches(Vec<(String, Result<Opened, Seen>)>),
}

struct Opened {
    file: File,
    length: u64,
    chain: Result<Chain, String>,
}

/// The home directory of the user.
struct Home<'a> {
    named: &'a Path,
    /// Without links.
    real: PathBuf,
}

fn open(path: &Path, home: &Home) -> Result<Opened, Seen> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    let file = opened.map_err(|error| not_opened(path, home, &error))?;
    let found = file.metadata().map_err(|error| Seen::Unknown(words(&error)))?;
    let chain = real(path).and_then(|real| chain(path, &real, &found, home));
    if !found.is_file() {
        let other = |why: String| Refused::Other(format!("not a regular file ({why})"));
        return Err(Seen::Refused(chain.map_or_else(other, |chain| Refused::At(chain, Stop::NotRegular))));
    }
    Ok(Opened { length: found.len(), file, chain })
}

/// Only what a second look would answer the same is a fact: not what a dead file server or a full table says.
fn not_opened(path: &Path, home: &Home, error: &io::Error) -> Seen {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => Seen::Missing,
        Some(
            Errno::EACCES | Errno::EPERM | Errno::ELOOP | Errno::ENAMETOOLONG | Errno::ENOTDIR | Errno::ENXIO | Errno::ENODEV,
        ) => {
            let why = || Refused::Other(format!("the user cannot open it: {}", words(error)));
            let denied = error.kind() == ErrorKind::PermissionDenied;
            let stopped = || followed(path).and_then(|(at, _)| Some((fs::metadata(&at).ok()?, at)));
            Seen::Refused(denied.then(stopped).flatten().map_or_else(why, |(found, at)| {
                let stop = if found.is_dir() { Stop::Enter } else { Stop::Read };
                chain(path, &at, &found, home).map_or_else(|_| why(), |chain| Refused::At(chain, stop))
            }))
        }
        _ => Seen::Unknown(format!("it could not be opened: {}", words(error))),
    }
}

/// How far the user comes on the way to a file, and whether to its end: the folder that stops them, else the file. Links are followed, as
/// often as the kernel does (`path_resolution(7)`).
fn followed(path: &Path) -> Option<(PathBuf, bool)> {
    let (mut at, mut links) = (PathBuf::from("/"), 0);
    let parts = |path: &Path| path.components().rev().map(|part| part.as_os_str().to_owned()).collect::<Vec<_>>();
    let mut rest = parts(path);
    while let Some(part) = rest.pop() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => {
                at = PathBuf::from("/");
                continue;
            }
            Some(Component::ParentDir) => {
                at.pop();
                continue;
            }
            Some(Component::Normal(_)) => {}
            Some(Component::CurDir | Component::Prefix(_)) | None => continue,
        }
        let next = at.join(&part);
        match fs::symlink_metadata(&next) {
            Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::NotFound) => return Some((at, false)),
            Err(_) => return None,
            Ok(found) if found.is_symlink() => {
                links += 1;
                if links > LINKS {
                    return None;
                }
                rest.extend(parts(&fs::read_link(&next).ok()?));
            }
            Ok(_) => at = next,
        }
    }
    Some((at, true))
}

/// Whether a link leads into a folder that a service has for itself (systemd.exec(5), `PrivateTmp=`): what is not there may be on the host.
fn is_in_own(path: &Path) -> bool {
    let own = |(at, _): (PathBuf, bool)| OWN.iter().any(|top| at.starts_with(top));
    followed(path).is_none_or(own)
}

/// The path without links.
fn real(path: &Path) -> Result<PathBuf, String> {
    fs::canonicalize(path).map_err(|error| format!("the user cannot follow the path: {}", words(&error)))
}

/// What is at the end of the way, and who owns it and each folder up to the home directory, or else the root.
fn chain(path: &Path, real: &Path, found: &fs::Metadata, home: &Home) -> Result<Chain, String> {
    let mut owners = vec![owner(found)];
    for (folder, above) in real.ancestors().zip(real.ancestors().skip(1)) {
        if folder == home.real {
            break;
        }
        let found =
            fs::metadata(above).map_err(|error| format!("the user cannot look at a folder above it: {}", words(&error)))?;
        owners.push(owner(&found));
    }
    Ok(Chain { kind: kind(found), owners, link: link(path, home), real: real.display().to_string() })
}

/// The first link on the way that the user could have made, else the first.
fn link(path: &Path, home: &Home) -> Option<Box<Link>> {
    let mut parts: Vec<&Path> = path.ancestors().collect();
    parts.reverse();
    let below = |path: &&Path| path.starts_with(home.named) && *path != home.named;
    let (own, others): (Vec<&Path>, Vec<&Path>) = parts.into_iter().partition(below);
    own.into_iter().chain(others).find_map(|path| {
        let to = fs::read_link(path).ok()?;
        Some(Box::new(Link { path: path.display().to_string(), to: to.display().to_string() }))
    })
}

fn kind(found: &fs::Metadata) -> Kind {
    let kind = found.file_type();
    if kind.is_file() {
        Kind::File
    } else if kind.is_dir() {
        Kind::Folder
    } else if kind.is_fifo() {
        Kind::Pipe
    } else {
        Kind::Other
    }
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
    let view = confined(ids)?;
    let found = fs::metadata(shell);
    view.require_same(Path::new(shell))?;
    match found {
        Ok(file) if !file.is_file() || file.permissions().mode() & 0o111 == 0 => Ok(Some(format!("{shell} is not executable"))),
        // What sshd does not ask: whether this user may run it.
        Ok(_) => match access(shell, AccessFlags::X_OK) {
            Ok(()) => Ok(None),
            Err(Errno::EACCES) => Ok(Some(format!("the user may not run {shell}"))),
            Err(errno) => Err(format!("whether the shell {shell} can be run is not known: {}", words(&errno.into()))),
        },
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
    let view = confined(ids)?;
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    view.require_same(Path::new(path))?;
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Tally::Bytes(Vec::new())),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(Tally::NotTheUsers),
        Err(error) => return Ok(Tally::Unknown(words(&error))),
    };
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return Ok(Tally::Unknown("it is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    match file.take(TALLY_MAX + 1).read_to_end(&mut bytes) {
        Ok(read) if u64::try_from(read).is_ok_and(|read| read <= TALLY_MAX) => Ok(Tally::Bytes(bytes)),
        Ok(_) => Ok(Tally::Unknown("it is longer than a tally can be".to_owned())),
        Err(error) => Ok(Tally::Unknown(words(&error))),
    }
}

/// session.c, `safely_chroot`: each part of the path with its links followed, `/` first. sshd looks as root: what the user may not look at is
/// not known.
pub(super) fn root_folder(ids: &Ids, path: &str) -> Result<RootFolder, String> {
    let view = confined(ids)?;
    let mut parts = Vec::new();
    for path in root_parts(path) {
        let found = fs::metadata(&path);
        view.require_same(Path::new(&path))?;
        let is = match found {
            Ok(found) if found.is_dir() => PartIs::Folder(owner(&found)),
            Ok(found) => PartIs::NoFolder(owner(&found)),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOENT | Errno::ENOTDIR) => PartIs::Missing,
                _ => PartIs::Unknown(words(&error)),
            },
        };
        let ends = matches!(is, PartIs::Missing | PartIs::Unknown(_));
        parts.push(RootPart { path, is });
        if ends {
            break;
        }
    }
    Ok(RootFolder::Parts(parts))
}

/// What the host sees can be compared with from then on, too.
fn confined(ids: &Ids) -> Result<View, String> {
    let text = |error: io::Error| format!("the look could not be confined to the user: {error}");
    let view = View::read()?;
    become_user(ids, view.root()).map_err(text)?;
    only_look().map_err(text)?;
    Ok(view)
}

/// The kernel's words, without the number.
fn words(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().to_owned())
}
