//! `audit ...` on the command line, and the operation it means.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;
use clap::{Args, Subcommand};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};
use sshfix_policy::address::Source;
use sshfix_policy::request::audit::{Filter, MOST, Outcome};
use sshfix_policy::request::{Action, Operation, Records};
use sshfix_policy::text::shell;

use super::parse::parse_duration;

/// `audit ...`
#[derive(Debug, Subcommand)]
pub enum AuditVerb {
    /// Show who asked what, from where, and what became of it; newest first
    Show(FilterArgs),
    /// Check the chain of all records: finds those that were altered, removed, moved or cut off (exit status 1)
    Verify {
        /// A signed head that was kept on another machine: the output of `audit checkpoint`, also with --json. Only this finds
        /// what an attacker with root on this host forged with its key
        #[arg(long, value_name = "FILE", value_parser = read_checkpoint)]
        checkpoint: Option<String>,
    },
    /// Sign the head of the chain and print it: keep it on another machine, for `audit verify --checkpoint`
    Checkpoint,
}

/// Which records.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Since a time (2026-11-21T06:30:00Z, 2026-11-21 06:30, 2026-11-21), or how long ago (2h, 7d)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Until this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
    /// Signed by this principal
    #[arg(long)]
    principal: Option<String>,
    /// With this action, in the words of a grant: unban, hosts-allow
    #[arg(long, alias = "operation", value_parser = parse_action)]
    action: Option<Action>,
    /// About this change
    #[arg(long, value_name = "ID")]
    change: Option<String>,
    /// With this outcome
    #[arg(long, value_parser = outcome_parser())]
    outcome: Option<Outcome>,
    /// About this address or range, or sent from it
    #[arg(long, value_name = "ADDRESS-or-CIDR")]
    address: Option<Source>,
    /// Maximum number of records
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)), default_value_t = 50)]
    limit: u32,
}

impl AuditVerb {
    /// What it asks the agent.
    pub fn operation(self) -> Operation {
        match self {
            AuditVerb::Show(FilterArgs { since, until, principal, action, change, outcome, address, limit }) => {
                let limit = Some(limit);
                Operation::Records(Records::AuditShow {
                    filter: Filter { since, until, principal, action, change, outcome, address, limit },
                })
            }
            AuditVerb::Verify { checkpoint } => Operation::Records(Records::AuditVerify { checkpoint }),
            AuditVerb::Checkpoint => Operation::Records(Records::AuditCheckpoint),
        }
    }
}

/// The command line that asks for these records.
pub(super) fn show_line(filter: &Filter) -> String {
    let Filter { since, until, principal, action, change, outcome, address, limit } = filter;
    let mut line = "audit show".to_owned();
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            line.extend([" --", name, " ", &shell::word(&value)]);
        }
    };
    option("since", since.map(|time| time.to_string()));
    option("until", until.map(|time| time.to_string()));
    option("principal", principal.clone());
    option("action", action.map(|action| action.to_string()));
    option("change", change.clone());
    option("outcome", outcome.map(|outcome| outcome.name().to_owned()));
    option("address", address.map(Source::short));
    option("limit", limit.map(|limit| limit.to_string()));
    line
}

/// A word as serde reads it.
fn word<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, String> {
    let text: StrDeserializer<'de, ValueError> = text.into_deserializer();
    T::deserialize(text).map_err(|error| error.to_string())
}

fn parse_action(text: &str) -> Result<Action, String> {
    word(text)
}

fn outcome_parser() -> impl clap::builder::TypedValueParser<Value = Outcome> {
    let all = [
        Outcome::Answered,
        Outcome::Refused,
        Outcome::NotApplied,
        Outcome::Unchanged,
        Outcome::Failed,
        Outcome::Confirmed,
        Outcome::Pending,
        Outcome::RolledBack,
        Outcome::Stuck,
        Outcome::Interrupted,
    ];
    PossibleValuesParser::new(all.map(Outcome::name)).try_map(|text| word(&text))
}

/// A point in time, or how long ago; without a zone it is the reader's own.
fn parse_time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    if let Ok(time) = text.parse::<DateTime>() {
        return time.to_zoned_datetime(TimeZone::system()).map(|zoned| zoned.timestamp()).map_err(|error| error.to_string());
    }
    let wrong =
        || format!("`{text}` is not a time; use 2026-11-21T06:30:00Z, 2026-11-21 06:30, 2026-11-21, or 2h for two hours ago");
    let ago = SignedDuration::try_from(parse_duration(text).map_err(|_| wrong())?).map_err(|_| wrong())?;
    Timestamp::now().checked_sub(ago).map_err(|_| wrong())
}

/// The text of a checkpoint from a file that holds it as printed, or as a JSON document.
fn read_checkpoint(file: &str) -> Result<String, String> {
    const LIMIT: u64 = 16 * 1024;
    let path = PathBuf::from(file);
    let length = std::fs::metadata(&path).map_err(|error| error.to_string())?.len();
    if length > LIMIT {
        return Err(format!("{length} bytes are too long for a checkpoint"));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
    if text.trim_start().starts_with('{') {
        let document: sshfix_policy::reply::audit::CheckpointDocument = serde_json::from_str(&text)
            .map_err(|error| format!("this is not a document of `audit checkpoint --json`: {error}"))?;
        return Ok(document.text);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(parse_time("2026-11-21T06:30:00Z"), Ok("2026-11-21T06:30:00Z".parse().unwrap()));
        assert!(parse_time("2026-11-21 06:30").is_ok() && parse_time("2026-11-21").is_ok());
        let two_hours_ago = || Timestamp::now() - SignedDuration::from_hours(2);
        let (before, read, after) = (two_hours_ago(), parse_time("2h").unwrap(), two_hours_ago());
        assert!(before <= read && read <= after, "{read}");
        for text in ["", "yesterday", "2026-13-01", "99999999999d"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
