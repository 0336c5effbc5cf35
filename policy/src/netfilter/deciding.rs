//! The matches of the rules that decide about a connection, for `nf_tables` and iptables-legacy alike, by which they ask sets (`-m set`) and
//! lists (`-m recent`). No others are decoded: whole rulesets are asked.

use super::outcome::{Culprit, Refusal};
use crate::host::HostState;
use crate::subsystem::nf_tables::Rule;
use crate::subsystem::nf_tables::evaluate::Frame;
use crate::subsystem::nf_tables::expression::Expression;
use crate::subsystem::xtables;
use crate::subsystem::xtables::extension::decode::decode;
use crate::subsystem::xtables::extension::matches::Match;

/// Those of every rule that a refusal came by, the deciding one first.
pub fn matches(host: &HostState, v6: bool, refusal: &Refusal) -> Vec<Match> {
    match &refusal.culprit {
        Culprit::NfTables(event) => event.frames.iter().rev().flat_map(|frame| in_frame(host, frame, v6)).collect(),
        Culprit::Legacy(outcome) => in_place(host, &outcome.place),
        Culprit::Unread(_) | Culprit::Full(_) => Vec::new(),
    }
}

/// Those of the `nf_tables` rule of a frame.
pub fn in_frame(host: &HostState, frame: &Frame, v6: bool) -> Vec<Match> {
    let chain = host.nf_tables.present().and_then(|state| state.chains.get(frame.chain));
    let rule = chain.and_then(|chain| chain.rules.get(frame.rule?));
    rule.map_or_else(Vec::new, |rule| of_rule(rule, v6))
}

/// Those of an `nf_tables` rule.
pub fn of_rule(rule: &Rule, v6: bool) -> Vec<Match> {
    let of = |expression: &Expression| match expression {
        Expression::Match { name, revision, info } if matches!(name.as_str(), "set" | "recent") => {
            Some(decode(v6, name, *revision, info))
        }
        _ => None,
    };
    rule.expressions.iter().filter_map(of).collect()
}

/// Those of the legacy rule at a place.
pub fn in_place(host: &HostState, place: &xtables::Place) -> Vec<Match> {
    let table = host.xtables.present().and_then(|state| state.table(place.v6, &place.table));
    let chain = table.and_then(|table| table.chain(&place.chain));
    let rule = chain.and_then(|chain| chain.rules.get(place.position.checked_sub(1)?));
    let asks = |one: &&Match| matches!(one, Match::Set { .. } | Match::Recent { .. });
    rule.map_or_else(Vec::new, |rule| rule.matches.iter().filter(asks).cloned().collect())
}
