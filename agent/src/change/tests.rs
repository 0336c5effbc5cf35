//! The change machine on the fake host: every fault and every kill ends in the state before or the state after.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use sshfix_policy::fake::{FakeHost, Fault};
use sshfix_policy::host::{Done, Host, HostState, Needs, Part, Question, StepError};
use sshfix_policy::lockout::{self, SafePlan};
use sshfix_policy::plan;
use sshfix_policy::request::Operation;
use sshfix_policy::step::Step;
use sshfix_policy::subsystem::fail2ban::{self, Ticket};
use sshfix_policy::subsystem::hosts_access::{self, Content, Facts, File, Libwrap};

use crate::change::{Settled, apply, recover, retry_stuck, settle, take_back};
use crate::store::{ChangeStage, NewChange, Store, StoreError};
use crate::sys::clock::{Boot, Moment};

/// Banned in two jails and named by both hosts files.
fn blocked() -> HostState {
    let source = "203.0.113.7".parse().unwrap();
    let jail = |name: &str| fail2ban::Jail {
        name: name.to_owned(),
        tickets: vec![Ticket::new(source)],
        others: 0,
        ignore: Vec::new(),
        ignore_self: true,
    };
    let file = |path: &str, text: &str| File {
        path: path.to_owned(),
        content: Content::Bytes(text.as_bytes().to_vec()),
        read_only: None,
    };
    HostState {
        fail2ban: Part::Present(fail2ban::State {
            version: "1.1.0".to_owned(),
            jails: vec![jail("recidive"), jail("sshd")],
            notes: Vec::new(),
        }),
        hosts_access: Part::Present(hosts_access::State {
            allow: file("/etc/hosts.allow", "sshd: 203.0.113.7 : deny\n"),
            deny: file("/etc/hosts.deny", "# kept\nsshd: 203.0.113.7 203.0.113.70\n"),
            libwrap: Libwrap::Linked("test".to_owned()),
            facts: Facts::default(),
        }),
        ..HostState::empty()
    }
}

fn planned(host: &HostState) -> SafePlan {
    let operation = Operation::Unban { source: "203.0.113.7".parse().unwrap(), jail: None, ignore_for: None, range: false };
    let mut needs = Needs::new();
    let plan = plan::plan(&operation, host, 22, &mut needs).unwrap();
    assert!(needs.is_empty());
    lockout::prove(plan, host, &[], &mut needs).unwrap()
}

/// So many seconds after the beginning, in this boot of the host.
fn at(seconds: u64, boot: u32) -> Moment {
    let since_boot = Duration::from_secs(seconds);
    Moment { wall: Timestamp::UNIX_EPOCH + since_boot, boot: Boot::number(boot), since_boot }
}

/// Begun at 0, with two minutes to be confirmed.
fn new(id: &str, plan: &SafePlan) -> NewChange {
    NewChange {
        id: id.to_owned(),
        principal: "root".to_owned(),
        operation: plan.plan().operation.clone(),
        digest: plan.plan().digest(),
        plan: plan.document(),
        steps: plan.steps().to_vec(),
        started: at(0, 1),
        deadline: Some(at(0, 1).deadline(Duration::from_mins(2))),
        lease: None,
    }
}

fn begin(store: &Store, id: &str, plan: &SafePlan) {
    store.change_begin(&new(id, plan)).unwrap();
}

/// Blocked, and the change that lifts it on disk as `c`.
fn begun(directory: &Path) -> (HostState, SafePlan, Store, FakeHost) {
    let before = blocked();
    let plan = planned(&before);
    let store = store(directory);
    begin(&store, "c", &plan);
    let host = FakeHost::new(before.clone());
    (before, plan, store, host)
}

fn store(directory: &Path) -> Store {
    Store::open(&directory.join("state.db")).unwrap()
}

