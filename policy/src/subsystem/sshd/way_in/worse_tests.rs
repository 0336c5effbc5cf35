#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::*;
use crate::subsystem::sshd::judge::doubt::Doubt;
use crate::subsystem::sshd::judge::keys::{Before, Key};
use crate::subsystem::sshd::judge::methods::Methods;
use crate::subsystem::sshd::judge::objection::Reason;
use crate::subsystem::sshd::way_in::sessions::Shell;

const KEY: &str = "SHA256:hers";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn entrance(method: &str, second: i64) -> Entrance {
    let key = (method == "publickey").then(|| KEY.to_owned());
    Entrance { user: "alice".to_owned(), method: method.to_owned(), key, at: at(second) }
}

/// Each method with what can be done with it, and whether her key is in the files.
fn methods(methods: &[(&str, Can)], key: bool) -> Methods {
    let way = |(method, can): &(&str, Can)| Way { methods: vec![((*method).to_owned(), can.clone())] };
    let named = Key {
        name: format!("ssh-ed25519 {KEY}"),
        fingerprint: KEY.to_owned(),
        options: String::new(),
        algorithms: BTreeSet::new(),
        before: Before::default(),
    };
    let keys = if key { BTreeSet::from([named]) } else { BTreeSet::new() };
    Methods { ways: methods.iter().map(way).collect(), keys, no_key_files: !key, one_password: true, ..Methods::default() }
}

/// sshd read its files at 100.
fn way(effective: &str, ways: Methods, entered: &[Entrance]) -> WayIn {
    WayIn::of_alice(effective, ways, entered.to_vec(), Some(at(100)))
}

#[test]
fn a_session_from_before_the_files_of_now_loses_nothing_that_they_had_closed() {
    let none = || methods(&[("publickey", Can::Not)], false);
    let (old, new) = (entrance("publickey", 99), entrance("publickey", 100));
    let to = |entered: &[Entrance], files: &str| {
        let was = way("authorizedkeysfile /a\n", none(), entered);
        let is = way(&format!("authorizedkeysfile {files}\n"), none(), entered);
        (worse(&was, &is), was.changes(&is))
    };
    let edit = |entered: &[Entrance]| to(entered, "/b");
    let (lost, told) = to(std::slice::from_ref(&old), "/a /b");
    assert_eq!(lost, None);
    let words = "alice is in, and could not come in again before this change either: sshd: alice has no authorized keys";
    assert!(told.iter().any(|line| line.starts_with(words)), "{told:?}");
    // Who came by these very files proves that a stage is wrong about them.
    assert!(edit(std::slice::from_ref(&new)).0.unwrap().1.contains("is in by publickey"));
    assert!(edit(&[old.clone(), new]).0.is_some(), "one of two is enough");

    let mut was = way("", none(), std::slice::from_ref(&old));
    let named = |name: &str| Objection::refuse(Stage::SshdAccess, Reason::List("allowusers", vec![name.to_owned()]), name);
    was.logins.iter_mut().for_each(|login| login.objections.push(named("bob")));
    let mut is = was.clone();
    is.logins.iter_mut().for_each(|login| login.objections.push(named("carol")));
    assert_eq!(worse(&was, &is), None, "another reason for what was closed");
}

#[test]
fn a_session_from_before_the_files_of_now_keeps_what_still_works() {
    let old = [entrance("publickey", 99)];
    let works = || methods(&[("publickey", Can::Work), ("password", Can::Work)], true);
    let was = way("", works(), &old);
    assert_eq!(worse(&was, &way("", works(), &old)), None);
    let without = way("", methods(&[("password", Can::Work)], false), &old);
    assert!(worse(&was, &without).unwrap().1.contains("alice is in by publickey"), "her key");
    let by_key = way("", methods(&[("publickey", Can::Work)], true), &old);
    assert_eq!(worse(&was, &by_key), None, "she is not known to have a password");

    // Her key counts no more, and a password does: whatever works must stay, as for who is not in.
    let gone = || methods(&[("publickey", Can::Not), ("password", Can::Work)], false);
    let was = way("authorizedkeysfile /a\n", gone(), &old);
    assert_eq!(worse(&was, &way("authorizedkeysfile /b\n", gone(), &old)), None);
    let neither = way("", methods(&[("publickey", Can::Not)], false), &old);
    assert_eq!(worse(&was, &neither).unwrap().0, Verdict::Refuse);

    // A key from elsewhere may be hers.
    let doubt = || Can::Perhaps([Doubt::Elsewhere("trustedusercakeys", "/ca".to_owned())].into());
    let sources = || BTreeSet::from([Doubt::Elsewhere("trustedusercakeys", "/ca".to_owned())]);
    let elsewhere = || Methods { sources: sources(), ..methods(&[("publickey", doubt()), ("password", Can::Work)], false) };
    let was = way("trustedusercakeys /ca\n", elsewhere(), &old);
    assert!(worse(&was, &way("trustedusercakeys none\n", gone(), &old)).is_some());
}

