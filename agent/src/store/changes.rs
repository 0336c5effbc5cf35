//! The life of a change on disk: all its steps before the first is done, then every event. Only legal transitions can be
//! written. Does not act: `change` does, and recovery reads this to know what happened.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use sshfix_policy::host::step::Step;
use sshfix_policy::reply::{ChangeStage, PlanDocument, StepEvent};
use sshfix_policy::request::Intent;

use super::{Doing, NewLease, Purpose, Store, StoreError, from_json, leases, time, to_json};
use crate::sys::clock::{Boot, Deadline, Moment};

/// A change that is about to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewChange {
    /// The change id.
    pub id: String,
    /// Who asked.
    pub principal: String,
    /// What was asked.
    pub operation: Intent,
    /// `sha256:...` of the plan.
    pub digest: String,
    /// The plan as it was shown.
    pub plan: PlanDocument,
    /// In the order they are applied; their inverses are the undo record.
    pub steps: Vec<Step>,
    /// Now.
    pub started: Moment,
    /// When it rolls back unless confirmed; `None` where its verification confirms it.
    pub deadline: Option<Deadline>,
    /// The allow that this change makes and that ends by itself. In force once the change is confirmed.
    pub lease: Option<NewLease>,
}

/// A change as it stands on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRecord {
    /// The change id.
    pub id: String,
    /// Who asked.
    pub principal: String,
    /// What was asked.
    pub operation: Intent,
    /// `sha256:...` of the plan.
    pub digest: String,
    /// Where it is.
    pub stage: ChangeStage,
    /// The plan as it was shown; `None` of a change that an earlier version of the agent made.
    pub plan: Option<PlanDocument>,
    /// When it was begun.
    pub started_at: Timestamp,
    /// In which boot of the host.
    pub boot: Boot,
    /// When it rolls back unless confirmed.
    pub deadline: Option<Deadline>,
    /// When it became pending, by `CLOCK_BOOTTIME`.
    pub pending_since_boot: Option<Duration>,
    /// When it is over.
    pub finished_at: Option<Timestamp>,
    /// What was said with the last transition.
    pub detail: String,
    /// In the order they are applied.
    pub steps: Vec<StepRecord>,
}

/// A step as it stands on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRecord {
    /// The step.
    pub step: Step,
    /// What last happened to it.
    pub event: StepEvent,
    /// When; `None` while planned.
    pub at: Option<Timestamp>,
    /// What was said with it.
    pub detail: String,
}

impl Store {
    /// Writes a change, all its steps and its lease in one transaction, before anything is done. [`StoreError::Busy`] while
    /// another change is begun, applying, verified, pending or rolling back, [`StoreError::Stuck`] while one is stuck. Refused on a
    /// database that would not be found again.
    pub fn change_begin(&self, change: &NewChange) -> Result<(), StoreError> {
        const DOING: &str = "begin the change";
        self.in_place()?;
        self.begin(|| {
            self.write_for(Purpose::Change, DOING, |db| {
                if let Some(busy) = under_way(db)? {
                    return Err(busy);
                }
                if let Some(stuck) = stuck(db)? {
                    return Err(stuck);
                }
                insert(db, &begun(change)?)?;
                if let Some(lease) = &change.lease {
                    leases::add(db, change, lease)?;
                }
                read(db, &change.id)
            })
        })
    }

    /// The change that is begun, applying, verified, pending or rolling back, for recovery at start: there is at most one.
    pub fn unfinished_changes(&self) -> Result<Vec<ChangeRecord>, StoreError> {
        let Some(kept) = self.kept() else { return self.changes_where(UNFINISHED, usize::MAX) };
        kept.map(|mut changes| {
            changes.retain(|change| !change.stage.is_end() && change.stage != ChangeStage::Stuck);
            changes
        })
    }

    /// Changes that could not be taken back whole and that nobody has taken over yet.
    pub fn stuck_changes(&self) -> Result<Vec<ChangeRecord>, StoreError> {
        let Some(kept) = self.kept() else { return self.changes_where(STUCK, usize::MAX) };
        kept.map(|mut changes| {
            changes.retain(|change| change.stage == ChangeStage::Stuck);
            changes
        })
    }

    /// Both, as the database has them.
    pub(super) fn unended(&self) -> Result<Vec<ChangeRecord>, StoreError> {
        let mut found = self.changes_where(UNFINISHED, usize::MAX)?;
        found.extend(self.changes_where(STUCK, usize::MAX)?);
        Ok(found)
    }

