//! The change machine on the fake host: every fault and every kill ends in the state before or the state after.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use jiff::Timestamp;
use sshfix_policy::host::fake::{FakeHost, Fault};
use sshfix_policy::host::step::Step;
use sshfix_policy::host::{Done, Host, HostState, Needs, Part, Question, StepError};
use sshfix_policy::plan;
use sshfix_policy::proof::lockout::{self, SafePlan};
use sshfix_policy::request::Intent;
use sshfix_policy::subsystem::fail2ban::{self, Ticket};
use sshfix_policy::subsystem::hosts_access::{self, Content, Facts, File, Libwrap};

use crate::change::make::{self, Applied, Begun, Failed, NotBegun, Order};
use crate::change::{recover, retry_stuck, take_back};
use crate::store::{ChangeStage, Store, StoreError};
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
    let intent = Intent::Unban { source: "203.0.113.7".parse().unwrap(), jail: None, ignore_for: None, range: false };
    let mut needs = Needs::new();
    let plan = plan::plan(&intent, host, 22, &mut needs).unwrap();
    assert!(needs.is_empty());
    lockout::prove(plan, host, &[], &mut needs).unwrap()
}

/// So many seconds after the beginning, in this boot of the host.
fn at(seconds: u64, boot: u32) -> Moment {
    let since_boot = Duration::from_secs(seconds);
    Moment { wall: Timestamp::UNIX_EPOCH + since_boot, boot: Boot::number(boot), since_boot }
}

/// How long a change waits for its confirm, where a person confirms it.
const WAITS: Option<Duration> = Some(Duration::from_mins(2));

/// Blocked, and the plan that lifts it.
struct Trial {
    before: HostState,
    plan: SafePlan,
    question: Question,
}

impl Trial {
    fn new() -> Self {
        let before = blocked();
        let plan = planned(&before);
        let sources = ["203.0.113.7".parse().unwrap()].into();
        Self { before, plan, question: Question { sources, port: 22, everybody: false } }
    }

    /// Begins it at 0.
    fn begin<'a, H: Host>(
        &'a self,
        host: &'a mut H,
        (store, id): (&'a Store, &str),
        waits: Option<Duration>,
    ) -> Result<Begun<'a, H>, NotBegun> {
        let Self { before, plan, question } = self;
        let order = Order { id: id.to_owned(), principal: "root", question, read: before, plan, waits, lease: None };
        make::begin(host, store, order, || at(0, 1))
    }

    /// Begins it as `c`, and applies it.
    fn apply<'a, H: Host>(
        &'a self,
        host: &'a mut H,
        store: &'a Store,
        waits: Option<Duration>,
    ) -> Result<Applied<'a, H>, Failed> {
        self.begin(host, (store, "c"), waits).unwrap().apply()
    }

    /// Applied, verified and waiting since second 1.
    fn pending(&self, store: &Store) -> FakeHost {
        let mut host = FakeHost::new(self.before.clone());
        let verified = self.apply(&mut host, store, WAITS).unwrap().verify(|_| true).unwrap();
        assert!(verified.settle(&at(1, 1)).unwrap().deadline.is_some());
        host
    }
}

/// In a folder that ends with the test.
fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = again(&directory);
    (directory, store)
}

/// After another start.
fn again(directory: &tempfile::TempDir) -> Store {
    Store::open(&directory.path().join("state.db")).unwrap()
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
    let trial = Trial::new();
    for fault in [Fault::FailOnce, Fault::FailAfterDoing] {
        for at in 0..trial.plan.steps().len() {
            let (_directory, store) = store();
            let mut host = FakeHost { fail_after: Some(at), fault, ..FakeHost::new(trial.before.clone()) };
            let failed = trial.apply(&mut host, &store, None).unwrap_err();
            assert!(failed.clean(), "{failed:?}");
            assert_eq!(failed.failure.step, at + 1);
            assert_eq!(host.state, trial.before, "{fault:?} at step {at}");
            assert_eq!(store.change("c").unwrap().stage, ChangeStage::RolledBack);
            assert!(store.unfinished_changes().unwrap().is_empty(), "a failed change does not wedge the next");
        }
    }
}

