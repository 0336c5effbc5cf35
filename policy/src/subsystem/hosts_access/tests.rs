//! What the two files do to a connection, and what the edits promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

use proptest::prelude::*;

use super::*;
use crate::address::Source;
use crate::host::Need;
use crate::host::block::{Block, Lift};
use crate::host::step;
use crate::verdict::cause::Cause;
use crate::verdict::owner::Owner;

fn file(path: &str, content: Option<&str>) -> File {
    let content = content.map_or(Content::Missing, |text| Content::Bytes(text.as_bytes().to_vec()));
    File { path: path.into(), content, read_only: None }
}

/// The same host, which has found that an address has no name.
fn unnamed(mut state: State, address: &str) -> State {
    state.facts.names.insert(address.parse().unwrap(), HostName::Unknown);
    state
}

fn state(allow: Option<&str>, deny: Option<&str>) -> State {
    State {
        allow: file("/etc/hosts.allow", allow),
        deny: file("/etc/hosts.deny", deny),
        libwrap: Libwrap::Linked("sshd is linked with libwrap.so.0".into()),
        facts: Facts::default(),
    }
}

fn host_of(state: State) -> HostState {
    HostState { hosts_access: Part::Present(state), ..HostState::empty() }
}

fn host(allow: Option<&str>, deny: Option<&str>) -> HostState {
    host_of(state(allow, deny))
}

fn source(text: &str) -> Source {
    text.parse().unwrap()
}

fn from(text: &str) -> Connection {
    Connection { source: source(text), port: 22, user: None }
}

fn report(host: &HostState, address: &str) -> StageReport {
    evaluate(host, &from(address), &mut Needs::new())
}

fn verdict(host: &HostState, address: &str) -> Verdict {
    report(host, address).verdict
}

fn blocks(host: &HostState, connection: &Connection, needs: &mut Needs) -> Vec<Block> {
    super::blocks(host, connection, needs).into_iter().map(|line| line.block).collect()
}

fn lift_steps(blocks: &[Block]) -> Vec<step::Step> {
    let each = blocks.iter().map(|block| match &block.lift {
        Lift::Steps(steps) => steps.clone(),
        Lift::ByHand(by_hand) => panic!("by hand: {by_hand}"),
    });
    each.flatten().collect()
}

/// Lifts everything and gives the host afterwards.
fn unban(host: &HostState, address: &str) -> (HostState, Vec<Block>) {
    let blocks = blocks(host, &from(address), &mut Needs::new());
    let mut after = host.clone();
    for step in lift_steps(&blocks) {
        step.predict(&mut after).unwrap();
        step.holds(&after).unwrap();
    }
    (after, blocks)
}

