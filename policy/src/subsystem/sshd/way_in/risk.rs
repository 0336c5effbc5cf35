//! Limits that make a login less likely and never keep it out for certain: beside a verdict, never part of it. Two configurations are
//! compared by them, and what gets worse is shown. Only a limit that leaves hardly anybody time to log in counts as a lockout, where a
//! change brings it.

use crate::address::Source;
use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::facts::state::HostKey;
use crate::subsystem::sshd::judge::admission::drop_percent;
use crate::subsystem::sshd::judge::effect::seconds;
use crate::subsystem::sshd::judge::penalty::{self, Overflow, Term, Terms};
use crate::subsystem::sshd::judge::startups::max_startups;

/// sshd's own default; an ordinary agent offers some keys before the right one.
const TRIES: u32 = 6;
/// People need longer than this to type a password or touch a key; seconds.
const SHORT_GRACE: u32 = 20;
/// Less than this many seconds hardly do for a key exchange and a login over a slow line.
const HARDLY_ANY_GRACE: u32 = 5;
/// Unauthenticated connections that a few clients at once make.
const FEW: u32 = 3;
/// Of fewer strangers at the door than these it is a risk that they drop everybody; sshd's own default is 100.
const CROWD: u32 = 30;
/// resolv.conf(5): a name that no server answers takes three of them twice 5 s, and sshd asks for it both ways.
const NAMES: u32 = 60;

/// People leave a session or a transfer silent for this long, and come back to it; seconds.
const QUIET: u64 = 4 * 3_600;
/// A line that is down for less than this many seconds comes back, and the session with it.
const OUTAGE: u64 = 30;

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// `MaxAuthTries`.
    Tries,
    /// `LoginGraceTime`.
    Grace,
    /// `MaxStartups`.
    Startups,
    /// `PerSourceMaxStartups`.
    PerSource,
    /// `MaxSessions`.
    Sessions,
    /// From how many strangers on `MaxStartups` drops everybody.
    Crowd,
    /// `PerSourcePenalties`: what one of its values costs.
    Penalties(Term),
    /// Its `overflow:deny-all`: other sources' penalties turn everybody away. Of IPv4, or of IPv6.
    Overflow {
        /// Of which.
        v4: bool,
    },
    /// `RequiredRSASize`, of the host's own keys.
    HostKeys,
    /// `UseDNS`.
    Names,
    /// `ListenAddress` of an address that may not be there at a boot.
    Boot,
    /// `ChannelTimeout`.
    Channels,
    /// `UnusedConnectionTimeout`.
    Unused,
    /// `PermitTTY`.
    Terminal,
    /// `ClientAliveInterval` and `ClientAliveCountMax`.
    Alive,
}

/// One limit that could end a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Risk {
    /// Which.
    pub limit: Limit,
    /// The more the worse.
    level: i64,
    /// For people.
    pub text: String,
    /// Whether it leaves hardly anybody in.
    pub grave: bool,
}

impl Risk {
    /// Whether it is about name servers that may not answer while somebody logs in.
    pub fn is_of_names(&self) -> bool {
        self.limit == Limit::Names && self.grave
    }

    /// What other sources' penalties do to clients of the other family, and to those that earn none and are turned away for none, is no
    /// lockout of theirs; nor of anybody who comes by no address.
    pub fn for_client(&mut self, effective: &Effective, client: Option<Source>) {
        let Limit::Overflow { v4 } = self.limit else { return };
        let is_exempt = |client: Source| client.single().is_some_and(|address| penalty::exempt(effective, address));
        self.grave &= client.is_some_and(|client| client.is_ipv4() == v4 && !is_exempt(client));
    }

    /// They answer for this client, so that it waits for them no longer than for anything else: no lockout, and still a risk.
    pub fn names_answer(&mut self) {
        if self.limit == Limit::Names {
            self.grave = false;
        }
    }
}

/// The host keys that sshd does not load because they are shorter than `RequiredRSASize`.
pub fn short_host_keys(effective: &Effective, files: &[HostKey]) -> Option<Risk> {
    let required: u32 = effective.one("requiredrsasize")?.parse().ok()?;
    let named = effective.all("hostkey");
    let short = files.iter().filter(|key| named.contains(&key.path));
    let short: Vec<String> = short
        .filter_map(|key| Some((key, key.rsa_bits.filter(|bits| *bits < required)?)))
        .map(|(key, bits)| format!("{} ({bits} bits)", key.path))
        .collect();
    let level = i64::try_from(short.len()).ok().filter(|count| *count > 0)?;
    let text = format!(
        "RequiredRSASize {required}: sshd does not load {}: who knows this host by that key alone does not come in; make a longer one first",
        short.join(", ")
    );
    Some(Risk { limit: Limit::HostKeys, level, text, grave: false })
}

