//! Changes sshd: writes files of its configuration, has it follow them, and makes sure that it serves; and takes that back. Every
//! way out of here leaves a configuration that sshd takes, or says what does not. Decides nothing about the change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sshfix_policy::host::{Done, Restored, StepError};
use sshfix_policy::proof::unread::Others;
use sshfix_policy::subsystem::sshd::config::merge;
use sshfix_policy::subsystem::sshd::{Activation, FileEdit, Folder, Invocation, Manager, Step, Through, complains_of_these};

use super::lookup::Now;
use super::ports::{self, Kept, NotKept};
use super::told::{self, Running, Told};
use super::{SSHD, SshdError, ends, files as sshd_files, lookup, serves, test, unit};
use crate::sys::child::ChildError;
use crate::sys::dbus;
use crate::sys::files::{self, FileError, Old};
use crate::sys::jobs::{self, Job, JobError, Transient};
use crate::write::{self, Order};

/// The longest file of a configuration, in bytes.
const LONGEST: u64 = 1 << 20;
/// A new file belongs to root alone; none is made, so this is never used for one.
const MODE: u32 = 0o600;
/// How long systemd may take to start or stop a service,
const JOB: Duration = Duration::from_secs(40);
/// and to reload one: `sshd -t` and a signal.
const RELOAD: Duration = Duration::from_secs(15);
/// For a restart that can be had without it.
const RESTART: Duration = Duration::from_secs(5);
/// Until systemd has forgotten a service without a file that was stopped,
const GONE: Duration = Duration::from_secs(3);
/// and the time between two looks.
const TICK: Duration = Duration::from_millis(100);
/// The service that stands in for one that does not start any more.
const STAND_IN: &str = "sshfix-sshd.service";

/// The step for which nothing was done, because sshd must not be told to read its files: neither must it be for its rollback.
static REFUSED: Mutex<Option<Step>> = Mutex::new(None);

/// The change that was made last to an sshd, and all of its files before that. In memory alone: the next agent does not know it.
struct Made {
    step: Step,
    invocation: Invocation,
    files: BTreeMap<String, Vec<u8>>,
}

/// By port.
static MADE: Mutex<BTreeMap<u16, Made>> = Mutex::new(BTreeMap::new());

/// All files of an sshd's configuration; `None` where they cannot be read whole.
type Snapshot = Option<BTreeMap<String, Vec<u8>>>;

fn snapshot(invocation: &Invocation) -> Snapshot {
    let tree = sshd_files::trusted(invocation).ok()?.ok()?;
    Some(tree.files.iter().map(|(path, document)| (path.clone(), document.bytes())).collect())
}

/// Remembers what a step is about to change.
fn remember(step: &Step, invocation: &Invocation, files: &Snapshot) {
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    match files {
        Some(files) => {
            made.insert(step.port, Made { step: step.clone(), invocation: invocation.clone(), files: files.clone() });
        }
        None => _ = made.remove(&step.port),
    }
}

/// Nothing but what the step wrote may have changed while sshd followed: what its unit runs besides at a reload or a start may write its
/// files, and nobody has proven those.
fn as_predicted(step: &Step, invocation: &Invocation, before: Snapshot) -> Result<(), StepError> {
    let Some(mut predicted) = before else { return Ok(()) };
    predicted.extend(step.files.iter().map(|file| (file.path.clone(), file.after.clone())));
    let Some(now) = snapshot(invocation) else {
        return Err(StepError::Failed(format!("after its {}: sshd's files cannot be read whole any more", verb(step))));
    };
    let others = differing(&predicted, &now);
    if others.is_empty() {
        return Ok(());
    }
    Err(StepError::Failed(format!(
        "while sshd followed, {} besides, which is no part of this change: what its unit runs at a {} (`systemctl cat`), or somebody, wrote \
         it, and sshd may have read it",
        others.join(" and "),
        verb(step)
    )))
}

/// What differs: `/etc/ssh/sshd_config.d/a.conf came`.
fn differing(before: &BTreeMap<String, Vec<u8>>, now: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let paths: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let said = |path: &String| match (before.get(path), now.get(path)) {
        (None, Some(_)) => Some(format!("{path} came")),
        (Some(_), None) => Some(format!("{path} went")),
        (Some(was), Some(is)) if was != is => Some(format!("{path} changed")),
        _ => None,
    };
    paths.into_iter().filter_map(said).collect()
}

