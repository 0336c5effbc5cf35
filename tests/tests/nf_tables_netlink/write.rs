//! A step and its inverse leave the ruleset as it was, byte for byte; a step that no longer fits changes nothing.

use super::*;
use sshfix_policy::host::{Done, StepError};
use sshfix_policy::subsystem::nf_tables::expression::{BitwiseOp, CmpOp, Expression, PayloadBase, Verdict};
use sshfix_policy::subsystem::nf_tables::{Rule, Step, same};
use std::sync::atomic::{AtomicBool, Ordering};

/// Everything there is, with counters, without handles (they are new after every undo) and without time left. Elements are
/// sorted: a set has no order, and the kernel shows those of concatenated ranges as they came.
fn listing() -> String {
    let nft = run("/usr/sbin/nft", &["list", "ruleset"], "");
    let mut still = String::new();
    let mut rest = nft.as_str();
    while let Some((before, elements)) = rest.split_once("elements = {") {
        let (elements, after) = elements.split_once(" }\n").unwrap();
        let without_time = |element: &str| element.split(" expires ").next().unwrap().trim().to_owned();
        let mut elements: Vec<String> = elements.split(',').map(without_time).collect();
        elements.sort();
        still.extend([before, "elements = { ", &elements.join(", "), " }\n"]);
        rest = after;
    }
    still.push_str(rest);
    if !still.contains("table ip filter") {
        return still;
    }
    // Shows what nft cannot: the contents of xt matches.
    let saved = ["/usr/sbin/iptables-nft-save", "/usr/sbin/ip6tables-nft-save"].map(|save| {
        let all = run(save, &["-c", "-t", "filter"], "");
        all.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
    });
    format!("{still}\n{}", saved.join("\n"))
}

fn rule_step(chain: &Chain, next: Option<u64>, before: Option<&Rule>, after: Option<&Rule>) -> Step {
    let others = before.or(after).map_or(0, |rule| same::others(&chain.rules, rule));
    Step::Rule {
        family: chain.family,
        table: chain.table.clone(),
        chain: chain.name.clone(),
        next,
        others,
        before: before.cloned(),
        after: after.cloned(),
        touches: None,
        text: "a rule".to_owned(),
    }
}

fn element_step(set: &SetKey, before: Option<&Element>, after: Option<&Element>) -> Step {
    Step::Element {
        set: set.clone(),
        before: before.cloned(),
        after: after.cloned(),
        touches: None,
        text: "an element".to_owned(),
    }
}

/// Applies the step and takes it back, each twice: the second time there is nothing to do.
fn there_and_back(ruleset: &mut Ruleset, step: &Step) {
    // As it comes back from the journal.
    let step: Step = serde_json::from_str(&serde_json::to_string(step).unwrap()).unwrap();
    let before = listing();
    ruleset.check(&step).unwrap_or_else(|error| panic!("{error}: {step:?}"));
    assert_eq!(listing(), before, "a dry run changed something");
    assert_eq!(ruleset.apply(&step), Ok(Done::Changed), "{step:?}");
    assert_ne!(listing(), before, "{step:?}");
    assert_eq!(ruleset.apply(&step), Ok(Done::Already), "{step:?}");
    let inverse = step.inverse();
    assert_eq!(ruleset.apply(&inverse), Ok(Done::Changed), "{inverse:?}");
    assert_eq!(listing(), before, "{step:?}");
    assert_eq!(ruleset.apply(&inverse), Ok(Done::Already), "{inverse:?}");
    // And once more, on the rule that has another handle now; a fresh agent knows only the journal.
    let mut fresh = Ruleset::new();
    assert_eq!(fresh.apply(&step), Ok(Done::Changed), "{step:?}");
    assert_eq!(fresh.apply(&inverse), Ok(Done::Changed), "{inverse:?}");
    assert_eq!(listing(), before, "{step:?}");
}