    /// Changes that were taken back after this moment, newest first. There are few: they were made one after the other.
    pub fn rolled_back_since(&self, since: Timestamp) -> Result<Vec<ChangeRecord>, StoreError> {
        const DOING: &str = "read the changes";
        let db = self.connection();
        let mut select = db
            .prepare(
                "SELECT id FROM changes WHERE state = 'rolled-back' AND finished_at > ?1 ORDER BY finished_at DESC LIMIT 100",
            )
            .doing(DOING)?;
        let ids = select.query_map([since.as_microsecond()], |row| row.get::<_, String>(0)).doing(DOING)?;
        ids.map(|id| read(&db, &id.doing(DOING)?)).collect()
    }

    /// The newest changes, newest first.
    pub fn changes(&self, limit: usize) -> Result<Vec<ChangeRecord>, StoreError> {
        let mut found = self.changes_where("true", limit)?;
        // What the database missed is as it is in memory.
        for change in self.kept().transpose()?.into_iter().flatten() {
            match found.iter_mut().find(|other| other.id == change.id) {
                Some(other) => *other = change,
                None => found.insert(0, change),
            }
        }
        Ok(found)
    }

    /// Everything that happened to the steps of a change, oldest first: the step's index, the event, when, and what was said.
    pub fn journal(&self, id: &str) -> Result<Vec<(usize, StepEvent, Timestamp, String)>, StoreError> {
        const DOING: &str = "read the journal";
        let db = self.connection();
        let mut select =
            db.prepare("SELECT step_index, event, at, detail FROM journal WHERE change_id = ?1 ORDER BY seq").doing(DOING)?;
        let rows = select
            .query_map([id], |row| {
                let row: (usize, String, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
                Ok(row)
            })
            .doing(DOING)?;
        rows.map(|row| {
            let (index, event, at, detail) = row.doing(DOING)?;
            Ok((index, named(&StepEvent::ALL, StepEvent::name, &event)?, time(at)?, detail))
        })
        .collect()
    }

    /// One change.
    pub fn change(&self, id: &str) -> Result<ChangeRecord, StoreError> {
        if let Some(change) = self.kept_one(id) {
            return Ok(change);
        }
        let db = self.connection();
        read(&db, id)
    }

    /// `filter` is always one of the texts above, never from outside.
    fn changes_where(&self, filter: &'static str, limit: usize) -> Result<Vec<ChangeRecord>, StoreError> {
        const DOING: &str = "read the changes";
        let db = self.connection();
        let mut select =
            db.prepare(&format!("SELECT id FROM changes WHERE {filter} ORDER BY started_at DESC, id LIMIT ?1")).doing(DOING)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let ids = select.query_map([limit], |row| row.get::<_, String>(0)).doing(DOING)?;
        ids.map(|id| read(&db, &id.doing(DOING)?)).collect()
    }
}

const UNFINISHED: &str = "state IN ('begun', 'applying', 'verified', 'pending', 'rolling-back')";
const STUCK: &str = "state = 'stuck'";

/// A change as it stands when nothing of it was done.
fn begun(change: &NewChange) -> Result<ChangeRecord, StoreError> {
    let steps = change.steps.iter().cloned();
    Ok(ChangeRecord {
        id: change.id.clone(),
        principal: change.principal.clone(),
        operation: change.operation.clone(),
        digest: change.digest.clone(),
        stage: ChangeStage::Begun,
        plan: Some(change.plan.clone()),
        started_at: time(change.started.wall.as_microsecond())?,
        boot: change.started.boot.clone(),
        deadline: change.deadline,
        pending_since_boot: None,
        finished_at: None,
        detail: String::new(),
        steps: steps.map(|step| StepRecord { step, event: StepEvent::Planned, at: None, detail: String::new() }).collect(),
    })
}

/// A change and its steps, without what happened to them.
pub(super) fn insert(db: &Transaction<'_>, change: &ChangeRecord) -> Result<(), StoreError> {
    const DOING: &str = "begin the change";
    db.execute(
        "INSERT INTO changes (id, principal, operation, digest, state, started_at, deadline, boot, deadline_boottime, plan)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        (
            &change.id,
            &change.principal,
            to_json(&change.operation)?,
            &change.digest,
            change.stage.name(),
            change.started_at.as_microsecond(),
            change.deadline.map(|deadline| deadline.wall.as_microsecond()),
            change.boot.text(),
            change.deadline.map(|deadline| micros(deadline.since_boot)),
            change.plan.as_ref().map(to_json).transpose()?,
        ),
    )
    .doing(DOING)?;
    let mut insert = db.prepare("INSERT INTO steps (change_id, step_index, step) VALUES (?1, ?2, ?3)").doing(DOING)?;
    for (index, record) in change.steps.iter().enumerate() {
        insert.execute((&change.id, index, to_json(&record.step)?)).doing(DOING)?;
    }
    Ok(())
}

