//! Whether a way in is worse off after a change: by its reasons, not by its verdict alone. What was open stays open; a way that was unknown
//! may stay so only for reasons that were there before; a live session proves that its way works, whatever the stages say of it.

use super::journal::Entrance;
use super::methods::{Can, KEY_SOURCES, Key, Way, bare, is_same};
use super::objection::{self, Objection};
use super::way_in::{LoginWay, WayIn};
use super::{Effective, risk, serves, values};
use crate::verdict::{Stage, Verdict};

/// What makes a path worse off than it was: that it is refused, or that it is not known any more, and why.
pub fn worse(was: &WayIn, is: &WayIn) -> Option<(Verdict, String)> {
    let closed = was.objections.iter().any(Objection::is_certain) && !was.is_proven();
    if closed {
        return None;
    }
    let found = objection::first_new(&was.objections, &is.objections).map(|new| (new.verdict, new.why.clone()));
    let of_logins = || is.logins.iter().find_map(|login| of_login(was, login));
    let grave = || risk::worse(&was.risks, &is.risks).find(|risk| risk.grave).map(|risk| (Verdict::Unknown, risk.text.clone()));
    let no_key = || serves::no_key_stays(&was.identities, &is.identities).map(|why| (Verdict::Unknown, why));
    found.or_else(of_logins).or_else(grave).or_else(no_key)
}

/// The same of one login. Where the new files part addresses that the old ones did not, the old ones said the same of all of them.
fn of_login(was: &WayIn, is: &LoginWay) -> Option<(Verdict, String)> {
    let nothing = LoginWay::unknown(is);
    let was = was.login(is).unwrap_or(&nothing);
    if was.is_closed() && !was.is_proven() {
        return None;
    }
    let not_known = values::not_known(&was.effective, &is.effective);
    if let Some(new) = objection::first_new(&was.objections, &is.objections).or(not_known.as_ref()) {
        return Some((new.verdict, new.why.clone()));
    }
    let unknown = |why| (Verdict::Unknown, why);
    let elsewhere = no_session(was, is).or_else(|| asks_pam(was, is));
    elsewhere.map(unknown).or_else(|| no_way(was, is)).or_else(|| {
        let by_entrances = was.knows_entrances() && was.entered.iter().any(|entrance| counts_now(entrance, was));
        if by_entrances { lost_entrance(was, is) } else { lost_way(was, is).or_else(|| lost_keys(was, is)) }.map(unknown)
    })
}

/// Whether who came so could do it again before the change: proven where sshd has read no other files since, else as far as they say.
fn counts_now(entrance: &Entrance, was: &LoginWay) -> bool {
    if was.is_of_now(entrance) {
        return true;
    }
    let methods = was.ways.ways.iter().filter(|way| way.verdict() != Verdict::Refuse && ends_so(way, entrance)).count();
    let listed = || entrance.key.as_ref().is_none_or(|key| was.ways.keys.iter().any(|known| known.fingerprint == *key));
    methods > 0 && (bare(&entrance.method) != "publickey" || was.ways.other_keys || listed())
}

/// Whose way in sshd's files had closed before the change, though somebody is in by it; the change makes that no worse, and it is told.
pub fn closed_already(was: &WayIn, is: &WayIn) -> Vec<String> {
    let closed = |way: &WayIn, login: &LoginWay| {
        let first = |objections: &[Objection]| objections.iter().find(|one| one.is_certain()).map(|one| one.why.clone());
        first(&way.objections).or_else(|| first(&login.objections)).or_else(|| login.is_closed().then(|| login.no_way()))
    };
    let told = |before: &LoginWay| {
        let after = is.logins.iter().find(|after| after.user == before.user)?;
        let why = closed(was, before).filter(|_| before.knows_entrances() && !was.is_proven() && closed(is, after).is_some())?;
        Some(format!("{} is in, and could not come in again before this change either: {why}", before.user))
    };
    was.logins.iter().filter_map(told).collect()
}

