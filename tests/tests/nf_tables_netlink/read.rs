//! What is read is what nft and iptables-nft loaded.

use std::sync::Arc;

use super::*;
use sshfix_policy::subsystem::nf_tables::expression::{CmpOp, Expression, PayloadBase, Verdict};
use sshfix_policy::subsystem::nf_tables::{ElementData, Rule};

fn range(element: Option<&Element>) -> Option<(Vec<u8>, Vec<u8>)> {
    element.map(|element| (element.key.clone(), element.key_end.clone().unwrap_or_else(|| element.key.clone())))
}

#[test]
fn looking_at_an_empty_ruleset_creates_nothing() {
    in_namespace(|| {
        let mut ruleset = Ruleset::new();
        let before = list();
        let state = observe(&mut ruleset);
        assert_eq!((state.tables.len(), state.chains.len(), state.sets.len()), (0, 0, 0));
        assert!(state.generation > 0);
        assert_eq!(observe(&mut ruleset).generation, state.generation);
        assert_eq!(list(), before);
    });
}

#[test]
fn a_rule_is_read_as_nft_meant_it() {
    in_namespace(|| {
        nft("table inet f { set s { type ipv4_addr; }
             chain in { type filter hook input priority filter - 1; policy drop;
               tcp dport 22 ip saddr 203.0.113.7 counter packets 3 bytes 180 drop comment \"a ban\"
               ip saddr @s reject with icmp type admin-prohibited
               ip saddr != @s goto other
             }
             chain other { } }");
        let state = observe(&mut Ruleset::new());
        let read = chain(&state, "f", "in");
        let base = read.base.clone().expect("a base chain");
        assert_eq!((base.kind.as_str(), base.hook, base.priority, base.policy_accept), ("filter", 1, -1, false));
        let [ban, reject, jump] = &read.rules[..] else { panic!("three rules: {read:?}") };
        assert_eq!(ban.comment.as_deref(), Some("a ban"));
        assert_eq!(
            ban.expressions,
            [
                Expression::Meta { key: 16, dreg: 1 },
                Expression::Cmp { sreg: 1, op: CmpOp::Eq, data: vec![6] },
                Expression::Payload { dreg: 1, base: PayloadBase::Transport, offset: 2, len: 2 },
                Expression::Cmp { sreg: 1, op: CmpOp::Eq, data: vec![0, 22] },
                Expression::Meta { key: 15, dreg: 1 },
                Expression::Cmp { sreg: 1, op: CmpOp::Eq, data: vec![2] },
                Expression::Payload { dreg: 1, base: PayloadBase::Network, offset: 12, len: 4 },
                Expression::Cmp { sreg: 1, op: CmpOp::Eq, data: vec![203, 0, 113, 7] },
                Expression::Counter { packets: 3, bytes: 180 },
                Expression::Verdict(Verdict::Drop),
            ]
        );
        let has = |rule: &Rule, wanted: &Expression| rule.expressions.contains(wanted);
        let lookup = |invert| Expression::Lookup { set: "s".to_owned(), sreg: 1, dreg: None, invert };
        assert!(has(reject, &lookup(false)) && has(reject, &Expression::Reject { kind: 0, code: 13 }), "{reject:?}");
        assert!(has(jump, &lookup(true)) && has(jump, &Expression::Verdict(Verdict::Goto("other".to_owned()))), "{jump:?}");
        assert!(chain(&state, "f", "other").base.is_none());
    });
}

#[test]
fn a_warm_agent_asks_only_for_the_generation() {
    in_namespace(|| {
        nft("table inet f { chain in { type filter hook input priority 0; tcp dport 22 accept; } }");
        let mut ruleset = Ruleset::new();
        let first = observe(&mut ruleset);
        let (messages, _) = ruleset.received();
        assert_eq!(observe(&mut ruleset), first);
        assert_eq!(ruleset.received().0 - messages, 2, "the generation and its ack");
        nft("add rule inet f in tcp dport 23 accept");
        assert_eq!(chain(&observe(&mut ruleset), "f", "in").rules.len(), 2);
    });
}

#[test]
fn what_was_read_ahead_is_not_read_again_by_the_question() {
    in_namespace(|| {
        nft("table inet f { chain in { type filter hook input priority 0; tcp dport 22 accept; } }");
        let mut ruleset = Ruleset::new();
        observe(&mut ruleset);
        nft("add rule inet f in tcp dport 23 accept");
        ruleset.read_ahead();
        let (messages, _) = ruleset.received();
        assert_eq!(chain(&observe(&mut ruleset), "f", "in").rules.len(), 2);
        assert_eq!(ruleset.received().0 - messages, 2, "the generation and its ack");
    });
}

