//! The sshd that a change is made for, held by a descriptor, and having it read its files again. Nothing here asks what others than root
//! can disturb: no list of sockets, no systemd, no connection. What is seen of it is seen in its own folder in /proc. Writes no file.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sshfix_policy::host::step::Step as AnyStep;
use sshfix_policy::subsystem::sshd::{Activation, Invocation, Step, Through};

use super::ports::{self, NotKept};
use super::unit;
use crate::subsystem::listener;
use crate::sys::process::{Process, unless_ended};
use crate::sys::roots;

/// The longest pid file: a number.
const PID_FILE_MAX: u64 = 64;
/// Where sshd writes its number (`sshd_config(5)`, `PidFile`).
const PID_FILE: &str = "/run/sshd.pid";
/// Where the cgroups of systemd's units are: of the one hierarchy of today, and of systemd's own in the older arrangements.
const CGROUPS: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];
/// Process 1 with more open files is not searched to the end.
const MAX_FILES: usize = 100_000;
/// How long a service may take until it reacts to signals, and to read its files after one: some 20 ms.
const READY: Duration = Duration::from_secs(1);
/// It is told so often.
const TELLS: u32 = 2;
const TICK: Duration = Duration::from_millis(10);

/// A listening sshd that was proven to be root's.
pub(super) struct Running {
    process: Process,
    unit: Option<String>,
    /// The program with its options.
    pub(super) invocation: Invocation,
    /// systemd opened its sockets and gave them to it: it cannot open them anew.
    pub(super) has_systemds_sockets: bool,
}

/// What came of telling it.
pub(super) enum Told {
    /// It read its files and opened its sockets anew.
    Read,
    /// It ended.
    Ended,
    /// It was not seen to do either: the reason.
    Unseen(String),
}

/// By port.
static HELD: Mutex<BTreeMap<u16, Arc<Running>>> = Mutex::new(BTreeMap::new());
/// Those that were told and not seen to read their files yet.
static UNSEEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Holds the sshd of a port by its id, which was found a moment ago.
pub(super) fn hold(port: u16, pid: u32, invocation: &Invocation) {
    match Running::open(pid, None).map(|found| found.map(|found| Running { invocation: invocation.clone(), ..found })) {
        Ok(Some(found)) => keep(port, found),
        Ok(None) => {}
        Err(error) => tracing::warn!("sshd (pid {pid}) is not held for a rollback: {error}"),
    }
}

/// Holds the sshd of each step that may have to be taken back: by its unit, since nobody holds it yet.
pub fn hold_for<'a>(steps: impl IntoIterator<Item = &'a AnyStep>) {
    for step in steps {
        if let AnyStep::Sshd(step) = step
            && running(step).is_none()
        {
            tracing::warn!(
                "no sshd was found on port {} that a rollback would reload; the rollback looks for it again",
                step.port
            );
        }
    }
}

/// The one that a step is about: the one that is held while it lives, else the main process of the step's unit.
pub(super) fn running(step: &Step) -> Option<Arc<Running>> {
    let held = HELD.lock().unwrap_or_else(PoisonError::into_inner).get(&step.port).cloned();
    if let Some(held) = held.filter(|held| held.lives()) {
        return Some(held);
    }
    let (Activation::Reload(Through::Unit(unit))
    | Activation::Restart(Through::Unit(unit))
    | Activation::Start(Through::Unit(unit))) = &step.activation
    else {
        return None;
    };
    let found = of_unit(unit)?;
    keep(step.port, found);
    HELD.lock().unwrap_or_else(PoisonError::into_inner).get(&step.port).cloned()
}

fn keep(port: u16, running: Running) {
    HELD.lock().unwrap_or_else(PoisonError::into_inner).insert(port, Arc::new(running));
}

/// The listening sshd of a unit, by the cgroup of the unit or by the pid file.
fn of_unit(unit: &str) -> Option<Running> {
    let pids = pids_of(unit).into_iter().chain(pid_file());
    for pid in pids.collect::<BTreeSet<_>>() {
        match Running::open(pid, Some(unit)) {
            Ok(Some(found)) => return Some(found),
            Ok(None) => {}
            Err(error) => tracing::warn!("whether process {pid} is the sshd of {unit} is not known: {error}"),
        }
    }
    None
}

/// The processes in the cgroup of a unit, which the system manager made.
fn pids_of(unit: &str) -> Vec<u32> {
    let first = listener::first_cgroup().unwrap_or_default();
    let texts =
        CGROUPS.iter().filter_map(|at| std::fs::read_to_string(format!("{at}{first}/system.slice/{unit}/cgroup.procs")).ok());
    texts.flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<u32>>()).collect()
}

fn pid_file() -> Option<u32> {
    String::from_utf8(roots::read(Path::new(PID_FILE), PID_FILE_MAX).ok()?).ok()?.trim().parse().ok()
}

/// What is seen of it at one moment.
struct Seen {
    /// Whether a SIGHUP has it read its files: never sent before, when it would end it.
    takes_sighup: bool,
    sockets: BTreeSet<u32>,
}