#[test]
fn planning_on_the_predicted_state_yields_no_steps() {
    let host = blocked();
    let plan = planned(&host);
    assert!(plan.steps().len() >= 4, "{plan:#?}");
    let after = plan::predict(&host, plan.steps()).unwrap();
    assert!(planned(&after).steps().is_empty());
}

#[test]
fn a_fault_in_any_step_leaves_the_host_as_it_was_and_says_which_step_failed() {
    let before = blocked();
    let plan = planned(&before);
    for fault in [Fault::FailOnce, Fault::FailAfterDoing] {
        for at in 0..plan.steps().len() {
            let directory = tempfile::tempdir().unwrap();
            let store = store(directory.path());
            begin(&store, "c", &plan);
            let mut host = FakeHost { fail_after: Some(at), fault, ..FakeHost::new(before.clone()) };
            let failed = apply(&mut host, &store, "c", &plan).unwrap_err();
            assert!(failed.clean(), "{failed:?}");
            assert_eq!(failed.failure.step, at + 1);
            assert_eq!(host.state, before, "{fault:?} at step {at}");
            assert_eq!(store.change("c").unwrap().stage, ChangeStage::RolledBack);
            assert!(store.unfinished_changes().unwrap().is_empty(), "a failed change does not wedge the next");
        }
    }
}

#[test]
fn a_rollback_that_fails_too_is_stuck_and_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let (before, plan, store, host) = begun(directory.path());
    let mut host = FakeHost { fail_after: Some(2), fault: Fault::FailForEver, ..host };
    let failed = apply(&mut host, &store, "c", &plan).unwrap_err();
    assert!(!failed.clean());
    assert_eq!(failed.failure.stuck.len(), 3, "the two that were done and the one that may have been: {failed:?}");
    assert_ne!(host.state, before);
    host.fail_after = None;
    assert!(
        matches!(store.change_begin(&new("next", &plan)), Err(StoreError::Stuck { .. })),
        "nothing else is changed meanwhile"
    );
    assert_eq!(retry_stuck(&mut host, &store, &at(1, 1)).unwrap(), []);
    assert_eq!(host.state, before);
}

/// Dies at its n-th call, before or after the step is done.
struct Mortal {
    host: FakeHost,
    dies_at: usize,
    after_doing: bool,
}

impl Host for Mortal {
    fn observe(&mut self, question: &Question) -> HostState {
        self.host.observe(question)
    }

    fn lookup(&mut self, _: &mut HostState, _: &Needs) {}

    fn apply(&mut self, step: &Step) -> Result<Done, StepError> {
        let dies = self.host.applied == self.dies_at;
        assert!(!dies || self.after_doing, "killed before the step");
        let done = self.host.apply(step);
        assert!(!dies, "killed after the step");
        done
    }
}

#[test]
fn killed_at_any_step_the_next_start_restores_the_state_before() {
    let before = blocked();
    let plan = planned(&before);
    for after_doing in [false, true] {
        for dies_at in 0..plan.steps().len() {
            let directory = tempfile::tempdir().unwrap();
            let mut mortal = Mortal { host: FakeHost::new(before.clone()), dies_at, after_doing };
            {
                let store = store(directory.path());
                begin(&store, "c", &plan);
                let killed = catch_unwind(AssertUnwindSafe(|| apply(&mut mortal, &store, "c", &plan)));
                assert!(killed.is_err());
            }
            let store = store(directory.path());
            let mut host = FakeHost::new(mortal.host.state);
            let lines = recover(&mut host, &store, &at(1, 1)).unwrap();
            assert_eq!(lines.len(), 1);
            assert_eq!(host.state, before, "killed at {dies_at}, after doing: {after_doing}: {lines:?}");
            assert!(recover(&mut host, &store, &at(1, 1)).unwrap().is_empty());
        }
    }
}

