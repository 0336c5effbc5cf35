//! The ledger of `PerSourcePenalties`, rebuilt from the journal: until when sshd turns a source away at least, probably, and at most.
//! The table itself is in sshd's memory and cannot be asked for. Rules: srclimit.c of OpenSSH 9.8 to 10.x.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::facts::journal::{Dropped, Ended, Said, TOO_MANY_PENALTIES, Told};

/// `crash:90 authfail:5 noauth:1 grace-exceeded:10 ... max:600 min:15 max-sources4:65536 ... overflow6:permissive`, in seconds; an sshd without
/// penalties has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    seconds: BTreeMap<String, i64>,
    overflow: [Overflow; 2],
}

/// sshd's own default of `max-sources4` and `max-sources6`.
pub const MAX_SOURCES: u32 = 65_536;

/// What becomes of everybody when too many sources have a penalty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow {
    /// Everybody is turned away; else the penalties that end first are forgotten.
    pub deny_all: bool,
    /// With how many sources.
    pub max_sources: u32,
}

/// One of the values, in the order in which they are worse the higher they are; `min` the lower it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Term {
    /// `crash`
    Crash,
    /// `authfail`
    Failed,
    /// `noauth`
    Unasked,
    /// `grace-exceeded`
    Grace,
    /// `refuseconnection`
    Refused,
    /// What other releases know besides.
    Other,
    /// `max`
    Max,
    /// `min`: no penalty counts before it is longer.
    Min,
    /// Values that are not understood.
    Unknown,
}

impl Terms {
    /// What is in force for everybody; `None` without penalties. The error says what of it is not understood.
    pub fn of(effective: &Effective) -> Result<Option<Self>, String> {
        let Some(printed) = effective.one("persourcepenalties").filter(|printed| *printed != "no") else { return Ok(None) };
        let odd = |what: &str| format!("`PerSourcePenalties {what}` is not understood");
        let mut seconds = BTreeMap::new();
        let (mut sources, mut deny) = ([MAX_SOURCES; 2], [None; 2]);
        for word in printed.split_ascii_whitespace() {
            let (name, value) = word.split_once(':').ok_or_else(|| odd(word))?;
            let family = usize::from(name.ends_with('6'));
            match name {
                "max-sources4" | "max-sources6" => {
                    let max = value.parse().map_err(|_| odd(word))?;
                    if let Some(slot) = sources.get_mut(family) {
                        *slot = max;
                    }
                }
                "overflow" | "overflow6" => {
                    let denies = match value {
                        "deny-all" => true,
                        "permissive" => false,
                        _ => return Err(odd(word)),
                    };
                    if let Some(slot) = deny.get_mut(family) {
                        *slot = Some(denies);
                    }
                }
                _ => _ = seconds.insert(name.to_owned(), whole_seconds(value).ok_or_else(|| odd(word))?),
            }
        }
        // servconf.c: IPv6 does as IPv4, unless it is said.
        let ([v4, v6], [max4, max6]) = (deny, sources);
        let overflow = [(v4, max4), (v6.or(v4), max6)];
        let overflow = overflow.map(|(deny, max_sources)| Overflow { deny_all: deny.unwrap_or(false), max_sources });
        if seconds.contains_key("max") { Ok(Some(Self { seconds, overflow })) } else { Err(odd(printed)) }
    }

    /// The longest a source is turned away after its last penalty.
    pub fn longest(&self) -> i64 {
        self.one("max")
    }

    /// Of IPv4, or of IPv6.
    pub fn overflow(&self, v4: bool) -> Overflow {
        let [of_v4, of_v6] = self.overflow;
        if v4 { of_v4 } else { of_v6 }
    }

    /// Every value that costs time, the higher the worse.
    pub fn each(&self) -> impl Iterator<Item = (Term, i64)> {
        let mut all = BTreeMap::new();
        for (name, seconds) in &self.seconds {
            let (term, level) = match name.as_str() {
                "crash" => (Term::Crash, *seconds),
                "authfail" => (Term::Failed, *seconds),
                "noauth" => (Term::Unasked, *seconds),
                "grace-exceeded" => (Term::Grace, *seconds),
                "refuseconnection" => (Term::Refused, *seconds),
                "max" => (Term::Max, *seconds),
                "min" => (Term::Min, seconds.saturating_neg()),
                _ => (Term::Other, *seconds),
            };
            let sum: &mut i64 = all.entry(term).or_default();
            *sum = sum.saturating_add(level);
        }
        all.into_iter()
    }

