//! The trace of the `hosts_access` stage: the rules of hosts.allow, then hosts.deny, as libwrap considers them for this connection, and
//! why each matched or did not. Long runs of rules that do not match are counted, not listed.

use std::collections::BTreeSet;

use super::document::Kind;
use super::evaluate::{Place, Port, Request, daemons_match};
use super::options::Outcome;
use super::{Content, Libwrap, SSHD, State, Which, quoted};
use crate::host::{HostState, Needs};
use crate::packet::Tri;
use crate::text::quoted::Text;
use crate::verdict::Connection;
use crate::verdict::trace::TraceLine;

/// Rules of one file that do not match and are listed; a run of `DenyHosts` holds thousands.
const MOST_MISSES: usize = 20;

/// Every rule that libwrap comes to.
pub fn trace(host: &HostState, connection: &Connection, needs: &mut Needs) -> Vec<TraceLine> {
    let Some(state) = host.hosts_access.present() else { return Vec::new() };
    let obeyed = match &state.libwrap {
        Libwrap::Linked(how) => TraceLine::new("sshd", how.clone(), "reads hosts.allow and hosts.deny"),
        Libwrap::NotLinked(how) => return vec![TraceLine::new("sshd", how.clone(), "does not read hosts.allow and hosts.deny")],
        Libwrap::Unknown(why) => TraceLine::new("sshd", why.clone(), "may read hosts.allow and hosts.deny"),
    };
    let mut lines = vec![obeyed];
    let tables = state.tables();
    let request = Request::new(SSHD, Port::Is(connection.port), connection.source);
    let mut found = tables.trace(&request, &state.facts, &BTreeSet::new(), &BTreeSet::new());
    needs.append(&mut found.needs);
    for which in [Which::Allow, Which::Deny] {
        let file = state.file(which);
        match &file.content {
            Content::Missing => lines.push(TraceLine::new(file.path.clone(), "no such file", "the same as an empty one")),
            Content::Unreadable(why) => {
                lines.push(TraceLine::new(file.path.clone(), why.clone(), "unknown: it could not be read"));
            }
            Content::Bytes(_) => {}
        }
        let mut misses = Misses { state, which, listed: 0, run: 0, last: 0 };
        for (index, line) in tables.get(which).map(|document| document.lines.as_slice()).unwrap_or_default().iter().enumerate() {
            let place = Place { which, line: index };
            let hit = found.hits.iter().find(|hit| hit.place == Some(place));
            let said = |effect: Text| {
                let quoted = state.evidence(&tables, place);
                quoted.map(|quoted| TraceLine::new(quoted.source, quoted.text, effect))
            };
            match (&line.kind, hit) {
                (Kind::Skipped | Kind::NeverRead, _) => {}
                (Kind::Unterminated | Kind::TooLong, None) => {
                    misses.flush(&mut lines);
                    lines.extend(said("libwrap stops reading this file here".into()));
                    break;
                }
                (_, Some(hit)) => {
                    misses.flush(&mut lines);
                    let certain = hit.matches == Tri::Yes;
                    if let Some(mut line) = said(effect(&hit.outcome)) {
                        line.decides = certain;
                        if !certain {
                            line.depends = found.unclear.iter().map(|what| quoted(what)).collect();
                            if line.depends.is_empty() {
                                line.depends.push("which address of the range it is, or a name that was not looked up".into());
                            }
                        }
                        lines.push(line);
                    }
                    if certain {
                        return lines;
                    }
                }
                (Kind::Rule(rule), None) => {
                    let ours = daemons_match(rule, SSHD, Port::Is(connection.port)) != Tri::No;
                    let why = if ours {
                        format!("does not match: its clients do not hold {}", connection.source.short())
                    } else {
                        format!("does not match: it is not about {SSHD}")
                    };
                    if misses.list(line.number) {
                        lines.extend(said(why.into()));
                    }
                }
            }
        }
        misses.flush(&mut lines);
    }
    lines.push(TraceLine::new("libwrap", "no rule matches for certain", "lets in what no rule refuses"));
    lines
}

/// A run of rules that do not match.
struct Misses<'s> {
    state: &'s State,
    which: Which,
    listed: usize,
    run: usize,
    last: usize,
}

impl Misses<'_> {
    /// Whether this one is still listed; else it is counted.
    fn list(&mut self, number: usize) -> bool {
        if self.listed < MOST_MISSES {
            self.listed += 1;
            return true;
        }
        self.run += 1;
        self.last = number;
        false
    }

    /// Says how many were counted since the last line.
    fn flush(&mut self, lines: &mut Vec<TraceLine>) {
        if self.run > 0 {
            let path = &self.state.file(self.which).path;
            let text = format!("{} more rules, up to line {}", self.run, self.last);
            lines.push(TraceLine::new(path.clone(), text, "do not match"));
            self.run = 0;
        }
    }
}

fn effect(outcome: &Outcome) -> Text {
    match outcome {
        Outcome::Grant => "lets it in".into(),
        Outcome::Deny => "refuses it".into(),
        Outcome::Mistake(mistake) => Text::from("refuses it, because its options have a mistake: ") + quoted(mistake),
        Outcome::Twist => "runs another program instead of sshd".into(),
        Outcome::Untold(what) => Text::from("unknown: it depends on ") + quoted(what),
    }
}
