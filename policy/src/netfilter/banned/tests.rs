//! `banned` of one address asks by key, and says what `banned` of everybody says of it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use proptest::prelude::*;

use super::super::tests::{any_ruleset, asked, host};
use super::bans;
use crate::address::Source;
use crate::host::{Need, Needs};
use crate::packet::Packet;
use crate::reply::Ban;
use crate::subsystem::ipset::{self, Element, Entry, Key, Set, SetReference};
use crate::subsystem::nf_tables::build::{Ruleset, dport, drop, element, iifname, maps, nfproto, saddr, saddr_set};
use crate::subsystem::nf_tables::expression::Verdict as V;
use crate::subsystem::nf_tables::{Family, State};
use crate::verdict::Connection;

fn texts(bans: &[Ban]) -> Vec<String> {
    bans.iter().map(|ban| format!("{} {}", ban.source, ban.by)).collect()
}

fn of(kernel: &State, source: &str) -> (Vec<String>, Needs) {
    let source: Source = source.parse().unwrap();
    let (found, _, needs) = asked(kernel, |host, needs| bans(host, Some(source), 22, needs));
    (texts(&found), needs)
}

#[test]
fn one_address_is_asked_for_by_key_through_jumps_and_maps_and_no_set_is_read() {
    let state = Ruleset::new()
        .input(Family::Inet, true)
        .set("bad", false, 0x4, vec![element("198.51.100.0/24"), element("203.0.113.7")])
        .set("sorted", false, 0, vec![maps("203.0.113.7", V::Jump("away".into())), maps("203.0.113.8", V::Drop)])
        .rule(&[nfproto(false), saddr_set("bad", false, false), drop()])
        .rule(&[nfproto(false), saddr_set("sorted", false, true)])
        .rule(&[nfproto(false), saddr("203.0.113.0/24"), dport(80), drop()])
        .chain("away")
        .rule(&[nfproto(false), saddr("203.0.113.0/28"), drop()])
        .build();
    let by_set = "nft set inet filter bad";
    let (found, needs) = of(&state, "203.0.113.7");
    assert_eq!(found.first(), Some(&format!("203.0.113.7/32 {by_set}")));
    assert!(found.len() == 2 && found[1].starts_with("203.0.113.0/28 nft inet filter away handle "), "{found:?}");
    assert!(!needs.iter().any(|need| matches!(need, Need::SetElements(_))), "{needs:?}");
    assert_eq!(of(&state, "203.0.113.8").0, ["203.0.113.8/32 nft set inet filter sorted"]);
    assert_eq!(of(&state, "198.51.100.9").0, [format!("198.51.100.0/24 {by_set}")]);
    assert!(of(&state, "192.0.2.1").0.is_empty());
    assert!(of(&state, "2001:db8::1").0.is_empty());
    // More than one address: what shares addresses with it.
    assert_eq!(of(&state, "198.51.100.128/25").0, [format!("198.51.100.0/24 {by_set}")]);
}

#[test]
fn a_set_that_many_rules_ask_is_said_once() {
    let mut ruleset = Ruleset::new().input(Family::Inet, true).set("bad", false, 0, vec![element("203.0.113.7")]);
    for n in 0..50 {
        ruleset = ruleset.rule(&[iifname(&format!("eth{n}")), nfproto(false), saddr_set("bad", false, false), drop()]);
    }
    let state = ruleset.build();
    let (all, _, _) = asked(&state, |host, needs| bans(host, None, 22, needs));
    assert_eq!(texts(&all), ["203.0.113.7/32 nft set inet filter bad"]);
    assert_eq!(of(&state, "203.0.113.7").0, texts(&all));
}

/// What a set of this type, asked by a rule that refuses, says of 203.0.113.7; and what was missing.
fn of_set(kind: &str, facts: impl FnOnce(&mut ipset::State, Set)) -> (Vec<String>, Needs) {
    let set = Set { name: "bad".into(), kind: kind.into(), v6: Some(false), members: Vec::new() };
    let mut state = ipset::State::new();
    state.sets.insert(3, Ok(set.clone()));
    facts(&mut state, set);
    let host = host(Ruleset::new().build());
    let source: Source = "203.0.113.7".parse().unwrap();
    let packet = Packet::syn(&Connection { source, port: 22, user: None });
    let (mut needs, mut found) = (Needs::new(), Vec::new());
    let reference = SetReference { index: 3, dimensions: 2, flags: 2 };
    super::address::of_ipset(&host, &state, reference, &packet.view(), source, &mut needs, &mut found);
    (texts(&found), needs)
}

#[test]
fn an_ipset_is_asked_by_key_and_read_whole_only_where_the_key_has_more_in_it() {
    let (_, needs) = of_set("hash:net", |_, _| {});
    assert!(matches!(needs.first(), Some(Need::IpsetEntry(query)) if query.set == "bad") && needs.len() == 1, "{needs:?}");
    let answered = |entry: Entry| {
        move |state: &mut ipset::State, set: Set| {
            let key = Key { address: Some("203.0.113.7".parse().unwrap()), ..Key::default() };
            state.entries.insert(set.query(key), entry);
        }
    };
    assert_eq!(of_set("hash:net", answered(Entry::Exact)).0, ["203.0.113.7/32 ipset bad"]);
    let wider = ["203.0.113.0/24 ipset bad", "203.0.0.0/16 ipset bad"];
    assert_eq!(of_set("hash:net", answered(Entry::Wider(vec![24, 16]))).0, wider);
    assert!(of_set("hash:net", answered(Entry::Absent)).0.is_empty());
    // The address that it comes to is not known.
    let (_, needs) = of_set("hash:net,net", |_, _| {});
    assert_eq!(needs, Needs::from([Need::IpsetElements("bad".into())]));
    let pair = |first: &str, last: &str| Element {
        text: String::new(),
        addresses: vec![(first.parse().unwrap(), last.parse().unwrap())],
        rest: String::new(),
        nomatch: false,
        member: None,
        left: None,
        raw: Vec::new(),
    };
    let elements = vec![pair("203.0.113.0", "203.0.113.7"), pair("198.51.100.0", "198.51.100.7")];
    let listed = |state: &mut ipset::State, _| _ = state.listings.insert("bad".into(), Ok(Arc::new(elements)));
    assert_eq!(of_set("hash:net,net", listed).0, ["203.0.113.0/29 ipset bad"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_said_of_one_address_is_what_is_said_of_it_among_all(state in any_ruleset(), host in 0_u8..8) {
        let source: Source = format!("203.0.113.{host}").parse().unwrap();
        let (all, _, _) = asked(&state, |host, needs| bans(host, None, 22, needs));
        let mut wanted: Vec<String> = texts(&all.into_iter().filter(|ban| ban.source.overlaps(source)).collect::<Vec<_>>());
        let mut found = of(&state, &source.to_string()).0;
        wanted.sort();
        wanted.dedup();
        found.sort();
        prop_assert_eq!(found, wanted);
    }
}
