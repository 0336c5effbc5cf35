//! Rulesets as tables: what the kernel would do, and how it is lifted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

use proptest::prelude::*;

use super::{NoPlan, bans, blocks, evaluate, firewall_list, judge, plan_accept, plan_remove};
use crate::host::block::{Block, Lift};
use crate::host::step::Step;
use crate::host::{HostState, Needs, Part};
use crate::subsystem::nf_tables::build::{self, *};
use crate::subsystem::nf_tables::expression::{CmpOp, Expression, Verdict as V};
use crate::subsystem::nf_tables::{Family, State};
use crate::verdict::{Connection, Verdict};

pub(crate) fn host(state: State) -> HostState {
    HostState { nf_tables: Part::Present(state), ..HostState::empty() }
}

pub(super) fn from(source: &str) -> Connection {
    Connection { source: source.parse().unwrap(), port: 22, user: None }
}

/// Asks as the agent does: sets are not read, what is needed is looked up.
pub(crate) fn asked<T>(kernel: &State, mut question: impl FnMut(&HostState, &mut Needs) -> T) -> (T, HostState, Needs) {
    let mut state = State { dumps: std::collections::BTreeMap::default(), ..kernel.clone() };
    let mut all = Needs::new();
    for _ in 0..20 {
        let mut needs = Needs::new();
        let observed = host(state.clone());
        let answer = question(&observed, &mut needs);
        if needs.is_subset(&all) {
            return (answer, observed, all);
        }
        build::answer(kernel, &mut state, &needs);
        all.extend(needs);
    }
    panic!("the question is never answered");
}

fn verdict(kernel: &State, source: &str) -> Verdict {
    asked(kernel, |host, needs| evaluate(host, &from(source), needs)).0.verdict
}

fn found(kernel: &State, source: &str) -> (Vec<Block>, HostState) {
    let (blocks, host, _) = asked(kernel, |host, needs| {
        let (_, walked) = judge(host, &from(source), needs);
        blocks(host, &from(source), walked, needs)
    });
    (blocks, host)
}

fn lift(kernel: &State, source: &str) -> (Vec<String>, HostState) {
    let (blocks, mut host) = found(kernel, source);
    let mut summaries = Vec::new();
    for block in blocks {
        let Lift::Steps(steps) = block.lift else { panic!("{block:?}") };
        for step in steps {
            summaries.push(step.summary());
            step.predict(&mut host).unwrap();
        }
    }
    (summaries, host)
}

/// After the lifts the source gets in, and the others still do not.
fn lifted(kernel: &State, source: &str, still: &[&str]) -> Vec<String> {
    for other in still {
        assert_eq!(verdict(kernel, other), Verdict::Refuse, "{other} before");
    }
    let (summaries, host) = lift(kernel, source);
    let Part::Present(after) = &host.nf_tables else { panic!() };
    assert_eq!(evaluate(&host, &from(source), &mut Needs::new()).verdict, Verdict::Accept, "{summaries:?}");
    // The others were not looked up in the predicted state; look them up in the kernel's sets, less what was deleted.
    let mut kernel_after = kernel.clone();
    kernel_after.chains.clone_from(&after.chains);
    for (key, fact) in &after.elements {
        let dump = kernel_after.dumps.get_mut(&key.set).unwrap();
        match fact {
            None => dump.retain(|one| one.key != key.key || one.key_end.is_some()),
            // What a range was split into.
            Some(element) if !dump.contains(element) => {
                dump.retain(|one| one.key > element.key || one.key_end.as_ref().is_none_or(|end| *end < element.key));
                dump.push(element.clone());
            }
            Some(_) => {}
        }
    }
    for (set, dump) in &after.dumps {
        kernel_after.dumps.insert(set.clone(), dump.clone());
    }
    for other in still {
        assert_eq!(verdict(&kernel_after, other), Verdict::Refuse, "{other} after {summaries:?}");
    }
    summaries
}

const ME: &str = "203.0.113.7";
const OTHERS: &[&str] = &["203.0.113.8", "203.0.113.70"];

#[test]
fn no_packet_filter_refuses_nobody_and_an_unreadable_one_is_unknown() {
    let mut empty = host(State::default());
    assert_eq!(evaluate(&empty, &from(ME), &mut Needs::new()).verdict, Verdict::Accept);
    empty.nf_tables = Part::Unreadable("EPERM".to_owned());
    let report = evaluate(&empty, &from(ME), &mut Needs::new());
    assert_eq!(report.verdict, Verdict::Unknown);
    assert!(report.detail.contains("nftables could not be read: EPERM"), "{}", report.detail);
}

