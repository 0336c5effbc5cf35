//! What is said over fail2ban's socket: commands as bytes, replies as typed values (fail2ban `server/asyncserver.py`,
//! `server/transmitter.py`). Commands are lists of strings built from typed values only; nothing is sent or read here.

use jiff::civil::DateTime;
use thiserror::Error;

use super::pickle::{self, PickleError, Value};
use crate::address::Source;

/// Ends every message in both directions (`CSPROTO.END`).
pub const END: &[u8] = b"<F2B_END_COMMAND>";
/// Asks the server to close the connection (`CSPROTO.CLOSE`, then `CSPROTO.END`).
pub const CLOSE: &[u8] = b"<F2B_CLOSE_COMMAND><F2B_END_COMMAND>";

/// A command that is sent, one variant each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `version`
    Version,
    /// `status`: the jails
    Status,
    /// `status JAIL short`: how many are banned, without who
    Counts(&'a str),
    /// `get JAIL banip`: who is banned
    Banned(&'a str),
    /// `get JAIL banip --with-time`: who is banned since and until when; costs the server four times as much
    BannedWithTime(&'a str),
    /// `get JAIL banned SOURCE`: 1 if a ticket is exactly this address or range
    IsBanned(&'a str, Source),
    /// `get JAIL ignoreip`
    Ignored(&'a str),
    /// `get JAIL ignoreself`
    IgnoresSelf(&'a str),
    /// `set JAIL banip SOURCE`
    Ban(&'a str, Source),
    /// `set JAIL unbanip SOURCE`
    Unban(&'a str, Source),
    /// `set JAIL addignoreip ENTRY`
    Ignore(&'a str, &'a str),
    /// `set JAIL delignoreip ENTRY`
    Unignore(&'a str, &'a str),
}

impl Command<'_> {
    /// The words, as they would be given to fail2ban-client.
    pub fn words(&self) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        match self {
            Command::Version => words(&["version"]),
            Command::Status => words(&["status"]),
            Command::Counts(jail) => words(&["status", jail, "short"]),
            Command::Banned(jail) => words(&["get", jail, "banip"]),
            Command::BannedWithTime(jail) => words(&["get", jail, "banip", "--with-time"]),
            Command::IsBanned(jail, source) => words(&["get", jail, "banned", &source.short()]),
            Command::Ignored(jail) => words(&["get", jail, "ignoreip"]),
            Command::IgnoresSelf(jail) => words(&["get", jail, "ignoreself"]),
            Command::Ban(jail, source) => words(&["set", jail, "banip", &source.short()]),
            Command::Unban(jail, source) => words(&["set", jail, "unbanip", &source.short()]),
            Command::Ignore(jail, entry) => words(&["set", jail, "addignoreip", entry]),
            Command::Unignore(jail, entry) => words(&["set", jail, "delignoreip", entry]),
        }
    }

    /// The message: the pickled list of words (protocol 2, which every server reads) and [`END`].
    pub fn message(&self) -> Vec<u8> {
        // A list of strings always has a pickle: serde-pickle fails only on values a pickle cannot hold.
        let mut message = serde_pickle::to_vec(&self.words(), serde_pickle::SerOptions::new().proto_v2()).unwrap_or_default();
        message.extend_from_slice(END);
        message
    }
}

/// Why a reply is not an answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReplyError {
    /// Not a pickle that is read here.
    #[error("{0}")]
    Pickle(#[from] PickleError),
    /// fail2ban answered with an exception.
    #[error("fail2ban answered {class}: {message}")]
    Refused {
        /// Without its module: `UnknownJailException`.
        class: String,
        /// Its arguments.
        message: String,
    },
    /// Understood, but not what this command is answered with.
    #[error("fail2ban's answer is not {0}")]
    Unexpected(&'static str),
}

use ReplyError::Unexpected;

/// The value of a reply `(0, value)`; `(1, exception)` and the plain text of a protocol error are errors.
pub fn answer(message: &[u8]) -> Result<Value, ReplyError> {
    match pickle::decode(message)? {
        Value::Tuple(pair) => match <[Value; 2]>::try_from(pair) {
            Ok([Value::Int(0), value]) => Ok(value),
            Ok([Value::Int(_), Value::Object { class, args }]) => Err(ReplyError::Refused {
                class: class.rsplit('.').next().unwrap_or_default().to_owned(),
                message: shown(&args.iter().map(text).collect::<Vec<_>>().join(", ")),
            }),
            Ok([Value::Int(_), value]) => {
                Err(ReplyError::Refused { class: "an error".to_owned(), message: shown(&text(&value)) })
            }
            _ => Err(Unexpected("a pair of status and value")),
        },
        Value::Text(error) => Err(ReplyError::Refused { class: "an error".to_owned(), message: shown(&error) }),
        _ => Err(Unexpected("a pair of status and value")),
    }
}

/// A value in words, for messages only.
fn text(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Int(int) => int.to_string(),
        Value::None
        | Value::Bool(_)
        | Value::Float(_)
        | Value::Bytes(_)
        | Value::List(_)
        | Value::Tuple(_)
        | Value::Dict(_)
        | Value::Object { .. } => "...".to_owned(),
    }
}

/// At most 300 characters, none of them a control character: it may quote log lines of strangers.
fn shown(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The answer to [`Command::Version`].
pub fn version(value: &Value) -> Result<String, ReplyError> {
    match value {
        Value::Text(version) => Ok(shown(version)),
        _ => Err(Unexpected("a version")),
    }
}

/// The answer to [`Command::Status`]: the names of the jails, sorted. A comma in a jail's name cannot be told from two jails.
pub fn jails(value: &Value) -> Result<Vec<String>, ReplyError> {
    let Some(Value::Text(list)) = named(value, "Jail list") else { return Err(Unexpected("a list of jails")) };
    let mut jails: Vec<String> = list.split(", ").filter(|name| !name.is_empty()).map(str::to_owned).collect();
    jails.sort();
    Ok(jails)
}

/// How many tickets a jail holds and has ever made. While both stay the same, in the same server process, no ticket came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// `Currently banned`
    pub current: u64,
    /// `Total banned`
    pub total: u64,
}

/// The answer to [`Command::Counts`].
pub fn counts(value: &Value) -> Result<Counts, ReplyError> {
    let actions = named(value, "Actions").ok_or(Unexpected("a jail's status"))?;
    let number = |name| match named(actions, name) {
        Some(Value::Int(number)) => u64::try_from(*number).map_err(|_| Unexpected("a count")),
        _ => Err(Unexpected("a jail's status")),
    };
    Ok(Counts { current: number("Currently banned")?, total: number("Total banned")? })
}

/// The value of a list of `(name, value)` tuples.
fn named<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let Value::List(pairs) = value else { return None };
    pairs.iter().find_map(|pair| match pair {
        Value::Tuple(pair) => match pair.as_slice() {
            [Value::Text(key), value] if key == name => Some(value),
            _ => None,
        },
        _ => None,
    })
}

/// A ticket as fail2ban prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    /// Whom.
    pub source: Source,
    /// Since when and for how long, where asked for.
    pub times: Option<Times>,
    /// The whole line, its tab as one space.
    pub text: String,
}

/// The times of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The server's local time.
    pub since: DateTime,
    /// Seconds; `None` is for ever (`bantime = -1`).
    pub seconds: Option<i64>,
}

/// The tickets of a jail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tickets {
    /// Those about an address or a range.
    pub printed: Vec<Printed>,
    /// How many are about something else: jails can ban user names and session ids too (`<F-ID>`).
    pub others: usize,
}

/// The answer to [`Command::Banned`] and [`Command::BannedWithTime`].
pub fn tickets(value: &Value) -> Result<Tickets, ReplyError> {
    let Value::List(entries) = value else { return Err(Unexpected("a list of bans")) };
    let mut tickets = Tickets::default();
    for entry in entries {
        let Value::Text(entry) = entry else {
            // A ban id made of several parts arrives as a tuple.
            tickets.others += 1;
            continue;
        };
        let (id, times) = match entry.split_once(" \t") {
            Some((id, times)) => (id, Some(self::times(times).ok_or(Unexpected("a list of bans with their times"))?)),
            None => (entry.as_str(), None),
        };
        match lenient(id) {
            Some(source) => tickets.printed.push(Printed { source, times, text: entry.replace(" \t", " ") }),
            None => tickets.others += 1,
        }
    }
    Ok(tickets)
}

/// `2026-11-21 05:29:33 + 600 = 2026-11-21 05:39:33` (`BanManager.getBanList`). The end is computed from the first two.
fn times(text: &str) -> Option<Times> {
    let (since, rest) = text.split_once(" + ")?;
    let (seconds, _until) = rest.split_once(" = ")?;
    let since = DateTime::strptime("%Y-%m-%d %H:%M:%S", since).ok()?;
    let seconds: i64 = seconds.parse().ok()?;
    Some(Times { since, seconds: (seconds >= 0).then_some(seconds) })
}

/// An address or range as fail2ban prints it; host bits count for nothing, as in fail2ban.
pub fn lenient(text: &str) -> Option<Source> {
    if let Ok(source) = text.parse() {
        return Some(source);
    }
    text.parse().ok().map(Source::new)
}

/// The answer to [`Command::Ignored`], [`Command::Ignore`] and [`Command::Unignore`]: the entries, sorted.
pub fn entries(value: &Value) -> Result<Vec<String>, ReplyError> {
    let Value::List(entries) = value else { return Err(Unexpected("a list of ignored addresses")) };
    let mut entries = entries
        .iter()
        .map(|entry| match entry {
            Value::Text(entry) => Ok(entry.clone()),
            _ => Err(Unexpected("a list of ignored addresses")),
        })
        .collect::<Result<Vec<_>, _>>()?;
    entries.sort();
    Ok(entries)
}

/// The answer to [`Command::IgnoresSelf`].
pub fn flag(value: &Value) -> Result<bool, ReplyError> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        Value::Int(int) => Ok(*int != 0),
        _ => Err(Unexpected("yes or no")),
    }
}

