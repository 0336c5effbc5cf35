//! Laws of this room that need no kernel: no bytes can make it panic, steps are their own inverse's inverse, and a chain that is
//! neither as before nor as after is never taken for one of them. What the kernel says is in the workspace's `tests`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
#![allow(clippy::cast_possible_truncation)]

use std::sync::Arc;

use proptest::prelude::*;

use super::evaluate::{End, run};
use super::extension::holds::{Matched, holds};
use super::extension::matches::{InterfaceName, Masked, Match};
use super::extension::targets::{Nat, StandardVerdict, Target};
use super::extension::{render, render_target, targets};
use super::step::{Step, Todo};
use super::{Action, Chain, Entry, Hook, Place, Rule, State, Table, blob, save};
use crate::address::Source;
use crate::host::{HostState, Need, Part};
use crate::link::Link;
use crate::packet::{Doubt, Effort, Interface, On, Packet, Span, Tracking, Tri, View};
use crate::subsystem::ipset;
use crate::subsystem::ipset::SetNames;
use crate::subsystem::ipset::SetReference;
use crate::subsystem::xtables::extension::decode::decode;
use crate::verdict::{Admits, Connection};

const NAMES: [&str; 36] = [
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "multiport",
    "conntrack",
    "state",
    "set",
    "recent",
    "limit",
    "hashlimit",
    "connlimit",
    "addrtype",
    "mac",
    "mark",
    "connmark",
    "comment",
    "owner",
    "time",
    "iprange",
    "tcpmss",
    "length",
    "pkttype",
    "physdev",
    "socket",
    "statistic",
    "quota",
    "cgroup",
    "rpfilter",
    "dscp",
    "tos",
    "ttl",
    "hl",
    "helper",
    "string",
    "",
];
const TARGETS: [&str; 25] = [
    "",
    "standard",
    "ERROR",
    "REJECT",
    "LOG",
    "NFLOG",
    "MARK",
    "CONNMARK",
    "CT",
    "NOTRACK",
    "TCPMSS",
    "TOS",
    "DSCP",
    "CLASSIFY",
    "AUDIT",
    "TRACE",
    "REDIRECT",
    "DNAT",
    "SNAT",
    "MASQUERADE",
    "TPROXY",
    "NFQUEUE",
    "SET",
    "TEE",
    "WHATEVER",
];

fn syn(source: &str) -> View<'static> {
    let connection = Connection { source: source.parse().unwrap(), port: 22, user: None };
    let mut packet = Packet::syn(&connection).arriving(None, Some("192.0.2.1".parse().unwrap()), None);
    packet.tracking = Tracking::NEW;
    Box::leak(Box::new(packet)).view()
}

fn target(target: Target) -> Action {
    Action::Target(target)
}

fn verdict(verdict: StandardVerdict) -> Action {
    target(Target::Verdict(verdict))
}

/// A rule with its text, as if iptables-save had printed it.
fn rule(source: &str, matches: Vec<Match>, action: Action) -> Arc<Rule> {
    let mut entry = Entry::ANY;
    if !source.is_empty() {
        entry.source = Rule::accept(source.parse().unwrap(), Admits::Tcp(22), None).entry.source;
    }
    let mut rule = Rule { entry, matches, action, counters: (0, 0), save: None };
    rule.save = Some(rule.draw(false, &SetNames::new()));
    Arc::new(rule)
}

fn drop_of(source: &str) -> Arc<Rule> {
    rule(source, Vec::new(), verdict(StandardVerdict::Drop))
}

fn chain(name: &str, hook: Option<Hook>, policy_accept: bool, rules: Vec<Arc<Rule>>) -> Arc<Chain> {
    Arc::new(Chain { name: name.to_owned(), hook, policy_accept, counters: (0, 0), rules })
}

fn table(policy_accept: bool, input: Vec<Arc<Rule>>, users: Vec<(&str, Vec<Arc<Rule>>)>) -> Table {
    let mut chains = vec![chain("INPUT", Some(Hook::Input), policy_accept, input)];
    chains.extend(users.into_iter().map(|(name, rules)| chain(name, None, true, rules)));
    Table { v6: false, name: "filter".to_owned(), chains, readonly: None }
}