/// The limits of a login, or of everybody, that are tighter than what people are used to. Those that let nobody in at all are none.
pub fn risks(effective: &Effective) -> Vec<Risk> {
    let number = |keyword: &str| effective.one(keyword).and_then(|value| value.parse::<u32>().ok());
    let risk = |limit, level: u32, text: String| Risk { limit, level: i64::from(level), text, grave: false };
    let mut found = Vec::new();
    if let Some(tries @ 1..TRIES) = number("maxauthtries") {
        let text = format!("MaxAuthTries {tries}: a client that offers {tries} other keys or passwords first is cut off");
        found.push(risk(Limit::Tries, TRIES - tries, text));
    }
    // 0 is without end.
    if let Some(seconds @ 1..SHORT_GRACE) = number("logingracetime") {
        let text = format!("LoginGraceTime, which leaves {seconds} s to log in");
        found.push(Risk { grave: seconds < HARDLY_ANY_GRACE, ..risk(Limit::Grace, SHORT_GRACE - seconds, text) });
    }
    found.extend(startups(effective).into_iter().chain(crowd(effective)));
    if let Some(most @ 1..FEW) = number("persourcemaxstartups") {
        let text = format!("PerSourceMaxStartups {most}: more connections at once from one source are dropped");
        found.push(risk(Limit::PerSource, FEW - most, text));
    }
    if number("maxsessions") == Some(1) {
        let text = "MaxSessions 1: a second session on one connection is refused".to_owned();
        found.push(risk(Limit::Sessions, 1, text));
    }
    if effective.one("permittty") == Some("no") {
        let text = "PermitTTY no: no terminal for anybody; sudo and su that ask for a password, and editors, need one".to_owned();
        found.push(risk(Limit::Terminal, 1, text));
    }
    found.extend(names(effective));
    found.extend(silence(effective));
    found.extend(penalties(effective));
    found
}

/// Each value of `PerSourcePenalties` by itself: any that gets dearer is a risk. The words are the same, so that they are said once.
fn penalties(effective: &Effective) -> Vec<Risk> {
    let terms = match Terms::of(effective) {
        Ok(Some(terms)) => terms,
        Ok(None) => return Vec::new(),
        // What is not understood may turn anybody away.
        Err(why) => {
            let text = format!("{why}, so that sshd may turn sources away");
            return vec![Risk { limit: Limit::Penalties(Term::Unknown), level: 1, text, grave: true }];
        }
    };
    let text = terms.to_string();
    let of_terms =
        terms.each().map(|(term, level)| Risk { limit: Limit::Penalties(term), level, text: text.clone(), grave: false });
    let overflow = |v4: bool| {
        let Overflow { deny_all, max_sources } = terms.overflow(v4);
        let family = if v4 { "IPv4" } else { "IPv6" };
        let text = format!(
            "PerSourcePenalties overflow:deny-all: once {max_sources} sources of {family} have a penalty, whoever they are, sshd turns everybody \
             of {family} away; `overflow:permissive` does not"
        );
        let level = i64::MAX - i64::from(max_sources);
        let grave = max_sources < penalty::MAX_SOURCES;
        deny_all.then_some(Risk { limit: Limit::Overflow { v4 }, level, text, grave })
    };
    of_terms.chain([true, false].into_iter().filter_map(overflow)).collect()
}

/// After a boot it takes longer until sshd listens.
pub fn at_boot(text: String) -> Risk {
    Risk { limit: Limit::Boot, level: 1, text, grave: false }
}