    fn one(&self, name: &str) -> i64 {
        self.seconds.get(name).copied().unwrap_or(0)
    }

    /// What such an end costs.
    fn cost(&self, ended: &Ended) -> i64 {
        match ended {
            Ended::TooMany(_) | Ended::Failed => self.one("authfail"),
            Ended::Unasked => self.one("noauth"),
            Ended::Grace => self.one("grace-exceeded"),
        }
    }
}

impl std::fmt::Display for Terms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "PerSourcePenalties: a failed login costs its source {} s, a connection without one {} s; a source with more than {} s is turned \
             away, for up to {} s",
            self.one("authfail"),
            self.one("noauth"),
            self.one("min"),
            self.one("max")
        )
    }
}

/// With `overflow:deny-all` everybody is turned away while as many sources as it takes have a penalty: why that may be so for those of one
/// family, and what the journal has of it. Who is exempt is another question.
pub fn overflown(told: &[Told], v4: bool, terms: &Terms, effective: &Effective, now: Timestamp) -> Option<(String, Vec<Told>)> {
    let Overflow { deny_all: true, max_sources } = terms.overflow(v4) else { return None };
    let since = now.checked_sub(SignedDuration::from_secs(terms.longest())).unwrap_or(Timestamp::MIN);
    let lately = told.iter().filter(|told| told.vouched && told.at > since);
    let mut sources = BTreeMap::<IpNet, &Told>::new();
    let mut denied = Vec::new();
    for told in lately {
        let net = match (&told.what, told.from) {
            (Said::Dropped(Dropped::TooManyPenalties), Some(from)) if from.is_ipv4() == v4 => {
                denied.push(told.clone());
                continue;
            }
            (Said::Penalty { net, .. }, _) => *net,
            (Said::Dropped(Dropped::Penalty), Some(from)) => block(effective, from),
            (Said::Ended(_) | Said::NoMatch { .. } | Said::Crashed(_), Some(from)) if !exempt(effective, from) => {
                block(effective, from)
            }
            _ => continue,
        };
        if matches!(net, IpNet::V4(_)) == v4 {
            sources.insert(net, told);
        }
    }
    // The journal may not have all of them.
    let enough = if max_sources < MAX_SOURCES { 1 } else { usize::try_from(max_sources / 2).unwrap_or(usize::MAX) };
    if let Some(last) = denied.last().cloned() {
        return Some((
            format!("with overflow:deny-all it turned others away because {TOO_MANY_PENALTIES} (max-sources is {max_sources})"),
            vec![last],
        ));
    }
    let lines: Vec<Told> = sources.values().map(|told| (*told).clone()).take(3).collect();
    (sources.len() >= enough).then(|| {
        (
            format!("{} sources may have a penalty, and with overflow:deny-all {max_sources} turn everybody away", sources.len()),
            lines,
        )
    })
}

/// `5`, and `0.5` as later releases may print it: rounded up, so that no penalty ends before sshd ends it.
fn whole_seconds(value: &str) -> Option<i64> {
    let (whole, part) = value.split_once('.').unwrap_or((value, "0"));
    let more = i64::from(part.parse::<u64>().ok()? > 0);
    whole.parse::<i64>().ok()?.checked_add(more)
}

/// What the journal tells of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// When the penalty began to count, or the first refusal that the journal has.
    pub since: Timestamp,
    /// sshd said itself that it turns the source away until then.
    pub at_least: Option<Timestamp>,
    /// The same with what ended badly after that.
    pub probably: Timestamp,
    /// No penalty lasts longer after the last thing that can have earned one.
    pub at_most: Timestamp,
    /// The lines that it rests on, oldest first.
    pub lines: Vec<(String, String)>,
    /// What earned it: `4 times failed authentication`.
    pub earned: Vec<String>,
}

