//! The life of a change, on a real database.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

use super::*;
use crate::store::tests::{at, fresh};
use sshfix_policy::reply::{Confirm, PlanSchema};
use sshfix_policy::subsystem::nf_tables;

fn step(address: &str) -> Step {
    Step::NfTables(nf_tables::Step::Element {
        set: nf_tables::SetKey { family: nf_tables::Family::Inet, table: "filter".to_owned(), set: "blocked".to_owned() },
        before: None,
        after: None,
        touches: Some(vec![address.parse().unwrap()]),
        text: address.to_owned(),
    })
}

pub(in crate::store) fn change(id: &str) -> NewChange {
    NewChange {
        id: id.to_owned(),
        principal: "alice".to_owned(),
        operation: Intent::Unban { source: "203.0.113.7".parse().unwrap(), jail: None, ignore_for: Some(60), range: false },
        digest: "sha256:00".to_owned(),
        steps: vec![step("203.0.113.7"), step("203.0.113.8")],
        plan: plan(),
        started: moment(100),
        deadline: Some(moment(100).deadline(Duration::from_mins(2))),
        lease: None,
    }
}

pub(in crate::store) fn moment(seconds: i64) -> Moment {
    Moment { wall: at(seconds), boot: Boot::number(1), since_boot: Duration::from_secs(seconds.unsigned_abs()) }
}

fn plan() -> PlanDocument {
    PlanDocument {
        schema: PlanSchema::V1,
        digest: "sha256:00".to_owned(),
        operation: Intent::SshdReload.into(),
        steps: Vec::new(),
        opens: Vec::new(),
        closes: Vec::new(),
        paths: Vec::new(),
        other_paths: 0,
        other_sources: 0,
        confirm: Confirm::Required,
        alternatives: Vec::new(),
        verdict: None,
        stages: Vec::new(),
        notes: Vec::new(),
    }
}

/// Brings change `id` to `stage` by the shortest legal way.
pub(in crate::store) fn bring(store: &Store, id: &str, stage: ChangeStage) {
    use ChangeStage::{Abandoned, Applying, Begun, Confirmed, Pending, RolledBack, RollingBack, Stuck, Verified};
    let done = |event| (0..2).for_each(|index| store.change_event(id, index, event, "").unwrap());
    let way: &[ChangeStage] = match stage {
        Begun => &[],
        Applying => &[Applying],
        Verified => &[Applying, Verified],
        Pending => &[Applying, Verified, Pending],
        Confirmed => &[Applying, Verified, Confirmed],
        RollingBack => &[Applying, RollingBack],
        RolledBack => &[RolledBack],
        Stuck => &[Applying, RollingBack, Stuck],
        Abandoned => &[Applying, RollingBack, Stuck, Abandoned],
    };
    for next in way {
        store.change_state(id, *next, "").unwrap();
        if *next == Applying {
            done(StepEvent::Started);
            done(StepEvent::DoneChanged);
        }
    }
}

#[test]
fn a_change_reads_back_as_it_was_written_also_after_a_restart() {
    let (_dir, store) = fresh();
    store.change_begin(&change("c1")).unwrap();
    store.change_state("c1", ChangeStage::Applying, "").unwrap();
    store.change_event("c1", 0, StepEvent::Started, "").unwrap();
    store.change_event("c1", 0, StepEvent::DoneChanged, "element deleted").unwrap();
    store.change_event("c1", 1, StepEvent::Started, "").unwrap();
    let path = store.path().to_owned();
    drop(store);

    let store = Store::open(&path).unwrap();
    let found = store.unfinished_changes().unwrap();
    let [found] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(found, &store.change("c1").unwrap());
    assert_eq!((found.id.as_str(), found.stage), ("c1", ChangeStage::Applying));
    assert_eq!(
        (found.started_at, found.deadline.map(|d| (d.wall, d.since_boot)), found.finished_at),
        (at(100), Some((at(220), Duration::from_secs(220))), None)
    );
    assert_eq!((&found.operation, found.digest.as_str()), (&change("c1").operation, "sha256:00"));
    assert_eq!(found.steps.iter().map(|s| s.step.clone()).collect::<Vec<_>>(), change("c1").steps);
    assert_eq!(found.steps.iter().map(|s| s.event).collect::<Vec<_>>(), [StepEvent::DoneChanged, StepEvent::Started]);
    assert_eq!(found.steps[0].detail, "element deleted");
}

