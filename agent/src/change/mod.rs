//! The life of one change: every step journalled before and after it is done, taken back in reverse order when one fails, when
//! nobody confirms in time, or when it was interrupted. The only code that applies plans. Decides nothing about the steps.

use sshfix_policy::host::{Done, Host, Restored, StepError};
use sshfix_policy::lockout::SafePlan;
use sshfix_policy::reply::Failure;
use sshfix_policy::step::Step;

use crate::audit::Outcome;
use crate::store::{ChangeRecord, ChangeStage, StepEvent, StepRecord, Store, StoreError};
use crate::sys::clock::{Deadline, Moment};

pub(crate) mod automatic;

/// All steps are done and journalled; not yet verified.
#[derive(Debug)]
pub struct Applied {
    id: String,
    steps: Vec<Step>,
    done: Vec<Done>,
}

/// The change did not happen. The failure and the outcome of the rollback travel together.
#[derive(Debug)]
pub struct Failed {
    /// What a person is told.
    pub failure: Failure,
    /// Whether a step found the host changed by others since the plan was made.
    pub drifted: bool,
}

/// How taking steps back went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakenBack {
    /// What was taken back, newest first.
    pub rolled_back: Vec<String>,
    /// What others changed meanwhile and was left as they made it.
    pub notes: Vec<String>,
    /// What could not be taken back, and what to do about each.
    pub stuck: Vec<String>,
}

/// What became of a change whose host was read back as predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It stays.
    Confirmed,
    /// It waits for its confirm.
    Pending,
}

impl Failed {
    /// Whether the host is as it was before the change.
    pub fn clean(&self) -> bool {
        self.failure.stuck.is_empty()
    }
}

impl Applied {
    /// Whether any step found something to do.
    pub fn changed(&self) -> bool {
        self.done.contains(&Done::Changed)
    }

    /// What is to be undone: the steps that changed something.
    fn into_undo(self) -> Vec<(usize, Step)> {
        let steps = self.steps.into_iter().zip(self.done).enumerate();
        steps.filter(|(_, (_, done))| *done == Done::Changed).map(|(index, (step, _))| (index, step)).collect()
    }
}

/// Applies a proven plan. The change and all its steps must already be on disk under this id.
pub fn apply(host: &mut impl Host, store: &Store, id: &str, plan: &SafePlan) -> Result<Applied, Failed> {
    let mut applied = Applied { id: id.to_owned(), steps: Vec::new(), done: Vec::new() };
    let unjournalled = |why: StoreError| format!("the journal could not be written, so the change was not carried on: {why}");
    if let Err(why) = store.change_state(id, ChangeStage::Applying, "") {
        return Err(fail(host, store, applied, None, 0, "begin", unjournalled(why)));
    }
    for (index, step) in plan.steps().iter().enumerate() {
        let (number, summary) = (index + 1, step.summary());
        if let Err(why) = store.change_event(id, index, StepEvent::Started, "") {
            return Err(fail(host, store, applied, None, number, &summary, unjournalled(why)));
        }
        let (event, detail, done) = match host.apply(step) {
            Ok(Done::Changed) => (StepEvent::DoneChanged, String::new(), Ok(Done::Changed)),
            Ok(Done::Already) => (StepEvent::DoneAlready, String::new(), Ok(Done::Already)),
            Err(error) => (StepEvent::Failed, error.to_string(), Err(error)),
        };
        let journalled = store.change_event(id, index, event, &detail);
        match done {
            Ok(done) => {
                applied.steps.push(step.clone());
                applied.done.push(done);
            }
            Err(error) => {
                let (half_done, drifted) = match error {
                    // It looked at the host and did nothing.
                    StepError::Drifted(_) => (None, true),
                    // It may have done its work and then failed, so it is taken back like the others.
                    StepError::Failed(_) | StepError::TimedOut(_) => (Some((index, step.clone())), false),
                };
                return Err(Failed { drifted, ..fail(host, store, applied, half_done, number, &summary, detail) });
            }
        }
        if let Err(why) = journalled {
            return Err(fail(host, store, applied, None, number, &summary, unjournalled(why)));
        }
    }
    Ok(applied)
}