/// What others made of the files since a step was done, but for those that it wrote.
fn left_by_others(step: &Step) -> Vec<String> {
    let made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(Made { files, invocation, .. }) = made.get(&step.port).filter(|made| made.step == *step) else { return Vec::new() };
    let ours = |path: &str| step.files.iter().any(|file| file.path == path);
    let others = |all: BTreeMap<String, Vec<u8>>| all.into_iter().filter(|(path, _)| !ours(path)).collect();
    snapshot(invocation).map_or_else(Vec::new, |now| differing(&others(files.clone()), &others(now)))
}

/// The files that others edited or made since a step was done, as they were before it. None where that is not known.
pub fn edited_since(step: &Step) -> Others {
    // A reload or restart alone: its rollback tells sshd nothing.
    if step.files.is_empty() {
        return Others::new();
    }
    let made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(Made { files, invocation, .. }) = made.get(&step.port).filter(|made| made.step == *step) else {
        return Others::new();
    };
    let Ok(Ok(tree)) = sshd_files::trusted(invocation) else { return Others::new() };
    let ours = |path: &str, bytes: &[u8]| step.files.iter().any(|file| file.path == path && file.after == bytes);
    let now = tree.files.iter().map(|(path, document)| (path, document.bytes()));
    now.filter_map(|(path, bytes)| {
        let old = files.get(path).cloned().unwrap_or_default();
        (bytes != old && !ours(path, &bytes)).then(|| (path.clone(), old))
    })
    .collect()
}

/// Does one step. Where this fails the caller takes it back with [`restore`].
pub fn apply(step: &Step) -> Result<Done, StepError> {
    if step.undoing {
        let sshd = lookup::now(step.port).ok();
        return put_back(&step.inverse(), sshd.as_ref().map(|sshd| &sshd.invocation), None).map(|restored| restored.done);
    }
    *REFUSED.lock().unwrap_or_else(PoisonError::into_inner) = None;
    let sshd = lookup::now(step.port).map_err(|why| StepError::Failed(format!("{why}; nothing was changed")))?;
    let manager = sshd.manager.map_err(|why| StepError::Failed(format!("{why}; nothing was changed")))?;
    if let Some(why) = step.files.iter().find_map(|file| lookup::not_edited(&sshd.invocation, &manager, &file.path)) {
        return Err(StepError::Failed(format!("{why}; nothing was changed")));
    }
    if let Activation::Restart(Through::Unit(unit)) = &step.activation
        && sshd.running
    {
        starts_the_same(unit, &sshd.invocation)?;
    }
    // Of an sshd that is down nobody's way in was proven.
    if step.activation == Activation::Nothing && sshd.running && !matches!(manager, Manager::Connections(_)) {
        return Err(StepError::Drifted(format!("no sshd ran on port {} when this was planned, and one does now", step.port)));
    }
    let before = match step.activation {
        Activation::Start(_) => serves::Before::down(&manager),
        Activation::Nothing | Activation::Reload(_) | Activation::Restart(_) => {
            serves::Before::look(&sshd.invocation, Some(&manager))
        }
    }
    .map_err(|why| StepError::Failed(format!("{why}; nothing was changed")))?;
    // Looked at before anything is written: an sshd that must not be told to read its files has none to read. Files that are about to be
    // mended say it once they are written.
    let reopens = sshd.running && !before.is_held_by_systemd() && step.activation != Activation::Nothing;
    match if reopens { ports::keep(&sshd.invocation).and_then(Kept::seen).map(drop) } else { Ok(()) } {
        Ok(()) | Err(NotKept::Unread(_)) => {}
        Err(why @ (NotKept::Open(_) | NotKept::Taken(_) | NotKept::Unseen(_))) => {
            *REFUSED.lock().unwrap_or_else(PoisonError::into_inner) = Some(step.clone());
            return Err(StepError::Failed(format!("{}; nothing was changed", why.text())));
        }
    }
    if let Some(pid) = sshd.pid {
        told::hold(step.port, pid, &sshd.invocation);
    }
    for file in &step.files {
        match read(file)? {
            now if now == file.before || now == file.after => {}
            _ => return Err(drifted(file)),
        }
    }
    let was = snapshot(&sshd.invocation);
    remember(step, &sshd.invocation, &was);
    let mut done = if step.files.is_empty() { Done::Changed } else { Done::Already };
    for file in &step.files {
        if read(file)? != file.after {
            write(file, &file.before, &file.after, what_was(&sshd.invocation, &file.path))?;
            done = Done::Changed;
        }
    }
    let complains = |error: SshdError| StepError::Failed(format!("sshd would not start with its files: {}", words(&error)));
    if sshd.running {
        test(&sshd.invocation).map_err(complains)?;
    }
    let _kept = if reopens { Some(ports::keep(&sshd.invocation).and_then(Kept::seen).map_err(NotKept::refusal)?) } else { None };
    match &step.activation {
        Activation::Nothing if !sshd.running => return Ok(done),
        // systemd listens: the next connection is served by the new files.
        Activation::Nothing => {}
        Activation::Reload(through) => follow(Job::Reload, through, step.port)?,
        Activation::Restart(through) => follow(Job::Restart, through, step.port)?,
        Activation::Start(through) => {
            follow(Job::Start, through, step.port)?;
            // systemd tried once more, in the middle of the repairs: what came after is read, too. One that cannot reload serves.
            if before.came_up_by_itself(&sshd.invocation)
                && let Err(error) = follow(Job::Reload, through, step.port)
            {
                tracing::warn!("sshd came up by itself and was not reloaded: {error}");
            }
        }
    }
    before.serves_again(&sshd.invocation).map_err(|why| StepError::Failed(format!("after its {}: {why}", verb(step))))?;
    if step.activation != Activation::Nothing {
        as_predicted(step, &sshd.invocation, was)?;
    }
    // Another process may serve by now: it is held while it can be found without haste.
    let _held = told::running(step);
    Ok(done)
}

