//! Traces of rulesets: what is listed, in which order, and what is said of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::super::tests::{asked, from};
use super::trace;
use crate::subsystem::nf_tables::build::*;
use crate::subsystem::nf_tables::expression::Expression;
use crate::subsystem::nf_tables::{Family, State};
use crate::text::quoted::Text;
use crate::verdict::owner::Owner;
use crate::verdict::trace::{Handshake, TraceLine};

const ME: &str = "203.0.113.7";

fn traced(state: &State) -> Vec<TraceLine> {
    asked(state, |host, needs| trace(host, &from(ME), needs)).0
}

/// `syn 0 | text | effect`
fn drawn(lines: &[TraceLine]) -> Vec<String> {
    let packet = |line: &TraceLine| match line.at.as_ref().unwrap().packet {
        Handshake::Syn => "syn",
        Handshake::Answer => "answer",
        Handshake::Ack => "ack",
        Handshake::Solicitation => "solicitation",
        Handshake::Advertisement => "advertisement",
    };
    let mark = |line: &TraceLine| if line.decides { " !" } else { "" };
    lines.iter().map(|line| format!("{} {} | {} | {}{}", packet(line), line.depth, line.text, line.effect, mark(line))).collect()
}

#[test]
fn jumps_returns_elements_and_what_decides_are_listed_in_the_kernels_order() {
    let counter = vec![Expression::Counter { packets: 3, bytes: 180 }];
    let mut banned = element(ME);
    banned.timeout_ms = Some(600_000);
    banned.expires_ms = Some(552_100);
    banned.comment = Some("by hand".to_owned());
    let state = Ruleset::new()
        .base(Family::Inet, "filter", "input", 1, 0, true)
        .rule(&[dport(80), drop()])
        .rule(&[dport(22), jump("empty")])
        .rule(&[dport(22), jump("ssh")])
        .chain("empty")
        .rule(&[saddr("203.0.113.8"), drop()])
        .chain("ssh")
        .rule(std::slice::from_ref(&counter))
        .rule(&[nfproto(false), saddr_set("bad", false, false), counter, drop()])
        .set("bad", false, 0x10, vec![banned])
        .build();
    let lines = traced(&state);
    assert_eq!(
        drawn(&lines),
        [
            "syn 0 | tcp dport 22 jump empty | jump empty",
            "syn 1 | end of chain empty | return",
            "syn 0 | tcp dport 22 jump ssh | jump ssh",
            "syn 1 | counter | goes on",
            "syn 1 | ip saddr @bad counter drop | dropped !",
        ]
    );
    let decides = lines.last().unwrap();
    assert_eq!(decides.elements.len(), 1);
    assert_eq!(decides.elements[0].source, "nft set inet filter bad");
    assert_eq!(decides.elements[0].text, "203.0.113.7 timeout 10m expires 9m12s100ms comment \"by hand\"");
    assert_eq!(decides.counter.map(|counter| (counter.packets, counter.bytes)), Some((3, 180)));
    assert_eq!(decides.owner, Some(Owner::Nobody));
    let place = decides.place.as_ref().unwrap();
    assert_eq!((place.family.as_str(), place.table.as_str(), place.chain.as_str()), ("inet", "filter", "ssh"));
    assert_eq!(place.reference, place.handle.map(|handle| format!("nft/inet/filter/ssh/handle/{handle}")));
    assert!(place.handle.is_some());
}

#[test]
fn all_three_packets_are_followed_and_tracking_is_shown_only_where_a_rule_needs_it() {
    let state = Ruleset::new().input(Family::Inet, false).rule(&[ct_state(8), dport(22), accept()]).build();
    let lines = traced(&state);
    assert_eq!(
        drawn(&lines),
        [
            "syn 0 | ct state new | goes on",
            "syn 0 | ct state new tcp dport 22 accept | accept",
            "answer 0 | ct state established | goes on",
            "ack 0 | ct state established | goes on",
            "ack 0 | type filter hook input priority 0; policy drop; | dropped by the policy !",
        ]
    );
    let plain = Ruleset::new().input(Family::Inet, true).rule(&[dport(22), accept()]).build();
    assert!(drawn(&traced(&plain)).iter().all(|line| !line.contains("ct state")));
}

#[test]
fn what_may_match_says_on_what_it_depends_and_both_ways_are_followed() {
    let state = Ruleset::new()
        .input(Family::Inet, false)
        .rule(&[dport(22), limit(10), accept()])
        .rule(&[dport(22), iifname("eth7"), accept()])
        .build();
    let lines = traced(&state);
    let depends: Vec<Vec<&str>> = lines.iter().map(|line| line.depends.iter().map(Text::as_str).collect()).collect();
    assert_eq!(lines[0].effect, "accept");
    assert!(depends[0][0].starts_with("limit rate 10/"), "{lines:#?}");
    assert_eq!(depends[1], ["iifname"]);
    assert!(lines[2].decides && lines[2].effect == "dropped by the policy", "{lines:#?}");
}

#[test]
fn a_long_ruleset_lists_only_what_matched() {
    let mut rules = Ruleset::new().input(Family::Inet, true);
    for index in 0..20_000_u32 {
        rules = rules.rule(&[nfproto(false), saddr(&format!("10.{}.{}.1", index / 256, index % 256)), drop()]);
    }
    let lines = traced(&rules.rule(&[dport(22), accept()]).build());
    assert_eq!(lines.len(), 2, "the SYN and the ACK each match one rule: {lines:#?}");
    let mut counting = Ruleset::new().input(Family::Inet, true);
    for _ in 0..20_000 {
        counting = counting.rule(&[vec![Expression::Counter { packets: 0, bytes: 0 }]]);
    }
    let lines = traced(&counting.build());
    assert!(lines.len() < 2100 && lines.iter().any(|line| line.effect == "not shown"), "{}", lines.len());
}