/// The ends of a table and the positions that decide, `?` where they depend on something.
fn ends(table: &Table, source: &str) -> String {
    let ran = run(table, Hook::Input, syn(source), &ipset::State::new(), &mut Effort::default());
    let one = |outcome: &super::evaluate::Outcome| {
        let end = match &outcome.end {
            End::Accept => "accept",
            End::Drop => "drop",
            End::Reject(_) => "reject",
            End::Misdirected(_) => "misdirected",
            End::Elsewhere(_) => "elsewhere",
            End::Unknown(_) => "unknown",
        };
        let place = format!("{}/{}", outcome.place.chain, outcome.place.position);
        format!("{end} {place}{}", if outcome.depends.is_some() { "?" } else { "" })
    };
    ran.outcomes.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn limit() -> Match {
    Match::Limit { average: 100, burst: 5 }
}

#[test]
fn a_table_is_run_as_the_kernel_runs_it() {
    let jump = |to: &str| Action::Jump(to.to_owned());
    let goto = |to: &str| Action::Goto(to.to_owned());
    let accept = || verdict(StandardVerdict::Accept);
    let back = || verdict(StandardVerdict::Return);
    for (table, source, want) in [
        (table(true, vec![], vec![]), "10.0.0.1", "accept INPUT/1"),
        (table(false, vec![], vec![]), "10.0.0.1", "drop INPUT/1"),
        (table(true, vec![drop_of("10.0.0.1")], vec![]), "10.0.0.1", "drop INPUT/1"),
        (table(true, vec![drop_of("10.0.0.1")], vec![]), "10.0.0.10", "accept INPUT/2"),
        (table(true, vec![drop_of("10.0.0.1")], vec![]), "10.0.0.0/24", "drop INPUT/1?, accept INPUT/2?"),
        (table(true, vec![drop_of("10.0.0.0/8")], vec![]), "10.0.0.0/24", "drop INPUT/1"),
        // A limit that may let it pass.
        (table(false, vec![rule("", vec![limit()], accept())], vec![]), "10.0.0.1", "accept INPUT/1?, drop INPUT/2?"),
        // A limited log changes nothing, so what follows is still certain.
        (
            table(false, vec![rule("", vec![limit()], target(Target::Trace)), rule("", vec![], accept())], vec![]),
            "10.0.0.1",
            "accept INPUT/2",
        ),
        // Jump and return; goto and return to the policy; a chain that is only perhaps entered and does nothing.
        (
            table(
                false,
                vec![rule("", vec![], jump("a")), rule("", vec![], accept())],
                vec![("a", vec![rule("", vec![], back())])],
            ),
            "10.0.0.1",
            "accept INPUT/2",
        ),
        (
            table(false, vec![rule("", vec![], goto("a")), rule("", vec![], accept())], vec![("a", vec![])]),
            "10.0.0.1",
            "drop INPUT/3",
        ),
        (
            table(
                false,
                vec![rule("", vec![limit()], jump("a")), rule("", vec![], accept())],
                vec![("a", vec![rule("", vec![], back()), drop_of("")])],
            ),
            "10.0.0.1",
            "accept INPUT/2",
        ),
        (
            table(
                true,
                vec![rule("", vec![], jump("a"))],
                vec![("a", vec![rule("", vec![], goto("b")), drop_of("")]), ("b", vec![rule("", vec![limit()], back())])],
            ),
            "10.0.0.1",
            "accept INPUT/2",
        ),
        (table(true, vec![rule("", vec![], jump("gone"))], vec![]), "10.0.0.1", "unknown INPUT/1"),
        (
            table(true, vec![rule("", vec![], target(Target::Nfqueue { queue: 0, total: 1, flags: 0 }))], vec![]),
            "10.0.0.1",
            "unknown INPUT/1",
        ),
    ] {
        assert_eq!(ends(&table, source), want, "{table:?}");
    }
}

#[test]
fn a_mark_is_followed_and_forgotten_where_it_is_not_certain() {
    let mark = |value| target(Target::Mark { mask: u32::MAX, value });
    let marked = |value, action| rule("", vec![Match::Mark(Masked { value, mask: u32::MAX, invert: false })], action);
    let drop = || verdict(StandardVerdict::Drop);
    let certain = table(true, vec![rule("", vec![], mark(7)), marked(7, drop())], vec![]);
    assert_eq!(ends(&certain, "10.0.0.1"), "drop INPUT/2");
    let perhaps = table(true, vec![rule("", vec![limit()], mark(7)), marked(7, drop())], vec![]);
    assert_eq!(ends(&perhaps, "10.0.0.1"), "drop INPUT/2?, accept INPUT/3?");
    let either = table(true, vec![rule("", vec![limit()], mark(0)), marked(7, drop())], vec![]);
    assert_eq!(ends(&either, "10.0.0.1"), "accept INPUT/3");
}

#[test]
fn a_redirect_moves_the_destination_and_says_so() {
    let redirect = Target::Nat { kind: Nat::Redirect, flags: 2, addresses: (0, 0), ports: (2222, 2222), base_port: 0 };
    let mut nat = table(true, vec![rule("10.0.0.1", vec![], target(redirect))], vec![]);
    nat.name = "nat".to_owned();
    let ran = run(&nat, Hook::Input, syn("10.0.0.1"), &ipset::State::new(), &mut Effort::default());
    assert_eq!((ran.view.destination_port, ran.view.dnat), (Span::one(2222_u16), Some(true)));
    let ran = run(&nat, Hook::Input, syn("10.0.0.2"), &ipset::State::new(), &mut Effort::default());
    assert_eq!((ran.view.destination_port, ran.view.dnat), (Span::one(22_u16), Some(false)));
    let ran = run(&nat, Hook::Input, syn("10.0.0.0/31"), &ipset::State::new(), &mut Effort::default());
    assert_eq!((ran.view.destination_port, ran.view.dnat), (Span { low: 22, high: 2222 }, None));
}

#[test]
fn what_depends_on_history_is_a_maybe_that_names_it() {
    let recent = Match::Recent {
        name: "SSH".to_owned(),
        operation: 4,
        seconds: 60,
        hits: 4,
        destination: false,
        invert: false,
        mask: None,
    };
    let why = holds(&recent, &syn("10.0.0.1"), &ipset::State::new());
    let text = "-m recent --update --seconds 60 --hitcount 4 --name SSH --rsource";
    assert_eq!(why, Matched::Ask(Need::Recent("SSH".to_owned()), Doubt::about(On::Rate, text)));
    let set = Match::Set { set: SetReference { index: 3, dimensions: 1, flags: 2 }, counters: None };
    let sets = ipset::State { names: SetNames::from([(3, "f2b-sshd".to_owned())]), ..ipset::State::new() };
    let text = "-m set --match-set f2b-sshd src";
    assert_eq!(holds(&set, &syn("10.0.0.1"), &sets), Matched::Ask(Need::Ipset(3), Doubt::on(text)));
}

#[test]
fn an_interface_that_is_not_loopback_is_not_lo_and_may_be_any_other() {
    let name = |name: &str, prefix| InterfaceName { name: name.to_owned(), prefix };
    let eth12 = Interface::Known(Arc::new(Link { name: "eth12".to_owned(), ..Link::default() }));
    for (want, seen, answer) in [
        (name("lo", false), Interface::NotLoopback, Tri::No),
        (name("eth0", false), Interface::NotLoopback, Tri::Maybe),
        (name("l", true), Interface::NotLoopback, Tri::Maybe),
        (name("", true), Interface::NotLoopback, Tri::Yes),
        (name("eth", true), eth12.clone(), Tri::Yes),
        (name("eth1", false), eth12, Tri::No),
        (name("eth0", false), Interface::None, Tri::No),
    ] {
        assert_eq!(super::extension::holds::interface(&want, &seen), answer, "{want:?} {seen:?}");
    }
}

#[test]
fn a_rule_names_exactly_the_address_it_names() {
    let one: Source = "10.0.0.1".parse().unwrap();
    assert!(drop_of("10.0.0.1").names_exactly(false, one));
    assert!(!drop_of("10.0.0.10").names_exactly(false, one));
    assert!(!drop_of("10.0.0.0/24").names_exactly(false, one));
    assert!(!drop_of("").names_exactly(false, one));
    let mut inverted = Rule::clone(&drop_of("10.0.0.1"));
    inverted.entry.invert = 8;
    assert!(!inverted.names_exactly(false, one));
}

fn host(table: Table) -> HostState {
    HostState { xtables: Part::Present(State { v4: vec![table], ..State::default() }), ..HostState::empty() }
}

fn place(position: usize) -> Place {
    Place { v6: false, table: "filter".to_owned(), chain: "INPUT".to_owned(), position }
}

proptest! {
    /// Every step on any chain, equal rules included: predicting it and its inverse gives the first state back, doing it twice
    /// is doing it once, and it holds after it was done and not before.
    #[test]
    fn a_step_and_its_inverse_give_the_first_state_back(
        sources in proptest::collection::vec(0_u8..3, 0..7), at in 0_usize..8, delete in any::<bool>(),
    ) {
        let rules: Vec<_> = sources.iter().map(|last| drop_of(&format!("10.0.0.{last}"))).collect();
        let first = host(table(true, rules, vec![]));
        let state = first.xtables.present().unwrap();
        let step = if delete {
            Step::delete(state, &place(at), None)
        } else {
            Step::accept(state, &place(at), "10.0.0.9".parse().unwrap(), Admits::Tcp(22), None)
        };
        let fits = at >= 1 && at <= sources.len() + usize::from(!delete);
        prop_assert_eq!(step.is_some(), fits);
        let Some(step) = step else { return Ok(()) };
        prop_assert_eq!(step.inverse().inverse(), step.clone());
        let json = serde_json::to_string(&step).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Step>(&json).unwrap(), &step);
        prop_assert!(step.holds(&first).is_err());
        let mut after = first.clone();
        step.predict(&mut after).unwrap();
        prop_assert_ne!(&after, &first);
        prop_assert!(step.holds(&after).is_ok());
        let mut twice = after.clone();
        step.predict(&mut twice).unwrap();
        prop_assert_eq!(&twice, &after);
        step.inverse().predict(&mut after).unwrap();
        prop_assert_eq!(&after, &first);
    }

    /// What is certain for a range is so for every address in it, and what one address meets is among what the range may meet.
    #[test]
    fn a_range_is_judged_as_its_addresses_are(
        input in proptest::collection::vec((0_u8..6, 0_u8..6, any::<bool>()), 0..8),
        user in proptest::collection::vec((0_u8..6, 0_u8..4, any::<bool>()), 0..5),
        policy in any::<bool>(), last in 0_u8..8,
    ) {
        let build = |(source, action, invert): &(u8, u8, bool)| {
            let sources = ["", "10.0.0.0/29", "10.0.0.0/30", "10.0.0.3", "10.0.0.4/31", "10.0.1.0/24"];
            let action = match action {
                0 => verdict(StandardVerdict::Accept),
                1 => verdict(StandardVerdict::Drop),
                2 => verdict(StandardVerdict::Return),
                3 => target(Target::Mark { mask: u32::MAX, value: 1 }),
                4 => Action::Jump("user".to_owned()),
                _ => Action::Goto("user".to_owned()),
            };
            let mut one = Rule::clone(&rule(sources[usize::from(*source)], vec![], action));
            if *invert && *source != 0 {
                one.entry.invert = 8;
            } else if *invert {
                one.matches.push(Match::Mark(Masked { value: 1, mask: 1, invert: false }));
            }
            Arc::new(one)
        };
        let users = vec![("user", user.iter().map(build).collect())];
        let table = table(policy, input.iter().map(build).collect(), users);
        let places = |source: &str| run(&table, Hook::Input, syn(source), &ipset::State::new(), &mut Effort::default()).outcomes;
        let (whole, one) = (places("10.0.0.0/29"), places(&format!("10.0.0.{last}")));
        prop_assert_eq!(one.len(), 1, "a single address is certain: {:?}", one);
        prop_assert!(one[0].depends.is_none());
        let met = |end: &End| whole.iter().any(|may| may.end == *end && may.place == one[0].place);
        prop_assert!(met(&one[0].end), "{:?} is not among {:?}", one, whole);
    }

    #[test]
    fn no_bytes_make_the_decoders_panic(
        v6 in any::<bool>(), revision in 0_u32..5, info in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let view = View { v6, ..syn("10.0.0.1") };
        for name in NAMES {
            let one = decode(v6, name, revision, &info);
            let text = render::match_text(&one, v6, &SetNames::new());
            prop_assert!(text.starts_with("-m "), "{}", text);
            holds(&one, &view, &ipset::State::new());
        }
        for name in TARGETS {
            let one = targets::decode(v6, name, revision, &info);
            let text = render_target::target_text(&one, v6, &SetNames::new());
            prop_assert!(text.starts_with("-j "), "{}", text);
            targets::effect(v6, &one);
        }
    }

    #[test]
    fn no_bytes_make_the_blob_reader_panic(
        v6 in any::<bool>(), info in proptest::collection::vec(any::<u8>(), 0..100),
        entries in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        if let Ok(info) = blob::Info::parse("filter", &info) {
            prop_assert!(blob::parse(v6, "filter", &info, &entries).is_err());
        }
    }

    /// A table as the kernel gives it, with one byte changed: it is read or refused, and never more rules come out than entries
    /// went in.
    #[test]
    fn a_damaged_table_is_read_or_refused(at in 0_usize..2000, byte in any::<u8>(), cut in 0_usize..2000) {
        let (info, mut bytes) = example_blob();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(table) = blob::parse(false, "filter", &info, &bytes) {
            prop_assert!(table.chains.iter().map(|chain| chain.rules.len()).sum::<usize>() < info.entries as usize);
        }
        bytes.truncate(cut % bytes.len());
        prop_assert!(blob::parse(false, "filter", &info, &bytes).is_err());
    }
}

