//! The tickets of a jail that concern a question. fail2ban has no cheap way to ask for one address: `banned A` compares A with
//! every ticket (50 ms for 100 000), each further prefix costs as much again, and `banip --with-time` 700 ms. So small jails
//! are read whole, and of large ones the list is kept for as long as fail2ban's own counts say that no ticket came or went.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use sshfix_policy::host::Question;
use sshfix_policy::subsystem::fail2ban::Ticket;
use sshfix_policy::subsystem::fail2ban::protocol::{self, Command, Counts, Printed, Tickets};

use super::socket::{Conversation, SocketError};
use super::{OBSERVE, OBSERVE_AT_MOST};

/// Up to this many tickets a jail is read whole each time, with times: 15 ms.
const SMALL: u64 = 2_000;
/// Above this many, times are not read: it would take fail2ban longer than the whole question may.
const TIMED_UP_TO: u64 = 250_000;
/// What one ticket adds to the time an observation may take: twice what a busy fail2ban 1.0.2 was measured to need.
const PER_TICKET: Duration = Duration::from_micros(20);
/// A kept list is read again after this time, whatever the counts say: they do not tell that a ban was prolonged.
const KEPT_FOR: Duration = Duration::from_mins(1);

/// The lists of the large jails.
#[derive(Default)]
pub struct Cache {
    jails: BTreeMap<String, Kept>,
}

/// A list and what it was read under.
struct Kept {
    counts: Counts,
    server: Option<Server>,
    at: Instant,
    timed: bool,
    tickets: Tickets,
}

/// Tells one server process from the next: each makes its socket anew. Inode, and time of its making.
type Server = (u64, i64, i64);

/// What was read of one jail.
pub struct Read {
    /// Those that concern the question, sorted by source.
    pub tickets: Vec<Ticket>,
    /// How many are about something else than an address.
    pub others: usize,
    /// What a person should know about it.
    pub note: Option<String>,
}

impl Cache {
    /// Forgets jails that are gone.
    pub fn keep_only(&mut self, names: &[String]) {
        self.jails.retain(|name, _| names.contains(name));
    }

    /// The tickets of a jail that concern the question.
    pub fn tickets(
        &mut self,
        talk: &mut Conversation,
        socket: &Path,
        jail: &str,
        question: &Question,
    ) -> Result<Read, SocketError> {
        let counts = talk.ask(&Command::Counts(jail), protocol::counts)?;
        let many = u32::try_from(counts.current).unwrap_or(u32::MAX);
        talk.extend(OBSERVE.saturating_add(PER_TICKET.saturating_mul(many)).min(OBSERVE_AT_MOST));
        if counts.current <= SMALL {
            self.jails.remove(jail);
            let tickets = talk.ask(&Command::BannedWithTime(jail), protocol::tickets)?;
            return Ok(concerning(&tickets, question));
        }
        let server = server(socket);
        let fresh =
            |kept: &Kept| kept.counts == counts && kept.server == server && server.is_some() && kept.at.elapsed() < KEPT_FOR;
        let mut kept = match self.jails.remove(jail).filter(fresh) {
            Some(kept) => kept,
            None => Kept {
                counts,
                server,
                at: Instant::now(),
                timed: false,
                tickets: talk.ask(&Command::Banned(jail), protocol::tickets)?,
            },
        };
        let mut read = concerning(&kept.tickets, question);
        if !read.tickets.is_empty() && !kept.timed {
            if counts.current <= TIMED_UP_TO {
                kept.tickets = talk.ask(&Command::BannedWithTime(jail), protocol::tickets)?;
                kept.timed = true;
                kept.at = Instant::now();
                read = concerning(&kept.tickets, question);
            } else {
                let bans = counts.current;
                read.note = Some(format!("jail {jail} holds {bans} bans, too many to ask fail2ban for their times"));
            }
        }
        // Kept only if nothing came or went while it was read.
        if talk.ask(&Command::Counts(jail), protocol::counts)? == kept.counts {
            self.jails.insert(jail.to_owned(), kept);
        }
        Ok(read)
    }
}

fn server(socket: &Path) -> Option<Server> {
    let file = socket.metadata().ok()?;
    Some((file.ino(), file.ctime(), file.ctime_nsec()))
}

/// Those of the asked sources, or all of them for a question about everybody; one a source.
fn concerning(tickets: &Tickets, question: &Question) -> Read {
    let zone = TimeZone::system();
    let mut found: Vec<Ticket> = tickets
        .printed
        .iter()
        .filter(|printed| question.everybody || question.sources.iter().any(|source| source.overlaps(printed.source)))
        .map(|printed| ticket(printed, &zone))
        .collect();
    found.sort_by_key(|ticket| ticket.source);
    found.dedup_by_key(|ticket| ticket.source);
    Read { tickets: found, others: tickets.others, note: None }
}

/// fail2ban prints the host's local time without a zone; in the hour that a clock set back repeats, the first is taken.
fn ticket(printed: &Printed, zone: &TimeZone) -> Ticket {
    let since = printed.times.and_then(|times| zone.to_ambiguous_timestamp(times.since).compatible().ok());
    let seconds = printed.times.and_then(|times| times.seconds);
    let until = since.zip(seconds).and_then(|(since, seconds)| since.checked_add(jiff::SignedDuration::from_secs(seconds)).ok());
    Ticket { source: printed.source, since, until, text: printed.text.clone() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use sshfix_policy::subsystem::fail2ban::protocol::Times;

    use super::*;

    fn ticket_at(since: &str, seconds: Option<i64>) -> Ticket {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let times = Some(Times { since: since.parse().unwrap(), seconds });
        ticket(&Printed { source: "203.0.113.7".parse().unwrap(), times, text: String::new() }, &berlin)
    }

    #[test]
    fn local_times_become_instants_in_winter_in_summer_and_over_a_change_of_the_clock() {
        for (since, seconds, want) in [
            ("2026-01-10 12:00:00", Some(600), ("2026-01-10T11:00:00Z", Some("2026-01-10T11:10:00Z"))),
            ("2026-07-10 12:00:00", Some(600), ("2026-07-10T10:00:00Z", Some("2026-07-10T10:10:00Z"))),
            // 01:30 summer time, two hours later it is 02:30 winter time
            ("2026-10-25 01:30:00", Some(7200), ("2026-10-24T23:30:00Z", Some("2026-10-25T01:30:00Z"))),
            // This hour happens twice: the first one.
            ("2026-10-25 02:30:00", Some(60), ("2026-10-25T00:30:00Z", Some("2026-10-25T00:31:00Z"))),
            ("2026-01-10 12:00:00", None, ("2026-01-10T11:00:00Z", None)),
            // Longer than time goes: no end that can be told.
            ("2026-01-10 12:00:00", Some(i64::MAX), ("2026-01-10T11:00:00Z", None)),
        ] {
            let ticket = ticket_at(since, seconds);
            assert_eq!(ticket.since.unwrap().to_string(), want.0);
            assert_eq!(ticket.until.map(|until| until.to_string()).as_deref(), want.1);
        }
    }
}
