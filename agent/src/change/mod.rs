//! The life of one change: every step journalled before and after it is done, taken back in reverse order when one fails, when
//! nobody confirms in time, or when it was interrupted. How a change is made is in `make`. Decides nothing about the steps.

use sshfix_policy::host::step::Step;
use sshfix_policy::host::{Done, Host, Restored, StepError};
use sshfix_policy::text::quoted::{Quote, Text};

use crate::audit::Outcome;
use crate::store::{ChangeRecord, ChangeStage, StepEvent, StepRecord, Store, StoreError};
use crate::sys::clock::Moment;

pub(crate) mod automatic;
pub mod deadline;
pub(crate) mod kept;
pub mod lease;
pub mod make;
pub(crate) mod requested;

/// How taking steps back went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakenBack {
    /// What was taken back, newest first.
    pub rolled_back: Vec<String>,
    /// What others changed meanwhile and was left as they made it.
    pub notes: Vec<String>,
    /// Whether something beside the steps is not as it was before, and stays so.
    pub besides: bool,
    /// What could not be taken back, and what to do about each.
    pub stuck: Vec<String>,
}

/// What was said while steps were made or taken back. Where some are sshd's, it may quote its files, and nobody knows where.
pub(crate) fn said(of_sshd: bool, words: String) -> Text {
    if of_sshd { Text::quote(Quote::Unknown, words) } else { words.into() }
}

/// Undoes steps newest first. One that cannot be undone does not keep the others from it, and neither does a journal that
/// cannot be written: the host comes first. `was_stuck` is why that did not work the last time, which is to be read meanwhile.
fn undo(
    host: &mut impl Host,
    store: &Store,
    (id, was_stuck): (&str, Option<&str>),
    steps: Vec<(usize, Step)>,
    why: &str,
    rebooted: bool,
) -> TakenBack {
    let mut taken = TakenBack::default();
    let meanwhile = was_stuck.map_or_else(|| why.to_owned(), |stuck| format!("{why}; it was stuck: {stuck}"));
    let mut written = vec![store.change_state(id, ChangeStage::RollingBack, &meanwhile)];
    for (index, step) in steps.into_iter().rev() {
        let undone = step.inverse().summary();
        written.push(store.change_event(id, index, StepEvent::UndoStarted, ""));
        match restore(host, &step, rebooted) {
            Ok(Restored { done, note, besides }) => {
                taken.besides |= besides;
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
    let forgotten = |note: String| Ok(Restored { done: Done::Already, note: Some(note), besides: false });
    let step = step.of_another_boot();
    let why = if step.is_of_one_boot() && !step.adds() {
        if !host.stands(&step)? {
            return Ok(Restored { done: Done::Already, note: None, besides: false });
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
    let all: Vec<Step> = change.steps.iter().map(|record| record.step.clone()).collect();
    host.taking_back(change.plan.as_ref().map_or(&[], |plan| plan.paths.as_slice()));
    let was_stuck = (change.stage == ChangeStage::Stuck).then_some(change.detail.as_str());
    let taken = undo(host, store, (&change.id, was_stuck), unfinished_steps(change.steps), why, rebooted);
    host.taking_back(&[]);
    if taken.stuck.is_empty() {
        kept::forget(&all);
    }
    taken
}

/// Tries once more to take back what is stuck. Returns what is stuck still.
pub fn retry_stuck(host: &mut impl Host, store: &Store, now: &Moment) -> Result<Vec<ChangeRecord>, StoreError> {
    for change in store.stuck_changes()? {
        take_back(host, store, change, "retried", now);
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
        let Self { id, why, taken: TakenBack { rolled_back, notes, besides: _, stuck } } = self;
        write!(f, "change {id}: {why}; ")?;
        match (stuck.is_empty(), rolled_back.is_empty()) {
            (false, _) => write!(f, "it is stuck: {}", stuck.join("; "))?,
            (true, true) => write!(f, "nothing was left of it")?,
            (true, false) => write!(f, "rolled back: {}", rolled_back.join("; "))?,
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
pub mod restart;
pub mod stray_bans;
#[cfg(test)]
mod tests;