#[test]
fn a_change_without_all_its_steps_on_disk_is_no_change() {
    let (_dir, store) = fresh();
    // The second step cannot be written; then the first must not be there either, nor the change.
    store
        .connection()
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON steps WHEN NEW.step_index = 1 BEGIN SELECT RAISE(ABORT, 'full'); END",
        )
        .unwrap();
    assert!(matches!(store.change_begin(&change("c1")), Err(StoreError::Sql { doing: "begin the change", .. })));
    assert!(matches!(store.change("c1"), Err(StoreError::Missing { .. })));
    let left: i64 = store.connection().query_row("SELECT count(*) FROM steps", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
    assert!(store.unfinished_changes().unwrap().is_empty());
}

#[test]
fn exactly_the_transitions_of_the_table_can_be_written() {
    let mut legal = 0;
    for from in ChangeStage::ALL {
        for to in ChangeStage::ALL {
            let (_dir, store) = fresh();
            store.change_begin(&change("c1")).unwrap();
            bring(&store, "c1", from);
            // What the steps must have come to is another test's business.
            if from == ChangeStage::RollingBack && to == ChangeStage::RolledBack {
                for event in [StepEvent::UndoStarted, StepEvent::Undone] {
                    (0..2).for_each(|index| store.change_event("c1", index, event, "").unwrap());
                }
            }
            let answer = store.change_state("c1", to, "why");
            if from == ChangeStage::Applying && to == ChangeStage::Verified || from.next().contains(&to) {
                answer.unwrap_or_else(|e| panic!("{from} to {to}: {e}"));
                let change = store.change("c1").unwrap();
                assert_eq!((change.stage, change.detail.as_str()), (to, "why"));
                assert_eq!(change.finished_at.is_some(), to.is_end());
                legal += 1;
            } else {
                assert!(matches!(answer, Err(StoreError::Transition { .. })), "{from} to {to}: {answer:?}");
                assert_eq!(store.change("c1").unwrap().stage, from);
            }
        }
    }
    assert_eq!(legal, 14);
}

#[test]
fn exactly_the_events_of_the_table_can_follow() {
    use ChangeStage::{Applying, RollingBack};
    let reach: &[(&[(StepEvent, ChangeStage)], StepEvent)] = &[
        (&[], StepEvent::Planned),
        (&[(StepEvent::Started, Applying)], StepEvent::Started),
        (&[(StepEvent::Started, Applying), (StepEvent::DoneChanged, Applying)], StepEvent::DoneChanged),
        (&[(StepEvent::Started, Applying), (StepEvent::DoneAlready, Applying)], StepEvent::DoneAlready),
        (&[(StepEvent::Started, Applying), (StepEvent::Failed, Applying)], StepEvent::Failed),
        (&[(StepEvent::Started, Applying), (StepEvent::UndoStarted, RollingBack)], StepEvent::UndoStarted),
        (
            &[(StepEvent::Started, Applying), (StepEvent::UndoStarted, RollingBack), (StepEvent::Undone, RollingBack)],
            StepEvent::Undone,
        ),
        (
            &[(StepEvent::Started, Applying), (StepEvent::UndoStarted, RollingBack), (StepEvent::UndoFailed, RollingBack)],
            StepEvent::UndoFailed,
        ),
    ];
    for (way, from) in reach {
        for stage in [Applying, RollingBack] {
            for to in StepEvent::ALL {
                let (_dir, store) = fresh();
                store.change_begin(&change("c1")).unwrap();
                store.change_state("c1", Applying, "").unwrap();
                for (event, needs) in *way {
                    if *needs == RollingBack && store.change("c1").unwrap().stage == Applying {
                        store.change_state("c1", RollingBack, "").unwrap();
                    }
                    store.change_event("c1", 0, *event, "").unwrap();
                }
                if store.change("c1").unwrap().stage != stage {
                    if stage == Applying {
                        continue;
                    }
                    store.change_state("c1", RollingBack, "").unwrap();
                }
                let answer = store.change_event("c1", 0, to, "");
                if from.next().contains(&(to, stage)) {
                    answer.unwrap_or_else(|e| panic!("{from} to {to} while {stage}: {e}"));
                } else {
                    assert!(matches!(answer, Err(StoreError::Event { .. })), "{from} to {to} while {stage}: {answer:?}");
                    assert_eq!(store.change("c1").unwrap().steps[0].event, *from);
                }
            }
        }
    }
}

