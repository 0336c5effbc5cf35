//! What a match means by what its set answered, and the laws of the step. What the kernel says is in the workspace's `tests`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

use std::net::IpAddr;

use super::{Asked, Entry, Judged, Key, Properties, Set, State, Step};
use crate::host::Need;
use crate::packet::Packet;
use crate::packet::{Tri, View};
use crate::subsystem::ipset::{SetCounters, SetReference};
use crate::verdict::Connection;

/// `src`, then `dst`.
const SRC_DST: SetReference = SetReference { index: 3, dimensions: 2, flags: 2 };
const SRC: SetReference = SetReference { index: 3, dimensions: 1, flags: 2 };

fn set(kind: &str) -> Set {
    Set { name: "bad".to_owned(), kind: kind.to_owned(), v6: Some(false), members: Vec::new() }
}

fn syn(source: &str) -> View<'static> {
    Box::leak(Box::new(Packet::syn(&Connection { source: source.parse().unwrap(), port: 22, user: None }))).view()
}

fn key(address: &str, port: Option<u16>) -> Key {
    Key { address: Some(address.parse::<IpAddr>().unwrap()), port, ..Key::default() }
}

fn state(set: &Set, key: &Key, entry: Entry) -> State {
    State { sets: [(3, Ok(set.clone()))].into(), entries: [(set.query(key.clone()), entry)].into(), ..State::new() }
}

#[test]
fn a_set_is_asked_for_the_fields_its_type_has() {
    let view = syn("203.0.113.7");
    assert_eq!(set("hash:ip").asks(SRC, &view), Asked::Key(key("203.0.113.7", None)));
    assert_eq!(set("hash:net,port").asks(SRC_DST, &view), Asked::Key(key("203.0.113.7", Some(22))));
    assert_eq!(set("hash:net,port").asks(SRC_DST, &view).clone(), set("hash:ip,port").asks(SRC_DST, &view));
    let three = SetReference { dimensions: 3, ..SRC_DST };
    let plain = key("203.0.113.7", None);
    assert_eq!(set("hash:ip,mark").asks(three, &view), Asked::Key(Key { mark: Some(0), ..plain.clone() }));
    assert_eq!(set("bitmap:ip,mac").asks(three, &view), Asked::Key(plain));
    assert_eq!(set("hash:net,iface").asks(three, &view), Asked::Nothing, "nothing leaves by a device on its way in");
    // Where it comes in, to which address, and its MAC address are not known.
    for kind in ["hash:net,net", "hash:ip,port,ip", "hash:net,port,net", "hash:mac", "hash:ip,mac"] {
        assert_eq!(set(kind).asks(three, &view), Asked::Unknown, "{kind}");
    }
    assert_eq!(set("hash:net,iface").asks(SetReference { flags: 6, ..three }, &view), Asked::Unknown);
    // The source port of a client, and one address of a range, are not known.
    assert_eq!(set("hash:ip,port").asks(SetReference { flags: 6, ..SRC_DST }, &view), Asked::Unknown);
    assert_eq!(set("hash:ip").asks(SRC, &syn("203.0.113.0/24")), Asked::Unknown);
}

#[test]
fn a_set_of_the_other_family_or_of_more_fields_cannot_match() {
    assert_eq!(set("hash:ip").asks(SRC, &syn("2001:db8::7")), Asked::Nothing);
    assert_eq!(set("hash:ip,port").asks(SRC, &syn("203.0.113.7")), Asked::Nothing);
    let inverted = SetReference { flags: 3, ..SRC };
    let state = state(&set("hash:ip"), &key("203.0.113.7", None), Entry::Exact);
    assert_eq!(state.judge(inverted, None, &syn("2001:db8::7")), Judged::Known(Tri::Yes));
}

#[test]
fn facts_are_asked_for_one_by_one_and_then_decide() {
    let (view, set, key) = (syn("203.0.113.7"), set("hash:ip"), key("203.0.113.7", None));
    assert_eq!(State::new().judge(SRC, None, &view), Judged::Ask(Need::Ipset(3)));
    let mut known = state(&set, &key, Entry::Exact);
    assert_eq!(known.judge(SRC, None, &view), Judged::Known(Tri::Yes));
    assert_eq!(known.judge(SetReference { flags: 3, ..SRC }, None, &view), Judged::Known(Tri::No));
    assert_eq!(state(&set, &key, Entry::Wider(vec![24])).judge(SRC, None, &view), Judged::Known(Tri::Yes));
    assert_eq!(state(&set, &key, Entry::Absent).judge(SRC, None, &view), Judged::Known(Tri::No));
    assert_eq!(state(&set, &key, Entry::Unknown(String::new())).judge(SRC, None, &view), Judged::Known(Tri::Maybe));
    known.entries.clear();
    assert_eq!(known.judge(SRC, None, &view), Judged::Ask(Need::IpsetEntry(set.query(key))));
    known.sets.insert(3, Err("gone".to_owned()));
    assert_eq!(known.judge(SRC, None, &view), Judged::Known(Tri::Maybe));
}