/// Limits that end what is there, where it is silent.
fn silence(effective: &Effective) -> Vec<Risk> {
    let risk = |limit, seconds: u64, room: u64, text: String| {
        let level = i64::try_from(room.saturating_sub(seconds)).unwrap_or(i64::MAX);
        (1..room).contains(&seconds).then_some(Risk { limit, level, text, grave: false })
    };
    // `TYPE=TIME`; 0 is without end.
    let times = effective.all("channeltimeout").iter().flat_map(|value| value.split(' '));
    let times = times.filter_map(|one| Some((one, seconds(one.split_once('=')?.1)?))).filter(|(_, seconds)| *seconds > 0);
    let channels = times.min_by_key(|(_, seconds)| *seconds).and_then(|(one, seconds)| {
        let text = format!("ChannelTimeout {one}: a shell, command or tunnel that is silent for {seconds} s is ended");
        risk(Limit::Channels, seconds, QUIET, text)
    });
    let unused = effective.one("unusedconnectiontimeout").and_then(seconds).and_then(|seconds| {
        let text =
            format!("UnusedConnectionTimeout: a connection without a shell, command or tunnel in use is ended after {seconds} s");
        risk(Limit::Unused, seconds, QUIET, text)
    });
    let number = |keyword: &str| effective.one(keyword).and_then(seconds);
    let alive = number("clientaliveinterval").zip(number("clientalivecountmax")).and_then(|(interval, count)| {
        let seconds = interval.saturating_mul(count);
        let text = format!("ClientAliveInterval {interval}: a client whose line is down for {seconds} s is cut off");
        risk(Limit::Alive, seconds, OUTAGE, text)
    });
    [channels, unused, alive].into_iter().flatten().collect()
}

/// sshd looks the client's name up while the time to log in runs; name servers that do not answer use it up.
fn names(effective: &Effective) -> Option<Risk> {
    let grace: u32 = effective.one("logingracetime")?.parse().ok()?;
    let short = (1..NAMES).contains(&grace);
    let left = if short { format!("longer than LoginGraceTime {grace}, so nobody gets in") } else { "long".to_owned() };
    let text = format!("UseDNS yes: each login waits for the name servers; where they do not answer, a login takes {left}");
    let level = if short { i64::from(NAMES - grace) + 1 } else { 1 };
    (effective.one("usedns") == Some("yes")).then_some(Risk { limit: Limit::Names, level, text, grave: short })
}

/// From how few strangers on who do not log in everybody is dropped.
fn crowd(effective: &Effective) -> Option<Risk> {
    let (begin, rate, full) = max_startups(effective)?;
    let all = if rate >= 100 { begin.min(full) } else { full };
    let text = format!("MaxStartups: {all} connections on which nobody logs in have sshd drop all others");
    (1..CROWD).contains(&all).then(|| Risk { limit: Limit::Crowd, level: i64::from(CROWD - all), text, grave: false })
}

/// sshd.c, `should_drop_connection`: what is dropped while nobody else comes, else from how few on.
fn startups(effective: &Effective) -> Option<Risk> {
    let (begin, rate, full) = max_startups(effective)?;
    let risk = |level: u32, text| Risk { limit: Limit::Startups, level: i64::from(level), text, grave: false };
    match drop_percent(0, begin, full, Some(rate)) {
        Some(percent @ 1..100) => Some(risk(FEW + percent, format!("MaxStartups, which drops {percent} of 100 connections"))),
        Some(0) if begin < FEW => {
            Some(risk(FEW - begin, format!("MaxStartups, which drops connections from {begin} others without login on")))
        }
        _ => None,
    }
}

/// The limit that drops every connection, with the keyword. None of these stands in a Match block.
pub fn no_connections(effective: &Effective) -> Option<(&'static str, &'static str)> {
    let drops_all = |(begin, rate, full)| drop_percent(0, begin, full, Some(rate)) == Some(100);
    if max_startups(effective).is_some_and(drops_all) {
        return Some(("maxstartups", "MaxStartups, which drops every connection"));
    }
    let none = effective.one("persourcemaxstartups") == Some("0");
    none.then_some(("persourcemaxstartups", "PerSourceMaxStartups 0, which drops every connection"))
}

/// The limit that lets nobody log in at all, with the keyword.
pub fn no_logins(effective: &Effective) -> Option<(&'static str, &'static str)> {
    let none = effective.one("maxauthtries") == Some("0");
    none.then_some(("maxauthtries", "MaxAuthTries 0, which lets nobody try"))
}