/// A unit whose `ExecStart` names another program now would end the sshd that runs, and start something else.
fn starts_the_same(unit: &str, running: &Invocation) -> Result<(), StepError> {
    let real = |program: &str| std::fs::canonicalize(program).unwrap_or_else(|_| program.into());
    match unit::of_service(unit).map_err(|why| StepError::Failed(format!("{why}; nothing was changed")))? {
        Some(would) if real(&would.program) != real(&running.program) => Err(StepError::Failed(format!(
            "{unit} would start {}, and {} runs now; nothing was changed",
            would.program, running.program
        ))),
        Some(_) | None => Ok(()),
    }
}

/// The old version of a file is kept, unless sshd lists the folder that it would be kept in by an Include: each change there after sshd
/// read its files looks as if it had not read them.
fn what_was(invocation: &Invocation, path: &str) -> Old {
    let folder = files::kept::folder(Path::new(path));
    if folder.is_some_and(|folder| !sshd_files::lists(invocation, folder)) { Old::Kept } else { Old::Gone }
}

/// Takes a step back: our lines of each file, and the service as it was. What others wrote into the files stays. Where that would refuse
/// somebody, the files are put back all the same and sshd is not told.
pub fn restore(step: &Step, would_refuse: Option<&str>) -> Result<Restored, StepError> {
    let restored = put_back(step, None, would_refuse)?;
    let others = left_by_others(step);
    if others.is_empty() {
        return Ok(restored);
    }
    let besides = format!(
        "not all of sshd's files are as before the change: {} besides, not by sshfix, and stays so; look at it, and at what its unit runs at a \
         reload (`systemctl cat`)",
        others.join(" and ")
    );
    let notes: Vec<String> = restored.note.into_iter().chain([besides]).collect();
    Ok(Restored { note: Some(notes.join("; ")), besides: true, ..restored })
}