#[test]
fn a_keep_entry_keeps_each_of_its_keys_whoever_is_in() {
    let new = [entrance("password", 101)];
    let works = |key| methods(&[("publickey", Can::Work), ("password", Can::Work)], key);
    let mut was = way("", works(true), &new);
    let without = way("", works(false), &new);
    assert_eq!(worse(&was, &without), None, "who is in came by a password");
    was.kept = true;
    assert!(worse(&was, &without).unwrap().1.contains("1 of the 1 keys of alice would count no more"));
    assert_eq!(worse(&was, &way("", works(true), &new)), None);
}

/// The way, kept, with something against it.
fn refused(effective: &str, ways: Methods, reasons: &[(&'static str, &str)]) -> WayIn {
    let mut way = WayIn { kept: true, ..way(effective, ways, &[]) };
    let list = |(keyword, names): &(&'static str, &str)| {
        let names = names.split(' ').map(str::to_owned).collect();
        Objection::refuse(Stage::SshdAccess, Reason::List(keyword, names), *keyword)
    };
    way.logins.iter_mut().for_each(|login| login.objections = reasons.iter().map(list).collect());
    way
}

#[test]
fn a_way_that_is_called_closed_loses_nothing_more_and_can_be_opened() {
    let works = || methods(&[("publickey", Can::Work)], true);
    let nothing = || methods(&[("publickey", Can::Not)], false);
    let (deny, allow) = (("denyusers", "alice"), ("allowusers", "bob"));
    let by = |reasons: &[(&'static str, &str)]| refused("", works(), reasons);
    let opens = by(&[]);
    for (was, is, lost) in [
        (by(&[deny]), by(&[deny]), false),
        (by(&[deny]), opens.clone(), false),
        (by(&[("denyusers", "alice mallory")]), by(&[deny]), false),
        (by(&[allow]), by(&[("allowusers", "carol")]), false),
        (by(&[deny]), by(&[deny, allow]), true),
        (by(&[deny]), by(&[allow]), true),
        (by(&[deny]), refused("", nothing(), &[deny]), true),
        (by(&[deny]), refused("forcecommand /bin/false\n", works(), &[deny]), true),
        // No method is seen to work.
        (refused("", nothing(), &[]), refused("", nothing(), &[]), false),
        (refused("", nothing(), &[]), refused("", nothing(), &[deny]), true),
        (refused("", nothing(), &[]), refused("", Methods::default(), &[]), true),
        (refused("", nothing(), &[]), opens.clone(), false),
        (refused("", Methods::default(), &[]), opens, false),
        (refused("authorizedkeysfile /a\n", nothing(), &[]), refused("authorizedkeysfile /b\n", nothing(), &[]), true),
        (refused("authorizedkeysfile /a\n", nothing(), &[]), refused("authorizedkeysfile /a /b\n", nothing(), &[]), false),
        (refused("authorizedkeysfile /a\n", nothing(), &[]), refused("authorizedkeysfile /b\n", works(), &[]), false),
        (refused("strictmodes no\n", nothing(), &[]), refused("strictmodes yes\n", nothing(), &[]), false),
    ] {
        let found = worse(&was, &is);
        assert_eq!(found.is_some(), lost, "{found:?}\n{:?}\n{:?}", was.logins, is.logins);
        // Nobody's way in.
        let free = |way: &WayIn| WayIn { kept: false, ..way.clone() };
        assert_eq!(worse(&free(&was), &free(&is)), None);
    }
}

#[test]
fn a_password_that_cannot_be_typed_makes_room_for_keys_and_keys_for_nothing() {
    let of = |ways: &[(&str, Can)]| refused("", methods(ways, ways.contains(&("publickey", Can::Work))), &[]);
    let lost = |was: &[(&str, Can)], is: &[(&str, Can)]| worse(&of(was), &of(is)).is_some();
    assert!(!lost(&[("password", Can::Not)], &[("publickey", Can::Work)]));
    assert!(lost(&[("publickey", Can::Not)], &[("password", Can::Work)]));
    assert!(!lost(&[("publickey", Can::Not)], &[("publickey", Can::Not), ("password", Can::Work)]));
    assert!(lost(&[("password", Can::Not), ("publickey", Can::Not)], &[("publickey", Can::Not)]));
}

#[test]
fn no_sessions_end_whoever_has_a_shell_and_nobody_who_has_none() {
    let of = |limit: &str, no_shell: bool| {
        let mut way = way(&format!("maxsessions {limit}\n"), methods(&[("publickey", Can::Work)], true), &[]);
        way.logins.iter_mut().for_each(|login| login.shell = if no_shell { Shell::EndsAtOnce } else { Shell::Plain });
        way
    };
    assert_eq!(worse(&of("10", false), &of("0", false)).map(|(verdict, _)| verdict), Some(Verdict::Refuse));
    assert_eq!(worse(&of("0", false), &of("0", false)), None);
    assert_eq!(worse(&of("10", true), &of("0", true)), None);
    assert_eq!(worse(&of("0", false), &of("10", false)), None);
}