/// INPUT with one jump and a DROP policy, FORWARD and OUTPUT empty, and a user chain with one rule.
fn example_blob() -> (blob::Info, Vec<u8>) {
    let mut bytes = Vec::new();
    let mut entry = |name: &str, body: &[u8]| {
        let start = bytes.len();
        let size = 112 + 32 + body.len();
        let mut one = vec![0_u8; size];
        one[88..90].copy_from_slice(&112_u16.to_ne_bytes());
        one[90..92].copy_from_slice(&(size as u16).to_ne_bytes());
        one[112..114].copy_from_slice(&((32 + body.len()) as u16).to_ne_bytes());
        one[114..114 + name.len()].copy_from_slice(name.as_bytes());
        one[144..].copy_from_slice(body);
        bytes.extend(one);
        start as u32
    };
    let standard = |verdict: i32| [verdict.to_ne_bytes(), [0; 4]].concat();
    // Five standard entries of 152 bytes come before the chain's head of 176.
    let user = 4 * 152 + 176;
    let input = entry("", &standard(user));
    let input_policy = entry("", &standard(-1));
    let forward = entry("", &standard(-2));
    let output = entry("", &standard(-2));
    let mut name = [0_u8; 32];
    name[..3].copy_from_slice(b"f2b");
    entry("ERROR", &name);
    entry("", &standard(-1));
    entry("", &standard(-5));
    let mut end = [0_u8; 32];
    end[..5].copy_from_slice(b"ERROR");
    entry("ERROR", &end);
    let info = blob::Info {
        valid_hooks: 0b1110,
        hook_entry: [0, input, forward, output, 0],
        underflow: [0, input_policy, forward, output, 0],
        entries: 8,
        size: bytes.len() as u32,
    };
    (info, bytes)
}

