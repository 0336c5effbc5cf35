//! Keeps the audit records of a running agent: every one also goes to the journal, heads of the chain are signed now and then,
//! what could not be closed is closed later. Must not decide what a record says.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sshfix_policy::reply::audit::{Checkpoint, CheckpointDocument, CheckpointError, Verification, hex};
use sshfix_policy::ssh::public_key::PublicKey;

use super::{AuditClosing, AuditHead, AuditOpening, EMPTY, Given, Outcome, Rates, Refusals, verify};
use crate::identity::{Identity, IdentityError};
use crate::store::{Store, StoreError};

/// A checkpoint is made when so many records follow the last one,
pub const CHECKPOINT_EVERY: i64 = 200;
/// or when it is so old.
const CHECKPOINT_AGE: SignedDuration = SignedDuration::from_hours(24);
/// So many old records are worth summing up.
const ENOUGH: i64 = 1000;
/// Records younger than this are never summed up.
const YOUNGEST: SignedDuration = SignedDuration::from_hours(24);
/// The longest detail of a record, in bytes.
const MAX_DETAIL: usize = 4096;
/// How often the clock is looked at.
pub const INTERVAL: Duration = Duration::from_mins(1);

/// Why there is no checkpoint, or no verification.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// state.db.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host's key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What was given is no checkpoint of this host.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// The audit side of a running agent.
#[derive(Debug, Default)]
pub struct Auditor {
    /// Which refusals get a record of their own,
    pub refusals: Refusals,
    /// and which requests of those who may ask.
    pub rates: Rates,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last record this agent wrote.
    written: Option<AuditHead>,
    /// What could not be closed when it was over (disk full).
    unclosed: Vec<(i64, AuditClosing)>,
    /// How far old records were looked at.
    looked_at: i64,
}

impl Auditor {
    /// Opens a record. If this fails, nothing may be done.
    pub fn open(&self, store: &Store, opening: &AuditOpening) -> Result<i64, StoreError> {
        let head = store.audit_open(opening)?;
        self.wrote(head);
        export_opening(head, opening);
        Ok(head.seq)
    }

    /// Closes a record, and signs the head of the chain when it is time. What fails is tried again later.
    pub fn close(&self, store: &Store, identity: &Identity, opening: &AuditOpening, seq: i64, mut closing: AuditClosing) {
        shorten(&mut closing.detail);
        match store.audit_close(seq, &closing) {
            Ok(head) => {
                self.wrote(head);
                export_closing(head, seq, opening, &closing);
                if let Err(error) = self.checkpoint_if_due(store, identity) {
                    tracing::error!("cannot sign the audit records; retrying: {error}");
                }
            }
            Err(error) => {
                tracing::error!(seq, "cannot close the audit record; retrying: {error}");
                self.lock().unclosed.push((seq, closing));
            }
        }
    }

    /// Says in the journal what is done without a record, which only the database lacks.
    pub fn unrecorded(&self, opening: &AuditOpening, why: &StoreError) {
        tracing::error!(
            target: "sshfix_audit",
            principal = opening.principal.as_deref(),
            peer_uid = opening.peer_uid,
            "not in the audit records: {}: {why}",
            subject(opening)
        );
    }

    /// Writes a record of what the agent does of itself, opened and closed at once.
    pub fn note(&self, store: &Store, identity: &Identity, what: String, outcome: Outcome) {
        let opening = AuditOpening::automatic(what);
        match self.open(store, &opening) {
            Ok(seq) => {
                let closing = AuditClosing { outcome, detail: String::new(), plan: None, change: None };
                self.close(store, identity, &opening, seq, closing);
            }
            Err(error) => tracing::error!("an audit record could not be written: {error}"),
        }
    }

    /// What is to be done every [`INTERVAL`], and at the end.
    pub fn upkeep(&self, store: &Store, identity: &Identity) {
        let unclosed = std::mem::take(&mut self.lock().unclosed);
        for (seq, closing) in unclosed {
            self.close(store, identity, &AuditOpening::default(), seq, closing);
        }
        if let Some(summary) = self.refusals.take_summary() {
            self.note(store, identity, summary, Outcome::Refused);
        }
        if let Some(summary) = self.rates.take_summary() {
            self.note(store, identity, summary, Outcome::Unchanged);
        }
        if let Err(error) = self.checkpoint_if_due(store, identity) {
            tracing::error!("cannot sign the audit records; retrying: {error}");
        }
        if let Err(error) = store.settle() {
            tracing::error!("the newest records of questions are not on the disk yet; retrying: {error}");
        }
    }

