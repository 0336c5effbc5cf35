//! The two files as documents for people: their rules, and whom they keep out by name.

use super::document::Kind;
use super::evaluate::{Place, Port, daemons_match};
use super::options;
use super::pattern::{self};
use super::{Content, Libwrap, SSHD, Which};
use crate::host::{HostState, Part};
use crate::packet::Tri;
use crate::reply::{Ban, Hosts, HostsRule, HostsSchema};
use crate::text::show;

/// The rules of both files in the order libwrap reads them.
pub fn list(host: &HostState) -> Hosts {
    let mut hosts = Hosts { schema: HostsSchema::V1, enforced: String::new(), rules: Vec::new(), others: 0, notes: Vec::new() };
    let state = match &host.hosts_access {
        Part::Present(state) => state,
        Part::Absent(why) | Part::Unreadable(why) => {
            hosts.enforced = format!("unknown: {why}");
            hosts.notes.push(why.clone());
            return hosts;
        }
    };
    hosts.enforced = match &state.libwrap {
        Libwrap::Linked(how) => format!("yes: {how}"),
        Libwrap::NotLinked(how) => format!("no: {how}"),
        Libwrap::Unknown(why) => format!("unknown: {why}"),
    };
    let tables = state.tables();
    for which in [Which::Allow, Which::Deny] {
        let file = state.file(which);
        if let Content::Unreadable(why) = &file.content {
            hosts.notes.push(format!("{} could not be read: {why}", file.path));
        }
        if let Some(why) = &file.read_only {
            hosts.notes.push(format!("sshfix must not write {}: {why}", file.path));
        }
        for line in tables.get(which).map(|document| document.lines.as_slice()).unwrap_or_default() {
            match &line.kind {
                Kind::Skipped => {}
                Kind::Rule(rule) => hosts.rules.push(HostsRule {
                    file: file.path.clone(),
                    line: line.number,
                    text: text(&line.raw),
                    concerns_sshd: daemons_match(rule, SSHD, Port::Untold) != Tri::No,
                }),
                Kind::Unterminated | Kind::TooLong => hosts.notes.push(format!(
                    "{} line {} {}: libwrap stops reading there{}",
                    file.path,
                    line.number,
                    if line.kind == Kind::TooLong { "is longer than 2047 bytes" } else { "has no newline at its end" },
                    if which == Which::Deny { " and refuses everybody who came this far" } else { "" },
                )),
                Kind::NeverRead => hosts.notes.push(format!("{} is not read from line {} on", file.path, line.number)),
            }
        }
    }
    hosts
}

/// The addresses and nets that rules for sshd keep out by name. None where sshd does not read the files.
pub fn bans(host: &HostState) -> Vec<Ban> {
    let Some(state) = host.hosts_access.present() else { return Vec::new() };
    if matches!(state.libwrap, Libwrap::NotLinked(_)) {
        return Vec::new();
    }
    let tables = state.tables();
    let mut bans = Vec::new();
    for which in [Which::Allow, Which::Deny] {
        let lines = tables.get(which).map_or(0, |document| document.lines.len());
        for place in (0..lines).map(|line| Place { which, line }) {
            let Some(rule) = super::lift::rule_at(&tables, place) else { continue };
            let refuses = options::outcome(rule.options(), &which.default_outcome()).refuses();
            if !refuses || daemons_match(rule, SSHD, Port::Untold) == Tri::No {
                continue;
            }
            let by = state.evidence(&tables, place).map(|evidence| evidence.source).unwrap_or_default();
            let named = rule.clients();
            let named = named.iter().take_while(|token| !token.is_except());
            bans.extend(named.filter_map(|token| pattern::named_source(token.text)).map(|source| Ban {
                source,
                by: by.clone(),
                since: None,
                until: None,
            }));
        }
    }
    bans
}

fn text(raw: &[u8]) -> String {
    let text = show(raw);
    text.strip_suffix('\n').map(str::to_owned).unwrap_or(text)
}
