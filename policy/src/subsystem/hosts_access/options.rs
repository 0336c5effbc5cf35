//! What the options of a rule do to the connection: `hosts_options(5)`, as `process_options` of tcp wrappers 7.6.q does them
//! (options.c). A mistake in an option refuses the connection, as there.

use super::document::split_at;
use super::pattern::{scan_decimal, truncate};
use crate::text::show;

/// What a rule that matches does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Lets in.
    Grant,
    /// Keeps out.
    Deny,
    /// Keeps out, because of this mistake in its options.
    Mistake(String),
    /// Runs another program instead of the daemon; no way in for ssh.
    Twist,
    /// Depends on what this text says.
    Untold(String),
}

impl Outcome {
    /// Whether ssh is kept out.
    pub fn refuses(&self) -> bool {
        matches!(self, Outcome::Deny | Outcome::Mistake(_) | Outcome::Twist)
    }
}

/// Syslog levels and facilities that `severity` knows (`prioritynames` and `facilitynames`, options.c).
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
const FACILITIES: [&str; 17] = [
    "kern", "user", "mail", "daemon", "auth", "lpr", "news", "uucp", "cron", "local0", "local1", "local2", "local3", "local4",
    "local5", "local6", "local7",
];

/// Whether an option takes a value (`NEED_ARG`, `OPT_ARG`, options.c).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    Needed,
    Possible,
    Forbidden,
}

/// Runs the options in order. `default` is what the rule does when none of them ends it.
pub fn outcome(options: Option<&[u8]>, default: &Outcome) -> Outcome {
    let fields = fields(options.unwrap_or_default());
    let mut untold = None;
    for (index, field) in fields.iter().enumerate() {
        let last = index + 1 == fields.len();
        let (key, value) = key_and_value(chop(field));
        if key.is_empty() {
            return untold.unwrap_or_else(|| Outcome::Mistake("an empty option".into()));
        }
        let name = String::from_utf8_lossy(key).to_ascii_lowercase();
        let ended = match (option(&name, last, value), untold.take()) {
            (Ok(Effect::None), before) => {
                untold = before;
                continue;
            }
            (Ok(Effect::Untold(why)), before) => {
                untold = before.or(Some(Outcome::Untold(why)));
                continue;
            }
            (_, Some(before)) => before,
            (Ok(Effect::Ends(outcome)), None) => outcome,
            (Err(mistake), None) => Outcome::Mistake(mistake),
        };
        return ended;
    }
    untold.unwrap_or_else(|| default.clone())
}

enum Effect {
    /// Nothing that matters here.
    None,
    /// No further option is looked at.
    Ends(Outcome),
    /// Depends on what cannot be read.
    Untold(String),
}

/// One option: the checks every option gets, then its own.
fn option(name: &str, last: bool, value: Option<&[u8]>) -> Result<Effect, String> {
    let (takes, must_be_last) = match name {
        "user" | "group" | "umask" | "linger" | "aclexec" | "spawn" | "setenv" | "severity" | "banners" => (Value::Needed, false),
        "twist" => (Value::Needed, true),
        "rfc931" | "nice" => (Value::Possible, false),
        "keepalive" => (Value::Forbidden, false),
        "allow" | "deny" => (Value::Forbidden, true),
        _ => return Err(format!("an unknown option `{}`", show(name.as_bytes()))),
    };
    match (value, takes) {
        (None, Value::Needed) => return Err(format!("`{name}` without a value")),
        (Some(_), Value::Forbidden) => return Err(format!("`{name}` with a value")),
        _ => {}
    }
    if must_be_last && !last {
        return Err(format!("`{name}` before another option"));
    }
    let bad = || Err(format!("a bad value of `{name}`"));
    let value = value.unwrap_or_default();
    // %-expansions can outgrow libwrap's buffer of 8192 bytes; a name is 127 bytes at most (percent_x.c).
    let expands = matches!(name, "aclexec" | "spawn" | "twist" | "setenv");
    if expands && value.len() + 256 * (value.split(|byte| *byte == b'%').count() - 1) > 8000 {
        return Ok(Effect::Untold(format!("`{name}` with more %-expansions than fit")));
    }
    match name {
        "allow" => Ok(Effect::Ends(Outcome::Grant)),
        "deny" => Ok(Effect::Ends(Outcome::Deny)),
        "twist" => Ok(Effect::Ends(Outcome::Twist)),
        "aclexec" => Ok(Effect::Untold("the exit status of its `aclexec` command".into())),
        "user" | "group" => Ok(Effect::Untold(format!("its `{name}` option, which changes who sshd runs as"))),
        "umask" if octal(value).is_none_or(|mask| mask > 0o777) => bad(),
        "linger" if decimal(value).is_none_or(|seconds| seconds < 0) => bad(),
        "rfc931" if !value.is_empty() && decimal(value).is_none_or(|seconds| seconds <= 0) => bad(),
        "nice" if !value.is_empty() && decimal(value).is_none() => bad(),
        "severity" if !severity(value) => bad(),
        "setenv" => {
            // setenv(3) refuses an empty name and one with `=`; the name ends at the first blank.
            let name = value.split(|byte| b" \t\r\n".contains(byte)).next().unwrap_or_default();
            match (name.contains(&b'='), name.contains(&b'%')) {
                (true, false) => bad(),
                (true, true) => Ok(Effect::Untold("the name its `setenv` expands to".into())),
                _ => Ok(Effect::None),
            }
        }
        _ => Ok(Effect::None),
    }
}