#[test]
fn a_table_is_read_with_its_chains_policies_and_jumps() {
    let (info, bytes) = example_blob();
    let table = blob::parse(false, "filter", &info, &bytes).unwrap();
    let names: Vec<_> = table.chains.iter().map(|chain| (chain.name.as_str(), chain.policy_accept, chain.rules.len())).collect();
    assert_eq!(names, [("INPUT", false, 1), ("FORWARD", true, 0), ("OUTPUT", true, 0), ("f2b", true, 1)]);
    assert_eq!(table.chains[0].rules[0].action, Action::Jump("f2b".to_owned()));
    assert_eq!(ends(&table, "10.0.0.1"), "drop f2b/1");
}

#[test]
fn a_chain_that_is_neither_before_nor_after_is_a_mismatch() {
    let with = |sources: &[&str]| host(table(true, sources.iter().map(|one| drop_of(one)).collect(), vec![]));
    let planned = with(&["10.0.0.1", "10.0.0.2", "10.0.0.1"]);
    let step = Step::delete(planned.xtables.present().unwrap(), &place(3), None).unwrap();
    let todo = |host: &HostState, step: &Step| step.todo(host.xtables.present().unwrap().v4[0].chain("INPUT").unwrap());
    assert_eq!(todo(&planned, &step), Ok(Todo::Delete(3)));
    assert_eq!(todo(&with(&["10.0.0.3", "10.0.0.1", "10.0.0.2", "10.0.0.1"]), &step), Ok(Todo::Delete(4)));
    assert_eq!(todo(&with(&["10.0.0.1", "10.0.0.2"]), &step), Ok(Todo::Nothing));
    assert!(todo(&with(&["10.0.0.1", "10.0.0.1", "10.0.0.1"]), &step).is_err());
    let undo = step.inverse();
    assert_eq!(todo(&with(&["10.0.0.1", "10.0.0.2"]), &undo), Ok(Todo::Insert(3)));
    assert_eq!(todo(&with(&["10.0.0.3", "10.0.0.1", "10.0.0.2"]), &undo), Ok(Todo::Insert(4)));
    // Both neighbours are needed: behind 10.0.0.2 there was nothing.
    assert!(todo(&with(&["10.0.0.1", "10.0.0.2", "10.0.0.4"]), &undo).is_err());
    assert!(todo(&with(&["10.0.0.2"]), &undo).is_err());
}

