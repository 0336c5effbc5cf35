#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
use std::path::PathBuf;

use sshfix_policy::reply::audit::CheckpointError;

use super::super::tests::{closing, fresh, opening};
use super::super::{AuditError, Auditor, Outcome, append};
use super::*;
use crate::identity::{self, Identity};

/// A chain with this many rows and one signed head at its end, whose rows can be tampered with.
fn chain(rows: i64) -> (tempfile::TempDir, Store, Identity, Auditor) {
    let (dir, store) = fresh();
    let path: PathBuf = dir.path().join("agent_ed25519");
    identity::save_private(&path, &identity::generate("").unwrap()).unwrap();
    let (identity, auditor) = (Identity::load(&path).unwrap(), Auditor::default());
    store
        .write("write", |db| {
            for n in 0..rows / 2 {
                let seq = append(db, None, &opening(u32::try_from(n).unwrap()))?.seq;
                append(db, Some(seq), &closing(Outcome::Answered))?;
            }
            Ok(())
        })
        .unwrap();
    auditor.checkpoint(&store, &identity).unwrap();
    store
        .connection()
        .execute_batch(
            "DROP TRIGGER audit_is_never_edited; DROP TRIGGER audit_is_never_cut; PRAGMA foreign_keys = OFF;
             PRAGMA synchronous = OFF; CREATE TABLE honest (seq INTEGER PRIMARY KEY, at, closes, body, prev_hash, hash);
             INSERT INTO honest SELECT seq, at, closes, body, prev_hash, hash FROM audit",
        )
        .unwrap();
    (dir, store, identity, auditor)
}

/// Every kind of tampering with one record; each but the last leaves a problem that names exactly this one.
const TAMPERINGS: [&str; 9] = [
    "UPDATE audit SET body = replace(body, 'a', 'b') WHERE seq = ?1",
    "UPDATE audit SET body = body || ' ' WHERE seq = ?1",
    "UPDATE audit SET at = at + 1 WHERE seq = ?1",
    "UPDATE audit SET closes = iif(closes IS NULL, 0, NULL) WHERE seq = ?1",
    "UPDATE audit SET closes = iif(closes IS NULL, 100000000 + seq, seq - 1000000) WHERE seq = ?1",
    "UPDATE audit SET hash = zeroblob(32) WHERE seq = ?1",
    "UPDATE audit SET hash = zeroblob(31) WHERE seq = ?1",
    "UPDATE audit SET prev_hash = x'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff' WHERE seq = ?1",
    "DELETE FROM audit WHERE seq = ?1",
];

fn tamper(store: &Store, tampering: &str, seq: i64) {
    assert_eq!(store.connection().execute(tampering, [seq]).unwrap(), 1, "{tampering} {seq}");
}

fn restore(store: &Store) {
    store
        .connection()
        .execute_batch(
            "DELETE FROM audit WHERE seq NOT IN (SELECT seq FROM honest);
             DELETE FROM audit WHERE seq IN (SELECT seq FROM (SELECT * FROM audit EXCEPT SELECT * FROM honest));
             INSERT OR IGNORE INTO audit SELECT * FROM honest",
        )
        .unwrap();
}

fn look(store: &Store, identity: &Identity) -> Verification {
    verify(store.path(), Some(&identity.public_key().unwrap()), Given::default()).unwrap()
}

