//! Audit records, for people: who asked what, from where, and what became of it. Opened before anything is done, closed
//! after, never edited: each row's hash covers the row before it. Recovery reads the journal in `store`, not this.

mod keep;
mod rates;
mod refusals;
mod sum_up;
mod verify;

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sshfix_policy::reply::audit::{Audit, AuditSchema, Checkpoint, Record};
use sshfix_policy::reply::summary::Counted;
use sshfix_policy::request::audit::Filter;
use sshfix_policy::request::{Mode, Operation};

use crate::store::{Doing, Durable, Purpose, Store, StoreError, time};

pub use keep::{AuditError, Auditor, CHECKPOINT_EVERY, INTERVAL, verify_offline};
pub use rates::{BURST, EVERY, Rates};
pub use refusals::Refusals;
pub use sshfix_policy::request::audit::Outcome;
pub use verify::{Given, verify};

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
    /// The address the person came in from, as the signed request claims; nobody has checked it.
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
    /// What the agent does where nobody asked: the end of a lease, refusals counted together. By its first name in state.db, whose records are
    /// signed as they are.
    #[serde(rename = "of_itself", default, skip_serializing_if = "Option::is_none")]
    pub automatic: Option<String>,
}

impl AuditOpening {
    /// Of something that the agent does where nobody asked.
    pub fn automatic(what: impl Into<String>) -> Self {
        Self { automatic: Some(what.into()), ..Self::default() }
    }

    fn purpose(&self) -> Purpose {
        match (&self.automatic, &self.operation, &self.mode) {
            (Some(_), _, _) => Purpose::Decision,
            (None, Some(operation), Some(mode)) => purpose(operation, mode),
            (None, _, _) => Purpose::Question,
        }
    }
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

fn append(db: &Transaction<'_>, closes: Option<i64>, body: &impl Serialize) -> Result<AuditHead, StoreError> {
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
    Ok(AuditHead { seq, hash })
}

/// The newest signed head: its record, and when it was signed.
type Newest = Option<(i64, Timestamp)>;

/// Most bytes of records in one answer: a part of the largest reply frame.
const MOST_BYTES: usize = 8 << 20;

/// What a request needs room for.
pub fn purpose(operation: &Operation, mode: &Mode) -> Purpose {
    match (operation, mode) {
        (Operation::Decision(_), _) => Purpose::Decision,
        (Operation::Intent(_), Mode::Apply { .. }) => Purpose::Change,
        (Operation::Intent(_), Mode::DryRun) | (Operation::Query(_) | Operation::Records(_), _) => Purpose::Question,
    }
}

impl Store {
    /// Opens the record of a request, before anything is done for it. Its number closes it.
    pub fn audit_open(&self, opening: &AuditOpening) -> Result<AuditHead, StoreError> {
        self.write_for(opening.purpose(), "write the audit record", |db| append(db, None, opening))
    }

    /// Closes a record. Once: a second closing is an error.
    pub fn audit_close(&self, seq: i64, closing: &AuditClosing) -> Result<AuditHead, StoreError> {
        // What was done is on the disk with its end; that nothing was done needs to be no more than its beginning is.
        let durable = match closing.outcome {
            Outcome::Answered | Outcome::Refused => Durable::Later,
            Outcome::NotApplied
            | Outcome::Unchanged
            | Outcome::Failed
            | Outcome::Confirmed
            | Outcome::Pending
            | Outcome::RolledBack
            | Outcome::Stuck
            | Outcome::Abandoned
            | Outcome::Interrupted => Durable::AtOnce,
        };
        self.write_durably(durable, Purpose::Decision, "write the audit record", |db| {
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
            append(db, Some(seq), closing)
        })
    }

    /// The end of the chain as it is now.
    pub fn audit_head(&self) -> Result<AuditHead, StoreError> {
        head(&self.connection())
    }