/// The same. Where this is a change of its own, made for this sshd, what goes is kept for its rollback.
fn put_back(step: &Step, change_of: Option<&Invocation>, would_refuse: Option<&str>) -> Result<Restored, StepError> {
    let mut notes = Vec::new();
    let mut wrote = false;
    for file in &step.files {
        // What holds its old content needs no write, whatever has become of its owner and mode.
        let now = match files::read_followed(Path::new(&file.path), LONGEST) {
            Ok(followed) if followed.bytes == file.before => followed.bytes,
            _ => read(file)?,
        };
        if now == file.before {
            if let Err(error) = clear(file) {
                tracing::warn!("{error}");
            }
            continue;
        }
        let back = if now == file.after { file.before.clone() } else { merged(file, &now)? };
        if now != file.after {
            notes.push(format!("others had edited {} meanwhile; their lines were kept", file.path));
        }
        let old = change_of.filter(|_| now == file.after).map_or(Old::Gone, |invocation| what_was(invocation, &file.path));
        write(file, &now, &back, old)?;
        wrote = true;
    }
    if let Some(why) = would_refuse {
        return Err(StepError::Failed(format!(
            "the files are as they were, but sshd was not told so and runs on with this change: {why}; sshfix keeps retrying"
        )));
    }
    let refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(step);
    if refused && !wrote {
        return Ok(restored(false, &notes));
    }
    let nothing_ran = step.activation == Activation::Nothing;
    if step.files.is_empty() && (nothing_ran || matches!(step.activation, Activation::Start(_))) {
        return Ok(restored(wrote, &notes));
    }
    if let Some(sshd) = told::running(step)
        && let Some(answer) = by_signal(step, &sshd, wrote, &mut notes)?
    {
        return Ok(answer);
    }
    by_looking(step, wrote, notes)
}

/// The files are back, and the sshd that was held, or found by its unit, follows them. What others can disturb is not needed for it: it
/// makes a note at most. None where it has ended.
fn by_signal(step: &Step, sshd: &Running, wrote: bool, notes: &mut Vec<String>) -> Result<Option<Restored>, StepError> {
    let failed =
        |error: std::io::Error| StepError::Failed(format!("the files are as they were, but sshd was not reloaded: {error}"));
    // A reload or restart alone: it serves, and its files never were other ones.
    if step.files.is_empty() {
        return Ok(sshd.listens().map_err(failed)?.then(|| restored(false, notes)));
    }
    match takes_its_files(step, &sshd.invocation, wrote, notes) {
        Ok(None) => {}
        Ok(Some(why)) => {
            notes.push(why);
            return Ok(Some(restored(false, notes)));
        }
        Err(why) => return Err(why),
    }
    if sshd.has_systemds_sockets {
        let restarted = match &step.activation {
            Activation::Restart(Through::Unit(unit)) => jobs::run(Job::Restart, unit, RESTART).map_err(|error| error.to_string()),
            _ => Err("its unit is not known".to_owned()),
        };
        if let Err(why) = restarted {
            sshd.end().map_err(failed)?;
            notes.push(format!("sshd was ended, because {why}; systemd starts it with the next connection"));
        }
        return Ok(Some(restored(wrote, notes)));
    }
    not_ended(&sshd.invocation)?;
    let _kept = kept(&sshd.invocation, notes)?;
    let before = serves::closed(&sshd.invocation);
    ends::begin(step.port, sshd.places());
    match sshd.tell(step.port).map_err(failed)? {
        Told::Ended => return Ok(None),
        Told::Unseen(why) => notes.push(format!(
            "the files are as they were, but sshd was not seen to read them again: {why}; the agent keeps sending SIGHUP"
        )),
        Told::Read => match (before, serves::closed(&sshd.invocation)) {
            (Ok(before), Ok(now)) => {
                let closed: Vec<String> = now.difference(&before).map(ToString::to_string).collect();
                if !closed.is_empty() {
                    notes.push(format!(
                        "sshd read its old files, but does not listen on {} as they say: `journalctl -u ssh -n 30` says why",
                        closed.join(" and ")
                    ));
                }
            }
            (Err(why), _) | (_, Err(why)) => {
                notes.push(format!("sshd read its old files; it is unknown whether it listens everywhere they say: {why}"));
            }
        },
    }
    ends::done(step.port);
    serves::exchange_afterwards(&sshd.invocation);
    Ok(Some(restored(wrote, notes)))
}

/// Whether sshd, told to read the files that are back, would listen somewhere. Where it would end it is left as it runs.
fn not_ended(invocation: &Invocation) -> Result<(), StepError> {
    let Some(why) = ends::why(invocation) else { return Ok(()) };
    Err(StepError::Failed(format!(
        "the files are as they were, but sshd was not told so and runs on with this change: {why}. Give this host that address back, or correct \
         ListenAddress in sshd's files and `systemctl reload ssh`; sshfix keeps retrying"
    )))
}