pub(super) fn write_event(
    db: &Transaction<'_>,
    id: &str,
    (index, event): (usize, StepEvent),
    detail: &str,
    now: &Moment,
) -> Result<(), StoreError> {
    const DOING: &str = "write the journal";
    let stage = stage_of(db, id)?;
    let exists: bool = db
        .query_row("SELECT EXISTS (SELECT 1 FROM steps WHERE change_id = ?1 AND step_index = ?2)", (id, index), |row| row.get(0))
        .doing(DOING)?;
    if !exists {
        return Err(StoreError::Missing { what: "step", id: format!("{index} of change {id}") });
    }
    let (from, _, _) = last_event(db, id, index)?;
    if !from.may_become(event, stage) {
        return Err(StoreError::Event { id: id.to_owned(), step: index, from, to: event, stage });
    }
    db.execute(
        "INSERT INTO journal (change_id, step_index, event, at, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
        (id, index, event.name(), now.wall.as_microsecond(), detail),
    )
    .doing(DOING)?;
    Ok(())
}

pub(super) fn write_state(db: &Transaction<'_>, id: &str, to: ChangeStage, detail: &str, now: &Moment) -> Result<(), StoreError> {
    const DOING: &str = "write the state of the change";
    let from = stage_of(db, id)?;
    if !from.may_become(to) {
        return Err(StoreError::Transition { id: id.to_owned(), from, to });
    }
    if from == ChangeStage::Stuck
        && to == ChangeStage::RollingBack
        && let Some(busy) = under_way(db)?
    {
        return Err(busy);
    }
    let steps: usize = db.query_row("SELECT count(*) FROM steps WHERE change_id = ?1", [id], |row| row.get(0)).doing(DOING)?;
    let events = (0..steps).map(|index| last_event(db, id, index).map(|(event, _, _)| event)).collect::<Result<Vec<_>, _>>()?;
    if let Some((step, event)) = contradiction(events, to) {
        return Err(StoreError::Contradiction { id: id.to_owned(), to, step, event });
    }
    let at = now.wall.as_microsecond();
    let pending = (to == ChangeStage::Pending).then(|| micros(now.since_boot));
    db.execute(
        "UPDATE changes SET state = ?2, detail = ?3, finished_at = ?4, pending_boottime = coalesce(?5, pending_boottime)
         WHERE id = ?1",
        (id, to.name(), detail, to.is_end().then_some(at), pending),
    )
    .doing(DOING)?;
    if to == ChangeStage::RolledBack {
        leases::end_with_change(db, id, at)?;
    }
    Ok(())
}

/// The state of a change as it is, whatever the database held.
pub(super) fn put_state(db: &Transaction<'_>, change: &ChangeRecord) -> Result<(), StoreError> {
    const DOING: &str = "write the state of the change";
    let ChangeRecord { id, stage, detail, finished_at, pending_since_boot, .. } = change;
    let finished = finished_at.map(Timestamp::as_microsecond);
    db.execute(
        "UPDATE changes SET state = ?2, detail = ?3, finished_at = ?4, pending_boottime = ?5 WHERE id = ?1",
        (id, stage.name(), detail, finished, pending_since_boot.map(micros)),
    )
    .doing(DOING)?;
    if let (ChangeStage::RolledBack, Some(finished)) = (stage, finished) {
        leases::end_with_change(db, id, finished)?;
    }
    Ok(())
}

/// The first step whose last event makes the new state a lie.
pub(super) fn contradiction(events: impl IntoIterator<Item = StepEvent>, to: ChangeStage) -> Option<(usize, StepEvent)> {
    let fits: fn(StepEvent) -> bool = match to {
        ChangeStage::Verified => |event| matches!(event, StepEvent::DoneChanged | StepEvent::DoneAlready),
        ChangeStage::RolledBack => {
            |event| matches!(event, StepEvent::Planned | StepEvent::DoneAlready | StepEvent::Failed | StepEvent::Undone)
        }
        _ => return None,
    };
    events.into_iter().enumerate().find(|(_, event)| !fits(*event))
}

fn under_way(db: &Connection) -> Result<Option<StoreError>, StoreError> {
    let found = db
        .query_row(
            "SELECT id, principal, deadline FROM changes
             WHERE state IN ('begun', 'applying', 'verified', 'pending', 'rolling-back')",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, Option<i64>>(2)?)),
        )
        .optional()
        .doing("read the changes")?;
    match found {
        None => Ok(None),
        Some((id, principal, deadline)) => {
            Ok(Some(StoreError::Busy { id, principal, deadline: deadline.map(time).transpose()? }))
        }
    }
}

