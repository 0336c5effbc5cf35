//! What of the files may have changed since the running sshd read them, by the times of status changes alone: what stands on the way to each
//! file counts like the file. Says "may" wherever that cannot be excluded, and never that nothing changed where it could not look. Reads only.
//!
//! A status change cannot be set back by hand, and each of these leaves a new one (measured on ext4 and tmpfs; xfs and btrfs do the same in their
//! `rename`): a file that is written, linked or put in place; a link that is made or put in place; a folder that is itself moved; and the
//! folder in which a name comes or goes, whose content is newer then, too. So a folder was not moved into its place where its own status is
//! older, or the folder above it. A folder that is mounted leaves none of these: a mount point counts where systemd has it since before.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;

use nix::libc;
use nix::sys::stat::FileStat;
use sshfix_policy::subsystem::sshd::config::{Tree, glob};

use super::pid_file::{self, Changed};
use crate::sys::roots::{self, Part};
use crate::sys::{dbus, view};

/// What changed after sshd read these files, or may have: files, links, folders, mount points, and what an Include names and is not there.
pub(super) fn since(at: Changed, tree: &Tree) -> Vec<String> {
    let mut look = Look { at, mounts: view::mount_points().map_err(drop), found: Vec::new() };
    for path in tree.files.keys() {
        look.at_path(path);
    }
    for pattern in tree.includes.keys() {
        let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
        look.at_pattern("", &parts);
    }
    look.found.sort();
    look.found.dedup();
    look.found
}

/// Whether another key may stand at this path: the file, a link on the way, or a folder that was moved there and in which nothing came or
/// went since, as a new file beside the keys makes it.
pub(super) fn key_changed(at: Changed, path: &str) -> bool {
    let Ok(way) = roots::way(Path::new(path)) else { return true };
    way.parts.iter().any(|part| is_newer(at, part) && (!is_folder(part) || untouched(at, part)))
        || way.ends_in.is_some_and(|folder| ctime(&folder) >= at)
}

struct Look {
    at: Changed,
    mounts: Result<Vec<std::path::PathBuf>, ()>,
    found: Vec<String>,
}

impl Look {
    /// All on the way to a path, and whether it may have been another one or have gone.
    fn at_path(&mut self, path: &str) {
        let Ok(way) = roots::way(Path::new(path)) else { return self.found.push(path.to_owned()) };
        let (at, mounts) = (self.at, &self.mounts);
        let changed = way.parts.iter().filter(|part| is_newer(at, part) || is_mounted_since(at, mounts, &part.path));
        self.found.extend(changed.map(|part| part.path.display().to_string()));
        if way.ends_in.is_some_and(|folder| ctime(&folder) >= at) {
            self.found.push(path.to_owned());
        }
    }

    /// The folders that a pattern lists, and what it names in them. What is there and what it holds is among the files.
    fn at_pattern(&mut self, folder: &str, parts: &[&str]) {
        let Some((part, rest)) = parts.split_first() else { return self.at_path(folder) };
        if !glob::is_pattern(part) {
            return self.at_pattern(&format!("{folder}/{part}"), rest);
        }
        self.at_path(folder);
        let listed = if folder.is_empty() { "/" } else { folder };
        match pid_file::changed(listed) {
            Ok(changed) if changed < self.at => {}
            // That it is not there is of the way to it.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return,
            _ => return self.found.push(listed.to_owned()),
        }
        // What comes or goes in it is seen by it; what comes or goes below it is not.
        if rest.is_empty() {
            return;
        }
        let names = std::fs::read_dir(listed).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
        let Ok::<Vec<OsString>, _>(names) = names else { return self.found.push(listed.to_owned()) };
        for name in names.into_iter().filter_map(|name| name.into_string().ok()).filter(|name| glob::matches(part, name)) {
            self.at_pattern(&format!("{folder}/{name}"), rest);
        }
    }
}

/// The kernel's clock for it is coarse, so that the same time may be later.
fn is_newer(at: Changed, part: &Part) -> bool {
    if !is_folder(part) || ctime(&part.stat) < at {
        return ctime(&part.stat) >= at;
    }
    // Where nothing came or went in it since, the new status is its own: it was moved. Else it may have been moved before that.
    let moved_there = if untouched(at, part) { ctime(&part.folder) } else { mtime(&part.folder) };
    moved_there >= at
}

fn untouched(at: Changed, part: &Part) -> bool {
    mtime(&part.stat) < at
}

fn is_folder(part: &Part) -> bool {
    part.stat.st_mode & libc::S_IFMT == libc::S_IFDIR
}

fn ctime(stat: &FileStat) -> Changed {
    (stat.st_ctime, stat.st_ctime_nsec)
}

fn mtime(stat: &FileStat) -> Changed {
    (stat.st_mtime, stat.st_mtime_nsec)
}

/// Whether something is mounted there that is not known to have been there before: of two mounts at one place systemd knows one.
fn is_mounted_since(at: Changed, mounts: &Result<Vec<std::path::PathBuf>, ()>, path: &Path) -> bool {
    let Ok(mounts) = mounts else { return true };
    match mounts.iter().filter(|point| *point == path).count() {
        0 => false,
        1 => {
            let since = dbus::active_since(&mount_unit(path)).ok().flatten();
            let before = i128::from(at.0) * 1_000_000 + i128::from(at.1) / 1000;
            since.is_none_or(|since| i128::from(since) >= before)
        }
        _ => true,
    }
}

