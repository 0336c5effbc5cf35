//! Why a way in may be closed, as typed reasons, so that before and after a change can be compared by them: a reason that was there
//! before is no news, another one is. Limits that only make a login less likely are [`crate::subsystem::sshd::way_in::risk`]s, never reasons.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::text::quoted::Text;
use crate::verdict::{Stage, Verdict};

/// What keeps a login out, or may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// Which stage says so.
    pub stage: Stage,
    /// Why.
    pub reason: Reason,
    /// Refuse or unknown.
    pub verdict: Verdict,
    /// The same for people: `sshd: PermitRootLogin no refuses root`.
    pub why: Text,
}

/// Why, as far as two of them are the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// This was not read, or sshd did not say it.
    NotRead(String),
    /// sshd could not be asked what it makes of its files, and why. Another set of files may give another answer: it is never the same one.
    Unasked(String),
    /// sshd does not run.
    Down,
    /// sshd does not take its files, with its words.
    Files(String),
    /// This keyword leaves no algorithm that clients have.
    Algorithms(&'static str),
    /// This limit lets nobody in at all.
    NoRoom(&'static str),
    /// sshd would not listen there any more.
    Socket(SocketAddr),
    /// After a boot sshd would not listen there.
    Boot(SocketAddr),
    /// Nobody knows which user comes this way, and this keyword goes by users.
    Unnamed(String),
    /// What this keyword with this value does to a login is not known.
    Value(String, String),
    /// The configuration parts the range into too many.
    TooManyParts,
    /// There is no such user.
    NoUser,
    /// This keyword with these values refuses the user.
    List(&'static str, Vec<String>),
    /// Of this keyword's list these patterns may name the user: they go by host names, which are not looked up, or are not understood.
    Patterns(&'static str, BTreeSet<String>),
    /// `Match` lines go by the client's host name, which is not looked up: these, with all that stands under them and beside them.
    HostNames(Vec<String>),
    /// The host's address that the client comes to is not known, and these `Match` lines go by it.
    LocalAddress(Vec<String>),
    /// `sshd -T` does not print what these lines come to: `Match` lines that go by what it cannot be asked about, lists whose quotes it leaves out.
    NotPrinted(Vec<String>),
    /// The account, as it was looked at.
    Account(String),
}

impl Objection {
    /// Keeps it out.
    pub fn refuse(stage: Stage, reason: Reason, why: impl Into<Text>) -> Self {
        Self { stage, reason, verdict: Verdict::Refuse, why: why.into() }
    }

    /// May keep it out.
    pub fn unknown(stage: Stage, reason: Reason, why: impl Into<Text>) -> Self {
        Self { stage, reason, verdict: Verdict::Unknown, why: why.into() }
    }

    /// Whether sshd itself says that it is closed now, and goes on so. What was seen of an account passes (a shutdown, too many wrong
    /// passwords) or may be seen wrongly; an sshd that does not take its files still runs with older ones.
    pub fn is_certain(&self) -> bool {
        match self.reason {
            Reason::Files(_) | Reason::Account(_) => false,
            Reason::NotRead(_)
            | Reason::Unasked(_)
            | Reason::Down
            | Reason::Algorithms(_)
            | Reason::NoRoom(_)
            | Reason::Socket(_)
            | Reason::Boot(_)
            | Reason::Unnamed(_)
            | Reason::Value(..)
            | Reason::TooManyParts
            | Reason::NoUser
            | Reason::List(..)
            | Reason::Patterns(..)
            | Reason::HostNames(_)
            | Reason::LocalAddress(_)
            | Reason::NotPrinted(_) => self.verdict == Verdict::Refuse,
        }
    }

    /// Whether it is about a value of which is not known what it does.
    pub fn is_of_value(&self) -> bool {
        matches!(self.reason, Reason::Value(..))
    }

    /// Whether these say it too, and at least as surely.
    fn is_among(&self, others: &[Objection]) -> bool {
        if matches!(self.reason, Reason::Unasked(_)) {
            return false;
        }
        let same = |other: &Objection| other.stage == self.stage && self.reason.is_no_news_after(&other.reason);
        let said = |other: &Objection| same(other) && (other.verdict == self.verdict || other.verdict == Verdict::Refuse);
        // A list that refused the user for certain may refuse by other words.
        let refused = |other: &Objection| other.is_certain() && self.reason.is_of_same_list(&other.reason);
        others.iter().any(|other| said(other) || refused(other))
    }

    /// Whether nothing was found out about the login.
    pub fn is_unread(&self) -> bool {
        matches!(self.reason, Reason::NotRead(_) | Reason::Unasked(_))
    }
}

impl Reason {
    /// Whether sshd's files alone say it, of everybody who logs in: not what else decides (users who are gone), nor what keeps only some
    /// clients out (algorithms).
    pub fn is_of_files(&self) -> bool {
        match self {
            Reason::List(..) | Reason::NoRoom(_) => true,
            Reason::NotRead(_)
            | Reason::Unasked(_)
            | Reason::Down
            | Reason::Files(_)
            | Reason::Algorithms(_)
            | Reason::Socket(_)
            | Reason::Boot(_)
            | Reason::Unnamed(_)
            | Reason::Value(..)
            | Reason::TooManyParts
            | Reason::NoUser
            | Reason::Patterns(..)
            | Reason::HostNames(_)
            | Reason::LocalAddress(_)
            | Reason::NotPrinted(_)
            | Reason::Account(_) => false,
        }
    }

    /// Whether the lines of sshd's files say it, or leave it open.
    pub fn may_be_of_lines(&self) -> bool {
        match self {
            Reason::NoRoom(_)
            | Reason::Unnamed(_)
            | Reason::TooManyParts
            | Reason::List(..)
            | Reason::Patterns(..)
            | Reason::HostNames(_)
            | Reason::LocalAddress(_)
            | Reason::NotPrinted(_) => true,
            Reason::NotRead(_)
            | Reason::Unasked(_)
            | Reason::Down
            | Reason::Files(_)
            | Reason::Algorithms(_)
            | Reason::Socket(_)
            | Reason::Boot(_)
            | Reason::Value(..)
            | Reason::NoUser
            | Reason::Account(_) => false,
        }
    }

    /// Whether both are about the same list of users or groups.
    fn is_of_same_list(&self, other: &Reason) -> bool {
        let list = |reason: &Reason| match reason {
            Reason::List(keyword, _) | Reason::Patterns(keyword, _) => Some(*keyword),
            _ => None,
        };
        list(self).is_some() && list(self) == list(other)
    }

    /// Whether it says no more than another one did before. A list that takes users in is no worse for more patterns that may do so, one
    /// that turns users away for fewer.
    fn is_no_news_after(&self, before: &Reason) -> bool {
        match (self, before) {
            (Reason::Patterns("allowusers", now), Reason::Patterns("allowusers", before)) => before.is_subset(now),
            (Reason::Patterns(keyword, now), Reason::Patterns(of, before)) => keyword == of && now.is_subset(before),
            (now, before) => now == before,
        }
    }
}

/// The first that was not there before; one that refuses rather than one that is not known.
pub fn first_new<'a>(before: &[Objection], after: &'a [Objection]) -> Option<&'a Objection> {
    let new = || after.iter().filter(|objection| !objection.is_among(before));
    new().find(|objection| objection.verdict == Verdict::Refuse).or_else(|| new().next())
}

/// The first that keeps out for certain and did not before: where another one keeps out already. What was not found out is none the less.
pub fn first_certain<'a>(before: &[Objection], after: &'a [Objection]) -> Option<&'a Objection> {
    after.iter().filter(|one| one.is_certain() || one.is_unread()).find(|objection| !objection.is_among(before))
}