#[test]
fn of_ten_thousand_records_each_that_is_tampered_with_is_named() {
    const ROWS: i64 = 10_000;
    const AT_ONCE: i64 = 40;
    let (_dir, store, identity, _) = chain(ROWS);
    assert!(look(&store, &identity).intact);
    let mut tried = 0;
    for batch in 0..ROWS / AT_ONCE {
        // Far enough from each other that each stands alone; another kind for each, and over the batches.
        let victims: Vec<i64> = (0..AT_ONCE).map(|n| 1 + batch + n * (ROWS / AT_ONCE)).collect();
        for seq in &victims {
            let kind = usize::try_from(*seq + batch).unwrap() % TAMPERINGS.len();
            // The column is UNIQUE: only one row at a time can hold 0.
            let tampering = TAMPERINGS[kind].replace("iif(closes IS NULL, 0,", "iif(closes IS NULL, -seq,");
            tamper(&store, &tampering, *seq);
        }
        let found = look(&store, &identity);
        let named: std::collections::BTreeSet<i64> = found.problems.iter().map(|problem| problem.record).collect();
        for seq in &victims {
            assert!(named.contains(seq), "record {seq} is not named: {:?}", found.problems);
            tried += 1;
        }
        restore(&store);
    }
    assert_eq!(tried, ROWS);
    assert!(look(&store, &identity).intact, "restored");
}

#[test]
fn every_kind_of_tampering_with_any_single_record_is_found_and_named() {
    const ROWS: i64 = 42;
    let (_dir, store, identity, _) = chain(ROWS);
    for seq in 1..=ROWS {
        for tampering in TAMPERINGS {
            tamper(&store, tampering, seq);
            let found = look(&store, &identity);
            assert!(!found.intact && found.problems.iter().any(|p| p.record == seq), "{tampering} {seq}: {found:?}");
            restore(&store);
        }
        // Every bit of the hash column, and each byte of the text.
        for bit in 0..256 {
            let mut hash: Vec<u8> =
                store.connection().query_row("SELECT hash FROM audit WHERE seq = ?1", [seq], |row| row.get(0)).unwrap();
            hash[bit / 8] ^= 1 << (bit % 8);
            store.connection().execute("UPDATE audit SET hash = ?2 WHERE seq = ?1", (seq, hash)).unwrap();
            assert!(!look(&store, &identity).intact, "bit {bit} of {seq}");
            restore(&store);
            if bit > 7 && seq % 14 != 0 {
                break;
            }
        }
    }
    let body: String = store.connection().query_row("SELECT body FROM audit WHERE seq = 7", [], |row| row.get(0)).unwrap();
    for at in 0..body.len() {
        let mut altered = body.clone().into_bytes();
        altered[at] ^= 1;
        store.connection().execute("UPDATE audit SET body = ?1 WHERE seq = 7", [String::from_utf8(altered).unwrap()]).unwrap();
        assert_eq!(look(&store, &identity).problems[0].record, 7, "byte {at}");
        restore(&store);
    }
}

#[test]
fn swapped_moved_inserted_and_truncated_records_are_found() {
    const ROWS: i64 = 40;
    let (_dir, store, identity, _) = chain(ROWS);
    for (one, other) in [(1, 2), (1, ROWS), (7, 9), (20, 21), (ROWS - 1, ROWS)] {
        store
            .connection()
            .execute_batch(&format!(
                "UPDATE audit SET seq = -1 WHERE seq = {one}; UPDATE audit SET seq = {one} WHERE seq = {other};
                 UPDATE audit SET seq = {other} WHERE seq = -1"
            ))
            .unwrap();
        let found = look(&store, &identity);
        for seq in [one, other] {
            assert!(found.problems.iter().any(|problem| problem.record == seq), "{one} {other}: {found:?}");
        }
        restore(&store);
    }
    store.connection().execute_batch("UPDATE audit SET seq = 1000 WHERE seq = 5").unwrap();
    assert_eq!(look(&store, &identity).problems[0].record, 5);
    restore(&store);
    for seq in [0, -5] {
        let copied = format!("INSERT INTO audit SELECT {seq}, at, NULL, body, prev_hash, hash FROM audit WHERE seq = 3");
        store.connection().execute_batch(&copied).unwrap();
        assert!(!look(&store, &identity).intact, "{seq}");
        restore(&store);
    }
    for left in 0..ROWS {
        store.connection().execute("DELETE FROM audit WHERE seq > ?1", [left]).unwrap();
        let found = look(&store, &identity);
        assert!(!found.intact, "{left} of {ROWS} left");
        assert!(found.problems[0].problem.contains(&format!("from {} on", left + 1)), "{found:?}");
        restore(&store);
    }
    assert!(look(&store, &identity).intact);
}