/// Keeps the ports for the sshd that runs while it reads its old files. A rollback that is due is not put off because anybody might be
/// faster; where somebody has the port already, or waits for it, sshd would be gone, so that it is left as it runs.
fn kept(invocation: &Invocation, notes: &mut Vec<String>) -> Result<Option<Kept>, StepError> {
    match ports::keep(invocation) {
        Ok(kept) => {
            notes.extend(kept.unseen().map(|why| format!("sshd read its files all the same: {why}")));
            Ok(Some(kept))
        }
        Err(NotKept::Unread(why) | NotKept::Open(why) | NotKept::Unseen(why)) => {
            notes.push(why);
            Ok(None)
        }
        Err(NotKept::Taken(why)) => Err(StepError::Failed(format!(
            "the files are as they were, but sshd was not reloaded and runs on, because {why}; sshfix keeps retrying"
        ))),
    }
}

/// Whether sshd would start with the files that are back. Why not to tell it, where there is no need: nothing had been written.
fn takes_its_files(
    step: &Step,
    invocation: &Invocation,
    wrote: bool,
    notes: &mut Vec<String>,
) -> Result<Option<String>, StepError> {
    takes(step, test(invocation), wrote, notes)
}

/// By its answer. Where it gives none, files that were good before still are: a host that is too busy for it keeps no change.
fn takes(step: &Step, answer: Result<(), SshdError>, wrote: bool, notes: &mut Vec<String>) -> Result<Option<String>, StepError> {
    match answer {
        Ok(()) => Ok(None),
        Err(SshdError::NotRoots(why)) if !wrote => Ok(Some(why)),
        Err(SshdError::Child(error @ ChildError::TimedOut { .. })) => {
            notes.push(format!("sshd was made to read its old files without a test of them: {error}"));
            Ok(None)
        }
        Err(error) => {
            let names = step.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>().join(" and ");
            Err(StepError::Failed(format!(
                "{names} is as before, but sshd does not accept its files as they are now, so it was not reloaded: {}",
                words(&error)
            )))
        }
    }
}

/// The files are back, and nobody is held: the sshd on the port is looked for, told, and started where none is.
fn by_looking(step: &Step, wrote: bool, mut notes: Vec<String>) -> Result<Restored, StepError> {
    // One that an earlier try of this told ran, whatever did before the change.
    let nothing_ran = step.activation == Activation::Nothing && ends::left(step.port).is_none();
    let sshd = match lookup::now(step.port) {
        Ok(Now { manager: Ok(Manager::Connections(_)), .. }) if nothing_ran => return Ok(restored(wrote, &notes)),
        Ok(sshd) if is_started_by_connections(&sshd) => return by_connections(step, &sshd.invocation, wrote, notes),
        Ok(sshd) if sshd.running => sshd,
        // None runs that could have read the files.
        Ok(_) | Err(SshdError::NotOpenSsh(_) | SshdError::Down(_)) if nothing_ran || !dbus::booted() => {
            return Ok(restored(wrote, &notes));
        }
        Ok(_) | Err(SshdError::Down(_)) if starts_later(&mut notes)? => return Ok(restored(wrote, &notes)),
        Ok(sshd) => return start_again(step, &sshd, notes),
        Err(why) => {
            // One that runs reads its old files again, as far as it can be told to, and it is looked at again.
            let told = wrote && lookup::signal(step.port).is_ok();
            let told = if told { ", and sshd was sent SIGHUP" } else { "" };
            return Err(StepError::Failed(format!("{why}; the files are as they were{told}")));
        }
    };
    // A reload or restart alone: it serves, and its files never were other ones.
    if step.files.is_empty() {
        return Ok(restored(false, &notes));
    }
    if let Some(why) = takes_its_files(step, &sshd.invocation, wrote, &mut notes)? {
        notes.push(why);
        return Ok(restored(false, &notes));
    }
    let unread = |why: String| StepError::Failed(format!("the files are as they were, but sshd was not reloaded: {why}"));
    let before = serves::Before::look(&sshd.invocation, sshd.manager.as_ref().ok()).map_err(unread)?;
    let ports = if before.is_held_by_systemd() {
        None
    } else {
        not_ended(&sshd.invocation)?;
        ends::begin(step.port, sshd.listens.clone());
        kept(&sshd.invocation, &mut notes)?
    };
    let through = match &step.activation {
        Activation::Restart(through) => {
            follow(Job::Restart, through, step.port)?;
            None
        }
        Activation::Reload(through) | Activation::Start(through) => Some(through.clone()),
        // Somebody has started it since, with the files that are taken back.
        Activation::Nothing => Some(match &sshd.manager {
            Ok(Manager::Service { name, .. }) => Through::Unit(name.clone()),
            Ok(Manager::Connections(_) | Manager::Nobody) | Err(_) => Through::Signal,
        }),
    };
    // A unit that cannot be reloaded must not keep sshd from reading its old files again.
    if let Some(through) = through
        && let Err(why) = follow(Job::Reload, &through, step.port)
    {
        lookup::signal(step.port).map_err(|also| StepError::Failed(format!("the files are as they were, but {why}; {also}")))?;
        notes.push(format!("sshd was sent SIGHUP, because {why}"));
    }
    let Err(why) = before.serves_again(&sshd.invocation) else {
        ends::done(step.port);
        return Ok(restored(wrote, &notes));
    };
    drop(ports);
    match lookup::now(step.port) {
        Ok(Now { running: false, .. }) | Err(SshdError::NotOpenSsh(_) | SshdError::Down(_)) => start_again(step, &sshd, notes),
        // One that runs, or may run, is not started.
        Ok(_) | Err(_) => Err(StepError::Failed(format!("the files are as they were and sshd read them, but {why}"))),
    }
}