/// All of them together, and the words of the one that decides.
pub fn verdict<'a>(objections: impl Iterator<Item = &'a Objection> + Clone) -> (Verdict, Text) {
    let verdict = objections.clone().fold(Verdict::Accept, |all, objection| all.and(objection.verdict));
    let why = objections.into_iter().find(|objection| objection.verdict == verdict).map(|objection| objection.why.clone());
    (verdict, why.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_news_where_it_was_not_there_or_was_not_known() {
        let list = |verdict, name: &str| Objection {
            verdict,
            ..Objection::refuse(Stage::SshdAccess, Reason::List("denyusers", vec![name.to_owned()]), name)
        };
        let (refuses, may) = (list(Verdict::Refuse, "a"), list(Verdict::Unknown, "a"));
        let first = |before: &[Objection], after: &[Objection]| first_new(before, after).cloned();
        assert_eq!(first(std::slice::from_ref(&refuses), std::slice::from_ref(&refuses)), None);
        assert_eq!(first(std::slice::from_ref(&refuses), std::slice::from_ref(&may)), None);
        assert_eq!(first(std::slice::from_ref(&may), std::slice::from_ref(&refuses)), Some(refuses.clone()));
        // What could be asked of neither set of files may be a lockout by the second.
        let unasked = Objection::unknown(Stage::SshdAccess, Reason::Unasked("too many open files".to_owned()), "sshd -T");
        assert_eq!(first(std::slice::from_ref(&unasked), std::slice::from_ref(&unasked)), Some(unasked));
        let patterns = |keyword, patterns: &[&str]| {
            let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
            [Objection::unknown(Stage::SshdAccess, Reason::Patterns(keyword, patterns), keyword)]
        };
        for (keyword, more, fewer) in [("allowusers", false, true), ("denyusers", true, false)] {
            let (one, two) = (patterns(keyword, &["*@*.a"]), patterns(keyword, &["*@*.a", "*@*.b"]));
            assert_eq!(first(&one, &one), None, "{keyword}");
            assert_eq!((first(&one, &two).is_some(), first(&two, &one).is_some()), (more, fewer), "{keyword}");
        }
        let other = list(Verdict::Refuse, "b");
        assert_eq!(first(&[], &[may, other.clone()]), Some(other));
    }
}
