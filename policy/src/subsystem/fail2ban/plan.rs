//! Which steps an operation on fail2ban needs, on the state that was read. Names what it cannot do; does nothing.

use super::protocol::lenient;
use super::{Jail, NoPlan, State, Step, Ticket};
use crate::address::Source;
use crate::host::step::Step as AnyStep;
use crate::host::{HostState, Part};

/// What was read of fail2ban, or why nothing was.
pub(super) fn present(host: &HostState) -> Result<&State, NoPlan> {
    match &host.fail2ban {
        Part::Present(state) => Ok(state),
        Part::Absent(why) => Err(NoPlan::Absent(why.clone())),
        Part::Unreadable(why) => Err(NoPlan::Unread(why.clone())),
    }
}

/// The jail of this name; the error lists those there are.
pub fn require_jail<'a>(host: &'a HostState, name: &str) -> Result<&'a Jail, NoPlan> {
    let state = present(host)?;
    state.jail(name).ok_or_else(|| {
        let jails = state.jails.iter().map(|jail| jail.name.clone()).collect();
        NoPlan::NoJail { name: name.to_owned(), jails }
    })
}

/// One jail, or all.
fn chosen<'a>(host: &'a HostState, jail: Option<&str>) -> Result<Vec<&'a Jail>, NoPlan> {
    match jail {
        Some(name) => Ok(vec![require_jail(host, name)?]),
        None => Ok(present(host)?.jails.iter().collect()),
    }
}

/// Bans a source in a jail; nothing where it is banned there already, by itself or with a range.
pub fn plan_ban(host: &HostState, source: Source, jail: &str) -> Result<Vec<AnyStep>, NoPlan> {
    let jail = require_jail(host, jail)?;
    if jail.tickets.iter().any(|ticket| ticket.source.contains(source)) {
        return Ok(Vec::new());
    }
    Ok(vec![AnyStep::Fail2ban(Step::Ticket {
        jail: jail.name.clone(),
        source,
        before: None,
        after: Some(Ticket::new(source)),
        leftovers: Vec::new(),
        through: Vec::new(),
    })])
}

/// Takes the tickets of a source, and of addresses and ranges inside it, out of one jail.
pub fn plan_unban_in(host: &HostState, source: Source, jail: &str) -> Result<Vec<AnyStep>, NoPlan> {
    let jail = require_jail(host, jail)?;
    let within = jail.tickets.iter().filter(|ticket| source.contains(ticket.source));
    Ok(within
        .map(|ticket| {
            AnyStep::Fail2ban(Step::Ticket {
                jail: jail.name.clone(),
                source: ticket.source,
                before: Some(ticket.clone()),
                after: None,
                leftovers: Vec::new(),
                through: Vec::new(),
            })
        })
        .collect())
}

/// Makes one jail, or all, ignore a source; nothing where an entry covers it already.
pub fn plan_ignore(host: &HostState, source: Source, jail: Option<&str>) -> Result<Vec<AnyStep>, NoPlan> {
    let covered = |jail: &&Jail| jail.ignore.iter().filter_map(|entry| lenient(entry)).any(|entry| entry.contains(source));
    Ok(chosen(host, jail)?
        .into_iter()
        .filter(|jail| !covered(jail))
        .map(|jail| {
            AnyStep::Fail2ban(Step::Ignore { jail: jail.name.clone(), entry: source.short(), before: false, after: true })
        })
        .collect())
}

/// Takes the entries that name exactly this source out of ignoreip, in one jail or all. Wider ranges and DNS names stay.
pub fn plan_unignore(host: &HostState, source: Source, jail: Option<&str>) -> Result<Vec<AnyStep>, NoPlan> {
    let mut steps = Vec::new();
    for jail in chosen(host, jail)? {
        for entry in jail.ignore.iter().filter(|entry| lenient(entry) == Some(source)) {
            let step = Step::Ignore { jail: jail.name.clone(), entry: entry.clone(), before: true, after: false };
            steps.push(AnyStep::Fail2ban(step));
        }
    }
    Ok(steps)
}
