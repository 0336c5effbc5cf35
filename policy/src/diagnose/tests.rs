//! Tickets of fail2ban, joined with what enforces them: a line of hosts.deny, a route.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use super::*;
use crate::plan;
use crate::request::Intent;
use crate::subsystem::hosts_access::{Content, Facts, File, HostName, Libwrap};

const ME: &str = "203.0.113.7";

fn source(text: &str) -> Source {
    text.parse().unwrap()
}

fn ask(text: &str) -> Connection {
    Connection { source: source(text), port: 22, user: None }
}

/// What of a path is decided, and not only said.
pub(super) fn decided(path: &Path) -> impl std::fmt::Debug + PartialEq + use<> {
    let stages = path.stages.iter().map(|one| (one.stage, one.verdict, one.trace.iter().map(|line| line.decides).collect()));
    let findings = path.findings.iter().map(|one| (one.cause, one.blocking, one.stage, one.owner.clone(), one.since, one.until));
    (path.verdict, stages.collect::<Vec<(_, _, Vec<bool>)>>(), findings.collect::<Vec<_>>())
}

/// The same of blocks, with the steps that lift them.
pub(super) fn lifted(blocks: &[Block]) -> impl std::fmt::Debug + PartialEq + use<> {
    let steps = |lift: &Lift| match lift {
        Lift::Steps(steps) => Some(steps.clone()),
        Lift::ByHand(_) => None,
    };
    let blocks = blocks.iter().map(|Block { finding: one, lift, .. }| {
        (one.cause, one.blocking, one.stage, one.owner.clone(), one.since, one.until, steps(lift))
    });
    blocks.collect::<Vec<_>>()
}

/// A host without packet filters, whose jails hold one ticket each.
fn banned(tickets: &[(&str, &str)]) -> HostState {
    let jail = |(name, source_text): &(&str, &str)| fail2ban::Jail {
        name: (*name).to_owned(),
        tickets: vec![fail2ban::Ticket::new(source(source_text))],
        others: 0,
        ignore: Vec::new(),
        ignore_self: true,
    };
    let jails = tickets.iter().map(jail).collect();
    let state = fail2ban::State { version: "1.1.0".to_owned(), jails, notes: Vec::new() };
    HostState { fail2ban: Part::Present(state), ..HostState::empty() }
}

fn with_hosts_deny(host: HostState, line: &str) -> HostState {
    let file = |path: &str, content| File { path: path.to_owned(), content, read_only: None };
    let state = hosts_access::State {
        allow: file("/etc/hosts.allow", Content::Missing),
        deny: file("/etc/hosts.deny", Content::Bytes(line.as_bytes().to_vec())),
        libwrap: Libwrap::Linked("in this test".to_owned()),
        facts: Facts { names: BTreeMap::from([(ME.parse().unwrap(), HostName::Unknown)]), ..Facts::default() },
    };
    HostState { hosts_access: Part::Present(state), ..host }
}

fn seen(host: &HostState) -> Vec<(Cause, Stage, Owner, bool)> {
    let blocks = blocks(host, &ask(ME), &mut Needs::new());
    blocks.into_iter().map(|Block { finding: f, .. }| (f.cause, f.stage, f.owner, f.blocking)).collect()
}

#[test]
fn a_line_for_all_daemons_is_that_of_the_jail_that_bans_just_this_address() {
    let jail = Owner::jail("sshd");
    let ticket = |stage, blocking| (Cause::Fail2banBan, stage, jail.clone(), blocking);
    let line = |owner: &Owner| (Cause::HostsDeny, Stage::HostsAccess, owner.clone(), true);
    let host = || banned(&[("recidive", "203.0.113.70"), ("sshd", ME)]);
    for (text, owner) in [
        ("ALL: 203.0.113.7\n", &jail),
        ("ALL:  203.0.113.7 \n", &jail),
        ("sshd: 203.0.113.7\n", &Owner::Nobody),
        ("ALL: 203.0.113.7, 203.0.113.9\n", &Owner::Nobody),
        ("ALL: 203.0.113.\n", &Owner::Nobody),
        ("ALL: 203.0.113.7: deny\n", &Owner::Nobody),
    ] {
        let ticket = if *owner == jail { ticket(Stage::HostsAccess, true) } else { ticket(Stage::Netfilter, false) };
        assert_eq!(seen(&with_hosts_deny(host(), text)), [ticket, line(owner)], "{text}");
    }
    // A ticket that nothing enforces keeps nobody out.
    assert_eq!(seen(&with_hosts_deny(host(), "")), [ticket(Stage::Netfilter, false)]);
    // A line that no ticket made, with a jail's name in it, is nobody's.
    let named = with_hosts_deny(banned(&[]), "ALL: 203.0.113.7 # fail2ban jail sshd\n");
    assert_eq!(seen(&named)[0].2, Owner::Nobody);
}

#[test]
fn a_ban_by_a_route_acts_in_the_stage_of_the_route() {
    let route = route::Route {
        destination: source(ME),
        kind: route::Kind::Blackhole,
        table: 254,
        metric: 0,
        tos: 0,
        protocol: 3,
        via: None,
        device: None,
        preference: None,
        message: vec![1, 2, 3],
    };
    let fact = route::Fact { answer: route::Answer::Refused(route::Kind::Blackhole), routes: vec![route], ways: Vec::new() };
    let facts = BTreeMap::from([(source(ME), fact)]);
    let routes = route::State { facts, ..route::State::default() };
    let host = HostState { route: Part::Present(routes), ..banned(&[("sshd", ME)]) };
    let of = |cause| (cause, Stage::Route, Owner::jail("sshd"), true);
    assert_eq!(seen(&host), [of(Cause::Fail2banBan), of(Cause::RouteBlackhole)]);
}

#[test]
fn an_unban_in_one_jail_leaves_the_others() {
    let host = banned(&[("recidive", ME), ("sshd", ME)]);
    let unban = |jail: Option<&str>| {
        let operation = Intent::Unban { source: source(ME), jail: jail.map(str::to_owned), ignore_for: None, range: false };
        let steps = plan::plan(&operation, &host, 22, &mut Needs::new()).unwrap().steps;
        steps.iter().map(Step::summary).collect::<Vec<_>>()
    };
    assert_eq!(unban(Some("sshd")), ["unban 203.0.113.7 in jail sshd"]);
    assert_eq!(unban(None), ["unban 203.0.113.7 in jail recidive", "unban 203.0.113.7 in jail sshd"]);
}
