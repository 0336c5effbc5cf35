//! state.db: everything the agent must not forget across a crash: requests seen, audit records, the journal of changes,
//! leases. Every write of a change is on the disk when its call returns; records of questions wait for no disk ([`Durable`]). An error
//! means that nothing was written. Decides nothing.

mod changes;
mod drills;
mod health;
mod kept;
mod leases;
mod open;
mod space;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

pub use changes::{ChangeRecord, NewChange, StepRecord};
pub use drills::Drill;
pub use leases::{LeaseRecord, NewLease};
pub use space::Purpose;
pub use sshfix_policy::reply::{ChangeStage, StepEvent};

/// Why the record could not be read or written. Nothing was written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file or its directory cannot be opened or is not safe.
    #[error("the state database {path} cannot be used: {why}")]
    Unusable {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// Another agent holds the state.
    #[error("another sshfix-agent is running on {0}: stop it first")]
    InUse(PathBuf),
    /// Written by a later version of sshfix.
    #[error("the state database {path} has schema {found}, this agent knows {known}: install the newer sshfix-agent again")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its `user_version`.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// SQLite refused: disk full, read-only, I/O error, corrupt file.
    #[error("the state database could not {doing}: {source}")]
    Sql {
        /// What was tried: `write the audit record`.
        doing: &'static str,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// It has come to the part of its bound that is for this.
    #[error("the state database holds {megabytes} MiB, the limit for this: the rest is reserved for changes in progress")]
    Full {
        /// Its size.
        megabytes: u64,
    },
    /// A change could not be taken back on this disk.
    #[error("no disk space could be reserved for a rollback: {0}")]
    NothingKeptBack(std::io::Error),
    /// A record does not read back.
    #[error("the state database holds a damaged record: {0}")]
    Damaged(String),
    /// A change cannot go from one state to the other.
    #[error("change {id} is {from} and cannot become {to}")]
    Transition {
        /// The change id.
        id: String,
        /// Its state.
        from: ChangeStage,
        /// The state asked for.
        to: ChangeStage,
    },
    /// A step cannot go from one event to the other, or not in this state of its change.
    #[error("step {step} of change {id} is {from} (the change is {stage}), so it cannot be {to}")]
    Event {
        /// The change id.
        id: String,
        /// The step, from 0.
        step: usize,
        /// Its last event.
        from: StepEvent,
        /// The event asked for.
        to: StepEvent,
        /// The state of the change.
        stage: ChangeStage,
    },
    /// The steps say otherwise.
    #[error("change {id} cannot become {to}: its step {step} is {event}")]
    Contradiction {
        /// The change id.
        id: String,
        /// The state asked for.
        to: ChangeStage,
        /// The step, from 0.
        step: usize,
        /// Its last event.
        event: StepEvent,
    },
    /// There is an unfinished change already.
    #[error("change {id} of {principal} is under way")]
    Busy {
        /// The change id.
        id: String,
        /// Who made it.
        principal: String,
        /// When it rolls back unless confirmed.
        deadline: Option<Timestamp>,
    },
    /// A change could not be taken back whole, and nobody has taken it over yet.
    #[error("change {id} of {principal} is stuck: {detail}")]
    Stuck {
        /// The change id.
        id: String,
        /// Who made it.
        principal: String,
        /// What is left to do by hand.
        detail: String,
    },
    /// No such record.
    #[error("there is no {what} {id}")]
    Missing {
        /// `change`, `step`, `lease`, `audit record`.
        what: &'static str,
        /// Its id.
        id: String,
    },
}

impl StoreError {
    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        use rusqlite::ErrorCode::{DatabaseCorrupt, DiskFull, NotADatabase, PermissionDenied, ReadOnly};
        let code = match self {
            StoreError::Sql { source, .. } => source.sqlite_error_code(),
            _ => None,
        };
        match (self, code) {
            (StoreError::Damaged(_), _) | (_, Some(DatabaseCorrupt | NotADatabase)) => {
                "`systemctl stop sshfix-agent` (what waits is rolled back), move /var/lib/sshfix/state.db* to another folder, `systemctl start \
                 sshfix-agent`. Lost then: its audit records, and when its leases end (what they added is marked `sshfix lease`)"
            }
            (StoreError::Missing { what: "change", .. }, _) => "`sshfix ctl changes` lists them",
            (StoreError::Missing { what: "lease", .. }, _) => "`sshfix ctl leases` lists them",
            (StoreError::Missing { .. }, _) => "`sshfix ctl audit show` lists what there is",
            (StoreError::Full { .. } | StoreError::NothingKeptBack(_), _) | (_, Some(DiskFull)) => {
                "make room on the disk of /var/lib/sshfix (`state_megabytes` in [limits] of agent.toml bounds state.db), then retry"
            }
            (_, Some(ReadOnly | PermissionDenied)) => "make /var/lib/sshfix writable for root (mount and modes), then retry",
            _ => "`journalctl -u sshfix-agent` has the details; then retry",
        }
    }
}

