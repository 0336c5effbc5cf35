//! When an sshd read its files: it writes its pid file anew at each start and after each SIGHUP, once it has read them and listens (sshd.c,
//! `main`). The time of the file is by the wall clock of then, so that a clock that was set back since is seen. Reads only.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use sshfix_policy::subsystem::sshd::Manager;
use sshfix_policy::subsystem::sshd::way_in::values;

use super::value_files::PID_MAX;
use crate::sys::clock::Moment;
use crate::sys::{dbus, roots};

/// How long an sshd that listens may be without its pid file.
const WRITES_PID_FILE: Duration = Duration::from_millis(200);
/// What systemd and the kernel may differ in about the start of a process.
const SLACK: SignedDuration = SignedDuration::from_secs(2);
/// A pid file that is not older than this was written by the start, and by no SIGHUP.
const STARTS: SignedDuration = SignedDuration::from_mins(1);

/// Seconds and nanoseconds of a status change.
pub(super) type Changed = (i64, i64);

/// Of a file, behind symbolic links. Its status changes too where it is put in place with an old time.
pub(super) fn changed(path: &str) -> io::Result<Changed> {
    std::fs::metadata(path).map(|file| (file.ctime(), file.ctime_nsec()))
}

/// When an sshd read its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// By its settings it writes no pid file, and `policy` knows that by them.
    None,
    /// Another sshd wrote it last, or nobody did, or a clock was set.
    Unknown,
    /// Then.
    At(Changed),
}

impl Mark {
    /// For people, and to compare it with what others wrote down.
    pub(super) fn time(self) -> Option<Timestamp> {
        if let Self::At(at) = self { timestamp(at) } else { None }
    }

    /// Of the process that listens, which this manager started, by the pid file of its settings.
    pub(super) fn of(pid: u32, pid_file: Option<&str>, manager: &Manager) -> Self {
        let Some(pid_file) = pid_file.filter(|path| path.starts_with('/')) else { return Self::None };
        let until = Instant::now() + WRITES_PID_FILE;
        loop {
            let written = changed(pid_file);
            let holds = roots::read(Path::new(pid_file), PID_MAX).ok().as_deref().and_then(values::pid);
            match (written, holds) {
                (Ok(written), Some(holds)) if holds == pid => {
                    return timestamp(written).and_then(|written| by_now(written, pid, manager)).map_or(Self::Unknown, Self::At);
                }
                // It removes the file at SIGHUP and writes it again once it listens.
                (_, None) if Instant::now() < until => thread::sleep(Duration::from_millis(10)),
                _ => return Self::Unknown,
            }
        }
    }
}

fn timestamp((seconds, nanoseconds): Changed) -> Option<Timestamp> {
    i32::try_from(nanoseconds).ok().and_then(|nanoseconds| Timestamp::new(seconds, nanoseconds).ok())
}

/// When a pid file was written, by the wall clock of now.
fn by_now(written: Timestamp, pid: u32, manager: &Manager) -> Option<Changed> {
    let started = match manager {
        // Nothing is edited for an sshd that systemd did not start.
        Manager::Nobody | Manager::Connections(_) => None,
        Manager::Service { name, .. } => {
            let service = dbus::service(name).ok()??;
            match service.main_started.filter(|_| service.main_pid == pid) {
                Some(then) => Some((then, started(pid)?)),
                None => None,
            }
        }
    };
    let at = shifted(written, Timestamp::now(), started)?;
    Some((at.as_second(), at.subsec_nanosecond().into()))
}

/// By the clock of now: none where the file is of a time that is still to come. `started` is when its process was started, by the wall clock
/// of then and by that of now: where they differ the clock was set since. What is written once the clock was set back is left; of a SIGHUP
/// between the start and that nothing is known.
fn shifted(written: Timestamp, now: Timestamp, started: Option<(Timestamp, Timestamp)>) -> Option<Timestamp> {
    if written > now {
        return None;
    }
    let Some((then, by_now)) = started else { return Some(written) };
    let back = then.duration_since(by_now);
    let age = written.duration_since(then);
    if back > SLACK && age >= -SLACK && age <= STARTS {
        return written.checked_sub(back).ok();
    }
    Some(written)
}

/// When a process was started, by the wall clock of now. `proc_pid_stat(5)`, `starttime`: clock ticks of 10 ms (`USER_HZ`) since the boot.
pub(super) fn started(pid: u32) -> Option<Timestamp> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: i64 = rest.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let now = Moment::now();
    let since_boot = SignedDuration::try_from(now.since_boot).ok()?;
    let started = SignedDuration::from_millis(ticks.checked_mul(10)?);
    now.wall.checked_sub(since_boot).ok()?.checked_add(started).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    #[test]
    fn a_process_read_its_files_when_it_wrote_its_pid_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let pid = std::process::id();
        let mark = || Mark::of(pid, path.to_str(), &Manager::Nobody);
        assert_eq!(Mark::of(pid, None, &Manager::Nobody), Mark::None);
        assert_eq!(Mark::of(pid, Some("none"), &Manager::Nobody), Mark::None);
        assert_eq!(mark(), Mark::Unknown, "there is none");
        fs::write(&path, format!("{pid}\n")).unwrap();
        let written = mark().time().unwrap();
        assert!(started(pid).unwrap() <= written && written <= Timestamp::now());
        // Whoever puts another time on it does not change when its status changed.
        let late = std::time::SystemTime::now() + Duration::from_hours(1);
        fs::File::options().write(true).open(&path).unwrap().set_modified(late).unwrap();
        assert!(mark().time().unwrap() <= Timestamp::now());
        fs::write(&path, "1\n").unwrap();
        assert_eq!(mark(), Mark::Unknown, "another process wrote it");
    }

    #[test]
    fn a_clock_that_was_set_back_since_hides_no_edit() {
        let at = |hours: i64, seconds: i64| Timestamp::from_second(1_800_000_000 + hours * 3600 + seconds).unwrap();
        // Started at 10:00 while the clock said 20:00. It is 11:00: the file is of a time to come.
        assert_eq!(shifted(at(20, 1), at(11, 0), Some((at(20, 0), at(10, 0)))), None);
        assert_eq!(shifted(at(20, 1), at(11, 0), None), None);
        // It is 23:00, and an edit at 12:00 is later than the start.
        assert_eq!(shifted(at(20, 1), at(23, 0), Some((at(20, 0), at(10, 0)))), Some(at(10, 1)));
        // It was told to read them again at 22:00.
        assert_eq!(shifted(at(22, 0), at(23, 0), Some((at(20, 0), at(10, 0)))), Some(at(22, 0)));
        // A clock that is right, and one that was behind.
        for then in [10, 3] {
            assert_eq!(shifted(at(then, 1), at(23, 0), Some((at(then, 0), at(10, 0)))), Some(at(then, 1)));
        }
    }
}