#[test]
fn a_set_that_rules_change_and_counters_stay_open_only_where_they_matter() {
    let (view, set, key) = (syn("203.0.113.7"), set("hash:ip"), key("203.0.113.7", None));
    let judged = |entry: Entry, grow: bool, shrink: bool, counters: Option<SetCounters>| {
        let mut state = state(&set, &key, entry);
        state.grow.extend(grow.then_some(3));
        state.shrink.extend(shrink.then_some(3));
        state.judge(SRC, counters.as_ref(), &view)
    };
    assert_eq!(judged(Entry::Absent, true, false, None), Judged::Known(Tri::Maybe));
    assert_eq!(judged(Entry::Exact, true, false, None), Judged::Known(Tri::Yes));
    assert_eq!(judged(Entry::Exact, false, true, None), Judged::Known(Tri::Maybe));
    assert_eq!(judged(Entry::Absent, false, true, None), Judged::Known(Tri::No));
    let counters = SetCounters { packets: (4, 10), bytes: (0, 0), flags: 0 };
    assert_eq!(judged(Entry::Exact, false, false, Some(counters)), Judged::Known(Tri::Maybe));
    assert_eq!(judged(Entry::Absent, false, false, Some(counters)), Judged::Known(Tri::No));
    let nomatch = SetCounters { packets: (0, 0), bytes: (0, 0), flags: 1 << 7 };
    assert_eq!(judged(Entry::Absent, false, false, Some(nomatch)), Judged::Known(Tri::Maybe));
}

#[test]
fn a_list_holds_what_one_of_its_members_holds() {
    let view = syn("203.0.113.7");
    let member = |name: &str| Set { name: name.to_owned(), ..set("hash:ip") };
    let list = Set { v6: None, members: vec![member("a"), member("b"), set("hash:ip,port")], ..set("list:set") };
    let key = key("203.0.113.7", None);
    let judged = |a: Option<Entry>, b: Option<Entry>| {
        let entries =
            [("a", a), ("b", b)].into_iter().filter_map(|(name, entry)| Some((member(name).query(key.clone()), entry?)));
        let state = State { sets: [(3, Ok(list.clone()))].into(), entries: entries.collect(), ..State::new() };
        let held = state.held(SRC, &view).map(|(set, ..)| set.name.clone());
        (state.judge(SRC, None, &view), held)
    };
    let ask = |name: &str| Judged::Ask(Need::IpsetEntry(member(name).query(key.clone())));
    assert_eq!(judged(None, None).0, ask("a"));
    assert_eq!(judged(Some(Entry::Absent), None).0, ask("b"));
    assert_eq!(judged(Some(Entry::Exact), None), (Judged::Known(Tri::Yes), Some("a".to_owned())));
    assert_eq!(judged(Some(Entry::Absent), Some(Entry::Exact)), (Judged::Known(Tri::Yes), Some("b".to_owned())));
    let unknown = || Some(Entry::Unknown(String::new()));
    assert_eq!(judged(unknown(), Some(Entry::Absent)).0, Judged::Known(Tri::Maybe));
    assert_eq!(judged(unknown(), Some(Entry::Exact)).0, Judged::Known(Tri::Yes));
    assert_eq!(judged(Some(Entry::Absent), Some(Entry::Absent)), (Judged::Known(Tri::No), None));
}

