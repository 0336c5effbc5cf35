//! Rulesets that jump about: the walk stays as cheap as the ruleset is long, ends with *unknown* where it cannot, and what it
//! remembers of a chain is what it would have found again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::sync::Arc;

use proptest::prelude::*;

use super::evaluate;
use super::tests::{from, host};
use crate::host::{HostState, Needs, Part};
use crate::packet::{Effort, MAX_RULES, Packet};
use crate::subsystem::ipset;
use crate::subsystem::nf_tables::build::*;
use crate::subsystem::nf_tables::evaluate::{Evaluator, Outcome};
use crate::subsystem::nf_tables::expression::{BitwiseOp, Expression, Verdict as V};
use crate::subsystem::nf_tables::{Chain, Family, State};
use crate::subsystem::xtables::evaluate::{self as legacy, Run};
use crate::subsystem::xtables::extension::matches::Match;
use crate::subsystem::xtables::extension::targets::{StandardVerdict, Target};
use crate::subsystem::xtables::{self, Action, Entry, Hook, Rule, Table};
use crate::verdict::Verdict;

/// Chains `c1` to `cN`, each of these jumps to the next; the last one drops what a limit lets through.
fn tower(chains: usize, jumps: usize, undecided: bool) -> State {
    let mut ruleset = Ruleset::new().input(Family::Ip, true).rule(&[jump("c1")]);
    for number in 1..=chains {
        ruleset = ruleset.chain(&format!("c{number}"));
        for _ in 0..jumps {
            let condition = if undecided { limit(10) } else { Vec::new() };
            ruleset = if number == chains {
                ruleset.rule(&[saddr("198.51.100.1"), drop()]).rule(&[limit(5), drop()])
            } else {
                ruleset.rule(&[condition, jump(&format!("c{}", number + 1))])
            };
        }
    }
    ruleset.build()
}

/// What the walk of the input chain costs, in rules, and finds.
fn cost(state: &State) -> (u32, Outcome) {
    let mut needs = Needs::new();
    let mut evaluator = Evaluator::new(state, false, &mut needs);
    let outcome = evaluator.base_chain(0, &Packet::syn(&from("203.0.113.7")));
    (evaluator.effort.spent(), outcome)
}

#[test]
fn fifteen_chains_with_four_undecided_jumps_each_cost_what_they_are_long() {
    for undecided in [true, false] {
        let state = tower(15, 4, undecided);
        let rules: usize = state.chains.iter().map(|chain| chain.rules.len()).sum();
        let (spent, outcome) = cost(&state);
        // Each replayed end costs as much as a rule, and at most a thousand are kept for a chain.
        assert!(spent < 200_000, "{spent} for {rules} rules, and without a memory 4^15");
        assert!(outcome.packet.is_some(), "it may get through");
        assert_eq!(evaluate(&host(state), &from("203.0.113.7"), &mut Needs::new()).verdict, Verdict::Unknown);
    }
}

#[test]
fn five_thousand_rules_that_each_lead_through_fifteen_chains_are_followed() {
    let mut state = tower(15, 1, false);
    let last = state.chains.len() - 1;
    Arc::make_mut(&mut state.chains[last]).rules.truncate(1);
    let deep = state.chains[0].rules[0].clone();
    Arc::make_mut(&mut state.chains[0]).rules = vec![deep; 5000];
    let (spent, outcome) = cost(&state);
    assert!(spent < 10_000, "{spent}");
    assert!(outcome.events.iter().all(|event| event.doubts.is_empty()), "nothing is undecided: {:?}", outcome.events);
    assert_eq!(evaluate(&host(state), &from("203.0.113.7"), &mut Needs::new()).verdict, Verdict::Accept);
}

