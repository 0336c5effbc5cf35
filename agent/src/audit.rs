//! Audit records, for people: who asked what, from where, and what became of it. Opened before anything is done, closed
//! after, never edited: each row's hash covers the row before it. Recovery reads the journal in `store`, not this.

use std::net::IpAddr;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sshfix_policy::request::{Mode, Operation};

use crate::store::{Doing, Store, StoreError, time};

/// What is known when a request comes in. Fields stay empty where the request was refused before they were known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditOpening {
    /// Who signed; `None` when nobody we know did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// The `SHA256:...` fingerprint of the key that signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The process at the other end of the socket, from `SO_PEERCRED`: its user,
    pub peer_uid: u32,
    /// and its process id, 0 where unknown.
    pub peer_pid: i32,
    /// The address the person came in from, as the signed request says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    /// The request id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// What was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// Whether it was to be shown or made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// What the person gave as the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditClosing {
    /// In one word.
    pub outcome: Outcome,
    /// The full reason, which a refused peer is not told.
    pub detail: String,
    /// `sha256:...` of the plan that was made, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// The change id, if a change was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
}

/// What became of a request, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A question was answered, or a dry run shown.
    Answered,
    /// Signature, freshness or policy.
    Refused,
    /// It would have locked somebody out, or the plan changed, or another change was under way. Nothing was changed.
    NotApplied,
    /// There was nothing to do.
    Unchanged,
    /// Failed; the host is unchanged.
    Failed,
    /// Done and verified.
    Confirmed,
    /// Done, waiting for confirm.
    Pending,
    /// Taken back.
    RolledBack,
    /// Could not be taken back whole.
    Stuck,
    /// The agent died before it could say; written when it starts again.
    Interrupted,
}

/// A request as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its number; grows.
    pub seq: i64,
    /// When it came in.
    pub opened_at: Timestamp,
    /// What it was.
    pub opening: AuditOpening,
    /// When it was over and what became of it; `None` while it runs.
    pub closed: Option<(Timestamp, AuditClosing)>,
}

/// The end of the chain: whoever keeps it can prove later that nothing before it was altered, removed or cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditHead {
    /// The last row's number; 0 for an empty chain.
    pub seq: i64,
    /// Its hash; zeros for an empty chain.
    pub hash: [u8; 32],
}

/// The chain before its first row.
const EMPTY: AuditHead = AuditHead { seq: 0, hash: [0; 32] };

/// SHA-256 over the row and the hash before it. The body comes last, so no two rows have the same bytes.
fn hash(previous: &[u8], seq: i64, at: i64, closes: Option<i64>, body: &str) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(b"sshfix-audit@v1\0");
    hasher.update(previous);
    for number in [seq, at, closes.unwrap_or(0)] {
        hasher.update(number.to_be_bytes());
    }
    hasher.update(body.as_bytes());
    hasher.finalize().into()
}

fn head(db: &Connection) -> Result<AuditHead, StoreError> {
    let found = db
        .query_row("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1", [], |row| {
            Ok(AuditHead { seq: row.get(0)?, hash: row.get(1)? })
        })
        .optional()
        .doing("read the audit records")?;
    Ok(found.unwrap_or(EMPTY))
}

fn append(db: &Transaction<'_>, closes: Option<i64>, body: &impl Serialize) -> Result<i64, StoreError> {
    let body = serde_json::to_string(body)
        .map_err(|e| StoreError::Damaged(format!("an audit record cannot be written as JSON: {e}")))?;
    let previous = head(db)?;
    let seq = previous.seq + 1;
    let at = Timestamp::now().as_microsecond();
    let hash = hash(&previous.hash, seq, at, closes, &body);
    db.execute(
        "INSERT INTO audit (seq, at, closes, body, prev_hash, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (seq, at, closes, body, previous.hash, hash),
    )
    .doing("write the audit record")?;
    Ok(seq)
}

impl Store {
    /// Opens the record of a request, before anything is done for it. Its number closes it.
    pub fn audit_open(&self, opening: &AuditOpening) -> Result<i64, StoreError> {
        self.write("write the audit record", |db| append(db, None, opening))
    }

    /// Closes a record. Once: a second closing is an error.
    pub fn audit_close(&self, seq: i64, closing: &AuditClosing) -> Result<(), StoreError> {
        self.write("write the audit record", |db| {
            let is_open: bool = db
                .query_row(
                    "SELECT EXISTS (SELECT 1 FROM audit WHERE seq = ?1 AND closes IS NULL)
                        AND NOT EXISTS (SELECT 1 FROM audit WHERE closes = ?1)",
                    [seq],
                    |row| row.get(0),
                )
                .doing("read the audit records")?;
            if !is_open {
                return Err(StoreError::Missing { what: "open audit record", id: seq.to_string() });
            }
            append(db, Some(seq), closing).map(|_| ())
        })
    }