fn delete_and_undo_every_rule(at_least: usize, kept: usize) {
    let mut ruleset = Ruleset::new();
    let (mut deleted, mut refused) = (0, 0);
    let places: Vec<(Family, String, String, usize)> = observe(&mut ruleset)
        .chains
        .iter()
        .flat_map(|chain| (0..chain.rules.len()).map(|index| (chain.family, chain.table.clone(), chain.name.clone(), index)))
        .collect();
    for (family, table, name, index) in places {
        let state = observe(&mut ruleset);
        let chain = state.chains.iter().find(|one| (one.family, &one.table, &one.name) == (family, &table, &name)).unwrap();
        let rule = &chain.rules[index];
        let next = chain.rules.get(index + 1).map(|next| next.handle);
        let step = rule_step(chain, next, Some(rule), None);
        let owns = |expression: &Expression| match expression {
            Expression::Lookup { set, .. } => set.starts_with("__"),
            Expression::Verdict(Verdict::Jump(chain)) => chain.starts_with("__"),
            // `tcp option maxseg size set` and `osf name`: the kernel dumps them with flags that it does not accept.
            Expression::Opaque { name, dreg } => name == "osf" || (name == "exthdr" && dreg.is_none()),
            _ => false,
        };
        if name.starts_with("__chain") || rule.expressions.iter().any(owns) {
            let before = listing();
            assert!(matches!(ruleset.apply(&step), Err(StepError::Failed(_))), "{rule:?}");
            assert_eq!(listing(), before);
            refused += 1;
        } else {
            there_and_back(&mut ruleset, &step);
            deleted += 1;
        }
    }
    assert!(deleted >= at_least && refused == kept, "deleted {deleted}, refused {refused}");
}

#[test]
fn every_kind_of_nft_rule_is_deleted_and_put_back() {
    in_namespace(|| {
        rulesets::load_nft();
        delete_and_undo_every_rule(60, 6);
    });
}

#[test]
fn every_kind_of_iptables_rule_is_deleted_and_put_back() {
    in_namespace(|| {
        rulesets::load_iptables();
        delete_and_undo_every_rule(50, 0);
    });
}