#[test]
fn a_rollback_that_fails_too_is_stuck_and_tried_again() {
    let (trial, (_directory, store)) = (Trial::new(), store());
    let mut host = FakeHost { fail_after: Some(2), fault: Fault::FailForEver, ..FakeHost::new(trial.before.clone()) };
    let failed = trial.apply(&mut host, &store, None).unwrap_err();
    assert!(!failed.clean());
    assert_eq!(failed.failure.stuck.len(), 3, "the two that were done and the one that may have been: {failed:?}");
    assert_ne!(host.state, trial.before);
    host.fail_after = None;
    let next = trial.begin(&mut host, (&store, "next"), None);
    assert!(matches!(next, Err(NotBegun::NotStored(StoreError::Stuck { .. }))), "nothing else is changed meanwhile");
    let why = store.change("c").unwrap().detail;
    let mut retried = Reader { host, store: &store, seen: Vec::new() };
    assert_eq!(retry_stuck(&mut retried, &store, &at(1, 1)).unwrap(), []);
    let Reader { host, seen, .. } = retried;
    assert!(!seen.is_empty() && seen.iter().all(|detail| detail.ends_with(&why)), "`{why}` is to be read meanwhile: {seen:?}");
    assert_eq!(host.state, trial.before);
}

/// Reads what is said of the change while it is taken back.
struct Reader<'a> {
    host: FakeHost,
    store: &'a Store,
    seen: Vec<String>,
}

impl Host for Reader<'_> {
    fn observe(&mut self, question: &Question) -> HostState {
        self.host.observe(question)
    }

    fn lookup(&mut self, state: &mut HostState, needs: &Needs) {
        self.host.lookup(state, needs);
    }

    fn apply(&mut self, step: &Step) -> Result<Done, StepError> {
        self.seen.push(self.store.change("c").unwrap().detail);
        self.host.apply(step)
    }
}

#[test]
fn a_host_that_others_changed_since_it_was_read_is_not_changed() {
    /// Changed by others.
    #[derive(Debug)]
    struct Drifted(FakeHost);
    impl Host for Drifted {
        fn observe(&mut self, question: &Question) -> HostState {
            self.0.observe(question)
        }

        fn lookup(&mut self, _: &mut HostState, _: &Needs) {}

        fn apply(&mut self, step: &Step) -> Result<Done, StepError> {
            self.0.apply(step)
        }

        fn unchanged(&mut self, _: &HostState) -> Result<(), StepError> {
            Err(StepError::Drifted("hosts.deny".to_owned()))
        }
    }
    let (trial, (_directory, store)) = (Trial::new(), store());
    let mut host = Drifted(FakeHost::new(trial.before.clone()));
    let begun = trial.begin(&mut host, (&store, "c"), None);
    assert!(matches!(begun, Err(NotBegun::Drifted(_))), "{begun:?}");
    assert_eq!(host.0.applied, 0);
    assert!(store.changes(1).unwrap().is_empty(), "nothing was begun");
}

#[test]
fn what_is_said_to_be_done_and_is_not_found_is_taken_back() {
    /// Does not do the step with this number, and says that it did.
    #[derive(Debug)]
    struct Liar(FakeHost, usize);
    impl Host for Liar {
        fn observe(&mut self, question: &Question) -> HostState {
            self.0.observe(question)
        }

        fn lookup(&mut self, _: &mut HostState, _: &Needs) {}

        fn apply(&mut self, step: &Step) -> Result<Done, StepError> {
            if self.0.applied == self.1 {
                self.0.applied += 1;
                return Ok(Done::Changed);
            }
            self.0.apply(step)
        }
    }
    let trial = Trial::new();
    for lie in 0..trial.plan.steps().len() {
        let (_directory, store) = store();
        let mut host = Liar(FakeHost::new(trial.before.clone()), lie);
        let failed = trial.apply(&mut host, &store, None).unwrap().verify(|_| true).unwrap_err();
        assert_eq!((failed.failure.step, failed.failure.summary.as_str(), failed.drifted), (0, "verify", false));
        assert!(failed.seen.left.is_some(), "what still blocks is said");
        assert_eq!(host.0.state, trial.before, "step {lie}: {failed:?}");
        assert_eq!(store.change("c").unwrap().stage, ChangeStage::RolledBack);
    }
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
    let trial = Trial::new();
    for after_doing in [false, true] {
        for dies_at in 0..trial.plan.steps().len() {
            let mut mortal = Mortal { host: FakeHost::new(trial.before.clone()), dies_at, after_doing };
            let (directory, store) = store();
            let killed = catch_unwind(AssertUnwindSafe(|| trial.apply(&mut mortal, &store, None).is_ok()));
            assert!(killed.is_err());
            drop(store);
            let store = again(&directory);
            let mut host = FakeHost::new(mortal.host.state);
            let lines = recover(&mut host, &store, &at(1, 1)).unwrap();
            assert_eq!(lines.len(), 1);
            assert_eq!(host.state, trial.before, "killed at {dies_at}, after doing: {after_doing}: {lines:?}");
            assert!(recover(&mut host, &store, &at(1, 1)).unwrap().is_empty());
        }
    }
}