/// Somebody with root, sqlite and the time to compute every hash again, but not the host's key.
fn forge(store: &Store, from: i64) {
    store.connection().execute("UPDATE audit SET body = replace(body, 'alice', 'mallo') WHERE seq = ?1", [from]).unwrap();
    rechain(store, from);
}

fn rechain(store: &Store, from: i64) {
    let db = store.connection();
    let last: i64 = db.query_row("SELECT max(seq) FROM audit", [], |row| row.get(0)).unwrap();
    for seq in from..=last {
        let previous: [u8; 32] =
            db.query_row("SELECT hash FROM audit WHERE seq = ?1", [seq - 1], |row| row.get(0)).unwrap_or_default();
        let (at, closes, body): (i64, Option<i64>, String) = db
            .query_row("SELECT at, closes, body FROM audit WHERE seq = ?1", [seq], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .unwrap();
        let hash = hash(&previous, seq, at, closes, &body);
        db.execute("UPDATE audit SET prev_hash = ?2, hash = ?3 WHERE seq = ?1", (seq, previous, hash)).unwrap();
    }
}

#[test]
fn a_chain_that_was_computed_again_is_found_by_any_signed_head_behind_the_forgery() {
    let (_dir, store, identity, auditor) = chain(40);
    let kept = auditor.checkpoint(&store, &identity).unwrap().text;
    let later = store.audit_open(&opening(99)).unwrap().seq;
    store.audit_close(later, &closing(Outcome::Confirmed)).unwrap();
    let verified = auditor.verify(&store, &identity, Some(&kept)).unwrap();
    assert!(verified.intact && verified.checkpoints == 1, "{verified:?}");

    forge(&store, 11);
    let found = look(&store, &identity);
    assert_eq!(found.problems.len(), 1, "{found:?}");
    assert!(found.problems[0].record == 40 && found.problems[0].problem.contains("the checkpoint signed at"), "{found:?}");
    // The stored checkpoints went with it; the one that was kept elsewhere still tells.
    store.connection().execute_batch("DELETE FROM audit_checkpoints").unwrap();
    assert!(look(&store, &identity).intact, "nothing on this host tells any more");
    let found = auditor.verify(&store, &identity, Some(&kept)).unwrap();
    assert!(found.problems[0].problem.contains("the checkpoint that was given"), "{found:?}");
    // And the end cut off.
    store.connection().execute_batch("DELETE FROM audit WHERE seq > 38").unwrap();
    let found = auditor.verify(&store, &identity, Some(&kept)).unwrap();
    assert!(found.problems[0].record == 40 && found.problems[0].problem.contains("from 39 on"), "{found:?}");
}

#[test]
fn a_running_agent_knows_the_last_record_it_wrote() {
    let (_dir, store, identity, auditor) = chain(10);
    let seq = auditor.open(&store, &opening(1)).unwrap();
    assert!(auditor.verify(&store, &identity, None).unwrap().intact);
    forge(&store, seq);
    let found = auditor.verify(&store, &identity, None).unwrap();
    assert!(found.problems[0].problem.contains("the running agent wrote it"), "{found:?}");
    store.connection().execute("DELETE FROM audit WHERE seq = ?1", [seq]).unwrap();
    assert!(!auditor.verify(&store, &identity, None).unwrap().intact);
}

#[test]
fn altered_and_foreign_checkpoints_are_told() {
    let (dir, store, identity, auditor) = chain(10);
    let kept = auditor.checkpoint(&store, &identity).unwrap().text;
    store.connection().execute_batch("UPDATE audit_checkpoints SET at = at + 1").unwrap();
    assert!(look(&store, &identity).problems[0].problem.contains("checkpoint that does not hold"));
    store.connection().execute_batch("UPDATE audit_checkpoints SET signature = 'no base64'").unwrap();
    assert!(!look(&store, &identity).intact);
    let other = dir.path().join("other");
    identity::save_private(&other, &identity::generate("").unwrap()).unwrap();
    let other = Identity::load(&other).unwrap();
    let error = auditor.verify(&store, &other, Some(&kept)).unwrap_err();
    assert!(matches!(error, AuditError::Checkpoint(CheckpointError::OtherKey(_))), "{error}");
    store.connection().execute_batch("DELETE FROM audit_checkpoints").unwrap();
    auditor.checkpoint(&store, &other).unwrap();
    let found = look(&store, &identity);
    assert!(found.intact && found.notes[0].contains("by another key"), "{found:?}");
}

#[test]
fn heads_are_signed_every_so_many_records_and_at_the_end() {
    let (_dir, store, identity, auditor) = chain(2);
    store.connection().execute_batch("DELETE FROM audit_checkpoints").unwrap();
    let signed = |store: &Store| -> Vec<i64> {
        let db = store.connection();
        let mut select = db.prepare("SELECT seq FROM audit_checkpoints ORDER BY seq").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let request = |n| {
        let seq = auditor.open(&store, &opening(n)).unwrap();
        auditor.close(&store, &identity, &opening(n), seq, closing(Outcome::Answered));
    };
    request(0);
    assert_eq!(signed(&store), [4], "the first");
    (1..=super::super::CHECKPOINT_EVERY / 2).for_each(|n| request(u32::try_from(n).unwrap()));
    assert_eq!(signed(&store), [4, 4 + super::super::CHECKPOINT_EVERY]);
    request(500);
    auditor.upkeep(&store, &identity);
    assert_eq!(signed(&store).len(), 2, "not yet");
    let day = 25 * 3600 * 1_000_000_i64;
    // What is older than a day is followed by a new one.
    let newest: (i64, i64) = store
        .connection()
        .query_row("SELECT seq, at FROM audit_checkpoints ORDER BY seq DESC", [], |r| Ok((r.get(0)?, r.get(1)?)))
        .unwrap();
    store.connection().execute("UPDATE audit_checkpoints SET at = ?2 WHERE seq = ?1", (newest.0, newest.1 - day)).unwrap();
    auditor.upkeep(&store, &identity);
    assert_eq!(signed(&store).len(), 3, "the day is over");
    request(501);
    auditor.end(&store, &identity);
    auditor.end(&store, &identity);
    assert_eq!(signed(&store).len(), 4, "at the end, once");
}

#[test]
fn ssh_keygen_believes_a_checkpoint_too() {
    let (dir, store, identity, auditor) = chain(4);
    let text = auditor.checkpoint(&store, &identity).unwrap().text;
    let (payload, armor) = text.split_at(text.find("-----BEGIN").unwrap());
    let file = |name: &str, bytes: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let (signers, signature, payload) =
        (file("signers", &format!("host {}\n", identity.public())), file("sig", armor), file("payload", payload));
    let verified = std::process::Command::new("/usr/bin/ssh-keygen")
        .args(["-Y", "verify", "-I", "host", "-n", sshfix_policy::reply::audit::CHECKPOINT_NAMESPACE, "-f"])
        .arg(&signers)
        .arg("-s")
        .arg(&signature)
        .stdin(std::fs::File::open(&payload).unwrap())
        .output()
        .unwrap();
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn an_agent_that_ends_before_its_first_request_signs_nothing_and_fails_nothing() {
    let (dir, store) = fresh();
    let path: PathBuf = dir.path().join("agent_ed25519");
    identity::save_private(&path, &identity::generate("").unwrap()).unwrap();
    Auditor::default().end(&store, &Identity::load(&path).unwrap());
    assert_eq!(store.trouble(), None, "no write failed");
    assert_eq!(store.audit_newest_checkpoint().unwrap(), None);
}