#[test]
fn what_is_too_much_to_follow_is_unknown_and_names_the_bound() {
    // One rule more in one chain than may be looked at, and it would refuse.
    let ruleset = Ruleset::new().input(Family::Ip, true).rule(&[saddr("198.51.100.1"), drop()]);
    let mut state = ruleset.rule(&[drop()]).build();
    let chain = Arc::make_mut(&mut state.chains[0]);
    let (passes_by, drops) = (chain.rules[0].clone(), chain.rules[1].clone());
    chain.rules = vec![passes_by; usize::try_from(MAX_RULES).unwrap()];
    chain.rules.push(drops);
    let report = evaluate(&host(state), &from("203.0.113.7"), &mut Needs::new());
    assert_eq!(report.verdict, Verdict::Unknown, "{report:?}");
    assert!(format!("{report:?}").contains("too much to follow: more than 2000000 rules"), "{report:?}");
}

/// `mark and ~bit` or `mark or bit`.
fn mark(number: usize, set: bool) -> Vec<Expression> {
    let bit = (1_u32 << number).to_ne_bytes();
    let keep = if set { [0xff; 4] } else { bit.map(|byte| !byte) };
    let flip = if set { bit } else { [0; 4] };
    let keep = std::array::from_fn::<u8, 4, _>(|at| keep[at] & !flip[at]);
    let change = BitwiseOp::MaskXor { mask: keep.to_vec(), xor: flip.to_vec() };
    vec![
        Expression::Meta { key: 3, dreg: 1 },
        Expression::Bitwise { sreg: 1, dreg: 1, len: 4, op: change },
        Expression::MetaSet { key: 3, sreg: 1 },
    ]
}

#[test]
fn chains_that_mark_each_way_through_them_differently_end_with_the_bound() {
    let mut ruleset = Ruleset::new().input(Family::Ip, true).rule(&[jump("c1")]);
    for number in 1..15 {
        let next = format!("c{}", number + 1);
        ruleset = ruleset.chain(&format!("c{number}"));
        ruleset = ruleset.rule(&[mark(number, false), jump(&next)]).rule(&[mark(number, true), jump(&next)]);
    }
    ruleset = ruleset.chain("c15");
    for _ in 0..200 {
        ruleset = ruleset.rule(&[saddr("198.51.100.1"), drop()]);
    }
    let report = evaluate(&host(ruleset.build()), &from("203.0.113.7"), &mut Needs::new());
    assert_eq!(report.verdict, Verdict::Unknown, "{report:?}");
    assert!(format!("{report:?}").contains("too much to follow: more than 2000000 rules"), "{report:?}");
}

fn rule(matches: Vec<Match>, action: Action) -> Arc<Rule> {
    Arc::new(Rule { entry: Entry::ANY, matches, action, counters: (0, 0), save: None })
}

/// The same tower in iptables-legacy.
fn legacy_tower(chains: usize, jumps: usize) -> Table {
    let chain = |name: String, hook, rules| Arc::new(xtables::Chain { name, hook, policy_accept: true, counters: (0, 0), rules });
    let limited = || vec![Match::Limit { average: 100, burst: 5 }];
    let mut all = vec![chain("INPUT".to_owned(), Some(Hook::Input), vec![rule(Vec::new(), Action::Jump("c1".to_owned()))])];
    for number in 1..=chains {
        let action = || {
            if number == chains {
                Action::Target(Target::Verdict(StandardVerdict::Drop))
            } else {
                Action::Jump(format!("c{}", number + 1))
            }
        };
        all.push(chain(format!("c{number}"), None, (0..jumps).map(|_| rule(limited(), action())).collect()));
    }
    Table { v6: false, name: "filter".to_owned(), chains: all, readonly: None }
}

#[test]
fn legacy_chains_that_jump_to_each_other_cost_what_they_are_long() {
    let table = legacy_tower(15, 4);
    let packet = Packet::syn(&from("203.0.113.7"));
    let mut effort = Effort::default();
    let Run { outcomes, .. } = legacy::run(&table, Hook::Input, packet.view(), &ipset::State::new(), &mut effort);
    assert!(effort.spent() < 200_000, "{}", effort.spent());
    assert!(outcomes.len() < 1100, "{}", outcomes.len());
    let state = xtables::State { v4: vec![table], ..xtables::State::default() };
    let host = HostState { xtables: Part::Present(state), ..HostState::empty() };
    assert_eq!(evaluate(&host, &from("203.0.113.7"), &mut Needs::new()).verdict, Verdict::Unknown);
}