#[test]
fn the_first_rule_that_holds_decides() {
    let state = Ruleset::new()
        .input(Family::Inet, true)
        .rule(&[nfproto(false), saddr("203.0.113.8"), accept()])
        .rule(&[nfproto(false), saddr("203.0.113.0/24"), dport(22), drop()])
        .build();
    for (source, want) in [(ME, Verdict::Refuse), ("203.0.113.8", Verdict::Accept), ("198.51.100.1", Verdict::Accept)] {
        assert_eq!(verdict(&state, source), want, "{source}");
    }
    assert_eq!(verdict(&state, "203.0.113.0/24"), Verdict::Unknown, "one of them gets in");
    assert_eq!(verdict(&state, "203.0.113.128/25"), Verdict::Refuse);
    assert_eq!(verdict(&state, "2001:db8::7"), Verdict::Accept);
}

#[test]
fn rules_about_other_families_ports_and_protocols_never_make_it_unknown() {
    let state = Ruleset::new()
        .base(Family::Ip6, "filter", "input", 1, 0, false)
        .input(Family::Inet, true)
        .rule(&[dport(80), drop()])
        .rule(&[udp_dport(22), drop()])
        .rule(&[nfproto(true), drop()])
        .rule(&[iifname("lo"), drop()])
        .base(Family::Inet, "filter", "forward", 2, 0, false)
        .build();
    assert_eq!(verdict(&state, ME), Verdict::Accept);
}

#[test]
fn accept_ends_its_own_base_chain_only() {
    let state = Ruleset::new()
        .base(Family::Inet, "early", "input", 1, -10, true)
        .rule(&[nfproto(false), saddr(ME), accept()])
        .base(Family::Ip, "late", "input", 1, 10, true)
        .rule(&[saddr("203.0.113.0/24"), drop()])
        .build();
    assert_eq!(verdict(&state, ME), Verdict::Refuse);
}

#[test]
fn a_stateful_server_firewall_lets_ssh_in_and_the_rest_out() {
    let rules =
        |input: Ruleset| input.rule(&[ct_state(6), accept()]).rule(&[ct_state(1), drop()]).rule(&[iifname("lo"), accept()]);
    let open = rules(Ruleset::new().input(Family::Inet, false)).rule(&[dport(22), accept()]).build();
    assert_eq!(verdict(&open, ME), Verdict::Accept);
    assert_eq!(verdict(&open, "2001:db8::7"), Verdict::Accept);
    assert_eq!(verdict(&open, "0.0.0.0/0"), Verdict::Accept);
    let closed = rules(Ruleset::new().input(Family::Inet, false)).rule(&[dport(80), accept()]).build();
    assert_eq!(verdict(&closed, ME), Verdict::Refuse);
    assert_eq!(verdict(&closed, "127.0.0.1"), Verdict::Accept, "loopback comes in by lo");
}

#[test]
fn an_answer_that_cannot_leave_is_a_block_too() {
    let state = |established: bool| {
        let out = Ruleset::new().base(Family::Inet, "filter", "output", 3, 0, false);
        if established { out.rule(&[ct_state(6), accept()]).build() } else { out.rule(&[dport(53), accept()]).build() }
    };
    assert_eq!(verdict(&state(true), ME), Verdict::Accept);
    let shut = state(false);
    let report = asked(&shut, |host, needs| evaluate(host, &from(ME), needs)).0;
    assert_eq!((report.verdict, report.detail.as_str()), (Verdict::Refuse, "the answer to the SYN is dropped by the policy"));
    let steps = lifted(&shut, ME, OTHERS);
    assert_eq!(
        steps,
        ["insert a rule in inet filter output: ip daddr 203.0.113.7 tcp sport 22 accept comment \"sshfix accept\""]
    );
}

#[test]
fn a_missing_established_rule_on_the_way_in_is_found() {
    let state = Ruleset::new().input(Family::Inet, false).rule(&[ct_state(8), dport(22), accept()]).build();
    let report = asked(&state, |host, needs| evaluate(host, &from(ME), needs)).0;
    assert_eq!(report.verdict, Verdict::Refuse);
    assert!(report.detail.starts_with("the ACK that completes the handshake"), "{}", report.detail);
}