/// systemd listens, and no sshd of its own runs that could be told anything: each connection starts one, or the next does.
fn is_started_by_connections(sshd: &Now) -> bool {
    let by_socket = matches!(sshd.manager, Ok(Manager::Connections(_) | Manager::Service { socket: Some(_), .. }));
    by_socket && sshd.running && sshd.pid.is_none()
}

/// The files are back for them. Of the directory that systemd makes with the service, and takes away with it, `sshd -t` complains whatever
/// they say; of host keys, too.
fn by_connections(step: &Step, invocation: &Invocation, wrote: bool, mut notes: Vec<String>) -> Result<Restored, StepError> {
    let answer = match test(invocation) {
        Err(SshdError::Complains { said, .. }) if complains_of_these(&said, &Folder::Missing) => {
            notes.push(format!(
                "systemd listens for sshd, which reads its files with the next connection; `sshd -t` says now: {}",
                said.trim()
            ));
            Ok(())
        }
        answer => answer,
    };
    match takes(step, answer, wrote, &mut notes)? {
        None => Ok(restored(wrote, &notes)),
        Some(why) => {
            notes.push(why);
            Ok(restored(false, &notes))
        }
    }
}

/// Whether sshd starts by itself after this, with the files: early at boot they are all there is. Before systemd can be asked nothing can be
/// started, and that is noted. An error where systemd does not say.
fn starts_later(notes: &mut Vec<String>) -> Result<bool, StepError> {
    match dbus::system_state() {
        Ok(state) => Ok(matches!(state.as_str(), "initializing" | "starting")),
        Err(_) if dbus::is_missing() => {
            notes.push("systemd cannot be asked to start sshd yet, so systemd starts it later by itself".to_owned());
            Ok(true)
        }
        Err(why) => Err(StepError::Failed(format!("no sshd runs, and {why}; the files are as they were"))),
    }
}

fn restored(changed: bool, notes: &[String]) -> Restored {
    let done = if changed { Done::Changed } else { Done::Already };
    Restored { done, note: (!notes.is_empty()).then(|| notes.join("; ")), besides: false }
}