    /// The records that nobody closed: at start, what the agent was doing when it died.
    pub fn audit_open_records(&self) -> Result<Vec<i64>, StoreError> {
        const DOING: &str = "read the audit records";
        let db = self.connection();
        let mut select = db
            .prepare(
                "SELECT seq FROM audit AS opened WHERE closes IS NULL
                 AND NOT EXISTS (SELECT 1 FROM audit WHERE closes = opened.seq) ORDER BY seq",
            )
            .doing(DOING)?;
        let rows = select.query_map([], |row| row.get(0)).doing(DOING)?;
        rows.collect::<Result<_, _>>().doing(DOING)
    }

    /// The newest records, newest first.
    pub fn audit_records(&self, limit: usize) -> Result<Vec<AuditRecord>, StoreError> {
        const DOING: &str = "read the audit records";
        type Row = (i64, i64, String, Option<i64>, Option<String>);
        let db = self.connection();
        let mut select = db
            .prepare(
                "SELECT opened.seq, opened.at, opened.body, closed.at, closed.body
                 FROM audit AS opened LEFT JOIN audit AS closed ON closed.closes = opened.seq
                 WHERE opened.closes IS NULL ORDER BY opened.seq DESC LIMIT ?1",
            )
            .doing(DOING)?;
        let rows = select
            .query_map([i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
                let row: Row = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
                Ok(row)
            })
            .doing(DOING)?;
        rows.map(|row| {
            let (seq, opened_at, opening, closed_at, closing) = row.doing(DOING)?;
            let damaged = |e| StoreError::Damaged(format!("audit record {seq}: {e}"));
            let closed = match (closed_at, closing) {
                (Some(at), Some(body)) => Some((time(at)?, serde_json::from_str(&body).map_err(damaged)?)),
                _ => None,
            };
            Ok(AuditRecord {
                seq,
                opened_at: time(opened_at)?,
                opening: serde_json::from_str(&opening).map_err(damaged)?,
                closed,
            })
        })
        .collect()
    }

    /// Follows the whole chain. [`StoreError::Damaged`] names the first row that was altered, removed or put elsewhere.
    /// Rows cut off the end are found only against a head that was kept: `since`.
    pub fn audit_verify(&self, since: Option<AuditHead>) -> Result<AuditHead, StoreError> {
        const DOING: &str = "read the audit records";
        let broken = |seq: i64, why: &str| StoreError::Damaged(format!("audit record {seq} {why}"));
        let since = since.unwrap_or(EMPTY);
        let db = self.connection();
        let mut select = db.prepare("SELECT seq, at, closes, body, prev_hash, hash FROM audit ORDER BY seq").doing(DOING)?;
        let mut rows = select.query([]).doing(DOING)?;
        let mut last = EMPTY;
        let mut met_since = since == EMPTY;
        while let Some(row) = rows.next().doing(DOING)? {
            let seq: i64 = row.get(0).doing(DOING)?;
            if seq != last.seq + 1 {
                return Err(broken(last.seq + 1, "was removed"));
            }
            let at = row.get(1).doing(DOING)?;
            let closes = row.get(2).doing(DOING)?;
            let body: String = row.get(3).doing(DOING)?;
            let previous: [u8; 32] = row.get(4).doing(DOING)?;
            let stored: [u8; 32] = row.get(5).doing(DOING)?;
            if previous != last.hash {
                return Err(broken(seq, "does not follow the one before it"));
            }
            if stored != hash(&previous, seq, at, closes, &body) {
                return Err(broken(seq, "was altered"));
            }
            last = AuditHead { seq, hash: stored };
            met_since |= last == since;
        }
        if !met_since {
            return Err(broken(since.seq, "is not the one that was kept: the records up to it were rewritten or cut off"));
        }
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
    use super::*;

    fn fresh() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state/state.db")).unwrap();
        (dir, store)
    }

    fn opening(n: u32) -> AuditOpening {
        AuditOpening {
            principal: Some("alice".to_owned()),
            key: Some("SHA256:abc".to_owned()),
            peer_uid: n,
            peer_pid: 42,
            from: Some("2001:db8::7".parse().unwrap()),
            request: Some(format!("{n:032x}")),
            operation: Some(Operation::Diagnose {
                address: "203.0.113.7".parse().unwrap(),
                user: None,
                port: None,
                explain: false,
            }),
            mode: Some(Mode::Apply { plan: Some("sha256:00".to_owned()) }),
            reason: Some("locked out".to_owned()),
        }
    }

