//! Neighbour discovery as a table: which messages are lost, what the host knows of the next hop, what was measured to become of a
//! connection then (`walk/discovery.rs`), and the accepts that open it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use super::tests::host;
use super::{blocks, evaluate, evaluate_rules, judge, plan_accept, trace};
use crate::host::block::Lift;
use crate::host::lease::End;
use crate::host::step::Step;
use crate::host::{HostState, Need, Needs, Part};
use crate::link::{Link, Links};
use crate::plan;
use crate::proof::lockout;
use crate::request::Intent;
use crate::subsystem::ipset::SetNames;
use crate::subsystem::nf_tables::build::*;
use crate::subsystem::nf_tables::expression::{CmpOp, Expression, PayloadBase};
use crate::subsystem::nf_tables::lift::delete_rule;
use crate::subsystem::nf_tables::{Family, State};
use crate::subsystem::route::{self, Answer, Fact, Neighbour, Way};
use crate::subsystem::xtables;
use crate::verdict::cause::Cause;
use crate::verdict::trace::Handshake;
use crate::verdict::{AccessPath, Admits, Connection, PathOrigin, Verdict};

const CLIENT: &str = "2001:db8::7";
const NONE: u16 = 0;
const INCOMPLETE: u16 = 1;
const REACHABLE: u16 = 2;
const STALE: u16 = 4;
const DELAY: u16 = 8;
const FAILED: u16 = 0x20;
const PERMANENT: u16 = 0x80;

fn me() -> Connection {
    Connection { source: CLIENT.parse().unwrap(), port: 22, user: None }
}

/// A host with `2001:db8::1` on eth0, whose answers to the client go there by this gateway, or at once.
fn wired(kernel: State, via: Option<&str>, entry: Option<u16>) -> HostState {
    let via = via.map(|via| via.parse().unwrap());
    let way = Way { from: Some("2001:db8::1".parse().unwrap()), device: 2, via };
    let fact = Fact { answer: Answer::Goes(String::new()), routes: Vec::new(), ways: vec![way] };
    let link = Link {
        index: 2,
        name: "eth0".to_owned(),
        kind: 1,
        group: Some(0),
        up: true,
        resolves: true,
        addresses: vec!["2001:db8::1/64".parse().unwrap(), "fe80::1/64".parse().unwrap()],
        ..Link::default()
    };
    let hop = via.unwrap_or_else(|| CLIENT.parse().unwrap());
    let known = entry.map(|entry| (2, [(hop, Ok(Neighbour(entry)))].into()));
    HostState {
        route: Part::Present(route::State {
            facts: [(CLIENT.parse().unwrap(), fact)].into(),
            links: Some(Arc::new(Links { all: vec![Arc::new(Link::loopback()), Arc::new(link)] })),
            neighbours: known.into_iter().collect(),
            ..route::State::default()
        }),
        ..host(kernel)
    }
}

/// `icmpv6 type KIND`
fn icmpv6(kind: u8) -> Statement {
    vec![
        Expression::Meta { key: 16, dreg: 1 },
        Expression::Cmp { sreg: 1, op: CmpOp::Eq, data: vec![58] },
        Expression::Payload { dreg: 1, base: PayloadBase::Transport, offset: 0, len: 1 },
        Expression::Cmp { sreg: 1, op: CmpOp::Eq, data: vec![kind] },
    ]
}

/// What is lost: `135 in`, `136 out`, ...; all else gets through.
fn loses(messages: &[&str]) -> State {
    let mut rules = Ruleset::new();
    for (direction, hook) in [("in", 1), ("out", 3)] {
        rules = rules.base(Family::Inet, "t", direction, hook, 0, true);
        for message in messages.iter().filter(|message| message.ends_with(direction)) {
            rules = rules.rule(&[icmpv6(message[..3].parse().unwrap()), drop()]);
        }
    }
    rules.build()
}

/// `policy drop`, with the port open to everybody.
fn only_ssh() -> State {
    Ruleset::new().input(Family::Inet, false).rule(&[dport(22), accept()]).build()
}

fn verdict(host: &HostState) -> (Verdict, String) {
    let mut needs = Needs::new();
    let report = evaluate(host, &me(), &mut needs);
    assert!(needs.is_empty(), "{needs:?}");
    (report.verdict, report.detail.as_str().to_owned())
}

