//! The steps of `hosts allow`, `hosts deny` and `hosts remove`. Nothing to do is no step; what is asked for is proven by
//! evaluating the edited files. Must not write into a file what it did not make itself out of types.

use std::collections::BTreeSet;

use super::evaluate::{Client, Place, Port, Request, Tables, daemons_match};
use super::lift::{insert, opens_others, rule_at, set_lines, steps, without_clients};
use super::pattern::{self};
use super::{Content, NoPlan, SSHD, State, Which};
use crate::address::Source;
use crate::host::lease::End;
use crate::host::step::Step;
use crate::host::{HostState, Part};
use crate::packet::Tri;
use crate::verdict::Verdict;

/// Lets a source in by a line of hosts.allow. No step where hosts.allow lets it in already.
pub fn plan_allow(host: &HostState, source: Source, daemon: Option<&str>) -> Result<Vec<Step>, NoPlan> {
    let (state, daemon) = (present(host)?, daemon_name(daemon)?);
    let request = Request::new(daemon, Port::Untold, source);
    let trace = state.trace(&request);
    let decided_in = trace.decider().and_then(|hit| hit.place).map(|place| place.which);
    if trace.verdict() == Verdict::Accept && decided_in == Some(Which::Allow) {
        return Ok(Vec::new());
    }
    let mut edited = state.clone();
    insert(&mut edited, Which::Allow, &format!("{daemon}: {}\n", pattern::pattern_for(source)), &request)?;
    proven(&edited, &request, Verdict::Accept)?;
    if opens_others(state, &edited, &request, &[source]) {
        return Err(NoPlan::OpensOthers);
    }
    steps(state, &edited, &[source])
}

/// Lets a source in by a line of hosts.allow below a comment line, which is the mark that the line is found by again.
pub fn plan_lease(host: &HostState, source: Source, mark: &str) -> Result<Vec<Step>, NoPlan> {
    let state = present(host)?;
    let request = Request::new(SSHD, Port::Untold, source);
    let mut edited = state.clone();
    insert(&mut edited, Which::Allow, &format!("{}{}", mark_line(mark), lease_line(source)), &request)?;
    proven(&edited, &request, Verdict::Accept)?;
    if opens_others(state, &edited, &request, &[source]) {
        return Err(NoPlan::OpensOthers);
    }
    steps(state, &edited, &[source])
}

/// Whether there is no hosts.allow, so that one that is made goes again.
pub fn has_no_allow(host: &HostState) -> bool {
    host.hosts_access.present().is_some_and(|state| matches!(state.allow.content, Content::Missing))
}

fn mark_line(mark: &str) -> String {
    format!("# {mark}\n")
}

fn lease_line(source: Source) -> String {
    format!("{SSHD}: {}\n", pattern::pattern_for(source))
}

/// Takes the line of a lease out again, with its mark, wherever they stand by now. A line below the mark that is another was edited
/// by somebody and is left.
pub fn plan_unlease(host: &HostState, source: Source, mark: &str, created: bool, end: &mut End) {
    let state = match &host.hosts_access {
        Part::Present(state) => state,
        Part::Absent(_) => return,
        Part::Unreadable(why) => return end.unread.push(format!("hosts.allow could not be read: {why}")),
    };
    let path = &state.allow.path;
    if let Content::Unreadable(why) = &state.allow.content {
        return end.unread.push(format!("{path} could not be read: {why}"));
    }
    let (mark, line) = (mark_line(mark).into_bytes(), lease_line(source).into_bytes());
    let mut left = Vec::new();
    let mut edited = state.clone();
    let cut = set_lines(&mut edited, Which::Allow, |document| {
        let mut kept = Vec::new();
        let mut lines = document.lines.iter().peekable();
        while let Some(one) = lines.next() {
            if one.raw != mark {
                kept.extend(&one.raw);
            } else if lines.next_if(|next| next.raw == line).is_none() {
                left.push(format!("{path} line {}: what follows it was edited and is left", one.number));
                kept.extend(&one.raw);
            }
        }
        kept
    });
    end.left.append(&mut left);
    if created && edited.allow.content.bytes().is_some_and(<[u8]>::is_empty) {
        edited.allow.content = Content::Missing;
    }
    match cut.and_then(|()| steps(state, &edited, &[source])) {
        Ok(mut steps) => end.steps.append(&mut steps),
        Err(why) => end.left.push(why.to_string()),
    }
}