#[test]
fn texts_of_a_step_hold_no_counter_and_show_the_line() {
    let state = host(table(true, vec![drop_of("10.0.0.1"), drop_of("10.0.0.2")], vec![]));
    let mut step = Step::delete(state.xtables.present().unwrap(), &place(1), None).unwrap();
    let texts = (step.summary(), step.diff(), step.undo());
    step.before.as_mut().unwrap().counters = (5, 300);
    assert_eq!((step.summary(), step.diff(), step.undo()), texts);
    assert_eq!(texts.0, "delete rule 1 of iptables-legacy chain INPUT in table filter");
    assert_eq!(texts.1, "# iptables-legacy table filter\n--A INPUT -s 10.0.0.1/32 -j DROP\n -A INPUT -s 10.0.0.2/32 -j DROP\n");
}

#[test]
fn text_that_does_not_pair_with_the_table_is_refused() {
    let lines = |text: &str| {
        let mut table = table(true, vec![drop_of("10.0.0.1"), drop_of("10.0.0.2")], vec![("user", vec![])]);
        save::pair(&mut table, &format!("# x\n*filter\n:INPUT ACCEPT [1:2]\n:user - [0:0]\n{text}COMMIT\n")).map(|()| {
            let rules = &table.chains[0].rules;
            (rules[0].save.clone().unwrap(), rules[1].save.clone().unwrap())
        })
    };
    let one = "-A INPUT -s 10.0.0.1/32 -j DROP\n";
    let two = "-A INPUT -s 10.0.0.2/32 -j DROP\n";
    assert_eq!(lines(&format!("{one}{two}")), Ok(("-s 10.0.0.1/32 -j DROP".to_owned(), "-s 10.0.0.2/32 -j DROP".to_owned())));
    for text in [
        one.to_owned(),
        format!("{two}{one}"),
        format!("{one}{two}{two}"),
        format!("{one}-A user -j DROP\n{two}"),
        format!("{one}garbage\n{two}"),
        format!("{one}-A other -j DROP\n"),
        format!("{one}-A INPUT -s 10.0.0.2/32 -m comment --comment \"\u{7}\" -j DROP\n"),
        format!("{one}-A INPUT -s 10.0.0.20/32 -j DROP\n"),
    ] {
        assert!(lines(&text).is_err(), "{text}");
    }
}

#[test]
fn masks_with_holes_are_told_only_for_one_address() {
    let span = |low, high| Span { low, high };
    assert_eq!(Span::one(0x0a00_0001_u32).masked(0x0a00_0001, 0xff00_00ff, 32), Tri::Yes);
    assert_eq!(Span::one(0x0a00_0002_u32).masked(0x0a00_0001, 0xff00_00ff, 32), Tri::No);
    assert_eq!(span(0x0a00_0000, 0x0a00_00ff).masked(0x0a00_0001, 0xff00_00ff, 32), Tri::Maybe);
    assert_eq!(span(0, u128::MAX).masked(0, 0, 128), Tri::Yes);
    // ip_tables.c compares `(address & mask) != value`, so a value outside its mask never matches.
    assert_eq!(Span::one(0x0a00_0001_u32).masked(0x0a00_0001, 0xff00_0000, 32), Tri::No);
}