fn stuck(db: &Connection) -> Result<Option<StoreError>, StoreError> {
    let found = db
        .query_row("SELECT id, principal, detail FROM changes WHERE state = 'stuck' ORDER BY started_at LIMIT 1", [], |row| {
            Ok(StoreError::Stuck { id: row.get(0)?, principal: row.get(1)?, detail: row.get(2)? })
        })
        .optional();
    found.doing("read the changes")
}

/// As the database keeps it.
pub(super) fn whole_micros(duration: Duration) -> Duration {
    Duration::from_micros(u64::try_from(micros(duration)).unwrap_or(u64::MAX))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn since_boot(micros: i64) -> Result<Duration, StoreError> {
    let micros = u64::try_from(micros).map_err(|_| StoreError::Damaged(format!("{micros} microseconds since boot")))?;
    Ok(Duration::from_micros(micros))
}

pub(super) fn stage_of(db: &Connection, id: &str) -> Result<ChangeStage, StoreError> {
    let name: Option<String> = db
        .query_row("SELECT state FROM changes WHERE id = ?1", [id], |row| row.get(0))
        .optional()
        .doing("read the state of the change")?;
    let name = name.ok_or_else(|| StoreError::Missing { what: "change", id: id.to_owned() })?;
    named(&ChangeStage::ALL, ChangeStage::name, &name)
}

/// The last event of a step with its time and detail.
pub(super) fn last_event(db: &Connection, id: &str, index: usize) -> Result<(StepEvent, Option<i64>, String), StoreError> {
    let found: Option<(String, i64, String)> = db
        .query_row(
            "SELECT event, at, detail FROM journal WHERE change_id = ?1 AND step_index = ?2 ORDER BY seq DESC LIMIT 1",
            (id, index),
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()
        .doing("read the journal")?;
    match found {
        None => Ok((StepEvent::Planned, None, String::new())),
        Some((event, at, detail)) => Ok((named(&StepEvent::ALL, StepEvent::name, &event)?, Some(at), detail)),
    }
}

fn read(db: &Connection, id: &str) -> Result<ChangeRecord, StoreError> {
    const DOING: &str = "read the change";
    let mut select = db.prepare("SELECT step FROM steps WHERE change_id = ?1 ORDER BY step_index").doing(DOING)?;
    let steps = select.query_map([id], |row| row.get::<_, String>(0)).doing(DOING)?;
    let steps = steps
        .enumerate()
        .map(|(index, step)| {
            let (event, at, detail) = last_event(db, id, index)?;
            Ok(StepRecord { step: from_json(&step.doing(DOING)?)?, event, at: at.map(time).transpose()?, detail })
        })
        .collect::<Result<_, StoreError>>()?;

    let record = db.query_row("SELECT * FROM changes WHERE id = ?1", [id], |row| Ok(record(row, id, steps))).optional();
    record.doing(DOING)?.ok_or_else(|| StoreError::Missing { what: "change", id: id.to_owned() })?
}

fn record(row: &Row<'_>, id: &str, steps: Vec<StepRecord>) -> Result<ChangeRecord, StoreError> {
    fn get<T: FromSql>(row: &Row<'_>, column: &'static str) -> Result<T, StoreError> {
        row.get(column).doing("read the change")
    }
    let text = |column| get::<String>(row, column);
    let number = |column| get::<Option<i64>>(row, column);
    let deadline = match (number("deadline")?, number("deadline_boottime")?) {
        (Some(wall), by_boot) => {
            // Set by an earlier version: the wall clock alone.
            let since_boot = by_boot.map_or(Ok(Duration::MAX), since_boot)?;
            Some(Deadline { wall: time(wall)?, since_boot })
        }
        (None, _) => None,
    };
    Ok(ChangeRecord {
        id: id.to_owned(),
        principal: text("principal")?,
        operation: from_json(&text("operation")?)?,
        digest: text("digest")?,
        plan: get::<Option<String>>(row, "plan")?.map(|plan| from_json(&plan)).transpose()?,
        stage: named(&ChangeStage::ALL, ChangeStage::name, &text("state")?)?,
        started_at: time(get(row, "started_at")?)?,
        boot: Boot::recorded(&text("boot")?),
        deadline,
        pending_since_boot: number("pending_boottime")?.map(since_boot).transpose()?,
        finished_at: number("finished_at")?.map(time).transpose()?,
        detail: text("detail")?,
        steps,
    })
}

fn named<T: Copy>(all: &[T], name: fn(T) -> &'static str, text: &str) -> Result<T, StoreError> {
    all.iter().copied().find(|one| name(*one) == text).ok_or_else(|| StoreError::Damaged(format!("a change is `{text}`")))
}

#[cfg(test)]
#[path = "changes_tests.rs"]
pub(in crate::store) mod tests;
