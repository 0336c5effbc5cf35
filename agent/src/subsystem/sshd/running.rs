//! What is known of the running sshd and of its files besides their text: when it read them, who owns them, when they changed, who
//! holds the ports they name. Reads only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;
use sshfix_policy::host::{HostState, Part, Question};
use sshfix_policy::subsystem::listener::is_sshd;
use sshfix_policy::subsystem::sshd::config::{Tree, glob};
use sshfix_policy::subsystem::sshd::{FileFacts, Manager, ReadAt, Running, Server};

use super::complaints;
use super::pid_file::{self, Mark};
use crate::subsystem::listener;

/// The default `PidFile`, as Debian builds sshd.
const PID_FILE: &str = "/run/sshd.pid";

/// Of the sshd on this port.
pub(super) fn running(state: &HostState, server: &Server, port: u16) -> Running {
    let (files, unread) = server.tree.as_ref().map(facts).unwrap_or_default();
    let effective = server.effective.as_ref().ok();
    let pid = process(state, port);
    // sshd prints nothing where it does not take its files; what names the process is its file all the same.
    let pid_file = effective.map_or(Some(PID_FILE), |effective| effective.one("pidfile"));
    let read = pid.map_or(ReadAt::Unknown, |pid| read_at(pid, pid_file, &server.manager));
    let ports: BTreeSet<u16> =
        effective.map(|it| it.all("port").iter().filter_map(|port| port.parse().ok()).collect()).unwrap_or_default();
    let (mut listeners, mut unseen) = (Vec::new(), None);
    for port in ports {
        match listener::observe(&Question { sources: BTreeSet::new(), port, everybody: false }) {
            Part::Present(state) => listeners.extend(state.listeners.into_iter().filter(|socket| socket.local.port() == port)),
            Part::Absent(why) | Part::Unreadable(why) => unseen = Some(why),
        }
    }
    Running { said: complaints(&server.invocation), read, files, unread, listeners, unseen }
}

/// The sshd that listens on a port.
fn process(state: &HostState, port: u16) -> Option<u32> {
    let listeners = state.listener.present()?.listeners.iter().filter(|socket| socket.local.port() == port);
    let mut holders = listeners.flat_map(|socket| &socket.holders);
    holders.find(|holder| is_sshd(holder)).map(|it| it.pid)
}

/// By its pid file, else only its start is known.
fn read_at(pid: u32, pid_file: Option<&str>, manager: &Manager) -> ReadAt {
    match (Mark::of(pid, pid_file, manager).time(), pid_file::started(pid)) {
        (Some(time), _) => ReadAt::At(time),
        (None, Some(time)) => ReadAt::NotBefore(time),
        (None, None) => ReadAt::Unknown,
    }
}

/// The files and the folders that Include patterns list; and the files in those that no pattern names.
fn facts(tree: &Tree) -> (BTreeMap<String, FileFacts>, Vec<String>) {
    let mut found: BTreeMap<String, FileFacts> = tree.files.keys().filter_map(|path| Some((path.clone(), of(path)?))).collect();
    let mut unread = Vec::new();
    for pattern in tree.includes.keys() {
        let Some((folder, name)) = pattern.rsplit_once('/') else { continue };
        if !glob::is_pattern(name) || glob::is_pattern(folder) || found.contains_key(folder) {
            continue;
        }
        let Some(facts) = of(folder) else { continue };
        found.insert(folder.to_owned(), facts);
        let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let paths = names.map(|name| format!("{folder}/{name}"));
        unread.extend(paths.filter(|path| !tree.files.contains_key(path) && Path::new(path).is_file()));
    }
    unread.sort();
    (found, unread)
}

/// Of the file itself, behind symbolic links, as sshd reads it. Its status changes with its content and when it is put in place.
fn of(path: &str) -> Option<FileFacts> {
    let file = fs::metadata(path).ok()?;
    let changed = if file.is_dir() {
        Timestamp::new(file.mtime(), i32::try_from(file.mtime_nsec()).ok()?)
    } else {
        Timestamp::new(file.ctime(), i32::try_from(file.ctime_nsec()).ok()?)
    };
    Some(FileFacts { uid: file.uid(), mode: file.mode(), changed: changed.ok()? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use sshfix_policy::subsystem::sshd::config::Document;

    use super::*;

    #[test]
    fn files_beside_the_included_ones_are_found_and_folders_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| format!("{}/{name}", folder.path().display());
        for name in ["a.conf", "b.conf.bak", "main"] {
            fs::write(at(name), "").unwrap();
        }
        let mut tree = Tree::new(&at("main"));
        for name in ["main", "a.conf"] {
            tree.files.insert(at(name), Document::default());
        }
        tree.includes.insert(at("*.conf"), vec![at("a.conf")]);
        tree.includes.insert("/none/x".to_owned(), Vec::new());
        let (files, unread) = facts(&tree);
        assert_eq!(unread, [at("b.conf.bak")]);
        assert!(files.contains_key(&folder.path().display().to_string()) && files.contains_key(&at("a.conf")));
    }

    #[test]
    fn without_a_pid_file_only_its_start_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let pid = std::process::id();
        let read = || read_at(pid, path.to_str(), &Manager::Nobody);
        assert!(matches!(read(), ReadAt::NotBefore(_)));
        fs::write(&path, format!("{pid}\n")).unwrap();
        assert!(matches!(read(), ReadAt::At(written) if written <= Timestamp::now()));
        fs::write(&path, "1\n").unwrap();
        assert!(matches!(read(), ReadAt::NotBefore(_)));
    }
}