/// systemd.unit(5), "String Escaping for Inclusion in Unit Names".
fn mount_unit(path: &Path) -> String {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let mut name = String::new();
    for (index, byte) in path.as_os_str().as_bytes().iter().skip(1).enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if index > 0 => name.push('.'),
            byte if byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_') => name.push(char::from(*byte)),
            byte => _ = write!(name, "\\x{byte:02x}"),
        }
    }
    name + ".mount"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::thread::sleep;
    use std::time::Duration;

    use sshfix_policy::subsystem::sshd::config::Document;

    use super::*;

    const TICK: Duration = Duration::from_millis(20);

    /// A folder with a configuration, and the moment at which it was read.
    struct Tried(tempfile::TempDir);

    impl Tried {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            for name in ["ssh/v1", "ssh/v2", "ssh/sub/a", "new/v1", "marks"] {
                fs::create_dir_all(at(name)).unwrap();
            }
            for name in ["ssh/main", "ssh/v1/a.conf", "ssh/v2/a.conf", "ssh/sub/a/x.conf", "new/main", "new/v1/a.conf", "ssh/one"]
            {
                fs::write(at(name), "").unwrap();
            }
            symlink("v1", at("ssh/current")).unwrap();
            Self(folder)
        }

        fn path(&self, name: &str) -> String {
            fs::canonicalize(self.0.path()).unwrap().join(name).display().to_string()
        }

        fn mark(&self) -> Changed {
            sleep(TICK);
            fs::write(self.path("marks/mark"), "").unwrap();
            let mark = fs::metadata(self.path("marks/mark")).unwrap();
            sleep(TICK);
            (mark.ctime(), mark.ctime_nsec())
        }

        fn changed_by(&self, change: impl Fn(&dyn Fn(&str) -> String)) -> Vec<String> {
            let mark = self.mark();
            change(&|name| self.path(name));
            let mut tree = Tree::new(&self.path("ssh/main"));
            for name in ["ssh/main", "ssh/current/a.conf", "ssh/sub/a/x.conf", "ssh/one"] {
                if fs::exists(self.path(name)).unwrap() {
                    tree.files.insert(self.path(name), Document::default());
                }
            }
            for pattern in ["ssh/current/*.conf", "ssh/sub/*/x.conf", "ssh/one"] {
                tree.includes.insert(self.path(pattern), Vec::new());
            }
            let (top, found) = (self.path(""), since(mark, &tree));
            // The folder above them is everybody's.
            found.iter().filter_map(|path| path.strip_prefix(&top)).map(str::to_owned).collect()
        }
    }

    #[test]
    fn whatever_is_switched_on_the_way_is_seen_and_what_comes_beside_it_is_not() {
        let tried = Tried::new();
        let none = Vec::<String>::new();
        assert_eq!(tried.changed_by(|_| ()), none);
        let beside = |at: &dyn Fn(&str) -> String| fs::write(at("ssh/known_hosts"), "").unwrap();
        assert_eq!(tried.changed_by(beside), none, "a file beside them");
        assert_eq!(tried.changed_by(|at| fs::write(at("other"), "").unwrap()), none, "a file beside the folder");
        let switched = tried.changed_by(|at| {
            symlink("v2", at("ssh/next")).unwrap();
            fs::rename(at("ssh/next"), at("ssh/current")).unwrap();
        });
        assert_eq!(switched, ["ssh/current"]);
        let below = tried.changed_by(|at| fs::remove_file(at("ssh/sub/a/x.conf")).unwrap());
        assert_eq!(below, ["ssh/sub/a/x.conf"]);
        assert_eq!(tried.changed_by(|at| fs::create_dir(at("ssh/sub/b")).unwrap()), ["ssh/sub"]);
        assert_eq!(tried.changed_by(|at| fs::remove_file(at("ssh/one")).unwrap()), ["ssh/one"]);
        let swapped = tried.changed_by(|at| {
            fs::rename(at("ssh"), at("old")).unwrap();
            fs::rename(at("new"), at("ssh")).unwrap();
        });
        assert!(swapped.contains(&"ssh".to_owned()), "{swapped:?}");
    }

    #[test]
    fn a_key_is_another_one_where_it_or_what_leads_to_it_was_switched() {
        let tried = Tried::new();
        let changed = |change: &dyn Fn(&Tried)| {
            let mark = tried.mark();
            change(&tried);
            key_changed(mark, &tried.path("ssh/current/a.conf"))
        };
        assert!(!changed(&|_| ()));
        assert!(!changed(&|at| {
            fs::write(at.path("ssh/beside"), "").unwrap();
            fs::write(at.path("beside"), "").unwrap();
        }));
        assert!(changed(&|at| fs::write(at.path("ssh/v1/a.conf"), "x").unwrap()));
        assert!(changed(&|at| {
            fs::remove_file(at.path("ssh/current")).unwrap();
            symlink("v2", at.path("ssh/current")).unwrap();
        }));
        assert!(changed(&|at| {
            fs::rename(at.path("ssh"), at.path("old")).unwrap();
            fs::rename(at.path("old"), at.path("ssh")).unwrap();
        }));
    }

    #[test]
    fn mount_units_are_named_as_systemd_names_them() {
        assert_eq!(mount_unit(Path::new("/etc/ssh/sshd_config.d")), "etc-ssh-sshd_config.d.mount");
        assert_eq!(mount_unit(Path::new("/.a/b-c d")), "\\x2ea-b\\x2dc\\x20d.mount");
    }
}