#[test]
fn a_lost_message_of_neighbour_discovery_has_the_verdict_that_was_measured() {
    use Verdict::{Accept, Refuse, Unknown};
    for (lost, entry, want) in [
        (&["135 in", "136 in"][..], NONE, Refuse),
        (&["135 in", "136 in"], INCOMPLETE, Refuse),
        (&["135 in", "136 in"], FAILED, Refuse),
        (&["135 in", "135 out"], NONE, Refuse),
        (&["136 out", "136 in"], NONE, Refuse),
        (&["135 in"], NONE, Unknown),
        (&["136 out"], FAILED, Unknown),
        // The host learnt the address from a solicitation that it could not answer.
        (&["136 out"], DELAY, Unknown),
        (&["136 out"], REACHABLE, Accept),
        (&["136 in"], NONE, Unknown),
        (&["135 out"], FAILED, Unknown),
        (&["136 in", "135 out"], STALE, Accept),
        (&["135 in", "136 in"], REACHABLE, Accept),
        (&["135 in", "136 in"], STALE, Accept),
        (&["135 in", "136 in", "135 out", "136 out"], PERMANENT, Accept),
    ] {
        let (said, detail) = verdict(&wired(loses(lost), None, Some(entry)));
        assert_eq!(said, want, "{lost:?} lost, entry {entry:#x}: {detail}");
    }
}

#[test]
fn an_on_link_client_that_nobody_knows_is_refused_by_the_policy_that_drops_its_solicitation() {
    let kernel = only_ssh();
    let mut needs = Needs::new();
    evaluate(&wired(kernel.clone(), None, None), &me(), &mut needs);
    assert_eq!(needs, [Need::Neighbour(2, CLIENT.parse().unwrap())].into(), "by key, and only now");
    let host = wired(kernel.clone(), None, Some(FAILED));
    let report = evaluate(&host, &me(), &mut Needs::new());
    assert_eq!(report.verdict, Verdict::Refuse);
    assert_eq!(
        report.detail,
        "the SYN does not arrive: its neighbour solicitation on eth0 is dropped by the policy, and this host's neighbour entry for it is FAILED"
    );
    let quoted: Vec<String> = report.evidence.iter().map(|one| format!("{}: {}", one.source, one.text)).collect();
    assert_eq!(
        quoted,
        [
            "nft inet filter input policy: type filter hook input priority 0; policy drop;",
            "ip -6 neigh show 2001:db8::7 dev eth0: FAILED"
        ]
    );
    let known = verdict(&wired(kernel.clone(), None, Some(STALE)));
    assert_eq!(known.0, Verdict::Accept);
    assert!(
        known.1.starts_with("accepted; but its neighbour solicitation on eth0 is dropped by the policy: it gets in only while"),
        "{}",
        known.1
    );
    // Where the rules alone count, one address stands for many.
    assert_eq!(evaluate_rules(&host, &me(), &mut Needs::new()).verdict, Verdict::Accept);
    let lines = trace(&host, &me(), &mut Needs::new());
    let at = |line: &crate::verdict::trace::TraceLine| line.at.as_ref().map(|at| at.packet);
    assert_eq!(lines.iter().find(|line| line.decides).and_then(at), Some(Handshake::Solicitation));
}

#[test]
fn no_link_address_is_looked_for_on_links_that_have_none_and_none_of_a_range_or_of_ipv4() {
    let mut host = wired(only_ssh(), None, None);
    for source in ["2001:db8::/64", "203.0.113.7", "::1"] {
        let asked = Connection { source: source.parse().unwrap(), ..me() };
        let mut needs = Needs::new();
        evaluate(&host, &asked, &mut needs);
        assert!(!needs.iter().any(|need| matches!(need, Need::Neighbour(..))), "{source}: {needs:?}");
    }
    let Part::Present(routes) = &mut host.route else { panic!() };
    let plain = |link: &Arc<Link>| Arc::new(Link { resolves: false, ..Link::clone(link) });
    let all = routes.links.as_ref().unwrap().all.iter().map(plain).collect();
    routes.links = Some(Arc::new(Links { all }));
    assert_eq!(verdict(&host), (Verdict::Accept, "accepted".to_owned()));
}

