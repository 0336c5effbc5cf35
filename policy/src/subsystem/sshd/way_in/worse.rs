//! Whether a way in is worse off after a change: by its reasons, not by its verdict alone. What was open stays open; a way that was unknown
//! may stay so only for reasons that were there before; a live session proves that its way works, whatever the stages say of it.

use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::config::keyword;
use crate::subsystem::sshd::facts::journal::Entrance;
use crate::subsystem::sshd::judge::doubt::{Can, Doubt};
use crate::subsystem::sshd::judge::methods::{KEY_SOURCES, Way, bare, is_same};
use crate::subsystem::sshd::judge::objection::{self, Objection, Reason};
use crate::subsystem::sshd::way_in::{Disproof, LoginWay, WayIn, closed, forwarding, risk, serves, sessions, values};
use crate::text::quoted::Text;
use crate::verdict::{Stage, Verdict};

/// What makes a path worse off than it was: that it is refused, or that it is not known any more, and why. Somebody who is in, or a keep
/// entry, is to lose nothing even where the way is called closed: that may be a fault of ours, or pass.
pub fn worse(was: &WayIn, is: &WayIn) -> Option<(Verdict, Text)> {
    let of_logins = || is.logins.iter().find_map(|login| of_login(was, login));
    if was.objections.iter().any(Objection::is_certain) && !was.is_proven() {
        let protected = was.kept || was.logins.iter().any(LoginWay::is_in);
        let new = objection::first_certain(&was.objections, &is.objections).map(|new| (new.verdict, told(was, new, None)));
        return new.or_else(of_logins).filter(|_| protected);
    }
    let found = objection::first_new(&was.objections, &is.objections).map(|new| (new.verdict, told(was, new, None)));
    let open = |login: &LoginWay| !login.is_closed() || was.kept || login.is_in();
    let open = was.logins.is_empty() || was.logins.iter().any(open);
    let found = found.or_else(|| was.clients.lost(&is.clients).filter(|_| open).map(|why| (Verdict::Unknown, Text::from(why))));
    let grave =
        || risk::worse(&was.risks, &is.risks).find(|risk| risk.grave).map(|risk| (Verdict::Unknown, Text::from(&risk.text)));
    let no_key = || serves::no_key_stays(&was.identities, &is.identities).map(|why| (Verdict::Unknown, Text::from(why)));
    found.or_else(of_logins).or_else(grave).or_else(no_key)
}

/// The same of one login. Where the new files part addresses that the old ones did not, the old ones said the same of all of them.
fn of_login(was: &WayIn, is: &LoginWay) -> Option<(Verdict, Text)> {
    let nothing = LoginWay::unknown(is);
    let (way, kept) = (was, was.kept);
    let was = way.login(is).unwrap_or(&nothing);
    // Nothing more is known of it than what files say that may not be those that run.
    let nothing_proven = kept || was.is_in() && !was.is_proven();
    let says_little = nothing_proven && was.may_differ && !was.objections.iter().any(Objection::is_certain);
    // Nothing was known of it before, and nobody came in.
    if way.is_down() && way.login(is).is_none() {
        return None;
    }
    let closed = was.is_closed() && !was.is_proven() && !says_little;
    if closed && !kept && !was.is_in() {
        return None;
    }
    let new_value = not_known(was, is).filter(|_| !closed);
    let new = if closed { objection::first_certain } else { objection::first_new }(&was.objections, &is.objections);
    if let Some(new) = new.or(new_value.as_ref()) {
        return Some((new.verdict, told(way, new, Some(&is.user))));
    }
    let unknown = |why| (Verdict::Unknown, why);
    let advised = |why: Text| why + format!("; {}", Disproof::Changed.advice(&is.user));
    let may_be_new = was.opened.as_deref().and_then(|opened| not_known(opened, is));
    if let Some(new) = may_be_new {
        return Some(unknown(advised(new.why)));
    }
    // By what sshd may have read in the place of its files.
    let opened = |lost: fn(&LoginWay, &LoginWay) -> Option<Text>| {
        lost(was, is).or_else(|| was.opened.as_deref().and_then(|opened| lost(opened, is)).map(advised))
    };
    let asks_pam = || asks_pam(was, is).filter(|_| !closed);
    let elsewhere = opened(sessions::another).or_else(asks_pam).or_else(|| opened(no_way_through));
    let of_session = || sessions::no_subsystem(was, is).or_else(|| sessions::no_terminal(was, is));
    let elsewhere = elsewhere.or_else(of_session);
    let refused = opened(sessions::none_left)
        .map(|why| (Verdict::Refuse, why))
        .or_else(|| closed::takes_away(was, is, kept).filter(|_| closed));
    let refused = refused.or_else(|| elsewhere.map(unknown));
    refused.or_else(|| no_way(was, is, says_little)).or_else(|| {
        let by_entrances = was.knows_entrances() && was.entered.iter().any(|entrance| counts_now(entrance, was));
        let of_sessions = if by_entrances { lost_entrance(was, is) } else { opened(lost_way) };
        let keys = || if by_entrances && !kept { None } else { opened(lost_keys) };
        of_sessions.or_else(keys).map(unknown)
    })
}

