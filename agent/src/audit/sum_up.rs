//! Sums up old records of questions, so that state.db does not grow for ever: what only asked and was answered. Records of changes, of
//! refusals and of what the agent did by itself stay, and so does each that a checkpoint vouches for. The chain still verifies. Must not
//! decide when.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rusqlite::Connection;
use sshfix_policy::reply::summary::{Counted, Summary};
use sshfix_policy::request::{Mode, Operation};

use super::{AuditClosing, AuditOpening, Outcome};
use crate::store::{Doing, Purpose, Store, StoreError};

const DOING: &str = "sum up audit records";
/// Records that are looked at in one go: the one writer of state.db waits meanwhile.
const AT_ONCE: usize = 4000;
/// Fewer in a row are left: their summary would be as long.
const FEWEST: usize = 8;
/// Signers that a summary names.
const NAMED: usize = 10;

/// How far it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SummedUp {
    /// Requests whose records are gone.
    pub requests: u64,
    /// The last record that was looked at.
    pub looked_at: i64,
    /// Whether there are more that are old enough.
    pub more: bool,
}

/// A record as it is looked at.
struct Old {
    at: i64,
    previous: [u8; 32],
    hash: [u8; 32],
    /// Of an opening: who asked, where it was no more than a question.
    asked: Option<String>,
    /// Of a closing: which it closes, where it says no more than an answer.
    answers: Option<i64>,
}

impl Store {
    /// Sums up what is older than `before` (microseconds since 1970) behind record `after`; `sign` gives the host's signature.
    pub fn audit_sum_up<E: std::fmt::Display>(
        &self,
        host: &str,
        after: i64,
        before: i64,
        sign: impl Fn(&Summary) -> Result<Vec<u8>, E>,
    ) -> Result<SummedUp, StoreError> {
        let old = old_records(&self.connection(), after, before)?;
        let Some(looked_at) = old.keys().next_back().copied() else {
            return Ok(SummedUp { looked_at: after, ..SummedUp::default() });
        };
        let runs = runs(&old);
        let mut summed = SummedUp { requests: 0, looked_at, more: old.len() == AT_ONCE };
        let mut summaries = Vec::new();
        for run in &runs {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let (Some(begin), Some(end)) = (old.get(first), old.get(last)) else { continue };
            let counted = counted(run.iter().filter_map(|seq| old.get(seq)));
            summed.requests += counted.requests;
            let body = serde_json::to_string(&counted).map_err(|error| StoreError::Damaged(error.to_string()))?;
            let summary =
                Summary { host: host.to_owned(), first: *first, last: *last, before: begin.previous, hash: end.hash, body };
            let signature = sign(&summary).map_err(|error| StoreError::Damaged(format!("a summary was not signed: {error}")))?;
            summaries.push((summary, STANDARD.encode(signature)));
        }
        self.write_for(Purpose::Decision, DOING, |db| {
            // An opening and its closing go in runs of their own.
            db.pragma_update(None, "defer_foreign_keys", true).doing(DOING)?;
            for (summary, signature) in &summaries {
                let Summary { first, last, before, hash, body, .. } = summary;
                db.execute(
                    "INSERT INTO audit_summed (first, last, before, hash, body, signature) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    (first, last, before, hash, body, signature),
                )
                .doing(DOING)?;
                db.execute("DELETE FROM audit WHERE seq BETWEEN ?1 AND ?2", (first, last)).doing(DOING)?;
            }
            Ok(())
        })?;
        Ok(summed)
    }
}

impl Store {
    /// How many records there are behind `after` that are older than `before`.
    pub fn audit_old_records(&self, after: i64, before: i64) -> Result<i64, StoreError> {
        let count = "SELECT count(*) FROM audit WHERE seq > ?1 AND at < ?2";
        self.connection().query_row(count, (after, before), |row| row.get(0)).doing("count old audit records")
    }
}

