//! The change machine on the fake host: every fault and every kill ends in the state before or the state after.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use jiff::Timestamp;
use sshfix_policy::fake::{FakeHost, Fault};
use sshfix_policy::host::{Done, Host, HostState, Needs, Part, Question, StepError};
use sshfix_policy::lockout::{self, SafePlan};
use sshfix_policy::plan;
use sshfix_policy::request::Operation;
use sshfix_policy::step::Step;
use sshfix_policy::subsystem::fail2ban::{self, Ticket};
use sshfix_policy::subsystem::hosts_access::{self, Content, Facts, File, Libwrap};

use crate::change::{apply, confirm, recover, retry_stuck};
use crate::store::{ChangeStage, NewChange, Store};

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
        at: Timestamp::UNIX_EPOCH,
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
        nf_tables: Part::Absent("test".to_owned()),
        xtables: Part::Absent("test".to_owned()),
        ipset: sshfix_policy::subsystem::ipset::State::new(),
        listener: Part::Absent("test".to_owned()),
        route: Part::Absent(String::new()),
        ufw: None,
    }
}

fn planned(host: &HostState) -> SafePlan {
    let operation = Operation::Unban { source: "203.0.113.7".parse().unwrap(), jail: None, ignore_for: None };
    let mut needs = Needs::new();
    let plan = plan::plan(&operation, host, 22, &mut needs).unwrap();
    assert!(needs.is_empty());
    lockout::prove(plan, host, &[], &mut needs).unwrap()
}

fn begin(store: &Store, id: &str, plan: &SafePlan) {
    let change = NewChange {
        id: id.to_owned(),
        principal: "root".to_owned(),
        operation: plan.plan().operation.clone(),
        digest: plan.plan().digest(),
        steps: plan.steps().to_vec(),
        started_at: Timestamp::UNIX_EPOCH,
        deadline: None,
        lease: None,
    };
    store.change_begin(&change).unwrap();
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
            assert_eq!(failed.0.step, at + 1);
            assert_eq!(host.state, before, "{fault:?} at step {at}");
            assert_eq!(store.change("c").unwrap().stage, ChangeStage::RolledBack);
            assert!(store.unfinished_changes().unwrap().is_empty(), "a failed change does not wedge the next");
        }
    }
}

#[test]
fn a_rollback_that_fails_too_is_stuck_and_tried_again() {
    let before = blocked();
    let plan = planned(&before);
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    begin(&store, "c", &plan);
    let mut host = FakeHost { fail_after: Some(2), fault: Fault::FailForEver, ..FakeHost::new(before.clone()) };
    let failed = apply(&mut host, &store, "c", &plan).unwrap_err();
    assert!(!failed.clean());
    assert_eq!(failed.0.stuck.len(), 3, "the two that were done and the one that may have been: {failed:?}");
    assert_ne!(host.state, before);
    host.fail_after = None;
    assert_eq!(retry_stuck(&mut host, &store).unwrap(), Vec::<String>::new());
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
            let lines = recover(&mut host, &store).unwrap();
            assert_eq!(lines.len(), 1);
            assert_eq!(host.state, before, "killed at {dies_at}, after doing: {after_doing}: {lines:?}");
            assert!(recover(&mut host, &store).unwrap().is_empty());
        }
    }
}

#[test]
fn a_confirmed_change_is_never_recovered() {
    let before = blocked();
    let plan = planned(&before);
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    begin(&store, "c", &plan);
    let mut host = FakeHost::new(before.clone());
    let applied = apply(&mut host, &store, "c", &plan).unwrap();
    assert!(applied.changed());
    confirm(&store, &applied).unwrap();
    let after = host.state.clone();
    assert!(recover(&mut host, &store).unwrap().is_empty());
    assert_eq!(host.state, after);
    assert_ne!(after, before);
}
