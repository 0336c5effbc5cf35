//! The life of one change: every step journalled before and after it is done, rolled back in reverse order when one fails,
//! recovered when it was interrupted. The only code that applies plans. Decides nothing about the steps themselves.

use sshfix_policy::host::{Done, Host, StepError};
use sshfix_policy::lockout::SafePlan;
use sshfix_policy::reply::Failure;
use sshfix_policy::step::Step;

use crate::store::{ChangeStage, StepEvent, StepRecord, Store, StoreError};

/// All steps are done and journalled; not yet verified.
#[derive(Debug)]
pub struct Applied {
    id: String,
    steps: Vec<Step>,
    done: Vec<Done>,
}

/// The change did not happen. The failure and the outcome of the rollback travel together.
#[derive(Debug)]
pub struct Failed(pub Failure);

impl Failed {
    /// Whether the host is as it was before the change.
    pub fn clean(&self) -> bool {
        self.0.stuck.is_empty()
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
                let half_done = match error {
                    // It looked at the host and did nothing.
                    StepError::Drifted(_) => None,
                    // It may have done its work and then failed, so it is taken back like the others.
                    StepError::Failed(_) | StepError::TimedOut(_) => Some((index, step.clone())),
                };
                return Err(fail(host, store, applied, half_done, number, &summary, detail));
            }
        }
        if let Err(why) = journalled {
            return Err(fail(host, store, applied, None, number, &summary, unjournalled(why)));
        }
    }
    Ok(applied)
}

/// Records that the host was read back as predicted and that the change stays.
pub fn confirm(store: &Store, applied: &Applied) -> Result<(), StoreError> {
    store.change_state(&applied.id, ChangeStage::Verified, "")?;
    store.change_state(&applied.id, ChangeStage::Confirmed, "confirmed by its verification")
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
    let (rolled_back, stuck) = undo(host, store, &id, steps, &message);
    Failed(Failure { step, summary: summary.to_owned(), message, rolled_back, stuck })
}

/// Undoes steps newest first. One that cannot be undone does not keep the others from it, and neither does a journal that
/// cannot be written: the host comes first.
fn undo(host: &mut impl Host, store: &Store, id: &str, steps: Vec<(usize, Step)>, why: &str) -> (Vec<String>, Vec<String>) {
    let (mut rolled_back, mut stuck) = (Vec::new(), Vec::new());
    let journalled = |result: Result<(), StoreError>| {
        if let Err(error) = result {
            tracing::error!(change = id, "the journal could not be written during a rollback: {error}");
        }
    };
    journalled(store.change_state(id, ChangeStage::RollingBack, why));
    for (index, step) in steps.into_iter().rev() {
        let inverse = step.inverse();
        journalled(store.change_event(id, index, StepEvent::UndoStarted, ""));
        match host.apply(&inverse) {
            Ok(done) => {
                journalled(store.change_event(id, index, StepEvent::Undone, ""));
                if done == Done::Changed {
                    rolled_back.push(inverse.summary());
                }
            }
            Err(error) => {
                journalled(store.change_event(id, index, StepEvent::UndoFailed, &error.to_string()));
                stuck.push(format!("could not {}: {error}. By hand: {}", inverse.summary(), step.undo()));
            }
        }
    }
    let (end, detail) =
        if stuck.is_empty() { (ChangeStage::RolledBack, String::new()) } else { (ChangeStage::Stuck, stuck.join("; ")) };
    journalled(store.change_state(id, end, &detail));
    (rolled_back, stuck)
}

/// Tries once more to roll back what is stuck. What still cannot be is handed over to a person: it is said, once, and does
/// not keep the next change, which may be the one that lets somebody in again. Returns what is left to do.
pub fn retry_stuck(host: &mut impl Host, store: &Store) -> Result<Vec<String>, StoreError> {
    let mut left = Vec::new();
    for change in store.stuck_changes()? {
        let (_, stuck) = undo(host, store, &change.id, unfinished_steps(change.steps), "tried again");
        if !stuck.is_empty() {
            let detail = stuck.join("; ");
            store.change_state(&change.id, ChangeStage::Abandoned, &detail)?;
            left.push(format!("change {} could not be rolled back whole and is left to you: {detail}", change.id));
        }
    }
    Ok(left)
}

/// Rolls back a change that was interrupted: by the death of the agent, or by a failure of its journal. Called at start and,
/// by the one writer, before each change. Returns one line for each change, for the log.
pub fn recover(host: &mut impl Host, store: &Store) -> Result<Vec<String>, StoreError> {
    let mut lines = Vec::new();
    for change in store.unfinished_changes()? {
        let (rolled_back, stuck) = if change.stage == ChangeStage::Begun {
            store.change_state(&change.id, ChangeStage::RolledBack, "interrupted before its first step")?;
            (Vec::new(), Vec::new())
        } else {
            undo(host, store, &change.id, unfinished_steps(change.steps), "interrupted")
        };
        lines.push(match (stuck.is_empty(), rolled_back.is_empty()) {
            (true, true) => format!("change {} was interrupted; nothing was left of it", change.id),
            (true, false) => format!("change {} was interrupted and rolled back: {}", change.id, rolled_back.join("; ")),
            (false, _) => format!("change {} was interrupted and is stuck: {}", change.id, stuck.join("; ")),
        });
    }
    Ok(lines)
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
#[path = "change_tests.rs"]
mod tests;