/// Keeps a source out by a line of hosts.deny; and, where hosts.allow would let it in first, by dropping its name there or by a
/// line with the `deny` option before the rule that does. No step where it is kept out already.
pub fn plan_deny(host: &HostState, source: Source, daemon: Option<&str>) -> Result<Vec<Step>, NoPlan> {
    let (state, daemon) = (present(host)?, daemon_name(daemon)?);
    let request = Request::new(daemon, Port::Untold, source);
    if state.trace(&request).verdict() == Verdict::Refuse {
        return Ok(Vec::new());
    }
    let pattern = pattern::pattern_for(source);
    let mut edited = state.clone();
    let dropped = named_exactly(&state.tables(), source, daemon);
    set_lines(&mut edited, Which::Allow, |document| without_clients(document, Which::Allow, &dropped))?;
    insert(&mut edited, Which::Deny, &format!("{daemon}: {pattern}\n"), &request)?;
    if edited.trace(&request).verdict() != Verdict::Refuse {
        // A wider rule of hosts.allow decides first.
        edited = state.clone();
        insert(&mut edited, Which::Allow, &format!("{daemon}: {pattern} : deny\n"), &request)?;
    }
    proven(&edited, &request, Verdict::Refuse)?;
    steps(state, &edited, &[source])
}

/// Takes the name of exactly this source out of the rules of both files that are about the daemon; a rule that names nobody
/// else goes as a whole. No step where no rule names it.
pub fn plan_remove(host: &HostState, source: Source, daemon: Option<&str>) -> Result<Vec<Step>, NoPlan> {
    let (state, daemon) = (present(host)?, daemon_name(daemon)?);
    let dropped = named_exactly(&state.tables(), source, daemon);
    let mut edited = state.clone();
    for which in [Which::Allow, Which::Deny] {
        set_lines(&mut edited, which, |document| without_clients(document, which, &dropped))?;
    }
    steps(state, &edited, &[source])
}

fn present(host: &HostState) -> Result<&State, NoPlan> {
    match &host.hosts_access {
        Part::Present(state) => Ok(state),
        Part::Absent(why) | Part::Unreadable(why) => Err(NoPlan::NotRead(why.clone())),
    }
}

fn proven(edited: &State, request: &Request<'_>, wanted: Verdict) -> Result<(), NoPlan> {
    let trace = edited.trace(request);
    if trace.verdict() == wanted {
        return Ok(());
    }
    Err(NoPlan::NotSure(trace.unclear.into_iter().collect()))
}

/// The clients that name exactly this source, in rules that are about the daemon.
fn named_exactly(tables: &Tables, source: Source, daemon: &str) -> BTreeSet<Client> {
    let mut named = BTreeSet::new();
    for which in [Which::Allow, Which::Deny] {
        let lines = tables.get(which).map_or(0, |document| document.lines.len());
        for place in (0..lines).map(|line| Place { which, line }) {
            let Some(rule) = rule_at(tables, place) else { continue };
            if daemons_match(rule, daemon, Port::Untold) != Tri::Yes {
                continue;
            }
            let clients = rule.clients();
            let clients = clients.iter().take_while(|token| !token.is_except()).enumerate();
            named.extend(
                clients.filter(|(_, token)| pattern::named_source(token.text) == Some(source)).map(|(at, _)| (place, at)),
            );
        }
    }
    named
}

/// A process name that means itself in a daemon list: no wildcard, no keyword, no number, nothing that ends the list or line.
fn daemon_name(daemon: Option<&str>) -> Result<&str, NoPlan> {
    let Some(name) = daemon else { return Ok(SSHD) };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'+' | b'.');
    let keyword = ["ALL", "EXCEPT", "KNOWN", "UNKNOWN", "LOCAL", "PARANOID"].iter().any(|word| name.eq_ignore_ascii_case(word));
    let fits = name.len() <= 64
        && name.bytes().all(plain)
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && !name.ends_with('.')
        && !keyword;
    if fits {
        return Ok(name);
    }
    Err(NoPlan::DaemonName)
}
