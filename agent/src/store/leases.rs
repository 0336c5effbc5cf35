//! Leases on disk: what lets somebody in for a while, with what takes it back. Does not end them: the agent's clock does.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Row, Transaction};
use sshfix_policy::host::lease::Item;
use sshfix_policy::host::step::Step;
use sshfix_policy::plan::lease::ignored;
use sshfix_policy::request::Intent;

use super::{Doing, NewChange, Store, StoreError, from_json, time, to_json};
use crate::sys::clock::{Boot, Moment};

/// A lease that a change is about to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLease {
    /// Its id.
    pub id: String,
    /// One line for people.
    pub summary: String,
    /// What is taken back at its end.
    pub items: Vec<Item>,
    /// How long, from the change's beginning.
    pub time: Duration,
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
    /// What was asked for.
    pub operation: Intent,
    /// One line for people.
    pub summary: String,
    /// What is taken back at its end.
    pub items: Vec<Item>,
    /// When it was made, by the wall clock.
    pub created_at: Timestamp,
    /// When it ends, by the wall clock of the time it was made.
    pub ends_at: Timestamp,
    /// The boot in which its time was last taken up,
    pub boot: Boot,
    /// when, by `CLOCK_BOOTTIME` of that boot,
    pub boot_from: Duration,
    /// and how much was left then.
    pub boot_left: Duration,
    /// Whether what a reboot takes away was put back in that boot.
    pub in_place: bool,
}

impl LeaseRecord {
    /// How long still. Within a boot the kernel's own clock counts, which nobody can set. From one boot to the next only the wall
    /// clock tells; where it is wrong a lease ends early, or lasts at most its whole time again. Where it is not known whether this is
    /// another boot, the clock that ends first counts.
    pub fn left(&self, now: &Moment) -> Duration {
        let by_kernel = self.boot_left.saturating_sub(now.since_boot.saturating_sub(self.boot_from));
        let whole = Duration::try_from(self.ends_at.duration_since(self.created_at)).unwrap_or_default();
        let by_wall = Duration::try_from(self.ends_at.duration_since(now.wall)).unwrap_or_default().min(whole);
        // Rows of schema 1 and 2 hold no time by the kernel's clock.
        let timed = !self.boot_left.is_zero() || !self.boot_from.is_zero();
        match (self.boot.is_known() && now.boot.is_known(), self.boot == now.boot) {
            (true, true) => by_kernel,
            (false, _) if timed => by_kernel.min(by_wall),
            (true, false) | (false, _) => by_wall,
        }
    }

    /// When it ends, by the wall clock of now.
    pub fn ends(&self, now: &Moment) -> Timestamp {
        SignedDuration::try_from(self.left(now)).ok().and_then(|left| now.wall.checked_add(left).ok()).unwrap_or(self.ends_at)
    }
}

impl Store {
    /// The leases in force: not ended, and their change was not rolled back nor is still under way. Soonest end first.
    pub fn leases(&self) -> Result<Vec<LeaseRecord>, StoreError> {
        const DOING: &str = "read the leases";
        let db = self.connection();
        // A change that is stuck or was abandoned may have left the allow in place, so its lease still ends.
        let mut select = db
            .prepare(
                "SELECT leases.id, change_id, leases.principal, summary, created_at, ends_at, boot_from, boot_left, leases.boot,
                        in_place, operation, items, leases.steps
                 FROM leases JOIN changes ON changes.id = change_id
                 WHERE ended_at IS NULL AND state IN ('confirmed', 'stuck', 'abandoned')
                 ORDER BY ends_at, leases.id",
            )
            .doing(DOING)?;
        let mut rows = select.query([]).doing(DOING)?;
        let mut leases = Vec::new();
        while let Some(row) = rows.next().doing(DOING)? {
            leases.push(read(row)?);
        }
        Ok(leases)
    }

    /// The id that the next lease gets: a number, so that a dry run can name it. Numbers are not used again.
    pub fn next_lease(&self) -> Result<String, StoreError> {
        let made: i64 =
            self.connection().query_row("SELECT count(*) FROM leases", [], |row| row.get(0)).doing("count the leases")?;
        Ok((made + 1).to_string())
    }

