//! Does one order: looks whether it is about something that may be written at all and holds what the order expects, and writes it. Refuses
//! everything else; that is all that this process can be made to do.

use std::path::{Component, Path};

use sshfix_policy::host::{Done, StepError};
use sshfix_policy::subsystem::sshd::Mend;

use super::{Answer, MAX_CONTENT, Order, digest};
use crate::config::Config;
use crate::subsystem::sshd::repair_here;
use crate::subsystem::xtables;
use crate::sys::files::{self, FileError, Old};
use crate::sys::roots;

/// A file that is there keeps its mode; none is made.
const NEW_MODE: u32 = 0o600;
/// `dir` of `pam_faillock`, and what it is a link to.
const TALLIES: [&str; 2] = ["/run/faillock", "/var/run/faillock"];

pub(super) fn perform(configs: &[Config], order: &Order, content: &[u8]) -> Answer {
    let done = match order {
        Order::Hosts { path, before, after, old } => {
            hosts(configs, Path::new(path), before.as_deref(), after.is_some().then_some(content), *old)
        }
        Order::Sshd { path, before, after: _, old } => sshd_file(path).and_then(|path| edit(path, before, content, *old)),
        Order::SshdClear { path } => {
            sshd_file(path).and_then(|path| files::clear(path).map(|()| Done::Already).map_err(step_error))
        }
        Order::Forget { path } => forget(configs, path).map(|()| Done::Changed),
        Order::Repair(part) => repairable(part).and_then(|()| repair_here(part)),
        Order::XtablesLock => xtables::make_lock().map(|()| Done::Changed),
    };
    match done {
        Ok(Done::Changed) => Answer::Changed,
        Ok(Done::Already) => Answer::Already,
        Err(StepError::Drifted(what)) => Answer::Drifted(what),
        Err(StepError::Failed(what) | StepError::TimedOut(what)) => Answer::Failed(what),
    }
}

fn hosts_files(configs: &[Config]) -> impl Iterator<Item = &Path> {
    configs.iter().flat_map(|config| [config.paths.hosts_allow.as_path(), config.paths.hosts_deny.as_path()])
}

fn hosts(configs: &[Config], path: &Path, before: Option<&str>, after: Option<&[u8]>, old: Old) -> Result<Done, StepError> {
    if !hosts_files(configs).any(|file| file == path) {
        return Err(StepError::Failed(format!("{} is not a hosts file of agent.toml; nothing was written", path.display())));
    }
    let now = match files::read_checked(path, MAX_CONTENT) {
        Ok(checked) => Some(checked.bytes),
        Err(FileError::Missing(_)) => None,
        Err(error) => return Err(step_error(error)),
    };
    if now.as_deref() == after {
        return Ok(Done::Already);
    }
    if now.as_deref().map(digest).as_deref() != before {
        return Err(StepError::Drifted(FileError::Drifted(path.into()).to_string()));
    }
    match (&now, after) {
        (now, Some(after)) => files::write(path, now.as_deref(), after, 0o644, old).map_err(step_error)?,
        (Some(now), None) => files::remove(path, now, old).map_err(step_error)?,
        (None, None) => return Ok(Done::Already),
    }
    Ok(Done::Changed)
}

/// A kept version lies where the writer may write the file itself.
fn forget(configs: &[Config], path: &str) -> Result<(), StepError> {
    let kept = Path::new(path);
    let folder = kept.parent();
    if !hosts_files(configs).any(|file| file.parent() == folder) {
        sshd_file(path)?;
    }
    files::kept::forget(kept).map_err(step_error)
}

fn step_error(error: FileError) -> StepError {
    match error {
        FileError::Drifted(_) => StepError::Drifted(error.to_string()),
        error => StepError::Failed(error.to_string()),
    }
}

/// A file of sshd's: below `/etc/ssh`, or where neither `/etc` nor `/run` is: the unit says what else can be written at all.
fn sshd_file(path: &str) -> Result<&Path, StepError> {
    let found = Path::new(path);
    let plain = found.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let inside = found.starts_with("/etc/ssh") || !["/etc", "/run", "/var/run"].iter().any(|other| found.starts_with(other));
    if found.is_absolute() && plain && inside {
        return Ok(found);
    }
    Err(StepError::Failed(format!("{path} is not a file below /etc/ssh; nothing was written")))
}

/// New content for a file of the configuration; never for a key.
fn edit(path: &Path, before: &str, after: &[u8], old: Old) -> Result<Done, StepError> {
    let now = files::read_checked(path, MAX_CONTENT).map_err(step_error)?.bytes;
    if now.starts_with(b"-----BEGIN") {
        return Err(StepError::Failed(format!("{} is a key; it was left alone", path.display())));
    }
    if now == after {
        return Ok(Done::Already);
    }
    if digest(&now) != before {
        return Err(step_error(FileError::Drifted(path.into())));
    }
    files::write(path, Some(&now), after, NEW_MODE, old).map_err(step_error)?;
    Ok(Done::Changed)
}

/// What is repaired lies where it belongs.
fn repairable(part: &Mend) -> Result<(), StepError> {
    match part {
        Mend::Folder { .. } => Ok(()),
        Mend::KeyMode { path, .. } | Mend::Key { path, .. } => sshd_file(path).and_then(roots_folder),
        Mend::Tally { path, .. } if is_tally(path) => Ok(()),
        Mend::Tally { path, .. } => Err(StepError::Failed(format!("{path} is not in {}; nothing was written", TALLIES[0]))),
    }
}