/// Whoever gets in is to get a shell as before: what another command or another root directory gives is not known.
fn no_session(was: &LoginWay, is: &LoginWay) -> Option<String> {
    ["ForceCommand", "ChrootDirectory"].into_iter().find_map(|name| {
        let keyword = name.to_ascii_lowercase();
        let value = is.effective.one(&keyword).filter(|value| *value != "none" && was.effective.one(&keyword) != Some(value))?;
        Some(format!("{name} {value}: whether that gives {} a shell is not known", is.user))
    })
}

/// PAM is asked where it was not: its account and session rules may refuse whoever came without them.
fn asks_pam(was: &LoginWay, is: &LoginWay) -> Option<String> {
    let asked = |way: &LoginWay| way.effective.one("usepam") == Some("yes");
    let newly = asked(is) && !asked(was) && was.effective != Effective::default();
    newly.then(|| format!("UsePAM yes: what PAM says of {} is not known", is.user))
}

/// No method is left that can work, though one could.
fn no_way(was: &LoginWay, is: &LoginWay) -> Option<(Verdict, String)> {
    let (before, after) = (was.ways.best().0, is.ways.best().0);
    (after == Verdict::Refuse && before != Verdict::Refuse).then(|| (after, is.no_way()))
}

/// The ways that must stay: those that work; where none is known to, those that perhaps do. Whoever comes this way is known to be able to do
/// none of them in particular.
fn lost_way(was: &LoginWay, is: &LoginWay) -> Option<String> {
    let (best, _) = was.ways.best();
    let must_stay = was.ways.ways.iter().filter(|way| way.verdict() == best && best != Verdict::Refuse);
    let lost = must_stay.into_iter().find(|way| !is.ways.ways.iter().any(|other| other.is_no_worse_than(way)))?;
    let (user, left) = (&is.user, is.ways.best().1.join(" or "));
    Some(format!(
        "sshd: {user} may come in by {}, which would count no more, and whether {user} can come in by {left} is not known: let {user} log \
         in by that first",
        lost.name()
    ))
}

/// A key may be the only one that somebody has.
fn lost_keys(was: &LoginWay, is: &LoginWay) -> Option<String> {
    let lost = gone(was, is);
    let by_key = was.ways.ways.iter().any(Way::by_key);
    (by_key && !lost.is_empty()).then(|| {
        let user = &is.user;
        format!(
            "sshd: {} of the {} keys of {user} would count no more ({}), and which one comes is not known",
            lost.len(),
            was.ways.keys.len(),
            lost.join(", ")
        )
    })
}

/// The keys that would count no more as they did.
pub fn gone<'a>(was: &'a LoginWay, is: &LoginWay) -> Vec<&'a str> {
    was.ways.keys.iter().filter(|key| !counts(key, is)).map(|key| key.name.as_str()).collect()
}

/// Whether a key still lets in as it did: with the same options, or with none.
fn counts(key: &Key, is: &LoginWay) -> bool {
    let same = |other: &Key| other.fingerprint == key.fingerprint && (other.options == key.options || other.options.is_empty());
    is.ways.keys.iter().any(same)
}

/// Whoever is in shall be able to come again as he came: of no other way is it known that he has the key, or the password. Two sessions
/// of one user from one address may be two people.
fn lost_entrance(was: &LoginWay, is: &LoginWay) -> Option<String> {
    let mut counting = was.entered.iter().filter(|entrance| counts_now(entrance, was));
    let Entrance { user, method, key, .. } = counting.find(|entrance| !stays(entrance, was, is))?;
    let by = key.as_ref().map_or_else(|| method.clone(), |key| format!("{method} ({key})"));
    Some(format!(
        "sshd: {user} is in by {by}, which would count no more; whether {user} can come in by {} is not known: log in by that first",
        is.ways.best().1.join(" or ")
    ))
}

/// auth.c, `auth_log`, names the last method of several.
fn ends_so(way: &Way, entrance: &Entrance) -> bool {
    way.methods.last().is_some_and(|(method, _)| is_same(method, &entrance.method))
}

fn stays(entrance: &Entrance, was: &LoginWay, is: &LoginWay) -> bool {
    let mut came = was.ways.ways.iter().filter(|way| ends_so(way, entrance)).peekable();
    if came.peek().is_none() {
        // It was switched off since; where sshd may not have read that yet, it still works.
        return !was.may_differ
            || is.ways.ways.iter().any(|way| ends_so(way, entrance) && way.methods.iter().all(|(_, can)| *can != Can::Not));
    }
    let key_stays = || bare(&entrance.method) != "publickey" || key_stays(entrance.key.as_deref(), was, is);
    came.any(|way| is.ways.ways.iter().any(|other| other.is_no_worse_than(way))) && key_stays()
}

