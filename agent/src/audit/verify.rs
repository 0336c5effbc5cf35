//! Follows the whole chain of audit records and holds it against every signed head: which record was altered, removed, put
//! elsewhere or cut off. Only reads, so that it works beside a running agent, without one, and on a copy of state.db.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use sshfix_policy::reply::audit::{Checkpoint, Problem, Verification, VerificationSchema, hex};
use sshfix_policy::reply::summary::{Counted, Summary};
use sshfix_policy::ssh::public_key::PublicKey;

use super::{AuditHead, EMPTY, hash};
use crate::store::{Doing, Store, StoreError, time};

/// Problems that are listed; the first is the one that counts.
const MOST_PROBLEMS: usize = 100;
const DOING: &str = "read the audit records";

/// What the chain is held against besides the checkpoints that are stored beside it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// Older signed heads that were kept elsewhere, already believed.
    pub checkpoints: &'a [Checkpoint],
    /// The last record that the running agent itself wrote.
    pub written: Option<AuditHead>,
}

/// A head that must be in the chain.
struct Anchor {
    hash: [u8; 32],
    /// Who says so, as a part of a sentence.
    who: String,
}

/// Follows the chain in this database; without the host's key the stored checkpoints prove nothing. The error is that it cannot
/// be read at all; what is wrong in it is in the answer.
pub fn verify(path: &Path, key: Option<&PublicKey>, given: Given<'_>) -> Result<Verification, StoreError> {
    let store = Store::inspect(path)?;
    let mut db = store.connection();
    // One moment for both tables.
    let db = db.transaction().doing(DOING)?;
    let mut found = Findings::default();
    let (anchors, stored) = anchors(&db, key, &given, &mut found)?;
    let sums = sums(&db, key, &mut found)?;
    let (last, first_at, last_at, records) = follow(&db, &anchors, &sums, &mut found)?;
    for (seq, of_seq) in anchors.range(last.seq + 1..) {
        for anchor in of_seq {
            let cut = format!("was removed, as were all up to it from {} on: {}", last.seq + 1, anchor.who);
            found.problem(*seq, &cut);
        }
    }
    if found.more > 0 {
        found.notes.push(format!("{} more problems are not listed", found.more));
    }
    found.problems.sort_by_key(|problem| problem.record);
    Ok(Verification {
        schema: VerificationSchema::V1,
        intact: found.problems.is_empty(),
        records,
        first_at: first_at.map(time).transpose().unwrap_or_default(),
        last_at: last_at.map(time).transpose().unwrap_or_default(),
        head: hex(&last.hash),
        checkpoints: stored,
        problems: found.problems,
        notes: found.notes,
    })
}

#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
    more: usize,
    notes: Vec<String>,
}

impl Findings {
    fn problem(&mut self, record: i64, what: &str) {
        if self.problems.len() == MOST_PROBLEMS {
            self.more += 1;
            return;
        }
        self.problems.push(Problem { record, problem: format!("record {record} {what}") });
    }
}

