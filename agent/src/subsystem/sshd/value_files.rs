//! What stands at a path that is a value of a keyword of sshd's: a regular file of root's or not, who may read it, whether it holds a pid.
//! Nothing of its content is shown or kept. Decides nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::libc;
use sshfix_policy::subsystem::sshd::ValueFile;
use sshfix_policy::subsystem::sshd::way_in::values;

use crate::sys::roots::{self, RootsError};

/// The number of a process is shorter.
pub(super) const PID_MAX: u64 = 32;

/// Looks at it.
pub(super) fn look_at(path: &str) -> ValueFile {
    let path = Path::new(path);
    let found = match roots::find(path) {
        Ok(found) => found,
        Err(RootsError::Missing(_)) => return ValueFile::Missing,
        Err(error) => return ValueFile::Other(error.to_string()),
    };
    if !found.is_regular() {
        return ValueFile::Other(RootsError::NotRegular(path.into()).to_string());
    }
    if found.writable_by_others() {
        let mode = found.stat.st_mode & 0o7777;
        return ValueFile::Other(format!("others than root can write {} (mode {mode:04o})", found.real.display()));
    }
    // Every folder above is root's, so that only root can change this meanwhile.
    let enters = |folder: &Path| fs::metadata(folder).is_ok_and(|folder| folder.permissions().mode() & 0o001 != 0);
    let mode = found.stat.st_mode;
    ValueFile::Regular {
        size: u64::try_from(found.stat.st_size).unwrap_or(u64::MAX),
        for_all: mode & libc::S_IROTH != 0 && found.real.ancestors().skip(1).all(enters),
        program: mode & libc::S_IXUSR != 0,
        pid: roots::read(path, PID_MAX).is_ok_and(|bytes| values::pid(&bytes).is_some()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn pipes_folders_and_what_others_can_write_are_named_and_files_are_described() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let put = |name: &str, text: &str, mode: u32| {
            fs::write(at(name), text).unwrap();
            fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).unwrap();
        };
        put("public", "hello", 0o644);
        put("secret", "hello", 0o600);
        put("program", "", 0o755);
        put("pid", "4711\n", 0o644);
        put("shared", "4711\n", 0o666);
        nix::unistd::mkfifo(Path::new(&at("pipe")), Mode::S_IRUSR).unwrap();
        let regular = |size, for_all, program, pid| ValueFile::Regular { size, for_all, program, pid };
        for (name, expected) in [
            ("public", regular(5, true, false, false)),
            ("secret", regular(5, false, false, false)),
            ("program", regular(0, true, true, false)),
            ("pid", regular(5, true, false, true)),
            ("none", ValueFile::Missing),
        ] {
            assert_eq!(look_at(&at(name)), expected, "{name}");
        }
        for (name, word) in [("pipe", "is no regular file"), ("", "is no regular file"), ("shared", "(mode 0666)")] {
            assert!(matches!(look_at(&at(name)), ValueFile::Other(why) if why.contains(word)), "{name}");
        }
        // Nobody else gets into the folder.
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        assert_eq!(look_at(&at("public")), regular(5, false, false, false));
    }
}
