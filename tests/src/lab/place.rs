//! Where one server or namespace of the lab lives, under one name: a directory, a network namespace, a cgroup, mounts.
//! Making, removing, and sweeping what dead processes left. A lock that dies with the process tells who is dead.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use super::command::run;

const ROOT: &str = "/run/sshfix-lab";

/// A name nobody else has, and all that hangs on it. Dropping it removes everything.
pub(super) struct Place {
    name: String,
    _lock: File,
}

impl Place {
    /// Takes a new name, after removing what dead processes left.
    #[track_caller]
    pub(super) fn take() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        // 15 bytes are what an interface `ve-NAME` may have.
        let name = format!("l{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        fs::create_dir_all(ROOT).expect("the lab needs root: /run/sshfix-lab");
        let all = open_lock(&Path::new(ROOT).join("lock"));
        all.lock().expect("a lock on /run/sshfix-lab/lock");
        sweep();
        let lock = open_lock(&lock_file(&name));
        lock.try_lock().expect("nobody else has the name of this process");
        Place { name, _lock: lock }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A directory for this place's files.
    pub(super) fn dir(&self) -> PathBuf {
        dir(&self.name)
    }

    pub(super) fn netns_file(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// A network namespace of this name, loopback up.
    pub(super) fn make_netns(&self) {
        run(&["ip", "netns", "add", &self.name]).expect_ok();
        run(&["ip", "-n", &self.name, "link", "set", "lo", "up"]).expect_ok();
    }

    /// A cgroup of its own: two servers in one cgroup would kill each other's services.
    pub(super) fn make_cgroup(&self) -> PathBuf {
        let cgroup = cgroup(&self.name);
        fs::create_dir_all(&cgroup).unwrap_or_else(|error| panic!("cannot make {}: {error}", cgroup.display()));
        cgroup
    }

    /// Kills every process in the cgroup at once and removes it: Linux 6.x kills what is forked in a cgroup once killed, too.
    pub(super) fn kill(&self) {
        kill(&self.name);
        remove_cgroup(&cgroup(&self.name));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn open_lock(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .unwrap_or_else(|error| panic!("cannot open {}: {error}. The lab needs root", path.display()))
}

fn lock_file(name: &str) -> PathBuf {
    Path::new(ROOT).join(format!("{name}.lock"))
}

fn dir(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

/// In the unified hierarchy: `/sys/fs/cgroup` itself, or `unified` below it on hosts that still have version 1 besides.
fn cgroup(name: &str) -> PathBuf {
    let hybrid = Path::new("/sys/fs/cgroup/unified");
    let base = if hybrid.join("cgroup.procs").exists() { hybrid } else { Path::new("/sys/fs/cgroup") };
    base.join("sshfix-lab").join(name)
}

/// Removes every place whose lock nobody holds. Call with the lab's lock held.
fn sweep() {
    for entry in fs::read_dir(ROOT).into_iter().flatten().flatten() {
        let file_name = entry.file_name();
        let Some(name) = file_name.to_str().and_then(|file| file.strip_suffix(".lock")) else { continue };
        let Ok(lock) = File::open(entry.path()) else { continue };
        if lock.try_lock().is_ok() {
            remove(name);
        }
    }
}

/// Removes what hangs on a name, in any state of completeness. Never panics: it runs while a panic unwinds.
fn remove(name: &str) {
    kill(name);
    let dir = dir(name);
    // Inner before outer: the overlay lies on the tmpfs.
    for mount in [dir.join("root"), dir.clone()] {
        let mount = mount.display().to_string();
        if run(&["mountpoint", "-q", &mount]).ok() && !run(&["umount", "-R", &mount]).ok() {
            run(&["umount", "-R", "--lazy", &mount]);
        }
    }
    if dir.exists() {
        // Never into a mount that would not go away.
        run(&["rm", "-rf", "--one-file-system", &dir.display().to_string()]);
    }
    if Path::new("/run/netns").join(name).exists() {
        run(&["ip", "netns", "del", name]);
    }
    // nspawn's own leavings when it is killed.
    let _ = fs::remove_dir(Path::new("/run/systemd/nspawn/propagate").join(name));
    remove_cgroup(&cgroup(name));
    let _ = fs::remove_file(lock_file(name));
}

fn kill(name: &str) {
    let cgroup = cgroup(name);
    if !cgroup.exists() {
        return;
    }
    // cgroups(7): cgroup.kill, Linux 5.14; populated 0 in cgroup.events when the last one is gone.
    let _ = fs::write(cgroup.join("cgroup.kill"), "1");
    for _ in 0..6000 {
        match fs::read_to_string(cgroup.join("cgroup.events")) {
            Ok(events) if events.contains("populated 1") => sleep(Duration::from_millis(10)),
            Ok(_) | Err(_) => return,
        }
    }
}

/// A cgroup is removed like a tree of empty directories, from the leaves.
fn remove_cgroup(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}
