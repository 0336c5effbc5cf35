//! Whether state.db can be relied on: the file that was opened is still the one that a restart would open, it holds what it was given,
//! and the last write was taken. Repairs nothing; what must not depend on it is in memory (`kept`).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use super::{Doing, Store, StoreError, changes};

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Device and inode of the file that was opened; none where somebody only looks at it.
    opened: Option<(u64, u64)>,
    /// Why the last write was not taken.
    unwritten: Mutex<Option<String>>,
}

impl Health {
    pub(super) fn of(opened: (u64, u64)) -> Self {
        Self { opened: Some(opened), unwritten: Mutex::default() }
    }

    /// A write came to this. What the database refused for what it says is no fault of its own.
    pub(super) fn wrote(&self, error: Option<&StoreError>) {
        let mut unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            None => *unwritten = None,
            Some(error @ (StoreError::Sql { .. } | StoreError::Damaged(_))) => *unwritten = Some(error.to_string()),
            Some(_) => {}
        }
    }
}

impl Store {
    pub(super) fn unusable(&self, why: String) -> StoreError {
        StoreError::Unusable { path: self.path().to_owned(), why }
    }

    /// An error where a restart would not find what is written now.
    pub(super) fn in_place(&self) -> Result<(), StoreError> {
        let Some(opened) = self.health.opened else { return Ok(()) };
        let now = fs::symlink_metadata(self.path()).map(|found| (found.dev(), found.ino()));
        let why = match now {
            Ok(now) if now == opened => return Ok(()),
            Ok(_) => "it was replaced by another file while the agent runs".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                "it was deleted or moved away while the agent runs".to_owned()
            }
            Err(error) => format!("it cannot be looked at: {error}"),
        };
        Err(self.unusable(why))
    }

    /// What is wrong with it, for people; nothing where it can be relied on. Writes down what it did not take before.
    pub fn trouble(&self) -> Option<String> {
        let found =
            self.in_place().and_then(|()| self.catch_up()).and_then(|()| self.as_kept()).and_then(|()| self.space.keeps_room());
        let unwritten = || self.health.unwritten.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let why = found.err().map(|error| error.to_string()).or_else(unwritten)?;
        let path = self.path().display().to_string();
        Some(if why.contains(&path) { why } else { format!("{path}: {why}") })
    }

    /// Whether it can be read and holds the changes that are kept.
    fn as_kept(&self) -> Result<(), StoreError> {
        let kept = self.kept().transpose()?.unwrap_or_default();
        let db = self.connection();
        let _: i64 = db.query_row("SELECT count(*) FROM changes", [], |row| row.get(0)).doing("be read")?;
        for change in kept {
            let held = changes::stage_of(&db, &change.id)?;
            if held != change.stage {
                return Err(StoreError::Damaged(format!("change {} is {} and it holds {held}", change.id, change.stage)));
            }
        }
        Ok(())
    }
}