fn old_records(db: &Connection, after: i64, before: i64) -> Result<BTreeMap<i64, Old>, StoreError> {
    let mut select = db
        .prepare(
            "SELECT seq, at, closes, body, prev_hash, hash, EXISTS (SELECT 1 FROM audit_checkpoints AS kept WHERE kept.seq = audit.seq)
             FROM audit WHERE seq > ?1 AND at < ?2 ORDER BY seq LIMIT ?3",
        )
        .doing(DOING)?;
    let limit = i64::try_from(AT_ONCE).unwrap_or(i64::MAX);
    let mut rows = select.query((after, before, limit)).doing(DOING)?;
    let mut old = BTreeMap::new();
    while let Some(row) = rows.next().doing(DOING)? {
        let (closes, body): (Option<i64>, String) = (row.get(2).doing(DOING)?, row.get(3).doing(DOING)?);
        let vouched_for: bool = row.get(6).doing(DOING)?;
        let (asked, answers) = match closes {
            _ if vouched_for => (None, None),
            None => (asked(&body), None),
            Some(closes) => (None, is_answer(&body).then_some(closes)),
        };
        let record = Old {
            at: row.get(1).doing(DOING)?,
            previous: row.get(4).doing(DOING)?,
            hash: row.get(5).doing(DOING)?,
            asked,
            answers,
        };
        old.insert(row.get(0).doing(DOING)?, record);
    }
    Ok(old)
}

/// Who asked, of a question. What cannot be read is none.
fn asked(body: &str) -> Option<String> {
    let opening: AuditOpening = serde_json::from_str(body).ok()?;
    let asks = match opening.operation? {
        Operation::Query(_) | Operation::Records(_) => true,
        Operation::Intent(_) => opening.mode == Some(Mode::DryRun),
        Operation::Decision(_) => false,
    };
    (asks && opening.automatic.is_none()).then(|| opening.principal.unwrap_or_default())
}

fn is_answer(body: &str) -> bool {
    let closing = serde_json::from_str::<AuditClosing>(body);
    closing.is_ok_and(|closing| {
        closing.change.is_none() && matches!(closing.outcome, Outcome::Answered | Outcome::Unchanged | Outcome::Failed)
    })
}

/// Runs of records that go: each in one piece, and with each record the one it belongs to.
fn runs(old: &BTreeMap<i64, Old>) -> Vec<Vec<i64>> {
    let mut partners = BTreeMap::new();
    for (seq, record) in old {
        if let Some(opened) = record.answers.filter(|opened| old.get(opened).is_some_and(|opening| opening.asked.is_some())) {
            partners.insert(*seq, opened);
            partners.insert(opened, *seq);
        }
    }
    let mut going: BTreeSet<i64> = partners.keys().copied().collect();
    loop {
        let mut runs: Vec<Vec<i64>> = Vec::new();
        for seq in &going {
            match runs.last_mut() {
                Some(run) if run.last() == Some(&(seq - 1)) => run.push(*seq),
                _ => runs.push(vec![*seq]),
            }
        }
        runs.retain(|run| run.len() >= FEWEST);
        let in_runs: BTreeSet<i64> = runs.iter().flatten().copied().collect();
        let whole = |seq: &i64| partners.get(seq).is_some_and(|partner| in_runs.contains(partner));
        let still: BTreeSet<i64> = in_runs.iter().filter(|seq| whole(seq)).copied().collect();
        if still == going {
            return runs;
        }
        going = still;
    }
}

