//! What ends ways through this host to others, or back to it: `ssh -J`, tunnels, forwarded sockets. Beside a verdict for whoever has a shell
//! here as well; for an account that has nothing else it is the way in. Reads nothing.

use std::collections::BTreeSet;

use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::config::keyword;
use crate::subsystem::sshd::facts::state::Account;
use crate::subsystem::sshd::judge::account::ends_at_once;
use crate::subsystem::sshd::quoting::of_values;
use crate::text::quoted::Text;

/// The keywords that permit forwarding, and what ends where they permit less.
const SWITCHES: [(&str, &str); 7] = [
    ("disableforwarding", "ssh -J and all tunnels"),
    ("allowtcpforwarding", "ssh -J, -W, -L and -D, or -R,"),
    ("permitopen", "ssh -J, -W, -L and -D to other places"),
    ("permitlisten", "reverse tunnels (ssh -R) that listen elsewhere"),
    ("gatewayports", "reverse tunnels (ssh -R) that others reach"),
    ("allowstreamlocalforwarding", "tunnels of Unix sockets"),
    ("permittunnel", "tunnels of tun devices (ssh -w)"),
];

/// What a change ends, for people, each keyword once.
pub fn ends(was: &Effective, is: &Effective) -> Vec<Text> {
    let ended =
        SWITCHES.iter().filter(|(keyword, _)| counts(keyword, was) && is_narrower(keyword, was.all(keyword), is.all(keyword)));
    let line = |(keyword, what): &(&str, &str)| {
        let value: String = is.all(keyword).join(" ").chars().take(100).collect();
        let name = Text::from(format!("{} ", keyword::spelling(keyword)));
        name + of_values(keyword, value) + format!(": ends {what} through this host")
    };
    ended.map(line).collect()
}

/// The command that sshd runs in the place of a shell.
pub fn command(effective: &Effective) -> Option<&str> {
    effective.one("forcecommand").filter(|command| *command != "none")
}

/// Why a login is good for forwarding alone: sshd runs no shell that stays, or a command in its place. Who has sftp has that.
pub fn alone(effective: &Effective, account: &Account) -> Option<Text> {
    if effective.one("maxsessions") == Some("0") {
        return Some("MaxSessions 0".into());
    }
    match command(effective) {
        Some(command) if command.starts_with("internal-sftp") => None,
        Some(command) => {
            let command: String = command.chars().take(100).collect();
            Some(Text::from("ForceCommand ") + of_values("forcecommand", command))
        }
        None => ends_at_once(account).then(|| format!("the shell {}", account.shell).into()),
    }
}

/// Whether anything went by this keyword.
fn counts(keyword: &str, was: &Effective) -> bool {
    let (on, directions) = (was.one("disableforwarding") != Some("yes"), directions(was.all("allowtcpforwarding")));
    match keyword {
        "permitopen" => on && directions.contains("local"),
        "permitlisten" | "gatewayports" => on && directions.contains("remote"),
        _ => on,
    }
}

fn directions(values: &[String]) -> BTreeSet<&'static str> {
    match values.first().map(String::as_str) {
        Some("no") => [].into(),
        Some("local") => ["local"].into(),
        Some("remote") => ["remote"].into(),
        _ => ["local", "remote"].into(),
    }
}

fn is_narrower(keyword: &str, was: &[String], is: &[String]) -> bool {
    // What is not printed at all is an sshd that was not asked, or does not know it.
    if was == is || was.is_empty() || is.is_empty() {
        return false;
    }
    let words = |values: &[String]| -> BTreeSet<String> {
        values.iter().flat_map(|value| value.split(' ')).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let first = |values: &[String], value: &str| values.first().is_some_and(|first| first == value);
    match keyword {
        "disableforwarding" => first(is, "yes"),
        "allowtcpforwarding" | "allowstreamlocalforwarding" => !directions(was).is_subset(&directions(is)),
        "permitopen" | "permitlisten" => !first(was, "none") && !first(is, "any") && !words(was).is_subset(&words(is)),
        "gatewayports" => !first(was, "no"),
        "permittunnel" => !first(was, "no") && !first(is, "yes"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_permits_less_ends_ways_through_and_what_permits_more_does_not() {
        let base = "disableforwarding no\nallowtcpforwarding yes\npermitopen any\npermitlisten any\ngatewayports no\n\
            allowstreamlocalforwarding yes\npermittunnel no\n";
        let over = |base: &str, line: &str| {
            let keyword = line.split(' ').next().unwrap_or_default();
            let kept = base.lines().filter(|other| !other.starts_with(&format!("{keyword} ")));
            kept.chain([line]).collect::<Vec<_>>().join("\n")
        };
        let table = [
            ("disableforwarding no", "disableforwarding yes", true),
            ("allowtcpforwarding yes", "allowtcpforwarding no", true),
            ("allowtcpforwarding local", "allowtcpforwarding remote", true),
            ("allowtcpforwarding local", "allowtcpforwarding all", false),
            ("permitopen any", "permitopen none", true),
            ("permitopen a:22", "permitopen a:22 b:22", false),
            ("permitopen a:22 b:22", "permitopen a:22", true),
            ("permitopen none", "permitopen a:22", false),
            ("permitlisten any", "permitlisten 8080", true),
            ("gatewayports yes", "gatewayports no", true),
            ("gatewayports no", "gatewayports yes", false),
            ("allowstreamlocalforwarding yes", "allowstreamlocalforwarding remote", true),
            ("permittunnel yes", "permittunnel no", true),
            ("permittunnel ethernet", "permittunnel yes", false),
            ("x11forwarding yes", "x11forwarding no", false),
        ];
        for (was, is, narrower) in table {
            let before = over(base, was);
            let found = ends(&Effective::parse(&before), &Effective::parse(&over(&before, is)));
            assert_eq!(found.len(), usize::from(narrower), "{was} -> {is}: {found:?}");
            // Where nothing is forwarded, nothing ends.
            let off = over(&before, "disableforwarding yes");
            assert_eq!(ends(&Effective::parse(&off), &Effective::parse(&over(&off, is))).len(), 0, "{was} -> {is}");
        }
    }
}
