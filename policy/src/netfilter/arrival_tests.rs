//! Rules on interfaces and on the host's own addresses: which way in a connection takes, and what holds of all of them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use super::evaluate;
use super::tests::{from, host};
use crate::host::{HostState, Need, Needs, Part};
use crate::link::{Link, Links};
use crate::subsystem::nf_tables::build::*;
use crate::subsystem::nf_tables::expression::{CmpOp, Expression, PayloadBase};
use crate::subsystem::nf_tables::{Family, State};
use crate::subsystem::route::{self, Answer, Fact, Way};
use crate::verdict::{StageReport, Verdict};

fn link(index: u32, name: &str, address: &str) -> Arc<Link> {
    let addresses = vec![address.parse().unwrap()];
    Arc::new(Link { index, name: name.to_owned(), kind: 1, group: Some(0), up: true, addresses, ..Link::default() })
}

/// Two interfaces; answers from either address to 203.0.113.7 leave by this one.
fn routed(kernel: State, by: u32) -> HostState {
    let own = ["192.0.2.1", "198.51.100.1"];
    let ways = own.map(|from| Way { from: Some(from.parse().unwrap()), device: by, via: None });
    let fact = Fact { answer: Answer::Goes(String::new()), routes: Vec::new(), ways: ways.to_vec() };
    let all = vec![Arc::new(Link::loopback()), link(2, "eth0", "192.0.2.1/24"), link(3, "eth1", "198.51.100.1/24")];
    HostState {
        route: Part::Present(route::State {
            facts: [("203.0.113.7".parse().unwrap(), fact)].into(),
            links: Some(Arc::new(Links { all })),
            ..route::State::default()
        }),
        ..host(kernel)
    }
}

fn report(host: &HostState, source: &str) -> StageReport {
    let mut needs = Needs::new();
    let report = evaluate(host, &from(source), &mut needs);
    assert!(needs.is_empty(), "{needs:?}");
    report
}

fn only_by_eth0() -> State {
    Ruleset::new().input(Family::Inet, false).rule(&[iifname("eth0"), dport(22), accept()]).build()
}

/// `ip daddr ADDRESS`
fn daddr(address: [u8; 4]) -> Statement {
    vec![
        Expression::Payload { dreg: 1, base: PayloadBase::Network, offset: 16, len: 4 },
        Expression::Cmp { sreg: 1, op: CmpOp::Eq, data: address.to_vec() },
    ]
}

#[test]
fn a_syn_comes_in_where_answers_to_it_leave_and_the_detail_says_so() {
    let open = report(&routed(only_by_eth0(), 2), "203.0.113.7");
    assert_eq!(open.verdict, Verdict::Accept);
    assert_eq!(open.detail, "accepted (coming in by eth0, where answers to it leave)");
    let closed = report(&routed(only_by_eth0(), 3), "203.0.113.7");
    assert_eq!(closed.verdict, Verdict::Refuse);
    assert!(closed.detail.contains("by eth1"), "{}", closed.detail);
}

#[test]
fn a_range_may_come_in_anywhere_so_a_rule_for_one_interface_leaves_it_unknown() {
    let range = report(&routed(only_by_eth0(), 2), "203.0.113.0/24");
    assert_eq!(range.verdict, Verdict::Unknown);
    assert!(range.detail.contains("where it comes in: by eth1"), "{}", range.detail);
}

#[test]
fn a_rule_for_one_of_the_hosts_addresses_leaves_open_to_which_the_connection_goes() {
    let one = Ruleset::new().input(Family::Inet, false).rule(&[daddr([192, 0, 2, 1]), dport(22), accept()]).build();
    let some = report(&routed(one, 2), "203.0.113.7");
    assert_eq!(some.verdict, Verdict::Unknown);
    assert!(some.detail.contains("to 198.51.100.1"), "{}", some.detail);
    let both = Ruleset::new().input(Family::Inet, false).rule(&[daddr([192, 0, 2, 1]), accept()]);
    let both = both.rule(&[daddr([198, 51, 100, 1]), accept()]).build();
    assert_eq!(report(&routed(both, 2), "203.0.113.7").verdict, Verdict::Accept);
    let foreign = Ruleset::new().input(Family::Inet, true).rule(&[daddr([192, 0, 2, 99]), drop()]).build();
    assert_eq!(report(&routed(foreign, 2), "203.0.113.7").verdict, Verdict::Accept);
}

