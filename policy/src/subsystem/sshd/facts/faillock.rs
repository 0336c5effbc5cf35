//! `pam_faillock(8)`: how many failed logins it remembers of a user, and until when it refuses him. Reads its configuration and its tally as
//! the module does; opens no file.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Where the module is told what to do, unless its line in the PAM stack says otherwise.
pub const CONFIGURATION: &str = "/etc/security/faillock.conf";
/// Where the tallies are, unless `dir=` says otherwise.
pub const DIRECTORY: &str = "/var/run/faillock";
/// faillock.h, `struct tally`: 52 bytes of source, two of padding, two of status, eight of time.
pub const RECORD: usize = 64;
/// faillock.h, `TALLY_STATUS_VALID`.
const VALID: u16 = 1;

/// How it is set up for sshd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The line of the PAM stack: `/etc/pam.d/common-auth line 3`, and its text.
    pub line: (String, String),
    /// The folder of the tallies.
    pub directory: String,
    /// From how many failures on it refuses; 0 never.
    pub deny: usize,
    /// Seconds within which they count.
    pub fail_interval: i64,
    /// Seconds after the last one for which it refuses; 0 for ever.
    pub unlock_time: i64,
    /// Whether root is refused too, and for how long.
    pub root: Option<i64>,
}

impl Rules {
    /// From the text of faillock.conf and the words of the module's line, which win (`pam_faillock.c`, `args_parse`).
    pub fn new(line: (String, String), configuration: &str) -> Self {
        let mut rules = Self { line, directory: DIRECTORY.to_owned(), deny: 3, fail_interval: 900, unlock_time: 600, root: None };
        let mut root_unlock = None;
        let settings = configuration.lines().map(|line| line.split('#').next().unwrap_or_default().trim().replace(' ', ""));
        let words = rules.line.1.clone();
        let words = words.split_ascii_whitespace().skip_while(|word| !word.contains("pam_faillock")).skip(1).map(str::to_owned);
        for word in settings.chain(words) {
            let (name, value) = word.split_once('=').unwrap_or((&word, ""));
            let seconds = || if value == "never" { Some(0) } else { value.parse().ok() };
            match name {
                "dir" if value.starts_with('/') => value.clone_into(&mut rules.directory),
                "deny" => rules.deny = value.parse().unwrap_or(rules.deny),
                "fail_interval" => rules.fail_interval = seconds().unwrap_or(rules.fail_interval),
                "unlock_time" => rules.unlock_time = seconds().unwrap_or(rules.unlock_time),
                "root_unlock_time" => root_unlock = seconds(),
                "even_deny_root" => rules.root = Some(rules.unlock_time),
                _ => {}
            }
        }
        if rules.root.is_some() {
            rules.root = Some(root_unlock.unwrap_or(rules.unlock_time));
        }
        rules
    }
}

/// A line of a PAM stack (pam.conf(5)), as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PamLine {
    /// Another stack is read here: its name below /etc/pam.d.
    Include(String),
    /// The module this is about, for logins.
    Faillock,
    /// Anything else.
    Other,
}

/// What a line of a PAM stack is.
pub fn pam_line(line: &str) -> PamLine {
    let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_ascii_whitespace().collect();
    let name = |name: &str| {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        if plain { PamLine::Include(name.to_owned()) } else { PamLine::Other }
    };
    match words.as_slice() {
        ["@include", stack] => name(stack),
        [kind, "include" | "substack", stack] if kind.trim_start_matches('-') == "auth" => name(stack),
        [kind, rest @ ..]
            if kind.trim_start_matches('-') == "auth" && rest.iter().any(|word| word.contains("pam_faillock.so")) =>
        {
            PamLine::Faillock
        }
        _ => PamLine::Other,
    }
}

/// A user's tally.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The rules it counts by.
    pub rules: Rules,
    /// The file.
    pub file: String,
    /// Its bytes; empty where nothing is remembered.
    pub bytes: Vec<u8>,
}

/// Until when a user is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locked {
    /// Until then.
    Until(Timestamp),
    /// Until somebody resets it.
    ForEver,
}

impl Tally {
    /// The times of the failures that are remembered, oldest first.
    pub fn failures(&self) -> Vec<Timestamp> {
        let record = |bytes: &[u8]| {
            let status = u16::from_ne_bytes(bytes.get(54..56)?.try_into().ok()?);
            let time = u64::from_ne_bytes(bytes.get(56..64)?.try_into().ok()?);
            (status & VALID != 0).then(|| Timestamp::from_second(i64::try_from(time).ok()?).ok())?
        };
        let mut times: Vec<Timestamp> = self.bytes.chunks_exact(RECORD).filter_map(record).collect();
        times.sort();
        times
    }

    /// `pam_faillock.c`, `check_tally`.
    pub fn locked(&self, uid: u32, now: Timestamp) -> Option<Locked> {
        let Rules { deny, fail_interval, unlock_time, root, .. } = &self.rules;
        let unlock_time = if uid == 0 { (*root)? } else { *unlock_time };
        let failures = self.failures();
        let last = failures.last()?;
        let counted = failures.iter().filter(|time| last.duration_since(**time).as_secs() < *fail_interval).count();
        if *deny == 0 || counted < *deny {
            return None;
        }
        if unlock_time == 0 {
            return Some(Locked::ForEver);
        }
        let until = last.checked_add(SignedDuration::from_secs(unlock_time)).ok()?;
        (until >= now).then_some(Locked::Until(until))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn tally(configuration: &str, words: &str, times: &[u64]) -> Tally {
        let line = ("/etc/pam.d/common-auth line 3".to_owned(), format!("auth required pam_faillock.so {words}"));
        let record = |time: &u64| [&[0; 54][..], &VALID.to_ne_bytes(), &time.to_ne_bytes()].concat();
        let bytes = times.iter().flat_map(record).collect();
        Tally { rules: Rules::new(line, configuration), file: "/var/run/faillock/alice".to_owned(), bytes }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_user_is_locked_from_the_last_of_enough_failures_on() {
        let tally = tally("# deny = 9\ndeny = 3\nunlock_time = 60\n", "preauth silent fail_interval=100", &[1000, 1050, 1090]);
        assert_eq!(tally.locked(1000, at(1100)), Some(Locked::Until(at(1150))));
        assert_eq!(tally.locked(1000, at(1151)), None);
        assert_eq!(tally.locked(0, at(1100)), None, "root only with even_deny_root");
    }

    #[test]
    fn the_module_is_found_in_the_stack() {
        assert_eq!(pam_line("@include common-auth"), PamLine::Include("common-auth".to_owned()));
        assert_eq!(pam_line("auth  substack  password-auth # x"), PamLine::Include("password-auth".to_owned()));
        assert_eq!(pam_line("auth [default=die] pam_faillock.so authfail"), PamLine::Faillock);
        for other in ["account required pam_faillock.so", "# auth required pam_faillock.so", "@include ../shadow", ""] {
            assert_eq!(pam_line(other), PamLine::Other, "{other}");
        }
    }

    #[test]
    fn old_failures_do_not_count_and_never_is_for_ever() {
        assert_eq!(tally("", "fail_interval=10", &[1000, 1050, 1090]).locked(1000, at(1100)), None);
        let root = tally("even_deny_root\nunlock_time=never\n", "authfail deny=2", &[1089, 1090]);
        assert_eq!((root.locked(0, at(9999)), root.locked(7, at(9999))), (Some(Locked::ForEver), Some(Locked::ForEver)));
        assert_eq!(tally("", "deny=0", &[1, 2, 3, 4]).locked(7, at(5)), None);
    }
}