    fn closing(outcome: Outcome) -> AuditClosing {
        AuditClosing { outcome, detail: "because".to_owned(), plan: Some("sha256:00".to_owned()), change: None }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written_also_after_a_restart() {
        let (_dir, store) = fresh();
        let first = store.audit_open(&opening(1)).unwrap();
        let second = store.audit_open(&AuditOpening::default()).unwrap();
        store.audit_close(first, &closing(Outcome::Confirmed)).unwrap();
        let path = store.path().to_owned();
        drop(store);
        let store = Store::open(&path).unwrap();
        let records = store.audit_records(10).unwrap();
        assert_eq!(records.iter().map(|r| r.seq).collect::<Vec<_>>(), [second, first]);
        assert_eq!(records[1].opening, opening(1));
        assert_eq!(records[1].closed.as_ref().unwrap().1, closing(Outcome::Confirmed));
        assert!(records[0].closed.is_none());
        assert_eq!(store.audit_open_records().unwrap(), [second]);
        store.audit_close(second, &closing(Outcome::Interrupted)).unwrap();
        assert!(store.audit_open_records().unwrap().is_empty());
        assert_eq!(store.audit_verify(None).unwrap().seq, 4);
    }

    #[test]
    fn a_record_is_closed_once_and_never_edited() {
        let (_dir, store) = fresh();
        let seq = store.audit_open(&opening(1)).unwrap();
        store.audit_close(seq, &closing(Outcome::Refused)).unwrap();
        assert!(matches!(store.audit_close(seq, &closing(Outcome::Confirmed)), Err(StoreError::Missing { .. })));
        assert!(matches!(store.audit_close(seq + 1, &closing(Outcome::Confirmed)), Err(StoreError::Missing { .. })), "a closing");
        assert!(matches!(store.audit_close(99, &closing(Outcome::Confirmed)), Err(StoreError::Missing { .. })));
        let db = store.connection();
        assert!(db.execute("UPDATE audit SET body = '{}'", []).is_err());
        assert!(db.execute("DELETE FROM audit", []).is_err());
    }

    #[test]
    fn every_tampering_with_a_single_record_is_found() {
        let (_dir, store) = fresh();
        for n in 0..20 {
            let seq = store.audit_open(&opening(n)).unwrap();
            store.audit_close(seq, &closing(Outcome::Answered)).unwrap();
        }
        let kept = store.audit_verify(None).unwrap();
        store.audit_open(&opening(99)).unwrap();
        let head = store.audit_verify(Some(kept)).unwrap();
        assert_eq!(head.seq, 41);
        store
            .connection()
            .execute_batch(
                "DROP TRIGGER audit_is_never_edited; DROP TRIGGER audit_is_never_cut; PRAGMA foreign_keys = OFF;
                 CREATE TABLE honest AS SELECT * FROM audit",
            )
            .unwrap();
        let mut tried = 0;
        for seq in 1..=41 {
            for tampering in [
                "UPDATE audit SET body = replace(body, 'a', 'b') WHERE seq = ?1",
                "UPDATE audit SET at = at + 1 WHERE seq = ?1",
                "UPDATE audit SET closes = iif(closes IS NULL, 1000, NULL) WHERE seq = ?1",
                "UPDATE audit SET hash = zeroblob(32) WHERE seq = ?1",
                "UPDATE audit SET prev_hash = x'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff' WHERE seq = ?1",
                "UPDATE audit SET seq = seq + 1000 WHERE seq = ?1",
                "DELETE FROM audit WHERE seq = ?1",
                "DELETE FROM audit WHERE seq >= ?1",
            ] {
                let mut db = store.connection();
                let transaction = db.transaction().unwrap();
                assert!(transaction.execute(tampering, [seq]).unwrap() > 0, "{tampering} {seq}");
                transaction.commit().unwrap();
                drop(db);
                let found = store.audit_verify(Some(head));
                assert!(matches!(found, Err(StoreError::Damaged(_))), "{tampering} {seq}: {found:?}");
                restore(&store, &head);
                tried += 1;
            }
        }
        assert_eq!(tried, 41 * 8);
    }

    /// Writes the honest chain again.
    fn restore(store: &Store, head: &AuditHead) {
        store.connection().execute_batch("DELETE FROM audit; INSERT INTO audit SELECT * FROM honest").unwrap();
        assert_eq!(&store.audit_verify(None).unwrap(), head);
    }
}