#[test]
fn only_an_element_of_exactly_the_address_is_deleted() {
    let key = key("203.0.113.7", None);
    let plain = Properties::default();
    let masked = Properties { masked: true, ..plain };
    assert!(Step::delete(&set("hash:net"), plain, key.clone(), &Entry::Wider(vec![24])).is_none());
    assert!(Step::delete(&set("hash:ip"), masked, key.clone(), &Entry::Exact).is_none());
    let ports = Key { port: Some(22), ..Key::default() };
    assert!(Step::delete(&set("bitmap:port"), plain, ports, &Entry::Exact).is_none());
    let step = Step::delete(&set("hash:ip"), plain, key, &Entry::Exact).unwrap();
    assert_eq!(step.summary(), "delete 203.0.113.7 from ipset bad");
    assert_eq!(step.diff(), "# ipset bad (hash:ip)\n- 203.0.113.7\n");
    assert_eq!(step.undo(), "add 203.0.113.7 to ipset bad");
    assert_eq!(step.touches().unwrap(), ["203.0.113.7".parse().unwrap()]);
}

#[test]
fn a_step_is_the_inverse_of_its_inverse_and_survives_the_journal() {
    let extras = Properties { extras: true, masked: false };
    let step = Step::delete(&set("hash:net,port"), extras, key("2001:db8::7", Some(22)), &Entry::Exact).unwrap();
    assert_eq!(step.inverse().inverse(), step);
    assert_ne!(step.inverse(), step);
    assert!(step.undo().contains("default timeout"), "{}", step.undo());
    let json = serde_json::to_string(&step).unwrap();
    assert_eq!(serde_json::from_str::<Step>(&json).unwrap(), step);
}

#[test]
fn a_step_drifts_when_a_wider_element_appeared() {
    let step = Step::delete(&set("hash:net"), Properties::default(), key("203.0.113.7", None), &Entry::Exact).unwrap();
    assert_eq!(step.look(&Entry::Exact), Ok(true));
    assert_eq!(step.look(&Entry::Absent), Ok(false));
    assert!(step.look(&Entry::Wider(vec![24])).is_err());
    assert!(step.look(&Entry::Unknown("gone".to_owned())).is_err());
}

#[test]
fn an_address_is_in_no_network_any_more_once_its_networks_are_deleted() {
    let (address, other) = (key("203.0.113.7", None), key("198.51.100.7", None));
    let networks: Vec<Key> = address.networks(&[16, 24]).collect();
    assert_eq!(networks.iter().map(Key::to_string).collect::<Vec<_>>(), ["203.0.0.0/16", "203.0.113.0/24"]);
    let nets = set("hash:net");
    let mut host = crate::host::HostState::empty();
    let held = [(address.clone(), Entry::Wider(vec![16, 24])), (other.clone(), Entry::Wider(vec![24]))];
    host.ipset.entries = held.into_iter().map(|(key, entry)| (nets.query(key), entry)).collect();
    let before = host.ipset.entries.clone();
    let mut steps = Vec::new();
    for network in networks {
        host.ipset.entries.insert(nets.query(network.clone()), Entry::Exact);
        steps.push(Step::delete(&nets, Properties::default(), network, &Entry::Exact).unwrap());
    }
    assert_eq!(steps[1].touches().unwrap(), ["203.0.113.0/24".parse().unwrap()]);
    steps[0].predict(&mut host).unwrap();
    assert_eq!(host.ipset.entries[&nets.query(address.clone())], Entry::Wider(vec![24]));
    steps[1].predict(&mut host).unwrap();
    assert_eq!(host.ipset.entries[&nets.query(address.clone())], Entry::Absent);
    assert_eq!(host.ipset.entries[&nets.query(other.clone())], Entry::Wider(vec![24]), "in none of them");
    for step in steps.iter().rev() {
        step.inverse().predict(&mut host).unwrap();
    }
    for (query, entry) in before {
        assert_eq!(host.ipset.entries[&query], entry);
    }
}

#[test]
fn an_element_is_read_as_ipset_prints_it_or_not_at_all() {
    for (kind, text) in [
        ("hash:ip", "203.0.113.7"),
        ("hash:net", "203.0.113.0/24"),
        ("hash:net", "2001:db8::/32"),
        ("hash:ip,port", "203.0.113.7,tcp:22"),
    ] {
        assert_eq!(Key::parse(kind, text).unwrap().to_string(), text);
    }
    for (kind, text) in [
        ("hash:ip", "203.0.113.7 nomatch"),
        ("hash:ip,port", "203.0.113.7,udp:22"),
        ("hash:ip,port", "203.0.113.7"),
        ("hash:ip", "203.0.113.7,tcp:22"),
        ("hash:net,iface", "203.0.113.0/24,eth0"),
        ("hash:net,net", "203.0.113.0/24,10.0.0.0/8"),
        ("list:set", "other"),
    ] {
        assert_eq!(Key::parse(kind, text), None, "{kind} {text}");
    }
}
