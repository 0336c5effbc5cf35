//! The changes that did not come to their end, in memory besides state.db: what rolls a change back must not depend on a disk. What
//! allows a change to go on (`started`, `verified`, `pending`, `confirmed`) counts only once it is on the disk; what happened on the
//! host counts at once, and is written down as soon as the disk takes it. Decides nothing: `change` does.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Transaction};

use super::changes::{self, ChangeRecord};
use super::{ChangeStage, Doing, StepEvent, Store, StoreError, time};
use crate::sys::clock::Moment;

/// Of an agent that holds the state: one that only looks at it keeps nothing.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Kept>);

impl Memory {
    /// The changes that an earlier agent left in the database. Where they cannot be read that is said to whoever asks for them.
    pub(super) fn read(store: &Store) -> Self {
        let read = store.unended();
        Self(Mutex::new(Kept { unread: read.is_err(), changes: read.unwrap_or_default().into_iter().map(Change::new).collect() }))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Kept {
    /// What an earlier agent left was not read yet.
    unread: bool,
    changes: Vec<Change>,
}

#[derive(Debug)]
struct Change {
    record: ChangeRecord,
    /// Why the database does not hold it as it is here.
    unwritten: Option<String>,
}

impl Change {
    fn new(record: ChangeRecord) -> Self {
        Self { record, unwritten: None }
    }

    fn under_way(&self) -> bool {
        !self.record.stage.is_end() && self.record.stage != ChangeStage::Stuck
    }
}

/// One entry of the journal of changes.
#[derive(Clone, Copy, Debug)]
enum Entry<'a> {
    /// To a step.
    Event {
        /// Its number, from 0.
        index: usize,
        /// What.
        event: StepEvent,
        /// With these words.
        detail: &'a str,
    },
    /// To the change.
    Stage {
        /// Where it is now.
        to: ChangeStage,
        /// With these words.
        detail: &'a str,
    },
}

impl Entry<'_> {
    /// Whether something follows only because it is on the disk.
    fn permits(self) -> bool {
        match self {
            Entry::Event { event, .. } => event == StepEvent::Started,
            Entry::Stage { to, .. } => match to {
                ChangeStage::RollingBack | ChangeStage::RolledBack | ChangeStage::Stuck => false,
                ChangeStage::Begun
                | ChangeStage::Applying
                | ChangeStage::Verified
                | ChangeStage::Pending
                | ChangeStage::Confirmed
                | ChangeStage::Abandoned => true,
            },
        }
    }

    /// Whether it can follow.
    fn check(self, record: &ChangeRecord) -> Result<(), StoreError> {
        let id = record.id.clone();
        match self {
            Entry::Event { index, event, .. } => {
                let step = record.steps.get(index);
                let step =
                    step.ok_or_else(|| StoreError::Missing { what: "step", id: format!("{index} of change {}", record.id) })?;
                if step.event.may_become(event, record.stage) {
                    return Ok(());
                }
                Err(StoreError::Event { id, step: index, from: step.event, to: event, stage: record.stage })
            }
            Entry::Stage { to, .. } => {
                if !record.stage.may_become(to) {
                    return Err(StoreError::Transition { id, from: record.stage, to });
                }
                let events = record.steps.iter().map(|step| step.event);
                match changes::contradiction(events, to) {
                    Some((step, event)) => Err(StoreError::Contradiction { id, to, step, event }),
                    None => Ok(()),
                }
            }
        }
    }

    fn apply(self, record: &mut ChangeRecord, now: &Moment) -> Result<(), StoreError> {
        // As the database keeps it.
        let at = time(now.wall.as_microsecond())?;
        match self {
            Entry::Event { index, event, detail } => {
                if let Some(step) = record.steps.get_mut(index) {
                    (step.event, step.at) = (event, Some(at));
                    detail.clone_into(&mut step.detail);
                }
            }
            Entry::Stage { to, detail } => {
                record.stage = to;
                detail.clone_into(&mut record.detail);
                record.finished_at = to.is_end().then_some(at);
                if to == ChangeStage::Pending {
                    record.pending_since_boot = Some(changes::whole_micros(now.since_boot));
                }
            }
        }
        Ok(())
    }

    fn write(self, db: &Transaction<'_>, id: &str, now: &Moment) -> Result<(), StoreError> {
        match self {
            Entry::Event { index, event, detail } => changes::write_event(db, id, (index, event), detail, now),
            Entry::Stage { to, detail } => changes::write_state(db, id, to, detail, now),
        }
    }
}

impl Store {
    /// Writes what happens to step `index` (from 0) of a change, just before it happens (`started`, `undo-started`) or just
    /// after. Refuses what cannot follow the step's last event, and steps in a change that is not applying or rolling back.
    pub fn change_event(&self, id: &str, index: usize, event: StepEvent, detail: &str) -> Result<(), StoreError> {
        self.enter("write the journal", id, Entry::Event { index, event, detail })
    }

    /// Moves a change on. Refuses every transition that is not in the table above, `verified` while a step is not done, and
    /// `rolled-back` while a step may still be in place. A change that is rolled back takes its lease with it.
    pub fn change_state(&self, id: &str, to: ChangeStage, detail: &str) -> Result<(), StoreError> {
        self.enter("write the state of the change", id, Entry::Stage { to, detail })
    }