/// What follows when the host was read back as predicted: a change with a deadline waits for its confirm, any other stays. One
/// that took longer than it may wait is taken back, and so is one whose waiting cannot be recorded.
pub fn settle(
    host: &mut impl Host,
    store: &Store,
    applied: Applied,
    deadline: Option<Deadline>,
    now: &Moment,
) -> Result<Settled, Failed> {
    let id = applied.id.as_str();
    let Some(deadline) = deadline else {
        let recorded = store
            .change_state(id, ChangeStage::Verified, "")
            .and_then(|()| store.change_state(id, ChangeStage::Confirmed, "confirmed by its verification"));
        return match recorded {
            Ok(()) => Ok(Settled::Confirmed),
            Err(why) => Err(roll_back(host, store, applied, format!("its end could not be recorded: {why}"))),
        };
    };
    if deadline.is_over(now) {
        return Err(roll_back(host, store, applied, "it took longer than it may wait for its confirm".to_owned()));
    }
    let recorded = store
        .change_state(id, ChangeStage::Verified, "")
        .and_then(|()| store.change_state(id, ChangeStage::Pending, "waits for its confirm"));
    match recorded {
        Ok(()) => Ok(Settled::Pending),
        Err(why) => Err(roll_back(host, store, applied, format!("that it waits could not be recorded: {why}"))),
    }
}

/// Takes a change back because its verification failed.
pub fn roll_back(host: &mut impl Host, store: &Store, applied: Applied, why: String) -> Failed {
    fail(host, store, applied, None, 0, "verify", why)
}

fn fail(
    host: &mut impl Host,
    store: &Store,
    applied: Applied,
    half_done: Option<(usize, Step)>,
    step: usize,
    summary: &str,
    message: String,
) -> Failed {
    let id = applied.id.clone();
    let mut steps = applied.into_undo();
    steps.extend(half_done);
    let TakenBack { mut rolled_back, notes, stuck } = undo(host, store, &id, steps, &message, false);
    rolled_back.extend(notes);
    let failure = Failure { step, summary: summary.to_owned(), message, rolled_back, stuck };
    Failed { failure, drifted: false }
}

/// Undoes steps newest first. One that cannot be undone does not keep the others from it, and neither does a journal that
/// cannot be written: the host comes first.
fn undo(host: &mut impl Host, store: &Store, id: &str, steps: Vec<(usize, Step)>, why: &str, rebooted: bool) -> TakenBack {
    let mut taken = TakenBack::default();
    let mut written = vec![store.change_state(id, ChangeStage::RollingBack, why)];
    for (index, step) in steps.into_iter().rev() {
        let undone = step.inverse().summary();
        written.push(store.change_event(id, index, StepEvent::UndoStarted, ""));
        match restore(host, &step, rebooted) {
            Ok(Restored { done, note }) => {
                written.push(store.change_event(id, index, StepEvent::Undone, note.as_deref().unwrap_or("")));
                if done == Done::Changed {
                    taken.rolled_back.push(undone);
                }
                taken.notes.extend(note);
            }
            Err(error) => {
                written.push(store.change_event(id, index, StepEvent::UndoFailed, &error.to_string()));
                taken.stuck.push(format!("could not {undone}: {error}. By hand: {}", step.undo()));
            }
        }
    }
    let (end, detail) = if taken.stuck.is_empty() {
        let notes = std::iter::once(why).chain(taken.notes.iter().map(String::as_str));
        (ChangeStage::RolledBack, notes.collect::<Vec<_>>().join("; "))
    } else {
        (ChangeStage::Stuck, taken.stuck.join("; "))
    };
    written.push(store.change_state(id, end, &detail));
    unjournalled(id, written);
    taken
}

/// Says once what the journal did not take during a rollback. It is kept in memory, and written when the disk takes it.
fn unjournalled(id: &str, written: impl IntoIterator<Item = Result<(), StoreError>>) {
    if let Some(error) = written.into_iter().find_map(Result::err) {
        tracing::error!("what was done to roll back change {id} is not on the disk yet, only in memory: {error}");
    }
}

/// Takes one step back, by looking. In another boot what the step added to the kernel may have been loaded again, so it is looked for; what
/// it took out of the kernel is put back where it still has a place. That a part ended with the reboot is only said after the kernel of
/// this boot was read.
fn restore(host: &mut impl Host, step: &Step, rebooted: bool) -> Result<Restored, StepError> {
    if !rebooted || step.survives_reboot() {
        return host.restore(step);
    }
    let forgotten = |note: String| Ok(Restored { done: Done::Already, note: Some(note) });
    let step = step.of_another_boot();
    let why = if step.is_of_one_boot() && !step.adds() {
        if !host.stands(&step)? {
            return Ok(Restored { done: Done::Already, note: None });
        }
        "this boot did not load it".to_owned()
    } else {
        match host.restore(&step) {
            Err(StepError::Drifted(why)) => why,
            other => return other,
        }
    };
    match (step.adds(), host.stands(&step)?) {
        (true, true) => Err(StepError::Failed(format!("it is still in place after the reboot: {why}"))),
        (true, false) => forgotten(format!("ended with the reboot: {why}")),
        (false, _) => forgotten(format!("not put back after the reboot: {why} ({})", step.summary())),
    }
}

