//! The netlink room against the real kernel, in throw-away network namespaces, with rulesets that the real nft and
//! iptables-nft loaded. Needs root; without it the tests say so, and fail under `CI=true`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use sshfix_agent::subsystem::nf_tables::Ruleset;
use sshfix_policy::host::Part;
use sshfix_policy::subsystem::nf_tables::expression::{CmpOp, Expression, PayloadBase, Verdict};
use sshfix_policy::subsystem::nf_tables::{Chain, Element, ElementData, ElementKey, Family, Rule, SetKey, State};

/// Runs the test in a thread with a network namespace of its own, which ends with it. Sockets and children of the thread are
/// in that namespace.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "these tests need root");
        eprintln!("skipped: needs root");
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(program: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect(program);
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {:.2000}\n{input:.2000}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Loads a ruleset. nft wants each statement to end with a newline or semicolon, also before a brace.
fn nft(ruleset: &str) {
    run("/usr/sbin/nft", &["-f", "-"], &ruleset.replace(" }", "\n}"));
}

fn list() -> String {
    run("/usr/sbin/nft", &["-a", "list", "ruleset"], "")
}

fn observe(ruleset: &mut Ruleset) -> State {
    match ruleset.observe() {
        Part::Present(state) => state,
        Part::Absent(why) | Part::Unreadable(why) => panic!("{why}"),
    }
}

fn chain<'a>(state: &'a State, table: &str, name: &str) -> &'a Chain {
    state.chains.iter().find(|chain| chain.table == table && chain.name == name).expect("the chain")
}

fn set(table: &str, set: &str) -> SetKey {
    SetKey { family: Family::Inet, table: table.to_owned(), set: set.to_owned() }
}

fn find(ruleset: &mut Ruleset, set: &SetKey, key: &[u8]) -> Option<Element> {
    let mut state = observe(ruleset);
    let key = ElementKey { set: set.clone(), key: key.to_vec() };
    ruleset.lookup_elements(&mut state, &BTreeSet::from([key.clone()]), &BTreeSet::new()).unwrap();
    state.elements.remove(&key).expect("an answer")
}

fn dump(ruleset: &mut Ruleset, set: &SetKey) -> Vec<Element> {
    let mut state = observe(ruleset);
    ruleset.lookup_elements(&mut state, &BTreeSet::new(), &BTreeSet::from([set.clone()])).unwrap();
    state.dumps.remove(set).expect("an answer")
}

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
        assert!(timed.expires_ms.is_some_and(|left| left <= 3_600_000 && left > 3_590_000), "{timed:?}");
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
        assert_eq!(dump(&mut Ruleset::new(), &set("f", "s")).len(), 100_000);
    });
}
