//! What the drills of rollback came to. Decides nothing about them.

use jiff::Timestamp;
use rusqlite::OptionalExtension;

use super::{Doing, Store, StoreError, time};

/// One drill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drill {
    /// When it is over.
    pub at: Timestamp,
    /// Whether everything was as before at every point.
    pub passed: bool,
    /// At how many points the worker was killed.
    pub points: usize,
    /// What failed, and what could not be copied.
    pub detail: String,
}

impl Store {
    /// Keeps the result of a drill.
    pub fn keep_drill(&self, drill: &Drill) -> Result<(), StoreError> {
        const DOING: &str = "write the result of the drill";
        self.write(DOING, |db| {
            db.execute(
                "INSERT OR REPLACE INTO drills (at, passed, points, detail) VALUES (?1, ?2, ?3, ?4)",
                (drill.at.as_microsecond(), drill.passed, drill.points, &drill.detail),
            )
            .doing(DOING)?;
            Ok(())
        })
    }

    /// The last one.
    pub fn last_drill(&self) -> Result<Option<Drill>, StoreError> {
        type Found = (i64, bool, usize, String);
        let found: Option<Found> = self
            .connection()
            .query_row("SELECT at, passed, points, detail FROM drills ORDER BY at DESC LIMIT 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .optional()
            .doing("read the result of the last drill")?;
        found.map(|(at, passed, points, detail)| Ok(Drill { at: time(at)?, passed, points, detail })).transpose()
    }
}