#[test]
fn verified_and_rolled_back_are_never_written_while_a_step_says_otherwise() {
    let (_dir, store) = fresh();
    store.change_begin(&change("c1")).unwrap();
    store.change_state("c1", ChangeStage::Applying, "").unwrap();
    store.change_event("c1", 0, StepEvent::Started, "").unwrap();
    store.change_event("c1", 0, StepEvent::DoneChanged, "").unwrap();
    let answer = store.change_state("c1", ChangeStage::Verified, "");
    assert!(matches!(answer, Err(StoreError::Contradiction { step: 1, event: StepEvent::Planned, .. })), "{answer:?}");
    store.change_state("c1", ChangeStage::RollingBack, "").unwrap();
    let answer = store.change_state("c1", ChangeStage::RolledBack, "");
    assert!(matches!(answer, Err(StoreError::Contradiction { step: 0, event: StepEvent::DoneChanged, .. })), "{answer:?}");
    store.change_event("c1", 0, StepEvent::UndoStarted, "").unwrap();
    store.change_event("c1", 0, StepEvent::UndoFailed, "no").unwrap();
    assert!(matches!(store.change_state("c1", ChangeStage::RolledBack, ""), Err(StoreError::Contradiction { .. })));
    store.change_state("c1", ChangeStage::Stuck, "delete element 203.0.113.7 by hand").unwrap();
    assert_eq!(store.stuck_changes().unwrap()[0].detail, "delete element 203.0.113.7 by hand");
    assert!(store.unfinished_changes().unwrap().is_empty());
    // Tried again by hand, it can still come to a good end.
    store.change_state("c1", ChangeStage::RollingBack, "").unwrap();
    store.change_event("c1", 0, StepEvent::UndoStarted, "").unwrap();
    store.change_event("c1", 0, StepEvent::Undone, "").unwrap();
    store.change_state("c1", ChangeStage::RolledBack, "").unwrap();
}

#[test]
fn there_is_one_change_at_a_time() {
    for stage in ChangeStage::ALL {
        let (_dir, store) = fresh();
        store.change_begin(&change("c1")).unwrap();
        bring(&store, "c1", stage);
        let second = store.change_begin(&change("c2"));
        match second {
            Ok(()) => assert!(stage.is_end(), "{stage}"),
            Err(StoreError::Stuck { id, .. }) => assert_eq!((stage, id.as_str()), (ChangeStage::Stuck, "c1")),
            Err(StoreError::Busy { id, principal, deadline }) => {
                assert_eq!((id.as_str(), principal.as_str(), deadline), ("c1", "alice", Some(at(220))));
            }
            Err(e) => panic!("{stage}: {e}"),
        }
    }
}

#[test]
fn unknown_changes_and_steps_are_named() {
    let (_dir, store) = fresh();
    assert!(matches!(store.change_state("none", ChangeStage::Applying, ""), Err(StoreError::Missing { what: "change", .. })));
    store.change_begin(&change("c1")).unwrap();
    store.change_state("c1", ChangeStage::Applying, "").unwrap();
    let answer = store.change_event("c1", 2, StepEvent::Started, "");
    assert!(matches!(answer, Err(StoreError::Missing { what: "step", .. })), "{answer:?}");
    assert!(store.change_begin(&change("c1")).is_err(), "the same id again");
}