#[test]
fn a_confirmed_change_is_never_recovered() {
    let (trial, (_directory, store)) = (Trial::new(), store());
    let mut host = FakeHost::new(trial.before.clone());
    let verified = trial.apply(&mut host, &store, None).unwrap().verify(|_| true).unwrap();
    let settled = verified.settle(&at(1, 1)).unwrap();
    assert!(settled.changed && settled.deadline.is_none(), "{settled:?}");
    assert_eq!(store.change("c").unwrap().stage, ChangeStage::Confirmed);
    let after = host.state.clone();
    assert!(recover(&mut host, &store, &at(1, 1)).unwrap().is_empty());
    assert_eq!(host.state, after);
    assert_ne!(after, trial.before);
}

#[test]
fn a_pending_change_waits_until_its_deadline_and_is_taken_back_then() {
    let (trial, (directory, store)) = (Trial::new(), store());
    let mut host = trial.pending(&store);
    let after = host.state.clone();
    // The agent was killed and started again meanwhile.
    drop(store);
    let store = again(&directory);
    assert_eq!(recover(&mut host, &store, &at(119, 1)).unwrap(), []);
    assert_eq!(host.state, after);
    let next = trial.begin(&mut host, (&store, "next"), None);
    assert!(matches!(next, Err(NotBegun::NotStored(StoreError::Busy { .. }))), "{next:?}");
    let recovered = recover(&mut host, &store, &at(120, 1)).unwrap();
    assert_eq!(recovered.iter().map(|change| change.why).collect::<Vec<_>>(), ["not confirmed in time"]);
    assert_eq!(host.state, trial.before);
    let change = store.change("c").unwrap();
    assert_eq!((change.stage, change.detail.as_str()), (ChangeStage::RolledBack, "not confirmed in time"));
    assert!(trial.begin(&mut host, (&store, "next"), None).is_ok());
}

#[test]
fn either_clock_ends_the_waiting() {
    for (wall, since_boot) in [(120, 2), (1, 120)] {
        let (trial, (_directory, store)) = (Trial::new(), store());
        let mut host = trial.pending(&store);
        let wall = Timestamp::UNIX_EPOCH + Duration::from_secs(wall);
        let now = Moment { wall, boot: Boot::number(1), since_boot: Duration::from_secs(since_boot) };
        assert_eq!(recover(&mut host, &store, &now).unwrap().len(), 1);
        assert_eq!(host.state, trial.before);
    }
}

#[test]
fn a_pending_change_does_not_survive_a_reboot() {
    let (trial, (_directory, store)) = (Trial::new(), store());
    let mut host = trial.pending(&store);
    let recovered = recover(&mut host, &store, &at(2, 2)).unwrap();
    let why: Vec<_> = recovered.iter().map(|change| change.why).collect();
    assert_eq!(why, ["the host was rebooted before it was confirmed"]);
    assert_eq!(host.state, trial.before);
}

#[test]
fn a_change_that_took_longer_than_it_may_wait_is_taken_back_at_once() {
    let (trial, (_directory, store)) = (Trial::new(), store());
    let mut host = FakeHost::new(trial.before.clone());
    let verified = trial.apply(&mut host, &store, WAITS).unwrap().verify(|_| true).unwrap();
    let failed = verified.settle(&at(120, 1)).unwrap_err();
    assert!(failed.clean());
    assert_eq!(host.state, trial.before);
    assert_eq!(store.change("c").unwrap().stage, ChangeStage::RolledBack);
}

#[test]
fn taken_back_by_hand_it_is_as_before_and_the_reason_is_kept() {
    let (trial, (_directory, store)) = (Trial::new(), store());
    let mut host = trial.pending(&store);
    let change = store.change("c").unwrap();
    let taken = take_back(&mut host, &store, change, "rolled back by root", &at(3, 1));
    assert!(taken.stuck.is_empty() && taken.rolled_back.len() >= 4, "{taken:?}");
    assert_eq!(host.state, trial.before);
    assert_eq!(store.change("c").unwrap().detail, "rolled back by root");
}