/// Whether the very key still counts. One that is in no file that was read (a certificate's, or one from elsewhere) does while all that
/// decides about keys stays as it is.
fn key_stays(key: Option<&str>, was: &LoginWay, is: &LoginWay) -> bool {
    let mut listed = was.ways.keys.iter().filter(|known| key.is_none_or(|key| known.fingerprint == key)).peekable();
    if listed.peek().is_some() {
        return listed.all(|known| counts(known, is));
    }
    KEY_SOURCES.into_iter().all(|keyword| {
        let (old, new) = (was.effective.all(keyword), is.effective.all(keyword));
        old == new || only_more(keyword, old, new)
    })
}

/// Whether a value takes every key that the other one took.
fn only_more(keyword: &str, old: &[String], new: &[String]) -> bool {
    let list =
        |values: &[String]| -> Vec<String> { values.iter().flat_map(|value| value.split(',')).map(str::to_owned).collect() };
    match keyword {
        "pubkeyacceptedalgorithms" | "casignaturealgorithms" => {
            let new = list(new);
            list(old).iter().all(|one| new.contains(one))
        }
        "strictmodes" => new.first().is_some_and(|value| value == "no"),
        // Whether root may come at all is another question.
        "permitrootlogin" => new.first().is_some_and(|value| value != "forced-commands-only"),
        "revokedkeys" => new.first().is_none_or(|value| value == "none"),
        _ => false,
    }
}

/// Where the stages say that a way is closed, or do not know, by which a live session came in: each stage with its words.
pub fn faults(way: &WayIn) -> Vec<(Stage, String)> {
    let mut found = Vec::new();
    if !way.is_proven() {
        return found;
    }
    let of_stages = |objection: &&Objection| !objection.is_of_value();
    found.extend(way.objections.iter().filter(of_stages).map(|objection| (objection.stage, objection.why.clone())));
    for login in way.logins.iter().filter(|login| login.is_proven()) {
        found.extend(login.objections.iter().filter(of_stages).map(|objection| (objection.stage, objection.why.clone())));
        let came = |entrance: &Entrance| {
            let mut by =
                login.ways.ways.iter().flat_map(|way| &way.methods).filter(|(method, _)| is_same(method, &entrance.method));
            let listed = |key: &String| login.ways.keys.iter().any(|known| known.fingerprint == *key);
            by.any(|(_, can)| *can == Can::Work) && entrance.key.as_ref().is_none_or(listed)
        };
        if let Some(first) = login.entered.first().filter(|_| !login.entered.iter().any(came)) {
            let Entrance { user, method, key, .. } = first;
            let key = key.as_ref().map_or_else(String::new, |key| format!(" with {key}"));
            found.push((Stage::Account, format!("sshd: {method}{key} is not known to work for {user}")));
        }
    }
    found
}

/// The global values that only let more in.
pub fn only_opens(keyword: &str, was: &Effective, is: &Effective) -> bool {
    let (old, new) = (was.all(keyword), is.all(keyword));
    if old == new {
        return false;
    }
    let rank = |value: &[String]| match value.first().map(String::as_str) {
        Some("no") => Some(0),
        Some("forced-commands-only") => Some(1),
        Some("prohibit-password" | "without-password") => Some(2),
        Some("yes") => Some(3),
        _ => None,
    };
    match keyword {
        "allowusers" | "allowgroups" => new.is_empty() || (!old.is_empty() && old.iter().all(|one| new.contains(one))),
        "denyusers" | "denygroups" => new.iter().all(|one| old.contains(one)),
        "permitrootlogin" | "passwordauthentication" | "pubkeyauthentication" | "kbdinteractiveauthentication" => {
            rank(old).zip(rank(new)).is_some_and(|(old, new)| old < new)
        }
        _ => false,
    }
}

#[cfg(test)]
#[path = "worse_tests.rs"]
mod tests;