#[test]
fn before_connection_tracking_a_packet_has_no_state() {
    let state = Ruleset::new()
        .base(Family::Inet, "raw", "prerouting", 0, -300, true)
        .rule(&[ct_state(8), drop()])
        .rule(&[dport(22), vec![Expression::Notrack]])
        .input(Family::Inet, false)
        .rule(&[ct_state(64), accept()])
        .base(Family::Inet, "filter", "output", 3, 0, true)
        .build();
    assert_eq!(verdict(&state, ME), Verdict::Accept);
}

#[test]
fn limits_are_named_and_make_it_unknown_only_where_it_matters() {
    let matters = Ruleset::new().input(Family::Inet, false).rule(&[dport(22), limit(10), accept()]).build();
    let report = asked(&matters, |host, needs| evaluate(host, &from(ME), needs)).0;
    assert_eq!(report.verdict, Verdict::Unknown);
    let refuses = Ruleset::new().input(Family::Inet, true).rule(&[dport(22), limit(10), drop()]).build();
    let report = asked(&refuses, |host, needs| evaluate(host, &from(ME), needs)).0;
    assert_eq!(report.verdict, Verdict::Unknown);
    assert!(report.detail.contains("limit rate 10/minute"), "{}", report.detail);
    let (blocks, _) = found(&refuses, ME);
    assert_eq!(blocks.len(), 1);
    assert_eq!(blocks[0].finding.cause.to_string(), "iptables-ratelimit");
    assert!(!blocks[0].finding.blocking);
    let other = Ruleset::new()
        .input(Family::Inet, true)
        .rule(&[limit(10), vec![Expression::Log { prefix: None }]])
        .rule(&[dport(80), limit(10), drop()])
        .build();
    assert_eq!(verdict(&other, ME), Verdict::Accept);
}

#[test]
fn jumps_gotos_and_returns_go_where_the_kernel_goes() {
    let state = |last: Statement| {
        Ruleset::new()
            .input(Family::Inet, false)
            .rule(&[dport(22), jump("ssh")])
            .rule(&[accept()])
            .chain("ssh")
            .rule(&[nfproto(false), saddr(ME), last])
            .rule(&[nfproto(false), saddr("203.0.113.0/24"), verdict_of(V::Goto("deep".into()))])
            .chain("deep")
            .rule(&[nfproto(false), saddr("203.0.113.8"), drop()])
            .build()
    };
    assert_eq!(verdict(&state(verdict_of(V::Return)), ME), Verdict::Accept);
    assert_eq!(verdict(&state(drop()), ME), Verdict::Refuse);
    assert_eq!(verdict(&state(drop()), "203.0.113.8"), Verdict::Refuse);
    assert_eq!(verdict(&state(drop()), "203.0.113.9"), Verdict::Accept, "goto comes back to the caller of ssh");
    let goto = Ruleset::new()
        .input(Family::Inet, false)
        .rule(&[verdict_of(V::Goto("ssh".into()))])
        .rule(&[accept()])
        .chain("ssh")
        .build();
    assert_eq!(verdict(&goto, ME), Verdict::Refuse, "a goto from a base chain ends in its policy");
}

fn verdict_of(v: V) -> Statement {
    build::verdict(v)
}

#[test]
fn an_expression_that_is_not_known_makes_only_its_branch_unknown() {
    let strange = || vec![Expression::Unknown { name: "flowspec".into(), text: String::new() }];
    let matters = Ruleset::new().input(Family::Inet, true).rule(&[dport(22), strange()]).build();
    let report = asked(&matters, |host, needs| evaluate(host, &from(ME), needs)).0;
    assert_eq!(report.verdict, Verdict::Unknown);
    assert!(report.detail.contains("flowspec"), "{}", report.detail);
    let other = Ruleset::new().input(Family::Inet, true).rule(&[dport(80), strange()]).build();
    assert_eq!(verdict(&other, ME), Verdict::Accept);
    let refused = Ruleset::new().input(Family::Inet, true).rule(&[dport(22), drop()]).rule(&[strange()]).build();
    assert_eq!(verdict(&refused, ME), Verdict::Refuse);
}

