#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::host::block::Lift;
use crate::host::step::Step as AnyStep;

fn source(text: &str) -> Source {
    text.parse().unwrap()
}

fn route(destination: &str, kind: Kind) -> Route {
    Route {
        destination: source(destination),
        kind,
        table: MAIN,
        metric: 0,
        tos: 0,
        protocol: 3,
        via: None,
        device: None,
        preference: None,
        message: vec![1, 2, 3],
    }
}

fn default_route() -> Route {
    Route { via: Some("192.0.2.1".parse().unwrap()), device: Some("eth0".to_owned()), ..route("0.0.0.0/0", Kind::Delivers) }
}

fn host(facts: &[(&str, Answer, Vec<Route>)]) -> HostState {
    let facts = facts
        .iter()
        .map(|(text, answer, routes)| (source(text), Fact { answer: answer.clone(), routes: routes.clone(), ways: Vec::new() }));
    HostState { route: Part::Present(State { facts: facts.collect(), ..State::default() }), ..HostState::empty() }
}

fn ask(text: &str) -> Connection {
    Connection { source: source(text), port: 22, user: None }
}

fn verdict(host: &HostState, text: &str) -> StageReport {
    let mut needs = Needs::new();
    let report = evaluate(host, &ask(text), &mut needs);
    assert!(needs.is_empty(), "{needs:?}");
    report
}

fn lifts(host: &HostState, text: &str) -> Vec<Lift> {
    blocks(host, &ask(text), &mut Needs::new()).into_iter().map(|block| block.lift).collect()
}

#[test]
fn an_address_nobody_asked_about_is_unknown_and_asked_for() {
    let host = host(&[]);
    let mut needs = Needs::new();
    assert_eq!(evaluate(&host, &ask("203.0.113.7"), &mut needs).verdict, Verdict::Unknown);
    assert_eq!(needs, [Need::Route(source("203.0.113.7"))].into());
}

#[test]
fn a_route_is_quoted_as_ip_prints_it() {
    assert_eq!(route("203.0.113.7", Kind::Blackhole).to_string(), "blackhole 203.0.113.7");
    assert_eq!(default_route().to_string(), "default via 192.0.2.1 dev eth0");
    let v6 = Route { device: Some("lo".to_owned()), metric: 1024, preference: Some(0), ..route("2001:db8::7", Kind::Prohibit) };
    assert_eq!(v6.to_string(), "prohibit 2001:db8::7 dev lo metric 1024 pref medium");
    let other = Route { table: 100, protocol: 4, metric: 5, ..route("10.0.0.0/8", Kind::Unreachable) };
    assert_eq!(other.to_string(), "unreachable 10.0.0.0/8 table 100 proto static metric 5");
}

#[test]
fn deleting_the_route_of_one_address_lets_the_next_route_take_it_and_touches_nobody_else() {
    let near = (Answer::Refused(Kind::Blackhole), vec![default_route(), route("203.0.113.8", Kind::Blackhole)]);
    let mut host = host(&[
        ("203.0.113.7", Answer::Refused(Kind::Blackhole), vec![default_route(), route("203.0.113.7", Kind::Blackhole)]),
        ("203.0.113.8", near.0, near.1),
    ]);
    let report = verdict(&host, "203.0.113.7");
    assert_eq!((report.verdict, report.evidence[0].text.as_str()), (Verdict::Refuse, "blackhole 203.0.113.7"));
    let lifts = lifts(&host, "203.0.113.7");
    let [Lift::Steps(steps)] = lifts.as_slice() else { panic!("{lifts:?}") };
    let [step] = steps.as_slice() else { panic!("{steps:?}") };
    assert_eq!(step.touches(), Some(vec![source("203.0.113.7")]));
    assert_eq!(step.inverse().inverse(), *step);
    let json = serde_json::to_string(step).unwrap();
    assert_eq!(serde_json::from_str::<AnyStep>(&json).unwrap(), *step);
    let before = host.clone();
    assert!(step.holds(&host).is_err());
    step.predict(&mut host).unwrap();
    step.holds(&host).unwrap();
    assert_eq!(verdict(&host, "203.0.113.7").verdict, Verdict::Accept);
    assert_eq!(verdict(&host, "203.0.113.8").verdict, Verdict::Refuse);
    step.inverse().predict(&mut host).unwrap();
    assert_eq!(host, before);
}

