#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
use super::*;
use sshfix_policy::request::Query;

pub(super) fn fresh() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state/state.db")).unwrap();
    (dir, store)
}

pub(super) fn opening(n: u32) -> AuditOpening {
    AuditOpening {
        principal: Some("alice".to_owned()),
        key: Some("SHA256:abc".to_owned()),
        peer_uid: n,
        peer_pid: 42,
        from: Some("2001:db8::7".parse().unwrap()),
        request: Some(format!("{n:032x}")),
        operation: Some(Operation::Query(Query::Diagnose {
            address: "203.0.113.7".parse().unwrap(),
            user: None,
            port: None,
            explain: false,
        })),
        mode: Some(Mode::Apply { plan: Some("sha256:00".to_owned()), confirm_within: None }),
        reason: Some("locked out".to_owned()),
        automatic: None,
    }
}

pub(super) fn closing(outcome: Outcome) -> AuditClosing {
    AuditClosing { outcome, detail: "because".to_owned(), plan: Some("sha256:00".to_owned()), change: None }
}

#[test]
fn a_record_reads_back_as_it_was_written_also_after_a_restart() {
    let (_dir, store) = fresh();
    let first = store.audit_open(&opening(1)).unwrap().seq;
    let second = store.audit_open(&AuditOpening::automatic("the end of lease x")).unwrap().seq;
    store.audit_close(first, &closing(Outcome::Confirmed)).unwrap();
    let path = store.path().to_owned();
    drop(store);
    let store = Store::open(&path).unwrap();
    let found = store.audit_search(&Filter::default()).unwrap();
    assert_eq!(found.records.iter().map(|record| record.record).collect::<Vec<_>>(), [second, first]);
    let (newest, oldest) = (&found.records[0], &found.records[1]);
    assert_eq!((oldest.principal.as_deref(), oldest.peer_uid, oldest.peer_pid), (Some("alice"), Some(1), Some(42)));
    assert_eq!((oldest.operation.clone(), oldest.mode.clone()), (opening(1).operation, opening(1).mode));
    assert_eq!((oldest.outcome, oldest.detail.as_str()), (Some(Outcome::Confirmed), "because"));
    assert_eq!((newest.automatic.as_deref(), newest.peer_uid, newest.outcome), (Some("the end of lease x"), None, None));
    assert!(oldest.closed_at.is_some() && newest.closed_at.is_none());
    assert_eq!(store.audit_open_records().unwrap(), [second]);
    store.audit_close(second, &closing(Outcome::Interrupted)).unwrap();
    assert!(store.audit_open_records().unwrap().is_empty());
    let verified = verify(store.path(), None, Given::default()).unwrap();
    assert_eq!((verified.records, verified.intact), (4, true));
}

#[test]
fn a_record_is_closed_once_and_never_edited() {
    let (_dir, store) = fresh();
    let seq = store.audit_open(&opening(1)).unwrap().seq;
    store.audit_close(seq, &closing(Outcome::Refused)).unwrap();
    assert!(matches!(store.audit_close(seq, &closing(Outcome::Confirmed)), Err(StoreError::Missing { .. })));
    assert!(matches!(store.audit_close(seq + 1, &closing(Outcome::Confirmed)), Err(StoreError::Missing { .. })), "a closing");
    assert!(matches!(store.audit_close(99, &closing(Outcome::Confirmed)), Err(StoreError::Missing { .. })));
    let db = store.connection();
    assert!(db.execute("UPDATE audit SET body = '{}'", []).is_err());
    assert!(db.execute("DELETE FROM audit", []).is_err());
}

#[test]
fn a_search_gives_the_newest_that_fit_and_says_when_there_are_more() {
    let (_dir, store) = fresh();
    for n in 0..30 {
        let opening = AuditOpening { principal: Some(format!("p{}", n % 3)), ..opening(n) };
        let seq = store.audit_open(&opening).unwrap().seq;
        store.audit_close(seq, &closing(if n % 2 == 0 { Outcome::Answered } else { Outcome::Refused })).unwrap();
    }
    let search = |filter: Filter| store.audit_search(&filter).unwrap();
    let some = search(Filter { principal: Some("p1".to_owned()), limit: Some(4), ..Filter::default() });
    assert_eq!(some.records.iter().map(|record| record.peer_uid.unwrap()).collect::<Vec<_>>(), [28, 25, 22, 19]);
    assert!(some.more);
    let all = search(Filter { principal: Some("p1".to_owned()), outcome: Some(Outcome::Refused), ..Filter::default() });
    assert_eq!(all.records.iter().map(|record| record.peer_uid.unwrap()).collect::<Vec<_>>(), [25, 19, 13, 7, 1]);
    assert!(!all.more);
}

#[test]
fn a_record_of_a_later_version_does_not_hide_the_others() {
    let (_dir, store) = fresh();
    store.audit_open(&opening(1)).unwrap();
    let later = serde_json::json!({"peer_uid": 0, "peer_pid": 1, "operation": {"invented_later": {}}});
    store.write("write the audit record", |db| append(db, None, &later)).unwrap();
    let found = store.audit_search(&Filter::default()).unwrap();
    assert_eq!((found.records.len(), found.notes.len()), (1, 1), "{found:?}");
}
