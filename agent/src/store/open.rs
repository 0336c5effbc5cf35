//! Opens state.db: checks the directory and the file, sets the durability, brings the schema up to date.
//! Knows nothing of what the tables mean.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::geteuid;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::{Doing, Durable, StoreError};

/// The lock on the state directory, released when dropped.
pub(super) type Lock = Flock<File>;

/// The schema, version by version: entry N brings version N to N + 1. Never edit an entry that was released; add one.
const MIGRATIONS: &[&str] = &[
    include_str!("schema_1.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
    include_str!("schema_5.sql"),
];

fn unusable(path: &Path, why: impl std::fmt::Display) -> StoreError {
    StoreError::Unusable { path: path.to_owned(), why: why.to_string() }
}

/// Makes or checks the directory of `path`, and takes its lock.
pub(super) fn directory(path: &Path) -> Result<Lock, StoreError> {
    let Some(directory) = path.parent().filter(|_| path.is_absolute()) else {
        return Err(unusable(path, "the path must be absolute"));
    };
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(unusable(directory, e)),
    }
    let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(directory).map_err(|e| unusable(directory, e))?;
    let found = opened.metadata().map_err(|e| unusable(directory, e))?;
    if found.uid() != geteuid().as_raw() {
        return Err(unusable(directory, format!("it belongs to uid {}, not to the user the agent runs as", found.uid())));
    }
    // Whoever can write here could have put another database in place: that is not repaired silently.
    if found.mode() & 0o022 != 0 {
        return Err(unusable(directory, "others can write to it: look at what is in it, then chmod 700"));
    }
    if found.mode() & 0o777 != 0o700 {
        opened.set_permissions(fs::Permissions::from_mode(0o700)).map_err(|e| unusable(directory, e))?;
    }
    Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
        Errno::EWOULDBLOCK => StoreError::InUse(path.to_owned()),
        other => unusable(directory, other),
    })
}

/// Makes or checks the file itself: which file it is (device, inode). SQLite gives its -wal and -shm files the same mode.
pub(super) fn file(path: &Path) -> Result<(u64, u64), StoreError> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).bits();
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
        .map_err(|e| unusable(path, e))?;
    let found = opened.metadata().map_err(|e| unusable(path, e))?;
    if !found.is_file() || found.nlink() != 1 {
        return Err(unusable(path, "it is not a plain file of its own"));
    }
    if found.uid() != geteuid().as_raw() || found.mode() & 0o077 != 0 {
        return Err(unusable(path, "it must belong to the user the agent runs as, with mode 0600"));
    }
    if found.len() == 0 {
        opened.sync_all().map_err(|e| unusable(path, e))?;
        let directory = path.parent().map(File::open);
        directory
            .unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))
            .and_then(|d| d.sync_all())
            .map_err(|e| unusable(path, e))?;
    }
    Ok((found.dev(), found.ino()))
}

/// The connection, with the durability that the journal of changes needs: WAL and synchronous=FULL, so a commit is on the disk.
pub(super) fn connection(path: &Path) -> Result<Connection, StoreError> {
    const DOING: &str = "be opened";
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX).doing(DOING)?;
    connection.busy_timeout(Duration::from_secs(5)).doing(DOING)?;
    refuse_newer(&connection, path)?;
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
        .doing("switch to its write-ahead log")?;
    if mode != "wal" {
        return Err(unusable(path, format!("SQLite keeps its journal as {mode}, not as a write-ahead log")));
    }
    durable(&connection, Durable::AtOnce).doing(DOING)?;
    connection.pragma_update(None, "foreign_keys", true).doing(DOING)?;
    connection.pragma_update(None, "trusted_schema", false).doing(DOING)?;
    Ok(connection)
}

/// Pages of the log from which on a write brings them into the database, and waits for the disk twice: few, so that a full disk keeps no
/// write out for long (what is in the database frees its place in the log).
const LOG_PAGES: u32 = 128;
/// Of what need not be on the disk at once, which is settled now and then beside it.
const LOG_PAGES_LATER: u32 = 1000;

/// Says of the next write when it is to be on the disk. Not within a transaction.
pub(super) fn durable(connection: &Connection, durable: Durable) -> rusqlite::Result<()> {
    let (synchronous, pages) = match durable {
        Durable::AtOnce => ("full", LOG_PAGES),
        Durable::Later => ("normal", LOG_PAGES_LATER),
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "wal_autocheckpoint", pages)
}

/// A connection to a database that has our schema already.
pub(super) fn beside(path: &Path) -> Result<Connection, StoreError> {
    let connection = connection(path)?;
    let (found, known) = (version(&connection)?, i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX));
    if found == known { Ok(connection) } else { Err(unusable(path, "an agent of this version must have run on it first")) }
}

/// A connection that cannot write.
pub(super) fn read_only(path: &Path) -> Result<Connection, StoreError> {
    const DOING: &str = "be opened";
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).doing(DOING)?;
    connection.busy_timeout(Duration::from_secs(5)).doing(DOING)?;
    refuse_newer(&connection, path)?;
    Ok(connection)
}

fn version(connection: &Connection) -> Result<i64, StoreError> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).doing("be read")
}

fn refuse_newer(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let found = version(connection)?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if found > known { Err(StoreError::Newer { path: path.to_owned(), found, known }) } else { Ok(()) }
}

/// Runs the migrations that are missing, each in its own transaction together with the new version number.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    const DOING: &str = "bring its schema up to date";
    let found = version(connection)?;
    let done = usize::try_from(found).map_err(|_| unusable(path, format!("its schema version is {found}")))?;
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(done) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).doing(DOING)?;
        transaction.execute_batch(migration).doing(DOING)?;
        transaction.pragma_update(None, "user_version", index + 1).doing(DOING)?;
        transaction.commit().doing(DOING)?;
    }
    Ok(())
}
