//! Keywords, values and Match criteria of `sshd_config(5)` that could be typed next, as the sshd of this host has them.
//! Judges nothing: that sshd does, when the agent asks it.

use clap_complete::engine::PathCompleter;
use sshfix_policy::subsystem::sshd::config::CRITERIA;
use sshfix_policy::subsystem::sshd::config::keyword;
use sshfix_policy::subsystem::sshd::config::offer::{DEPRECATED, Names, offer};

use super::host::{self, begins, starting};
use super::paths;
use crate::origin::{ssh_client, ssh_server};

/// From this release on, `Match invalid-user` (its release notes).
const INVALID_USER: keyword::Release = (9, 9);

/// Keywords that begin so, whatever their case, as the manual writes them.
pub fn keywords(current: &str, in_match: bool) -> Vec<String> {
    let fits = |keyword: &&keyword::Keyword| {
        // Lines of these have a meaning of their own, and are not set.
        begins(keyword.name, current) && !["Match", "Include"].contains(&keyword.name)
    };
    let release = host::release();
    let here = |keyword: &&keyword::Keyword| keyword.is_in(release) && (!in_match || keyword.fits_match(release));
    keyword::all().iter().filter(fits).filter(here).map(|keyword| keyword.name.to_owned()).collect()
}

/// Values of a keyword behind those that are typed already.
pub fn values(keyword: &str, before: &[String], current: &str) -> Vec<String> {
    let offer = offer(keyword, before.len());
    // Of a list only its last part is completed, and nothing is named twice.
    let comma = if offer.commas { current.rfind(',').map_or(0, |comma| comma + 1) } else { 0 };
    let sign = match offer.names {
        Names::Algorithms(_) if comma == 0 && current.starts_with(['+', '-', '^']) => 1,
        Names::Users | Names::Groups if current.starts_with('!') => 1,
        _ => 0,
    };
    let (kept, part) = current.split_at_checked(comma.max(sign)).unwrap_or(("", current));
    let named: Vec<&str> = kept.trim_start_matches(['+', '-', '^', '!']).split(',').collect();
    let alone = |word: &str| ["any", "none"].contains(&word);
    let words = offer.words.iter().filter(|word| !DEPRECATED.contains(word) && (kept.is_empty() || !alone(word)));
    let words: Vec<String> = words.map(|word| (*word).to_owned()).collect();
    let mut found: Vec<String> = words.into_iter().filter(|word| begins(word, part)).collect();
    found.extend(match offer.names {
        Names::Nothing => Vec::new(),
        Names::Users => starting(part, host::users()),
        Names::Groups => starting(part, host::groups()),
        Names::Files => absolute(part, &PathCompleter::any()),
        Names::Directories => absolute(part, &PathCompleter::dir()),
        Names::Algorithms(query) => starting(part, host::algorithms(query)),
    });
    let in_list = |word: &String| comma > 0 && named.contains(&word.as_str());
    let whole = found.into_iter().filter(|word| !in_list(word)).map(|word| format!("{kept}{word}"));
    whole.filter(|value| offer.names == Names::Nothing || !before.contains(value)).collect()
}

/// sshd takes absolute paths; its own directory is where to begin.
fn absolute(current: &str, completer: &PathCompleter) -> Vec<String> {
    match current {
        "" => paths("/etc/ssh/", completer),
        _ if current.starts_with('/') => paths(current, completer),
        _ => Vec::new(),
    }
}

/// Criteria of a Match block, after those that are typed already: their names, then what they may name.
pub fn criteria(current: &str) -> Vec<String> {
    let is_break = |c: char| c == ' ' || c == '=';
    let start = current.rfind(is_break).map_or(0, |space| space + 1);
    let (kept, part) = current.split_at_checked(start).unwrap_or(("", current));
    let words: Vec<&str> = kept.split(is_break).filter(|word| !word.is_empty()).collect();
    let mut used: Vec<&str> = Vec::new();
    let mut awaits = None;
    for word in words {
        match awaits.take() {
            Some(_) => {}
            None if word.eq_ignore_ascii_case("invalid-user") => used.push(word),
            None => {
                used.push(word);
                awaits = Some(word);
            }
        }
    }
    if let Some(criterion) = awaits {
        return patterns(criterion, part).into_iter().map(|pattern| format!("{kept}{pattern}")).collect();
    }
    let fits = |name: &&&str| begins(name, part) && !used.iter().any(|used| used.eq_ignore_ascii_case(name));
    let mut names: Vec<&str> = CRITERIA.iter().filter(fits).copied().collect();
    if names.contains(&"Invalid-User") && host::release().is_some_and(|release| release < INVALID_USER) {
        names.retain(|name| *name != "Invalid-User");
    }
    match names.as_slice() {
        ["Invalid-User"] => vec![format!("{kept}Invalid-User")],
        // The only one: what it may name, so that the shell does not close a quote behind the name.
        [name] => {
            let whole: Vec<String> = patterns(name, "").into_iter().map(|pattern| format!("{kept}{name} {pattern}")).collect();
            if whole.is_empty() { vec![format!("{kept}{name} ")] } else { whole }
        }
        names => names.iter().map(|name| format!("{kept}{name}{}", if *name == "Invalid-User" { "" } else { " " })).collect(),
    }
}

/// What a criterion may name: users and groups of this host; the address one came from and private networks; the way one came.
fn patterns(criterion: &str, current: &str) -> Vec<String> {
    let comma = current.rfind(',').map_or(0, |comma| comma + 1);
    let bang = usize::from(current.get(comma..).is_some_and(|part| part.starts_with('!')));
    let (kept, part) = current.split_at_checked(comma + bang).unwrap_or(("", current));
    let found = match criterion.to_ascii_lowercase().as_str() {
        "user" => host::users(),
        "group" => host::groups(),
        "address" => {
            let networks = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"].map(str::to_owned);
            ssh_client().map(|client| client.to_string()).into_iter().chain(networks).collect()
        }
        "localaddress" => ssh_server().map(|server| server.ip().to_string()).into_iter().collect(),
        "localport" => vec![ssh_server().map_or(22, |server| server.port()).to_string()],
        _ => Vec::new(),
    };
    let named: Vec<&str> = kept.split(',').map(|word| word.trim_start_matches('!')).collect();
    let new = starting(part, found).into_iter().filter(|word| !named.contains(&word.as_str()));
    new.map(|word| format!("{kept}{word}")).collect()
}