    /// Writes an entry to the database and keeps it here. The error says that it is not on the disk; see the head of this file for
    /// what counts all the same.
    fn enter(&self, doing: &'static str, id: &str, entry: Entry<'_>) -> Result<(), StoreError> {
        let now = Moment::now();
        let Some(memory) = &self.memory else { return self.write(doing, |db| entry.write(db, id, &now)) };
        let mut kept = memory.lock();
        let resumed = matches!(entry, Entry::Stage { to: ChangeStage::RollingBack, .. });
        let others = kept.changes.iter().find(|other| other.under_way() && other.record.id != id).map(busy);
        let Some(change) = kept.changes.iter_mut().find(|change| change.record.id == id) else {
            return self.write(doing, |db| entry.write(db, id, &now));
        };
        entry.check(&change.record)?;
        if resumed
            && change.record.stage == ChangeStage::Stuck
            && let Some(busy) = others
        {
            return Err(busy);
        }
        let written = match &change.unwritten {
            None => self.write(doing, |db| entry.write(db, id, &now)),
            Some(why) if entry.permits() => Err(self.unusable(format!("what happened to change {id} is not written yet: {why}"))),
            Some(_) => {
                let mut after = change.record.clone();
                entry.apply(&mut after, &now)?;
                self.write(doing, |db| put(db, &after))
            }
        };
        if written.is_err() && entry.permits() {
            return written;
        }
        entry.apply(&mut change.record, &now)?;
        change.unwritten = written.as_ref().err().map(ToString::to_string);
        kept.forget_what_ended();
        written
    }

    /// Has what is begun now on the disk before it is kept.
    pub(super) fn begin(&self, begin: impl FnOnce() -> Result<ChangeRecord, StoreError>) -> Result<(), StoreError> {
        let Some(memory) = &self.memory else { return begin().map(|_| ()) };
        self.catch_up()?;
        let mut kept = memory.lock();
        if let Some(busy) = kept.changes.iter().find(|change| change.under_way()).map(busy) {
            return Err(busy);
        }
        if let Some(stuck) = kept.changes.iter().find(|change| change.record.stage == ChangeStage::Stuck) {
            let ChangeRecord { id, principal, detail, .. } = stuck.record.clone();
            return Err(StoreError::Stuck { id, principal, detail });
        }
        let record = begin()?;
        kept.changes.push(Change::new(record));
        Ok(())
    }

    /// The changes that did not come to their end, and those whose end is not on the disk.
    pub(super) fn kept(&self) -> Option<Result<Vec<ChangeRecord>, StoreError>> {
        let mut kept = self.memory.as_ref()?.lock();
        if kept.unread {
            match self.unended() {
                Ok(read) => kept.changes.extend(read.into_iter().map(Change::new)),
                Err(error) if kept.changes.is_empty() => return Some(Err(error)),
                // What this agent made is not kept waiting for what another one left.
                Err(_) => return Some(Ok(kept.changes.iter().map(|change| change.record.clone()).collect())),
            }
            kept.unread = false;
        }
        Some(Ok(kept.changes.iter().map(|change| change.record.clone()).collect()))
    }

    /// One of them.
    pub(super) fn kept_one(&self, id: &str) -> Option<ChangeRecord> {
        let kept = self.memory.as_ref()?.lock();
        kept.changes.iter().find(|change| change.record.id == id).map(|change| change.record.clone())
    }

    /// Writes down what the disk did not take before.
    pub(super) fn catch_up(&self) -> Result<(), StoreError> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let mut kept = memory.lock();
        let mut failed = None;
        for change in kept.changes.iter_mut().filter(|change| change.unwritten.is_some()) {
            let written = self.write("write what happened to a change", |db| put(db, &change.record));
            change.unwritten = written.as_ref().err().map(ToString::to_string);
            failed = failed.or(written.err());
        }
        kept.forget_what_ended();
        failed.map_or(Ok(()), Err)
    }

    /// As after a restart.
    #[cfg(test)]
    pub(crate) fn forget(&mut self) {
        self.memory = Some(Memory::read(self));
    }
}

impl Kept {
    fn forget_what_ended(&mut self) {
        self.changes.retain(|change| !change.record.stage.is_end() || change.unwritten.is_some());
    }
}

fn busy(change: &Change) -> StoreError {
    let ChangeRecord { id, principal, deadline, .. } = &change.record;
    StoreError::Busy { id: id.clone(), principal: principal.clone(), deadline: deadline.map(|deadline| deadline.wall) }
}

/// Makes the database hold a change as it is, whatever it held: it may have missed some of it, or be another one by now.
fn put(db: &Transaction<'_>, change: &ChangeRecord) -> Result<(), StoreError> {
    const DOING: &str = "write what happened to a change";
    let known: Option<i64> =
        db.query_row("SELECT 1 FROM changes WHERE id = ?1", [&change.id], |row| row.get(0)).optional().doing(DOING)?;
    if known.is_none() {
        changes::insert(db, change)?;
    }
    for (index, step) in change.steps.iter().enumerate() {
        if changes::last_event(db, &change.id, index)?.0 != step.event {
            let at = step.at.unwrap_or_else(Timestamp::now).as_microsecond();
            db.execute(
                "INSERT INTO journal (change_id, step_index, event, at, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
                (&change.id, index, step.event.name(), at, &step.detail),
            )
            .doing(DOING)?;
        }
    }
    changes::put_state(db, change)
}