/// Every head that is vouched for, by record, and how many of the stored checkpoints hold.
fn anchors(
    db: &Connection,
    key: Option<&PublicKey>,
    given: &Given<'_>,
    found: &mut Findings,
) -> Result<(BTreeMap<i64, Vec<Anchor>>, usize), StoreError> {
    let mut anchors: BTreeMap<i64, Vec<Anchor>> = BTreeMap::new();
    for checkpoint in given.checkpoints {
        let who = format!("the checkpoint that was given, signed at {}, says so", checkpoint.at);
        anchors.entry(checkpoint.record).or_default().push(Anchor { hash: checkpoint.hash, who });
    }
    if let Some(AuditHead { seq, hash }) = given.written.filter(|head| head.seq > 0) {
        anchors.entry(seq).or_default().push(Anchor { hash, who: "the running agent wrote it and says so".to_owned() });
    }
    let Some(key) = key else {
        found.notes.push("the stored checkpoints were not checked: that needs the host's key".to_owned());
        return Ok((anchors, 0));
    };
    let mut select = db.prepare("SELECT seq, at, hash, signature FROM audit_checkpoints ORDER BY seq").doing(DOING)?;
    let mut rows = select.query([]).doing(DOING)?;
    let (mut held, mut others) = (0, 0_usize);
    while let Some(row) = rows.next().doing(DOING)? {
        let seq: i64 = row.get(0).doing(DOING)?;
        let stored = (|| {
            let at = time(row.get(1).ok()?).ok()?;
            Some(Checkpoint { host: key.fingerprint(), at, record: seq, hash: row.get(2).ok()? })
        })();
        let signature = row.get::<_, String>(3).ok().and_then(|text| STANDARD.decode(text).ok());
        let Some((checkpoint, signature)) = stored.zip(signature) else {
            found.problem(seq, "has a checkpoint that was altered and is not valid any more");
            continue;
        };
        match checkpoint.check(&signature, key) {
            Ok(()) => {
                held += 1;
                let who = format!("the checkpoint signed at {} says so", checkpoint.at);
                anchors.entry(seq).or_default().push(Anchor { hash: checkpoint.hash, who });
            }
            Err(sshfix_policy::reply::audit::CheckpointError::OtherKey(_)) => others += 1,
            Err(error) => found.problem(seq, &format!("has a checkpoint that does not hold: {error}")),
        }
    }
    if others > 0 {
        found.notes.push(format!(
            "{others} stored checkpoints are by another key than {}: they prove nothing here (was the host identity made anew?)",
            key.fingerprint()
        ));
    }
    Ok((anchors, held))
}

/// A run of records that was summed up.
struct Summed {
    last: AuditHead,
    before: [u8; 32],
}

/// Every run that was summed up, by its first record.
fn sums(db: &Connection, key: Option<&PublicKey>, found: &mut Findings) -> Result<BTreeMap<i64, Summed>, StoreError> {
    let mut sums = BTreeMap::new();
    // A copy of what an earlier version wrote.
    let exists = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'audit_summed')";
    if !db.query_row(exists, [], |row| row.get(0)).doing(DOING)? {
        return Ok(sums);
    }
    let mut select =
        db.prepare("SELECT first, last, before, hash, body, signature FROM audit_summed ORDER BY first").doing(DOING)?;
    let mut rows = select.query([]).doing(DOING)?;
    let mut requests = 0;
    while let Some(row) = rows.next().doing(DOING)? {
        let first: i64 = row.get(0).doing(DOING)?;
        let read = (|| {
            let host = key.map(PublicKey::fingerprint).unwrap_or_default();
            let (last, before, hash, body) = (row.get(1).ok()?, row.get(2).ok()?, row.get(3).ok()?, row.get(4).ok()?);
            Some((Summary { host, first, last, before, hash, body }, STANDARD.decode(row.get::<_, String>(5).ok()?).ok()?))
        })();
        let Some((summary, signature)) = read else {
            found.problem(first, "was summed up, and the summary was altered: it cannot be read any more");
            continue;
        };
        if let Some(Err(error)) = key.map(|key| summary.check(&signature, key)) {
            let Summary { last, .. } = summary;
            found.problem(
                first,
                &format!("and those up to {last} are gone; the summary that replaces them does not verify: {error}"),
            );
        }
        requests += serde_json::from_str::<Counted>(&summary.body).map_or(0, |counted| counted.requests);
        let last = AuditHead { seq: summary.last, hash: summary.hash };
        sums.insert(first, Summed { last, before: summary.before });
    }
    if requests > 0 {
        let vouched = if key.is_some() { "signed by the host" } else { "not checked: that needs the host's key" };
        found.notes.push(format!("{requests} records of questions were summed up ({} sums, {vouched})", sums.len()));
    }
    Ok(sums)
}