/// When a write is on the disk (sqlite.org, `PRAGMA synchronous`, write-ahead log). Whatever is written `AtOnce` takes all that was
/// written before it along; a crash of the agent alone loses nothing of either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durable {
    /// When the call returns.
    AtOnce,
    /// With the next write that is `AtOnce`, or at the next [`Store::settle`]: a power cut may lose it.
    Later,
}

impl Durable {
    /// A question changes nothing, so nothing is lost with its record.
    pub(crate) fn of(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Question => Durable::Later,
            Purpose::Change | Purpose::Decision => Durable::AtOnce,
        }
    }
}

/// Names what was tried, so that the message does.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError>;
}

impl<T> Doing<T> for Result<T, rusqlite::Error> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Sql { doing, source })
    }
}

/// The open state database: one connection, one caller at a time.
#[derive(Debug)]
pub struct Store {
    connection: Mutex<Connection>,
    path: PathBuf,
    space: space::Space,
    /// Called before and after every write; of a drill's worker only.
    watch: Option<fn()>,
    /// Held while the agent runs, so that there is never a second writer.
    _lock: Option<open::Lock>,
    /// What must not depend on the disk. Of the one writer only.
    memory: Option<kept::Memory>,
    health: health::Health,
    /// Requests seen by this process, and until when each is remembered: one whose id the disk does not take still counts once.
    seen: Mutex<BTreeMap<String, Timestamp>>,
    #[cfg(test)]
    pub(crate) fuse: Fuse,
}

