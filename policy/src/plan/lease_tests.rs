#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::plan::{Plan, plan_beside};
use crate::request::Intent;
use crate::subsystem::hosts_access::{Content, Facts, File, HostName, Libwrap};
use crate::subsystem::nf_tables::Family;
use crate::subsystem::nf_tables::build::{Ruleset, dport, drop, saddr};

const ME: &str = "203.0.113.7";

fn source(text: &str) -> Source {
    text.parse().unwrap()
}

fn jail(name: &str, ignore: &[&str]) -> fail2ban::Jail {
    let ignore = ignore.iter().map(|entry| (*entry).to_owned()).collect();
    fail2ban::Jail { name: name.to_owned(), tickets: Vec::new(), others: 0, ignore, ignore_self: true }
}

/// Refused by a rule and by hosts.deny; two jails, one of which ignores a range that holds nobody here.
fn host() -> HostState {
    let file = |path: &str, text: &str| File {
        path: path.to_owned(),
        content: Content::Bytes(text.as_bytes().to_vec()),
        read_only: None,
    };
    let mut facts = Facts::default();
    for address in [ME, "203.0.113.8", "203.0.113.77", "203.0.113.200"] {
        facts.names.insert(address.parse().unwrap(), HostName::Unknown);
    }
    HostState {
        fail2ban: Part::Present(fail2ban::State {
            version: "1.1.0".to_owned(),
            jails: vec![jail("dovecot", &["192.0.2.0/24"]), jail("sshd", &[])],
            notes: Vec::new(),
        }),
        hosts_access: Part::Present(hosts_access::State {
            allow: file("/etc/hosts.allow", "# ours\nsshd: 192.0.2.9\n"),
            deny: file("/etc/hosts.deny", "sshd: 203.0.113.\n"),
            libwrap: Libwrap::Linked("libwrap".to_owned()),
            facts,
        }),
        nf_tables: Part::Present(
            Ruleset::new().input(Family::Inet, false).rule(&[dport(80), drop()]).rule(&[saddr("203.0.113.0/24"), drop()]).build(),
        ),
        ..HostState::empty()
    }
}

fn planned(leases: &Leases, operation: &Intent, host: &HostState) -> Plan {
    plan_beside(leases, operation, host, 22, &mut Needs::new()).unwrap()
}

fn allow_of(text: &str) -> Intent {
    Intent::Allow { source: source(text), seconds: 60 }
}

/// Does the steps on the model, and gives new rules a handle as the kernel does.
fn done(plan: &Plan, host: &mut HostState) {
    plan.steps.iter().for_each(|step| step.predict(host).unwrap());
    let rules = host.nf_tables.present_mut().unwrap();
    let next = rules.chains.iter().flat_map(|chain| &chain.rules).map(|rule| rule.handle).max().unwrap() + 1;
    let new = rules.chains.iter_mut().flat_map(|chain| &mut Arc::make_mut(chain).rules).filter(|rule| rule.handle == 0);
    for (handle, rule) in (next..).zip(new) {
        Arc::make_mut(rule).handle = handle;
    }
}

/// Makes a lease on the model.
fn lease(leases: &mut Leases, host: &mut HostState, text: &str) -> Plan {
    leases.next = (leases.running.len() + 1).to_string();
    let plan = planned(leases, &allow_of(text), host);
    done(&plan, host);
    leases.running.push(Running {
        id: leases.next.clone(),
        source: Some(source(text)),
        items: plan.lease.clone().unwrap().items,
    });
    plan
}

fn ended(leases: &mut Leases, host: &mut HostState, id: &str) -> Plan {
    let plan = planned(leases, &Intent::Revoke { id: id.to_owned() }, host);
    done(&plan, host);
    leases.running.retain(|lease| lease.id != id);
    plan
}

fn gets_in(host: &HostState, text: &str) -> bool {
    let connection = Connection { source: source(text), port: 22, user: None };
    admission(host, host, &connection, &mut Needs::new()).0 == Verdict::Accept
}

#[test]
fn a_lease_lets_in_whatever_blocks_and_its_end_gives_the_first_state_back() {
    for text in [ME, "203.0.113.0/25"] {
        let (mut leases, mut now, before) = (Leases::default(), host(), host());
        assert!(!gets_in(&now, text));
        let plan = lease(&mut leases, &mut now, text);
        assert_eq!(plan.opens, [source(text)], "{plan:#?}");
        assert!(gets_in(&now, text) && !gets_in(&now, "203.0.113.208"));
        // Two jails, a rule, a line.
        assert_eq!((plan.steps.len(), leases.running[0].items.len()), (4, 4), "{plan:#?}");
        let end = ended(&mut leases, &mut now, "1");
        assert_eq!((end.closes.as_slice(), end.notes.is_empty()), (&[source(text)][..], true), "{end:#?}");
        assert_eq!(now, before);
    }
}

