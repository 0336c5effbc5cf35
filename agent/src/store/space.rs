//! Room for what must be written. state.db is bounded in size, with a part of it for changes alone; and a file beside it holds blocks of the
//! disk that are given up when the disk is full, so that a pending change can still be confirmed or taken back.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::fcntl::{OFlag, posix_fallocate};
use rusqlite::{Connection, ErrorCode};

use super::{Doing, StoreError};

/// Bytes kept back on the disk: a confirm or a rollback writes some hundred kilobytes of journal.
const KEPT_BACK: i64 = 1024 * 1024;
/// Bytes of them that are given up at a time while the database is opened: more than the index of its log begins with.
const PIECE: u64 = 64 * 1024;
/// Beside state.db.
const FILE: &str = "kept-back";

/// What something is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A question, or something that is refused.
    Question,
    /// A change that has not begun.
    Change,
    /// What was begun and must come to its end: confirms, rollbacks, the steps between, the end of a record.
    Decision,
}

/// The bounds of one database.
#[derive(Debug)]
pub struct Space {
    file: PathBuf,
    /// Bytes that the database may have.
    most: AtomicU64,
    /// Whether room is kept back on the disk: by the agent that runs on it.
    keeps: AtomicBool,
}

impl Space {
    pub(super) fn beside(database: &Path) -> Self {
        Self { file: database.with_file_name(FILE), most: AtomicU64::new(u64::MAX), keeps: AtomicBool::new(false) }
    }

    pub(super) fn bound(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Keeps room on the disk from now on; false where there is none.
    pub(super) fn keep_back(&self) -> io::Result<()> {
        self.keeps.store(true, Ordering::Relaxed);
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits();
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(&self.file)?;
        let left = file.metadata()?.len();
        if left >= KEPT_BACK.unsigned_abs() {
            return Ok(());
        }
        posix_fallocate(&file, 0, KEPT_BACK).map_err(|errno| {
            // What is left of it is still there for what was begun. As long as all of it, it would be taken for that later.
            if left == 0 || file.set_len(left).is_err() {
                let _ = fs::remove_file(&self.file);
            }
            errno.into()
        })
    }

    /// Opens the database. Where the disk is full that is tried again with a piece more of what is kept back: SQLite gives back to the disk
    /// the index of a log whose agent was killed before it takes room for a new one, and whoever fills the disk may be faster.
    pub(super) fn open<T>(&self, open: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        loop {
            match open() {
                Err(error) if is_disk_full(&error) && self.give_up_a_piece().unwrap_or(false) => {
                    tracing::warn!("{error}; retrying with part of the reserved space");
                }
                opened => return opened,
            }
        }
    }

    /// False where nothing is left.
    fn give_up_a_piece(&self) -> io::Result<bool> {
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits();
        let file = OpenOptions::new().write(true).custom_flags(flags).open(&self.file)?;
        let left = file.metadata()?.len();
        file.set_len(left.saturating_sub(PIECE))?;
        Ok(left > 0)
    }

    /// Gives the kept blocks back to the disk; whether there were any.
    fn give_up(&self) -> bool {
        fs::remove_file(&self.file).is_ok()
    }

    /// Whether this may be written now.
    pub(super) fn allows(&self, purpose: Purpose, db: &Connection) -> Result<(), StoreError> {
        let most = self.most.load(Ordering::Relaxed);
        let part = match purpose {
            Purpose::Decision => return Ok(()),
            Purpose::Change => most / 8 * 7,
            Purpose::Question => most / 8 * 6,
        };
        let used = used(db)?;
        if used > part {
            return Err(StoreError::Full { megabytes: used >> 20 });
        }
        if purpose == Purpose::Change { self.keeps_room() } else { Ok(()) }
    }

    /// An error where the room that is to be kept back was used and the disk has none to make it anew.
    pub(super) fn keeps_room(&self) -> Result<(), StoreError> {
        if self.keeps.load(Ordering::Relaxed) { self.keep_back().map_err(StoreError::NothingKeptBack) } else { Ok(()) }
    }

    pub(super) fn is_half_full(&self, db: &Connection) -> Result<bool, StoreError> {
        Ok(used(db)? > self.most.load(Ordering::Relaxed) / 2)
    }

    /// Whether to try once more, with the room that was kept back.
    pub(super) fn makes_room(&self, purpose: Purpose, error: &StoreError) -> bool {
        purpose == Purpose::Decision && is_disk_full(error) && self.give_up()
    }
}

/// SQLite says so of its database, its log and, as an I/O error, of the log's index.
fn is_disk_full(error: &StoreError) -> bool {
    let StoreError::Sql { source: rusqlite::Error::SqliteFailure(why, _), .. } = error else { return false };
    matches!(why.code, ErrorCode::DiskFull | ErrorCode::SystemIoFailure)
}

/// Bytes of the database that hold something.
pub(super) fn used(db: &Connection) -> Result<u64, StoreError> {
    let number = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).doing("look at its size");
    let pages = number("page_count")?.saturating_sub(number("freelist_count")?);
    Ok(u64::try_from(pages.saturating_mul(number("page_size")?)).unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn full<T>() -> Result<T, StoreError> {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_SHMSIZE);
        Err(rusqlite::Error::SqliteFailure(code, None)).doing("be opened")
    }

    #[test]
    fn a_database_on_a_full_disk_is_opened_with_what_is_kept_back_piece_by_piece() {
        let folder = tempfile::tempdir().unwrap();
        let space = Space::beside(&folder.path().join("state.db"));
        let left = || fs::metadata(folder.path().join(FILE)).unwrap().len();
        let tries = Cell::new(0);
        let opens_at = |at: u32| {
            tries.set(0);
            space.open(|| {
                tries.set(tries.get() + 1);
                if tries.get() < at { full() } else { Ok(()) }
            })
        };
        assert!(opens_at(2).is_err(), "nothing is kept back");
        space.keep_back().unwrap();
        let all = KEPT_BACK.unsigned_abs();
        opens_at(1).unwrap();
        assert_eq!(left(), all, "the disk is not full");
        opens_at(4).unwrap();
        assert_eq!(left(), all - 3 * PIECE, "the rest stays for what was begun");
        assert!(opens_at(u32::MAX).is_err());
        assert_eq!((left(), tries.get()), (0, 14), "it is given up once");
        // Another fault is none of the disk's room.
        space.keep_back().unwrap();
        assert!(space.open(|| Err::<(), _>(StoreError::Damaged(String::new()))).is_err());
        assert_eq!(left(), all);
    }
}