impl Store {
    /// Opens or creates the database and brings its schema up to date. The directory must belong to the user the agent
    /// runs as and becomes 0700; the file is 0600. Refuses a newer schema, and a second agent on the same directory.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let lock = open::directory(path)?;
        let identity = open::file(path)?;
        let mut connection = space::Space::beside(path).open(|| open::connection(path))?;
        open::migrate(&mut connection, path)?;
        let mut store = Store::of(connection, path, Some(lock));
        store.health = health::Health::of(identity);
        store.memory = Some(kept::Memory::read(&store));
        Ok(store)
    }

    /// Opens an existing database to look at it, also while an agent runs on it. Writes fail.
    pub fn inspect(path: &Path) -> Result<Store, StoreError> {
        Ok(Store::of(open::read_only(path)?, path, None))
    }

    /// Opens the database of an agent that may be running, to add one record that is not the agent's own. The schema must be ours.
    pub fn beside(path: &Path) -> Result<Store, StoreError> {
        Ok(Store::of(open::beside(path)?, path, None))
    }

    fn of(connection: Connection, path: &Path, lock: Option<open::Lock>) -> Store {
        Store {
            connection: Mutex::new(connection),
            path: path.to_owned(),
            space: space::Space::beside(path),
            watch: None,
            _lock: lock,
            memory: None,
            health: health::Health::default(),
            seen: Mutex::default(),
            #[cfg(test)]
            fuse: Fuse::default(),
        }
    }

    /// Has this called before and after every write.
    pub(crate) fn watch(&mut self, called: fn()) {
        self.watch = Some(called);
    }

    /// Bounds its size: questions are written up to six eighths of it, changes up to seven, what was begun always.
    pub fn bound(&self, bytes: u64) {
        self.space.bound(bytes);
    }

    /// Keeps room on its disk for confirms and rollbacks; without it no change begins from now on.
    pub fn keep_room(&self) -> std::io::Result<()> {
        self.space.keep_back()
    }

    /// Whether more than half of its bound holds something.
    pub fn is_half_full(&self) -> Result<bool, StoreError> {
        self.space.is_half_full(&self.connection())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Remembers a request id until `until`; false when it was seen before. Ids whose time is over at `now` are dropped. Where the disk
    /// does not take it, it counts once in this process: a request answers the challenge of one connection, and no other agent runs.
    pub fn remember_request(&self, purpose: Purpose, id: &str, now: Timestamp, until: Timestamp) -> bool {
        const DOING: &str = "remember the request";
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, until| *until >= now);
        if seen.insert(id.to_owned(), until).is_some() {
            return false;
        }
        drop(seen);
        let written = self.write_for(purpose, DOING, |db| {
            db.execute("DELETE FROM requests_seen WHERE until < ?1", [now.as_microsecond()]).doing(DOING)?;
            let new = db
                .execute("INSERT OR IGNORE INTO requests_seen (id, until) VALUES (?1, ?2)", (id, until.as_microsecond()))
                .doing(DOING)?;
            Ok(new == 1)
        });
        written.unwrap_or(true)
    }

    /// Writes what was begun.
    pub(crate) fn write<T>(
        &self,
        doing: &'static str,
        work: impl Fn(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.write_for(Purpose::Decision, doing, work)
    }

    /// One transaction that takes the write lock first; committed only when `work` succeeds. On a full disk what was begun is tried once
    /// more with the room that was kept back.
    pub(crate) fn write_for<T>(
        &self,
        purpose: Purpose,
        doing: &'static str,
        work: impl Fn(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.write_durably(Durable::of(purpose), purpose, doing, work)
    }

    /// The same, durable otherwise than its purpose says.
    pub(crate) fn write_durably<T>(
        &self,
        durable: Durable,
        purpose: Purpose,
        doing: &'static str,
        work: impl Fn(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let written = self.write_watched(durable, purpose, doing, work);
        self.health.wrote(written.as_ref().err());
        written
    }

    /// Brings what was written [`Durable::Later`] onto the disk, and frees its place in the log.
    pub fn settle(&self) -> Result<(), StoreError> {
        let (blocked, ..): (i64, i64, i64) = self
            .connection()
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .doing("bring its records onto the disk")?;
        if blocked != 0 {
            tracing::debug!("a reader keeps the log of state.db; it is freed later");
        }
        Ok(())
    }

    fn write_watched<T>(
        &self,
        durable: Durable,
        purpose: Purpose,
        doing: &'static str,
        work: impl Fn(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let watched = || self.watch.into_iter().for_each(|called| called());
        watched();
        #[cfg(test)]
        self.fuse.before(doing)?;
        let mut connection = self.connection();
        self.space.allows(purpose, &connection)?;
        open::durable(&connection, durable).doing(doing)?;
        let mut write = || {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).doing(doing)?;
            let value = work(&transaction)?;
            transaction.commit().doing(doing)?;
            Ok(value)
        };
        let value = match write() {
            Err(error) if self.space.makes_room(purpose, &error) => {
                tracing::warn!("the disk of {} is full; using the space reserved for changes in progress", self.path.display());
                write()?
            }
            written => written?,
        };
        drop(connection);
        #[cfg(test)]
        self.fuse.after();
        watched();
        Ok(value)
    }

    /// The connection, to read. A panic elsewhere cannot leave it half written: its transaction was rolled back when dropped.
    pub(crate) fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What happens at the n-th write from now: how crash tests die, and run out of disk, at each of them.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Fuse {
    /// Writes until then, and what happens.
    pub at: Mutex<Option<(usize, Blow)>>,
    /// Writes so far.
    pub writes: std::sync::atomic::AtomicUsize,
}

/// How a fuse blows.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    /// This write fails, later ones work again.
    Fails,
    /// This write and all later ones fail.
    FailsForEver,
    /// Killed just before it.
    DiesBefore,
    /// Killed just after it.
    DiesAfter,
}

#[cfg(test)]
impl Fuse {
    fn before(&self, doing: &'static str) -> Result<(), StoreError> {
        self.writes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = || Err(StoreError::Sql { doing, source: rusqlite::Error::InvalidQuery });
        match &mut *at {
            Some((0, Blow::Fails)) => {
                *at = None;
                failed()
            }
            Some((0, Blow::FailsForEver)) => failed(),
            Some((0, Blow::DiesBefore)) => {
                *at = None;
                drop(at);
                std::panic::resume_unwind(Box::new("killed before a write"))
            }
            Some((0, Blow::DiesAfter)) | None => Ok(()),
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn after(&self) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*at, Some((0, Blow::DiesAfter))) {
            *at = None;
            drop(at);
            std::panic::resume_unwind(Box::new("killed after a write"))
        }
    }
}

/// A time as it is stored: microseconds since 1970.
pub(crate) fn time(micros: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_microsecond(micros).map_err(|e| StoreError::Damaged(format!("a time of {micros}: {e}")))
}

fn to_json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Damaged(format!("this cannot be written as JSON: {e}")))
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::Damaged(format!("{e} in {}", text.chars().take(200).collect::<String>())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    pub(crate) fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    pub(crate) fn fresh() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state/state.db")).unwrap();
        (dir, store)
    }

    #[test]
    fn a_request_counts_once_also_after_a_restart() {
        let (dir, store) = fresh();
        let path = store.path().to_owned();
        assert!(store.remember_request(Purpose::Question, "aa", at(100), at(160)));
        assert!(!store.remember_request(Purpose::Question, "aa", at(101), at(160)));
        drop(store);
        let store = Store::open(&path).unwrap();
        assert!(!store.remember_request(Purpose::Question, "aa", at(160), at(220)));
        drop(dir);
    }

    #[test]
    fn ids_are_forgotten_when_their_time_is_over() {
        let (_dir, store) = fresh();
        for n in 0..100 {
            assert!(store.remember_request(Purpose::Question, &n.to_string(), at(100), at(160)));
        }
        assert!(store.remember_request(Purpose::Question, "late", at(161), at(221)));
        let kept: i64 = store.connection().query_row("SELECT count(*) FROM requests_seen", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, 1);
    }

    #[test]
    fn only_the_owner_can_read_the_state() {
        let (dir, store) = fresh();
        assert!(store.remember_request(Purpose::Question, "aa", at(1), at(2)));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let state = dir.path().join("state");
        assert_eq!(mode(&state), 0o700);
        let mut files = 0;
        for entry in fs::read_dir(&state).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            files += 1;
        }
        assert!(files >= 2, "the database and its write-ahead log");
    }

    #[test]
    fn writes_are_on_the_disk_when_the_call_returns() {
        let (_dir, store) = fresh();
        let pragma = |name: &str| -> String {
            store
                .connection()
                .query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, rusqlite::types::Value>(0))
                .map(|value| match value {
                    rusqlite::types::Value::Integer(n) => n.to_string(),
                    rusqlite::types::Value::Text(text) => text,
                    other => format!("{other:?}"),
                })
                .unwrap()
        };
        assert_eq!(pragma("journal_mode"), "wal");
        assert_eq!(pragma("synchronous"), "2", "FULL");
        assert_eq!(pragma("foreign_keys"), "1");
    }

    #[test]
    fn a_newer_schema_is_refused_and_left_alone() {
        let (_dir, store) = fresh();
        let path = store.path().to_owned();
        store.connection().pragma_update(None, "user_version", 99).unwrap();
        drop(store);
        let before = fs::read(&path).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Newer { found: 99, .. })));
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_second_agent_on_the_same_state_is_refused() {
        let (_dir, store) = fresh();
        assert!(matches!(Store::open(store.path()), Err(StoreError::InUse(_))));
        let path = store.path().to_owned();
        drop(store);
        Store::open(&path).unwrap();
    }

    #[test]
    fn unsafe_places_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(Store::open(&state.join("state.db")), Err(StoreError::Unusable { .. })), "a writable directory");
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("/dev/null", state.join("state.db")).unwrap();
        assert!(matches!(Store::open(&state.join("state.db")), Err(StoreError::Unusable { .. })), "a symlink");
        fs::remove_file(state.join("state.db")).unwrap();
        fs::write(state.join("state.db"), b"").unwrap();
        fs::set_permissions(state.join("state.db"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Store::open(&state.join("state.db")), Err(StoreError::Unusable { .. })), "readable by others");
        fs::write(state.join("other.db"), b"this is no database at all, but long enough to be read as a header").unwrap();
        fs::set_permissions(state.join("other.db"), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Store::open(&state.join("other.db")).is_err(), "garbage");
        assert!(matches!(Store::open(Path::new("state.db")), Err(StoreError::Unusable { .. })), "a relative path");
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_leaves_nothing() {
        let (_dir, store) = fresh();
        assert!(store.remember_request(Purpose::Question, "aa", at(1), at(60)));
        assert_eq!(store.trouble(), None);
        // The file may not grow any further: what SQLite does on a full disk, SQLITE_FULL.
        let pages: i64 = store.connection().query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        store.connection().query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
        let opening = crate::audit::AuditOpening::automatic("x".repeat(1000));
        let refused = (0..100_000).map(|_| store.audit_open(&opening)).find(Result::is_err);
        assert!(matches!(refused, Some(Err(StoreError::Sql { .. }))), "{refused:?}");
        assert!(store.trouble().unwrap().contains("full"), "{:?}", store.trouble());
        assert!(!store.remember_request(Purpose::Question, "aa", at(2), at(60)), "what is in memory counts");
        assert!(
            store.remember_request(Purpose::Question, "new", at(2), at(60))
                && !store.remember_request(Purpose::Question, "new", at(2), at(60))
        );
        let path = store.path().to_owned();
        drop(store);
        let looking = Store::inspect(&path).unwrap();
        assert!(matches!(looking.audit_open(&opening), Err(StoreError::Sql { .. })), "read-only");
        drop(looking);
        assert!(!Store::open(&path).unwrap().remember_request(Purpose::Question, "aa", at(3), at(60)), "and it still knows");
    }
}