#[test]
fn an_interface_that_is_not_known_is_followed_both_ways() {
    let state = Ruleset::new().input(Family::Inet, true).rule(&[iifname("eth0"), drop()]).build();
    assert_eq!(verdict(&state, ME), Verdict::Unknown);
    let both = Ruleset::new().input(Family::Inet, true).rule(&[iifname("eth0"), drop()]).rule(&[drop()]).build();
    assert_eq!(verdict(&both, ME), Verdict::Refuse);
}

#[test]
fn one_address_is_looked_up_and_no_set_is_read() {
    let state = Ruleset::new()
        .input(Family::Inet, true)
        .set("blocked", false, 0, vec![element(ME), element("203.0.113.8"), element("203.0.113.70")])
        .rule(&[nfproto(false), saddr_set("blocked", false, false), drop()])
        .build();
    let (report, _, needs) = asked(&state, |host, needs| evaluate(host, &from(ME), needs));
    assert_eq!(report.verdict, Verdict::Refuse);
    assert!(needs.iter().all(|need| matches!(need, crate::host::Need::Element(_))), "{needs:?}");
    let texts: Vec<_> = report.evidence.iter().map(|e| format!("{}: {}", e.source, e.text)).collect();
    assert_eq!(texts, ["nft inet filter input handle 3: ip saddr @blocked drop", "nft set inet filter blocked: 203.0.113.7"]);
    assert_eq!(lifted(&state, ME, OTHERS), ["remove 203.0.113.7 from set inet filter blocked"]);
}

#[test]
fn unban_of_an_address_in_a_wider_element_opens_that_address_only() {
    let state = Ruleset::new()
        .input(Family::Inet, true)
        .set("nets", false, 0x4, vec![element("203.0.113.0/24")])
        .rule(&[nfproto(false), saddr_set("nets", false, false), drop()])
        .build();
    let steps = lifted(&state, ME, OTHERS);
    assert_eq!(steps, ["take 203.0.113.7 out of 203.0.113.0/24 in set inet filter nets"]);
    assert_eq!(lifted(&state, "203.0.113.0/24", &[]), ["remove 203.0.113.0/24 from set inet filter nets"]);
}

#[test]
fn unban_deletes_the_rule_that_names_the_address_and_steps_around_a_wider_one() {
    let exact = Ruleset::new()
        .input(Family::Ip, true)
        .rule(&[saddr(ME), drop()])
        .rule(&[saddr("203.0.113.8"), drop()])
        .rule(&[saddr("203.0.113.70"), drop()])
        .build();
    assert_eq!(lifted(&exact, ME, OTHERS), ["delete rule 2 of ip filter input: ip saddr 203.0.113.7 drop"]);
    let wide = Ruleset::new().input(Family::Ip, true).rule(&[saddr("203.0.113.0/24"), reject()]).build();
    let steps = lifted(&wide, ME, OTHERS);
    assert_eq!(steps, ["insert a rule in ip filter input: ip saddr 203.0.113.7 tcp dport 22 accept comment \"sshfix accept\""]);
    let negated = Ruleset::new().input(Family::Ip, true).rule(&[saddr_op("198.51.100.0/24", CmpOp::Neq), drop()]).build();
    assert!(lifted(&negated, ME, OTHERS)[0].starts_with("insert a rule"));
}

#[test]
fn unban_behind_a_drop_policy_inserts_one_accept() {
    let state = Ruleset::new().input(Family::Inet, false).rule(&[dport(80), accept()]).build();
    let steps = lifted(&state, ME, OTHERS);
    assert_eq!(steps, ["insert a rule in inet filter input: ip saddr 203.0.113.7 tcp dport 22 accept comment \"sshfix accept\""]);
    let v6 = lifted(&state, "2001:db8::7", &["2001:db8::8"]);
    assert_eq!(v6, ["insert a rule in inet filter input: ip6 saddr 2001:db8::7 tcp dport 22 accept comment \"sshfix accept\""]);
}

