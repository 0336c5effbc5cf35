#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::reply::{
    ChangeStage, ChangeState, ChangesSchema, Confirm, ErrorCode, JailsSchema, LeasesSchema, LockedOut, PlanSchema, StepEvent,
};
use crate::request::grants::Grants;
use crate::request::{Intent, Operation};
use crate::verdict::{PathOrigin, Verdict};

const NARROW: &str = "[[grant]]\nprincipal = \"alice\"\nactions = [\"*\"]\nnetworks = [\"203.0.113.0/24\"]\n";

fn scope(policy: &str, asked: Action) -> Scope {
    let grants = Grants::parse(policy).unwrap();
    Scope::new("alice", asked, grants.naming("alice").into_iter().map(|(_, grant)| grant.clone()).collect())
}

fn source(text: &str) -> Source {
    text.parse().unwrap()
}

fn path(source: &str, user: &str, origin: PathOrigin) -> PathDocument {
    let (before, after) = (Verdict::Accept, Verdict::Accept);
    PathDocument {
        source: source.to_owned(),
        user: Some(user.to_owned()),
        before,
        after,
        origin: Some(origin),
        sshd: Vec::new(),
        risks: Vec::new(),
    }
}

fn plan() -> PlanDocument {
    let operation = Operation::Intent(Intent::HostsDeny { source: source("203.0.113.9"), daemon: None });
    PlanDocument {
        schema: PlanSchema::V1,
        digest: "sha256:00".to_owned(),
        operation,
        steps: vec![StepDocument {
            subsystem: Subsystem::HostsAccess,
            summary: "edit /etc/hosts.deny".to_owned(),
            diff: Text::quote(Quote::HostsDiff, "--- /a\n+++ /a\n@@ -1 +1 @@\n-sshd: 198.51.100.7\n+sshd: 203.0.113.9"),
            undo: String::new(),
            kept: false,
        }],
        opens: vec![source("198.51.100.0/24")],
        closes: vec![source("203.0.113.9"), source("198.51.100.7")],
        paths: vec![
            path("203.0.113.8", "root", PathOrigin::Session),
            path("198.51.100.7", "root", PathOrigin::Session),
            path("198.51.100.8", "alice", PathOrigin::Requester),
            path("198.51.100.0/24", "admin", PathOrigin::Keep),
        ],
        other_paths: 0,
        other_sources: 0,
        confirm: Confirm::Required,
        alternatives: Vec::new(),
        verdict: None,
        stages: Vec::new(),
        notes: vec!["198.51.100.7 tried 3 times".into()],
    }
}

fn shown(body: Body, scope: &Scope) -> String {
    serde_json::to_string(&redacted(body, scope)).unwrap()
}

#[test]
fn of_a_plan_others_are_only_counted() {
    let Body::Plan(seen) = redacted(Body::Plan(plan()), &scope(NARROW, Action::HostsDeny)) else { panic!() };
    assert_eq!((seen.paths.len(), seen.other_paths), (1, 3));
    assert_eq!((seen.opens.len(), seen.closes.len(), seen.other_sources), (0, 1, 2));
    assert_eq!(seen.digest, "sha256:00", "`--plan` still works");
    assert!(!serde_json::to_string(&seen).unwrap().contains("198.51.100"), "{seen:#?}");
}

#[test]
fn who_may_ask_about_everybody_sees_all_and_every_document_stays_as_it_was() {
    for everybody in ["", "networks = [\"0.0.0.0/0\", \"::/0\"]"] {
        let policy = format!("[[grant]]\nprincipal = \"alice\"\nactions = [\"hosts-deny\"]\n{everybody}");
        assert_eq!(redacted(Body::Plan(plan()), &scope(&policy, Action::HostsDeny)), Body::Plan(plan()));
        // That is no grant to see what other actions show.
        assert!(!shown(Body::Plan(plan()), &scope(&policy, Action::Unban)).contains("198.51.100"));
    }
}

#[test]
fn paths_of_users_that_no_grant_names_are_only_counted() {
    let policy = format!("{NARROW}users = [\"backup\"]");
    let Body::Plan(seen) = redacted(Body::Plan(plan()), &scope(&policy, Action::HostsDeny)) else { panic!() };
    assert_eq!((seen.paths.len(), seen.other_paths), (0, 4));
}

#[test]
fn an_error_about_another_says_only_that_there_is_one() {
    let error = |source: &str| {
        let mut error = ErrorDocument::new(ErrorCode::Lockout, format!("root from {source} by rule x"), "keep it");
        error.guarded = Some(Box::new(Guarded {
            names: Names::Login { source: self::source(source), user: Some("root".to_owned()) },
            message: "1 other way in".to_owned(),
            advice: "ask".to_owned(),
        }));
        error.plan = Some(Box::new(plan()));
        error.locked_out = Some(Box::new(LockedOut {
            source: source.to_owned(),
            user: Some("root".to_owned()),
            origin: PathOrigin::Keep,
            verdict: Verdict::Refuse,
        }));
        Body::Error(error)
    };
    let narrow = scope(NARROW, Action::HostsDeny);
    let Body::Error(seen) = redacted(error("198.51.100.7"), &narrow) else { panic!() };
    assert_eq!((seen.message.as_str(), seen.advice.as_str(), &seen.guarded), ("1 other way in", "ask", &None));
    assert_eq!(seen.locked_out, None);
    assert_eq!(seen.plan.unwrap().other_paths, 3);
    assert!(shown(error("203.0.113.8"), &narrow).contains("root from 203.0.113.8 by rule x"));
    let all = scope("[[grant]]\nprincipal = \"alice\"\nactions = [\"*\"]", Action::HostsDeny);
    let Body::Error(seen) = redacted(error("198.51.100.7"), &all) else { panic!() };
    assert_eq!((seen.message.as_str(), seen.guarded), ("root from 198.51.100.7 by rule x", None));
    assert!(seen.locked_out.is_some());
}

