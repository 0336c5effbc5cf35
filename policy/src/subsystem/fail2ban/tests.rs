#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;
use crate::host::step::Step as AnyStep;

fn source(text: &str) -> Source {
    text.parse().unwrap()
}

fn ticket(text: &str) -> Ticket {
    let since: Timestamp = "2026-11-21T05:29:33Z".parse().unwrap();
    Ticket {
        source: source(text),
        since: Some(since),
        until: Some("2026-11-21T05:39:33Z".parse().unwrap()),
        text: format!("{text} 2026-11-21 05:29:33 + 600 = 2026-11-21 05:39:33"),
    }
}

fn jail(name: &str, tickets: &[&str], ignore: &[&str]) -> Jail {
    let mut tickets: Vec<Ticket> = tickets.iter().map(|text| ticket(text)).collect();
    tickets.sort_by_key(|ticket| ticket.source);
    let mut ignore: Vec<String> = ignore.iter().map(|entry| (*entry).to_owned()).collect();
    ignore.sort();
    Jail { name: name.to_owned(), tickets, others: 0, ignore, ignore_self: true }
}

fn host(jails: Vec<Jail>) -> HostState {
    HostState { fail2ban: Part::Present(State { version: "1.1.0".to_owned(), jails, notes: Vec::new() }), ..HostState::empty() }
}

fn lab() -> HostState {
    host(vec![
        jail("recidive", &["203.0.113.0/24"], &[]),
        jail(
            "sshd",
            &["10.0.0.1", "10.0.0.10", "203.0.113.7", "203.0.113.8", "203.0.113.70", "2001:db8::7"],
            &["127.0.0.0/8", "198.51.100.0/24", "203.0.113.9", "example.org"],
        ),
    ])
}

fn asks(text: &str) -> Connection {
    Connection { source: source(text), port: 22, user: None }
}

fn steps(block: &Block) -> Vec<String> {
    match &block.lift {
        Lift::Steps(steps) => steps.iter().map(AnyStep::summary).collect(),
        Lift::ByHand(text) => vec![text.clone()],
    }
}

#[test]
fn unban_of_10_0_0_1_leaves_10_0_0_10() {
    let mut host = lab();
    let blocks = blocks(&host, &asks("10.0.0.1"));
    assert_eq!(blocks.len(), 1);
    assert_eq!(steps(&blocks[0]), ["unban 10.0.0.1 in jail sshd"]);
    let Lift::Steps(lift) = &blocks[0].lift else { panic!("no steps") };
    lift[0].predict(&mut host).unwrap();
    lift[0].holds(&host).unwrap();
    assert!(super::blocks(&host, &asks("10.0.0.1")).is_empty());
    assert_eq!(super::blocks(&host, &asks("10.0.0.10")).len(), 1);
}

#[test]
fn a_ban_of_a_range_is_found_and_not_lifted_whole_for_one_address() {
    let blocks = blocks(&lab(), &asks("203.0.113.7"));
    let found: Vec<_> = blocks.iter().map(|block| (block.finding.owner.clone(), steps(block))).collect();
    assert_eq!(
        found,
        [(Owner::jail("recidive"), vec![]), (Owner::jail("sshd"), vec!["unban 203.0.113.7 in jail sshd".to_owned()])]
    );
    assert!(blocks[0].finding.fix.contains("sshfix ctl unban 203.0.113.0/24"));
    assert!(blocks[0].finding.evidence[0].text.starts_with("203.0.113.0/24 2026-11-21"));
}

#[test]
fn unban_of_a_range_lifts_every_ticket_inside_it() {
    let blocks = blocks(&lab(), &asks("203.0.113.0/24"));
    let all: Vec<String> = blocks.iter().flat_map(steps).collect();
    assert_eq!(
        all,
        [
            "unban 203.0.113.0/24 in jail recidive",
            "unban 203.0.113.7 in jail sshd",
            "unban 203.0.113.8 in jail sshd",
            "unban 203.0.113.70 in jail sshd",
        ]
    );
}

#[test]
fn a_v6_ticket_blocks_only_its_address() {
    assert_eq!(blocks(&lab(), &asks("2001:db8::7")).len(), 1);
    assert_eq!(blocks(&lab(), &asks("2001:db8::70")).len(), 0);
}

#[test]
fn an_unknown_jail_is_named_with_the_list_of_those_that_exist() {
    let error = plan_ban(&lab(), source("203.0.113.9"), "ssh").unwrap_err();
    assert_eq!(error.to_string(), "fail2ban has no jail `ssh`; it has: recidive, sshd");
}

#[test]
fn nothing_is_planned_where_it_is_so_already() {
    let host = lab();
    assert_eq!(plan_ban(&host, source("203.0.113.7"), "sshd").unwrap(), []);
    assert_eq!(plan_ban(&host, source("203.0.113.9"), "recidive").unwrap(), [], "the range holds it");
    assert_eq!(plan_ignore(&host, source("198.51.100.7"), Some("sshd")).unwrap(), [], "the range holds it");
    assert_eq!(plan_unignore(&host, source("198.51.100.7"), None).unwrap(), [], "the range is not this address");
    assert_eq!(plan_unban_in(&host, source("192.0.2.1"), "sshd").unwrap(), []);
}