#[test]
fn a_confirmed_change_is_never_recovered() {
    let directory = tempfile::tempdir().unwrap();
    let (before, plan, store, mut host) = begun(directory.path());
    let applied = apply(&mut host, &store, "c", &plan).unwrap();
    assert!(applied.changed());
    assert_eq!(settle(&mut host, &store, applied, None, &at(1, 1)).unwrap(), Settled::Confirmed);
    let after = host.state.clone();
    assert!(recover(&mut host, &store, &at(1, 1)).unwrap().is_empty());
    assert_eq!(host.state, after);
    assert_ne!(after, before);
}

/// Applied, verified and waiting since second 1.
fn pending(directory: &Path) -> (HostState, SafePlan, Store, FakeHost) {
    let (before, plan, store, mut host) = begun(directory);
    let applied = apply(&mut host, &store, "c", &plan).unwrap();
    let deadline = new("c", &plan).deadline;
    assert_eq!(settle(&mut host, &store, applied, deadline, &at(1, 1)).unwrap(), Settled::Pending);
    (before, plan, store, host)
}

#[test]
fn a_pending_change_waits_until_its_deadline_and_is_taken_back_then() {
    let directory = tempfile::tempdir().unwrap();
    let (before, plan, store, mut host) = pending(directory.path());
    let after = host.state.clone();
    // The agent was killed and started again meanwhile.
    drop(store);
    let store = Store::open(&directory.path().join("state.db")).unwrap();
    assert_eq!(recover(&mut host, &store, &at(119, 1)).unwrap(), []);
    assert_eq!(host.state, after);
    assert!(matches!(store.change_begin(&new("next", &plan)), Err(StoreError::Busy { .. })));
    let recovered = recover(&mut host, &store, &at(120, 1)).unwrap();
    assert_eq!(recovered.iter().map(|change| change.why).collect::<Vec<_>>(), ["not confirmed in time"]);
    assert_eq!(host.state, before);
    let change = store.change("c").unwrap();
    assert_eq!((change.stage, change.detail.as_str()), (ChangeStage::RolledBack, "not confirmed in time"));
    begin(&store, "next", &plan);
}

#[test]
fn either_clock_ends_the_waiting() {
    for (wall, since_boot) in [(120, 2), (1, 120)] {
        let directory = tempfile::tempdir().unwrap();
        let (before, _, store, mut host) = pending(directory.path());
        let wall = Timestamp::UNIX_EPOCH + Duration::from_secs(wall);
        let now = Moment { wall, boot: Boot::number(1), since_boot: Duration::from_secs(since_boot) };
        assert_eq!(recover(&mut host, &store, &now).unwrap().len(), 1);
        assert_eq!(host.state, before);
    }
}

#[test]
fn a_pending_change_does_not_survive_a_reboot() {
    let directory = tempfile::tempdir().unwrap();
    let (before, _, store, mut host) = pending(directory.path());
    let recovered = recover(&mut host, &store, &at(2, 2)).unwrap();
    let why: Vec<_> = recovered.iter().map(|change| change.why).collect();
    assert_eq!(why, ["the host was rebooted before it was confirmed"]);
    assert_eq!(host.state, before);
}

#[test]
fn a_change_that_took_longer_than_it_may_wait_is_taken_back_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (before, plan, store, mut host) = begun(directory.path());
    let applied = apply(&mut host, &store, "c", &plan).unwrap();
    let failed = settle(&mut host, &store, applied, new("c", &plan).deadline, &at(120, 1)).unwrap_err();
    assert!(failed.clean());
    assert_eq!(host.state, before);
    assert_eq!(store.change("c").unwrap().stage, ChangeStage::RolledBack);
}

#[test]
fn taken_back_by_hand_it_is_as_before_and_the_reason_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (before, _, store, mut host) = pending(directory.path());
    let change = store.change("c").unwrap();
    let taken = take_back(&mut host, &store, change, "taken back by root", &at(3, 1));
    assert!(taken.stuck.is_empty() && taken.rolled_back.len() >= 4, "{taken:?}");
    assert_eq!(host.state, before);
    assert_eq!(store.change("c").unwrap().detail, "taken back by root");
}