/// Nobody but root can put another file in its place.
fn roots_folder(path: &Path) -> Result<(), StepError> {
    let folder = path.parent().and_then(|folder| roots::find(folder).ok());
    if folder.is_some_and(|folder| !folder.writable_by_others()) {
        return Ok(());
    }
    Err(StepError::Failed(format!("{} does not lie in a folder that only root can write; nothing was written", path.display())))
}

/// A file right in the folder of tallies.
fn is_tally(path: &str) -> bool {
    let path = Path::new(path);
    let folder = path.parent().and_then(Path::to_str);
    path.file_name().is_some() && folder.is_some_and(|folder| TALLIES.contains(&folder))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    fn configs(folder: &Path) -> [Config; 1] {
        let mut config = Config::default();
        config.paths.hosts_allow = folder.join("hosts.allow");
        config.paths.hosts_deny = folder.join("hosts.deny");
        [config]
    }

    fn order(path: &Path, before: Option<&[u8]>, after: Option<&[u8]>) -> (Order, Vec<u8>) {
        let path = path.display().to_string();
        let (before, after_length) = (before.map(digest), after.map(super::super::length));
        let order = Order::Hosts { path, before, after: after_length, old: Old::Gone };
        (order, after.unwrap_or_default().to_vec())
    }

    #[test]
    fn the_two_hosts_files_are_made_replaced_and_removed_and_no_other_file_is() {
        let folder = tempfile::tempdir().unwrap();
        let configs = configs(folder.path());
        let ask = |(order, content): (Order, Vec<u8>)| perform(&configs, &order, &content);
        let deny = folder.path().join("hosts.deny");
        assert_eq!(ask(order(&deny, None, Some(b"one\n"))), Answer::Changed);
        assert_eq!(ask(order(&deny, Some(b"one\n"), Some(b"two\n"))), Answer::Changed);
        assert_eq!(ask(order(&deny, Some(b"one\n"), Some(b"two\n"))), Answer::Already, "sent again");
        assert!(matches!(ask(order(&deny, Some(b"one\n"), Some(b"three\n"))), Answer::Drifted(_)), "others wrote it");
        assert!(matches!(ask(order(&deny, None, Some(b"three\n"))), Answer::Drifted(_)), "it is there");
        assert_eq!(fs::read(&deny).unwrap(), b"two\n");
        assert_eq!(ask(order(&deny, Some(b"two\n"), None)), Answer::Changed);
        assert_eq!(ask(order(&deny, Some(b"two\n"), None)), Answer::Already, "sent again");
        assert!(!deny.exists());

        let other = folder.path().join("shadow");
        fs::write(&other, "root\n").unwrap();
        for path in [other.clone(), folder.path().join("x/../hosts.deny"), folder.path().join("./hosts.deny")] {
            assert!(matches!(ask(order(&path, Some(b"root\n"), Some(b"x\n"))), Answer::Failed(_) | Answer::Drifted(_)));
        }
        std::os::unix::fs::symlink(&other, &deny).unwrap();
        assert!(matches!(ask(order(&deny, Some(b"root\n"), Some(b"x\n"))), Answer::Failed(_)), "a symbolic link");
        assert_eq!(fs::read(&other).unwrap(), b"root\n");
    }

    #[test]
    fn a_tally_is_a_file_right_in_the_folder_of_tallies() {
        for good in ["/run/faillock/alice", "/var/run/faillock/alice"] {
            assert!(is_tally(good), "{good}");
        }
        for bad in [
            "/etc/passwd",
            "/run/faillock/..",
            "/run/faillock",
            "/run/faillock/a/b",
            "/run/faillock/../sshd.pid",
            "run/faillock/alice",
            "/run/faillock/a/../../x",
        ] {
            assert!(!is_tally(bad), "{bad}");
        }
    }

    #[test]
    fn a_file_of_sshd_lies_below_etc_ssh_or_where_only_the_unit_can_open_the_way() {
        for good in ["/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/50-x.conf", "/opt/ssh/etc/sshd_config"] {
            assert!(sshd_file(good).is_ok(), "{good}");
        }
        for bad in [
            "/etc/shadow",
            "/etc/sshfix/policy.toml",
            "/etc/ssh/../shadow",
            "/etc/sshd/x",
            "/run/x",
            "/var/run/x",
            "etc/ssh/x",
            "ssh/x",
            "",
        ] {
            assert!(sshd_file(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_of_sshd_is_edited_while_it_is_as_it_was_and_a_key_never_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sshd_config");
        fs::write(&path, "old\n").unwrap();
        assert_eq!(edit(&path, &digest(b"old\n"), b"new\n", Old::Gone), Ok(Done::Changed));
        assert_eq!(edit(&path, &digest(b"old\n"), b"new\n", Old::Gone), Ok(Done::Already), "sent again");
        assert!(matches!(edit(&path, &digest(b"old\n"), b"other\n", Old::Gone), Err(StepError::Drifted(_))));
        assert_eq!(fs::read(&path).unwrap(), b"new\n");
        fs::write(&path, "-----BEGIN OPENSSH PRIVATE KEY-----\n").unwrap();
        let key = fs::read(&path).unwrap();
        assert!(matches!(edit(&path, &digest(&key), b"mine\n", Old::Gone), Err(StepError::Failed(_))));
        assert!(matches!(edit(&folder.path().join("none"), &digest(b""), b"x", Old::Gone), Err(StepError::Failed(_))));
    }
}