#[test]
fn changes_that_were_taken_back_lately_are_found_and_no_others() {
    let (_dir, store) = fresh();
    let before = Timestamp::now();
    for (id, stage) in [("kept", ChangeStage::Confirmed), ("back", ChangeStage::RolledBack), ("waits", ChangeStage::Pending)] {
        store.change_begin(&change(id)).unwrap();
        bring(&store, id, stage);
    }
    let ids = |since| store.rolled_back_since(since).unwrap().into_iter().map(|change| change.id).collect::<Vec<_>>();
    assert_eq!(ids(before), ["back"]);
    assert_eq!(ids(Timestamp::now()), [""; 0]);
}

/// Whatever the disk takes from now on, nothing is written.
fn break_the_disk(store: &Store) {
    let db = store.connection();
    db.execute_batch(
        "CREATE TRIGGER full1 BEFORE INSERT ON journal BEGIN SELECT RAISE(ABORT, 'full'); END;
         CREATE TRIGGER full2 BEFORE UPDATE ON changes BEGIN SELECT RAISE(ABORT, 'full'); END;",
    )
    .unwrap();
}

#[test]
fn a_rollback_goes_on_without_the_disk_and_is_written_down_when_it_is_back() {
    let (dir, store) = fresh();
    store.change_begin(&change("c1")).unwrap();
    bring(&store, "c1", ChangeStage::Pending);
    break_the_disk(&store);
    assert!(store.change_state("c1", ChangeStage::Confirmed, "").is_err(), "what is not on the disk is not confirmed");
    assert_eq!(store.unfinished_changes().unwrap()[0].stage, ChangeStage::Pending);
    assert!(store.change_state("c1", ChangeStage::RollingBack, "late").is_err());
    for index in 0..2 {
        assert!(store.change_event("c1", index, StepEvent::UndoStarted, "").is_err());
        assert!(store.change_event("c1", index, StepEvent::Undone, "").is_err());
    }
    assert!(store.change_state("c1", ChangeStage::RolledBack, "done").is_err());
    assert!(store.unfinished_changes().unwrap().is_empty(), "nobody rolls it back again");
    assert_eq!(store.change("c1").unwrap().stage, ChangeStage::RolledBack);
    assert!(store.trouble().unwrap().contains("full"));
    assert!(store.change_begin(&change("c2")).is_err(), "nothing begins that cannot be written");
    store.connection().execute_batch("DROP TRIGGER full1; DROP TRIGGER full2;").unwrap();
    assert_eq!(store.trouble(), None);
    let path = store.path().to_owned();
    drop(store);
    let store = Store::open(&path).unwrap();
    let read = store.change("c1").unwrap();
    assert_eq!((read.stage, read.detail.as_str(), read.steps[1].event), (ChangeStage::RolledBack, "done", StepEvent::Undone));
    store.change_begin(&change("c2")).unwrap();
    drop(dir);
}

#[test]
fn a_change_that_the_database_lost_is_kept_and_its_loss_is_said() {
    let (_dir, store) = fresh();
    store.change_begin(&change("c1")).unwrap();
    bring(&store, "c1", ChangeStage::Pending);
    assert_eq!(store.trouble(), None);
    store.connection().execute_batch("DELETE FROM journal; DELETE FROM steps; DELETE FROM changes;").unwrap();
    assert!(store.trouble().is_some(), "it does not hold what it was given");
    assert_eq!(store.unfinished_changes().unwrap()[0].id, "c1");
    assert!(store.change_state("c1", ChangeStage::Confirmed, "").is_err());
    // The loss is noticed by the first entry, and the whole is written again with the next.
    assert!(store.change_state("c1", ChangeStage::RollingBack, "").is_err());
    store.change_event("c1", 0, StepEvent::UndoStarted, "").unwrap();
    assert_eq!(store.trouble(), None);
    std::fs::rename(store.path(), store.path().with_extension("old")).unwrap();
    assert!(store.trouble().unwrap().contains("moved away"));
    assert!(matches!(store.change_begin(&change("c2")), Err(StoreError::Unusable { .. })));
}