/// The ledger of the sources in `net`; `None` where nothing tells of a penalty that could still count.
///
/// Only a refusal that the journal has begins one: what connections cost is reckoned, and sshd may have seen more or less than it noted.
pub fn ledger(told: &[Told], net: IpNet, terms: &Terms, now: Timestamp) -> Option<Ledger> {
    let after = |from: Timestamp, seconds: i64| from.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    let concerns = |told: &&Told| match (&told.what, told.from) {
        (Said::Penalty { net: of, .. }, _) => of.contains(&net) || net.contains(of),
        (_, Some(from)) => net.contains(&from),
        (_, None) => false,
    };
    let mine: Vec<&Told> = told.iter().filter(|told| told.vouched).filter(concerns).collect();
    let named = |told: &&&Told| matches!(told.what, Said::Penalty { .. } | Said::Dropped(Dropped::Penalty));
    let refusals: Vec<&&Told> = mine.iter().filter(named).collect();
    let (first, last) = (refusals.first()?, refusals.last()?);
    let at_most = after(last.at, terms.longest());
    if at_most <= now {
        return None;
    }
    let account = reckon(&mine, terms);
    // Where what was reckoned does not explain the last refusal, it is not the whole truth.
    let explains = account.active && account.until >= last.at;
    let lines = [first, last].map(|told| (format!("journal of {}", told.by), told.text.clone()));
    let lines = if first.text == last.text { lines.into_iter().take(1).collect() } else { lines.into() };
    Some(Ledger {
        since: if explains { account.since.min(first.at) } else { first.at },
        at_least: account.told.filter(|until| *until > now),
        probably: if explains { account.until.min(at_most) } else { at_most },
        at_most,
        lines,
        earned: earned(&mine),
    })
}

/// What is reckoned of one source.
struct Account {
    since: Timestamp,
    until: Timestamp,
    /// Whether it counts: more than `min` seconds were left at some time.
    active: bool,
    /// Until when by sshd's own words. It writes them from 10.1 on, before that with `LogLevel VERBOSE`.
    told: Option<Timestamp>,
}

/// srclimit.c, `srclimit_penalise`: what is left and what is new add up, to `max` at most, and count once it is more than `min`. One penalty
/// a connection, the dearest that its lines tell of.
fn reckon(mine: &[&Told], terms: &Terms) -> Account {
    let seconds = SignedDuration::from_secs;
    let after = |at: Timestamp, by: i64| at.checked_add(seconds(by)).unwrap_or(Timestamp::MAX);
    let mut ends = BTreeMap::<(Option<IpAddr>, Option<u16>), (Timestamp, i64)>::new();
    let mut events: Vec<(Timestamp, i64, bool)> = Vec::new();
    for told in mine {
        let cost = match &told.what {
            Said::Ended(ended) => terms.cost(ended),
            Said::NoMatch { .. } => terms.cost(&Ended::Unasked),
            Said::Crashed(_) => terms.one("crash"),
            Said::Penalty { seconds, .. } => {
                events.push((told.at, *seconds, true));
                continue;
            }
            _ => continue,
        };
        let end = ends.entry((told.from, told.port)).or_insert((told.at, cost));
        *end = (told.at, end.1.max(cost));
    }
    events.extend(ends.into_values().map(|(at, cost)| (at, cost, false)));
    events.sort();
    let mut account = Account { since: Timestamp::MIN, until: Timestamp::MIN, active: false, told: None };
    for (at, cost, told) in events {
        if account.until < at {
            account = Account { since: at, until: at, active: false, told: None };
        }
        if told {
            // The journal has whole seconds, and its clock runs a little behind sshd's.
            account.told = Some(after(at, cost - 1));
            account.until = after(at, cost);
        } else {
            account.until = after(account.until, cost).min(after(at, terms.longest()));
        }
        account.active |= told || account.until.duration_since(at) > seconds(terms.one("min"));
    }
    account
}

fn earned(mine: &[&Told]) -> Vec<String> {
    let mut kinds = BTreeMap::<(Option<IpAddr>, Option<u16>), u8>::new();
    for told in mine {
        let kind = match &told.what {
            Said::Ended(Ended::Unasked) => 0,
            Said::Ended(Ended::Grace) => 1,
            Said::Ended(Ended::Failed | Ended::TooMany(_)) => 2,
            Said::Crashed(_) => 3,
            _ => continue,
        };
        let known = kinds.entry((told.from, told.port)).or_default();
        *known = kind.max(*known);
    }
    let words = ["without an attempt to log in", "over LoginGraceTime", "with failed authentication", "with a crash of sshd"];
    let count = |kind: u8| kinds.values().filter(|other| **other == kind).count();
    let counted = (0..).zip(words).map(|(kind, words)| (count(kind), words)).filter(|(count, _)| *count > 0);
    counted.map(|(count, words)| format!("{count} connections ended {words}")).collect()
}