/// The service died of the step: it is started again with the old files. Where its unit does not start any more, for a reason that
/// lies outside of sshd's files, sshd runs as a service of sshfix's own until somebody puts the unit right.
fn start_again(step: &Step, sshd: &Now, mut notes: Vec<String>) -> Result<Restored, StepError> {
    let Now { invocation, manager, .. } = sshd;
    let unit = match (&step.activation, manager) {
        (Activation::Reload(Through::Unit(unit)) | Activation::Restart(Through::Unit(unit)), _) => unit,
        (_, Ok(Manager::Service { name, .. })) => name,
        (_, Err(why)) => return Err(StepError::Failed(format!("no sshd runs, and {why}; the files are as they were"))),
        _ => {
            return Err(StepError::Failed(format!(
                "the files are as they were, but sshd does not run; start it: `{} -t && {}`",
                invocation.program, invocation.program
            )));
        }
    };
    let before = serves::Before::ended();
    // So that nobody takes one between two tries.
    let _kept = ports::keep(invocation).ok();
    let taken = || ports::taken(invocation).map(|why| format!(" ({why}; sshfix keeps retrying)")).unwrap_or_default();
    let failed = match follow(Job::Start, &Through::Unit(unit.clone()), step.port) {
        Ok(()) => match before.serves_again(invocation) {
            Ok(()) => {
                ends::done(step.port);
                notes.push(format!("{unit} had stopped and was started again"));
                return Ok(restored(true, &notes));
            }
            Err(why) => why,
        },
        Err(why) => why.to_string(),
    };
    // Else systemd would try it again and again, and take /run/sshd away each time. No session dies of it: nothing runs.
    if let Err(error) = jobs::run(Job::Stop, unit, JOB) {
        tracing::warn!("{unit}: {error}");
    }
    // Of a unit that names something else by now, no sshd would come.
    let program = if invocation.program.ends_with("/sshd") { &invocation.program } else { SSHD };
    let by_hand =
        format!("see `journalctl -u {unit} -n 30`, put it right, then `systemctl stop {STAND_IN}; systemctl start {unit}`");
    let stood_in = match stand_in(program, invocation, &before) {
        Ok(()) => Ok(String::new()),
        // Where its files name no address of this host, or another's port: somebody gets in where it listened before.
        Err(why) if !listened(step).is_empty() => where_it_listened(step, program, invocation, &why),
        Err(why) => Err(why),
    };
    match stood_in {
        Ok(how) => {
            ends::done(step.port);
            tracing::warn!("{unit} does not start any more ({failed}); sshd runs as {STAND_IN}{how}: {by_hand}");
            notes.push(format!("{unit} does not start any more ({failed}), so sshd runs as {STAND_IN}{how} until you {by_hand}"));
            Ok(restored(true, &notes))
        }
        Err(why) => Err(StepError::Failed(format!(
            "the files are as they were, but {unit} does not start ({failed}), nor does sshd as {STAND_IN} ({why}){}: {by_hand}",
            taken()
        ))),
    }
}

/// Runs sshd as a service of sshfix's own, and waits until it listens.
fn stand_in(program: &str, invocation: &Invocation, before: &serves::Before) -> Result<(), String> {
    let words: Vec<String> =
        [program.to_owned(), "-D".to_owned()].into_iter().chain(invocation.options.iter().cloned()).collect();
    let stand_in = Transient {
        name: STAND_IN,
        description: "sshd in the place of a unit that does not start, run by sshfix",
        program,
        words: &words,
        runtime_directory: "sshd",
    };
    let until = Instant::now() + GONE;
    loop {
        match jobs::run_transient(&stand_in, JOB) {
            // systemd has not forgotten the one yet that was stopped a moment ago.
            Err(JobError::Bus(_)) if Instant::now() < until => std::thread::sleep(TICK),
            Err(error) => return Err(error.to_string()),
            Ok(()) => return before.serves_again(invocation),
        }
    }
}

/// Where sshd listened when the change was planned, and just before its rollback told it.
fn listened(step: &Step) -> Vec<SocketAddr> {
    let just_now = ends::left(step.port).unwrap_or_default();
    let all: BTreeSet<SocketAddr> = step.listened.iter().copied().chain(just_now).collect();
    all.into_iter().collect()
}

/// The same for an sshd that does not run with its files: it listens where it did when the change was planned. What the files name stays
/// besides (servconf.c: each `ListenAddress` adds one). How it runs then.
fn where_it_listened(step: &Step, program: &str, invocation: &Invocation, why: &str) -> Result<String, String> {
    let mut invocation = invocation.clone();
    // Of an address of another family than the files allow sshd makes an error.
    let listened = listened(step);
    let options = listened.iter().map(|at| format!("ListenAddress={at}"));
    for option in std::iter::once("AddressFamily=any".to_owned()).chain(options) {
        invocation.options.extend(["-o".to_owned(), option]);
    }
    if let Err(error) = jobs::run(Job::Stop, STAND_IN, JOB) {
        tracing::warn!("{STAND_IN}: {error}");
    }
    let sockets: Vec<String> = listened.iter().map(ToString::to_string).collect();
    let sockets = sockets.join(" and ");
    match stand_in(program, &invocation, &serves::Before::ended()) {
        Ok(()) => Ok(format!(
            ", listening on {sockets} as before and not as its files say, with which it does not run ({why}; see `journalctl -u {STAND_IN}`),"
        )),
        Err(also) => Err(format!("{why}; on {sockets}, where it listened before: {also}")),
    }
}