/// Takes back a change that is pending, interrupted or stuck, for the reason that is given. From here on nobody can confirm it, whether
/// that can be written down or not: the host comes first.
pub fn take_back(host: &mut impl Host, store: &Store, change: ChangeRecord, why: &str, now: &Moment) -> TakenBack {
    let rebooted = change.boot.differs(&now.boot);
    undo(host, store, &change.id, unfinished_steps(change.steps), why, rebooted)
}

/// Tries once more to take back what is stuck. Returns what is stuck still.
pub fn retry_stuck(host: &mut impl Host, store: &Store, now: &Moment) -> Result<Vec<ChangeRecord>, StoreError> {
    for change in store.stuck_changes()? {
        take_back(host, store, change, "tried again", now);
    }
    store.stuck_changes()
}

/// What recovery did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The change.
    pub id: String,
    /// Why it was taken back.
    pub why: &'static str,
    /// How it went.
    pub taken: TakenBack,
}

impl Recovered {
    /// For its audit record.
    pub fn outcome(&self) -> Outcome {
        if self.taken.stuck.is_empty() { Outcome::RolledBack } else { Outcome::Stuck }
    }
}

/// `change 1a2b3c: not confirmed in time; taken back: ...`
impl std::fmt::Display for Recovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, why, taken: TakenBack { rolled_back, notes, stuck } } = self;
        write!(f, "change {id}: {why}; ")?;
        match (stuck.is_empty(), rolled_back.is_empty()) {
            (false, _) => write!(f, "it is stuck: {}", stuck.join("; "))?,
            (true, true) => write!(f, "nothing was left of it")?,
            (true, false) => write!(f, "taken back: {}", rolled_back.join("; "))?,
        }
        if notes.is_empty() { Ok(()) } else { write!(f, " ({})", notes.join("; ")) }
    }
}

/// Why a change is to be taken back now; `None` while it waits for its confirm.
///
/// A change that nobody confirmed does not survive a reboot: what is left of it then is not what was planned and verified, and
/// whoever it cut off may be the one who pulled the plug.
pub fn overdue(change: &ChangeRecord, now: &Moment) -> Option<&'static str> {
    match (change.stage, change.deadline) {
        (ChangeStage::Pending, _) if change.boot.differs(&now.boot) => Some("the host was rebooted before it was confirmed"),
        (ChangeStage::Pending, Some(deadline)) if !deadline.is_over(now) => None,
        (ChangeStage::Pending, _) => Some("not confirmed in time"),
        _ => Some("interrupted"),
    }
}

/// Takes back what was interrupted, by the death of the agent or by a failure of its journal, and what was not confirmed in time.
/// Leaves a change that still waits. Called by the one writer only, so that no change it finds is being made.
pub fn recover(host: &mut impl Host, store: &Store, now: &Moment) -> Result<Vec<Recovered>, StoreError> {
    let mut recovered = Vec::new();
    for change in store.unfinished_changes()? {
        let Some(why) = overdue(&change, now) else { continue };
        let id = change.id.clone();
        let taken = if change.stage == ChangeStage::Begun {
            unjournalled(&id, [store.change_state(&id, ChangeStage::RolledBack, "interrupted before its first step")]);
            TakenBack::default()
        } else {
            take_back(host, store, change, why, now)
        };
        recovered.push(Recovered { id, why, taken });
    }
    Ok(recovered)
}

/// The steps that may have changed something and have not been undone.
fn unfinished_steps(steps: Vec<StepRecord>) -> Vec<(usize, Step)> {
    let unfinished = |event| match event {
        StepEvent::Planned | StepEvent::Undone | StepEvent::DoneAlready => false,
        // Whether it happened is told by looking: the inverse answers `Already` where there is nothing to undo.
        StepEvent::Started | StepEvent::Failed | StepEvent::DoneChanged | StepEvent::UndoStarted | StepEvent::UndoFailed => true,
    };
    steps
        .into_iter()
        .enumerate()
        .filter(|(_, record)| unfinished(record.event))
        .map(|(index, record)| (index, record.step))
        .collect()
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