/// The answer to [`Command::IsBanned`], [`Command::Ban`] and [`Command::Unban`]: how many.
pub fn count(value: &Value) -> Result<i64, ReplyError> {
    match value {
        Value::Int(count) => Ok(*count),
        _ => Err(Unexpected("a count")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn pair(name: &str, value: Value) -> Value {
        Value::Tuple(vec![text(name), value])
    }

    fn source(text: &str) -> Source {
        text.parse().unwrap()
    }

    #[test]
    fn commands_are_lists_of_words_with_an_end() {
        let message = Command::Ban("sshd", source("::ffff:203.0.113.7")).message();
        let pickled = message.strip_suffix(END).unwrap();
        let words: Vec<String> = serde_pickle::from_slice(pickled, serde_pickle::DeOptions::new()).unwrap();
        assert_eq!(words, ["set", "sshd", "banip", "203.0.113.7"]);
    }

    #[test]
    fn jails_are_sorted_names() {
        let reply = Value::List(vec![pair("Number of jail", Value::Int(2)), pair("Jail list", text("sshd, recidive"))]);
        assert_eq!(jails(&reply).unwrap(), ["recidive", "sshd"]);
        let none = Value::List(vec![pair("Number of jail", Value::Int(0)), pair("Jail list", text(""))]);
        assert_eq!(jails(&none).unwrap(), Vec::<String>::new());
        assert!(jails(&Value::None).is_err());
    }

    #[test]
    fn counts_come_from_the_short_status() {
        let actions = Value::List(vec![pair("Currently banned", Value::Int(7)), pair("Total banned", Value::Int(9))]);
        let status = Value::List(vec![pair("Filter", Value::List(vec![])), pair("Actions", actions)]);
        assert_eq!(counts(&status), Ok(Counts { current: 7, total: 9 }));
    }

    #[test]
    fn tickets_with_and_without_times_are_read() {
        let reply = Value::List(vec![
            text("203.0.113.7 \t2026-11-21 05:29:33 + 600 = 2026-11-21 05:39:33"),
            text("203.0.113.128/25 \t2026-11-21 05:29:33 + -1 = 9999-12-31 23:59:59"),
            text("2001:db8::7"),
            text("some user name"),
            Value::Tuple(vec![text("203.0.113.9"), text("root")]),
        ]);
        let since = jiff::civil::date(2026, 11, 21).at(5, 29, 33, 0);
        let tickets = tickets(&reply).unwrap();
        let printed: Vec<_> = tickets.printed.iter().map(|p| (p.source, p.times, p.text.as_str())).collect();
        assert_eq!(
            printed,
            [
                (
                    source("203.0.113.7"),
                    Some(Times { since, seconds: Some(600) }),
                    "203.0.113.7 2026-11-21 05:29:33 + 600 = 2026-11-21 05:39:33"
                ),
                (
                    source("203.0.113.128/25"),
                    Some(Times { since, seconds: None }),
                    "203.0.113.128/25 2026-11-21 05:29:33 + -1 = 9999-12-31 23:59:59"
                ),
                (source("2001:db8::7"), None, "2001:db8::7"),
            ]
        );
        assert_eq!(tickets.others, 2);
    }

    #[test]
    fn times_that_are_not_understood_are_an_error_and_not_a_guess() {
        for bad in
            ["203.0.113.7 \tyesterday", "203.0.113.7 \t2026-13-01 00:00:00 + 1 = x", "203.0.113.7 \t2026-11-21 05:29:33 + x = y"]
        {
            assert!(tickets(&Value::List(vec![text(bad)])).is_err(), "{bad}");
        }
    }

    #[test]
    fn exceptions_are_errors_that_name_the_class() {
        let reply = b"\x80\x05K\x01\x8c\x13fail2ban.exceptions\x94\x8c\x14UnknownJailException\x94\x93\x94\x8c\x06nojail\x94\x85\x94R\x94\x86\x94.";
        let error = answer(reply).unwrap_err();
        assert_eq!(error.to_string(), "fail2ban answered UnknownJailException: nojail");
        // pickle.dumps("ERROR: ..."): the server could not read the request
        assert!(matches!(answer(b"\x80\x04\x8c\x0aERROR: bad\x94."), Err(ReplyError::Refused { .. })));
    }

    proptest! {
        #[test]
        fn no_reply_makes_the_reader_panic(entries in proptest::collection::vec("\\PC{0,60}|[0-9a-f:./]{1,20} \\t[0-9 :=+-]{0,50}", 0..10)) {
            let value = Value::List(entries.into_iter().map(Value::Text).collect());
            let _ = (tickets(&value), super::entries(&value), jails(&value), counts(&value), flag(&value), count(&value));
        }
    }
}