#[test]
fn ignore_goes_to_every_jail_or_to_the_one_named() {
    let host = lab();
    let summaries = |steps: Vec<AnyStep>| steps.iter().map(AnyStep::summary).collect::<Vec<_>>();
    let all = plan_ignore(&host, source("203.0.113.9"), None).unwrap();
    assert_eq!(summaries(all), ["ignore 203.0.113.9 in jail recidive"], "jail sshd has it already");
    let one = plan_unignore(&host, source("203.0.113.9"), Some("sshd")).unwrap();
    assert_eq!(summaries(one), ["no longer ignore 203.0.113.9 in jail sshd"]);
}

#[test]
fn undo_says_that_the_ban_time_starts_anew() {
    let unban = plan_unban_in(&lab(), source("203.0.113.7"), "sshd").unwrap();
    assert_eq!(
        unban[0].undo(),
        "ban 203.0.113.7 in jail sshd again; fail2ban makes its rules again, and the ban time starts anew"
    );
    assert_eq!(unban[0].diff(), "fail2ban jail sshd\n- 203.0.113.7 2026-11-21 05:29:33 + 600 = 2026-11-21 05:39:33\n");
}

#[test]
fn where_fail2ban_is_not_read_nothing_is_planned_or_said_to_hold() {
    let step = plan_ban(&lab(), source("192.0.2.1"), "sshd").unwrap().remove(0);
    for part in [Part::Absent("fail2ban is not running".to_owned()), Part::Unreadable("it hangs".to_owned())] {
        let mut host = lab();
        host.fail2ban = part;
        assert!(plan_ban(&host, source("192.0.2.1"), "sshd").is_err());
        assert!(step.predict(&mut host).is_err());
        assert!(step.holds(&host).is_err());
        assert!(blocks(&host, &asks("203.0.113.7")).is_empty());
        assert!(jails(&host).is_err());
    }
}

#[test]
fn steps_come_back_from_the_journal_as_they_were() {
    let steps = [
        plan_unban_in(&lab(), source("203.0.113.7"), "sshd").unwrap(),
        plan_ban(&lab(), source("192.0.2.0/24"), "sshd").unwrap(),
        plan_ignore(&lab(), source("2001:db8::/32"), None).unwrap(),
    ]
    .concat();
    let json = serde_json::to_string(&steps).unwrap();
    assert_eq!(serde_json::from_str::<Vec<AnyStep>>(&json).unwrap(), steps);
}

fn any_step() -> impl Strategy<Value = Step> {
    let address = (0u8..4, 0u8..12).prop_map(|(a, b)| format!("10.0.{a}.{b}"));
    prop_oneof![
        (address.clone(), any::<bool>()).prop_map(|(address, ban)| {
            let known = ticket(&address);
            let (before, after) = if ban { (None, Some(known)) } else { (Some(known), None) };
            Step::Ticket {
                jail: "sshd".to_owned(),
                source: source(&address),
                before,
                after,
                leftovers: Vec::new(),
                through: Vec::new(),
            }
        }),
        (address, any::<bool>()).prop_map(|(entry, after)| Step::Ignore {
            jail: "sshd".to_owned(),
            entry,
            before: !after,
            after
        }),
    ]
}

proptest! {
    #[test]
    fn the_inverse_of_the_inverse_is_the_step(step in any_step()) {
        prop_assert_eq!(step.inverse().inverse(), step);
    }

    #[test]
    fn the_inverse_after_a_step_gives_the_first_state_back(step in any_step(), banned in proptest::collection::btree_set((0u8..4, 0u8..12), 0..20)) {
        let names: Vec<String> = banned.iter().map(|(a, b)| format!("10.0.{a}.{b}")).collect();
        let texts: Vec<&str> = names.iter().map(String::as_str).collect();
        let first = host(vec![jail("sshd", &texts, &texts)]);
        // A step is only planned where its `before` is so.
        let mut state = first.clone();
        step.inverse().predict(&mut state).unwrap();
        let before = state.clone();
        step.predict(&mut state).unwrap();
        prop_assert_eq!(step.holds(&state), Ok(()));
        step.inverse().predict(&mut state).unwrap();
        prop_assert_eq!(state, before);
    }
}

#[test]
fn a_ban_counts_as_earned_only_of_who_was_kept_out_and_while_he_was() {
    let Part::Present(state) = lab().fail2ban else { unreachable!() };
    let at = |text: &str| format!("2026-11-21T05:{text}Z").parse::<Timestamp>().unwrap();
    let earned = |kept_out: &[&str], from: &str, until: &str| {
        let kept_out: Vec<Source> = kept_out.iter().map(|text| source(text)).collect();
        let found = earned(&state, &kept_out, at(from), at(until)).into_iter();
        found.map(|(jail, source)| format!("{jail} {}", source.short())).collect::<Vec<_>>()
    };
    // All were made at 05:29:33.
    assert_eq!(earned(&["10.0.0.1"], "29:00", "30:00"), ["sshd 10.0.0.1"]);
    assert_eq!(earned(&["10.0.0.1"], "29:33.9", "30:00"), ["sshd 10.0.0.1"], "in the same second");
    assert_eq!(earned(&["10.0.0.1"], "29:34", "30:00"), [""; 0], "banned before");
    assert_eq!(earned(&["10.0.0.1"], "29:00", "29:32.9"), [""; 0], "banned after");
    assert_eq!(earned(&["10.0.0.2"], "29:00", "30:00"), [""; 0], "nobody he kept out");
    assert_eq!(earned(&[], "29:00", "30:00"), [""; 0]);
    assert_eq!(
        earned(&["203.0.113.0/24", "2001:db8::/64"], "29:00", "30:00").len(),
        4,
        "the range's own ticket is not by fail2ban"
    );
}