/// A value that nobody knows, and that may change something for this login.
fn not_known(was: &LoginWay, is: &LoginWay) -> Option<Objection> {
    values::not_known(&was.effective, &is.effective, |keyword| is.no_files.leaves_alone(keyword))
}

/// Its words; where the files said so before already, and are not what runs, with what to do.
fn told(was: &WayIn, new: &Objection, user: Option<&str>) -> Text {
    let disproof = was.disproved.iter().find(|(objection, _)| objection.reason == new.reason);
    let Some((_, disproof)) = disproof else { return new.why.clone() };
    let user = user.or_else(|| was.logins.first().map(|login| login.user.as_str())).unwrap_or("somebody");
    new.why.clone() + format!("; {}", disproof.advice(user))
}

/// Whether who came so could do it again before the change: proven where sshd has read no other files since, else as far as they say.
fn counts_now(entrance: &Entrance, was: &LoginWay) -> bool {
    if was.is_of_now(entrance) {
        return true;
    }
    let methods = was
        .ways
        .ways
        .iter()
        .filter(|way| way.verdict() != Verdict::Refuse && ends_so(way, entrance, was.ways.one_password))
        .count();
    let listed = || entrance.key.as_ref().is_none_or(|key| was.ways.keys.iter().any(|known| known.fingerprint == *key));
    methods > 0 && (bare(&entrance.method) != "publickey" || was.ways.other_keys() || listed())
}

/// Whose way in sshd's files had closed before the change, though somebody is in by it; the change makes that no worse, and it is told.
pub fn closed_already(was: &WayIn, is: &WayIn) -> Vec<Text> {
    let closed = |way: &WayIn, login: &LoginWay| {
        let first = |objections: &[Objection]| objections.iter().find(|one| one.is_certain()).map(|one| one.why.clone());
        first(&way.objections).or_else(|| first(&login.objections)).or_else(|| login.is_closed().then(|| login.no_way().into()))
    };
    let told = |before: &LoginWay| {
        let after = is.logins.iter().find(|after| after.user == before.user)?;
        let why = closed(was, before).filter(|_| before.knows_entrances() && !was.is_proven() && closed(is, after).is_some())?;
        Some(Text::from(format!("{} is in, and could not come in again before this change either: ", before.user)) + why)
    };
    was.logins.iter().filter_map(told).collect()
}

/// Who has no shell here comes to go on.
fn no_way_through(was: &LoginWay, is: &LoginWay) -> Option<Text> {
    let alone = was.forwards_alone.as_ref()?;
    let ended = forwarding::ends(&was.effective, &is.effective).into_iter().next()?;
    Some(ended + format!(", and {} has nothing else here (", is.user) + alone.clone() + ")")
}

/// PAM is asked where it was not: its account and session rules may refuse whoever came without them.
fn asks_pam(was: &LoginWay, is: &LoginWay) -> Option<Text> {
    let asked = |way: &LoginWay| way.effective.one("usepam") == Some("yes");
    let newly = asked(is) && !asked(was) && was.effective != Effective::default();
    newly.then(|| format!("UsePAM yes: what PAM says of {} is not known", is.user).into())
}

/// No method is left that can work, though one could.
fn no_way(was: &LoginWay, is: &LoginWay, says_little: bool) -> Option<(Verdict, Text)> {
    let (before, after) = (was.ways.best().0, is.ways.best().0);
    if after != Verdict::Refuse {
        return None;
    }
    match before {
        Verdict::Accept | Verdict::Unknown => Some((after, is.no_way().into())),
        Verdict::Refuse => {
            says_little.then(|| (after, format!("{}; {}", is.no_way(), Disproof::Changed.advice(&is.user)).into()))
        }
    }
}

