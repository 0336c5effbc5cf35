//! fail2ban: jails, tickets and ignoreip, as its socket tells them; which tickets keep a source out. The kernel rules that
//! its actions make are netfilter's part and are judged there. Talks to nobody: the agent does.

mod no_plan;
pub mod pickle;
mod plan;
pub mod protocol;
mod step;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::address::Source;
use crate::host::block::{Alternative, Block, Lift};
use crate::host::step::Step as AnyStep;
use crate::host::{HostState, Part};
use crate::reply;
use crate::verdict::cause::{Cause, Finding};
use crate::verdict::owner::Owner;
use crate::verdict::{Connection, Evidence, Stage};

pub use no_plan::NoPlan;
pub use plan::{plan_ban, plan_ignore, plan_unban_in, plan_unignore, require_jail};
pub use step::{Step, Through};

/// What was read of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// As fail2ban says it: `1.0.2`.
    pub version: String,
    /// All jails, sorted by name.
    pub jails: Vec<Jail>,
    /// What a person should know about this reading.
    pub notes: Vec<String>,
}

/// A jail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jail {
    /// Its name.
    pub name: String,
    /// The tickets that concern the question, sorted by source, one a source.
    pub tickets: Vec<Ticket>,
    /// How many tickets are about something else than an address (user names, session ids); 0 where only a part was read.
    pub others: usize,
    /// ignoreip as fail2ban prints it, sorted: addresses, ranges and DNS names.
    pub ignore: Vec<String>,
    /// ignoreself: whether the host's own addresses are ignored.
    pub ignore_self: bool,
}

/// A ban: of an address, or of a range as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Whom.
    pub source: Source,
    /// Since when, where it was read.
    pub since: Option<Timestamp>,
    /// Until when; `None` is for ever, or not read.
    pub until: Option<Timestamp>,
    /// As fail2ban prints it.
    pub text: String,
}

impl Ticket {
    /// One that fail2ban has not made yet: its times begin when it is made.
    pub fn new(source: Source) -> Self {
        Self { source, since: None, until: None, text: source.short() }
    }
}

impl State {
    /// The jail of this name.
    pub fn jail(&self, name: &str) -> Option<&Jail> {
        self.jails.iter().find(|jail| jail.name == name)
    }

    /// Version and one line for `status`.
    pub fn describe(&self) -> (Option<String>, String) {
        let names: Vec<&str> = self.jails.iter().map(|jail| jail.name.as_str()).collect();
        let detail = if names.is_empty() { "no jails".to_owned() } else { format!("jails: {}", names.join(", ")) };
        (Some(self.version.clone()), detail)
    }
}

impl Jail {
    /// The ticket of exactly this source.
    pub fn ticket(&self, source: Source) -> Option<&Ticket> {
        self.tickets.iter().find(|ticket| ticket.source == source)
    }
}

/// Every ticket, in any jail, of this source or of a range that shares addresses with it. A ticket says that fail2ban wants the
/// source kept out; whether its action really does is for the kernel to say.
pub fn blocks(host: &HostState, connection: &Connection) -> Vec<Block> {
    let Part::Present(state) = &host.fail2ban else { return Vec::new() };
    let mut blocks = Vec::new();
    for jail in &state.jails {
        for ticket in jail.tickets.iter().filter(|ticket| ticket.source.overlaps(connection.source)) {
            blocks.push(block(&jail.name, ticket, connection.source));
        }
    }
    blocks
}

