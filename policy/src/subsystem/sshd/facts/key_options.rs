//! Whether sshd takes the options before a key (auth-options.c, `sshauthopt_parse`; auth2-pubkeyfile.c, `auth_authorise_keyopts`): one that it
//! does not take makes it pass over the line. Whether they let a client in is not judged here.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why sshd passes over a line that is no comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LineFault {
    /// No type of key stands where one must.
    NoType,
    /// What stands behind the type is no whole key.
    NotWhole,
    /// The key is of another type than the line says.
    OtherType,
    /// Quotes that are opened and not closed.
    Quotes,
    /// sshd knows no such option.
    UnknownOption,
    /// An option whose value is without quotes.
    NoQuotes,
    /// An option whose value sshd does not take.
    OptionValue,
    /// An option that may stand there once.
    Twice,
    /// `principals=` of a key that is no authority.
    Principals,
}

impl fmt::Display for LineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LineFault::NoType => {
                "no type of key stands where one must: it may be the rest of the line before, or not be a public key"
            }
            LineFault::NotWhole => "the key is cut, or broken into several lines",
            LineFault::OtherType => "the key is of another type than the line says",
            LineFault::Quotes => "quotes are opened and not closed",
            LineFault::UnknownOption => "before the key stands an option that sshd does not know",
            LineFault::NoQuotes => "the value of an option before the key is not in double quotes",
            LineFault::OptionValue => "an option before the key has a value that sshd does not take",
            LineFault::Twice => "an option that may be given once is there twice",
            LineFault::Principals => "principals= stands before a key that is no cert-authority",
        })
    }
}

/// Why a text gives no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// sshd reads none there for certain.
    Fault(LineFault),
    /// Not known: another version of sshd, or an option, may make one of it.
    NotKnown,
}

/// Switches, and whether `no-` may stand before them.
const SWITCHES: [(&str, bool); 9] = [
    ("restrict", false),
    ("cert-authority", false),
    ("port-forwarding", true),
    ("agent-forwarding", true),
    ("x11-forwarding", true),
    ("touch-required", true),
    ("verify-required", true),
    ("pty", true),
    ("user-rc", true),
];
/// Those with a value in quotes.
const VALUES: [&str; 8] = ["command", "principals", "from", "expiry-time", "environment", "permitopen", "permitlisten", "tunnel"];

/// Whether they make the key an authority; or why sshd takes no key behind them.
pub(super) fn judge(options: &str) -> Result<bool, NoKey> {
    let (mut rest, mut once, mut authority, mut not_known) = (options, Vec::new(), false, false);
    while !rest.is_empty() {
        if let Some((name, left)) = SWITCHES.iter().find_map(|(name, negated)| switch(rest, name, *negated)) {
            authority |= name == "cert-authority";
            rest = left;
        } else if let Some((name, left)) = VALUES.iter().find_map(|name| valued(rest, name)) {
            let (value, left) = dequoted(left).map_err(NoKey::Fault)?;
            if matches!(name, "command" | "principals" | "from") {
                if once.contains(&name) {
                    return Err(NoKey::Fault(LineFault::Twice));
                }
                once.push(name);
            }
            match is_taken(name, &value) {
                Some(true) => {}
                Some(false) => return Err(NoKey::Fault(LineFault::OptionValue)),
                None => not_known = true,
            }
            rest = left;
        }
        if rest.is_empty() {
            break;
        }
        rest = rest.strip_prefix(',').ok_or(NoKey::Fault(LineFault::UnknownOption))?;
    }
    if once.contains(&"principals") && !authority {
        return Err(NoKey::Fault(LineFault::Principals));
    }
    if not_known { Err(NoKey::NotKnown) } else { Ok(authority) }
}

/// misc.c, `opt_flag`: the case of letters does not count.
fn switch<'a>(text: &'a str, name: &'static str, negated: bool) -> Option<(&'static str, &'a str)> {
    let positive = if negated { without(text, "no-").unwrap_or(text) } else { text };
    without(positive, name).map(|rest| (name, rest))
}

/// misc.c, `opt_match`.
fn valued<'a>(text: &'a str, name: &'static str) -> Option<(&'static str, &'a str)> {
    without(text, name)?.strip_prefix('=').map(|rest| (name, rest))
}

fn without<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(start.len())?;
    head.eq_ignore_ascii_case(start).then_some(rest)
}

/// misc.c, `opt_dequote`: the value, and what follows it.
fn dequoted(text: &str) -> Result<(String, &str), LineFault> {
    let inner = text.strip_prefix('"').ok_or(LineFault::NoQuotes)?;
    let (mut value, mut escaped) = (String::new(), false);
    for (at, letter) in inner.char_indices() {
        let rest = inner.get(at + letter.len_utf8()..).unwrap_or_default();
        match letter {
            '"' if !escaped => return Ok((value, rest)),
            '\\' if !escaped && rest.starts_with('"') => escaped = true,
            _ => {
                escaped = false;
                value.push(letter);
            }
        }
    }
    Err(LineFault::Quotes)
}

/// Whether sshd takes a value; `None` where that is not known here.
fn is_taken(name: &str, value: &str) -> Option<bool> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match name {
        "expiry-time" => {
            let time = value.strip_suffix('Z').or(value.strip_suffix("UTC")).unwrap_or(value);
            Some(digits(time) && [8, 12, 14].contains(&time.len()))
        }
        "environment" => {
            let Some((name, _)) = value.split_once('=') else { return Some(false) };
            Some(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
        }
        "tunnel" => Some(value == "any" || value.split(':').all(|device| device == "any" || digits(device))),
        "permitopen" | "permitlisten" => {
            let bare = name == "permitlisten" && !value.contains(':');
            let port = if bare { Some(value) } else { behind_host(value) };
            match port {
                Some("*") => Some(true),
                Some(port) if digits(port) => Some(port.parse::<u16>().is_ok_and(|port| port > 0)),
                // The name of a service (services(5)).
                Some(port) if port.starts_with(char::is_alphabetic) => None,
                Some(_) | None => Some(false),
            }
        }
        _ => Some(true),
    }
}

/// misc.c, `hpdelim2`: `host:port`, `[::1]:port`.
fn behind_host(value: &str) -> Option<&str> {
    let rest = if value.starts_with('[') { value.split_once(']')?.1 } else { value };
    rest.split_once([':', '/']).map(|(_, port)| port)
}