/// The ways that must stay: those that work and those that perhaps do. Whoever comes this way is known to be able to do none of them in
/// particular.
fn lost_way(was: &LoginWay, is: &LoginWay) -> Option<Text> {
    let mut must_stay = was.ways.ways.iter().filter(|way| way.verdict() != Verdict::Refuse);
    let lost = must_stay.find(|way| !way_stays(way, was, is))?;
    let (user, lost) = (&is.user, lost.name());
    let left: Vec<String> = is.ways.best().1.into_iter().filter(|left| *left != lost).collect();
    let why = format!("sshd: {user} may come in by {lost}, which would count no more");
    let unknown =
        format!(", and whether {user} can come in by {} is not known: let {user} log in by that first", left.join(" or "));
    Some(if left.is_empty() { why } else { why + &unknown }.into())
}

fn way_stays(way: &Way, was: &LoginWay, is: &LoginWay) -> bool {
    let one_password = was.ways.one_password && is.ways.one_password;
    is.ways.ways.iter().any(|other| other.is_no_worse_than(way, one_password))
}

/// A key may be the only one that somebody has, and so may one of which it is not known whether it counts, or where it comes from.
fn lost_keys(was: &LoginWay, is: &LoginWay) -> Option<Text> {
    if !was.ways.ways.iter().any(|way| way.by_key() && way.verdict() != Verdict::Refuse) {
        return None;
    }
    let user = &is.user;
    let gone = gone(was, is);
    if !gone.is_empty() {
        let (count, gone) = (gone.len(), gone.join(", "));
        let all = was.ways.keys.len();
        return Some(
            format!("sshd: {count} of the {all} keys of {user} would count no more ({gone}), and which one comes is not known")
                .into(),
        );
    }
    if let Some(lost) = was.ways.lost(&is.ways).first() {
        return Some(format!("sshd: whether the keys of {user} would count as they did is not known: {lost}").into());
    }
    let others = KEY_SOURCES.into_iter().filter(|keyword| !values::PLACES_OF_KEYS.contains(keyword));
    let keyword = if was.ways.sources.is_empty() { None } else { values::takes_fewer(others, &was.effective, &is.effective) };
    keyword.map(|keyword| {
        let name = keyword::spelling(keyword);
        format!("sshd: {user} may have keys that sshfix does not know, and {name} changes what counts: whether they do then is not known")
            .into()
    })
}

/// The keys that would count no more as they did.
pub fn gone<'a>(was: &'a LoginWay, is: &LoginWay) -> Vec<&'a str> {
    was.ways.keys.iter().filter(|key| !is.ways.has(key)).map(|key| key.name.as_str()).collect()
}

/// Which methods there are.
const OF_METHODS: [&str; 10] = [
    "authenticationmethods",
    "gssapiauthentication",
    "hostbasedauthentication",
    "kbdinteractiveauthentication",
    "passwordauthentication",
    "permitemptypasswords",
    "permitrootlogin",
    "pubkeyauthentication",
    "usedns",
    "usepam",
];

/// Whoever is in shall be able to come again as he came: of no other way is it known that he has the key, or the password. Two sessions
/// of one user from one address may be two people.
fn lost_entrance(was: &LoginWay, is: &LoginWay) -> Option<Text> {
    let mut counting = was.entered.iter().filter(|entrance| counts_now(entrance, was));
    let entrance = counting.find(|entrance| !stays(entrance, was, is))?;
    let Entrance { user, method, key, .. } = entrance;
    let by = key.as_ref().map_or_else(|| method.clone(), |key| format!("{method} ({key})"));
    let counts = |login: &LoginWay| {
        let mut possible = login.ways.ways.iter().filter(|way| way.verdict() != Verdict::Refuse);
        possible.any(|way| ends_so(way, entrance, login.ways.one_password))
    };
    if !counts(was) && !counts(is) {
        return Some(format!("sshd: {user} is in by {by}, which would not count; {}", Disproof::IsIn.advice(user)).into());
    }
    // What is left besides the way of now, which a login proves no more than this one does.
    let others = is.ways.ways.iter().filter(|way| !ends_so(way, entrance, is.ways.one_password)).map(Way::name);
    let others: Vec<String> = others.filter(|name| is.ways.best().1.contains(name)).collect();
    let why = key.as_ref().and_then(|key| is.ways.why_not(key)).map_or_else(String::new, |why| format!(": {why}"));
    let why = format!("sshd: {user} is in by {by}, which would count no more{why}");
    let unknown = format!("; whether {user} can come in by {} is not known: log in by that first", others.join(" or "));
    Some(if others.is_empty() { why } else { why + &unknown }.into())
}

/// auth.c, `auth_log`, names the last method of several.
fn ends_so(way: &Way, entrance: &Entrance, one_password: bool) -> bool {
    way.methods.last().is_some_and(|(method, _)| is_same(method, &entrance.method, one_password))
}

