//! Which lists of `-m recent` decide about a connection: the matches of a deciding rule together with what the lists hold, and what the
//! rules themselves do to the lists. Works for iptables-nft and iptables-legacy rules alike.

use std::collections::BTreeMap;

use super::deciding;
use super::outcome::{Pass, Refusal};
use crate::host::{HostState, Needs};
use crate::packet::{Packet, Tracking};
use crate::subsystem::ipset;
use crate::subsystem::nf_tables::evaluate::Evaluator;
use crate::subsystem::nf_tables::expression::Expression;
use crate::subsystem::recent::{Asked, Changes, Entry};
use crate::subsystem::xtables::evaluate::matches_rule;
use crate::subsystem::xtables::extension::decode::decode;
use crate::subsystem::xtables::extension::holds::Matched;
use crate::subsystem::xtables::extension::matches::Match;
use crate::verdict::{Connection, Evidence};

/// An address on a list that a rule looks at.
pub struct Listed<'h> {
    /// The list.
    pub name: String,
    /// The address with its hits.
    pub entry: &'h Entry,
    /// Whether it stands for nobody else.
    pub alone: bool,
}

impl Listed<'_> {
    /// As evidence.
    pub fn evidence(&self) -> Evidence {
        Evidence::new(format!("/proc/net/xt_recent/{}", self.name), self.entry.text())
    }
}

/// What the rules that this packet may match do to lists; rules that it cannot match do nothing.
pub fn changes(host: &HostState, syn: &Packet, ipsets: &ipset::State) -> BTreeMap<String, Changes> {
    let mut changes = BTreeMap::new();
    // Wherever on its way the packet is.
    let mut anywhere = syn.clone();
    anywhere.tracking = Tracking::ANY;
    if let Some(state) = host.nf_tables.present() {
        for chain in &state.chains {
            for rule in chain.rules.iter().filter(|rule| rule.expressions.iter().any(recent)) {
                let mut unasked = Needs::new();
                let mut evaluator = Evaluator::new(state, false, &mut unasked);
                evaluator.ipsets = ipsets;
                if evaluator.may_match(chain, rule, &anywhere) {
                    rule.expressions.iter().filter_map(|one| decoded(one, syn.v6)).for_each(|one| count(&one, &mut changes));
                }
            }
        }
    }
    if let Some(state) = host.xtables.present() {
        let view = anywhere.view();
        for rule in state.tables(syn.v6).iter().flat_map(|table| &table.chains).flat_map(|chain| &chain.rules) {
            let asks = rule.matches.iter().any(|one| matches!(one, Match::Recent { .. }));
            if asks && matches_rule(rule, &view, syn.v6, ipsets) != Matched::No {
                rule.matches.iter().for_each(|one| count(one, &mut changes));
            }
        }
    }
    changes
}

fn count(one: &Match, changes: &mut BTreeMap<String, Changes>) {
    if let Some(asked) = one.recent() {
        asked.count(changes);
    }
}

fn recent(expression: &Expression) -> bool {
    matches!(expression, Expression::Match { name, .. } if name == "recent")
}

fn decoded(expression: &Expression, v6: bool) -> Option<Match> {
    match expression {
        Expression::Match { name, revision, info } if name == "recent" => Some(decode(v6, name, *revision, info)),
        _ => None,
    }
}

/// Every list that holds the connection's address in the rules that decide.
pub fn decides<'h>(host: &'h HostState, connection: &Connection, refusal: &Refusal) -> Vec<Listed<'h>> {
    listed(host, connection, refusal.pass, &deciding::matches(host, !connection.source.is_ipv4(), refusal))
}

/// The lists that these matches look at and that hold the connection's address.
pub fn listed<'h>(host: &'h HostState, connection: &Connection, pass: Pass, matches: &[Match]) -> Vec<Listed<'h>> {
    let syn = Packet::syn(connection);
    let matches = matches.iter().filter(|_| !matches!(pass, Pass::Discovery(_)));
    let packet = if pass == Pass::Answer { syn.answer() } else { syn };
    let view = packet.view();
    let one = |one: &Match| {
        let asked: Asked<'_> = one.recent()?;
        let entry = host.ipset.recent.listed(&asked, &view)?;
        Some(Listed { name: asked.name.to_owned(), entry, alone: asked.whole(view.v6) })
    };
    matches.filter_map(one).collect()
}