#[test]
fn every_simultaneous_block_is_found_and_lifted() {
    let others = |mine: &str| vec![element(mine), element("203.0.113.8"), element("203.0.113.70")];
    let state = Ruleset::new()
        .base(Family::Inet, "f2b-table", "f2b-chain", 1, -1, true)
        .set("addr-set-sshd", false, 0x4, others(ME))
        .rule(&[dport(22), saddr_set("addr-set-sshd", false, false), reject()])
        .input(Family::Inet, false)
        .set("hash", false, 0, others(ME))
        .set("verdicts", false, 0, vec![maps(ME, V::Drop), maps("203.0.113.8", V::Drop), maps("198.51.100.1", V::Accept)])
        .rule(&[nfproto(false), saddr_set("hash", false, false), drop()])
        .rule(&[nfproto(false), saddr_set("verdicts", false, true)])
        .rule(&[nfproto(false), saddr(ME), drop()])
        .base(Family::Ip, "filter", "INPUT", 1, 0, true)
        .rule(&[dport(22), jump("f2b-sshd")])
        .chain("f2b-sshd")
        .rule(&[saddr(ME), reject()])
        .rule(&[verdict_of(V::Return)])
        .build();
    let (blocks, _) = found(&state, ME);
    let seen: Vec<_> = blocks.iter().map(|b| (b.finding.cause.to_string(), b.finding.owner.to_string())).collect();
    let of = |cause: &str, owner: &str| (cause.to_owned(), owner.to_owned());
    assert_eq!(
        seen,
        [
            of("fail2ban-ban-stale", "fail2ban jail sshd"),
            of("nft-rule", "nobody"),
            of("nft-rule", "nobody"),
            of("nft-rule", "nobody"),
            of("nft-rule", "nobody"),
            of("fail2ban-ban-stale", "fail2ban jail sshd"),
        ]
    );
    assert_eq!(
        lifted(&state, ME, OTHERS),
        [
            "remove 203.0.113.7 from set inet f2b-table addr-set-sshd",
            "remove 203.0.113.7 from set inet filter hash",
            "remove 203.0.113.7 : drop from set inet filter verdicts",
            "delete rule 9 of inet filter input: ip saddr 203.0.113.7 drop",
            "insert a rule in inet filter input: ip saddr 203.0.113.7 tcp dport 22 accept comment \"sshfix accept\"",
            "delete rule 13 of ip filter f2b-sshd: -A f2b-sshd -s 203.0.113.7/32 [reject]",
        ]
    );
}

#[test]
fn what_a_manager_owns_is_left_to_its_own_command_and_hides_nothing_behind_it() {
    let state = Ruleset::new()
        .base(Family::Ip, "filter", "INPUT", 1, 0, true)
        .rule(&[jump("ufw-user-input")])
        .chain("ufw-user-input")
        .rule(&[saddr("203.0.113.0/24"), drop()])
        .base(Family::Inet, "mine", "input", 1, 10, true)
        .rule(&[nfproto(false), saddr(ME), drop()])
        .build();
    let (blocks, _) = found(&state, ME);
    assert_eq!(blocks.len(), 2);
    assert_eq!(blocks[0].finding.cause.to_string(), "ufw-deny");
    assert_eq!(blocks[0].lift, Lift::ByHand("ufw prepend allow from 203.0.113.7 to any port 22 proto tcp".to_owned()));
    assert!(matches!(&blocks[1].lift, Lift::Steps(steps) if steps.len() == 1));
}

#[test]
fn unban_of_a_range_lifts_what_is_inside_and_nothing_else() {
    let state = Ruleset::new()
        .input(Family::Inet, true)
        .set("blocked", false, 0, vec![element(ME), element("203.0.113.70"), element("203.0.114.1")])
        .rule(&[nfproto(false), saddr_set("blocked", false, false), drop()])
        .rule(&[nfproto(false), saddr("203.0.113.9"), drop()])
        .rule(&[nfproto(false), saddr("203.0.114.9"), drop()])
        .build();
    assert_eq!(verdict(&state, "203.0.113.0/24"), Verdict::Unknown);
    let steps = lifted(&state, "203.0.113.0/24", &["203.0.114.1", "203.0.114.9"]);
    assert_eq!(
        steps,
        [
            "remove 203.0.113.7 from set inet filter blocked",
            "remove 203.0.113.70 from set inet filter blocked",
            "delete rule 4 of inet filter input: ip saddr 203.0.113.9 drop",
        ]
    );
}

#[test]
fn accept_is_planned_once_in_every_base_chain_that_refuses() {
    let state = Ruleset::new()
        .base(Family::Inet, "early", "input", 1, -10, true)
        .rule(&[nfproto(false), saddr(ME), drop()])
        .input(Family::Inet, false)
        .build();
    let plan = asked(&state, |host, needs| plan_accept(host, ME.parse().unwrap(), 22, None, needs)).0.unwrap();
    assert_eq!(plan.len(), 2, "{plan:?}");
    let mut after = host(state);
    for step in &plan {
        step.predict(&mut after).unwrap();
    }
    assert_eq!(plan_accept(&after, ME.parse().unwrap(), 22, None, &mut Needs::new()), Ok(Vec::new()));
}

