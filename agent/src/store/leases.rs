//! Leases on disk: an allow that ends, with the steps that take it back. Does not end them: the agent's clock does.

use jiff::Timestamp;
use rusqlite::Transaction;
use sshfix_policy::step::Step;

use super::changes::{from_json, to_json};
use super::{Doing, NewChange, Store, StoreError, time};

/// A lease that a change is about to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLease {
    /// Its id.
    pub id: String,
    /// One line for people.
    pub summary: String,
    /// What takes back exactly what it added, in the order to be applied.
    pub steps: Vec<Step>,
    /// When it ends.
    pub ends_at: Timestamp,
}

/// A lease as it stands on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Its id.
    pub id: String,
    /// The change that made it.
    pub change: String,
    /// Who asked for it.
    pub principal: String,
    /// One line for people.
    pub summary: String,
    /// What takes it back, in the order to be applied.
    pub steps: Vec<Step>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub ends_at: Timestamp,
}

impl Store {
    /// The leases in force: not ended, and their change was not rolled back nor is still under way. Soonest end first.
    pub fn leases(&self) -> Result<Vec<LeaseRecord>, StoreError> {
        self.leases_until(None)
    }

    /// The leases in force whose time is over at `now`: to be taken back, then [`Store::lease_end`].
    pub fn leases_due(&self, now: Timestamp) -> Result<Vec<LeaseRecord>, StoreError> {
        self.leases_until(Some(now))
    }

    /// Writes that a lease was taken back.
    pub fn lease_end(&self, id: &str, at: Timestamp) -> Result<(), StoreError> {
        const DOING: &str = "write the end of the lease";
        self.write(DOING, |db| {
            let ended = db
                .execute("UPDATE leases SET ended_at = ?2 WHERE id = ?1 AND ended_at IS NULL", (id, at.as_microsecond()))
                .doing(DOING)?;
            if ended == 1 { Ok(()) } else { Err(StoreError::Missing { what: "running lease", id: id.to_owned() }) }
        })
    }

    fn leases_until(&self, end: Option<Timestamp>) -> Result<Vec<LeaseRecord>, StoreError> {
        const DOING: &str = "read the leases";
        type Row = (String, String, String, String, String, i64, i64);
        let db = self.connection();
        // A change that is stuck or was abandoned may have left the allow in place, so its lease still ends.
        let mut select = db
            .prepare(
                "SELECT leases.id, change_id, leases.principal, summary, steps, created_at, ends_at
                 FROM leases JOIN changes ON changes.id = change_id
                 WHERE ended_at IS NULL AND ends_at <= ?1 AND state IN ('confirmed', 'stuck', 'abandoned')
                 ORDER BY ends_at, leases.id",
            )
            .doing(DOING)?;
        let end = end.map_or(i64::MAX, Timestamp::as_microsecond);
        let rows = select
            .query_map([end], |row| {
                let row: Row = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?);
                Ok(row)
            })
            .doing(DOING)?;
        rows.map(|row| {
            let (id, change, principal, summary, steps, created_at, ends_at) = row.doing(DOING)?;
            let (created_at, ends_at) = (time(created_at)?, time(ends_at)?);
            Ok(LeaseRecord { id, change, principal, summary, steps: from_json(&steps)?, created_at, ends_at })
        })
        .collect()
    }
}

pub(super) fn add(db: &Transaction<'_>, change: &NewChange, lease: &NewLease) -> Result<(), StoreError> {
    let steps = to_json(&lease.steps)?;
    db.execute(
        "INSERT INTO leases (id, change_id, principal, summary, steps, created_at, ends_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        (
            &lease.id,
            &change.id,
            &change.principal,
            &lease.summary,
            steps,
            change.started.wall.as_microsecond(),
            lease.ends_at.as_microsecond(),
        ),
    )
    .doing("write the lease")?;
    Ok(())
}

pub(super) fn end_with_change(db: &Transaction<'_>, change: &str, now: i64) -> Result<(), StoreError> {
    db.execute("UPDATE leases SET ended_at = ?2 WHERE change_id = ?1 AND ended_at IS NULL", (change, now))
        .doing("write the end of the lease")?;
    Ok(())
}
