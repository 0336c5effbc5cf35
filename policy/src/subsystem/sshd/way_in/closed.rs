//! What an edit takes away from somebody who is in, or from a keep entry, where no method is known to work: that nothing works may be a fault
//! of ours, or pass (a home that is away), and what is switched off then is gone when it is over. An edit that opens the way is none of this.

use crate::subsystem::sshd::config::keyword;
use crate::subsystem::sshd::facts::journal::Entrance;
use crate::subsystem::sshd::judge::keys::WhyNot;
use crate::subsystem::sshd::judge::methods::{KEY_SOURCES, Uncounted, Way, bare, is_same};
use crate::subsystem::sshd::way_in::{LoginWay, values};
use crate::text::quoted::Text;
use crate::verdict::Verdict;

/// A method that is on and cannot work, as far as is known, and that is switched off; or the places of keys of whom none is known.
pub fn takes_away(was: &LoginWay, is: &LoginWay, kept: bool) -> Option<(Verdict, Text)> {
    let known = was.ways.best().0 == Verdict::Refuse && was.knows_its_ways() && is.knows_its_ways();
    if !known || was.may_differ || is.ways.best().0 == Verdict::Unknown {
        return None;
    }
    let opens = is.ways.best().0 == Verdict::Accept;
    // Where another method works by now, only keys may have been seen wrongly.
    let counts = |way: &&Way| !opens || way.by_key();
    let user = &is.user;
    if let Some(lost) = was.ways.ways.iter().filter(counts).find(|way| !is.ways.ways.iter().any(|now| asks_no_more(now, way))) {
        let why = format!(
            "sshd: {} is on for {user}, and would be off; that it does not work now is only as far as sshfix sees: leave it on besides",
            lost.name()
        );
        return Some((Verdict::Refuse, why.into()));
    }
    let by_key = |entrance: &Entrance| bare(&entrance.method) == "publickey";
    let mut came_by_key = was.entered.iter().filter(|entrance| by_key(entrance)).peekable();
    let came = came_by_key.peek().is_some();
    let sources: &[&'static str] = if !was.knows_entrances() && was.is_in() || came && !came_by_key.all(|one| is_out(one, was)) {
        &KEY_SOURCES
    } else if kept {
        &values::PLACES_OF_KEYS
    } else {
        &[]
    };
    let asks_for_keys = !opens && was.ways.ways.iter().any(Way::by_key);
    let keyword = values::takes_fewer(sources.iter().copied(), &was.effective, &is.effective).filter(|_| asks_for_keys)?;
    let name = keyword::spelling(keyword);
    let why = format!(
        "sshd: sshfix sees no key of {user} that counts, and {name} changes what counts: whether {user} has one that would count no more is \
         not known"
    );
    Some((Verdict::Unknown, why.into()))
}

/// Whether the very key by which somebody came in is seen, and sshd takes it no more for certain; or sshd looks for keys nowhere.
fn is_out(entrance: &Entrance, was: &LoginWay) -> bool {
    let off = |keyword: &str| was.effective.one(keyword) == Some("none");
    let nowhere = ["authorizedkeysfile", "authorizedkeyscommand", "trustedusercakeys"].into_iter().all(off);
    let of_line = |one: &Uncounted| match one.why {
        WhyNot::Revoked(_) | WhyNot::NotAccepted | WhyNot::TooShort(..) | WhyNot::NoCommand => true,
        WhyNot::NoList(_) | WhyNot::BrokenList(_) | WhyNot::From | WhyNot::Line(_) | WhyNot::File(_) | WhyNot::Token(_) => false,
    };
    let is_it = |one: &Uncounted, key: &str| one.key.as_ref().is_some_and(|name| name.ends_with(key));
    let seen = |key: &String| was.ways.uncounted.iter().any(|one| of_line(one) && is_it(one, key));
    nowhere || !was.ways.other_keys() && entrance.key.as_ref().is_some_and(seen)
}

/// Whether whoever could do the one can do the other, where each of its methods could be done.
fn asks_no_more(now: &Way, was: &Way) -> bool {
    let mut asked: Vec<&String> = was.methods.iter().map(|(method, _)| method).collect();
    now.methods.iter().all(|(method, _)| {
        let found = asked.iter().position(|other| is_same(method, other, false));
        found.map(|at| asked.remove(at)).is_some()
    })
}