#[test]
fn steps_undo_each_other_on_the_model_and_a_drifted_host_is_noticed() {
    let state = Ruleset::new()
        .input(Family::Inet, false)
        .set("hash", false, 0, vec![element(ME)])
        .rule(&[nfproto(false), saddr_set("hash", false, false), drop()])
        .rule(&[nfproto(false), saddr(ME), drop()])
        .build();
    let (blocks, before) = found(&state, ME);
    let steps: Vec<Step> = blocks.into_iter().flat_map(|b| if let Lift::Steps(s) = b.lift { s } else { panic!() }).collect();
    assert_eq!(steps.len(), 3);
    for step in &steps {
        assert_eq!(&step.inverse().inverse(), step);
        let json = serde_json::to_string(step).unwrap();
        assert_eq!(&serde_json::from_str::<Step>(&json).unwrap(), step);
        let mut after = before.clone();
        assert!(step.holds(&after).is_err(), "{}", step.summary());
        step.predict(&mut after).unwrap();
        step.holds(&after).unwrap();
        let once = after.clone();
        step.predict(&mut after).unwrap();
        assert_eq!(once, after, "already done");
        step.inverse().predict(&mut after).unwrap();
        assert_eq!(after, before, "{}", step.summary());
        assert!(step.predict(&mut host(State::default())).is_err(), "nothing was read");
    }
}