/// Passes over the records before `seq` that were summed up.
fn pass_over(
    last: &mut AuditHead,
    seq: i64,
    sums: &BTreeMap<i64, Summed>,
    anchors: &BTreeMap<i64, Vec<Anchor>>,
    found: &mut Findings,
) {
    while let Some(summed) = sums.get(&(last.seq + 1)).filter(|summed| last.seq < summed.last.seq && summed.last.seq < seq) {
        let first = last.seq + 1;
        if summed.before != last.hash {
            found.problem(first, "was summed up, and does not follow the one before it");
        }
        for (anchored, of_seq) in anchors.range(first..=summed.last.seq) {
            for anchor in of_seq.iter().filter(|anchor| *anchored != summed.last.seq || anchor.hash != summed.last.hash) {
                found.problem(*anchored, &format!("was summed up, so it cannot be compared with its checkpoint: {}", anchor.who));
            }
        }
        *last = summed.last;
    }
}

/// The last record, when the first and the last were written, and how many there are.
type Followed = (AuditHead, Option<i64>, Option<i64>, i64);

fn follow(
    db: &Connection,
    anchors: &BTreeMap<i64, Vec<Anchor>>,
    sums: &BTreeMap<i64, Summed>,
    found: &mut Findings,
) -> Result<Followed, StoreError> {
    let mut select = db.prepare("SELECT seq, at, closes, body, prev_hash, hash FROM audit ORDER BY seq").doing(DOING)?;
    let mut rows = select.query([]).doing(DOING)?;
    let (mut last, mut first_at, mut last_at, mut count) = (EMPTY, None, None, 0);
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => break,
            Err(error) => {
                found.problem(last.seq + 1, &format!("cannot be read, and neither can the records after it: {error}"));
                break;
            }
        };
        let seq: i64 = row.get(0).doing(DOING)?;
        if seq < 1 {
            found.problem(seq, "was inserted: record numbers begin at 1");
            continue;
        }
        pass_over(&mut last, seq, sums, anchors, found);
        for gap in last.seq + 1..seq {
            found.problem(gap, "was removed");
            if found.more > MOST_PROBLEMS {
                break;
            }
        }
        count += 1;
        let read = link(row);
        let Some(link) = read else {
            found.problem(seq, "was altered: a column cannot be read as what it should be");
            last = AuditHead { seq, hash: row.get(5).unwrap_or_default() };
            continue;
        };
        if link.previous != last.hash && seq == last.seq + 1 {
            found.problem(seq, "does not follow the one before it");
        }
        // 0 and NULL hash alike, and only an earlier record can be closed.
        let closes_an_earlier_one = link.closes.is_none_or(|closed| (1..seq).contains(&closed));
        if !closes_an_earlier_one || link.hash != hash(&link.previous, seq, link.at, link.closes, &link.body) {
            found.problem(seq, "was altered");
        }
        for anchor in anchors.get(&seq).into_iter().flatten().filter(|anchor| anchor.hash != link.hash) {
            found.problem(seq, &format!("is not the one that was written, or one before it is not: {}", anchor.who));
        }
        last = AuditHead { seq, hash: link.hash };
        first_at = first_at.or(Some(link.at));
        last_at = Some(link.at);
    }
    Ok((last, first_at, last_at, count))
}

/// A row as it should be.
struct Link {
    at: i64,
    closes: Option<i64>,
    body: String,
    previous: [u8; 32],
    hash: [u8; 32],
}

fn link(row: &Row<'_>) -> Option<Link> {
    let body = match row.get_ref(3).ok()? {
        ValueRef::Text(bytes) => String::from_utf8(bytes.to_vec()).ok()?,
        _ => return None,
    };
    Some(Link { at: row.get(1).ok()?, closes: row.get(2).ok()?, body, previous: row.get(4).ok()?, hash: row.get(5).ok()? })
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