impl Running {
    /// Of this process, if it is a listening sshd of root's, in that unit where one is named.
    fn open(pid: u32, unit: Option<&str>) -> io::Result<Option<Self>> {
        let Some(sshd) = listener::sshd(pid)? else { return Ok(None) };
        if unit.is_some() && sshd.unit.as_deref() != unit {
            return Ok(None);
        }
        let Some(mut invocation) = Invocation::from_title(&sshd.program, &sshd.title) else { return Ok(None) };
        // In a title the words are joined by blanks: those of the unit count where they say the same.
        let joined = invocation.options.join(" ");
        if let Some(name) = sshd.unit.as_deref().filter(|name| name.ends_with(".service") && joined.contains(' '))
            && let Ok(Some(started)) = unit::of_service(name)
            && started.options.join(" ") == joined
        {
            invocation.options = started.options;
        }
        let systemds: BTreeSet<u32> = Process::open(1)?.sockets(MAX_FILES)?.0.into_iter().collect();
        let own = unless_ended(sshd.process.later_sockets())?.unwrap_or_default();
        let has_systemds_sockets = !own.is_disjoint(&systemds);
        Ok(Some(Self { process: sshd.process, unit: sshd.unit, invocation, has_systemds_sockets }))
    }

    /// Whether the process lives, and is what it was.
    fn lives(&self) -> bool {
        let is_same = || listener::is_still(&self.process, self.unit.as_deref());
        matches!(self.look(), Ok(Some(_))) && is_same().unwrap_or(false)
    }

    /// None where it has ended.
    fn look(&self) -> io::Result<Option<Seen>> {
        let Some(signals) = unless_ended(self.process.signals())?.filter(|signals| !signals.ended) else { return Ok(None) };
        let Some(sockets) = unless_ended(self.process.later_sockets())? else { return Ok(None) };
        Ok(Some(Seen { takes_sighup: signals.catches_hangup, sockets }))
    }

    /// Whether it listens: it reacts to signals once it does. Waits for one that is about to.
    pub(super) fn listens(&self) -> io::Result<bool> {
        Ok(self.ready()?.is_some_and(|seen| seen.takes_sighup && !seen.sockets.is_empty()))
    }

    /// Where it listens, as far as that can be read.
    pub(super) fn places(&self) -> Vec<SocketAddr> {
        let Ok(Some(Seen { sockets, .. })) = self.look() else { return Vec::new() };
        let all = listener::listening().unwrap_or_default();
        all.into_iter().filter(|(_, inode)| sockets.contains(inode)).map(|(at, _)| at).collect()
    }

    /// As it is once it takes SIGHUP, or after a while.
    fn ready(&self) -> io::Result<Option<Seen>> {
        let until = Instant::now() + READY;
        loop {
            match self.look()? {
                Some(seen) if !seen.takes_sighup && Instant::now() < until => thread::sleep(TICK),
                seen => return Ok(seen),
            }
        }
    }

    /// SIGHUP, and waiting until all its sockets are others: it executes itself anew, reads its files, listens, and takes SIGHUP again, in
    /// this order (sshd.c, `sighup_restart`, `main`).
    pub(super) fn tell(&self, port: u16) -> io::Result<Told> {
        let told = self.tell_and_look()?;
        let mut unseen = UNSEEN.lock().unwrap_or_else(PoisonError::into_inner);
        match told {
            Told::Unseen(_) => _ = unseen.insert(port),
            Told::Read | Told::Ended => _ = unseen.remove(&port),
        }
        Ok(told)
    }

    fn tell_and_look(&self) -> io::Result<Told> {
        let Some(before) = self.ready()? else { return Ok(Told::Ended) };
        if !before.takes_sighup {
            return Ok(Told::Unseen("it is being started and takes no SIGHUP yet".to_owned()));
        }
        for _ in 0..TELLS {
            match unless_ended(self.process.signal(Signal::SIGHUP))? {
                Some(()) => {}
                None => return Ok(Told::Ended),
            }
            let until = Instant::now() + READY;
            while Instant::now() < until {
                match self.look()? {
                    None => return Ok(Told::Ended),
                    Some(now) if now.takes_sighup && !now.sockets.is_empty() && now.sockets.is_disjoint(&before.sockets) => {
                        return Ok(Told::Read);
                    }
                    Some(_) => thread::sleep(TICK),
                }
            }
        }
        Ok(Told::Unseen(format!("it was sent SIGHUP and has not opened its sockets anew within {} s", (READY * TELLS).as_secs())))
    }

    /// SIGTERM, for one whose sockets are systemd's: that starts another with the next connection.
    pub(super) fn end(&self) -> io::Result<()> {
        unless_ended(self.process.signal(Signal::SIGTERM)).map(drop)
    }
}

/// Tells those again that were not seen to read their files. What is still so.
pub fn tell_again() -> Vec<String> {
    let ports = UNSEEN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut left = Vec::new();
    for port in ports {
        let held = HELD.lock().unwrap_or_else(PoisonError::into_inner).get(&port).cloned();
        let Some(held) = held.filter(|held| held.lives()) else {
            // Whatever is started in its place reads the files.
            UNSEEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&port);
            continue;
        };
        let kept = match ports::keep(&held.invocation) {
            Err(NotKept::Taken(why)) => {
                left.push(format!("sshd on port {port}: {why}"));
                continue;
            }
            kept => kept.ok(),
        };
        let told = held.tell(port);
        drop(kept);
        match told {
            Ok(Told::Read) => tracing::info!("the sshd on port {port} has read its files again, as a rollback left them"),
            Ok(Told::Ended) => {}
            Ok(Told::Unseen(why)) => left.push(format!("sshd on port {port}: {why}")),
            Err(error) => left.push(format!("sshd on port {port}: {error}")),
        }
    }
    left
}

/// Whether some are left to tell.
pub fn has_unseen() -> bool {
    !UNSEEN.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
}