const SETS: &str = "table inet f {
    counter cnt { }
    chain other { }
    set hash { type ipv4_addr; elements = { 203.0.113.7 comment \"x\", 203.0.113.70 } }
    set six { type ipv6_addr; flags interval; elements = { 2001:db8::/32, fe80::1, fff0::/12, ::/96 } }
    set ranges { type ipv4_addr; flags interval; elements = { 0.0.0.0/8, 10.0.0.0/24, 10.0.1.0/24, 10.0.2.0/24 comment \"c\",
        10.0.3.5, 10.0.5.4, 10.0.5.5, 10.0.5.6, 203.0.113.0-203.0.113.99, 250.0.0.0/8, 255.255.0.0/16 } }
    set merged { type ipv4_addr; flags interval; auto-merge; elements = { 10.0.0.0/24, 10.0.1.0/24, 203.0.113.7 } }
    set timed { type ipv4_addr; flags timeout; elements = { 203.0.113.7 timeout 1h, 203.0.113.70 } }
    set defaulttime { type ipv4_addr; flags timeout; timeout 2h; elements = { 203.0.113.7 timeout 1h, 203.0.113.70 } }
    set timedranges { type ipv4_addr; flags timeout, interval; timeout 2h; elements = { 203.0.113.0/24, 198.51.100.0/24 timeout 1h } }
    set counted { type ipv4_addr; counter; elements = { 203.0.113.7 counter packets 5 bytes 300 comment \"x\" } }
    set limited { type ipv4_addr; flags dynamic; elements = { 203.0.113.7 limit rate 5/minute } }
    set pair { type ipv4_addr . inet_service; elements = { 203.0.113.7 . 22, 203.0.113.7 . 23 } }
    set pairs { type ipv4_addr . inet_service; flags interval; elements = { 203.0.113.0/24 . 20-29, 198.51.100.7 . 22 } }
    set six_pairs { type ipv6_addr . inet_proto . inet_service; flags interval, timeout;
        elements = { 2001:db8::/32 . tcp . 22 timeout 1h comment \"p\", 2001:db9::1 . tcp . 20-30 } }
    set ports { type inet_service; flags interval; elements = { 22, 80-90, 65535 } }
    set marks { type mark; elements = { 0x2a } }
    set names { type ifname; elements = { \"eth0\", \"lo\" } }
    set wild { type ifname; flags interval; elements = { \"eth*\" } }
    map verdicts { type ipv4_addr : verdict; flags interval; elements = { 203.0.113.0/25 : drop, 203.0.113.128/25 : jump other } }
    map values { type ipv4_addr : mark; elements = { 203.0.113.7 comment \"m\" : 0x2a } }
    map areas { type ipv4_addr : ipv4_addr; flags interval; elements = { 10.0.0.0/24 : 10.0.0.1, 10.0.1.0/24 : 10.0.0.2 } }
    map objects { type ipv4_addr : counter; elements = { 203.0.113.7 : \"cnt\" } }
    map pairmap { type ipv4_addr . inet_service : verdict; flags interval; elements = { 203.0.113.0/24 . 22 : goto other } }
    set rest { type ipv4_addr; flags interval; elements = { 203.0.113.7, * } }
    map restmap { type ipv4_addr : verdict; elements = { 203.0.113.7 : accept, * : drop } } }";

#[test]
fn every_kind_of_element_is_deleted_and_put_back() {
    in_namespace(|| {
        nft(SETS);
        let mut ruleset = Ruleset::new();
        let sets: Vec<SetKey> = observe(&mut ruleset).sets.iter().map(|set| set.key.clone()).collect();
        let mut count = 0;
        for set in &sets {
            for element in dump(&mut ruleset, set) {
                there_and_back(&mut ruleset, &element_step(set, Some(&element), None));
                count += 1;
            }
        }
        assert_eq!(count, 51);
    });
}

#[test]
fn an_address_is_cut_out_of_a_range_and_the_range_comes_back_whole() {
    in_namespace(|| {
        nft(SETS);
        let mut ruleset = Ruleset::new();
        let ranges = set("f", "ranges");
        let whole = find(&mut ruleset, &ranges, &[203, 0, 113, 7]).unwrap();
        let part =
            |from: u8, to: u8| Element { key: vec![203, 0, 113, from], key_end: Some(vec![203, 0, 113, to]), ..whole.clone() };
        let steps = [
            element_step(&ranges, Some(&whole), None),
            element_step(&ranges, None, Some(&part(0, 6))),
            element_step(&ranges, None, Some(&part(8, 99))),
        ];
        let before = listing();
        for step in &steps {
            assert_eq!(ruleset.apply(step), Ok(Done::Changed));
        }
        assert!(listing().contains("203.0.113.0-203.0.113.6, 203.0.113.8-203.0.113.99"), "{}", listing());
        assert_eq!(find(&mut ruleset, &ranges, &[203, 0, 113, 7]), None);
        for step in steps.iter().rev() {
            assert_eq!(ruleset.apply(&step.inverse()), Ok(Done::Changed));
        }
        assert_eq!(listing(), before);
    });
}

#[test]
fn an_element_keeps_the_time_it_had_left() {
    in_namespace(|| {
        nft("table inet f { set s { type ipv4_addr; flags timeout; elements = { 203.0.113.7 timeout 1h expires 10m } } }");
        let mut ruleset = Ruleset::new();
        let timed = set("f", "s");
        let element = find(&mut ruleset, &timed, &[203, 0, 113, 7]).unwrap();
        let step = element_step(&timed, Some(&element), None);
        assert_eq!(ruleset.apply(&step), Ok(Done::Changed));
        assert_eq!(ruleset.apply(&step.inverse()), Ok(Done::Changed));
        let back = find(&mut ruleset, &timed, &[203, 0, 113, 7]).unwrap();
        assert_eq!(back.timeout_ms, Some(3_600_000));
        assert!(back.expires_ms.is_some_and(|left| left <= 600_000 && left > 480_000), "{back:?}");
    });
}

/// `tcp dport 22 ip saddr 203.0.113.7 counter accept comment "sshfix"`, as the planner builds it.
fn accept_rule() -> Rule {
    Rule {
        handle: 0,
        expressions: vec![
            Expression::Meta { key: 15, dreg: 1 },
            Expression::Cmp { sreg: 1, op: CmpOp::Eq, data: vec![2] },
            Expression::Meta { key: 16, dreg: 1 },
            Expression::Cmp { sreg: 1, op: CmpOp::Eq, data: vec![6] },
            Expression::Payload { dreg: 1, base: PayloadBase::Transport, offset: 2, len: 2 },
            Expression::Cmp { sreg: 1, op: CmpOp::Eq, data: vec![0, 22] },
            Expression::Payload { dreg: 1, base: PayloadBase::Network, offset: 12, len: 4 },
            Expression::Bitwise {
                sreg: 1,
                dreg: 1,
                len: 4,
                op: BitwiseOp::MaskXor { mask: vec![255, 255, 255, 254], xor: vec![0; 4] },
            },
            Expression::Cmp { sreg: 1, op: CmpOp::Eq, data: vec![203, 0, 113, 6] },
            Expression::Lookup { set: "s".to_owned(), sreg: 1, dreg: None, invert: true },
            Expression::Counter { packets: 0, bytes: 0 },
            Expression::Verdict(Verdict::Accept),
        ],
        comment: Some("sshfix".to_owned()),
        raw_expressions: Vec::new(),
        userdata: b"\x00\x07sshfix\x00".to_vec(),
        compat: None,
    }
}

#[test]
fn a_rule_that_sshfix_builds_stands_where_the_step_says_and_goes_again() {
    in_namespace(|| {
        let mut ruleset = Ruleset::new();
        for place in 0..3 {
            nft("flush ruleset
                 table inet f { set s { type ipv4_addr; }
                 chain in { type filter hook input priority 0; tcp dport 22 drop; tcp dport 23 drop; } }");
            let state = observe(&mut ruleset);
            let full = chain(&state, "f", "in");
            let step = rule_step(full, full.rules.get(place).map(|next| next.handle), None, Some(&accept_rule()));
            there_and_back(&mut ruleset, &step);
            let before = listing();
            assert_eq!(ruleset.apply(&step), Ok(Done::Changed));
            let state = observe(&mut ruleset);
            let rules = &chain(&state, "f", "in").rules;
            assert_eq!((rules.len(), rules[place].comment.as_deref()), (3, Some("sshfix")));
            assert_eq!(rules[place].expressions, accept_rule().expressions);
            let shown = "tcp dport 22 ip saddr 203.0.113.6/31 ip saddr & 255.255.255.254 != @s counter packets 0 bytes 0 accept comment \"sshfix\"";
            assert!(listing().contains(shown), "{}", listing());
            // Somebody puts a rule between it and the next: it is found all the same.
            nft(&format!("add rule inet f in position {} tcp dport 24 drop", rules[place].handle));
            assert_eq!(ruleset.apply(&step.inverse()), Ok(Done::Changed));
            assert_eq!(listing().replace("\t\ttcp dport 24 drop\n", ""), before);
        }
    });
}

#[test]
fn an_empty_chain_takes_a_rule_and_gives_it_back() {
    in_namespace(|| {
        nft("table inet f { set s { type ipv4_addr; }
             chain empty { } }");
        let mut ruleset = Ruleset::new();
        let state = observe(&mut ruleset);
        there_and_back(&mut ruleset, &rule_step(chain(&state, "f", "empty"), None, None, Some(&accept_rule())));
    });
}

#[test]
fn twins_and_neighbours_deleted_from_the_last_to_the_first_all_come_back() {
    in_namespace(|| {
        nft("table inet f { chain in { type filter hook input priority 0;
               tcp dport 21 drop; tcp dport 22 drop; tcp dport 22 drop; tcp dport 23 drop; tcp dport 22 drop; } }");
        let mut ruleset = Ruleset::new();
        let before = listing();
        let mut steps = Vec::new();
        while let state = observe(&mut ruleset)
            && let full = chain(&state, "f", "in")
            && let Some(last) = full.rules.last()
        {
            let step = rule_step(full, None, Some(last), None);
            assert_eq!(ruleset.apply(&step), Ok(Done::Changed));
            assert_eq!(ruleset.apply(&step), Ok(Done::Already));
            steps.push(step);
        }
        assert_eq!(steps.len(), 5);
        for step in steps.iter().rev() {
            assert_eq!(ruleset.apply(&step.inverse()), Ok(Done::Changed));
            assert_eq!(ruleset.apply(&step.inverse()), Ok(Done::Already));
        }
        assert_eq!(listing(), before);
    });
}

#[test]
fn a_rule_is_replaced_in_place_and_back() {
    in_namespace(|| {
        nft("table inet f { set s { type ipv4_addr; }
             chain in { type filter hook input priority 0; tcp dport 21 drop; tcp dport 22 drop; tcp dport 23 drop; } }");
        let mut ruleset = Ruleset::new();
        let state = observe(&mut ruleset);
        let full = chain(&state, "f", "in");
        let step = rule_step(full, Some(full.rules[2].handle), Some(&full.rules[1]), Some(&accept_rule()));
        there_and_back(&mut ruleset, &step);
    });
}

/// Nothing was changed, and the reply says that the plan no longer fits.
fn drifts(ruleset: &mut Ruleset, step: &Step) {
    let before = listing();
    let answer = ruleset.apply(step);
    assert!(matches!(answer, Err(StepError::Drifted(_))), "{answer:?}: {step:?}");
    assert_eq!(listing(), before);
}

#[test]
fn a_step_on_what_somebody_changed_drifts_and_changes_nothing() {
    in_namespace(|| {
        nft(SETS);
        nft("add chain inet f in { type filter hook input priority 0; }
             add rule inet f in tcp dport 22 drop
             add rule inet f in tcp dport 23 drop");
        let mut ruleset = Ruleset::new();
        let state = observe(&mut ruleset);
        let full = chain(&state, "f", "in");
        let ask = &mut |name: &str, key: &[u8]| find(&mut Ruleset::new(), &set("f", name), key).unwrap();

        // The single address became part of a range, and the other way round.
        let one = ask("ranges", &[10, 0, 3, 5]);
        let range = ask("ranges", &[203, 0, 113, 7]);
        nft("delete element inet f ranges { 10.0.3.5, 203.0.113.0-203.0.113.99 }
             add element inet f ranges { 10.0.3.0/24, 203.0.113.0-203.0.113.50 }");
        drifts(&mut ruleset, &element_step(&set("f", "ranges"), Some(&one), None));
        drifts(&mut ruleset, &element_step(&set("f", "ranges"), Some(&range), None));
        drifts(&mut ruleset, &element_step(&set("f", "ranges"), None, Some(&range)));
        // One end is free, but the range would run into another one.
        let overlapping = Element { key: vec![10, 0, 2, 255], key_end: Some(vec![10, 0, 3, 7]), ..Element::default() };
        drifts(&mut ruleset, &element_step(&set("f", "ranges"), None, Some(&overlapping)));

        // The same key with other data, and with another comment.
        let verdict = ask("restmap", &[203, 0, 113, 7]);
        let commented = ask("hash", &[203, 0, 113, 7]);
        nft("delete element inet f restmap { 203.0.113.7 }
             add element inet f restmap { 203.0.113.7 : drop }
             delete element inet f hash { 203.0.113.7 }
             add element inet f hash { 203.0.113.7 comment \"y\" }");
        drifts(&mut ruleset, &element_step(&set("f", "restmap"), Some(&verdict), None));
        drifts(&mut ruleset, &element_step(&set("f", "hash"), Some(&commented), None));

        // The rule before which it belongs is gone; the chain is gone; the set is gone.
        let undo = rule_step(full, Some(full.rules[1].handle), None, Some(&full.rules[0]));
        nft("flush chain inet f in");
        drifts(&mut ruleset, &undo);
        let step = rule_step(full, None, None, Some(&full.rules[0]));
        nft("delete chain inet f in
             delete set inet f hash");
        drifts(&mut ruleset, &step);
        // The table was made anew, and another rule has the handle.
        let (removed, handle) = (rule_step(full, None, None, Some(&full.rules[1])), full.rules[1].handle);
        nft("delete table inet f");
        nft(SETS);
        nft("add chain inet f in { type filter hook input priority 0; }
             add rule inet f in ip saddr 192.0.2.0/24 accept
             add rule inet f in ip saddr 192.0.2.0/24 accept");
        let now = observe(&mut Ruleset::new());
        assert!(chain(&now, "f", "in").rules.iter().any(|rule| rule.handle == handle), "the handles count from the start again");
        drifts(&mut ruleset, &removed);
        nft("delete set inet f hash");
        drifts(&mut ruleset, &element_step(&set("f", "hash"), Some(&commented), None));
    });
}

#[test]
fn what_the_kernel_refuses_fails_and_changes_nothing() {
    in_namespace(|| {
        nft(SETS);
        nft("add chain inet f in { type filter hook input priority 0; }
             add rule inet f in ip saddr { 203.0.113.7, 203.0.113.8 } drop");
        let mut ruleset = Ruleset::new();
        let state = observe(&mut ruleset);
        let before = listing();
        let anonymous = state.sets.iter().find(|set| set.anonymous()).unwrap().key.clone();
        let element = find(&mut ruleset, &anonymous, &[203, 0, 113, 7]).unwrap();
        let mut unknown = accept_rule();
        unknown.expressions.insert(0, Expression::Notrack);
        let jumps = Rule { expressions: vec![Expression::Verdict(Verdict::Jump("nowhere".to_owned()))], ..accept_rule() };
        let timed = Element { key: vec![1, 2, 3, 4], timeout_ms: Some(1000), ..Element::default() };
        let full = chain(&state, "f", "in");
        for step in [
            element_step(&anonymous, Some(&element), None),
            element_step(&set("f", "hash"), None, Some(&timed)),
            rule_step(full, None, None, Some(&unknown)),
        ] {
            for answer in [ruleset.apply(&step).map(|_| ()), ruleset.check(&step)] {
                assert!(matches!(answer, Err(StepError::Failed(_))), "{answer:?}: {step:?}");
            }
            assert_eq!(listing(), before);
        }
        // The chain it jumps to is gone.
        drifts(&mut ruleset, &rule_step(full, None, None, Some(&jumps)));
    });
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_step_is_done_once_while_somebody_keeps_changing_the_ruleset() {
    in_namespace(|| {
        nft("table inet f { set s { type ipv4_addr; elements = { 203.0.113.7, 203.0.113.70 } }
             set busy { type ipv4_addr; } }");
        let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                let mut other = Ruleset::new();
                let busy = Element { key: vec![10, 0, 0, 1], ..Element::default() };
                let step = element_step(&set("f", "busy"), None, Some(&busy));
                while !over.load(Ordering::Relaxed) {
                    // It too is disturbed by the test, and then tries again.
                    let _ = other.apply(&step);
                    let _ = other.apply(&step.inverse());
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            });
            // Also when the test panics, or the scope would wait for ever.
            let _stop = StopOnDrop(&over);
            let mut ruleset = Ruleset::new();
            let banned = find(&mut ruleset, &set("f", "s"), &[203, 0, 113, 7]).unwrap();
            let step = element_step(&set("f", "s"), Some(&banned), None);
            let mut drifted = 0;
            for _ in 0..50 {
                for step in [&step, &step.inverse()] {
                    loop {
                        match ruleset.apply(step) {
                            Ok(Done::Changed) => break,
                            Err(StepError::Drifted(_)) if drifted < 200 => drifted += 1,
                            other => panic!("{other:?}, {drifted} drifted"),
                        }
                    }
                }
            }
        });
        assert!(find(&mut Ruleset::new(), &set("f", "s"), &[203, 0, 113, 70]).is_some());
    });
}