fn text(host: &HostState, which: Which) -> Option<String> {
    host.hosts_access.present().unwrap().file(which).content.bytes().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

fn after_steps(host: &HostState, steps: &[step::Step]) -> HostState {
    let mut after = host.clone();
    for step in steps {
        step.predict(&mut after).unwrap();
    }
    after
}

#[test]
fn a_source_among_others_loses_only_its_own_name() {
    // To libwrap `#` and `x` are two names.
    let rules = "# keep\nsshd: 203.0.113.8, 203.0.113.7, 203.0.113.70 # x\n\nvsftpd: 203.0.113.7\n";
    let host = host_of(unnamed(state(None, Some(rules)), "203.0.113.7"));
    assert_eq!(verdict(&host, "203.0.113.7"), Verdict::Refuse);
    let (after, blocks) = unban(&host, "203.0.113.7");
    assert_eq!(text(&after, Which::Deny).unwrap(), "# keep\nsshd: 203.0.113.8, 203.0.113.70 # x\n\nvsftpd: 203.0.113.7\n");
    assert_eq!(text(&after, Which::Allow), None);
    let finding = &blocks[0].finding;
    assert_eq!((finding.cause, finding.blocking, &finding.owner), (Cause::HostsDeny, true, &Owner::Nobody));
    assert_eq!(finding.evidence[0].source, "/etc/hosts.deny line 2");
    assert_eq!(finding.evidence[0].text, "sshd: 203.0.113.8, 203.0.113.7, 203.0.113.70 # x");
    assert_eq!(finding.fix, "sshfix ctl unban 203.0.113.7");
    for still in ["203.0.113.8", "203.0.113.70"] {
        assert_eq!(verdict(&after, still), Verdict::Refuse, "{still}");
    }
    assert_eq!(verdict(&after, "203.0.113.7"), Verdict::Accept);
}

#[test]
fn unban_of_10_0_0_1_leaves_10_0_0_10() {
    let host = host(None, Some("sshd: 10.0.0.10\nsshd: 10.0.0.1\nALL: 10.0.0.100\n"));
    let (after, _) = unban(&host, "10.0.0.1");
    assert_eq!(text(&after, Which::Deny).unwrap(), "sshd: 10.0.0.10\nALL: 10.0.0.100\n");
}

#[test]
fn v6_is_the_equal_of_v4_and_mapped_addresses_are_v4() {
    let host = host(None, Some("sshd: [2001:db8::7] [2001:db8::70]\nsshd: 203.0.113.7\n"));
    assert_eq!(verdict(&host, "2001:db8::7"), Verdict::Refuse);
    assert_eq!(verdict(&host, "::ffff:203.0.113.7"), Verdict::Refuse);
    let (after, _) = unban(&host, "2001:db8::7");
    assert_eq!(text(&after, Which::Deny).unwrap(), "sshd: [2001:db8::70]\nsshd: 203.0.113.7\n");
    let (after, _) = unban(&after, "::ffff:203.0.113.7");
    assert_eq!(text(&after, Which::Deny).unwrap(), "sshd: [2001:db8::70]\n");
}

#[test]
fn a_wider_rule_stays_and_one_allow_line_lets_in_only_the_source() {
    for (deny, address, line) in [
        ("ALL: ALL\n", "203.0.113.7", "sshd: 203.0.113.7\n"),
        ("ALL: ALL\n", "2001:db8::7", "sshd: [2001:db8::7]\n"),
        ("sshd: 203.0.113.0/255.255.255.0\n", "203.0.113.7", "sshd: 203.0.113.7\n"),
        ("sshd: 203.0.113.\n", "203.0.113.7", "sshd: 203.0.113.7\n"),
        ("sshd: [2001:db8::]/32\n", "2001:db8::7", "sshd: [2001:db8::7]\n"),
        ("sshd: ALL EXCEPT 198.51.100.7\n", "203.0.113.0/24", "sshd: 203.0.113.0/255.255.255.0\n"),
        ("sshd: ALL EXCEPT 198.51.100.7\n", "2001:db8::/64", "sshd: [2001:db8::]/64\n"),
    ] {
        let host = host(None, Some(deny));
        assert_eq!(verdict(&host, address), Verdict::Refuse, "{deny}");
        let (after, _) = unban(&host, address);
        assert_eq!(text(&after, Which::Deny).unwrap(), deny);
        assert_eq!(text(&after, Which::Allow).unwrap(), line);
        assert_eq!(verdict(&after, address), Verdict::Accept);
        assert_eq!(
            verdict(&after, "203.0.113.8"),
            if address.contains("/24") { Verdict::Accept } else { verdict(&host, "203.0.113.8") }
        );
        assert_eq!(verdict(&after, "2001:db9::"), verdict(&host, "2001:db9::"));
    }
}

#[test]
fn the_nets_around_a_source_are_lifted_whole_only_where_that_is_asked_for() {
    let whole = |deny: &str, address: &str| {
        let host = host(None, Some(deny));
        let blocks = blocks(&host, &from(address), &mut Needs::new());
        let all: Vec<_> = blocks.into_iter().flat_map(|block| block.alternatives).collect();
        assert!(all.len() <= 1 && all.iter().all(|one| one.range));
        all.into_iter().next().map(|one| {
            let after = after_steps(&host, &one.steps);
            assert_eq!(verdict(&after, address), Verdict::Accept);
            let opens: Vec<_> = one.opens.iter().map(ToString::to_string).collect();
            (text(&after, Which::Deny).unwrap(), opens.join(" "), one.why_not)
        })
    };
    let of = |text: &str, opens: &str, others: &str| {
        Some((text.to_owned(), opens.to_owned(), format!("also lifts it for {others} others; needs --range")))
    };
    assert_eq!(whole("sshd: 203.0.113.\n", "203.0.113.7"), of("", "203.0.113.0/24", "255"));
    let two = "# a\nsshd: 198.51.100.7, 203.0.113.0/255.255.255.240 EXCEPT 203.0.113.8\n";
    assert_eq!(whole(two, "203.0.113.7"), of("# a\nsshd: 198.51.100.7, EXCEPT 203.0.113.8\n", "203.0.113.0/28", "15"));
    let nested = "sshd: 203.0.113.7\nALL: 203.0.113.\nsshd: 203.0.\n";
    assert_eq!(whole(nested, "203.0.113.7"), of("", "203.0.0.0/16", "65535"));
    assert_eq!(whole("sshd: [2001:db8::]/120\n", "2001:db8::7"), of("", "2001:db8::/120", "255"));
    assert_eq!(whole("sshd: 203.0.113.7\n", "203.0.113.7"), None, "it is no net");
    assert_eq!(whole("sshd: 203.0.113.\nALL: ALL\n", "203.0.113.7"), None, "nobody else would get in by it");
}

#[test]
fn every_rule_against_the_source_is_found_and_lifted_at_once() {
    let host = host(Some("sshd: 198.51.100.7\n"), Some("sshd: 203.0.113.7\nALL: ALL\nALL: 203.0.113.7 : spawn x\n"));
    let (after, blocks) = unban(&host, "203.0.113.7");
    let found: Vec<_> = blocks.iter().map(|block| (block.finding.cause, block.finding.evidence[0].source.clone())).collect();
    assert_eq!(
        found,
        [
            (Cause::HostsDeny, "/etc/hosts.deny line 1".to_owned()),
            (Cause::HostsAllowRestrict, "/etc/hosts.deny line 2".to_owned()),
            (Cause::HostsDeny, "/etc/hosts.deny line 3".to_owned()),
        ]
    );
    assert_eq!(lift_steps(&blocks).len(), 2, "one step a file");
    assert_eq!(text(&after, Which::Deny).unwrap(), "ALL: ALL\n");
    assert_eq!(text(&after, Which::Allow).unwrap(), "sshd: 198.51.100.7\nsshd: 203.0.113.7\n");
    let (again, blocks) = unban(&after, "203.0.113.7");
    assert!(blocks.is_empty(), "nothing to do the second time");
    assert_eq!(again, after);
}

#[test]
fn the_allow_line_goes_before_a_deny_option_in_hosts_allow() {
    let host = host(Some("vsftpd: ALL\nALL: ALL : deny\nsshd: 203.0.113.7\n"), None);
    let (after, _) = unban(&host, "203.0.113.7");
    assert_eq!(text(&after, Which::Allow).unwrap(), "vsftpd: ALL\nsshd: 203.0.113.7\nALL: ALL : deny\nsshd: 203.0.113.7\n");
    assert_eq!(verdict(&after, "203.0.113.8"), Verdict::Refuse);
}

#[test]
fn a_range_is_freed_of_every_ban_inside_it() {
    let host = host(None, Some("sshd: 203.0.113.7, 198.51.100.7, 203.0.113.64/26\nsshd: 203.0.113.8\n"));
    assert_eq!(verdict(&host, "203.0.113.0/24"), Verdict::Unknown);
    let (after, _) = unban(&host, "203.0.113.0/24");
    assert_eq!(text(&after, Which::Deny).unwrap(), "sshd: 198.51.100.7\n");
    assert_eq!(text(&after, Which::Allow), None);
    assert_eq!(verdict(&after, "203.0.113.0/24"), Verdict::Accept);
}

#[test]
fn a_last_line_without_newline_refuses_everybody_and_is_left_as_it_is() {
    let host = host(None, Some("sshd: 10.0.0.1"));
    let seen = report(&host, "203.0.113.7");
    assert_eq!(seen.verdict, Verdict::Refuse);
    assert!(seen.detail.contains("no newline"), "{}", seen.detail);
    let (after, _) = unban(&host, "203.0.113.7");
    assert_eq!(text(&after, Which::Allow).unwrap(), "sshd: 203.0.113.7\n");
    assert_eq!(text(&after, Which::Deny).unwrap(), "sshd: 10.0.0.1");
    assert_eq!(verdict(&after, "203.0.113.8"), Verdict::Refuse);
    // In hosts.allow such a line only ends the file; a new line must not be glued to it.
    let host = host_of(state(Some("sshd: 10.0.0.1"), Some("ALL: ALL\n")));
    let (after, _) = unban(&host, "203.0.113.7");
    assert_eq!(text(&after, Which::Allow).unwrap(), "sshd: 203.0.113.7\nsshd: 10.0.0.1");
    assert_eq!(verdict(&after, "10.0.0.1"), Verdict::Refuse);
}

#[test]
fn an_sshd_without_libwrap_does_not_care_and_one_that_cannot_be_told_is_unknown() {
    let mut without = state(None, Some("ALL: ALL\n"));
    without.libwrap = Libwrap::NotLinked("sshd is not linked with libwrap".into());
    let host = host_of(without.clone());
    assert_eq!(verdict(&host, "203.0.113.7"), Verdict::Accept);
    assert!(blocks(&host, &from("203.0.113.7"), &mut Needs::new()).is_empty());
    assert!(bans(&host).is_empty());
    without.libwrap = Libwrap::Unknown("no sshd".into());
    let host = host_of(without);
    assert_eq!(verdict(&host, "203.0.113.7"), Verdict::Unknown);
    let blocks = blocks(&host, &from("203.0.113.7"), &mut Needs::new());
    assert!(!blocks[0].finding.blocking);
    let mut open = state(None, None);
    open.libwrap = Libwrap::Unknown("no sshd".into());
    assert_eq!(verdict(&host_of(open), "203.0.113.7"), Verdict::Accept, "nobody is refused either way");
}

#[test]
fn names_are_asked_for_only_when_the_verdict_depends_on_them() {
    let address: std::net::IpAddr = "203.0.113.7".parse().unwrap();
    let ask = |host: &HostState| {
        let mut needs = Needs::new();
        (evaluate(host, &from("203.0.113.7"), &mut needs).verdict, needs)
    };
    let need: Needs = [Need::HostName(address)].into();
    assert_eq!(ask(&host(None, Some("sshd: .evil.example\n"))), (Verdict::Unknown, need.clone()));
    assert_eq!(ask(&host(Some("sshd: .good.example\n"), None)), (Verdict::Accept, Needs::new()), "open either way");
    assert_eq!(ask(&host(None, Some("vsftpd: .evil.example\n"))), (Verdict::Accept, Needs::new()), "another daemon");
    assert_eq!(ask(&host(None, Some("sshd: .evil.example\nsshd: ALL\n"))), (Verdict::Refuse, Needs::new()));
    for (pattern, name, verdict) in [
        (".evil.example", HostName::Verified("a.evil.example".into()), Verdict::Refuse),
        (".evil.example", HostName::Verified("a.good.example".into()), Verdict::Accept),
        ("PARANOID", HostName::Paranoid, Verdict::Refuse),
        ("PARANOID", HostName::Verified("a.example".into()), Verdict::Accept),
        ("UNKNOWN", HostName::Unknown, Verdict::Refuse),
        ("KNOWN", HostName::Unknown, Verdict::Accept),
        ("LOCAL", HostName::Verified("seven".into()), Verdict::Refuse),
        ("LOCAL", HostName::Verified("seven.example".into()), Verdict::Accept),
        ("ALL EXCEPT LOCAL", HostName::Verified("seven".into()), Verdict::Accept),
        (".evil.example", HostName::Unanswered("timeout".into()), Verdict::Unknown),
    ] {
        let mut state = state(None, Some(&format!("sshd: {pattern}\n")));
        state.facts.names.insert(address, name.clone());
        assert_eq!(ask(&host_of(state)), (verdict, Needs::new()), "{pattern} {name:?}");
    }
}

#[test]
fn files_named_by_patterns_are_asked_for_and_searched() {
    let host = host(None, Some("sshd: /etc/banned\n"));
    let mut needs = Needs::new();
    assert_eq!(evaluate(&host, &from("203.0.113.7"), &mut needs).verdict, Verdict::Unknown);
    assert_eq!(needs, [Need::PatternFile("/etc/banned".into())].into());
    let mut known = unnamed(state(None, Some("sshd: /etc/banned\n")), "203.0.113.8");
    known.facts.files.insert("/etc/banned".into(), PatternFile::Content(b"203.0.113.7\n2001:db8::7".to_vec()));
    let host = host_of(known.clone());
    assert_eq!(verdict(&host, "203.0.113.7"), Verdict::Refuse);
    assert_eq!(verdict(&host, "2001:db8::7"), Verdict::Refuse);
    assert_eq!(verdict(&host, "203.0.113.8"), Verdict::Accept);
    let (after, _) = unban(&host, "203.0.113.7");
    assert_eq!(text(&after, Which::Allow).unwrap(), "sshd: 203.0.113.7\n");
    known.facts.files.insert("/etc/banned".into(), PatternFile::Unreadable("no".into()));
    assert_eq!(verdict(&host_of(known), "203.0.113.7"), Verdict::Unknown);
}

#[test]
fn where_a_name_stays_unknown_the_edit_lets_in_whatever_the_name_is() {
    let mut state = state(None, Some("sshd: 203.0.113.7\nsshd: .evil.example\n"));
    state.facts.names.insert("203.0.113.7".parse().unwrap(), HostName::Unanswered("timeout".into()));
    let (after, blocks) = unban(&host_of(state), "203.0.113.7");
    assert_eq!(blocks.len(), 1, "only what is known to refuse is a block");
    assert_eq!(text(&after, Which::Deny).unwrap(), "sshd: .evil.example\n");
    assert_eq!(text(&after, Which::Allow).unwrap(), "sshd: 203.0.113.7\n");
    assert_eq!(verdict(&after, "203.0.113.7"), Verdict::Accept);
}

#[test]
fn what_cannot_be_told_is_unknown_with_its_reason() {
    for (deny, word) in [
        ("sshd: @bad\n", "netgroup"),
        ("sshd: bob@203.0.113.7\n", "ident"),
        ("sshd@192.0.2.1: ALL\n", ""),
        ("sshd: 203.0.113.7 : aclexec /bin/check %a\n", "aclexec"),
    ] {
        let seen = report(&host(None, Some(deny)), "203.0.113.7");
        assert_eq!(seen.verdict, Verdict::Unknown, "{deny}");
        assert!(seen.detail.contains(word), "{}", seen.detail);
    }
    let mut unreadable = state(None, None);
    unreadable.deny.content = Content::Unreadable("/etc/hosts.deny: not a regular file".into());
    let seen = report(&host_of(unreadable), "203.0.113.7");
    assert_eq!(seen.verdict, Verdict::Unknown);
    assert!(seen.detail.contains("not a regular file"), "{}", seen.detail);
}

#[test]
fn a_file_sshfix_must_not_write_is_left_to_the_person() {
    let mut linked = state(None, Some("sshd: 203.0.113.7\n"));
    linked.deny.read_only = Some("/etc/hosts.deny: a symbolic link".into());
    let blocks = blocks(&host_of(linked), &from("203.0.113.7"), &mut Needs::new());
    assert!(matches!(&blocks[0].lift, Lift::ByHand(text) if text.contains("symbolic link")), "{blocks:?}");
}

#[test]
fn the_owner_is_named_only_where_the_file_proves_it() {
    let denyhosts = "# DenyHosts: Sat Nov 21 05:12:57 2026 | sshd: 203.0.113.7\nsshd: 203.0.113.7\nsshd: 203.0.113.8\n";
    let owner = |host: &HostState, address: &str| unban(host, address).1[0].finding.owner.clone();
    assert_eq!(owner(&host(None, Some(denyhosts)), "203.0.113.7"), Owner::DenyHosts);
    assert_eq!(owner(&host(None, Some(denyhosts)), "203.0.113.8"), Owner::Nobody);
    let sshguard = host(Some("###sshguard###\nsshd : 203.0.113.7 203.0.113.8 : DENY\n###sshguard###\n"), None);
    let (after, blocks) = unban(&sshguard, "203.0.113.7");
    assert_eq!((&blocks[0].finding.owner, blocks[0].finding.cause), (&Owner::Sshguard, Cause::SshguardBlock));
    assert_eq!(blocks[0].finding.stage, Stage::HostsAccess, "what sshguard does by this file, this file does");
    assert_eq!(text(&after, Which::Allow).unwrap(), "###sshguard###\nsshd : 203.0.113.8 : DENY\n###sshguard###\n");
}

#[test]
fn a_file_with_many_bans_is_freed_of_a_range_in_one_go() {
    let bans: Vec<_> = (0..3000u32).map(|at| format!("ALL: 10.{}.{}.7\n", at / 250, at % 250)).collect();
    let deny = bans.concat();
    let (after, blocks) = unban(&host(None, Some(&deny)), "10.0.0.0/9");
    assert_eq!(blocks.len(), 3000);
    assert_eq!(text(&after, Which::Deny).unwrap(), "");
}

#[test]
fn hosts_allow_writes_one_line_and_nothing_the_second_time() {
    let host = host(Some("# mine\n"), Some("ALL: ALL\n"));
    let steps = plan_allow(&host, source("203.0.113.7"), None).unwrap();
    let after = after_steps(&host, &steps);
    assert_eq!(text(&after, Which::Allow).unwrap(), "# mine\nsshd: 203.0.113.7\n");
    assert_eq!(plan_allow(&after, source("203.0.113.7"), None), Ok(Vec::new()));
    let steps = plan_allow(&after, source("2001:db8::/32"), Some("vsftpd")).unwrap();
    assert_eq!(text(&after_steps(&after, &steps), Which::Allow).unwrap(), "# mine\nsshd: 203.0.113.7\nvsftpd: [2001:db8::]/32\n");
}

#[test]
fn hosts_deny_holds_whatever_hosts_allow_says() {
    for (allow, deny, want_allow, want_deny) in [
        (None, None, None, Some("sshd: 203.0.113.7\n")),
        (None, Some("sshd: 10.0.0.1\n"), None, Some("sshd: 10.0.0.1\nsshd: 203.0.113.7\n")),
        (Some("sshd: 203.0.113.7 203.0.113.8\n"), None, Some("sshd: 203.0.113.8\n"), Some("sshd: 203.0.113.7\n")),
        (Some("sshd: ALL\n"), None, Some("sshd: 203.0.113.7 : deny\nsshd: ALL\n"), None),
        (None, Some("sshd: ALL : allow\n"), None, Some("sshd: 203.0.113.7\nsshd: ALL : allow\n")),
    ] {
        let host = host(allow, deny);
        let steps = plan_deny(&host, source("203.0.113.7"), None).unwrap();
        let after = after_steps(&host, &steps);
        assert_eq!(text(&after, Which::Allow).as_deref(), want_allow);
        assert_eq!(text(&after, Which::Deny).as_deref(), want_deny);
        assert_eq!(verdict(&after, "203.0.113.7"), Verdict::Refuse);
        assert_eq!(verdict(&after, "203.0.113.8"), verdict(&host, "203.0.113.8"));
        assert_eq!(plan_deny(&after, source("203.0.113.7"), None), Ok(Vec::new()));
    }
}

#[test]
fn hosts_remove_takes_exactly_this_source_out_of_both_files() {
    let host = host(
        Some("sshd: 203.0.113.7 203.0.113.70\nALL: 203.0.113.7\nvsftpd: 203.0.113.7\n"),
        Some("sshd: 203.0.113.0/24 203.0.113.7/32\nsshd: ALL EXCEPT 203.0.113.7\n"),
    );
    let steps = plan_remove(&host, source("203.0.113.7"), None).unwrap();
    let after = after_steps(&host, &steps);
    assert_eq!(text(&after, Which::Allow).unwrap(), "sshd: 203.0.113.70\nvsftpd: 203.0.113.7\n");
    assert_eq!(text(&after, Which::Deny).unwrap(), "sshd: 203.0.113.0/24\nsshd: ALL EXCEPT 203.0.113.7\n");
    assert_eq!(plan_remove(&after, source("203.0.113.7"), None), Ok(Vec::new()));
    let steps = plan_remove(&host, source("203.0.113.0/24"), None).unwrap();
    assert_eq!(text(&after_steps(&host, &steps), Which::Deny).unwrap(), "sshd: 203.0.113.7/32\nsshd: ALL EXCEPT 203.0.113.7\n");
}

#[test]
fn a_daemon_name_cannot_carry_another_rule() {
    let host = host(None, None);
    let long = "a".repeat(65);
    for bad in [
        "",
        "sshd\nALL",
        "sshd:ALL",
        "sshd#",
        "a\\",
        "ALL",
        "EXCEPT",
        "sshd vsftpd",
        "s*",
        "22",
        ".sshd",
        "ssh.",
        "a@b",
        "[x",
        long.as_str(),
    ] {
        assert!(plan_allow(&host, source("203.0.113.7"), Some(bad)).is_err(), "{bad:?}");
        assert!(plan_deny(&host, source("203.0.113.7"), Some(bad)).is_err(), "{bad:?}");
        assert!(plan_remove(&host, source("203.0.113.7"), Some(bad)).is_err(), "{bad:?}");
    }
    assert!(plan_allow(&host, source("203.0.113.7"), Some("in.ftpd")).is_ok());
}

#[test]
fn rules_are_listed_and_named_sources_are_bans() {
    let host = host(
        Some("vsftpd: ALL\nsshd: 10.0.0.1\nsshd: 10.9. : DENY\n"),
        Some("# c\nALL: 203.0.113.7, [2001:db8::]/32 .example.org EXCEPT 10.0.0.2\nvsftpd: 10.0.0.3\nsshd: 10.0.0.4"),
    );
    let listed = list(&host);
    assert_eq!(listed.rules.len(), 5);
    assert_eq!((listed.rules[0].concerns_sshd, listed.rules[3].concerns_sshd), (false, true));
    assert_eq!((listed.rules[3].line, listed.rules[3].file.as_str()), (2, "/etc/hosts.deny"));
    assert!(listed.notes[0].contains("no newline at its end"), "{:?}", listed.notes);
    assert!(listed.enforced.starts_with("yes: "));
    let bans: Vec<_> = bans(&host).into_iter().map(|ban| format!("{} {}", ban.source, ban.by)).collect();
    assert_eq!(
        bans,
        ["10.9.0.0/16 /etc/hosts.allow line 3", "203.0.113.7/32 /etc/hosts.deny line 2", "2001:db8::/32 /etc/hosts.deny line 2"]
    );
}

#[test]
fn a_diff_shows_the_changed_lines_alone_and_every_odd_byte() {
    let step = Step {
        file: Which::Deny,
        path: "/etc/hosts.deny".into(),
        before: Some(b"# a\nsshd: 203.0.113.7 # \xff\x1b[2J \\x1b\n# b\n".to_vec()),
        after: Some(b"# a\n# b\n".to_vec()),
        touches: None,
    };
    assert_eq!(
        step.diff(),
        "--- /etc/hosts.deny\n+++ /etc/hosts.deny\n@@ -2 +1,0 @@\n-sshd: 203.0.113.7 # \\xff\\x1b[2J \\\\x1b\n"
    );
    assert_eq!(step.summary(), "edit /etc/hosts.deny (-1 line)");
    assert_eq!(step.undo(), "put the old content of /etc/hosts.deny back, to the byte");
    let create = Step { before: None, after: Some(b"sshd: ALL\n".to_vec()), ..step };
    assert_eq!(create.diff(), "--- /dev/null\n+++ /etc/hosts.deny\n@@ -0,0 +1 @@\n+sshd: ALL\n");
    assert_eq!(
        (create.summary().as_str(), create.undo().as_str()),
        ("create /etc/hosts.deny (+1 line)", "remove /etc/hosts.deny again")
    );
}

#[test]
fn a_step_on_a_file_that_is_neither_before_nor_after_does_not_fit() {
    let planned = host(None, Some("sshd: 203.0.113.7\n"));
    let steps = plan_remove(&planned, source("203.0.113.7"), None).unwrap();
    let mut other = host(None, Some("sshd: 203.0.113.7 203.0.113.8\n"));
    assert!(steps[0].predict(&mut other).is_err());
    assert!(steps[0].holds(&planned).is_err());
    let after = after_steps(&planned, &steps);
    assert_eq!(after_steps(&after, &steps), after, "already so");
}

const LINES: &str = "((sshd|ALL|vsftpd|sshd EXCEPT x|ALL@192.0.2.1) ?: ?((203\\.0\\.113\\.(7|8|70)|203\\.0\\.113\\.|203\\.0\\.113\\.0/255\\.255\\.255\\.0|ALL|\\[2001:db8::7\\]|\\[2001:db8::\\]/32|EXCEPT|\\.example\\.org|203\\.0\\.\\*)(, | |, \\\\\n )){1,4}( : (allow|deny|nonsense|aclexec x|spawn y))?\n|# comment\n|no colon\n|\n){0,6}(sshd: 203.0.113.9)?";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn unban_lets_the_source_in_and_nobody_else(allow in LINES, deny in LINES, which in 0usize..4) {
        let address = ["203.0.113.7", "2001:db8::7", "203.0.113.0/24", "198.51.100.7"][which];
        let mut state = state(Some(&allow), Some(&deny));
        for known in ["203.0.113.7", "2001:db8::7", "198.51.100.7", "203.0.113.8", "203.0.113.70", "2001:db8::8", "192.0.2.1"] {
            state.facts.names.insert(known.parse().unwrap(), HostName::Unknown);
        }
        let host = host_of(state);
        let before = verdict(&host, address);
        let blocks = blocks(&host, &from(address), &mut Needs::new());
        if before == Verdict::Refuse {
            prop_assert!(!blocks.is_empty());
        }
        let mut after = host.clone();
        for block in &blocks {
            let Lift::Steps(steps) = &block.lift else { continue };
            for step in steps {
                step.predict(&mut after).unwrap();
                prop_assert_eq!(step.inverse().inverse(), step.clone());
                let json = serde_json::to_string(step).unwrap();
                prop_assert_eq!(&serde_json::from_str::<step::Step>(&json).unwrap(), step);
                let mut back = after.clone();
                step.inverse().predict(&mut back).unwrap();
                step.predict(&mut back).unwrap();
                prop_assert_eq!(&back, &after);
            }
        }
        let lifted = blocks.iter().all(|block| matches!(block.lift, Lift::Steps(_)));
        if !blocks.is_empty() && lifted {
            prop_assert_eq!(verdict(&after, address), Verdict::Accept);
        }
        for other in ["203.0.113.8", "203.0.113.70", "2001:db8::8", "192.0.2.1", "203.0.113.7", "2001:db8::7"] {
            if !source(address).overlaps(source(other)) {
                prop_assert_eq!(verdict(&after, other), verdict(&host, other), "{}", other);
            }
        }
        let mut again = Needs::new();
        if lifted {
            prop_assert!(super::blocks(&after, &from(address), &mut again).is_empty());
        }
    }

    #[test]
    fn a_range_is_answered_as_each_of_its_addresses_or_not_at_all(allow in LINES, deny in LINES) {
        let mut state = state(Some(&allow), Some(&deny));
        let range = source("203.0.113.4/30");
        let inside = ["203.0.113.4", "203.0.113.5", "203.0.113.6", "203.0.113.7"];
        for address in inside {
            state.facts.names.insert(address.parse().unwrap(), HostName::Unknown);
        }
        let host = host_of(state);
        let whole = evaluate(&host, &Connection { source: range, port: 22, user: None }, &mut Needs::new()).verdict;
        for address in inside {
            let one = verdict(&host, address);
            prop_assert!(whole == Verdict::Unknown || one == whole, "{} {:?} {:?}", address, one, whole);
        }
    }

    #[test]
    fn no_bytes_make_the_evaluator_panic(allow: Vec<u8>, deny: Vec<u8>) {
        let mut odd = state(None, None);
        odd.allow.content = Content::Bytes(allow);
        odd.deny.content = Content::Bytes(deny);
        let host = host_of(odd);
        for address in ["203.0.113.7", "2001:db8::7", "0.0.0.0/0", "::/0", "fe80::1"] {
            report(&host, address);
            blocks(&host, &from(address), &mut Needs::new());
        }
        list(&host);
        bans(&host);
    }
}