/// Has the service follow.
fn follow(job: Job, through: &Through, port: u16) -> Result<(), StepError> {
    let unit = match through {
        Through::Unit(unit) => unit,
        Through::Signal => return lookup::signal(port).map_err(StepError::Failed),
    };
    let failed = |error: JobError| match error {
        JobError::TimedOut { .. } => StepError::TimedOut(error.to_string()),
        _ => StepError::Failed(format!("{error}: see `journalctl -u {unit} -n 30`")),
    };
    jobs::run(job, unit, if job == Job::Reload { RELOAD } else { JOB }).map_err(failed)
}

fn verb(step: &Step) -> &'static str {
    match step.activation {
        Activation::Nothing => "edit",
        Activation::Reload(_) => "reload",
        Activation::Restart(_) => "restart",
        Activation::Start(_) => "start",
    }
}

/// What sshd said, without the command line.
fn words(error: &SshdError) -> String {
    match error {
        SshdError::Complains { said, .. } => said.clone(),
        other => other.to_string(),
    }
}

fn read(file: &FileEdit) -> Result<Vec<u8>, StepError> {
    match files::read_checked(Path::new(&file.path), LONGEST) {
        Ok(checked) => Ok(checked.bytes),
        Err(error @ FileError::Missing(_)) => Err(StepError::Drifted(error.to_string())),
        Err(error) => Err(StepError::Failed(error.to_string())),
    }
}

fn write(file: &FileEdit, from: &[u8], to: &[u8], old: Old) -> Result<(), StepError> {
    if files::read_only_here(Path::new(&file.path)) {
        let order = Order::Sshd { path: file.path.clone(), before: write::digest(from), after: write::length(to), old };
        return write::ask(&order, to).map(drop);
    }
    files::write(Path::new(&file.path), Some(from), to, MODE, old).map_err(|error| match error {
        FileError::Drifted(_) => StepError::Drifted(error.to_string()),
        error => StepError::Failed(error.to_string()),
    })
}

/// What a crash left behind of a new version of it.
fn clear(file: &FileEdit) -> Result<(), StepError> {
    let path = Path::new(&file.path);
    if files::read_only_here(path) {
        return write::ask(&Order::SshdClear { path: file.path.clone() }, &[]).map(drop);
    }
    files::clear(path).map_err(|error| StepError::Failed(error.to_string()))
}

fn drifted(file: &FileEdit) -> StepError {
    StepError::Drifted(FileError::Drifted(file.path.clone().into()).to_string())
}

fn merged(file: &FileEdit, now: &[u8]) -> Result<Vec<u8>, StepError> {
    merge::take_back(&file.before, &file.after, now)
        .map_err(|why| StepError::Drifted(format!("{} was left as it is: {why}", file.path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_waits_for_no_answer_of_sshd_that_does_not_come() {
        let activation = Activation::Reload(Through::Signal);
        let step = Step {
            port: 22,
            files: Vec::new(),
            activation,
            why: Vec::new(),
            effect: Vec::new(),
            listened: Vec::new(),
            undoing: true,
        };
        let with = |answer| {
            let mut notes = Vec::new();
            let told = takes(&step, answer, true, &mut notes);
            (told.is_ok_and(|why_not| why_not.is_none()), notes.len())
        };
        let hangs = ChildError::TimedOut { program: SSHD.into(), after: RELOAD };
        let complains = SshdError::Complains { command: String::new(), said: "Bad configuration option".to_owned() };
        assert_eq!(with(Ok(())), (true, 0));
        assert_eq!(with(Err(SshdError::Child(hangs))), (true, 1));
        assert_eq!(with(Err(complains)), (false, 0));
        assert_eq!(with(Err(SshdError::NotRoots(String::new()))), (false, 0));
    }
}