    /// Writes how much of a lease is left in this boot, and that what a reboot takes away has still to be put back.
    pub fn lease_take_up(&self, id: &str, now: &Moment, left: Duration) -> Result<(), StoreError> {
        self.lease_update(
            "write what is left of the lease",
            "UPDATE leases SET boot = ?2, boot_from = ?3, boot_left = ?4, in_place = 0 WHERE id = ?1 AND ended_at IS NULL",
            &(id, now.boot.text(), micros(now.since_boot), micros(left)),
            id,
        )
    }

    /// Writes what a lease takes back at its end.
    pub fn lease_items(&self, id: &str, items: &[Item]) -> Result<(), StoreError> {
        let update = "UPDATE leases SET items = ?2 WHERE id = ?1 AND ended_at IS NULL";
        self.lease_update("write what the lease added", update, &(id, to_json(&items)?), id)
    }

    /// Writes that nothing of a lease has to be put back in this boot any more.
    pub fn lease_in_place(&self, id: &str) -> Result<(), StoreError> {
        let update = "UPDATE leases SET in_place = 1 WHERE id = ?1 AND ended_at IS NULL";
        self.lease_update("write that the lease is in place", update, &[id], id)
    }

    /// Writes that a lease was taken back, and what was left of it.
    pub fn lease_end(&self, id: &str, at: Timestamp, detail: &str) -> Result<(), StoreError> {
        let update = "UPDATE leases SET ended_at = ?2, detail = ?3 WHERE id = ?1 AND ended_at IS NULL";
        self.lease_update("write the end of the lease", update, &(id, at.as_microsecond(), detail), id)
    }

    fn lease_update(
        &self,
        doing: &'static str,
        update: &'static str,
        values: &(impl rusqlite::Params + Clone),
        id: &str,
    ) -> Result<(), StoreError> {
        self.write(doing, |db| {
            let updated = db.execute(update, values.clone()).doing(doing)?;
            if updated == 1 { Ok(()) } else { Err(StoreError::Missing { what: "running lease", id: id.to_owned() }) }
        })
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn read(row: &Row<'_>) -> Result<LeaseRecord, StoreError> {
    const DOING: &str = "read the lease";
    let text = |index: usize| row.get::<_, String>(index).doing(DOING);
    let number = |index: usize| row.get::<_, i64>(index).doing(DOING);
    let length = |index: usize| {
        let micros = number(index)?;
        let length = u64::try_from(micros).map(Duration::from_micros);
        length.map_err(|_| StoreError::Damaged(format!("a lease with a time of {micros} microseconds")))
    };
    let mut items: Vec<Item> = from_json(&text(11)?)?;
    if items.is_empty() {
        // Of schema 1 and 2: the steps that take back ignoreip entries.
        let steps: Vec<Step> = from_json(&text(12)?)?;
        items = steps.iter().filter_map(|step| ignored(&step.inverse())).collect();
    }
    Ok(LeaseRecord {
        id: text(0)?,
        change: text(1)?,
        principal: text(2)?,
        summary: text(3)?,
        created_at: time(number(4)?)?,
        ends_at: time(number(5)?)?,
        boot_from: length(6)?,
        boot_left: length(7)?,
        boot: Boot::recorded(&text(8)?),
        in_place: row.get(9).doing(DOING)?,
        operation: from_json(&text(10)?)?,
        items,
    })
}

pub(super) fn add(db: &Transaction<'_>, change: &NewChange, lease: &NewLease) -> Result<(), StoreError> {
    let started = &change.started;
    let ends_at = started.deadline(lease.time).wall;
    db.execute(
        "INSERT INTO leases (id, change_id, principal, summary, steps, created_at, ends_at, items, boot, boot_from, boot_left)
         VALUES (?1, ?2, ?3, ?4, '[]', ?5, ?6, ?7, ?8, ?9, ?10)",
        (
            &lease.id,
            &change.id,
            &change.principal,
            &lease.summary,
            started.wall.as_microsecond(),
            ends_at.as_microsecond(),
            to_json(&lease.items)?,
            started.boot.text(),
            micros(started.since_boot),
            micros(lease.time),
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

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