fn block(jail: &str, ticket: &Ticket, asked: Source) -> Block {
    let within = asked.contains(ticket.source);
    let fix = if within {
        format!("sshfix ctl unban {}", asked.short())
    } else {
        // Unbanning the range would let in more than was asked for.
        format!(
            "the ban of {range} as a whole stays; `sshfix ctl unban {range}` lifts it for every address in it",
            range = ticket.source.short()
        )
    };
    let unban = || {
        AnyStep::Fail2ban(Step::Ticket {
            jail: jail.to_owned(),
            source: ticket.source,
            before: Some(ticket.clone()),
            after: None,
            leftovers: Vec::new(),
            through: Vec::new(),
        })
    };
    Block {
        finding: Finding {
            cause: Cause::Fail2banBan,
            blocking: true,
            stage: Stage::Netfilter,
            owner: Owner::jail(jail),
            since: ticket.since,
            until: ticket.until,
            evidence: vec![Evidence::new(Owner::jail(jail).to_string(), ticket.text.clone())],
            fix: fix.into(),
        },
        lift: Lift::Steps(if within { vec![unban()] } else { Vec::new() }),
        managed: Vec::new(),
        alternatives: if within { Vec::new() } else { vec![Alternative::range(asked, vec![unban()], vec![ticket.source])] },
    }
}

/// The tickets, by jail, that were made between these moments, of addresses that were kept out then: whoever tried again and again to
/// come in past that is banned for it. Tickets without a time are left, and so are those of whole ranges: fail2ban makes none by itself.
pub fn earned(state: &State, kept_out: &[Source], from: Timestamp, until: Timestamp) -> Vec<(String, Source)> {
    // fail2ban's times have whole seconds.
    let within = |since: Timestamp| since.as_second() >= from.as_second() && since <= until;
    let earned = |ticket: &&Ticket| {
        ticket.source.single().is_some()
            && ticket.since.is_some_and(within)
            && kept_out.iter().any(|source| source.contains(ticket.source))
    };
    let of = |jail: &Jail| -> Vec<(String, Source)> {
        jail.tickets.iter().filter(earned).map(|ticket| (jail.name.clone(), ticket.source)).collect()
    };
    state.jails.iter().flat_map(of).collect()
}

/// All tickets that were read, for `banned`.
pub fn bans(host: &HostState) -> Vec<reply::Ban> {
    let Part::Present(state) = &host.fail2ban else { return Vec::new() };
    state.jails.iter().flat_map(jail_bans).collect()
}

fn jail_bans(jail: &Jail) -> impl Iterator<Item = reply::Ban> {
    let by = Owner::jail(&jail.name).to_string();
    jail.tickets.iter().map(move |ticket| reply::Ban {
        source: ticket.source,
        by: by.clone(),
        since: ticket.since,
        until: ticket.until,
    })
}

/// A ticket, by its jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Banned<'h> {
    /// Whom.
    pub source: Source,
    /// By which jail.
    pub jail: &'h str,
}

/// The tickets of the second host that the first one does not have.
pub fn new_tickets<'h>(before: &HostState, after: &'h HostState) -> impl Iterator<Item = Banned<'h>> {
    let had: Vec<(Source, String)> = tickets(before).map(|ticket| (ticket.source, ticket.jail.to_owned())).collect();
    tickets(after).filter(move |new| !had.iter().any(|(source, jail)| *source == new.source && jail == new.jail))
}

fn tickets(host: &HostState) -> impl Iterator<Item = Banned<'_>> {
    let jails = host.fail2ban.present().into_iter().flat_map(|state| &state.jails);
    jails.flat_map(|jail| jail.tickets.iter().map(|ticket| Banned { source: ticket.source, jail: &jail.name }))
}

/// The document of `fail2ban jails`.
pub fn jails(host: &HostState) -> Result<reply::Jails, NoPlan> {
    let state = plan::present(host)?;
    let mut notes = state.notes.clone();
    for jail in state.jails.iter().filter(|jail| jail.others > 0) {
        notes.push(format!("jail {} also bans {} that are no addresses; they are not listed", jail.name, jail.others));
    }
    let jails = state
        .jails
        .iter()
        .map(|jail| reply::Jail {
            name: jail.name.clone(),
            banned: jail_bans(jail).collect(),
            others: 0,
            ignore: jail.ignore.clone(),
        })
        .collect();
    Ok(reply::Jails { schema: reply::JailsSchema::V1, version: Some(state.version.clone()), jails, notes })
}

#[cfg(test)]
mod tests;