/// Those that are new, or worse than before.
pub fn worse<'a>(before: &'a [Risk], after: &'a [Risk]) -> impl Iterator<Item = &'a Risk> {
    let known = |limit: Limit| before.iter().filter(move |risk| risk.limit == limit);
    let level = move |limit: Limit| known(limit).map(|risk| risk.level).max();
    // The same limit may come to be about this client.
    let newly_grave = move |risk: &Risk| risk.grave && !known(risk.limit).any(|known| known.grave);
    after.iter().filter(move |risk| newly_grave(risk) || level(risk.limit).is_none_or(|before| before < risk.level))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_a_risk_and_a_lockout_where_there_is_little_time() {
        let of = |text: &str| risks(&Effective::parse(text));
        let without = of("usedns no\nlogingracetime 120\n");
        let lockout = |before: &[Risk], text: &str| worse(before, &of(text)).map(|risk| risk.grave).collect::<Vec<_>>();
        assert_eq!(lockout(&without, "usedns yes\nlogingracetime 120\n"), [false]);
        assert_eq!(lockout(&without, "usedns yes\nlogingracetime 0\n"), [false]);
        assert_eq!(lockout(&without, "usedns yes\nlogingracetime 30\n"), [true]);
        let with = of("usedns yes\nlogingracetime 30\n");
        assert_eq!(lockout(&with, "usedns yes\nlogingracetime 30\n"), [false; 0]);
        assert_eq!(lockout(&of("usedns yes\nlogingracetime 120\n"), "usedns yes\nlogingracetime 30\n"), [true]);
    }

    #[test]
    fn what_ends_the_silent_is_a_risk_below_some_hours() {
        let usual = risks(&Effective::parse(
            "channeltimeout none\nunusedconnectiontimeout none\nclientaliveinterval 0\nclientalivecountmax 3\n",
        ));
        assert_eq!(usual, []);
        for (text, limit) in [
            ("channeltimeout *=60\n", Some(Limit::Channels)),
            ("channeltimeout x11=1d session=5m\n", Some(Limit::Channels)),
            ("channeltimeout *=14400 session=0\n", None),
            ("unusedconnectiontimeout 300\n", Some(Limit::Unused)),
            ("unusedconnectiontimeout 1d\n", None),
            ("clientaliveinterval 5\nclientalivecountmax 1\n", Some(Limit::Alive)),
            ("clientaliveinterval 5\nclientalivecountmax 0\n", None),
            ("clientaliveinterval 60\nclientalivecountmax 3\n", None),
        ] {
            let found = risks(&Effective::parse(text));
            assert_eq!(worse(&usual, &found).map(|risk| risk.limit).next(), limit, "{text}");
            assert!(found.iter().all(|risk| !risk.grave), "{text}");
            assert_eq!(worse(&found, &found).count(), 0, "{text}");
        }
        let (long, short) = ("channeltimeout *=2h\n", "channeltimeout *=1h\n");
        let of = |text: &str| risks(&Effective::parse(text));
        assert_eq!((worse(&of(long), &of(short)).count(), worse(&of(short), &of(long)).count()), (1, 0));
    }

    #[test]
    fn what_gets_worse_is_a_risk_and_what_lets_nobody_in_is_none() {
        let of = |text: &str| risks(&Effective::parse(text));
        let usual = of("maxauthtries 6\nlogingracetime 120\nmaxstartups 10:30:100\nmaxsessions 10\npersourcemaxstartups none\n");
        assert_eq!(usual, []);
        let tight = of("maxauthtries 1\nlogingracetime 5\nmaxstartups 0:30:100\nmaxsessions 1\npersourcemaxstartups 1\n");
        let limits: Vec<Limit> = worse(&usual, &tight).map(|risk| risk.limit).collect();
        assert_eq!(limits, [Limit::Tries, Limit::Grace, Limit::Startups, Limit::PerSource, Limit::Sessions]);
        assert!(tight.iter().all(|risk| !risk.grave));
        assert_eq!(worse(&tight, &tight).count(), 0, "what was so before");
        let grave = |text: &str| worse(&tight, &of(text)).any(|risk| risk.grave);
        assert!(grave("logingracetime 1\n") && !grave("logingracetime 0\n") && !grave("maxauthtries 1\n"));
        let nobody = |text: &str| {
            let effective = Effective::parse(text);
            no_connections(&effective).or_else(|| no_logins(&effective)).map(|(keyword, _)| keyword)
        };
        assert_eq!(nobody("maxstartups 0:100:10\n"), Some("maxstartups"));
        assert_eq!(nobody("maxstartups 10:30:100\nmaxauthtries 0\n"), Some("maxauthtries"));
        assert_eq!(nobody("maxstartups 10:30:100\nmaxsessions 0\n"), None, "that permits forwarding");
        assert_eq!(nobody("maxstartups 10:30:100\nmaxsessions 1\nmaxauthtries 1\nlogingracetime 1\n"), None);
    }
}