    /// The newest signed head that is stored.
    pub fn audit_newest_checkpoint(&self) -> Result<Newest, StoreError> {
        let newest: Option<(i64, i64)> = self
            .connection()
            .query_row("SELECT seq, at FROM audit_checkpoints ORDER BY seq DESC LIMIT 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()
            .doing("read the audit checkpoints")?;
        newest.map(|(seq, at)| Ok((seq, time(at)?))).transpose()
    }

    /// Stores a signed head.
    pub fn audit_keep_checkpoint(&self, checkpoint: &Checkpoint, signature: &[u8]) -> Result<(), StoreError> {
        const DOING: &str = "write the audit checkpoint";
        let (at, signature) = (checkpoint.at.as_microsecond(), STANDARD.encode(signature));
        self.write(DOING, |db| {
            db.execute(
                "INSERT OR REPLACE INTO audit_checkpoints (seq, at, hash, signature) VALUES (?1, ?2, ?3, ?4)",
                (checkpoint.record, at, checkpoint.hash, &signature),
            )
            .doing(DOING)?;
            Ok(())
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

    /// The records that fit, newest first. Reads beside the agent's own connection, so that nobody waits for a long search.
    pub fn audit_search(&self, filter: &Filter) -> Result<Audit, StoreError> {
        const DOING: &str = "read the audit records";
        let store = Store::inspect(self.path())?;
        let db = store.connection();
        let mut select = db
            .prepare(
                "SELECT opened.seq, opened.at, opened.body, closed.at, closed.body
                 FROM audit AS opened LEFT JOIN audit AS closed ON closed.closes = opened.seq
                 WHERE opened.closes IS NULL ORDER BY opened.seq DESC",
            )
            .doing(DOING)?;
        let mut rows = select.query([]).doing(DOING)?;
        let mut found = Audit { schema: AuditSchema::V1, records: Vec::new(), others: 0, more: false, notes: Vec::new() };
        let (mut bytes, mut unread) = (0, 0_usize);
        while let Some(row) = rows.next().doing(DOING)? {
            let (opening, closing): (String, Option<String>) = (row.get(2).doing(DOING)?, row.get(4).doing(DOING)?);
            let opened: (i64, i64) = (row.get(0).doing(DOING)?, row.get(1).doing(DOING)?);
            let closed = closing.as_deref().zip(row.get(3).doing(DOING)?);
            // One that cannot be read (written by a later version, or altered) does not hide the others.
            let Ok(record) = read(opened, &opening, closed) else {
                unread += 1;
                continue;
            };
            if !filter.fits(&record) {
                continue;
            }
            bytes += opening.len() + closing.as_ref().map_or(0, String::len);
            if found.records.len() == filter.most() || bytes > MOST_BYTES {
                found.more = true;
                break;
            }
            found.records.push(record);
        }
        if !found.more {
            let summed = summed_up(&db)?;
            let old = format!("{summed} older records of questions were summed up: they are counted, not listed");
            found.notes.extend((summed > 0).then_some(old));
        }
        if unread > 0 {
            found
                .notes
                .push(format!("{unread} records could not be read: `sshfix ctl audit verify` reports whether they were altered"));
        }
        Ok(found)
    }
}

/// How many requests are summed up.
fn summed_up(db: &Connection) -> Result<u64, StoreError> {
    const DOING: &str = "read the sums of audit records";
    let mut select = db.prepare("SELECT body FROM audit_summed").doing(DOING)?;
    let bodies = select.query_map([], |row| row.get::<_, String>(0)).doing(DOING)?;
    bodies.map(|body| Ok(serde_json::from_str::<Counted>(&body.doing(DOING)?).map_or(0, |counted| counted.requests))).sum()
}

/// A record from its two rows.
fn read((seq, opened_at): (i64, i64), opening: &str, closed: Option<(&str, i64)>) -> Result<Record, StoreError> {
    let damaged = |e| StoreError::Damaged(format!("audit record {seq}: {e}"));
    let opening: AuditOpening = serde_json::from_str(opening).map_err(damaged)?;
    let (closed_at, closing) = match closed {
        Some((body, at)) => (Some(time(at)?), Some(serde_json::from_str::<AuditClosing>(body).map_err(damaged)?)),
        None => (None, None),
    };
    let asked = opening.automatic.is_none();
    let mut record = Record {
        record: seq,
        opened_at: time(opened_at)?,
        closed_at,
        principal: opening.principal,
        key: opening.key,
        peer_uid: asked.then_some(opening.peer_uid),
        peer_pid: asked.then_some(opening.peer_pid),
        from: opening.from,
        claimed_from: opening.from,
        request: opening.request,
        action: opening.operation.as_ref().map(Operation::action),
        operation: opening.operation,
        mode: opening.mode,
        reason: opening.reason,
        automatic: opening.automatic,
        outcome: None,
        detail: String::new(),
        plan: None,
        change: None,
    };
    if let Some(AuditClosing { outcome, detail, plan, change }) = closing {
        (record.outcome, record.detail, record.plan, record.change) = (Some(outcome), detail, plan, change);
    }
    Ok(record)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