/// Whether `PerSourcePenaltyExemptList` names the address (match.c, `addr_match_list`): addresses and networks, one list or several.
pub fn exempt(effective: &Effective, address: IpAddr) -> bool {
    let lists = effective.all("persourcepenaltyexemptlist").iter().flat_map(|list| list.split(','));
    let mut found = false;
    for one in lists.map(str::trim) {
        let (negated, one) = one.strip_prefix('!').map_or((false, one), |one| (true, one));
        let net = one.parse::<IpNet>().ok().or_else(|| one.parse::<IpAddr>().ok().map(IpNet::from));
        if net.is_some_and(|net| net.contains(&address)) {
            if negated {
                return false;
            }
            found = true;
        }
    }
    found
}

/// The addresses that count as one source: `PerSourceNetBlockSize` `32:128` are prefix lengths of IPv4 and IPv6.
pub fn block(effective: &Effective, address: IpAddr) -> IpNet {
    let sizes = effective.one("persourcenetblocksize").unwrap_or("32:128");
    let (v4, v6) = sizes.split_once(':').unwrap_or((sizes, "128"));
    let (text, most) = if address.is_ipv4() { (v4, 32) } else { (v6, 128) };
    let length = text.parse().ok().filter(|length| *length <= most).unwrap_or(most);
    IpNet::new(address, length).map_or_else(|_| IpNet::from(address), |net| net.trunc())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const TERMS: &str = "persourcepenalties crash:90 authfail:5 noauth:1 grace-exceeded:10 refuseconnection:10 max:600 min:15 overflow:permissive";

    fn at(second: i64) -> Timestamp {
        Timestamp::new(1_795_251_600 + second, 0).unwrap()
    }

    fn told(second: i64, from: &str, port: u16, what: Said) -> Told {
        let from = Some(from.parse().unwrap());
        Told {
            at: at(second),
            from,
            port: Some(port),
            what,
            by: "sshd[81]".to_owned(),
            text: format!("line {second}"),
            vouched: true,
        }
    }

    fn penalty(second: i64, seconds: i64) -> Told {
        let net = "203.0.113.7/32".parse().unwrap();
        Told { from: None, port: None, ..told(second, "::", 0, Said::Penalty { net, seconds, reason: "penalty: x".to_owned() }) }
    }

    #[test]
    fn what_sshd_said_itself_is_the_least_and_what_came_later_adds_up() {
        let terms = Terms::of(&Effective::parse(TERMS)).unwrap().unwrap();
        let net = "203.0.113.7/32".parse().unwrap();
        let failed = |second, port| told(second, "203.0.113.7", port, Said::Ended(Ended::Failed));
        let lines = [
            failed(0, 1),
            failed(1, 2),
            failed(2, 3),
            told(2, "203.0.113.7", 3, Said::Ended(Ended::Unasked)),
            penalty(3, 16),
            failed(4, 4),
            told(9, "203.0.113.7", 5, Said::Dropped(Dropped::Penalty)),
            told(9, "203.0.113.70", 5, Said::Ended(Ended::Failed)),
        ];
        let ledger = ledger(&lines, net, &terms, at(10)).unwrap();
        assert_eq!((ledger.since, ledger.at_least, ledger.probably, ledger.at_most), (at(0), Some(at(18)), at(24), at(609)));
        assert_eq!(ledger.earned, ["4 connections ended with failed authentication"]);
        let later = super::ledger(&lines, net, &terms, at(30)).unwrap();
        assert_eq!(later.at_least, None, "only sshd knows now");
        assert_eq!(super::ledger(&lines, net, &terms, at(609)), None);
        assert_eq!(super::ledger(lines.get(..4).unwrap(), net, &terms, at(10)), None, "nothing counts yet");
    }

    #[test]
    fn without_sshds_own_words_the_end_is_reckoned_and_never_sure() {
        let terms = Terms::of(&Effective::parse(TERMS)).unwrap().unwrap();
        let net = "203.0.113.0/24".parse().unwrap();
        let failed = |second, port| told(second, "203.0.113.7", port, Said::Ended(Ended::Failed));
        let drop = |second| told(second, "203.0.113.8", 9, Said::Dropped(Dropped::Penalty));
        let four = [failed(0, 1), failed(0, 2), failed(0, 3), failed(1, 4), drop(2)];
        let ledger = ledger(&four, net, &terms, at(3)).unwrap();
        assert_eq!((ledger.at_least, ledger.probably, ledger.at_most), (None, at(20), at(602)));
        // What was reckoned does not explain why it was turned away.
        let one = [failed(0, 1), drop(2)];
        let ledger = super::ledger(&one, net, &terms, at(3)).unwrap();
        assert_eq!((ledger.at_least, ledger.probably, ledger.at_most), (None, at(602), at(602)));
    }

    #[test]
    fn exempt_addresses_earn_nothing() {
        let effective = Effective::parse("persourcepenaltyexemptlist 198.51.100.0/24,!198.51.100.9,203.0.113.7\n");
        let exempt = |address: &str| exempt(&effective, address.parse().unwrap());
        assert_eq!(
            ["198.51.100.7", "198.51.100.9", "203.0.113.7", "203.0.113.70", "2001:db8::7"].map(exempt),
            [true, false, true, false, false]
        );
        assert_eq!(Terms::of(&Effective::parse("persourcepenalties no\n")), Ok(None));
        assert_eq!(Terms::of(&Effective::parse("port 22\n")), Ok(None));
        for odd in ["crash:soon max:600", "crash max:600", "crash:90 authfail:5"] {
            assert!(Terms::of(&Effective::parse(&format!("persourcepenalties {odd}\n"))).is_err(), "{odd}");
        }
        let fractions = Terms::of(&Effective::parse("persourcepenalties crash:90.000000 authfail:0.5 max:600.0\n"));
        let fractions = fractions.unwrap().unwrap();
        assert_eq!((fractions.one("crash"), fractions.one("authfail"), fractions.longest()), (90, 1, 600));
    }

    #[test]
    fn others_penalties_turn_everybody_away_with_deny_all() {
        let effective = |more: &str| Effective::parse(&format!("{TERMS} {more}\npersourcepenaltyexemptlist 192.0.2.9\n"));
        let failed = |from| told(0, from, 1, Said::Ended(Ended::Failed));
        let denied = |from| told(0, from, 1, Said::Dropped(Dropped::TooManyPenalties));
        let one = || vec![failed("203.0.113.7")];
        let (few, six) = ("overflow:deny-all max-sources4:3", "overflow6:deny-all max-sources6:1");
        for (more, lines, v4, second, turned_away) in [
            ("max-sources4:1", one(), true, 1, false),
            (few, Vec::new(), true, 1, false),
            (few, one(), true, 1, true),
            (few, one(), true, 601, false),
            (few, one(), false, 1, false),
            (few, vec![failed("192.0.2.9")], true, 1, false),
            (few, vec![failed("2001:db8::7")], true, 1, false),
            (six, vec![failed("2001:db8::7")], false, 1, true),
            ("overflow:deny-all", one(), true, 1, false),
            ("overflow:deny-all", vec![denied("203.0.113.7")], true, 1, true),
            ("overflow:deny-all", vec![denied("2001:db8::7")], true, 1, false),
            ("overflow:deny-all", vec![denied("2001:db8::7")], false, 1, true),
        ] {
            let effective = effective(more);
            let terms = Terms::of(&effective).unwrap().unwrap();
            let found = overflown(&lines, v4, &terms, &effective, at(second));
            assert_eq!(found.is_some(), turned_away, "{more}, IPv4 {v4}, {second}: {found:?}");
        }
    }

    #[test]
    fn sources_count_by_their_block() {
        let net = |sizes: &str, address: &str| {
            block(&Effective::parse(&format!("persourcenetblocksize {sizes}\n")), address.parse().unwrap()).to_string()
        };
        assert_eq!(net("24:56", "203.0.113.7"), "203.0.113.0/24");
        assert_eq!(net("24:56", "2001:db8::7"), "2001:db8::/56");
        assert_eq!(net("32:none", "203.0.113.7"), "203.0.113.7/32");
    }
}