fn severity(value: &[u8]) -> bool {
    let known = |names: &[&str], name: &[u8]| names.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name));
    match split_at(value, b'.') {
        Some(dot) => {
            known(&FACILITIES, value.get(..dot).unwrap_or_default()) && known(&LEVELS, value.get(dot + 1..).unwrap_or_default())
        }
        None => known(&LEVELS, value),
    }
}

/// `sscanf("%d%c") == 1`.
fn decimal(value: &[u8]) -> Option<i32> {
    scan_decimal(value).filter(|(_, rest)| rest.is_empty()).map(|(value, _)| truncate(value))
}

/// `sscanf("%o%c") == 1`; a negative number is far too large.
fn octal(value: &[u8]) -> Option<u64> {
    let (negative, digits) = match value {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, value),
    };
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| (b'0'..=b'7').contains(&byte)))?;
    let value = u64::from_str_radix(text, 8).ok()?;
    Some(if negative && value != 0 { u64::MAX } else { value })
}

/// `get_field`: fields between colons; `\:` is a colon; nothing after a colon at the very end.
fn fields(options: &[u8]) -> Vec<Vec<u8>> {
    let mut fields = Vec::new();
    let mut rest = options;
    while !rest.is_empty() {
        let mut field = Vec::new();
        loop {
            match rest {
                [] => break,
                [b':', after @ ..] => {
                    rest = after;
                    break;
                }
                [b'\\', b':', after @ ..] => {
                    field.push(b':');
                    rest = after;
                }
                [byte, after @ ..] => {
                    field.push(*byte);
                    rest = after;
                }
            }
        }
        fields.push(field);
    }
    fields
}

/// `chop_string`: without the blanks at both ends.
fn chop(field: &[u8]) -> &[u8] {
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let end = field.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    field.get(start..end).unwrap_or_default()
}

/// The name, and the value after blanks and at most one `=`.
fn key_and_value(field: &[u8]) -> (&[u8], Option<&[u8]>) {
    let blanks = |text: &[u8]| text.iter().take_while(|byte| b" \t\r\n".contains(byte)).count();
    let Some(end) = field.iter().position(|byte| b"= \t\r\n".contains(byte)) else { return (field, None) };
    let (key, mut value) = field.split_at_checked(end).unwrap_or((field, &[]));
    if value.first() != Some(&b'=') {
        value = value.get(1..).unwrap_or_default();
        value = value.get(blanks(value)..).unwrap_or_default();
    }
    if let [b'=', rest @ ..] = value {
        value = rest.get(blanks(rest)..).unwrap_or_default();
    }
    (key, Some(value).filter(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(options: &str) -> Outcome {
        outcome(Some(options.as_bytes()), &Outcome::Deny)
    }

    #[test]
    fn allow_and_deny_decide_and_mistakes_refuse() {
        assert_eq!(run(" ALLOW \n"), Outcome::Grant);
        assert_eq!(outcome(Some(b"deny"), &Outcome::Grant), Outcome::Deny);
        assert_eq!(run("severity mail.info: allow"), Outcome::Grant);
        assert_eq!(run("spawn (echo a \\: b) & : allow"), Outcome::Grant);
        assert_eq!(run(" \n"), Outcome::Mistake("an empty option".into()));
        for wrong in ["allow : deny", "nonsense", "severity loud : allow", "umask 9 : allow", "keepalive yes : allow", ": allow"]
        {
            assert!(matches!(run(wrong), Outcome::Mistake(_)), "{wrong}");
        }
    }

    #[test]
    fn what_only_a_command_can_tell_is_untold() {
        assert!(matches!(run("aclexec /bin/true : allow"), Outcome::Untold(_)));
        assert_eq!(run("twist /bin/echo no"), Outcome::Twist);
        assert_eq!(run("spawn /bin/true"), Outcome::Deny);
    }
}