fn summaries(host: &HostState) -> (Vec<String>, HostState) {
    let mut needs = Needs::new();
    let (_, walked) = judge(host, &me(), &mut needs);
    let found = blocks(host, &me(), walked, &mut needs);
    let mut after = host.clone();
    let mut said = Vec::new();
    for block in found {
        let Lift::Steps(steps) = &block.lift else { panic!("{block:?}") };
        for step in steps {
            said.push(step.diff().lines().filter(|line| line.starts_with('+')).collect::<Vec<_>>().join("\n"));
            step.predict(&mut after).unwrap();
            let back = step.inverse();
            assert_eq!(back.inverse(), *step);
        }
    }
    (said, after)
}

#[test]
fn lifting_accepts_the_messages_that_are_lost_from_the_next_hop_and_no_other() {
    let rule = |end: &str, kind: &str| format!("ip6 {end} icmpv6 type nd-neighbor-{kind} accept comment \"sshfix accept\"");
    let (ns, na) = (rule("saddr 2001:db8::7", "solicit"), rule("saddr 2001:db8::7", "advert"));
    for (kernel, via, want) in [
        (only_ssh(), None, vec![ns.clone(), na.clone()]),
        (loses(&["135 in"]), None, vec![ns.clone()]),
        (loses(&["136 in"]), None, vec![na.clone()]),
        (loses(&["136 out"]), None, vec![rule("daddr 2001:db8::7", "advert")]),
        (loses(&["135 out"]), None, vec![rule("daddr ff02::1:ff00:7", "solicit")]),
        (only_ssh(), Some("fe80::9"), vec![rule("saddr fe80::9", "solicit"), rule("saddr fe80::9", "advert")]),
        (only_ssh(), Some("2001:db8::9"), vec![rule("saddr fe80::/10", "solicit"), rule("saddr 2001:db8::9", "advert")]),
    ] {
        let host = wired(kernel, via, Some(NONE));
        assert_ne!(verdict(&host).0, Verdict::Accept);
        let (said, after) = summaries(&host);
        assert_eq!(said.len(), want.len(), "{said:?}");
        for (said, want) in said.iter().zip(&want) {
            assert!(said.contains(want), "{said} is not {want}");
        }
        assert_eq!(verdict(&after), (Verdict::Accept, "accepted".to_owned()), "{said:?}");
    }
}

#[test]
fn an_unban_opens_the_port_and_neighbour_discovery_where_both_are_dropped() {
    let closed = Ruleset::new().input(Family::Inet, false).rule(&[udp_dport(53), accept()]).build();
    let host = wired(closed, None, Some(NONE));
    let (_, walked) = judge(&host, &me(), &mut Needs::new());
    let found = blocks(&host, &me(), walked, &mut Needs::new());
    assert_eq!(found.iter().map(|block| block.finding.cause).collect::<Vec<_>>(), [Cause::NftRule, Cause::NftRule]);
    let (said, after) = summaries(&host);
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].contains("tcp dport 22"), "{said:?}");
    assert_eq!(verdict(&after).0, Verdict::Accept);
    let steps = plan_accept(&host, me().source, 22, Some("a lease"), &mut Needs::new()).unwrap();
    assert_eq!(steps.len(), 3);
    assert!(steps.iter().all(|step| step.diff().contains("a lease")), "{steps:?}");
    assert_eq!(steps.iter().map(|step| step.touches().unwrap().len()).collect::<Vec<_>>(), [1, 0, 0]);
}

#[test]
fn taking_neighbour_discovery_from_a_live_session_is_a_lockout_though_the_kernel_remembers_it() {
    let rules = Ruleset::new().input(Family::Inet, false).rule(&[icmpv6(135), accept()]).rule(&[icmpv6(136), accept()]);
    let kernel = rules.rule(&[dport(22), accept()]).rule(&[udp_dport(53), accept()]).build();
    let host = wired(kernel.clone(), None, Some(REACHABLE));
    let path = AccessPath { source: me().source, user: None, port: 22, origin: PathOrigin::Session };
    let remove = |host: &HostState, index: usize| {
        let state = host.nf_tables.present().unwrap();
        let step = delete_rule(state, &state.chains[0], index, None, &SetNames::new()).unwrap();
        let operation = Intent::FirewallAccept { source: me().source };
        let plan = plan::of_steps(&operation, vec![Step::NfTables(step)], host, 22, &mut Needs::new()).unwrap();
        lockout::prove(plan, host, std::slice::from_ref(&path), &mut Needs::new())
    };
    let Err(lockout) = remove(&host, 0) else { panic!("the solicitation is lost") };
    assert!(lockout.to_string().contains("its neighbour solicitation on eth0 is dropped by the policy"), "{lockout}");
    assert!(remove(&host, 3).is_ok());
    // Where it was lost before, nothing is worse.
    let lost = Ruleset::new().input(Family::Inet, false).rule(&[dport(22), accept()]).rule(&[udp_dport(53), accept()]).build();
    assert!(remove(&wired(lost, None, Some(REACHABLE)), 1).is_ok());
}