#[test]
fn the_end_removes_its_own_wherever_it_stands_by_then() {
    let (mut leases, mut now) = (Leases::default(), host());
    lease(&mut leases, &mut now, ME);
    // Others wrote around it, and the firewall was loaded again: other handles, other order, one more chain in between.
    let files = now.hosts_access.present_mut().unwrap();
    let moved = "# ours\nsshd: 192.0.2.9\nftpd: ALL\n# sshfix lease 1\nsshd: 203.0.113.7\n# sshfix lease 10\nsshd: 203.0.113.7\n";
    files.allow.content = Content::Bytes(moved.as_bytes().to_vec());
    let rules = now.nf_tables.present_mut().unwrap();
    let chain = Arc::make_mut(rules.chains.iter_mut().find(|chain| !chain.rules.is_empty()).unwrap());
    chain.rules.reverse();
    for (rule, handle) in chain.rules.iter_mut().zip(100..) {
        Arc::make_mut(rule).handle = handle;
    }
    // A twin that somebody made by hand, and the lease of another.
    let mut twin = chain.rules.iter().find(|rule| rule.comment.is_some()).unwrap().as_ref().clone();
    (twin.handle, twin.comment, twin.userdata) = (200, Some("sshfix lease 10".to_owned()), b"other".to_vec());
    chain.rules.insert(0, Arc::new(twin));

    let end = ended(&mut leases, &mut now, "1");
    assert!(end.notes.is_empty(), "{end:#?}");
    let files = now.hosts_access.present().unwrap();
    let left = "# ours\nsshd: 192.0.2.9\nftpd: ALL\n# sshfix lease 10\nsshd: 203.0.113.7\n";
    assert_eq!(files.allow.content.bytes(), Some(left.as_bytes()));
    let rules = now.nf_tables.present().unwrap();
    let handles: Vec<u64> = rules.chains.iter().flat_map(|chain| &chain.rules).map(|rule| rule.handle).collect();
    assert_eq!(handles, [200, 100, 102], "{handles:?}");
}

#[test]
fn what_was_deleted_already_is_fine_and_what_was_edited_is_left_and_said() {
    let (mut leases, mut now) = (Leases::default(), host());
    lease(&mut leases, &mut now, ME);
    let fresh = host();
    let mut deleted = fresh.clone();
    assert!(ended(&mut leases.clone(), &mut deleted, "1").steps.is_empty());
    assert_eq!(deleted, fresh);

    let files = now.hosts_access.present_mut().unwrap();
    files.allow.content = Content::Bytes(b"# sshfix lease 1\nsshd: 203.0.113.7, 203.0.113.8\n".to_vec());
    let rules = now.nf_tables.present_mut().unwrap();
    for chain in &mut rules.chains {
        for rule in &mut Arc::make_mut(chain).rules {
            let rule = Arc::make_mut(rule);
            if rule.comment.is_some() {
                rule.expressions.pop();
            }
        }
    }
    let before = (now.hosts_access.clone(), now.nf_tables.clone());
    let end = ended(&mut leases, &mut now, "1");
    assert_eq!(end.notes.len(), 2, "{end:#?}");
    assert!(end.notes.iter().all(|note| note.contains("edited and is left")), "{end:#?}");
    assert_eq!((now.hosts_access.clone(), now.nf_tables.clone()), before);
    assert_eq!(end.steps.len(), 2, "the two jails: {end:#?}");
}

#[test]
fn of_two_leases_the_access_holds_until_the_last_one_ends_in_any_order() {
    for order in [["1", "2"], ["2", "1"]] {
        let (mut leases, mut now, before) = (Leases::default(), host(), host());
        lease(&mut leases, &mut now, ME);
        let second = lease(&mut leases, &mut now, ME);
        assert!(second.steps.is_empty(), "{second:#?}");
        ended(&mut leases, &mut now, order[0]);
        assert!(gets_in(&now, ME), "{order:?}");
        ended(&mut leases, &mut now, order[1]);
        assert_eq!(now, before, "{order:?}");
    }
    // A range, and an address in it: each by itself.
    for (first, then) in [("203.0.113.0/25", ME), (ME, "203.0.113.0/25")] {
        for order in [["1", "2"], ["2", "1"]] {
            let (mut leases, mut now, before) = (Leases::default(), host(), host());
            lease(&mut leases, &mut now, first);
            lease(&mut leases, &mut now, then);
            let last = if order[0] == "1" { then } else { first };
            ended(&mut leases, &mut now, order[0]);
            assert!(gets_in(&now, last), "{first} {then} {order:?}");
            ended(&mut leases, &mut now, order[1]);
            assert_eq!(now, before, "{first} {then} {order:?}");
        }
    }
}