fn counted<'a>(records: impl Iterator<Item = &'a Old> + Clone) -> Counted {
    let mut signers: BTreeMap<&str, u64> = BTreeMap::new();
    for name in records.clone().filter_map(|record| record.asked.as_deref()) {
        *signers.entry(name).or_default() += 1;
    }
    let requests = signers.values().sum();
    let mut signers: Vec<(String, u64)> = signers.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    signers.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let rest: u64 = signers.iter().skip(NAMED).map(|(_, count)| count).sum();
    signers.truncate(NAMED);
    if rest > 0 {
        signers.push((String::new(), rest));
    }
    let from = records.clone().map(|record| record.at).min().unwrap_or_default();
    Counted { requests, signers, from, until: records.map(|record| record.at).max().unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
    use std::path::PathBuf;

    use sshfix_policy::request::audit::Filter;
    use sshfix_policy::ssh::public_key::PublicKey;

    use super::super::tests::{closing, fresh, opening};
    use super::super::{Auditor, Given, verify};
    use super::*;
    use crate::identity::{self, Identity};
    use sshfix_policy::request::Intent;

    const NEVER: i64 = i64::MAX;

    fn identity(dir: &tempfile::TempDir) -> (Identity, PublicKey) {
        let path: PathBuf = dir.path().join("agent_ed25519");
        identity::save_private(&path, &identity::generate("").unwrap()).unwrap();
        let identity = Identity::load(&path).unwrap();
        let key = identity.public_key().unwrap();
        (identity, key)
    }

    fn question(n: u32) -> AuditOpening {
        AuditOpening { mode: Some(Mode::DryRun), ..opening(n) }
    }

    /// Thirty questions, a refusal, a change in the midst of more questions, and one that is still open.
    fn records(store: &Store) -> Vec<i64> {
        let ask = |n: u32, outcome: Outcome| {
            let seq = store.audit_open(&question(n)).unwrap().seq;
            store.audit_close(seq, &closing(outcome)).unwrap();
            seq
        };
        (0..30).for_each(|n| _ = ask(n, Outcome::Answered));
        let refused = ask(30, Outcome::Refused);
        (31..45).for_each(|n| _ = ask(n, Outcome::Answered));
        let unban = Operation::Intent(Intent::Unban {
            source: "203.0.113.7".parse().unwrap(),
            jail: None,
            ignore_for: None,
            range: false,
        });
        let change = AuditOpening { operation: Some(unban), ..opening(45) };
        // Its questions come and go while it is made.
        let changed = store.audit_open(&change).unwrap().seq;
        (46..50).for_each(|n| _ = ask(n, Outcome::Answered));
        store.audit_close(changed, &closing(Outcome::Confirmed)).unwrap();
        vec![refused, changed, store.audit_open(&question(60)).unwrap().seq]
    }

    #[test]
    fn old_questions_are_summed_up_and_the_chain_still_verifies() {
        let (dir, store) = fresh();
        let (identity, key) = identity(&dir);
        let kept = records(&store);
        let checkpoint = Auditor::default().checkpoint(&store, &identity).unwrap().record;
        let sum = |after, before| {
            store.audit_sum_up(identity.fingerprint(), after, before, |summary| identity.sign_summary(summary)).unwrap()
        };
        assert_eq!(sum(0, 0).requests, 0, "nothing is that old");
        let summed = sum(0, NEVER);
        assert_eq!((summed.requests, summed.more), (48, false));
        assert_eq!(sum(0, NEVER).requests, 0, "nothing twice");
        let found = store.audit_search(&Filter { limit: Some(1000), ..Filter::default() }).unwrap();
        let left: Vec<i64> = found.records.iter().rev().map(|record| record.record).collect();
        assert_eq!(left, kept);
        assert!(found.notes.iter().any(|note| note.starts_with("48 older records of questions")), "{:?}", found.notes);
        let look = |key| verify(store.path(), key, Given::default()).unwrap();
        let whole = look(Some(&key));
        assert!(whole.intact && whole.notes.iter().any(|note| note.contains("summed up")), "{whole:?}");
        assert!(look(None).intact, "as far as one can see without the key");
        // And goes on.
        let next = store.audit_open(&question(70)).unwrap().seq;
        store.audit_close(next, &closing(Outcome::Answered)).unwrap();
        assert!(look(Some(&key)).intact && checkpoint < next);
    }

    #[test]
    fn nobody_but_the_host_can_sum_up_and_nothing_else_can_be_cut() {
        let (dir, store) = fresh();
        let (identity, key) = identity(&dir);
        records(&store);
        store.audit_sum_up(identity.fingerprint(), 0, NEVER, |summary| identity.sign_summary(summary)).unwrap();
        let look = || verify(store.path(), Some(&key), Given::default()).unwrap();
        assert!(look().intact);
        for cut in ["DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)", "DELETE FROM audit"] {
            assert!(store.connection().execute(cut, []).is_err(), "{cut}");
        }
        let tamper = |statement: &str| {
            assert!(store.connection().execute(statement, []).unwrap() > 0, "{statement}");
            look()
        };
        let altered = tamper("UPDATE audit_summed SET body = replace(body, '\"requests\":30', '\"requests\":3') WHERE first = 1");
        assert!(!altered.intact && altered.problems[0].problem.contains("does not verify"), "{altered:?}");
        let removed = tamper("DELETE FROM audit_summed WHERE first = 1");
        assert!(!removed.intact && removed.problems[0].problem.contains("was removed"), "{removed:?}");
        // One that somebody else signed, for records that they removed.
        let (dir, store) = fresh();
        let (other, _) = self::identity(&dir);
        records(&store);
        store.audit_sum_up(identity.fingerprint(), 0, NEVER, |summary| other.sign_summary(summary)).unwrap();
        let forged = verify(store.path(), Some(&key), Given::default()).unwrap();
        assert!(!forged.intact, "{forged:?}");
    }
}
