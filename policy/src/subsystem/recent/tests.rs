//! What a list says about the next packet, by the rules of `recent_mt`.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::packet::Packet;
use crate::verdict::Connection;

const CHECK: u8 = 1;

fn asked(operation: u8, seconds: u32, hits: u32) -> Asked<'static> {
    Asked { name: "SSH", operation, seconds, hits, destination: false, invert: false, mask: None }
}

fn state(ages: &[u64], changes: Changes) -> State {
    let address = "203.0.113.7".parse().unwrap();
    let entry = Entry { address, ttl: 0, hits: ages.len(), ages: Some(ages.to_vec()) };
    let entries = if ages.is_empty() { Vec::new() } else { vec![entry] };
    let name = || "SSH".to_owned();
    State { lists: [(name(), Ok(entries))].into(), changes: [(name(), changes)].into() }
}

fn judged(state: &State, asked: &Asked<'_>) -> Tri {
    let syn = Packet::syn(&Connection { source: "203.0.113.7".parse().unwrap(), port: 22, user: None });
    match state.judge(asked, &syn.view()) {
        Judged::Known(tri) => tri,
        Judged::Ask(need) => panic!("{need:?}"),
    }
}

#[test]
fn enough_hits_in_time_match_and_too_few_do_not() {
    let none = Changes::default();
    let five = state(&[1000, 5000, 20_000, 30_000, 90_000], none);
    for (seconds, hits, want) in [
        (60, 4, Tri::Yes),
        (60, 5, Tri::No),
        (0, 5, Tri::Yes),
        (0, 6, Tri::No),
        (0, 0, Tri::Yes),
        // 90 s give or take two
        (90, 5, Tri::Maybe),
    ] {
        assert_eq!(judged(&five, &asked(CHECK, seconds, hits)), want, "{seconds} {hits}");
        let inverted = Asked { invert: true, ..asked(CHECK, seconds, hits) };
        assert_eq!(judged(&five, &inverted), want.invert(true), "! {seconds} {hits}");
    }
    assert_eq!(judged(&state(&[], none), &asked(CHECK, 0, 0)), Tri::No);
}

#[test]
fn rules_before_it_may_add_the_hit_that_is_missing() {
    let sets = Changes { sets: 1, updates: 1, removes: 0 };
    let two = state(&[1000, 2000], sets);
    assert_eq!(judged(&two, &asked(UPDATE, 60, 2)), Tri::Yes);
    assert_eq!(judged(&two, &asked(UPDATE, 60, 3)), Tri::Maybe);
    assert_eq!(judged(&two, &asked(UPDATE, 60, 4)), Tri::No, "its own update comes after it looked");
    assert_eq!(judged(&two, &asked(CHECK, 60, 4)), Tri::Maybe);
    let removes = Changes { removes: 1, ..Changes::default() };
    assert_eq!(judged(&state(&[1000], removes), &asked(CHECK, 60, 1)), Tri::Maybe);
}

#[test]
fn without_a_clock_only_the_number_of_hits_is_known() {
    let mut unknown = state(&[0, 0, 0], Changes::default());
    if let Some(Ok(list)) = unknown.lists.get_mut("SSH") {
        for entry in list {
            entry.ages = None;
        }
    }
    assert_eq!(judged(&unknown, &asked(CHECK, 60, 3)), Tri::Maybe);
    assert_eq!(judged(&unknown, &asked(CHECK, 60, 4)), Tri::No);
    assert_eq!(judged(&unknown, &asked(CHECK, 0, 3)), Tri::Yes);
}

#[test]
fn a_list_that_was_not_read_is_asked_for_and_one_that_cannot_be_read_is_unknown() {
    let syn = Packet::syn(&Connection { source: "203.0.113.7".parse().unwrap(), port: 22, user: None });
    let view = syn.view();
    assert_eq!(State::default().judge(&asked(CHECK, 0, 0), &view), Judged::Ask(Need::Recent("SSH".to_owned())));
    let unreadable = State { lists: [("SSH".to_owned(), Err("EACCES".to_owned()))].into(), ..State::default() };
    assert_eq!(judged(&unreadable, &asked(CHECK, 0, 0)), Tri::Maybe);
    assert_eq!(judged(&unreadable, &asked(SET, 0, 0)), Tri::Yes);
}

#[test]
fn a_mask_looks_up_the_network() {
    let address = "203.0.113.0".parse().unwrap();
    let entry = Entry { address, ttl: 0, hits: 1, ages: None };
    let state = State { lists: [("SSH".to_owned(), Ok(vec![entry]))].into(), ..State::default() };
    assert_eq!(judged(&state, &Asked { mask: Some(0xffff_ff00), ..asked(CHECK, 0, 0) }), Tri::Yes);
    assert_eq!(judged(&state, &asked(CHECK, 0, 0)), Tri::No);
}