#[test]
fn of_the_changes_of_others_there_is_the_id_the_state_and_the_deadline() {
    let change = |principal: &str, about: &str| ChangeDocument {
        id: "0a1b2c".to_owned(),
        state: ChangeStage::Pending,
        principal: principal.to_owned(),
        operation: Some(Operation::Intent(Intent::HostsDeny { source: source(about), daemon: None })),
        digest: "sha256:00".to_owned(),
        started: jiff::Timestamp::UNIX_EPOCH,
        deadline: Some(jiff::Timestamp::UNIX_EPOCH),
        seconds_left: Some(9),
        finished: None,
        detail: format!("about {about}"),
        steps: vec![ChangeStep {
            subsystem: Subsystem::HostsAccess,
            summary: format!("deny {about}"),
            undo: String::new(),
            event: StepEvent::Planned,
            detail: String::new(),
        }],
        events: Vec::new(),
    };
    let all = vec![change("bob", "198.51.100.7"), change("bob", "203.0.113.7"), change("alice", "198.51.100.7")];
    let body = Body::Changes(Changes { schema: ChangesSchema::V1, changes: all.clone() });
    let Body::Changes(seen) = redacted(body, &scope(NARROW, Action::Changes)) else { panic!() };
    let other = &seen.changes[0];
    assert_eq!((other.id.as_str(), other.state, other.seconds_left), ("0a1b2c", ChangeStage::Pending, Some(9)));
    assert!(other.deadline.is_some() && other.operation.is_none() && other.steps.is_empty());
    assert!(other.digest.is_empty() && other.detail.is_empty());
    assert_eq!(seen.changes[1..], all[1..]);
}

#[test]
fn of_jails_bans_and_leases_those_elsewhere_are_counted() {
    let ban = |about: &str| Ban { source: source(about), by: "fail2ban jail sshd".to_owned(), since: None, until: None };
    let jail = Jail {
        name: "sshd".to_owned(),
        banned: vec![ban("203.0.113.7"), ban("198.51.100.7"), ban("0.0.0.0/0")],
        others: 0,
        ignore: vec!["127.0.0.0/8".to_owned(), "198.51.100.0/24".to_owned(), "203.0.113.8".to_owned()],
    };
    let body = Body::Jails(Jails { schema: JailsSchema::V1, version: None, jails: vec![jail], notes: Vec::new() });
    let Body::Jails(seen) = redacted(body, &scope(NARROW, Action::Fail2banJails)) else { panic!() };
    let jail = &seen.jails[0];
    assert_eq!((jail.banned.len(), jail.ignore.as_slice(), jail.others), (2, &["203.0.113.8".to_owned()][..], 3));

    let lease = |id: &str, principal: &str, about: &str| LeaseDocument {
        id: id.to_owned(),
        summary: format!("{about} gets in"),
        ends: jiff::Timestamp::UNIX_EPOCH,
        principal: principal.to_owned(),
        change: String::new(),
        made: None,
        parts: Vec::new(),
        ungranted: false,
    };
    let leases = vec![lease("1", "bob", "198.51.100.7"), lease("2", "bob", "203.0.113.7"), lease("3", "alice", "198.51.100.7")];
    let body = Body::Leases(Leases { schema: LeasesSchema::V1, leases, others: 0, notes: Vec::new() });
    let Body::Leases(seen) = redacted(body, &scope(NARROW, Action::Leases)) else { panic!() };
    assert_eq!((seen.leases.iter().map(|lease| lease.id.as_str()).collect::<Vec<_>>(), seen.others), (vec!["2", "3"], 1));
}

#[test]
fn who_decides_about_the_changes_of_others_sees_them() {
    let body = || {
        Body::Change(Change {
            schema: crate::reply::ChangeSchema::V1,
            id: "0a1b2c".to_owned(),
            state: ChangeState::Confirmed,
            changed: true,
            deadline: None,
            plan: Box::new(plan()),
            failure: None,
            besides: false,
            verdict: None,
            stages: Vec::new(),
            notes: vec!["198.51.100.7".into()],
        })
    };
    let any = scope("[[grant]]\nprincipal = \"alice\"\nactions = [\"confirm-any\"]", Action::Confirm);
    assert_eq!(redacted(body(), &any), body());
    assert!(!shown(body(), &scope(NARROW, Action::Confirm)).contains("198.51.100"));
}