/// The chain that a jump leads to has copies, one for each jump: nothing is entered twice.
fn unshared(state: &State) -> State {
    let mut all = vec![state.chains[0].as_ref().clone()];
    let mut next = 0;
    while let Some(chain) = all.get(next).cloned() {
        let mut rules = chain.rules.clone();
        for rule in &mut rules {
            for expression in &mut Arc::make_mut(rule).expressions {
                if let Expression::Verdict(V::Jump(name) | V::Goto(name)) = expression {
                    let original = name.split('/').next().unwrap();
                    let found: &Chain = state.chains.iter().find(|chain| chain.name == original).unwrap();
                    let copy = format!("{original}/{}", all.len());
                    all.push(Chain { name: copy.clone(), ..found.clone() });
                    *name = copy;
                }
            }
        }
        all[next].rules = rules;
        next += 1;
    }
    State { chains: all.into_iter().map(Arc::new).collect(), ..state.clone() }
}

/// What was found, without the names of the chains and the jumps that led there.
fn found(state: &State) -> (Vec<String>, Option<Packet>, Vec<String>) {
    let (_, outcome) = cost(state);
    let frames = |event: &crate::subsystem::nf_tables::evaluate::Event| {
        let of = |frame: &crate::subsystem::nf_tables::evaluate::Frame| {
            let name = state.chains[frame.chain].name.split('/').next().unwrap().to_owned();
            format!("{name} {:?}", frame.rule)
        };
        event.frames.iter().map(of).collect::<Vec<_>>().join(" > ")
    };
    let events = outcome.events.iter().map(|event| format!("{:?} {} {:?}", event.exit, frames(event), event.doubts)).collect();
    (events, outcome.packet, outcome.doubts.iter().map(|doubt| format!("{doubt:?}")).collect())
}

fn statement(deeper: Vec<String>) -> impl Strategy<Value = Vec<Statement>> {
    let condition = prop_oneof![
        3 => Just(Vec::new()),
        3 => Just(limit(10)),
        1 => Just(saddr("203.0.113.7")),
        1 => Just(saddr("198.51.100.1")),
    ];
    let mark = Just(vec![Expression::Immediate { dreg: 1, data: vec![7, 0, 0, 0] }, Expression::MetaSet { key: 3, sreg: 1 }]);
    let mut ends = vec![
        Just(drop()).boxed(),
        Just(accept()).boxed(),
        Just(verdict(V::Return)).boxed(),
        Just(Vec::new()).boxed(),
        mark.boxed(),
    ];
    for name in deeper {
        ends.extend([Just(jump(&name)).boxed(), Just(jump(&name)).boxed(), Just(verdict(V::Goto(name))).boxed()]);
    }
    (condition, prop::strategy::Union::new(ends)).prop_map(|(condition, end)| vec![condition, end])
}

fn jumping() -> impl Strategy<Value = State> {
    let chain = |from: usize| {
        let deeper = (from + 1..4).map(|number| format!("c{number}")).collect();
        prop::collection::vec(statement(deeper), 1..5)
    };
    (chain(0), chain(1), chain(2), chain(3)).prop_map(|(zero, one, two, three)| {
        let mut ruleset = Ruleset::new().input(Family::Ip, true);
        for (number, rules) in [zero, one, two, three].into_iter().enumerate() {
            if number > 0 {
                ruleset = ruleset.chain(&format!("c{number}"));
            }
            for rule in rules {
                ruleset = ruleset.rule(&rule);
            }
        }
        ruleset.build()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_chain_that_is_remembered_does_what_a_copy_of_it_does(state in jumping()) {
        prop_assert_eq!(found(&state), found(&unshared(&state)));
    }
}