#[test]
fn a_narrow_lease_keeps_no_wide_one_open_past_its_end() {
    let (mut leases, mut now, before) = (Leases::default(), host(), host());
    let wide = lease(&mut leases, &mut now, "203.0.113.0/24").lease.unwrap().items;
    let narrow = lease(&mut leases, &mut now, ME);
    assert_eq!(narrow.steps.len(), 4, "two jails, a rule and a line of its own: {narrow:#?}");
    assert!(leases.running[1].items.iter().all(|item| item.is_for(source(ME))), "{:#?}", leases.running[1]);
    let ended_wide = ended(&mut leases, &mut now, "1");
    assert!(ended_wide.notes.is_empty(), "{ended_wide:#?}");
    assert!(gets_in(&now, ME) && !gets_in(&now, "203.0.113.8"));
    ended(&mut leases, &mut now, "2");
    assert_eq!(now, before);

    // One on record that counted on it, from before this was told apart.
    let (mut leases, mut now) = (Leases::default(), host());
    lease(&mut leases, &mut now, "203.0.113.0/24");
    leases.running.push(Running { id: "2".to_owned(), source: Some(source(ME)), items: wide });
    ended(&mut leases, &mut now, "1");
    assert_eq!(now, before);

    // `unban --ignore-for`, which adds nothing but ignoreip.
    let (mut leases, mut now) = (Leases::default(), host());
    lease(&mut leases, &mut now, "203.0.113.0/24");
    leases.next = "2".to_owned();
    let narrow = Intent::Unban { source: source(ME), jail: None, ignore_for: Some(60), range: false };
    let plan = planned(&leases, &narrow, &now);
    let items = &plan.lease.as_ref().unwrap().items;
    assert!(items.len() == 2 && items.iter().all(|item| item.is_for(source(ME))), "{plan:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Leases that lie inside each other, made and ended in any order: who is in one that runs gets in, and nobody else.
    #[test]
    fn exactly_who_is_in_a_lease_that_runs_gets_in(
        wanted in prop::collection::vec(0_usize..5, 1..5),
        ends in prop::collection::vec(any::<prop::sample::Index>(), 5),
    ) {
        let ranges = [ME, "203.0.113.8", "203.0.113.0/25", "203.0.113.128/25", "203.0.113.0/24"];
        let (mut leases, mut now, before) = (Leases::default(), host(), host());
        for one in wanted {
            lease(&mut leases, &mut now, ranges[one]);
        }
        for end in ends {
            for probe in [ME, "203.0.113.8", "203.0.113.77", "203.0.113.200"] {
                let leased = leases.running.iter().filter_map(|lease| lease.source).any(|lease| lease.contains(source(probe)));
                prop_assert_eq!(gets_in(&now, probe), leased, "{} {:#?}", probe, leases.running);
            }
            if leases.running.is_empty() {
                break;
            }
            let id = end.get(&leases.running).id.clone();
            ended(&mut leases, &mut now, &id);
        }
        if leases.running.is_empty() {
            prop_assert_eq!(now, before);
        }
    }
}

#[test]
fn absurd_leases_are_refused_clearly() {
    let leases = Leases { longest: 3600, next: "1".to_owned(), running: Vec::new() };
    for (operation, words) in [
        (Intent::Allow { source: source(ME), seconds: 0 }, "at least a second"),
        (Intent::Allow { source: source(ME), seconds: 3601 }, "at most 3600 seconds"),
        (Intent::Allow { source: source("0.0.0.0/0"), seconds: 60 }, "not everybody"),
        (Intent::Allow { source: source("::/0"), seconds: 60 }, "not everybody"),
        (Intent::Unban { source: source(ME), jail: None, ignore_for: Some(4000), range: false }, "at most 3600 seconds"),
        (Intent::Revoke { id: "7".to_owned() }, "no lease `7` runs"),
    ] {
        let error = plan_beside(&leases, &operation, &host(), 22, &mut Needs::new()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_subsystem_that_cannot_be_read_keeps_the_lease_from_ending_there_only() {
    let (mut leases, mut now) = (Leases::default(), host());
    lease(&mut leases, &mut now, ME);
    now.fail2ban = Part::Unreadable("it does not answer".to_owned());
    let end = end(&now, &leases.running[0], &leases.running, &mut Needs::new());
    assert_eq!((end.steps.len(), end.unread.len()), (2, 2), "{end:#?}");
    now.fail2ban = Part::Absent("gone, and its ignoreip with it".to_owned());
    assert!(super::end(&now, &leases.running[0], &leases.running, &mut Needs::new()).unread.is_empty());
}