#[test]
fn elements_of_every_kind_of_set_are_found_by_one_key() {
    in_namespace(|| {
        nft("table inet f {
             set hash { type ipv4_addr; elements = { 203.0.113.7 comment \"x\", 203.0.113.70 } }
             set six { type ipv6_addr; flags interval; elements = { 2001:db8::/32, fe80::1, fff0::/12 } }
             set ranges { type ipv4_addr; flags interval;
                 elements = { 0.0.0.0/8, 10.0.0.0/24, 10.0.1.0/24, 10.0.3.5, 203.0.113.0-203.0.113.99, 250.0.0.0/8, 255.255.0.0/16 } }
             set timed { type ipv4_addr; flags timeout; elements = { 203.0.113.7 timeout 1h } }
             set timedranges { type ipv4_addr; flags timeout, interval; timeout 2h; elements = { 203.0.113.0/24, 198.51.100.0/24 timeout 1h } }
             set pair { type ipv4_addr . inet_service; elements = { 203.0.113.7 . 22 } }
             set pairs { type ipv4_addr . inet_service; flags interval; elements = { 203.0.113.0/24 . 20-29, 198.51.100.7 . 22 } }
             map verdicts { type ipv4_addr : verdict; flags interval; elements = { 203.0.113.0/25 : drop, 203.0.113.128/25 : jump other } }
             map values { type ipv4_addr : mark; elements = { 203.0.113.7 : 0x2a } }
             set rest { type ipv4_addr; flags interval; elements = { 203.0.113.7, * } }
             chain other { } }");
        let mut ruleset = Ruleset::new();
        let ask = &mut |name: &str, key: &[u8]| find(&mut ruleset, &set("f", name), key);
        let hit = ask("hash", &[203, 0, 113, 7]).expect("found");
        assert_eq!((hit.comment.as_deref(), hit.key_end), (Some("x"), None));
        assert_eq!(ask("hash", &[203, 0, 113, 8]), None);

        let mut v4 = |key: [u8; 4]| range(ask("ranges", &key).as_ref());
        let is = |from: [u8; 4], to: [u8; 4]| Some((from.to_vec(), to.to_vec()));
        assert_eq!(v4([0, 0, 0, 0]), is([0, 0, 0, 0], [0, 255, 255, 255]));
        assert_eq!(v4([1, 0, 0, 0]), None);
        assert_eq!(v4([10, 0, 0, 0]), is([10, 0, 0, 0], [10, 0, 0, 255]));
        assert_eq!(v4([10, 0, 0, 255]), is([10, 0, 0, 0], [10, 0, 0, 255]));
        assert_eq!(v4([10, 0, 1, 0]), is([10, 0, 1, 0], [10, 0, 1, 255]));
        assert_eq!(v4([10, 0, 2, 0]), None);
        assert_eq!(v4([10, 0, 3, 5]), is([10, 0, 3, 5], [10, 0, 3, 5]));
        assert_eq!(v4([10, 0, 3, 6]), None);
        assert_eq!(v4([203, 0, 113, 99]), is([203, 0, 113, 0], [203, 0, 113, 99]));
        assert_eq!(v4([203, 0, 113, 100]), None);
        assert_eq!(v4([255, 254, 255, 255]), None);
        assert_eq!(v4([255, 255, 0, 0]), is([255, 255, 0, 0], [255, 255, 255, 255]));
        assert_eq!(v4([255, 255, 255, 255]), is([255, 255, 0, 0], [255, 255, 255, 255]));

        let six = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
        assert_eq!(
            range(ask("six", &six("2001:db8::7")).as_ref()),
            Some((six("2001:db8::"), six("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")))
        );
        assert_eq!(ask("six", &six("2001:db9::")), None);
        assert_eq!(range(ask("six", &six("fff0::1")).as_ref()), Some((six("fff0::"), vec![0xff; 16])));

        let timed = ask("timed", &[203, 0, 113, 7]).expect("found");
        assert_eq!(timed.timeout_ms, Some(3_600_000));
        assert!(timed.expires_ms.is_some_and(|left| left <= 3_600_000 && left > 3_480_000), "{timed:?}");
        let timed = ask("timedranges", &[198, 51, 100, 7]).expect("found");
        assert_eq!((timed.timeout_ms, timed.key_end), (Some(3_600_000), Some(vec![198, 51, 100, 255])));

        assert!(ask("pair", &[203, 0, 113, 7, 0, 22, 0, 0]).is_some());
        assert_eq!(ask("pair", &[203, 0, 113, 7, 0, 23, 0, 0]), None);
        assert_eq!(
            range(ask("pairs", &[203, 0, 113, 7, 0, 22, 0, 0]).as_ref()),
            Some((vec![203, 0, 113, 0, 0, 20, 0, 0], vec![203, 0, 113, 255, 0, 29, 0, 0]))
        );
        assert_eq!(ask("pairs", &[203, 0, 113, 7, 0, 30, 0, 0]), None);
        assert_eq!(ask("pairs", &[198, 51, 100, 7, 0, 22, 0, 0]).expect("found").key_end, None);

        assert_eq!(ask("verdicts", &[203, 0, 113, 7]).expect("found").data, Some(ElementData::Verdict(Verdict::Drop)));
        let jump = ask("verdicts", &[203, 0, 113, 200]).expect("found");
        assert_eq!(jump.data, Some(ElementData::Verdict(Verdict::Jump("other".to_owned()))));
        assert_eq!(range(Some(&jump)), is([203, 0, 113, 128], [203, 0, 113, 255]));
        assert_eq!(
            ask("values", &[203, 0, 113, 7]).expect("found").data,
            Some(ElementData::Value(0x2a_u32.to_ne_bytes().to_vec()))
        );
        assert!(!ask("rest", &[203, 0, 113, 7]).expect("found").catchall);
        assert!(ask("rest", &[203, 0, 113, 8]).expect("found").catchall);
    });
}

#[test]
fn ranges_without_an_end_of_their_own_are_found_whole() {
    in_namespace(|| {
        // nft leaves out the end of 10.0.0.0/24, because the next range starts there.
        nft("table inet f { chain c { ip saddr vmap { 10.0.0.0/24 : drop, 10.0.1.0/24 : accept, 255.0.0.0/8 : drop } } }");
        let mut ruleset = Ruleset::new();
        let map = observe(&mut ruleset).sets[0].key.clone();
        assert_eq!(map.set, "__map0");
        let mut ask = |key: [u8; 4]| range(find(&mut ruleset, &map, &key).as_ref());
        let is = |from: [u8; 4], to: [u8; 4]| Some((from.to_vec(), to.to_vec()));
        for key in [[10, 0, 0, 0], [10, 0, 0, 77], [10, 0, 0, 255]] {
            assert_eq!(ask(key), is([10, 0, 0, 0], [10, 0, 0, 255]));
        }
        assert_eq!(ask([10, 0, 1, 0]), is([10, 0, 1, 0], [10, 0, 1, 255]));
        assert_eq!(ask([10, 0, 2, 0]), None);
        assert_eq!(ask([255, 0, 0, 1]), is([255, 0, 0, 0], [255, 255, 255, 255]));
        assert_eq!(dump(&mut ruleset, &map).len(), 3);
    });
}

#[test]
fn a_dump_agrees_with_what_single_lookups_say() {
    in_namespace(|| {
        nft("table inet f { set ranges { type ipv4_addr; flags interval;
               elements = { 0.0.0.0/8, 10.0.0.0/24, 10.0.1.0/24, 10.0.3.5, 203.0.113.0-203.0.113.99, 255.255.0.0/16 } }
             set pairs { type ipv4_addr . inet_service; flags interval; elements = { 203.0.113.0/24 . 20-29, 198.51.100.7 . 22 } } }");
        let mut ruleset = Ruleset::new();
        for (name, count) in [("ranges", 6), ("pairs", 2)] {
            let all = dump(&mut ruleset, &set("f", name));
            assert_eq!(all.len(), count, "{all:?}");
            for element in all {
                assert_eq!(find(&mut ruleset, &set("f", name), &element.key), Some(element.clone()));
                let last = element.key_end.clone().unwrap_or_else(|| element.key.clone());
                assert_eq!(find(&mut ruleset, &set("f", name), &last), Some(element));
            }
        }
    });
}

#[test]
fn one_lookup_in_100_000_elements_does_not_dump_them() {
    in_namespace(|| {
        for flags in ["", "flags interval;"] {
            let addresses: Vec<String> =
                (0..100_000_u32).map(|n| format!("10.{}.{}.{}", n >> 15, n >> 7 & 0xff, (n & 0x7f) << 1)).collect();
            nft(&format!(
                "flush ruleset\ntable inet f {{ set s {{ type ipv4_addr; {flags} elements = {{ {} }} }} }}",
                addresses.join(", ")
            ));
            let mut ruleset = Ruleset::new();
            observe(&mut ruleset);
            let before = ruleset.received();
            assert!(find(&mut ruleset, &set("f", "s"), &[10, 1, 7, 8]).is_some());
            assert!(find(&mut ruleset, &set("f", "s"), &[10, 1, 7, 9]).is_none());
            let after = ruleset.received();
            assert!(after.0 - before.0 < 24 && after.1 - before.1 < 4096, "{before:?} to {after:?}");
        }
    });
}

#[test]
fn every_kind_of_rule_is_decoded() {
    in_namespace(|| {
        rulesets::load_nft();
        let state = observe(&mut Ruleset::new());
        let mut seen = BTreeSet::new();
        for rule in state.chains.iter().flat_map(|chain| &chain.rules) {
            assert!(!rule.raw_expressions.is_empty());
            for expression in &rule.expressions {
                let shown = format!("{expression:?}");
                seen.insert(shown.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned());
                assert!(!matches!(expression, Expression::Unknown { .. }), "{shown}");
            }
        }
        let all = "Bitwise Byteorder Cmp Connlimit Counter Ct CtSet Dup Dynset ExtensionHeader Fib Fwd Immediate Limit Log Lookup \
                   Meta MetaSet Nat Notrack ObjectMap Objref Opaque Payload PayloadSet Quota Range Reject Synproxy Verdict";
        assert_eq!(seen, all.split_whitespace().map(str::to_owned).collect());
    });
}

#[test]
fn every_chain_and_rule_of_nft_is_there_with_its_handle() {
    in_namespace(|| {
        rulesets::load_nft();
        rulesets::load_iptables();
        let state = observe(&mut Ruleset::new());
        let json: serde_json::Value = serde_json::from_str(&run("/usr/sbin/nft", &["-j", "-t", "list", "ruleset"], "")).unwrap();
        let (mut tables, mut chains, mut rules, mut sets) = (BTreeSet::new(), BTreeSet::new(), Vec::new(), BTreeSet::new());
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        for object in json["nftables"].as_array().unwrap() {
            if let Some(table) = object.get("table") {
                tables.insert((text(&table["family"]), text(&table["name"])));
            } else if let Some(chain) = object.get("chain") {
                let base = chain.get("hook").map(|_| (text(&chain["type"]), chain["prio"].as_i64(), text(&chain["policy"])));
                chains.insert((
                    text(&chain["family"]),
                    text(&chain["table"]),
                    text(&chain["name"]),
                    chain["handle"].as_u64(),
                    base,
                ));
            } else if let Some(rule) = object.get("rule") {
                let comment = rule.get("comment").map(text);
                rules.push((text(&rule["family"]), text(&rule["table"]), text(&rule["chain"]), rule["handle"].as_u64(), comment));
            } else if let Some(set) = object.get("set").or_else(|| object.get("map")) {
                sets.insert((text(&set["family"]), text(&set["table"]), text(&set["name"]), set["handle"].as_u64()));
            }
        }
        assert_eq!(tables, state.tables.iter().map(|table| (table.family.to_string(), table.name.clone())).collect());
        // nft does not list the anonymous chain of `jump { ... }` and the sets of `{ ... }`.
        let shown = state.chains.iter().filter(|chain| !chain.name.starts_with("__chain")).map(|chain| {
            let base = chain.base.as_ref().map(|base| {
                (base.kind.clone(), Some(i64::from(base.priority)), if base.policy_accept { "accept" } else { "drop" }.to_owned())
            });
            (chain.family.to_string(), chain.table.clone(), chain.name.clone(), Some(chain.handle), base)
        });
        assert_eq!(chains, shown.collect());
        let named = state.sets.iter().filter(|set| !set.anonymous());
        let named = named.map(|set| (set.key.family.to_string(), set.key.table.clone(), set.key.set.clone(), Some(set.handle)));
        assert_eq!(sets, named.collect());
        let mut ours: Vec<_> = Vec::new();
        for chain in state.chains.iter().filter(|chain| !chain.name.starts_with("__chain")) {
            for rule in &chain.rules {
                let at = (chain.family.to_string(), chain.table.clone(), chain.name.clone());
                ours.push((at.0, at.1, at.2, Some(rule.handle), rule.comment.clone()));
            }
        }
        assert!(rules.len() > 60, "{}", rules.len());
        assert_eq!(ours, rules);
    });
}

#[test]
fn matches_and_targets_of_iptables_keep_their_bytes() {
    in_namespace(|| {
        run(
            "/usr/sbin/iptables-nft",
            &["-A", "INPUT", "-p", "tcp", "-m", "multiport", "--dports", "22,2222", "-j", "REJECT"],
            "",
        );
        let state = observe(&mut Ruleset::new());
        let rule = &chain(&state, "filter", "INPUT").rules[0];
        let ports = rule.expressions.iter().find_map(|expression| match expression {
            Expression::Match { name, revision: 1, info } if name == "multiport" => Some(info.clone()),
            _ => None,
        });
        // struct xt_multiport_v1: flags 1 (destination), count 2, then the ports as u16.
        let ports = ports.expect("the match");
        assert_eq!(ports[..2], [1, 2]);
        assert_eq!(
            (ports[2..4].to_vec(), ports[4..6].to_vec()),
            (22_u16.to_ne_bytes().to_vec(), 2222_u16.to_ne_bytes().to_vec())
        );
        assert!(rule.expressions.iter().any(|e| matches!(e, Expression::Target { name, .. } if name == "REJECT")), "{rule:?}");
    });
}

#[test]
fn a_set_that_needs_many_datagrams_is_dumped_whole() {
    in_namespace(|| {
        let addresses: Vec<String> = (0..20_000_u32).map(|n| format!("10.{}.{}.1", n >> 8, n & 0xff)).collect();
        for flags in ["", "flags interval;"] {
            nft(&format!(
                "flush ruleset\ntable inet f {{ set s {{ type ipv4_addr; {flags} elements = {{ {} }} }} }}",
                addresses.join(", ")
            ));
            assert_eq!(dump(&mut Ruleset::new(), &set("f", "s")).len(), 20_000);
        }
    });
}

#[test]
fn a_rule_is_taken_apart_again_only_when_its_bytes_changed() {
    in_namespace(|| {
        let table = |address: &str| {
            format!(
                "table inet f {{ chain in {{ type filter hook input priority 0; ip saddr {address} drop; ip saddr 192.0.2.1 counter drop; }} }}"
            )
        };
        nft(&table("203.0.113.7"));
        let mut ruleset = Ruleset::new();
        let first = observe(&mut ruleset);
        nft("add rule inet f in ip saddr 203.0.113.8 drop");
        let second = observe(&mut ruleset);
        let (before, after) = (&chain(&first, "f", "in").rules, &chain(&second, "f", "in").rules);
        assert_eq!((before.len(), after.len()), (2, 3));
        assert!(before.iter().zip(after).all(|(before, after)| Arc::ptr_eq(before, after)), "read again");
        // Handles begin anew with the table.
        nft(&format!("delete table inet f\n{}", table("203.0.113.9")));
        let third = observe(&mut ruleset);
        let again = &chain(&third, "f", "in").rules;
        assert_eq!(
            again.iter().map(|rule| rule.handle).collect::<Vec<_>>(),
            before.iter().map(|rule| rule.handle).collect::<Vec<_>>()
        );
        let nine = Expression::Cmp { sreg: 1, op: CmpOp::Eq, data: vec![203, 0, 113, 9] };
        assert!(again[0].expressions.contains(&nine), "{:?}", again[0]);
        assert_eq!(third.chains, observe(&mut Ruleset::new()).chains);
    });
}

#[test]
fn counters_are_read_anew_when_they_are_asked_for_although_nobody_changed_a_rule() {
    in_namespace(|| {
        run("/usr/sbin/ip", &["link", "set", "lo", "up"], "");
        nft("table inet f { chain in { type filter hook output priority 0; ip daddr 127.0.0.9 counter; } }");
        let counted = |state: &State| match chain(state, "f", "in").rules[0].expressions.last() {
            Some(Expression::Counter { packets, .. }) => *packets,
            other => panic!("{other:?}"),
        };
        let mut ruleset = Ruleset::new();
        assert_eq!(counted(&observe(&mut ruleset)), 0);
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", "127.0.0.9:9").unwrap();
        ruleset.forget_counters();
        assert_eq!(counted(&observe(&mut ruleset)), 1);
    });
}