#[test]
fn interfaces_are_asked_for_only_where_a_rule_looks_at_them() {
    let ask = |state: State, source: &str| {
        let mut needs = Needs::new();
        let host = HostState { route: Part::Present(route::State::default()), ..host(state) };
        evaluate(&host, &from(source), &mut needs);
        needs
    };
    let plain = || Ruleset::new().input(Family::Inet, false).rule(&[dport(22), accept()]).build();
    assert_eq!(ask(plain(), "203.0.113.7"), Needs::new());
    let source = "203.0.113.7".parse().unwrap();
    assert_eq!(ask(only_by_eth0(), "203.0.113.7"), [Need::Route(source)].into());
    assert_eq!(ask(only_by_eth0(), "203.0.113.0/24"), [Need::Links].into());
}

/// `eth0` with a public address, and a tunnel with a private one; answers from either to this client leave by `eth0`.
fn tunnelled(kernel: State, client: &str) -> HostState {
    let own = ["192.0.2.1", "10.8.0.1"];
    let ways = own.map(|from| Way { from: Some(from.parse().unwrap()), device: 2, via: None });
    let fact = Fact { answer: Answer::Goes(String::new()), routes: Vec::new(), ways: ways.to_vec() };
    let all = vec![Arc::new(Link::loopback()), link(2, "eth0", "192.0.2.1/24"), link(3, "wg0", "10.8.0.1/24")];
    let facts = [(client.parse().unwrap(), fact)].into();
    let routes = route::State { facts, links: Some(Arc::new(Links { all })), ..route::State::default() };
    HostState { route: Part::Present(routes), ..host(kernel) }
}

#[test]
fn nothing_brings_a_public_client_to_the_private_address_of_another_interface() {
    let kernel = || Ruleset::new().input(Family::Inet, true).rule(&[daddr([10, 8, 0, 1]), drop()]).build();
    assert_eq!(report(&tunnelled(kernel(), "203.0.113.7"), "203.0.113.7").verdict, Verdict::Accept);
    assert_eq!(
        report(&tunnelled(kernel(), "203.0.113.0/24"), "203.0.113.0/24").verdict,
        Verdict::Unknown,
        "it may come by the tunnel"
    );
    // One of a private network may well be routed there.
    let inside = report(&tunnelled(kernel(), "172.16.0.9"), "172.16.0.9");
    assert_eq!(inside.verdict, Verdict::Unknown);
    assert!(inside.detail.contains("by eth0 to 10.8.0.1"), "{}", inside.detail);
    // And so is the address of the interface it comes in by.
    let own = Ruleset::new().input(Family::Inet, true).rule(&[daddr([192, 0, 2, 1]), drop()]).build();
    assert_eq!(report(&tunnelled(own, "203.0.113.7"), "203.0.113.7").verdict, Verdict::Refuse);
}

/// `br0` with the host's address over `eth0` and perhaps a second port.
fn bridged(kernel: State, ports: &[&str]) -> HostState {
    let way = Way { from: Some("192.0.2.1".parse().unwrap()), device: 2, via: None };
    let fact = Fact { answer: Answer::Goes(String::new()), routes: Vec::new(), ways: vec![way] };
    let bridge = Link { driver: "bridge".to_owned(), ..Link::clone(&link(2, "br0", "192.0.2.1/24")) };
    let port = |(index, name): (u32, &&str)| {
        let name = (*name).to_owned();
        Arc::new(Link { index, name, kind: 1, group: Some(0), master: Some(2), up: true, ..Link::default() })
    };
    let all = [Arc::new(Link::loopback()), Arc::new(bridge)].into_iter().chain((3..).zip(ports).map(port)).collect();
    let facts = [("203.0.113.7".parse().unwrap(), fact)].into();
    let routes = route::State { facts, links: Some(Arc::new(Links { all })), ..route::State::default() };
    HostState { route: Part::Present(routes), ..host(kernel) }
}

#[test]
fn what_comes_to_a_bridge_passes_its_chains_and_there_comes_in_by_the_port() {
    let verdict = |rule: &[Statement], ports: &[&str]| {
        let kernel = Ruleset::new().input(Family::Bridge, true).rule(rule).build();
        report(&bridged(kernel, ports), "203.0.113.7").verdict
    };
    assert_eq!(verdict(&[saddr("203.0.113.7"), drop()], &["eth0"]), Verdict::Refuse);
    assert_eq!(verdict(&[saddr("203.0.113.8"), drop()], &["eth0"]), Verdict::Accept);
    assert_eq!(verdict(&[iifname("eth0"), drop()], &["eth0"]), Verdict::Refuse);
    assert_eq!(verdict(&[iifname("br0"), drop()], &["eth0"]), Verdict::Accept);
    assert_eq!(verdict(&[iifname("eth0"), drop()], &["eth0", "tap0"]), Verdict::Unknown);
    // A host without a bridge has nothing to do with such chains.
    let kernel = Ruleset::new().input(Family::Bridge, true).rule(&[drop()]).build();
    assert_eq!(report(&routed(kernel, 2), "203.0.113.7").verdict, Verdict::Accept);
}