#[test]
fn a_lease_by_a_gateway_ends_with_all_of_its_accepts() {
    let mut host = wired(only_ssh(), Some("2001:db8::9"), Some(NONE));
    let steps = plan_accept(&host, me().source, 22, Some("a lease"), &mut Needs::new()).unwrap();
    assert_eq!(steps.len(), 2, "{steps:?}");
    for step in &steps {
        step.predict(&mut host).unwrap();
    }
    let mut end = End::default();
    super::marked(&host, me().source, "a lease", &mut end);
    assert_eq!((end.steps.len(), &end.left), (2, &Vec::new()));
    let gone: Vec<String> = end.steps.iter().map(|step| step.diff().as_str().to_owned()).collect();
    assert!(gone[0].contains("fe80::/10 icmpv6 type nd-neighbor-solicit"), "{gone:?}");
    assert!(gone[1].contains("2001:db8::9 icmpv6 type nd-neighbor-advert"), "{gone:?}");
}

#[test]
fn a_gateway_named_by_a_global_address_teaches_this_host_nothing_by_asking() {
    let ask = |lost: &[&str], entry| verdict(&wired(loses(lost), Some("2001:db8::9"), Some(entry)));
    let (said, detail) = ask(&["136 in"], NONE);
    assert_eq!(said, Verdict::Refuse);
    assert_eq!(
        detail,
        "the answer to the SYN does not leave: the neighbour advertisement of its gateway 2001:db8::9 on eth0 is dropped, and this host \
         has no neighbour entry for the gateway"
    );
    assert_eq!(ask(&["136 in"], STALE).0, Verdict::Accept);
    // It asks from its link-local address, and that is what a rule must let in.
    let from = |source: &str| {
        let rules = Ruleset::new().input(Family::Inet, false).rule(&[dport(22), accept()]);
        rules.rule(&[nfproto(true), saddr(source), accept()]).build()
    };
    assert_eq!(verdict(&wired(from("2001:db8::9"), Some("2001:db8::9"), Some(NONE))), (Verdict::Accept, "accepted".to_owned()));
    let local = verdict(&wired(from("fe80::/10"), Some("2001:db8::9"), Some(NONE)));
    assert_eq!(local.0, Verdict::Refuse, "{}", local.1);
    assert_eq!(verdict(&wired(from("fe80::/10"), Some("fe80::9"), Some(NONE))).0, Verdict::Accept);
}

#[test]
fn ip6tables_rules_are_opened_by_ip6tables_rules() {
    let mut ssh = xtables::Rule::accept("::/0".parse().unwrap(), Admits::Tcp(22), None);
    ssh.save = Some(ssh.draw(true, &SetNames::new()));
    let (name, hook) = ("INPUT".to_owned(), Some(xtables::Hook::Input));
    let chain = xtables::Chain { name, hook, policy_accept: false, counters: (0, 0), rules: vec![Arc::new(ssh)] };
    let table = xtables::Table { v6: true, name: "filter".to_owned(), chains: vec![Arc::new(chain)], readonly: None };
    let mut host = wired(State::default(), None, Some(NONE));
    host.xtables = Part::Present(xtables::State { v6: vec![table], ..xtables::State::default() });
    assert_eq!(verdict(&host).0, Verdict::Refuse);
    let (said, after) = summaries(&host);
    assert_eq!(
        said,
        [
            "+-A INPUT -s 2001:db8::7/128 -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT",
            "+-A INPUT -s 2001:db8::7/128 -p ipv6-icmp -m icmp6 --icmpv6-type 136 -j ACCEPT"
        ]
    );
    assert_eq!(verdict(&after).0, Verdict::Accept);
}
