//! The version of an OpenSSH server, as the program itself tells it, and the private keys that ssh-keygen found sound. Kept for as long as
//! the file is the same one, since that is what it depends on; what a server makes of its configuration, `kept` keeps.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sshfix_policy::subsystem::sshd::config::keyword::{Release, release};

use super::{LIMIT, OUTPUT_MAX};
use crate::sys::{child, roots};

/// The longest program that is searched.
const PROGRAM_MAX: u64 = 32 << 20;

/// What a file is by: device, inode, size, and the times of its content and of any change to it, in nanoseconds. Nobody can set the last
/// one (`inode(7)`, ctime).
pub(super) type Identity = (u64, u64, u64, (i64, i64), (i64, i64));

/// The versions of the programs that were asked so far, and the keys that were found sound.
#[derive(Debug, Default)]
pub struct Versions {
    programs: HashMap<PathBuf, (Identity, Release, bool)>,
    pub(super) sound: Sound,
}

/// Files that were found sound as they were then.
#[derive(Debug, Default)]
pub(super) struct Sound(Mutex<HashMap<PathBuf, Identity>>);

impl Sound {
    /// Whether this file was found sound and is the same one.
    pub(super) fn knows(&self, path: &Path, file: &Metadata) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path) == Some(&identity(file))
    }

    /// Notes that a file was found sound, if it still is what it was before it was looked at.
    pub(super) fn note(&self, path: &Path, before: &Metadata) {
        if fs::metadata(path).is_ok_and(|now| identity(&now) == identity(before)) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), identity(before));
        }
    }
}

impl Versions {
    /// OpenSSH's version: `sshd -V`. Old ones do not know `-V` and say it while they complain.
    pub fn of(&mut self, program: &Path) -> Option<Release> {
        self.known_or(program, |file| {
            let output = child::run_open(file, program, &["-V"], LIMIT, OUTPUT_MAX).ok()?;
            Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
        })
    }

    fn known_or(&mut self, program: &Path, ask: impl FnOnce(BorrowedFd<'_>) -> Option<String>) -> Option<Release> {
        let found = roots::program(program).ok()?;
        let now = identity(&fs::metadata(program).ok()?);
        if (now.0, now.1) != found.identity() {
            return None;
        }
        if let Some((known, version, _)) = self.programs.get(program)
            && *known == now
        {
            return Some(*version);
        }
        let version = release(&ask(found.file.as_fd())?)?;
        // It was that file's answer only if the file is still there.
        if identity(&fs::metadata(program).ok()?) == now {
            self.programs.insert(program.to_owned(), (now, version, is_debians(program)));
        }
        Some(version)
    }

    /// Whether it is Debian's or one made from it, with their patches; `None` where it does not say so.
    pub(super) fn is_debians(&mut self, program: &Path) -> Option<bool> {
        self.of(program)?;
        self.programs.get(program).map(|(_, _, debians)| *debians).filter(|debians| *debians)
    }
}

/// Whether the program holds the text of `SSH_EXTRAVERSION` (package-versioning.patch): `Debian-2+deb12u3`. `sshd -V` of 9.2 does not print it.
fn is_debians(program: &Path) -> bool {
    let mut bytes = Vec::new();
    let read = fs::File::open(program).and_then(|file| file.take(PROGRAM_MAX).read_to_end(&mut bytes));
    let names = [&b"Debian-"[..], b"Ubuntu-", b"Raspbian-"];
    let found = |window: &[u8]| {
        names.iter().any(|name| window.strip_prefix(*name).and_then(<[u8]>::first).is_some_and(u8::is_ascii_digit))
    };
    read.is_ok() && bytes.windows(10).any(found)
}

/// By what a file is the same one.
pub(super) fn identity(file: &Metadata) -> Identity {
    (file.dev(), file.ino(), file.size(), (file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::{FileTimes, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;

    use super::*;

    /// A program with the same size and time whatever version it tells.
    fn install(folder: &Path, version: &str) -> PathBuf {
        let program = folder.join("sshd");
        fs::write(&program, format!("OpenSSH_{version}p1")).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        fs::File::open(&program).unwrap().set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH)).unwrap();
        program
    }

    #[test]
    fn a_program_is_asked_once_and_again_when_the_file_is_another_of_the_same_size_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let (mut versions, mut runs) = (Versions::default(), 0);
        let mut asked = |program: &Path| {
            let version = versions.known_or(program, |_| {
                runs += 1;
                fs::read_to_string(program).ok()
            });
            (version, runs)
        };
        let program = install(folder.path(), "9.2");
        assert_eq!((asked(&program), asked(&program)), ((Some((9, 2)), 1), (Some((9, 2)), 1)));
        install(folder.path(), "9.8");
        assert_eq!((asked(&program), asked(&program)), ((Some((9, 8)), 2), (Some((9, 8)), 2)));
        fs::set_permissions(&program, Permissions::from_mode(0o775)).unwrap();
        assert_eq!(asked(&program), (None, 2), "a file that others can write is not run");
    }

    #[test]
    fn a_key_is_known_as_sound_until_its_file_is_another_or_has_another_mode() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        let (sound, looked_at) = (Sound::default(), || fs::metadata(&key).unwrap());
        fs::write(&key, "one").unwrap();
        let before = looked_at();
        assert!(!sound.knows(&key, &before));
        sound.note(&key, &before);
        assert!(sound.knows(&key, &looked_at()));
        fs::write(folder.path().join("new"), "two").unwrap();
        fs::rename(folder.path().join("new"), &key).unwrap();
        assert!(!sound.knows(&key, &looked_at()));
        sound.note(&key, &before);
        assert!(!sound.knows(&key, &looked_at()), "it changed while it was looked at");
        sound.note(&key, &looked_at());
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        assert!(!sound.knows(&key, &looked_at()));
    }

    #[test]
    fn the_version_is_found_in_what_old_and_new_servers_say() {
        assert_eq!(release("OpenSSH_9.2p1 Debian-2+deb12u3, OpenSSL 3.0.15"), Some((9, 2)));
        assert_eq!(release("unknown option -- V\nOpenSSH_8.4p1 Debian-5, OpenSSL 1.1.1\nusage: sshd"), Some((8, 4)));
        assert_eq!(release("dropbear"), None);
    }
}