fn stays(entrance: &Entrance, was: &LoginWay, is: &LoginWay) -> bool {
    let one_password = was.ways.one_password && is.ways.one_password;
    let came: Vec<&Way> = was.ways.ways.iter().filter(|way| ends_so(way, entrance, one_password)).collect();
    let can = |way: &Way| way.methods.iter().all(|(_, can)| *can != Can::Not);
    let comes = || is.ways.ways.iter().any(|way| ends_so(way, entrance, one_password) && can(way));
    if came.is_empty() {
        // It works, and sshfix does not see how: by a name of the client's host, or by other files than those on disk.
        let by_name = is.objections.iter().any(|objection| matches!(objection.reason, Reason::HostNames(_)));
        let same = |keyword: &&str| was.effective.all(keyword) == is.effective.all(keyword);
        return by_name && OF_METHODS.iter().all(same) || comes();
    }
    // Which of several ways with the same last method it was is not known.
    let possible: Vec<&Way> = came.iter().copied().filter(|way| way.verdict() != Verdict::Refuse).collect();
    let ways_stay = match possible[..] {
        // By other files than those on disk, perhaps.
        [] if was.may_differ => comes(),
        [] => came.iter().any(|way| way_stays(way, was, is)),
        _ => possible.iter().all(|way| way_stays(way, was, is)),
    };
    // The line names the key of the last method alone.
    let keys_of = |way: &&&Way| way.methods.iter().filter(|(method, _)| bare(method) == "publickey").count();
    let last = usize::from(bare(&entrance.method) == "publickey");
    let others = came.iter().any(|way| keys_of(&way) > last);
    let key_stays = || last == 0 || key_stays(entrance.key.as_deref(), was, is);
    ways_stay && key_stays() && (!others || lost_keys(was, is).is_none())
}

/// Whether the very key still counts. One that is in no file that was read (a certificate's, or one from elsewhere) does while all that
/// decides about keys stays as it is.
fn key_stays(key: Option<&str>, was: &LoginWay, is: &LoginWay) -> bool {
    let changes = || values::takes_fewer(KEY_SOURCES, &was.effective, &is.effective).is_some() || taken_over(key, was, is);
    let Some(key) = key else { return lost_keys(was, is).is_none() && !changes() };
    let (known, now) = (&was.ways, &is.ways);
    let mut sure = known.keys.iter().filter(|one| one.fingerprint == key).peekable();
    let mut perhaps = known.perhaps.iter().filter(|(one, _)| one.fingerprint == key).peekable();
    if sure.peek().is_none() && perhaps.peek().is_none() {
        let counts = || is.ways.keys.iter().chain(is.ways.perhaps.keys()).any(|one| one.fingerprint == key);
        if was.may_differ && is.ways.sources.is_empty() {
            return counts();
        }
        return !changes();
    }
    sure.all(|one| now.has(one)) && perhaps.all(|(one, doubts)| now.has_perhaps(one, doubts))
}

/// Whether a key that was in no file is in one now, with options, or may be: sshd looks into files first.
fn taken_over(key: Option<&str>, was: &LoginWay, is: &LoginWay) -> bool {
    let mut listed = is.ways.keys.iter().chain(is.ways.perhaps.keys());
    let mut sources = is.ways.sources.iter().filter(|source| !matches!(source, Doubt::Elsewhere(..)));
    listed.any(|one| Some(one.fingerprint.as_str()) == key && !one.options.is_empty())
        || sources.any(|source| !source.is_among(&was.ways.sources))
}

/// Where the stages say that a way is closed, or do not know, by which a live session came in: each stage with its words.
pub fn faults(way: &WayIn) -> Vec<(Stage, String)> {
    let mut found = Vec::new();
    if !way.is_proven() {
        return found;
    }
    let of_stages = |objection: &&Objection| !objection.is_of_value();
    found.extend(way.disproved.iter().map(|(objection, _)| (objection.stage, objection.why.as_str().to_owned())));
    found.extend(way.objections.iter().filter(of_stages).map(|objection| (objection.stage, objection.why.as_str().to_owned())));
    for login in way.logins.iter().filter(|login| login.is_proven()) {
        found.extend(
            login.objections.iter().filter(of_stages).map(|objection| (objection.stage, objection.why.as_str().to_owned())),
        );
        let came = |entrance: &Entrance| {
            let mut by =
                login.ways.ways.iter().flat_map(|way| &way.methods).filter(|(method, _)| is_same(method, &entrance.method, true));
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