#[test]
fn the_firewall_list_shows_what_concerns_the_port_and_each_reference_can_be_removed() {
    let state = Ruleset::new()
        .input(Family::Inet, false)
        .set("blocked", false, 0, vec![element(ME), element("203.0.113.8")])
        .rule(&[nfproto(false), saddr_set("blocked", false, false), drop()])
        .rule(&[dport(80), accept()])
        .rule(&[nfproto(false), saddr("203.0.113.9"), drop()])
        .rule(&[dport(22), accept()])
        .build();
    let (firewall, _, needs) = asked(&state, |host, needs| firewall_list(host, 22, needs));
    assert!(needs.is_empty(), "no set is read");
    let listed: Vec<_> = firewall.entries.iter().map(|e| format!("{} {}", e.reference, e.text)).collect();
    assert_eq!(
        listed,
        [
            "nft/inet/filter/input/handle/3 ip saddr @blocked drop",
            "nft/inet/filter/@blocked set blocked",
            "nft/inet/filter/input/handle/5 ip saddr 203.0.113.9 drop",
            "nft/inet/filter/input/handle/6 tcp dport 22 accept",
        ]
    );
    let remove = |reference: &str| asked(&state, |host, needs| plan_remove(host, reference, needs)).0;
    let summaries = |reference: &str| remove(reference).unwrap().iter().map(Step::summary).collect::<Vec<_>>();
    assert_eq!(summaries("nft/inet/filter/@blocked/203.0.113.8"), ["remove 203.0.113.8 from set inet filter blocked"]);
    assert_eq!(summaries("nft/inet/filter/input/handle/5"), ["delete rule 5 of inet filter input: ip saddr 203.0.113.9 drop"]);
    for wrong in
        ["nft/inet/filter/@blocked/203.0.113.80", "nft/inet/filter/input/handle/77", "nft/inet/filter/@blocked", "rubbish"]
    {
        assert!(remove(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn banned_lists_the_elements_of_sets_that_refuse_and_rules_that_name_an_address() {
    let state = Ruleset::new()
        .base(Family::Inet, "f2b-table", "f2b-chain", 1, -1, true)
        .set("addr-set-sshd", false, 0x4, vec![element(ME), element("198.51.100.0/24")])
        .rule(&[dport(22), nfproto(false), saddr_set("addr-set-sshd", false, false), reject()])
        .input(Family::Inet, true)
        .set("friends", false, 0, vec![element("203.0.113.1")])
        .rule(&[nfproto(false), saddr_set("friends", false, false), accept()])
        .rule(&[nfproto(true), saddr("2001:db8::7"), drop()])
        .build();
    let (all, _, _) = asked(&state, |host, needs| bans(host, None, 22, needs));
    let listed: Vec<_> = all.iter().map(|ban| format!("{} {}", ban.source, ban.by)).collect();
    assert_eq!(
        listed,
        [
            "203.0.113.7/32 fail2ban jail sshd (nft set inet f2b-table addr-set-sshd)",
            "198.51.100.0/24 fail2ban jail sshd (nft set inet f2b-table addr-set-sshd)",
            "2001:db8::7/128 nft inet filter input handle 7",
        ]
    );
}

/// Any rule of a small language, over few addresses, so that rules meet.
fn any_rule() -> impl Strategy<Value = Vec<Statement>> {
    let source = prop_oneof![
        (0_u8..8).prop_map(|host| saddr(&format!("203.0.113.{host}"))),
        (0_u8..4).prop_map(|net| saddr(&format!("203.0.113.{}/31", net * 2))),
        Just(saddr("203.0.113.0/29")),
        (0_u8..8).prop_map(|host| saddr_op(&format!("203.0.113.{host}"), CmpOp::Neq)),
        (0_u8..8).prop_map(|host| saddr_op(&format!("203.0.113.{host}"), CmpOp::Gt)),
        Just(saddr_set("set", false, false)),
        Just(Vec::new()),
    ];
    let other = prop_oneof![4 => Just(Vec::new()), 2 => Just(dport(22)), 1 => Just(dport(80)), 1 => Just(limit(10)), 1 => Just(iifname("eth0"))];
    let end = prop_oneof![
        3 => Just(drop()),
        3 => Just(accept()),
        1 => Just(jump("deep")),
        1 => Just(verdict_of(V::Return)),
        1 => Just(Vec::new()),
        1 => Just(verdict_of(V::Goto("deep".into()))),
    ];
    (source, other, end).prop_map(|(source, other, end)| vec![source, other, end])
}

pub(crate) fn any_ruleset() -> impl Strategy<Value = State> {
    let elements = prop::collection::btree_set(0_u8..8, 0..4);
    (prop::collection::vec(any_rule(), 0..6), prop::collection::vec(any_rule(), 0..3), elements, any::<bool>()).prop_map(
        |(rules, deep, elements, policy)| {
            let elements = elements.into_iter().map(|host| element(&format!("203.0.113.{host}"))).collect();
            let mut ruleset = Ruleset::new().input(Family::Ip, policy).set("set", false, 0, elements);
            for rule in rules {
                ruleset = ruleset.rule(&rule);
            }
            ruleset = ruleset.chain("deep");
            for rule in deep.into_iter().filter(|rule| !rule.concat().iter().any(jumps)) {
                ruleset = ruleset.rule(&rule);
            }
            ruleset.build()
        },
    )
}

fn jumps(expression: &Expression) -> bool {
    matches!(expression, Expression::Verdict(V::Jump(_) | V::Goto(_)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_verdict_on_a_range_is_that_of_every_address_in_it(state in any_ruleset()) {
        let range = verdict(&state, "203.0.113.0/29");
        if range != Verdict::Unknown {
            for address in 0..8 {
                let one = verdict(&state, &format!("203.0.113.{address}"));
                prop_assert_eq!(one, range, "203.0.113.{}", address);
            }
        }
    }

    #[test]
    fn what_is_lifted_opens_the_source_and_changes_nobody_else(state in any_ruleset()) {
        let before: Vec<Verdict> = (0..8).map(|address| verdict(&state, &format!("203.0.113.{address}"))).collect();
        let (found, mut after) = found(&state, "203.0.113.3");
        if let Part::Present(model) = &mut after.nf_tables {
            // What the others are asked about.
            model.dumps.clone_from(&state.dumps);
        }
        for step in found.into_iter().filter_map(|b| if let Lift::Steps(s) = b.lift { Some(s) } else { None }).flatten() {
            step.predict(&mut after).unwrap();
        }
        let Part::Present(after) = after.nf_tables else { panic!() };
        for address in 0..8_u8 {
            let now = verdict(&after, &format!("203.0.113.{address}"));
            if address == 3 {
                prop_assert_ne!(now, Verdict::Refuse);
            } else if now == Verdict::Accept || before[usize::from(address)] == Verdict::Refuse {
                prop_assert_eq!(now, before[usize::from(address)], "203.0.113.{}", address);
            }
        }
    }
}

/// On a router: what is accepted for this host does not open those behind it.
#[test]
fn an_accept_where_forwarded_packets_come_names_this_host() {
    let accepts = |state: &State| lift(state, ME).0;
    let inet = |hook| Ruleset::new().base(Family::Inet, "f", "pre", hook, -150, true);
    let drop_all = |rules: Ruleset| rules.rule(&[nfproto(false), saddr("203.0.113.0/24"), drop()]).build();
    let said = |place: &str, local: &str| {
        vec![format!("insert a rule in {place}: ip saddr {ME} tcp dport 22{local} accept comment \"sshfix accept\"")]
    };
    assert_eq!(accepts(&drop_all(inet(0))), said("inet f pre", " fib daddr type local"), "prerouting");
    assert_eq!(accepts(&drop_all(inet(1))), said("inet f pre", ""), "input is for this host alone");
    let common = |also: u32| {
        Ruleset::new()
            .base(Family::Inet, "f", "input", 1, 0, true)
            .rule(&[vec![Expression::Verdict(V::Jump("common".to_owned()))]])
            .base(Family::Inet, "f", "other", also, 0, true)
            .rule(&[vec![Expression::Verdict(V::Jump("common".to_owned()))]])
            .chain("common")
            .rule(&[nfproto(false), saddr("203.0.113.0/24"), drop()])
            .build()
    };
    assert_eq!(accepts(&common(2)), said("inet f common", " fib daddr type local"), "forward");
    assert_eq!(accepts(&common(3)), said("inet f common", ""), "output");
    // iptables-nft
    let compat = Ruleset::new().base(Family::Ip, "raw", "PREROUTING", 0, -300, true);
    let compat = accepts(&compat.rule(&[saddr("203.0.113.0/24"), drop()]).build());
    let text = "-A PREROUTING -s 203.0.113.7/32 -p tcp -m tcp --dport 22 -m addrtype --dst-type LOCAL -j ACCEPT";
    assert_eq!(compat, [format!("insert a rule in ip raw PREROUTING: {text}")]);
    // Where no routing table is asked and the host's addresses are not known, nothing is written.
    let below = drop_all(Ruleset::new().base(Family::Inet, "f", "pre", 5, -150, true));
    let planned = asked(&below, |host, needs| plan_accept(host, ME.parse().unwrap(), 22, None, needs)).0;
    assert!(matches!(planned, Err(NoPlan::OpensHostsBehind { .. })), "{planned:?}");
}

/// What is taken away where forwarded packets come to opens the hosts behind, too, and is said.
#[test]
fn a_removal_where_forwarded_packets_come_is_said_and_needs_a_grant_about_everybody() {
    let routes = |forwards: Option<bool>| crate::subsystem::route::State {
        forwards: forwards.into_iter().flat_map(|one| [(false, one), (true, one)]).collect(),
        ..Default::default()
    };
    for (hook, forwards, opens) in
        [(0, Some(true), true), (2, Some(true), false), (0, Some(false), false), (0, None, true), (1, Some(true), false)]
    {
        let state =
            Ruleset::new().base(Family::Inet, "f", "one", hook, -150, true).rule(&[nfproto(false), saddr(ME), drop()]).build();
        let (blocks, mut host) = found(&state, ME);
        host.route = Part::Present(routes(forwards));
        let steps: Vec<Step> =
            blocks.into_iter().flat_map(|block| if let Lift::Steps(steps) = block.lift { steps } else { Vec::new() }).collect();
        let told = super::opens_others(&host, &steps);
        assert_eq!(told.is_some(), opens, "hook {hook} forwards {forwards:?}: {told:?}");
    }
}

/// ARP: what may drop it is no accept, and what cannot is none of it.
#[test]
fn a_chain_that_may_drop_arp_makes_ipv4_unknown() {
    let arp = |policy: bool| Ruleset::new().base(Family::Arp, "a", "in", 0, 0, policy);
    for (state, v4, v6) in [
        (arp(true).build(), Verdict::Accept, Verdict::Accept),
        (arp(false).build(), Verdict::Unknown, Verdict::Accept),
        (arp(true).rule(&[drop()]).build(), Verdict::Unknown, Verdict::Accept),
        (arp(true).rule(&[accept()]).build(), Verdict::Accept, Verdict::Accept),
        (Ruleset::new().base(Family::Arp, "a", "fw", 2, 0, false).build(), Verdict::Accept, Verdict::Accept),
    ] {
        assert_eq!((verdict(&state, ME), verdict(&state, "2001:db8::7")), (v4, v6), "{state:?}");
    }
}
