//! Which processes hold which sockets, from /proc (proc(5)). Looks into the SSH servers and process 1 first, and into all others
//! only for sockets nobody among those holds. Read only; a process that ends meanwhile is passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use sshfix_policy::subsystem::listener::{Process, Title, session_title, speaks_ssh};

/// Looking through all processes ends here; what was not found by then has no holder.
const LIMIT: Duration = Duration::from_secs(3);
/// A process with more open files is not searched.
const MOST_FILES: usize = 100_000;

/// A process that holds sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub process: Process,
    /// What its title says of a login.
    pub title: Title,
}

/// The holders of sockets, by inode.
pub type Holders = BTreeMap<u32, Vec<Holder>>;

/// The sockets of SSH servers and process 1, and the holders of `wanted` whoever they are.
pub fn holders(wanted: &BTreeSet<u32>) -> Holders {
    let deadline = Instant::now() + LIMIT;
    let mut found = Holders::new();
    let mut others = Vec::new();
    for pid in pids() {
        match process(pid) {
            Some(process) if pid == 1 || speaks_ssh(&process) => add(&mut found, &process, None),
            Some(process) => others.push(process),
            None => {}
        }
    }
    for process in others {
        let left: BTreeSet<u32> = wanted.iter().filter(|inode| !found.contains_key(inode)).copied().collect();
        if left.is_empty() || Instant::now() > deadline {
            break;
        }
        add(&mut found, &process, Some(&left));
    }
    found
}

/// Adds the sockets a process holds, or those of them that are asked for.
fn add(found: &mut Holders, process: &Process, only: Option<&BTreeSet<u32>>) {
    let inodes: Vec<u32> =
        sockets(process.pid).into_iter().filter(|inode| only.is_none_or(|only| only.contains(inode))).collect();
    if inodes.is_empty() {
        return;
    }
    let title = fs::read(format!("/proc/{}/cmdline", process.pid)).map_or(Title::Other, |line| session_title(&line));
    for inode in inodes {
        found.entry(inode).or_default().push(Holder { process: process.clone(), title: title.clone() });
    }
}

fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// A process with a program file; kernel threads have none.
fn process(pid: u32) -> Option<Process> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let link = format!("/proc/{pid}/exe");
    let exe = fs::read_link(&link).ok()?;
    let exe = exe.to_string_lossy();
    Some(Process {
        pid,
        name: name.trim_end_matches('\n').to_owned(),
        exe: Some(exe.strip_suffix(" (deleted)").unwrap_or(&exe).to_owned()),
        // Follows the link to the file that runs, whatever its name is now.
        of_root: fs::metadata(&link).is_ok_and(|file| file.uid() == 0),
        unit: fs::read_to_string(format!("/proc/{pid}/cgroup")).ok().and_then(|cgroup| unit(&cgroup)),
    })
}

/// The inodes of the sockets a process holds.
fn sockets(pid: u32) -> BTreeSet<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeSet::new() };
    entries
        .take(MOST_FILES)
        .filter_map(|entry| {
            let target = fs::read_link(entry.ok()?.path()).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// The unit in a `/proc/PID/cgroup` (cgroups(7)): on the unified line `0::`, or in systemd's own hierarchy of the old kind.
fn unit(cgroup: &str) -> Option<String> {
    let is_unit = |part: &&str| [".service", ".scope", ".socket"].iter().any(|kind| part.ends_with(kind));
    cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        if number != "0" && controllers != "name=systemd" {
            return None;
        }
        path.split('/').rev().find(is_unit).map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_last_one_on_the_cgroup_path() {
        for (cgroup, want) in [
            ("0::/system.slice/ssh.service\n", Some("ssh.service")),
            ("0::/user.slice/user-0.slice/session-3.scope\n", Some("session-3.scope")),
            ("0::/system.slice/foo.service/worker\n", Some("foo.service")),
            ("12:pids:/system.slice/x.service\n1:name=systemd:/system.slice/ssh.service\n", Some("ssh.service")),
            ("9:name=systemd:/\n0::/system.slice/ssh.service\n", Some("ssh.service")),
            ("0::/\n", None),
            ("", None),
        ] {
            assert_eq!(unit(cgroup).as_deref(), want, "{cgroup}");
        }
    }

    #[test]
    fn the_holder_of_a_socket_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("{e}"));
        let port = listener.local_addr().map_or(0, |address| address.port());
        let sockets = super::super::sockets::listening().unwrap_or_else(|e| panic!("{e}"));
        let socket = sockets.iter().find(|socket| socket.local.port() == port).unwrap_or_else(|| panic!("not listed"));
        let holders = holders(&BTreeSet::from([socket.inode]));
        let pids: Vec<u32> = holders.get(&socket.inode).into_iter().flatten().map(|holder| holder.process.pid).collect();
        assert_eq!(pids, [std::process::id()]);
    }
}