    /// Sums up the records of questions that are older than this, once there are enough of them.
    pub fn sum_up(&self, store: &Store, identity: &Identity, age: SignedDuration) {
        // What is newer makes state.db too large to keep the others.
        let age = if store.is_half_full().unwrap_or(false) { age.min(YOUNGEST) } else { age };
        let before = Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN).as_microsecond();
        let after = self.lock().looked_at;
        let summed = store.audit_old_records(after, before).and_then(|old| {
            if old < ENOUGH {
                return Ok(None);
            }
            store.audit_sum_up(identity.fingerprint(), after, before, |summary| identity.sign_summary(summary)).map(Some)
        });
        match summed {
            Ok(None) => {}
            Ok(Some(summed)) => {
                self.lock().looked_at = summed.looked_at;
                if summed.requests > 0 {
                    let what = format!("{} records of questions older than {age:#} were summed up", summed.requests);
                    self.note(store, identity, what, Outcome::Unchanged);
                }
            }
            Err(error) => tracing::error!("cannot sum up old audit records; retrying: {error}"),
        }
    }

    /// The last look at an end: counts are written down and the head is signed.
    pub fn end(&self, store: &Store, identity: &Identity) {
        self.upkeep(store, identity);
        let signed = store.audit_head().map_err(AuditError::from).and_then(|head| {
            let newest = store.audit_newest_checkpoint()?;
            let unsigned = head != EMPTY && newest.is_none_or(|(seq, _)| seq < head.seq);
            if unsigned { self.checkpoint(store, identity).map(|_| ()) } else { Ok(()) }
        });
        if let Err(error) = signed {
            tracing::error!("the audit records could not be signed: {error}");
        }
    }

    fn checkpoint_if_due(&self, store: &Store, identity: &Identity) -> Result<(), AuditError> {
        let head = store.audit_head()?;
        let newest = store.audit_newest_checkpoint()?;
        let due = newest.is_none_or(|(seq, at)| {
            head.seq - seq >= CHECKPOINT_EVERY || (head.seq > seq && Timestamp::now().duration_since(at).abs() > CHECKPOINT_AGE)
        });
        if due && head != EMPTY { self.checkpoint(store, identity).map(|_| ()) } else { Ok(()) }
    }

    /// Signs the head of the chain as it is now and keeps it, also in the journal.
    pub fn checkpoint(&self, store: &Store, identity: &Identity) -> Result<CheckpointDocument, AuditError> {
        let AuditHead { seq, hash } = store.audit_head()?;
        // As it is stored: microseconds.
        let now = Timestamp::now().as_microsecond();
        let at = Timestamp::from_microsecond(now).unwrap_or_default();
        let checkpoint = Checkpoint { host: identity.fingerprint().to_owned(), at, record: seq, hash };
        let signature = identity.sign_checkpoint(&checkpoint)?;
        store.audit_keep_checkpoint(&checkpoint, &signature)?;
        tracing::info!(
            target: "sshfix_audit",
            audit_seq = seq,
            audit_hash = hex(&hash),
            audit_checkpoint = checkpoint.text(&signature),
            "audit checkpoint: records up to {seq} are signed"
        );
        Ok(checkpoint.document(&signature))
    }

    /// Follows the whole chain, also against a checkpoint that was kept elsewhere.
    pub fn verify(&self, store: &Store, identity: &Identity, kept: Option<&str>) -> Result<Verification, AuditError> {
        let key = identity.public_key()?;
        let kept = kept.map(|text| Checkpoint::read(text, &key)).transpose()?;
        let written = self.lock().written;
        Ok(verify(store.path(), Some(&key), Given { checkpoints: kept.as_slice(), written })?)
    }

    fn wrote(&self, head: AuditHead) {
        let mut state = self.lock();
        if state.written.is_none_or(|last| last.seq < head.seq) {
            state.written = Some(head);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A record holds no more of a text than this: others may have made it long.
fn shorten(text: &mut String) {
    if text.len() > MAX_DETAIL {
        text.truncate(text.floor_char_boundary(MAX_DETAIL));
        text.push_str(" [...]");
    }
}

/// `sshfix-agent audit-verify`: the same without an agent, on this host's database or on a copy of one.
pub fn verify_offline(state: &Path, key: &PublicKey, kept: &[PathBuf]) -> Result<Verification, String> {
    let mut checkpoints = Vec::new();
    for file in kept {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        checkpoints.push(Checkpoint::read(&text, key).map_err(|error| format!("{}: {error}", file.display()))?);
    }
    verify(state, Some(key), Given { checkpoints: &checkpoints, written: None }).map_err(|error| error.to_string())
}

/// One line in the journal when a record is opened, with the hash, so that a journal kept elsewhere vouches for the chain.
fn export_opening(head: AuditHead, opening: &AuditOpening) {
    let AuditOpening { principal, key, peer_uid, from, request, operation, reason, automatic, .. } = opening;
    tracing::info!(
        target: "sshfix_audit",
        audit_seq = head.seq,
        audit_hash = hex(&head.hash),
        principal = principal.as_deref(),
        key = key.as_deref(),
        peer_uid,
        from = from.map(|from| from.to_string()),
        request = request.as_deref(),
        action = operation.as_ref().map(|operation| operation.action().to_string()),
        operation = operation.as_ref().and_then(|operation| serde_json::to_string(operation).ok()),
        reason = reason.as_deref(),
        automatic = automatic.as_deref(),
        "audit {}: {}",
        head.seq,
        subject(opening)
    );
}

/// The same when it is closed, with what became of it.
fn export_closing(head: AuditHead, seq: i64, opening: &AuditOpening, closing: &AuditClosing) {
    let AuditClosing { outcome, detail, plan, change } = closing;
    tracing::info!(
        target: "sshfix_audit",
        audit_seq = head.seq,
        audit_closes = seq,
        audit_hash = hex(&head.hash),
        principal = opening.principal.as_deref(),
        key = opening.key.as_deref(),
        action = opening.operation.as_ref().map(|operation| operation.action().to_string()),
        outcome = outcome.name(),
        detail = detail.as_str(),
        plan = plan.as_deref(),
        change = change.as_deref(),
        "audit {seq}: {}: {}{}",
        subject(opening),
        outcome.name(),
        if detail.is_empty() { String::new() } else { format!(": {}", detail.escape_debug()) }
    );
}

/// `alice: unban 203.0.113.7`; what comes from outside is escaped.
fn subject(opening: &AuditOpening) -> String {
    if let Some(what) = &opening.automatic {
        return what.clone();
    }
    let Some(operation) = &opening.operation else { return format!("a request of uid {}", opening.peer_uid) };
    let who = opening.principal.as_deref().unwrap_or("somebody").escape_debug();
    let about = operation.source().map_or_else(String::new, |source| format!(" {}", source.short()));
    format!("{who}: {}{about}", operation.action())
}