#[test]
fn a_wider_route_is_left_to_a_person() {
    for own in [vec![], vec![route("203.0.113.7", Kind::Blackhole)]] {
        let mut routes = vec![default_route(), route("203.0.113.0/29", Kind::Blackhole)];
        routes.extend(own);
        let host = host(&[("203.0.113.7", Answer::Refused(Kind::Blackhole), routes)]);
        let lifts = lifts(&host, "203.0.113.7");
        let Some(Lift::ByHand(advice)) = lifts.last() else { panic!("{lifts:?}") };
        for part in
            ["ip route del blackhole 203.0.113.0/29", "ip route add 203.0.113.7 via GATEWAY", "default via 192.0.2.1 dev eth0"]
        {
            assert!(advice.contains(part), "{advice}");
        }
    }
}

#[test]
fn a_wide_blackhole_behind_a_longer_prefix_does_not_matter() {
    let lan = Route { device: Some("eth0".to_owned()), ..route("203.0.113.0/24", Kind::Delivers) };
    let routes = vec![route("203.0.0.0/16", Kind::Blackhole), lan];
    let own = [routes, vec![route("203.0.113.7", Kind::Unreachable)]].concat();
    let host = host(&[("203.0.113.7", Answer::Refused(Kind::Unreachable), own)]);
    let lifts = lifts(&host, "203.0.113.7");
    assert!(matches!(lifts.as_slice(), [Lift::Steps(_)]), "{lifts:?}");
}

#[test]
fn a_refusal_by_no_route_names_policy_rules_and_is_never_open() {
    let host = host(&[
        ("203.0.113.7", Answer::Refused(Kind::Prohibit), vec![default_route()]),
        ("203.0.113.8", Answer::Refused(Kind::Blackhole), vec![default_route()]),
        ("203.0.113.9", Answer::NoRoute, vec![]),
        ("203.0.113.10", Answer::Unknown("nobody knows".to_owned()), vec![]),
    ]);
    for (address, expected) in [
        ("203.0.113.7", Verdict::Refuse),
        ("203.0.113.8", Verdict::Unknown),
        ("203.0.113.9", Verdict::Refuse),
        ("203.0.113.10", Verdict::Unknown),
    ] {
        assert_eq!(verdict(&host, address).verdict, expected, "{address}");
    }
    for address in ["203.0.113.7", "203.0.113.8", "203.0.113.9"] {
        assert!(matches!(lifts(&host, address).as_slice(), [Lift::ByHand(_)]), "{address}");
    }
}

#[test]
fn a_range_with_a_refused_address_in_it_is_unknown_until_that_is_lifted() {
    let goes = || Answer::Goes("203.0.113.0 dev eth0".to_owned());
    let mut host = host(&[("203.0.113.0/24", goes(), vec![route("203.0.113.7", Kind::Blackhole)])]);
    assert_eq!(verdict(&host, "203.0.113.0/24").verdict, Verdict::Unknown);
    let lifts = lifts(&host, "203.0.113.0/24");
    let [Lift::Steps(steps)] = lifts.as_slice() else { panic!("{lifts:?}") };
    steps[0].predict(&mut host).unwrap();
    assert_eq!(verdict(&host, "203.0.113.0/24").verdict, Verdict::Accept);
}

#[test]
fn unreadable_routes_are_unknown() {
    let mut host = host(&[]);
    host.route = Part::Unreadable("no answer".to_owned());
    assert_eq!(verdict(&host, "203.0.113.7").verdict, Verdict::Unknown);
}
