//! Finds the accept rules of a lease by their comment, wherever they stand by now, and deletes them. One that is no accept for that
//! source any more was edited by somebody and is left. Or reads the ruleset as if the rules of some leases let nobody in.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::address::Source;
use crate::host::lease::End;
use crate::host::step::Step;
use crate::host::{HostState, Part};
use crate::subsystem::nf_tables::expression::{Expression, Verdict};
use crate::subsystem::nf_tables::lift::{Side, delete_rule, rule_source};
use crate::subsystem::nf_tables::{Chain, Family, Rule, State, render};
use crate::subsystem::xtables::extension::decode::decode;
use crate::subsystem::xtables::extension::matches::Match;
use crate::subsystem::xtables::extension::targets::{StandardVerdict, Target};
use crate::subsystem::xtables::{self, Action};

/// Adds the deletion of every rule with this mark to the end of a lease.
pub fn marked(host: &HostState, source: Source, mark: &str, end: &mut End) {
    match &host.nf_tables {
        Part::Present(state) => in_nf_tables(host, state, source, mark, end),
        Part::Absent(_) => {}
        Part::Unreadable(why) => end.unread.push(format!("nftables could not be read: {why}")),
    }
    match &host.xtables {
        Part::Present(state) => in_xtables(state, source, mark, end),
        Part::Absent(_) => {}
        Part::Unreadable(why) => end.unread.push(format!("iptables-legacy could not be read: {why}")),
    }
}

fn in_nf_tables(host: &HostState, state: &State, source: Source, mark: &str, end: &mut End) {
    let ipsets = host.set_names();
    for chain in &state.chains {
        for (index, rule) in chain.rules.iter().enumerate() {
            if !carries(chain.family, rule, mark) {
                continue;
            }
            let place = || format!("{} {} {} handle {}", chain.family, chain.table, chain.name, rule.handle);
            if !accepts(state, chain, rule, source) {
                end.left.push(format!(
                    "the rule {} was edited and is left: {}",
                    place(),
                    render::rule(state, chain, rule, &ipsets)
                ));
                continue;
            }
            match delete_rule(state, chain, index, Some(vec![source]), &ipsets) {
                Some(step) => end.steps.push(Step::NfTables(step)),
                None => end.left.push(format!("the rule {} holds a list of its own and is left", place())),
            }
        }
    }
}

/// On the model, the accept rules with these marks let nobody in any more. They keep their places, so that a rule that is planned
/// beside them has its place on the host, too.
pub fn unmark(host: &mut HostState, marks: &BTreeSet<&str>) {
    if marks.is_empty() {
        return;
    }
    let mut found = Vec::new();
    for (at, chain) in host.nf_tables.present().iter().flat_map(|state| state.chains.iter().enumerate()) {
        for (index, rule) in chain.rules.iter().enumerate() {
            let accepts = matches!(rule.expressions.last(), Some(Expression::Verdict(Verdict::Accept)));
            if accepts && marks.iter().any(|mark| carries(chain.family, rule, mark)) {
                found.push((at, index));
            }
        }
    }
    if let Some(state) = host.nf_tables.present_mut() {
        for (at, index) in found {
            let rules = state.chains.get_mut(at).map(|chain| &mut Arc::make_mut(chain).rules);
            if let Some(rule) = rules.and_then(|rules| rules.get_mut(index)) {
                Arc::make_mut(rule).expressions.pop();
            }
        }
    }
    let marked = |rule: &xtables::Rule| marks.iter().any(|mark| has_comment(&rule.matches, mark));
    let Some(state) = host.xtables.present_mut() else { return };
    for table in state.v4.iter_mut().chain(&mut state.v6) {
        for chain in &mut table.chains {
            if !chain.rules.iter().any(|rule| marked(rule)) {
                continue;
            }
            for rule in Arc::make_mut(chain).rules.iter_mut().filter(|rule| marked(rule)) {
                Arc::make_mut(rule).action = Action::Count;
            }
        }
    }
}

/// iptables-nft keeps a comment beside the rule or as a match, by its version and the way it was written.
fn carries(family: Family, rule: &Rule, mark: &str) -> bool {
    if let Some(comment) = &rule.comment {
        return comment == mark;
    }
    let matches = rule.expressions.iter().filter_map(|expression| match expression {
        Expression::Match { name, revision, info } => Some(decode(family == Family::Ip6, name, *revision, info)),
        _ => None,
    });
    has_comment(&matches.collect::<Vec<_>>(), mark)
}

fn has_comment(matches: &[Match], mark: &str) -> bool {
    matches.iter().any(|one| matches!(one, Match::Comment(comment) if comment == mark))
}

fn accepts(state: &State, chain: &Chain, rule: &Rule, source: Source) -> bool {
    let v6 = !source.is_ipv4();
    let named =
        [Side::Source, Side::Destination].into_iter().any(|side| rule_source(state, chain, rule, v6, side) == Some(source));
    (named || about_discovery(rule)) && matches!(rule.expressions.last(), Some(Expression::Verdict(Verdict::Accept)))
}

/// Whether it lets neighbour discovery through, which a lease may need from and to a gateway, too.
fn about_discovery(rule: &Rule) -> bool {
    // NFT_META_L4PROTO, IPPROTO_ICMPV6
    let icmpv6 =
        |pair: &[Expression]| matches!(pair, [Expression::Meta { key: 16, .. }, Expression::Cmp { data, .. }] if *data == [58]);
    rule.expressions.windows(2).any(icmpv6)
}

fn in_xtables(state: &xtables::State, source: Source, mark: &str, end: &mut End) {
    for v6 in [false, true] {
        for table in state.tables(v6) {
            for chain in &table.chains {
                // The last first: a deletion moves those behind it.
                for (index, rule) in chain.rules.iter().enumerate().rev() {
                    let Some(text) = rule.save.as_ref().filter(|_| has_comment(&rule.matches, mark)) else { continue };
                    let place = xtables::Place { v6, table: table.name.clone(), chain: chain.name.clone(), position: index + 1 };
                    let accepts = matches!(rule.action, Action::Target(Target::Verdict(StandardVerdict::Accept)));
                    if !accepts || !(rule.names_exactly(v6, source) || rule.entry.protocol == 58) {
                        end.left.push(format!("the rule {place} was edited and is left: {text}"));
                        continue;
                    }
                    match xtables::Step::delete(state, &place, Some(vec![source])) {
                        Some(step) if table.readonly.is_none() => end.steps.push(Step::Xtables(step)),
                        Some(_) | None => end.left.push(format!("the rule {place} is in a table that sshfix does not change")),
                    }
                }
            }
        }
    }
}
